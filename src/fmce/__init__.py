"""fmce: is each functional module of a perception network mature? Measure it, train with it, compress by matching.

Public names load on first use, so that `import fmce` needs neither torch nor matplotlib.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> the module that defines it.
_PUBLIC = {
    "smooth_losses": "fmce.convergence.smoothing",
    "cqi": "fmce.convergence.cqi",
    "PhaseConfig": "fmce.convergence.phases",
    "Phases": "fmce.convergence.phases",
    "find_phases": "fmce.convergence.phases",
    "FeatureMaps": "fmce.models.features",
    "FMCENet": "fmce.models.fmce_net",
    "build_model": "fmce.models.build",
    "representation_auxiliary_loss": "fmce.losses.auxiliary",
    "PhaseMetrics": "fmce.metrics.phases",
    "phase_metrics": "fmce.metrics.phases",
    "paired_comparison": "fmce.metrics.statistics",
    "grad_cam": "fmce.models.grad_cam",
    "RunConfig": "fmce.config.run",
    "Run": "fmce.runs.run",
    "open_run": "fmce.runs.run",
    "seed_epoch": "fmce.seeding",
    "fit": "fmce.engine.loop",
    "split_maps": "fmce.feature_maps.splits",
    "RecomputedMaps": "fmce.feature_maps.recomputed",
    "InMemoryMaps": "fmce.feature_maps.in_memory",
}

__all__ = [*_PUBLIC, "__version__"]

if TYPE_CHECKING:  # the same names for type checkers and editors
    from fmce.config.run import RunConfig
    from fmce.convergence.cqi import cqi
    from fmce.convergence.phases import PhaseConfig, Phases, find_phases
    from fmce.convergence.smoothing import smooth_losses
    from fmce.engine.loop import fit
    from fmce.feature_maps.in_memory import InMemoryMaps
    from fmce.feature_maps.recomputed import RecomputedMaps
    from fmce.feature_maps.splits import split_maps
    from fmce.losses.auxiliary import representation_auxiliary_loss
    from fmce.metrics.phases import PhaseMetrics, phase_metrics
    from fmce.metrics.statistics import paired_comparison
    from fmce.models.build import build_model
    from fmce.models.features import FeatureMaps
    from fmce.models.fmce_net import FMCENet
    from fmce.models.grad_cam import grad_cam
    from fmce.runs.run import Run, open_run
    from fmce.seeding import seed_epoch


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'fmce' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

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
    "representation_auxiliary_loss": "fmce.losses.ral",
    "PhaseMetrics": "fmce.metrics.scores",
    "phase_metrics": "fmce.metrics.scores",
    "paired_comparison": "fmce.metrics.statistics",
    "grad_cam": "fmce.interpret.grad_cam",
    "RunConfig": "fmce.configs",
    "Run": "fmce.run_folder",
    "open_run": "fmce.run_folder",
    "seed_epoch": "fmce.engine.seeding",
    "fit": "fmce.engine.loop",
    "split_maps": "fmce.data.map_splits",
    "MapStream": "fmce.data.map_stream",
    "MapMemory": "fmce.data.map_store",
}

__all__ = [*_PUBLIC, "__version__"]

if TYPE_CHECKING:  # the same names for type checkers and editors
    from fmce.configs import RunConfig
    from fmce.convergence.cqi import cqi
    from fmce.convergence.phases import PhaseConfig, Phases, find_phases
    from fmce.convergence.smoothing import smooth_losses
    from fmce.data.map_splits import split_maps
    from fmce.data.map_store import MapMemory
    from fmce.data.map_stream import MapStream
    from fmce.engine.loop import fit
    from fmce.engine.seeding import seed_epoch
    from fmce.interpret.grad_cam import grad_cam
    from fmce.losses.ral import representation_auxiliary_loss
    from fmce.metrics.scores import PhaseMetrics, phase_metrics
    from fmce.metrics.statistics import paired_comparison
    from fmce.models.build import build_model
    from fmce.models.features import FeatureMaps
    from fmce.models.fmce_net import FMCENet
    from fmce.run_folder import Run, open_run


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'fmce' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

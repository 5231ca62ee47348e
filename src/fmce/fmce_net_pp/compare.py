"""`fmce compare`: FMCE-Net++ against its baseline and its controls, over paired seeds, beside one oracle."""

from pathlib import Path

from fmce.config.sweep import CompareConfig
from fmce.config.trust import Trust
from fmce.engine.jobs.job import Workers
from fmce.fmce_net_pp.sweep.jobs import Placement
from fmce.fmce_net_pp.sweep.results import Comparison
from fmce.fmce_net_pp.sweep.run import run_groups


def compare(
    config: CompareConfig,
    out: Path,
    *,
    workers: Workers | None = None,
    retries: int = 1,
    device: str = "auto",
    precision: str = "float32",
    trust: Trust = False,
) -> Comparison:
    """Select RAF on validation images, train all arms over the seeds, and compare them pair by pair.

    Args:
        config: The oracle, the arms and their seeds.
        out: Folder of the comparison; each training is a run folder in `out/runs`, and none is repeated.
        workers: Where trainings run; by default on this machine, as many at a time as it has cores, one
            on a GPU.
        retries: How often a failed training is tried again.
        device: Device of every training.
        precision: Precision of forward passes.
        trust: Whether functions that the oracle's config names may run; or which.

    Returns:
        What `compare.json` holds.

    Raises:
        FileNotFoundError: If the oracle's run has no phases or no FMCE-Net.
        ValueError: If a seed is the oracle's own, or a training failed; all others were finished first.
        FileExistsError: If `out` holds another comparison, or something else.
    """
    placement = Placement(device, precision, keep="markers")
    result = run_groups(config, out, placement, workers, retries, trust=trust)
    if result.failed:
        name, error = next(iter(result.failed.items()))
        raise ValueError(
            f"{len(result.failed)} of {len(result.rows)} trainings failed, first {name}: "
            f"{error.rstrip('.')}. The others are kept; rerun the command to train what is missing"
        )
    return result.groups[0]

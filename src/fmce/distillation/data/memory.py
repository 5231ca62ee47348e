"""Whether the images of an experiment fit in memory."""

from fmce.config.distillation import DistillationDataConfig
from fmce.data.memory import available_memory

# Beyond this, reading everything before the first step and keeping a second copy is worth nobody's time.
_LARGEST_IN_MEMORY = 4 * 2**30


# Largest share of free memory that the pools may take together.
_MEMORY_SHARE = 0.6


def stays_on_disk(backing: str, pool_bytes: int, other_bytes: int) -> bool:
    """Decide whether a pool stays in files.

    Args:
        backing: "memory", "files" or "auto".
        pool_bytes: what its images would take.
        other_bytes: what is in memory anyway.

    Raises:
        ValueError: what must be in memory does not fit.
    """
    free = available_memory()
    room = float("inf") if free is None else _MEMORY_SHARE * free - other_bytes
    if backing == "auto":
        backing = "files" if pool_bytes > min(room, _LARGEST_IN_MEMORY) else "memory"
    needed = 0 if backing == "files" else pool_bytes
    if needed > room:
        raise ValueError(
            f"the images take {(needed + other_bytes) / 2**30:.1f} GiB, more than {_MEMORY_SHARE:.0%} of the "
            f"{(free or 0) / 2**30:.1f} GiB that are free; {'set data.storage=files, ' if needed else ''}"
            "lower data.labelled, data.validation or the size"
            + (", or data.unlabelled" if needed else "")
        )
    return backing == "files"


def image_bytes(config: DistillationDataConfig, count: int, *, masks: bool = False) -> int:
    """Return the bytes of that many images at the training's size, with their masks or without."""
    return count * (4 if masks else 3) * config.height * config.width

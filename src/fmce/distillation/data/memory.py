"""Whether the images of an experiment fit in memory."""

from fmce.config.distillation import DistillationDataConfig
from fmce.data.memory import available_memory

# Larger pools stay in files: reading everything before the first step would take too long.
_LARGEST_IN_MEMORY = 4 * 2**30
# Largest share of free memory that the pools may take together.
_MEMORY_SHARE = 0.6


def stays_on_disk(storage: str, pool_bytes: int, other_bytes: int) -> bool:
    """Decide whether a pool stays in files.

    Args:
        storage: "memory", "files" or "auto".
        pool_bytes: What its images would take.
        other_bytes: What is in memory anyway.

    Raises:
        ValueError: If what must be in memory does not fit.
    """
    free = available_memory()
    room = float("inf") if free is None else _MEMORY_SHARE * free - other_bytes
    if storage == "auto":
        storage = "files" if pool_bytes > min(room, _LARGEST_IN_MEMORY) else "memory"
    needed = 0 if storage == "files" else pool_bytes
    if needed > room:
        raise ValueError(
            f"the images take {(needed + other_bytes) / 2**30:.1f} GiB, more than {_MEMORY_SHARE:.0%} of the "
            f"{(free or 0) / 2**30:.1f} GiB that are free; {'set data.storage=files, ' if needed else ''}"
            "lower data.labelled, data.validation or the size"
            + (", or data.unlabelled" if needed else "")
        )
    return storage == "files"


def image_bytes(config: DistillationDataConfig, count: int, *, masks: bool = False) -> int:
    """Return the bytes of `count` images at the training's size, with or without their masks."""
    return count * (4 if masks else 3) * config.height * config.width

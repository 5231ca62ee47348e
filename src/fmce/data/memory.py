"""How much memory is free, and whether images may stay on the network's device."""

import os
from pathlib import Path

import torch

# Fraction for images; the rest is for weights, activations and maps.
GPU_SHARE = 0.5


def available_memory() -> int | None:
    """Return the bytes of RAM that can be used without swapping; None where that is unknown."""
    found = [_meminfo(Path("/proc/meminfo")), _cgroup_limit(Path("/sys/fs/cgroup"))]
    known = [value for value in found if value is not None]
    if known:
        return min(known)
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on this system
        return None


def stays_resident(num_bytes: int, device: torch.device) -> bool:
    """Return whether that many bytes of images may stay on the device: on a GPU up to half of the free memory."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return num_bytes <= GPU_SHARE * free


def _meminfo(path: Path) -> int | None:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kib = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(kib[0]) * 1024 if kib else None


def _cgroup_limit(folder: Path) -> int | None:
    """Return what a container's limit leaves (cgroup v2); cached pages of files count as free."""
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        stat = (folder / "memory.stat").read_text(encoding="ascii")
    except OSError:
        return None
    if limit == "max":
        return None
    cached = sum(
        int(row.split()[1]) for row in stat.splitlines() if row.startswith("inactive_file ")
    )
    return max(0, int(limit) - used + cached)

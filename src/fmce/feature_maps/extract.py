"""`fmce extract`: the FMCS-Dataset of a run on disk, written by any number of processes (FMCE paper, IV-D).

`RUN/maps.zarr/epoch_0007` holds the maps of the marker epoch 7 and says what they are maps of. It appears
when it is complete, so a restart writes the markers that are missing.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fmce.console.log import logger
from fmce.console.progress import Progress
from fmce.console.tables import size_text
from fmce.data.batch import ImageSet
from fmce.engine.jobs.local import run_jobs
from fmce.engine.runtime import Runtime, make_runtime
from fmce.feature_maps.extractor import map_extractor
from fmce.feature_maps.stored import StoredMaps
from fmce.feature_maps.zarr_shards import (
    CHUNK,
    SHARD,
    StoredPart,
    chunk_ranges,
    compressed_share,
    marker_attributes,
    marker_folder,
    store_bytes,
    stored_markers,
    to_float16,
    write_marker,
)
from fmce.runs.checkpoint import weights_digest
from fmce.runs.lock import locked
from fmce.runs.run import Run

STORE = "maps.zarr"
BLOCK = 256  # images per forward pass
# Beyond the sample: file system blocks, and phases whose maps compress less than their first 64 do.
SPARE = 1.1
Fingerprint = dict[str, Any]
"""What decides a marker's maps: SHA-256 of "weights" and "images", "layer", "precision"."""


def extract(
    run: Run, *, workers: int = 1, runtime: Runtime | None = None, dry_run: bool = False
) -> dict[str, Any]:
    """Store the maps that a run's marker checkpoints give its training and test images.

    Complete markers are kept after every map was read and its checksum compared; damaged ones are
    rewritten. Under torchrun each rank writes its share of the markers, on the GPU of its local rank.

    Args:
        run: A run with phases and its marker checkpoints; a recorded one with its model and data.
        workers: Processes on this machine; they share its GPUs, or its cores.
        runtime: Device and precision; memory order and TF32 are the run's own.
        dry_run: Only estimate the size.

    Returns:
        "maps", "map_shape", "bytes" on disk, and "missing", the markers that other ranks still write;
        with `dry_run` the estimate: "maps", "map_shape", "bytes", "bytes_at_most", "bytes_free".

    Raises:
        FileNotFoundError: If phases or marker checkpoints are missing.
        ValueError: If maps of other checkpoints or images are there, the disk is too small, or values
            lie beyond float16.
        BlockingIOError: If another process writes maps of the same marker.
    """
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if workers < 1 or (workers > 1 and ranks > 1):
        raise ValueError(
            f"workers must be at least 1, and 1 under torchrun, whose ranks share the work; got {workers}"
        )
    runtime = run.setup.with_run_memory_format(runtime or make_runtime())
    if workers == 1:
        runtime = _on_gpu(runtime, int(os.environ.get("LOCAL_RANK", "0")))
    wanted = store_fingerprints(run, runtime)
    if dry_run:
        return estimate_store(run, list(wanted), runtime)
    _stored(run, wanted, leave_out_damaged=True)
    missing = [epoch for epoch in list(wanted)[rank::ranks] if not _is_intact(run, epoch)]
    if missing:
        need = estimate_store(run, missing, runtime)
        if need["bytes"] > need["bytes_free"]:
            raise ValueError(
                f"{need['maps']} maps of {run.path} are expected to take {size_text(need['bytes'])}, but only "
                f"{size_text(need['bytes_free'])} are free there; make room, or use "
                "fmce_net.storage=recompute, which stores nothing"
            )
        _store_markers(run, {epoch: wanted[epoch] for epoch in missing}, runtime, workers)
    return _summary(run, wanted)


def _store_markers(
    run: Run, markers: Mapping[int, Fingerprint], runtime: Runtime, workers: int
) -> None:
    title = f"storing maps of {run.path}"
    if workers > 1:
        own = run.own and replace(run.own)
        bare = Run(run.path, run.config, own)  # without the data that this process has read
        jobs = {
            f"epoch {epoch}": (bare, epoch, mark, _on_gpu(runtime, index))
            for index, (epoch, mark) in enumerate(markers.items())
        }
        with Progress(title, len(jobs)) as progress:
            run_jobs(extract_marker, jobs, workers, progress, what="extractions")
        return
    shards = len(markers) * sum(-(-len(part) // SHARD) for part in _parts(run).values())
    with Progress(title, shards) as progress:
        for epoch, mark in markers.items():
            extract_marker(run, epoch, mark, runtime, progress.advance)


def extract_marker(
    run: Run,
    epoch: int,
    fingerprint: Fingerprint,
    runtime: Runtime,
    on_shard: Callable[[], None] = lambda: None,
) -> None:
    """Store the maps of one marker of a run."""
    network = map_extractor(run, epoch, runtime)

    def shards(part: ImageSet) -> Iterator[Tensor]:
        images = run.setup.images(part, runtime)
        for first, stop in chunk_ranges(len(part), SHARD):
            blocks = torch.split(torch.arange(first, stop), BLOCK)
            # (512,C,h,w) float16 on the CPU; the last shard is smaller.
            yield torch.cat([to_float16(network(images(block))) for block in blocks])
            on_shard()

    parts = {name: (len(part), shards(part)) for name, part in _parts(run).items()}
    busy = (
        f"another process stores maps of epoch {epoch} of {run.path}; wait for it, or let processes "
        "share the work by --workers N or torchrun"
    )
    with locked(run.path / f".maps-{epoch:04d}.lock", busy):
        write_marker(marker_folder(run.path / STORE, epoch), parts, fingerprint)


def store_fingerprints(run: Run, runtime: Runtime) -> dict[int, Fingerprint]:
    """Return what decides the maps of each marker, by epoch."""
    images = {name: images_digest(part) for name, part in _parts(run).items()}
    common = {"images": images, "layer": run.setup.layer, "precision": runtime.precision}
    return {epoch: mark | common for epoch, mark in _weights_digests(run).items()}


def _weights_digests(run: Run) -> dict[int, Fingerprint]:
    return {e: {"weights": weights_digest(f.parent)} for e, f in run.marker_weights().items()}


def images_digest(part: ImageSet) -> str:
    """Return the SHA-256 of a part's stored pixels."""
    return hashlib.sha256(part.images.contiguous().cpu().numpy().data).hexdigest()


def _parts(run: Run) -> dict[str, ImageSet]:
    return {"train": run.setup.data.train, "test": run.setup.data.test}


def _on_gpu(runtime: Runtime, index: int) -> Runtime:
    """Return the runtime on one of the GPUs, taken in turn; a GPU named by its number stays."""
    if str(runtime.device) != "cuda":
        return runtime
    return replace(runtime, device=torch.device("cuda", index % torch.cuda.device_count()))


def _stored(
    run: Run, wanted: Mapping[int, Fingerprint], *, leave_out_damaged: bool = False
) -> dict[int, Fingerprint]:
    """Return the fingerprints of the stored maps, by epoch; refuse maps of other checkpoints or images."""
    there = {}
    for epoch in stored_markers(run.path / STORE):
        try:
            there[epoch] = marker_attributes(marker_folder(run.path / STORE, epoch))
        except ValueError:
            if not leave_out_damaged:
                raise
    for epoch, mark in there.items():
        for key, value in wanted.get(epoch, {"weights": None}).items():
            if mark.get(key) != value:
                raise _other_maps(run, epoch, "checkpoints" if key == "weights" else key)
    return there


def _other_maps(run: Run, epoch: int, what: str) -> ValueError:
    return ValueError(
        f"the maps of epoch {epoch} in {run.path / STORE} belong to other {what}; delete that folder and run: "
        f"fmce extract {run.path}"
    )


def _is_intact(run: Run, epoch: int) -> bool:
    """Return whether a marker's maps are there and undamaged; every one is read."""
    folder = marker_folder(run.path / STORE, epoch)
    if not folder.exists():
        return False
    try:
        marker_attributes(folder)
        for part in _parts(run):
            StoredPart([folder], part).verify()
    except (ValueError, OSError) as error:  # metadata of arrays may be damaged or missing too
        logger.warning("maps of epoch %d are written again: %s", epoch, error)
        return False
    return True


def estimate_store(run: Run, markers: Sequence[int], runtime: Runtime) -> dict[str, Any]:
    """Estimate the size of some markers' maps from a chunk of training images: the result of a dry run."""
    train = run.setup.data.train
    images = run.setup.images(train, runtime)(torch.arange(min(CHUNK, len(train))))
    samples = [map_extractor(run, epoch, runtime)(images) for epoch in markers]
    ratio = sum(map(compressed_share, samples)) / len(samples)
    c, h, w = samples[0].shape[1:]
    maps = len(markers) * sum(map(len, _parts(run).values()))
    return {
        "maps": maps,
        "map_shape": [c, h, w],
        "bytes": store_bytes(maps, (c, h, w), ratio * SPARE),
        "bytes_at_most": store_bytes(maps, (c, h, w)),
        "bytes_free": shutil.disk_usage(run.path).free,
    }


def _summary(run: Run, wanted: Mapping[int, Fingerprint]) -> dict[str, Any]:
    store = run.path / STORE
    there = [epoch for epoch in wanted if marker_folder(store, epoch).exists()]
    shape = StoredPart([marker_folder(store, there[0])], "train").map_shape if there else None
    return {
        "maps": len(there) * sum(map(len, _parts(run).values())),
        "map_shape": shape and list(shape),
        "bytes": sum(file.stat().st_size for file in store.rglob("c/*/*/*/*")),
        "missing": [epoch for epoch in wanted if epoch not in there],
    }


def open_store(runs: Sequence[Run], images: ImageSet, runtime: Runtime, buffer: int) -> StoredMaps:
    """Return the stored maps of some images, after checking that they are these runs' own.

    Raises:
        FileNotFoundError: If maps of a run's markers are missing.
        ValueError: If a store belongs to other checkpoints or images.
    """
    digest = images_digest(images)
    parts = [_stored_part(run, digest) for run in runs]
    return StoredMaps(parts, runtime.device, buffer=buffer)


def _stored_part(run: Run, digest: str) -> StoredPart:
    layer = {"layer": run.setup.layer}
    wanted = {epoch: mark | layer for epoch, mark in _weights_digests(run).items()}
    there = _stored(run, wanted)
    missing = [epoch for epoch in wanted if epoch not in there]
    if missing:
        raise FileNotFoundError(
            f"{run.path} has no stored maps of epochs {missing}; run: fmce extract {run.path}"
        )
    for name in _parts(run):
        other = [e for e in wanted if there[e]["images"].get(name) != digest]
        if not other:
            return StoredPart([marker_folder(run.path / STORE, epoch) for epoch in wanted], name)
    raise _other_maps(run, next(iter(wanted)), "images")

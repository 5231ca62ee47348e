"""`fmce extract`: the FMCS-Dataset of a run on disk, written by any number of processes (FMCE paper, IV-D).

`RUN/maps.zarr` holds the maps. While they are written, `RUN/maps.parts` notes each finished shard, which
is all that a restart needs; `RUN/maps.json`, written last, says what they are maps of.
"""

import fcntl
import hashlib
import itertools
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fmce.console.progress import Progress
from fmce.convergence.phases import Phases
from fmce.data.batch import ImageSet
from fmce.engine.jobs.run import run_jobs
from fmce.engine.runtime import Runtime, make_runtime
from fmce.feature_maps.extractor import map_extractor
from fmce.feature_maps.stored import StoredMaps
from fmce.feature_maps.zarr_shards import (
    CHUNK,
    Shard,
    StoredPart,
    compressed_share,
    create_store,
    shards_of,
    store_bytes,
    to_float16,
    write_shard,
)
from fmce.files import read_json, read_json_or_none, sync, write_json
from fmce.runs.checkpoint import checkpoint_path, file_digest
from fmce.runs.run import Run, open_run

STORE, NOTES, MANIFEST = "maps.zarr", "maps.parts", "maps.json"
BLOCK = 256  # images that go through a backbone at a time
# Beyond the sample: file system blocks, and phases whose maps shrink less than their first 64 do.
SPARE = 1.1


def extract(
    run: Run,
    *,
    workers: int = 1,
    runtime: Runtime | None = None,
    dry_run: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Store the maps that a run's marker checkpoints give its training and test images.

    Under torchrun each rank writes its share of the shards, on the GPU of its local rank. What is whole
    already is kept; given again on a whole store, it checks each shard's SHA-256 and rewrites bad ones.

    Args:
        run: has phases and its marker checkpoints.
        workers: processes here; several share the GPUs, or the cores.
        runtime: device and precision; memory order and TF32 are the run's own.
        dry_run: only predict the size.
        quiet: print no progress.

    Returns:
        The manifest, or with `dry_run` the prediction: "maps", "map_shape", "bytes", "bytes_at_most",
        "bytes_free".

    Raises:
        FileNotFoundError: phases or marker checkpoints are missing.
        ValueError: maps of other checkpoints or images are there, the disk is too small, or values
            are beyond float16.
        BlockingIOError: another extraction writes this run's maps.
    """
    runtime, share = _placed(run.with_run_memory_format(runtime or make_runtime()))
    if workers < 1 or (workers > 1 and share != (0, 1)):
        raise ValueError(
            f"workers must be at least 1, and 1 under torchrun, whose ranks share the work; got {workers}"
        )
    identity = store_fingerprint(run, runtime)
    if dry_run:
        return _prediction(run, _sampled(run, identity, runtime), ())
    with _writing(run):
        with _locked(run):
            known = _prepare(run, identity, runtime)
            if (run.path / MANIFEST).exists():
                return known
        if workers == 1:
            _write_share(run, known, runtime, share, quiet)
        else:
            _write_with_workers(run, runtime, workers, quiet)
        with _locked(run):
            return _finish(run, known)


def _write_with_workers(run: Run, runtime: Runtime, workers: int, quiet: bool) -> None:
    device, precision = str(runtime.device), runtime.precision
    jobs = {f"worker {i}": (str(run.path), device, precision, (i, workers)) for i in range(workers)}
    with Progress(f"storing maps of {run.path}", workers, quiet=quiet) as progress:
        run_jobs(extract_shards, jobs, workers, progress, what="extractions")


def extract_shards(path: str, device: str, precision: str, share: tuple[int, int]) -> None:
    """Write one worker's share of the shards of a store that `extract` has prepared."""
    run = open_run(path)
    runtime = make_runtime(_device_of(torch.device(device), share[0]), precision)
    runtime = run.with_run_memory_format(runtime)
    _write_share(run, read_json(run.path / NOTES / "identity.json"), runtime, share, quiet=True)


def store_fingerprint(run: Run, runtime: Runtime) -> dict[str, Any]:
    """Return what decides a store's contents: checkpoints, images, layer, precision.

    Raises:
        FileNotFoundError: phases or marker checkpoints are missing.
    """
    data = run.config.data
    return {
        "format": 1,
        "checkpoints": _checkpoints(run, run.phases),
        "data": {"name": data.name, "image_size": data.image_size, "split_seed": data.split_seed},
        "images": {
            name: {"count": len(part), "sha256": images_digest(part)}
            for name, part in _parts(run).items()
        },
        "layer": run.layer,
        "precision": runtime.precision,
    }


def images_digest(part: ImageSet) -> str:
    """Return the SHA-256 of a part's stored pixels."""
    return hashlib.sha256(part.images.contiguous().cpu().numpy().data).hexdigest()


def open_store(
    runs: Sequence[Run],
    phases: Sequence[Phases],
    images: ImageSet,
    runtime: Runtime,
    buffer: int,
) -> StoredMaps:
    """Return the stored maps of some images, after checking that they are these runs' own.

    Raises:
        FileNotFoundError: a run has no whole store.
        ValueError: a store is of other checkpoints or images.
    """
    digest = images_digest(images)
    parts = [_stored_part(r, p, digest) for r, p in zip(runs, phases, strict=True)]
    return StoredMaps(parts, runtime.device, buffer=buffer)


def _stored_part(run: Run, phases: Phases, digest: str) -> StoredPart:
    if not (run.path / MANIFEST).exists():
        raise FileNotFoundError(f"{run.path} has no stored maps; run: fmce extract {run.path}")
    manifest = read_json(run.path / MANIFEST)
    if manifest["checkpoints"] != _checkpoints(run, phases):
        there = [one["epoch"] for one in manifest["checkpoints"]]
        raise ValueError(_other(run, "checkpoints", there))
    for name, part in manifest["images"].items():
        if part["sha256"] == digest:
            return StoredPart(run.path / STORE, name)
    raise ValueError(_other(run, "images", manifest["data"]))


def _checkpoints(run: Run, phases: Phases) -> list[dict[str, Any]]:
    """Return epoch and SHA-256 of each marker's weights."""
    files = {
        epoch: checkpoint_path(run.path / "checkpoints", epoch) / "model.safetensors"
        for epoch in phases.markers
    }
    missing = [str(f) for f in files.values() if not f.exists()]
    if missing:
        raise FileNotFoundError(
            f"marker checkpoints are missing: {', '.join(missing)}; train again, or find phases with the "
            "settings that they were kept for"
        )
    return [{"epoch": epoch, "sha256": file_digest(file)} for epoch, file in files.items()]


def _other(run: Run, what: str, there: Any) -> str:
    return (
        f"the maps stored in {run.path / STORE} are of other {what} ({there}); delete {MANIFEST}, {STORE} "
        f"and {NOTES} there and run: fmce extract {run.path}"
    )


def _placed(runtime: Runtime) -> tuple[Runtime, tuple[int, int]]:
    """Return this process's share of the shards, and the runtime on the GPU of its local rank."""
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    return replace(runtime, device=torch.device(_device_of(runtime.device, local))), (rank, ranks)


def _device_of(device: torch.device, index: int) -> str:
    if str(device) != "cuda":  # a GPU named by its number is meant
        return str(device)
    return f"cuda:{index % torch.cuda.device_count()}"


def _parts(run: Run) -> dict[str, ImageSet]:
    return {"train": run.data.train, "test": run.data.test}


def _shards(known: Mapping[str, Any]) -> list[Shard]:
    counts = {name: part["count"] for name, part in known["images"].items()}
    return shards_of(counts, len(known["checkpoints"]))


@contextmanager
def _locked(run: Run) -> Iterator[None]:
    """Let one process at a time prepare or finish."""
    with open(run.path / ".maps.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _writing(run: Run) -> Iterator[None]:
    """Own a run's maps while writing them, together with the ranks of the same torchrun.

    Raises:
        BlockingIOError: processes that do not belong to this one write them.
    """
    with open(run.path / ".maps.writers", "a+", encoding="utf-8") as writers:
        with _locked(run):
            try:
                # Nobody's: note whose it is now.
                fcntl.flock(writers, fcntl.LOCK_EX | fcntl.LOCK_NB)
                writers.truncate(0)
                writers.write(_writer_set())
                writers.flush()
            except BlockingIOError:
                writers.seek(0)
                if writers.read() != _writer_set():
                    raise BlockingIOError(
                        f"another process stores maps of {run.path}; wait for it, or let processes share the "
                        "work by --workers N or torchrun"
                    ) from None
            fcntl.flock(writers, fcntl.LOCK_SH)
        yield


def _writer_set() -> str:
    """Return what the ranks of one torchrun have in common, and nobody else has."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return f"process {os.getpid()} of {platform.node()}"
    names = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "WORLD_SIZE")
    return "ranks of " + " ".join(os.environ.get(name, "") for name in names)


def _prepare(run: Run, identity: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    """Make the store, or take up what is there; check the disk. Return identity, shape and ratio."""
    notes = run.path / NOTES
    if (run.path / MANIFEST).exists():
        manifest = read_json(run.path / MANIFEST)
        _check_same(run, manifest, identity)
        if not _reopen_if_damaged(run, manifest):
            return dict(manifest)
    if (notes / "identity.json").exists():
        known = dict(read_json(notes / "identity.json"))
        _check_same(run, known, identity)
    else:
        known = _sampled(run, identity, runtime)
    _check_disk(run, _prediction(run, known, _done(run, known)))
    counts = {name: part["count"] for name, part in known["images"].items()}
    c, h, w = known["map_shape"]
    create_store(run.path / STORE, counts, len(known["checkpoints"]), (c, h, w), {"fmce": identity})
    notes.mkdir(exist_ok=True)
    write_json(notes / "identity.json", known)
    return known


def _check_same(run: Run, there: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    for key, value in identity.items():
        if there.get(key) != value:
            raise ValueError(_other(run, key, there.get(key)))


def _sampled(run: Run, identity: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    """Map a chunk of images through every checkpoint; add the maps' shape and how far they shrink."""
    images = run.images(run.data.train, runtime)(torch.arange(min(CHUNK, len(run.data.train))))
    ratios: list[float] = []
    shape: list[int] = []
    for one in identity["checkpoints"]:
        maps = map_extractor(run, one["epoch"], runtime)(images)
        shape = list(maps.shape[1:])
        ratios.append(compressed_share(maps))
    return {**identity, "map_shape": shape, "ratio": sum(ratios) / len(ratios)}


def _prediction(run: Run, known: Mapping[str, Any], done: Sequence[Shard]) -> dict[str, Any]:
    """Return what is still to be written, and the room there is."""
    maps = sum(s.stop - s.first for s in set(_shards(known)) - set(done))
    c, h, w = known["map_shape"]
    return {
        "maps": maps,
        "map_shape": [c, h, w],
        "bytes": store_bytes(maps, (c, h, w), known["ratio"] * SPARE),
        "bytes_at_most": store_bytes(maps, (c, h, w)),
        "bytes_free": shutil.disk_usage(run.path).free,
    }


def _check_disk(run: Run, need: Mapping[str, Any]) -> None:
    if need["bytes"] > need["bytes_free"]:
        raise ValueError(
            f"{need['maps']} maps of {run.path} are expected to take {gigabytes(need['bytes'])}, but only "
            f"{gigabytes(need['bytes_free'])} are free there; make room, or use fmce_net.storage=recompute, which "
            "stores nothing"
        )


def gigabytes(count: int) -> str:
    """Format bytes as GB (10⁹)."""
    return f"{count / 1e9:.3g} GB"


def _note_of(run: Run, shard: Shard) -> Path:
    return run.path / NOTES / f"{shard.part}-{shard.phase}-{shard.first}.json"


def _done(run: Run, known: Mapping[str, Any]) -> list[Shard]:
    """Return the shards that are noted as whole and have the noted size."""
    done = []
    for shard in _shards(known):
        note, file = _note_of(run, shard), run.path / STORE / shard.name
        if note.exists() and file.exists() and read_json(note)["bytes"] == file.stat().st_size:
            done.append(shard)
    return done


def _reopen_if_damaged(run: Run, manifest: Mapping[str, Any]) -> bool:
    """Check every shard of a whole store; with a bad one, go back to notes of the good ones."""
    good = [s for s in _shards(manifest) if _is_whole(run, s, manifest["shards"][s.name])]
    if len(good) == len(manifest["shards"]):
        return False
    (run.path / NOTES).mkdir(exist_ok=True)
    for shard in good:
        write_json(_note_of(run, shard), manifest["shards"][shard.name])
    own = {k: v for k, v in manifest.items() if k not in ("shards", "bytes")}
    write_json(run.path / NOTES / "identity.json", own)
    (run.path / MANIFEST).unlink()
    return True


def _is_whole(run: Run, shard: Shard, noted: Mapping[str, Any]) -> bool:
    file = run.path / STORE / shard.name
    return file.exists() and file_digest(file) == noted["sha256"]


def _write_share(
    run: Run, known: Mapping[str, Any], runtime: Runtime, share: tuple[int, int], quiet: bool
) -> None:
    rank, ranks = share
    own = _shards(known)[rank::ranks]
    with _locked(run):  # another rank may have finished the store, and removed the notes
        done = set(own if (run.path / MANIFEST).exists() else _done(run, known))
    missing = [s for s in own if s not in done]
    images = {name: run.images(part, runtime) for name, part in _parts(run).items()}
    start = len(own) - len(missing)
    title = f"storing maps of {run.path}"
    with (
        Progress(title, len(own), start=start, quiet=quiet) as progress,
        ThreadPoolExecutor(1) as writer,
    ):
        writing: Future[None] | None = None
        for shard, maps in _mapped(run, known, missing, images, runtime):
            if writing is not None:
                writing.result()
                progress.advance()
            # The backbones go on with the next shard while this one is compressed.
            writing = writer.submit(_write, run, shard, maps)
        if writing is not None:
            writing.result()
            progress.advance()


def _mapped(
    run: Run,
    known: Mapping[str, Any],
    shards: Sequence[Shard],
    images: Mapping[str, Any],
    runtime: Runtime,
) -> Iterator[tuple[Shard, Tensor]]:
    """Yield each shard's maps in float16; one backbone is loaded at a time."""
    for phase, group in itertools.groupby(shards, key=lambda s: s.phase):
        backbone = map_extractor(run, known["checkpoints"][phase]["epoch"], runtime)
        for shard in group:
            blocks = torch.split(torch.arange(shard.first, shard.stop), BLOCK)
            yield shard, torch.cat([to_float16(backbone(images[shard.part](b))) for b in blocks])


def _write(run: Run, shard: Shard, maps: Tensor) -> None:
    file = write_shard(run.path / STORE, shard, maps)
    sync(file)
    note = {"sha256": file_digest(file), "bytes": file.stat().st_size}
    write_json(_note_of(run, shard), note)


def _finish(run: Run, known: Mapping[str, Any]) -> dict[str, Any]:
    """Write the manifest once all shards are whole; the process that finishes last does."""
    path = run.path / MANIFEST
    if not path.exists() and len(_done(run, known)) == len(_shards(known)):
        shards = {s.name: read_json(_note_of(run, s)) for s in _shards(known)}
        total = sum(s["bytes"] for s in shards.values())
        write_json(path, {**known, "bytes": total, "shards": shards})
        shutil.rmtree(run.path / NOTES)
    return read_json_or_none(path) or {**known, "bytes": None}


def print_store(path: Path, result: Mapping[str, Any]) -> None:
    """Print a manifest or a prediction in one line."""
    shape = "×".join(map(str, result["map_shape"]))
    if "bytes_free" in result:
        print(
            f"{result['maps']} maps of {shape} would take about {gigabytes(result['bytes'])}, at most "
            f"{gigabytes(result['bytes_at_most'])}; {gigabytes(result['bytes_free'])} are free"
        )
    elif result["bytes"] is None:
        print(f"this process's shards are written to {path / STORE}; others are still at work")
    else:
        count = sum(s.stop - s.first for s in _shards(result))
        print(f"{count} maps of {shape} in {path / STORE}: {gigabytes(result['bytes'])}")

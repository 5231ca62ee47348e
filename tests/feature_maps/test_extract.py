"""`fmce extract`: maps on disk, complete or resumed, checked when read, and what they are good for."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fmce.config.run import FMCENetConfig
from fmce.data.batch import ImageSet
from fmce.digests import file_digest
from fmce.engine.runtime import make_runtime
from fmce.feature_maps.extract import extract, images_digest
from fmce.feature_maps.zarr_shards import marker_attributes
from fmce.maturity.evaluate import evaluate
from fmce.maturity.train_fmce_net import map_source, train_fmce_net
from fmce.runs.lock import locked
from fmce.runs.run import open_run

CPU = make_runtime("cpu")
STORED = FMCENetConfig(epochs=2, storage="stored", shuffle_buffer=1024)
SHARDS = 3 * 3 + 3  # three phases: 1,257 training images take three files each, 360 test images one


def copy_of(run, folder):
    shutil.copytree(run.path, folder)
    return open_run(folder)


@pytest.fixture(scope="module")
def stored_run(finished_run, tmp_path_factory):
    run = copy_of(finished_run, tmp_path_factory.mktemp("stored") / "run")
    extract(run, runtime=CPU)
    return run


@pytest.fixture
def own_stored_run(stored_run, tmp_path):
    return copy_of(stored_run, tmp_path / "stored")


def maps_of(run, storage, part="train"):
    images = getattr(run.setup.data, part)
    source = map_source([run], images, CPU, STORED, storage=storage)
    return torch.cat([b.maps for b in source.batches(np.arange(3 * len(images)), 500)])


def shard_files(run):
    store = run.path / "maps.zarr"
    return {p.relative_to(store): p for p in store.rglob("c/*/*/*/*") if p.is_file()}


def contents(run):
    return {name: file_digest(path) for name, path in shard_files(run).items()}


def marker_name(run, phase):
    return f"epoch_{run.phases.markers[phase - 1]:04d}"


def test_stored_maps_are_the_recomputed_ones_rounded_to_11_bits(stored_run):
    for part in ("train", "test"):
        kept = maps_of(stored_run, "stored", part)
        images = getattr(stored_run.setup.data, part)
        memory = map_source([stored_run], images, CPU, STORED, storage="memory")
        computed = memory.maps.maps
        torch.testing.assert_close(kept, computed, rtol=2**-11, atol=2**-24)
        assert not torch.equal(kept, computed)


def test_every_marker_says_what_its_maps_are_of(stored_run):
    for phase in (1, 2, 3):
        name = marker_name(stored_run, phase)
        mark = marker_attributes(stored_run.path / "maps.zarr" / name)
        weights = stored_run.path / "checkpoints" / name / "model.safetensors"
        assert mark == {
            "weights": file_digest(weights),
            "images": {
                "train": images_digest(stored_run.setup.data.train),
                "test": images_digest(stored_run.setup.data.test),
            },
            "layer": stored_run.setup.layer,
            "precision": "float32",
        }


def test_the_result_names_what_lies_on_disk(own_stored_run):
    result = extract(own_stored_run, runtime=CPU)
    files = shard_files(own_stored_run).values()
    assert len(files) == SHARDS
    assert result == {
        "maps": 3 * (1257 + 360),
        "map_shape": [16, 2, 2],
        "bytes": sum(f.stat().st_size for f in files),
        "missing": [],
    }


def test_zarr_alone_reads_a_marker(stored_run):
    import zarr

    group = zarr.open_group(stored_run.path / "maps.zarr" / marker_name(stored_run, 1), mode="r")
    assert group["train"].shape == (1257, 16, 2, 2)
    assert (group["train"].chunks, group["train"].shards) == ((64, 16, 2, 2), (512, 16, 2, 2))
    assert group["test"].dtype == np.float16
    assert len(list(group.members())) == 2


@pytest.mark.parametrize("split", ["map", "image", "test"])
def test_every_storage_gives_the_same_metrics_within_noise(stored_run, split, tmp_path):
    """Order, and for the store rounding, differ; accuracies of 3 phases over some hundred maps do not much."""
    accuracy = {}
    for storage in ("memory", "recompute", "stored"):
        run = copy_of(stored_run, tmp_path / storage)
        shutil.rmtree(run.path / "fmce_net")
        config = replace(STORED, storage=storage, epochs=4)
        metrics = train_fmce_net(run, split, config=config, runtime=CPU)
        accuracy[storage] = metrics["test_images"]["accuracy"]
    assert min(accuracy.values()) > 0.45  # chance is a third
    assert max(accuracy.values()) - min(accuracy.values()) < 0.08, accuracy


def test_split_run_and_evaluate_read_both_runs_stores(stored_run, other_run, tmp_path):
    run, other = copy_of(stored_run, tmp_path / "a"), copy_of(other_run, tmp_path / "b")
    with pytest.raises(
        FileNotFoundError, match=r"has no stored maps of epochs .*; run: fmce extract .*/b"
    ):
        train_fmce_net(run, "run", others=[other], config=STORED, runtime=CPU)
    shutil.rmtree(run.path / "fmce_net" / "run")
    extract(other, runtime=CPU)
    metrics = train_fmce_net(run, "run", others=[other], config=STORED, runtime=CPU)
    assert (metrics["train_maps"], metrics["test_maps"]) == (3 * 1257, 3 * 1257)
    errors = [
        evaluate(run, others=[other], settings=s, runtime=CPU)["other_runs"][str(other.path)]["mae"]
        for s in (["storage=stored"], ["storage=recompute"])
    ]
    assert errors[0] == pytest.approx(errors[1], abs=0.01)


def test_an_epoch_of_stored_maps_is_the_same_whenever_it_is_asked_for(stored_run):
    images = stored_run.setup.data.train
    source = map_source([stored_run], images, CPU, STORED)
    numbers = np.arange(5, 3 * 1257)

    def rows(seed):
        generator = torch.Generator().manual_seed(seed)
        batches = source.batches(numbers, 64, generator)
        return [
            tuple(r)
            for b in batches
            for r in zip(b.phases.tolist(), b.image_index.tolist(), strict=True)
        ]

    first = rows(0)
    assert rows(0) == first
    assert rows(1) != first
    assert sorted(first) == sorted((n // 1257 + 1, n % 1257) for n in numbers.tolist())
    early = first[: 1257 // 4]
    assert {phase for phase, _ in early} == {1, 2, 3}  # phases are mixed from the start


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "gone"])
def test_a_damaged_shard_is_named_and_extract_rewrites_its_marker(own_stored_run, damage):
    run = own_stored_run
    before, marker = contents(run), marker_name(run, 2)
    file = run.path / "maps.zarr" / marker / "train" / "c" / "2" / "0" / "0" / "0"
    whole = file.read_bytes()
    half = len(whole) // 2
    if damage == "gone":
        file.unlink()
    else:
        flipped = whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :]
        file.write_bytes({"bit": flipped, "cut": whole[:half], "empty": b""}[damage])
    with pytest.raises(
        ValueError, match=r"train/c/2/0/0/0 is (damaged|missing|cut short).*fmce extract"
    ):
        maps_of(run, "stored")
    others = {f: f.stat().st_mtime_ns for n, f in shard_files(run).items() if marker not in n.parts}
    extract(run, runtime=CPU)
    assert contents(run) == before
    assert {f: f.stat().st_mtime_ns for f in others} == others
    maps_of(run, "stored")


def test_a_marker_without_its_arrays_metadata_is_rewritten(own_stored_run):
    run, before = own_stored_run, contents(own_stored_run)
    (run.path / "maps.zarr" / marker_name(run, 1) / "test" / "zarr.json").unlink()
    extract(run, runtime=CPU)
    assert contents(run) == before
    maps_of(run, "stored", "test")


@pytest.mark.parametrize("file", ["zarr.json", "train/zarr.json"])
@pytest.mark.parametrize("damage", ["digit", "empty", "list"])
def test_a_damaged_description_is_named_and_extract_rewrites_its_marker(
    own_stored_run, file, damage
):
    run, before = own_stored_run, contents(own_stored_run)
    path = run.path / "maps.zarr" / marker_name(run, 1) / file
    text = path.read_text()
    digit = text.replace("1257", "1258").replace("float32", "float16")
    path.write_text({"digit": digit, "empty": "", "list": "[]"}[damage])
    with pytest.raises(ValueError, match=f"{path}.*run"):
        maps_of(run, "stored")
    extract(run, runtime=CPU)
    assert contents(run) == before
    assert path.read_text() == text


def test_a_damaged_marker_checkpoint_is_not_blamed_on_the_maps(own_stored_run):
    run = own_stored_run
    weights = run.path / "checkpoints" / marker_name(run, 2) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-2] + b"??")
    for act in (lambda: maps_of(run, "stored"), lambda: extract(run, runtime=CPU)):
        with pytest.raises(ValueError, match=f"{weights} is damaged"):
            act()


def test_a_store_of_other_checkpoints_is_refused(own_stored_run, other_run):
    run = own_stored_run
    name = f"epoch_{run.phases.markers[2]:04d}"
    shutil.rmtree(run.path / "checkpoints" / name)
    theirs = other_run.path / "checkpoints" / f"epoch_{run.phases.markers[2]:04d}"
    shutil.copytree(theirs, run.path / "checkpoints" / name)
    for act in (lambda: maps_of(run, "stored"), lambda: extract(run, runtime=CPU)):
        with pytest.raises(ValueError, match=r"belong to other checkpoints; delete that folder"):
            act()


def test_a_store_of_other_images_is_refused(stored_run):
    darker = ImageSet(stored_run.setup.data.train.images // 2, stored_run.setup.data.train.targets)
    assert images_digest(darker) != images_digest(stored_run.setup.data.train)
    with pytest.raises(ValueError, match="belong to other images"):
        map_source([stored_run], darker, CPU, STORED)


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(own_run, monkeypatch):
    full = SimpleNamespace(total=10**9, used=10**9 - 1000, free=1000)
    monkeypatch.setattr("fmce.feature_maps.extract.shutil.disk_usage", lambda _: full)
    with pytest.raises(ValueError, match=r"4851 maps of .* only 1.0 kB are free there; make room"):
        extract(own_run, runtime=CPU)
    assert not (own_run.path / "maps.zarr").exists()


def test_missing_marker_checkpoints_are_named_with_what_to_do(own_run):
    first = own_run.phases.markers[0]
    shutil.rmtree(own_run.path / "checkpoints" / f"epoch_{first:04d}")
    with pytest.raises(
        FileNotFoundError, match=rf"epoch_{first:04d}/model.*; train again, or find"
    ):
        extract(own_run)


def test_the_estimate_is_near_what_is_written(stored_run, own_run):
    estimate = extract(own_run, runtime=CPU, dry_run=True)
    written = sum(f.stat().st_size for f in shard_files(stored_run).values())
    assert estimate["maps"] == 3 * (1257 + 360)
    assert 0.8 * estimate["bytes"] < written
    assert written < min(1.1 * estimate["bytes"], estimate["bytes_at_most"])
    assert not (own_run.path / "maps.zarr").exists()


def start(run, **environment):
    command = [sys.executable, "-m", "fmce", "extract", str(run.path), "--device", "cpu"]
    return subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_a_killed_extraction_resumes_after_its_last_marker(stored_run, own_run):
    process = start(own_run)
    store, deadline = own_run.path / "maps.zarr", time.monotonic() + 60
    while not list(store.glob("epoch_*")) and time.monotonic() < deadline:
        assert process.poll() is None or process.returncode == 0
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if process.returncode == 0:
        pytest.skip("it was done before it could be killed")
    assert 1 <= len(list(store.glob("epoch_*"))) < 3
    kept = {f: f.stat().st_mtime_ns for f in store.glob("epoch_*/*/c/*/*/*/*")}
    extract(own_run, runtime=CPU)
    assert {f: f.stat().st_mtime_ns for f in kept} == kept
    assert contents(own_run) == contents(stored_run)


def test_a_half_written_marker_counts_as_missing(own_stored_run):
    run, before = own_stored_run, contents(own_stored_run)
    folder = run.path / "maps.zarr" / marker_name(run, 2)
    folder.rename(folder.with_name(f".{folder.name}.0a1b2c3d.tmp"))
    with pytest.raises(FileNotFoundError, match="has no stored maps of epochs"):
        maps_of(run, "stored")
    extract(run, runtime=CPU)
    assert contents(run) == before


def test_ranks_write_their_shares_of_the_markers(stored_run, own_run):
    ranks = [start(own_run, RANK=str(r), WORLD_SIZE="2", LOCAL_RANK=str(r)) for r in range(2)]
    for process in ranks:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error.decode()
    assert contents(own_run) == contents(stored_run)


def test_a_rank_leaves_the_others_markers_to_them(stored_run, own_run, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    first, _, third = own_run.phases.markers
    assert extract(own_run, runtime=CPU)["missing"] == [first, third]
    with pytest.raises(FileNotFoundError, match=rf"no stored maps of epochs \[{first}, {third}\]"):
        maps_of(own_run, "stored")


def test_several_workers_write_what_one_writes(stored_run, own_run):
    assert extract(own_run, workers=2, runtime=CPU)["missing"] == []
    assert contents(own_run) == contents(stored_run)


def test_two_extractions_do_not_write_the_same_marker(own_run):
    with (
        locked(own_run.path / f".maps-{own_run.phases.markers[0]:04d}.lock", ""),
        pytest.raises(BlockingIOError, match=r"another process stores maps of .*--workers N"),
    ):
        extract(own_run, runtime=CPU)
    assert not list((own_run.path / "maps.zarr").glob("*"))


def test_a_file_system_without_locks_gives_a_warning(own_run, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", no_locks)
    assert extract(own_run, runtime=CPU)["missing"] == []
    assert "has no locks; let no second process" in caplog.text


def test_workers_under_torchrun_are_refused(own_run, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="1 under torchrun"):
        extract(own_run, workers=2, runtime=CPU)

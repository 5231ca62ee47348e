"""What a GPU run carries between calls: data in parts, and run folders."""

import json
import shutil
import time

import numpy as np
import pytest

from benchmarks.gpu.lines import Line, Part, append, outcomes, read, run_lines
from benchmarks.gpu.pack import pack_data
from benchmarks.gpu.rows import choose
from benchmarks.gpu.state import load_state, marker_candidates, save_state, take_parts


def test_data_in_parts_is_laid_out_once_all_parts_came(tmp_path):
    draw = np.random.default_rng(0)
    arrays = {
        f"x_{p}": draw.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
        for p, n in (("train", 2300), ("test", 5))
    }
    arrays |= {"y_train": np.arange(2300) % 10, "y_test": np.arange(5)}
    arrays["class_names"] = np.array(["a", "b"])
    (tmp_path / "own").mkdir()
    np.savez(tmp_path / "own" / "cifar10.npz", **arrays)
    raw = tmp_path / "own" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-labels-idx1-ubyte").write_bytes(b"labels")
    pack_data(tmp_path / "own", ["cifar10", "mnist"], tmp_path / "packed", [400_000])
    parts = sorted((tmp_path / "packed").iterdir())
    assert len(parts) > 1
    state = tmp_path / "state"
    for number, part in enumerate(parts, start=1):
        call = tmp_path / f"call{number}"
        shutil.copytree(part, call / part.name)
        take_parts(call, state)
        assert (state / "data" / "cifar10.npz").exists() == (number == len(parts))
    found = np.load(state / "data" / "cifar10.npz")
    assert all(np.array_equal(found[name], value) for name, value in arrays.items())
    assert (state / "data/MNIST/raw/train-labels-idx1-ubyte").read_bytes() == b"labels"


def test_state_holds_the_markers_and_comes_back(finished_run, tmp_path):
    folder = tmp_path / "state" / "runs" / "small" / "digits-seed0"
    shutil.copytree(finished_run.path, folder)
    (tmp_path / "out").mkdir()
    assert save_state(tmp_path / "state", tmp_path / "out") == []
    assert load_state(tmp_path / "out", tmp_path / "later")
    back = tmp_path / "later" / "runs" / "small" / "digits-seed0"
    for epoch in finished_run.phases.markers:
        name = f"checkpoints/epoch_{epoch:04d}/model.safetensors"
        assert (back / name).read_bytes() == (folder / name).read_bytes()
    assert (back / "metrics.jsonl").read_text() == (folder / "metrics.jsonl").read_text()


def test_an_unfinished_run_carries_its_newest_state_and_what_may_become_a_marker(
    finished_run, tmp_path
):
    folder = tmp_path / "state" / "runs" / "run"
    shutil.copytree(finished_run.path, folder)
    (folder / "DONE.json").unlink()
    (folder / "phases.json").unlink()
    markers = finished_run.phases.markers
    assert set(markers) <= set(marker_candidates(folder, finished_run.epochs))
    (tmp_path / "out").mkdir()
    save_state(tmp_path / "state", tmp_path / "out")
    load_state(tmp_path / "out", tmp_path / "later")
    last = finished_run.config.train.epochs
    for epoch in (last - 1, last):
        kept = tmp_path / "later" / "runs" / "run" / "checkpoints" / f"epoch_{epoch:04d}"
        assert (kept / "state.pt").exists()
        assert json.loads((kept / "meta.json").read_text())["epoch"] == epoch


def test_a_line_that_broke_is_resumed_where_it_can_be_and_left_where_not(tmp_path):
    part = Part(tmp_path, tmp_path, "cpu", tiny=True, until=time.time() + 60)
    began = []

    def broken():
        began.append(1)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    for resumes, times in ((False, 1), (True, 2)):
        file, lines = tmp_path / f"{resumes}.jsonl", [Line("one", broken, 0, resumes=resumes)]
        began.clear()
        for _ in range(times):
            with pytest.raises(SystemExit):
                run_lines(file, lines, part)
        if not resumes:
            run_lines(file, [*lines, Line("two", dict, 0), Line("three", dict, 1e9)], part)
            states = {name: row["status"] for name, row in outcomes(read(file)).items()}
            assert states == {"one": "unfinished", "two": "done", "three": "skipped"}
        assert len(began) == times


def test_the_length_is_what_fits(tmp_path):
    row = {"status": "done", "precision": "bfloat16", "seconds": 60}
    for name, rate in (("bfloat16", 5e3), ("bfloat16, channels_last, CUDA graphs", 1e4)):
        line = f"training step, shufflenet_v2_x1_0, {name}"
        append(tmp_path / "speed.jsonl", row | {"line": line, "images_per_second": rate})
    for minutes, asked, expected in (
        (20, None, 150),
        (13, None, 100),
        (11, None, 85),
        (7, None, 60),
        (8, 100, 100),
    ):
        until = time.time() + 60 * minutes
        part = Part(tmp_path, tmp_path, "cuda", tiny=False, until=until, epochs=asked)
        assert choose(part)["epochs"] == expected
        assert choose(part)["runtime"][-1] == "runtime.cuda_graphs=true"
        (tmp_path / "settings.json").unlink()

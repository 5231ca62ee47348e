import json
from itertools import pairwise

import numpy as np
import pytest
import torch

from fmce import gram_matrix, gram_triangle, module_clock, module_table
from fmce.recorder.gram import drift_between
from tests.recorder.loops import made, recorded


def triangles(positions):
    """Return triangles of features that move from one random matrix to another."""
    start, end = (torch.randn(32, 8, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    return [gram_triangle(gram_matrix((1 - p) * start + p * end)) for p in positions]


def clock_of(positions, **options):
    kept = triangles(positions)
    steps = [drift_between(a, b) for a, b in pairwise(kept)]
    return module_clock("neck", dict(enumerate(kept)), steps, **options)


def test_a_module_that_moves_early_is_done_before_one_that_moves_late():
    early = clock_of([0, 0.5, 0.9, *[1.0] * 17])
    late = clock_of([0.0] * 10 + np.linspace(0, 1, 10).tolist())
    assert (early.done_epoch, early.late_drift) == (2, pytest.approx(0, abs=1e-6))
    assert late.done_epoch > 15
    assert late.late_drift > 0.01
    assert early.drifts[0] > 0.5
    assert early.drifts[-1] == 0


def test_its_own_convergence_and_phases_come_from_its_steps():
    positions = 1 - np.exp(-np.arange(60) / 6)
    clock = clock_of(positions, num_phases=3)
    assert clock.verdict.state in ("at_rest", "converged")
    assert 10 < clock.verdict.epoch < 40
    assert len(clock.phases.markers) == 3
    assert clock.refusal is None
    assert json.dumps(clock.to_dict(), allow_nan=False)


def test_a_module_that_never_moves_has_no_drift():
    clock = clock_of([0.3] * 12)
    assert (clock.done_epoch, clock.late_drift, clock.phases) == (None, None, None)
    constant = module_clock("c", {e: np.zeros(28, np.float16) for e in range(3)}, [None, None])
    assert (constant.done_epoch, constant.verdict) == (None, None)
    assert json.dumps(constant.to_dict(), allow_nan=False)


def test_no_triangles_is_an_error():
    with pytest.raises(ValueError, match="no Gram triangles"):
        module_clock("neck", {}, [])


def test_the_table_of_a_run(tmp_path):
    recorded(tmp_path, 9)
    table = module_table(tmp_path)
    assert [row.name for row in table.rows] == ["stem", "middle", "late", "head"]
    assert [row.depth for row in table.rows] == [1, 2, 3, 4]
    assert (table.epochs, table.provisional, table.even_epoch) == (9, True, 9)
    assert all(len(row.clocks) == 1 for row in table.rows)
    assert table.rows[2].clocks[0].epochs == tuple(range(10))
    assert json.dumps(table.to_dict(), allow_nan=False)
    (tmp_path / "DONE.json").write_text("{}")
    assert not module_table(tmp_path).provisional


def test_the_clock_of_a_checkpoint_needs_no_checkpoint(tmp_path):
    """Drift from stored triangles equals drift computed from the weights themselves."""
    from fmce.recorder.probe import Probe
    from fmce.runs.checkpoint import load_weights
    from tests.recorder.loops import digits

    recorded(tmp_path, 4, keep="all")
    model, _ = made()
    fresh = {}
    for epoch in (1, 4):
        model.load_state_dict(load_weights(tmp_path / f"checkpoints/epoch_{epoch:04d}"))
        fresh[epoch] = (
            Probe(model, ["late"], digits()[0][:64]).measure()["late"].outputs["late"].triangle
        )
    clock = module_table(tmp_path).rows[2].clocks[0]
    assert clock.drifts[1] == pytest.approx(drift_between(fresh[1], fresh[4]), abs=1e-6)


def test_runs_without_modules_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        module_table(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "loss": 1.0, "learning_rate": 0.1}\n')
    with pytest.raises(ValueError, match="no recorded modules"):
        module_table(tmp_path)


def test_without_a_probe_the_table_has_weights_alone(tmp_path):
    recorded(tmp_path, 2, probe=None)
    table = module_table(tmp_path)
    assert table.rows[0].clocks == ()
    assert table.rows[0].facts["moved"] > 0
    assert table.depth_correlation is None


def test_a_lost_gram_file_is_missed_and_a_damaged_one_refused(tmp_path, caplog):
    recorded(tmp_path, 4)
    module_table(tmp_path)
    assert not caplog.messages
    file = tmp_path / "grams" / "epoch_0002.safetensors"
    content = bytearray(file.read_bytes())
    file.unlink()
    assert 2 not in module_table(tmp_path).rows[0].clocks[0].epochs
    assert caplog.messages[0].startswith(f"{file} is missing, 1 such files in all")
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{file} is damaged: its SHA-256 is not the noted one"):
        module_table(tmp_path)


@pytest.mark.parametrize(
    "change", [{"modules": {"stem": 3}}, {"modules": [1]}, {"modules": {"stem": {"outputs": 7}}}]
)
def test_lines_of_another_kind_are_refused_with_their_file(tmp_path, change):
    recorded(tmp_path, 2)
    file = tmp_path / "metrics.jsonl"
    rows = [{**json.loads(line), **change} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for noted in (tmp_path / "DONE.json", *tmp_path.glob("checkpoints/*/meta.json")):
        noted.unlink(missing_ok=True)
    with pytest.raises(ValueError, match=f"{file}: expected metrics lines with modules"):
        module_table(tmp_path)

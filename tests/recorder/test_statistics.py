"""What scores are made of on a live model: classes of images, of pixels and of boxes, twins, and the recorder's own."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from fmce import MaturityScorer, Recorder, ScoredProbe, class_statistics
from fmce.cli.main import main
from fmce.recorder.history import live_scores, recorded_histories, score_line
from fmce.recorder.probe import Probe
from fmce.recorder.samples import BACKGROUND, labelled_rows
from fmce.recorder.statistics import module_statistics, reinitialised, twin_statistics
from fmce.runs.log import read_metrics
from tests.recorder.loops import Small, digits, made, recorded, train_epoch

NAMES = ["stem", "middle", "late", "head"]


def probe(count=256):
    images, targets = digits()
    return images[:count], targets[:count]


def test_statistics_are_those_of_the_maps_averaged_over_positions():
    model, (images, targets) = Small().eval(), probe(100)
    found = module_statistics(model, NAMES, images, targets)
    with torch.no_grad():
        maps = model.late(model.middle(model.stem(images)))
    expected = class_statistics(maps.mean((2, 3)).numpy(), targets.numpy())
    assert {n: found["late"][n] for n in expected} == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert found["late"]["mean_activation"] == pytest.approx(math.log(maps.abs().mean()), rel=1e-4)
    assert list(found) == NAMES


def test_a_model_is_left_as_it_was_found():
    torch.manual_seed(0)
    model, (images, targets) = Small().train(), probe(64)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    state = torch.get_rng_state()
    module_statistics(model, NAMES, images, targets)
    twin_statistics(model, NAMES, images, targets, twins=2)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())


def test_twins_are_other_weights_with_norm_statistics_of_the_probe():
    class Placed(nn.Module):
        def __init__(self):
            super().__init__()
            self.place = nn.Parameter(torch.arange(8.0))
            self.body = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))

        def forward(self, x):
            return self.body(x + self.place)

    model, inputs = Placed(), torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    twin, again, other = (reinitialised(model, seed, inputs) for seed in (0, 0, 1))
    assert torch.equal(twin.body[0].weight, again.body[0].weight)
    assert not torch.equal(twin.body[0].weight, other.body[0].weight)
    assert not torch.equal(twin.body[0].weight, model.body[0].weight)
    assert not torch.equal(twin.place, model.place)
    assert torch.equal(twin.place.sort()[0], model.place.sort()[0])
    with torch.no_grad():
        mean = twin.body[0](inputs + twin.place).mean(0)
    assert twin.body[1].running_mean.numpy() == pytest.approx(mean.numpy(), abs=1e-5)
    assert not twin.training


def test_without_labels_there_are_statistics_without_labels():
    found = module_statistics(Small(), ["late"], probe(64)[0])["late"]
    assert "effective_rank" in found
    assert "probe_mse" not in found


def test_a_module_without_matrices_has_no_weight_norm():
    found = module_statistics(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), ["1"], torch.randn(32, 4))
    assert math.isnan(found["1"]["weight_norm"])


def test_pixels_are_averaged_per_image_and_class():
    maps = torch.arange(8.0).view(2, 1, 2, 2)  # cells 0–3 and 4–7
    labels = torch.zeros(2, 4, 4, dtype=torch.long)
    labels[0, :, 2:] = 1  # the right half
    labels[1] = 255
    labels[1, 0, 0], labels[1, 3, 3] = 1, -1
    rows, classes = labelled_rows("m", maps, labels, torch.Size((2, 3, 4, 4)))
    found = sorted(zip(classes.tolist(), rows[:, 0].tolist(), strict=True))
    assert found == [(0, 1.0), (1, 2.0), (1, 4.0)]


def test_a_pixel_counts_by_its_share_of_a_cell():
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    labels[0, 0, 0] = 1
    maps = torch.tensor([[[[4.0, 0.0], [0.0, 0.0]]]])
    rows, classes = labelled_rows("m", maps, labels, torch.Size((1, 3, 4, 4)))
    # Class 0 has 15 of 16 pixels, and three of four in the cell with value 4.
    assert dict(zip(classes.tolist(), rows[:, 0].tolist(), strict=True)) == pytest.approx(
        {0: 4 * 0.75 / 3.75, 1: 4.0}
    )


def test_boxes_are_pooled_per_class_and_the_rest_is_background():
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    boxes = torch.tensor(
        [[[0.0, 0, 8, 8, 5, 0], [8, 8, 16, 16, 7, 1], [0, 0, 16, 16, -1, 0], [12, 0, 16, 2, 5, 0]]]
    )
    rows, classes = labelled_rows("m", maps, boxes, torch.Size((1, 3, 16, 16)))
    found = dict(zip(classes.tolist(), rows[:, 0].tolist(), strict=True))
    # Two boxes of class 5: four cells, and half a cell with value 3.
    assert found[5] == pytest.approx((0 + 1 + 4 + 5 + 0.5 * 3) / 4.5)
    # An ignored box belongs to no class and not to the background; padding covers nothing.
    assert set(found) == {5, BACKGROUND}
    covered = {0, 1, 4, 5, 10, 11, 14, 15}
    weights = {cell: 1.0 for cell in range(16) if cell not in covered} | {3: 0.5}
    mean = sum(c * w for c, w in weights.items()) / sum(weights.values())
    assert found[BACKGROUND] == pytest.approx(mean)


def test_five_columns_of_boxes_ignore_none():
    boxes = torch.tensor([[[0.0, 0, 4, 4, 0]]])
    rows, classes = labelled_rows("m", torch.ones(1, 2, 4, 4), boxes, torch.Size((1, 3, 4, 4)))
    assert classes.tolist() == [0]
    assert rows.shape == (1, 2)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(63, dtype=torch.long), "has 64 samples, and labels for 63"),
        (torch.zeros(64), "got torch.float32"),
        (torch.zeros(64, 3, 4), "boxes .* as floats"),
        (torch.zeros(64, 2, dtype=torch.long), "whole numbers"),
    ],
)
def test_labels_of_another_form_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        Probe(Small(), ["late"], probe(64)[0], labels)


def test_labels_of_positions_need_maps():
    labels = torch.zeros(64, 8, 8, dtype=torch.long)
    with pytest.raises(ValueError, match=r"'head' returned \(64, 10\).*name a module that returns"):
        module_statistics(Small(), ["head"], probe(64)[0], labels)


def test_a_recorder_with_labels_keeps_statistics_of_each_epoch(tmp_path):
    images, targets = probe()
    recorded(tmp_path / "run", 4, probe=ScoredProbe(images, targets), modules=NAMES)
    histories = recorded_histories(tmp_path / "run")
    assert [h.module for h in histories] == NAMES
    late = histories[2]
    assert late.epochs.tolist() == [1, 2, 3, 4]
    assert late.losses.tolist() == [row["loss"] for row in read_metrics(tmp_path / "run")]
    assert late.values["probe_mse"][-1] < late.values["probe_mse"][0] < late.twin["probe_mse"]
    assert np.isfinite(late.values["weight_norm"]).all()


def test_recorded_statistics_are_those_of_the_live_model(tmp_path):
    images, targets = probe()
    model, optimizer = made()
    recorded(
        *(tmp_path / "run", 2, model, optimizer), probe=ScoredProbe(images, targets), modules=NAMES
    )
    live = module_statistics(model, NAMES, images, targets)["late"]
    kept = recorded_histories(tmp_path / "run")[2]
    for name in kept.twin.keys() - {"tail_exponent"}:
        assert kept.values[name][-1] == pytest.approx(live[name], rel=1e-4, abs=1e-5), name


def test_training_is_the_same_to_the_bit_with_a_scored_probe(tmp_path):
    images, targets = probe()
    states = []
    for n, one in enumerate((images, ScoredProbe(images, targets))):
        model, optimizer = made()
        torch.manual_seed(5)
        recorded(tmp_path / str(n), 2, model, optimizer, probe=one, modules=NAMES)
        states.append(model.state_dict())
    assert all(torch.equal(t, states[1][n]) for n, t in states[0].items())


def test_a_resumed_recording_continues_its_history(tmp_path):
    images, targets = probe()
    model, optimizer = made()
    options = {"probe": ScoredProbe(images, targets), "modules": NAMES}
    recorded(tmp_path / "run", 2, model, optimizer, **options)
    recorded(tmp_path / "run", 4, model, optimizer, **options)
    assert recorded_histories(tmp_path / "run")[0].epochs.tolist() == [1, 2, 3, 4]


def test_a_probe_without_labels_records_no_history(tmp_path):
    recorded(tmp_path / "run", 2)
    assert recorded_histories(tmp_path / "run") == []


def test_histories_of_recorders_are_what_a_scorer_takes(tmp_path):
    images, targets = probe()
    for seed in range(3):
        model, optimizer = made(seed)
        recorded(
            *(tmp_path / f"run{seed}", 12, model, optimizer),
            probe=ScoredProbe(images, targets),
            modules=["late"],
            keep="none",
        )
    histories = [h for n in range(3) for h in recorded_histories(tmp_path / f"run{n}")]
    scores = MaturityScorer.fit(histories).score(histories[0])
    assert scores.values[-1] > 9
    assert scores.values[0] < 3


def test_a_recorder_folder_is_told_from_another_probe(tmp_path):
    images, targets = probe()
    with Recorder(tmp_path / "run", Small(), NAMES, ScoredProbe(images, targets)):
        pass
    with pytest.raises(FileExistsError):
        Recorder(tmp_path / "run", Small(), NAMES, ScoredProbe(images, targets.flip(0)))


def test_what_is_live_is_shown_with_its_interval_until_the_training_is_over(tmp_path, capsys):
    images, targets = probe()
    run = tmp_path / "run"
    recorded(run, 12, probe=ScoredProbe(images, targets), modules=["late"])
    assert live_scores(run)[0].extrapolated
    main(["watch", str(run), "--once"])
    main(["modules", str(run)])
    lines = [s for s in capsys.readouterr().out.splitlines() if s.startswith("late: score ")]
    assert len(lines) == 2
    assert lines[0].endswith("its end extrapolated")
    low, value, high = (getattr(live_scores(run)[0], n)[-1] for n in ("low", "values", "high"))
    assert 0 <= low <= value <= high <= 10
    model, optimizer = made()
    with Recorder(tmp_path / "done", model, ["late"], ScoredProbe(images, targets), optimizer) as r:
        for _ in range(3):
            train_epoch(model, optimizer, r)
            r.end_epoch()
    assert live_scores(tmp_path / "done") == []
    main(["modules", str(tmp_path / "done")])
    assert "score" not in capsys.readouterr().out


def test_the_first_epochs_have_a_score_too(tmp_path):
    images, targets = probe()
    recorded(tmp_path / "run", 1, probe=ScoredProbe(images, targets), modules=["late"])
    assert "late: " in score_line(live_scores(tmp_path / "run")[0])

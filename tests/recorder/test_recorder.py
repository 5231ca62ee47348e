import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from fmce import PhaseConfig, Recorder, open_run
from fmce.recorder.grams import gram_epochs, load_grams
from fmce.runs.log import read_metrics
from tests.recorder.loops import Small, digits, made, recorded, train_epoch


def rows_of(folder):
    """Return the metrics lines without what time alone decides."""
    return [{k: v for k, v in row.items() if k != "time_seconds"} for row in read_metrics(folder)]


def test_a_recorder_changes_no_bit_of_the_training(tmp_path):
    plain, optimizer = made()
    for _ in range(3):
        train_epoch(plain, optimizer)
    watched, optimizer = made()
    recorded(tmp_path, 3, watched, optimizer)
    pairs = zip(plain.state_dict().values(), watched.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in watched.modules())
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_the_folder_is_a_run(tmp_path):
    _, statuses = recorded(tmp_path, 12)
    run = open_run(tmp_path)
    assert run.losses == [status.loss for status in statuses]
    assert run.learning_rates == [3e-3] * 12
    assert run.epochs == list(range(1, 13))
    row = run.curve[-1]
    assert row["steps"] == 6
    assert set(row["modules"]) == {"stem", "middle", "late", "head"}
    assert row["modules"]["late"]["moved"] > 0
    assert 0 < row["modules"]["late"]["outputs"]["late"]["drift"] < 1
    assert gram_epochs(tmp_path) == list(range(13))
    assert json.dumps(statuses[-1].to_dict(), allow_nan=False)
    assert str(statuses[-1]).startswith("epoch 12: loss ")


def test_the_loss_is_the_mean_over_samples(tmp_path):
    model, optimizer = made()
    recorder = Recorder(tmp_path, model, optimizer=optimizer)
    for value, samples in ((1.0, 3), (torch.tensor(4.0), 1), (torch.tensor(float("inf")), 5)):
        recorder.step(value, samples)
    status = recorder.end_epoch(
        validation_loss=2.5, accuracy=torch.tensor(0.5), cqi=3.0, learning_rate=0.1
    )
    assert status.loss == pytest.approx(7 / 4)
    row = read_metrics(tmp_path)[0]
    assert (row["bad_losses"], row["steps"], row["validation_loss"], row["accuracy"]) == (
        1,
        3,
        2.5,
        0.5,
    )
    assert row["cqi"] is None  # an own field is not overwritten
    assert row["learning_rate"] == 0.1


@pytest.mark.parametrize("stop", [2, 4])
def test_resumed_by_state_gives_the_rows_of_an_undisturbed_training(tmp_path, stop):
    _, expected = recorded(tmp_path / "whole", 6)

    def save(recorder, model, optimizer):
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "recorder": recorder.state_dict(),
            "rng": torch.get_rng_state(),
        }
        torch.save(state, tmp_path / "mine.pt")

    model, optimizer = made()
    recorder = Recorder(tmp_path / "cut", model, optimizer=optimizer, probe=digits()[0][:64])
    for epoch in range(1, 6):
        train_epoch(model, optimizer, recorder)
        recorder.end_epoch()
        if epoch == stop:
            save(recorder, model, optimizer)
    del recorder  # killed at epoch 5, without a word

    state = torch.load(tmp_path / "mine.pt", weights_only=True)
    model, optimizer = made(seed=9)
    recorder = Recorder(tmp_path / "cut", model, optimizer=optimizer, probe=digits()[0][:64])
    recorder.load_state_dict(state["recorder"])
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    assert recorder.epoch == stop
    statuses = []
    for _ in range(recorder.epoch, 6):
        train_epoch(model, optimizer, recorder)
        statuses.append(recorder.end_epoch())
    assert rows_of(tmp_path / "cut") == rows_of(tmp_path / "whole")
    assert [str(s) for s in statuses] == [str(s) for s in expected[stop:]]
    for epoch in range(7):
        ours, theirs = (load_grams(tmp_path / name, epoch) for name in ("cut", "whole"))
        assert all(np.array_equal(ours.triangles[k], v) for k, v in theirs.triangles.items())


def test_resumed_within_an_epoch(tmp_path):
    images, targets = digits()

    def steps(model, optimizer, recorder, part):
        for index in torch.arange(600).split(100)[part]:
            loss = nn.functional.cross_entropy(model(images[index]), targets[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.step(loss, len(index))

    def new(name, model, optimizer):
        return Recorder(tmp_path / name, model.eval(), optimizer=optimizer, probe=images[:16])

    model, optimizer = made()
    recorder = new("whole", model, optimizer)
    for _ in range(2):
        steps(model, optimizer, recorder, slice(None))
        recorder.end_epoch()
    model, optimizer = made()
    recorder = new("cut", model, optimizer)
    steps(model, optimizer, recorder, slice(None))
    recorder.end_epoch()
    steps(model, optimizer, recorder, slice(3))
    states = model.state_dict(), optimizer.state_dict(), recorder.state_dict()
    states = json.loads(json.dumps(states[2])), *states[:2]
    recorder.close()
    other, own = made(seed=5)
    recorder = new("cut", other, own)
    recorder.load_state_dict(states[0])
    other.load_state_dict(states[1])
    own.load_state_dict(states[2])
    steps(other, own, recorder, slice(3, None))
    recorder.end_epoch()
    assert rows_of(tmp_path / "cut") == rows_of(tmp_path / "whole")


def test_an_existing_folder_is_continued_at_the_epoch_whose_weights_the_model_has(tmp_path, caplog):
    _, _ = recorded(tmp_path, 5, keep="all")
    run = open_run(tmp_path)
    model, optimizer = made(seed=7)
    recorder = Recorder(tmp_path, model, optimizer=optimizer, probe=digits()[0][:64], keep="all")
    weights = run.path / "checkpoints/epoch_0003"
    from fmce.runs.checkpoint import load_weights

    model.load_state_dict(load_weights(weights))
    with caplog.at_level("INFO", logger="fmce"):
        assert recorder.start() == 3
    assert "holds 5 epochs; recording continues after epoch 3" in caplog.text
    assert [row["epoch"] for row in read_metrics(tmp_path)] == [1, 2, 3]
    assert run.epochs == [1, 2, 3]
    assert gram_epochs(tmp_path) == [0, 1, 2, 3]


def test_weights_of_another_training_are_refused_at_the_first_step(tmp_path):
    recorded(tmp_path, 2)
    model, optimizer = made(seed=7)
    recorder = Recorder(tmp_path, model, optimizer=optimizer, probe=digits()[0][:64])
    with pytest.raises(ValueError, match="weights of none of them"):
        train_epoch(model, optimizer, recorder)
    assert len(read_metrics(tmp_path)) == 2


def test_a_module_that_resumes_with_other_weights_is_named(tmp_path):
    model, optimizer = made()
    recorded(tmp_path, 2, model, optimizer)
    with torch.no_grad():
        for parameter in model.late.parameters():
            parameter *= 4
    recorder = Recorder(tmp_path, model, optimizer=optimizer, probe=digits()[0][:64])
    train_epoch(model, optimizer, recorder)
    alarms = recorder.end_epoch().alarms
    assert [(a.module, a.kind) for a in alarms] == [("late", "changed")]
    assert "multiplied by 4" in alarms[0].finding


def test_begun_again_with_the_initial_weights_it_starts_at_epoch_1(tmp_path):
    recorded(tmp_path, 3)
    expected = rows_of(tmp_path)
    model, optimizer = made()
    recorder = Recorder(tmp_path, model, optimizer=optimizer, probe=digits()[0][:64])
    assert recorder.start() == 0
    assert read_metrics(tmp_path) == []
    for _ in range(3):
        train_epoch(model, optimizer, recorder)
        recorder.end_epoch()
    assert rows_of(tmp_path) == expected


def test_a_finished_training_is_not_begun_again(tmp_path):
    model, optimizer = made()
    with Recorder(tmp_path, model, probe=digits()[0][:32], optimizer=optimizer) as recorder:
        for _ in range(2):
            train_epoch(model, optimizer, recorder)
            recorder.end_epoch()
    kept = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"}
    model, optimizer = made()
    again = Recorder(tmp_path, model, probe=digits()[0][:32], optimizer=optimizer)
    with pytest.raises(FileExistsError, match="finished training of 2 epochs"):
        train_epoch(model, optimizer, again)
    again.close()
    assert all(path.read_bytes() == content for path, content in kept.items())


@pytest.mark.parametrize("keep", ["all", "thinned", "none"])
def test_checkpoints_kept(tmp_path, keep):
    phases = PhaseConfig(num_phases=2, relative_threshold=1e-3)
    recorded(tmp_path, 12, keep=keep, phases=phases)
    kept = open_run(tmp_path).epochs
    assert len(kept) == {"all": 12, "thinned": 8, "none": 0}[keep]
    if kept:
        assert kept[-1] == 12


def test_gram_matrices_are_thinned_but_first_and_last_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("fmce.recorder.grams.MOST", 4)
    recorded(tmp_path, 9)
    kept = gram_epochs(tmp_path)
    assert len(kept) == 5
    assert (kept[0], kept[1], kept[-1]) == (0, 1, 9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modules": ["laet"]}, "near matches: late"),
        ({"probe": torch.zeros(7, 1, 8, 8)}, "7 samples"),
        ({"probe": torch.zeros(16, 5)}, "cannot take the probe"),
        ({"frozen": ["stemm"]}, "near matches: stem"),
    ],
)
def test_bad_arguments_are_refused_before_a_folder_is_made(tmp_path, options, message):
    model, optimizer = made()
    with pytest.raises(ValueError, match=message):
        Recorder(tmp_path / "run", model, optimizer=optimizer, **options)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_another_model_or_probe_is_refused(tmp_path):
    recorded(tmp_path, 1)
    other = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(FileExistsError, match=r"recorder\.modules"):
        Recorder(tmp_path, other)
    with pytest.raises(FileExistsError, match=r"recorder\.probe"):
        Recorder(tmp_path, Small(), probe=digits()[0][1:65])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds 'notes\.txt'"):
        Recorder(tmp_path / "mine", Small())


def test_bad_losses(tmp_path):
    recorder = Recorder(tmp_path, Small())
    with pytest.raises(ValueError, match="shape"):
        recorder.step(torch.zeros(3))
    with pytest.raises(ValueError, match="at least 1 sample"):
        recorder.step(1.0, 0)
    with pytest.raises(ValueError, match="first loss is nan"):
        recorder.step(torch.tensor(math.nan))
    recorder.step(1.0)
    recorder.step(torch.tensor(math.nan))
    assert recorder.end_epoch().loss == 1.0
    recorder.step(torch.tensor(math.nan))
    status = recorder.end_epoch()
    assert status.loss is None
    assert status.alarms[0].kind == "loss"
    assert recorder.end_epoch().loss is None  # an epoch without steps


def test_a_measurement_that_fails_never_ends_the_training(tmp_path, caplog):
    class Fragile(Small):
        broken = False

        def forward(self, x):
            if self.broken and not self.training:
                raise RuntimeError("no such kernel")
            return super().forward(x)

    torch.manual_seed(0)
    model = Fragile()
    optimizer = torch.optim.Adam(model.parameters())

    def spoil(epoch, model, _optimizer):
        model.broken = epoch in (2, 3)

    _, statuses = recorded(tmp_path, 4, model, optimizer, before=spoil)
    assert caplog.text.count("failed at the probe") == 1
    rows = read_metrics(tmp_path)
    assert "outputs" not in rows[1]["modules"]["stem"]
    assert "no such kernel" in rows[2]["not_measured"]["the probe"]
    assert rows[2]["modules"]["stem"]["moved"] > 0
    assert rows[3]["modules"]["stem"]["outputs"]["stem"]["rank"] > 1
    assert len(statuses) == 4


def test_a_folder_that_cannot_be_written_to_is_reported_and_caught_up_with(
    tmp_path, caplog, monkeypatch
):
    model, optimizer = made()
    recorder = Recorder(tmp_path, model, optimizer=optimizer)
    full = {"now": True}

    def append(folder, row):
        from fmce.runs.log import append_metrics

        if full["now"]:
            raise OSError("No space left on device")
        append_metrics(folder, row)

    monkeypatch.setattr("fmce.recorder.folder.append_metrics", append)
    for _ in range(2):
        train_epoch(model, optimizer, recorder)
        recorder.end_epoch()
    full["now"] = False
    train_epoch(model, optimizer, recorder)
    assert recorder.end_epoch().epoch == 3
    assert caplog.text.count("No space left") == 1
    assert [row["epoch"] for row in read_metrics(tmp_path)] == [1, 2, 3]


def test_without_optimizer_or_probe(tmp_path):
    model, optimizer = made()
    recorder = Recorder(tmp_path, model)
    train_epoch(model, optimizer, recorder)
    status = recorder.end_epoch()
    facts = read_metrics(tmp_path)[0]["modules"]["late"]
    assert "gradient" not in facts
    assert "outputs" not in facts
    assert status.alarms == ()
    assert read_metrics(tmp_path)[0]["learning_rate"] is None


def test_loggers_get_numbers_and_their_failure_is_survived(tmp_path, caplog):
    class Kept:
        def __init__(self):
            self.lines = []

        def log(self, values, *, step):
            self.lines.append((step, values))

    class Broken:
        def log(self, values, *, step):
            raise ConnectionError("gone")

    kept = Kept()
    recorded(tmp_path, 2, loggers=[Broken(), kept])
    assert [step for step, _ in kept.lines] == [1, 2]
    values = kept.lines[1][1]
    assert {"loss", "modules/late/moved", "modules/late/outputs/late/drift"} <= values.keys()
    assert all(isinstance(value, float) for value in values.values())
    assert caplog.text.count("gone") == 1


def test_finish_marks_the_end_and_finds_phases(tmp_path):
    phases = PhaseConfig(num_phases=2, threshold=0.12)
    model, optimizer = made()
    with Recorder(tmp_path, model, optimizer=optimizer, phases=phases) as recorder:
        for _ in range(14):
            train_epoch(model, optimizer, recorder)
            status = recorder.end_epoch()
    run = open_run(tmp_path)
    assert run.done["epochs"] == 14
    assert run.done["markers"] == list(run.phases.markers) == list(status.phases.markers)


def test_a_second_recorder_in_the_process_takes_the_folder_over(tmp_path):
    first = Recorder(tmp_path, Small())
    Recorder(tmp_path, Small()).close()
    first.close()


def test_status_knows_rest_and_convergence():
    from fmce.recorder.status import status_of

    def rows(rates):
        losses = 2.3 * np.exp(-np.arange(60) / 3) + 0.05
        return [
            {"epoch": e, "loss": float(loss), "learning_rate": rate, "cqi": 0.0}
            for e, (loss, rate) in enumerate(zip(losses, rates, strict=True), start=1)
        ]

    config = PhaseConfig(threshold=2e-3)
    resting = status_of(rows([1e-3] * 60), config)
    assert (resting.at_rest, resting.converged) == (True, False)
    assert "phase 10 of 10" in str(resting)
    dropped = status_of(rows([1e-3] * 40 + [1e-4] * 20), config)
    assert dropped.converged
    assert status_of([{"epoch": 1, "loss": None}], config).verdict is None


def test_a_compiled_model_is_looked_through(tmp_path):
    model, _ = made()
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    recorder = Recorder(tmp_path, compiled, probe=digits()[0][:16], optimizer=optimizer)
    for _ in range(2):
        train_epoch(compiled, optimizer, recorder)
        status = recorder.end_epoch()
    recorder.close()
    assert not status.alarms
    modules = read_metrics(tmp_path)[-1]["modules"]
    assert list(modules) == ["stem", "middle", "late", "head"]
    assert modules["late"]["outputs"]["late"]["drift"] > 0
    assert gram_epochs(tmp_path) == [0, 1, 2]

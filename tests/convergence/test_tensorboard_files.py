"""Loss curves from TensorBoard event files, written by torch's own writer."""

import sys

import pytest
from torch.utils.tensorboard import SummaryWriter

from fmce.convergence.files.curves import CurveOptions
from fmce.convergence.files.tensorboard import holds_events, read_event_curve
from fmce.convergence.phases import PhaseConfig, find_phases
from fmce.maturity.phases import phases

FALL = [2.3 * 0.8**i for i in range(60)]


def write(folder, *, steps=None, new_style=False, **tags):
    """Write each tag's values into one new event file; dots in a tag stand for slashes."""
    with SummaryWriter(folder) as writer:
        for tag, values in tags.items():
            for step, value in zip(steps or range(len(values)), values, strict=True):
                name = tag.replace("__", "/")
                writer.add_scalar(name, value, step, new_style=new_style)
    return folder


@pytest.mark.parametrize("new_style", [False, True])
def test_each_point_of_the_tag_is_an_epoch_whatever_the_steps_distance(tmp_path, new_style):
    steps = [20 * i for i in range(3)]
    write(tmp_path, steps=steps, new_style=new_style, train__loss=[2.0, 1.5, 0.25], other=[1, 2, 3])
    curve = read_event_curve(tmp_path, CurveOptions(column="train/loss"))
    assert curve.losses == (2.0, 1.5, 0.25)
    assert (curve.column, curve.epochs, curve.learning_rates) == ("train/loss", None, None)


def test_a_single_file_is_read_as_its_folder_is(tmp_path):
    write(tmp_path, loss=[2.0, 1.0])
    (file,) = tmp_path.iterdir()
    assert read_event_curve(file).losses == read_event_curve(tmp_path).losses == (2.0, 1.0)


def test_several_files_are_one_training_in_the_order_they_were_begun(tmp_path):
    write(tmp_path, steps=[0, 1], loss=[4.0, 3.0])
    write(tmp_path, steps=[2, 3], loss=[2.0, 1.0])
    begun = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime)
    assert len(begun) == 2
    # The later one comes first by name: only the time written inside can say which began first.
    begun[1].rename(tmp_path / "a.tfevents")
    begun[0].rename(tmp_path / "b.tfevents")
    assert read_event_curve(tmp_path).losses == (4.0, 3.0, 2.0, 1.0)


def test_after_a_restart_what_was_written_later_holds(tmp_path):
    write(tmp_path, steps=[0, 10, 20, 30], loss=[4.0, 3.0, 2.5, 2.4])
    # Begun again from step 20, and logged at other steps from there: 30 of the first is gone too.
    write(tmp_path, steps=[20, 25], loss=[2.0, 1.0])
    assert read_event_curve(tmp_path).losses == (4.0, 3.0, 2.0, 1.0)


def test_of_a_step_written_twice_in_one_file_the_last_holds(tmp_path):
    write(tmp_path, steps=[0, 1, 1, 2], loss=[4.0, 3.0, 2.0, 1.0])
    assert read_event_curve(tmp_path).losses == (4.0, 2.0, 1.0)


def test_points_of_an_epoch_are_averaged_by_an_epoch_tag(tmp_path):
    write(tmp_path, loss=[4.0, 2.0, 1.5, 0.5], epoch=[0, 0, 1, 1])
    curve = read_event_curve(tmp_path, CurveOptions(epoch_column="epoch"))
    assert (curve.losses, curve.epochs) == ((3.0, 1.0), (0, 1))


def test_a_scalar_called_epoch_is_used_unasked(tmp_path):
    write(tmp_path, loss=[4.0, 2.0, 1.5, 0.5], epoch=[0, 0, 1, 1])
    curve = read_event_curve(tmp_path)
    assert curve.losses == (3.0, 1.0)
    assert curve.read_as == "TensorBoard event files: 2 epochs from 4 rows, the mean of 2 each"


def test_the_learning_rate_is_the_latest_at_each_point(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        for step, rate in ((0, 0.5), (4, 0.25)):
            writer.add_scalar("lr", rate, step)
        for step, loss in ((1, 3.0), (3, 2.0), (4, 1.0), (9, 0.5)):
            writer.add_scalar("loss", loss, step)
    assert read_event_curve(tmp_path, CurveOptions(lr_column="lr")).learning_rates == (
        0.5,
        0.5,
        0.25,
        0.25,
    )


def test_other_kinds_of_summaries_are_no_scalars(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        writer.add_text("note", "three words here")
        writer.add_histogram("weights", __import__("numpy").arange(4.0))
        writer.add_scalar("anything", 2.0, 0)
    assert read_event_curve(tmp_path).column == "anything"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, r"which tag is the loss\? name it with --tag .*one of: train/nll, train/aux, val/nll"),
        ({"column": "train/nl"}, "has no values 'train/nl'; did you mean 'train/nll'"),
        ({"column": "train/nll", "epoch_column": "epoch"}, "has no values 'epoch'"),
        ({"column": "train/nll", "lr_column": "rate"}, "has no values 'rate'.*val/nll"),
    ],
)
def test_a_tag_that_is_not_there_or_not_clear_names_those_found(tmp_path, options, said):
    write(tmp_path, train__nll=[2.0, 1.0], train__aux=[2.0, 1.0], val__nll=[2.0, 1.0])
    with pytest.raises(ValueError, match=said):
        read_event_curve(tmp_path, CurveOptions(**options))


def test_several_trainings_below_a_folder_are_not_mixed(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, loss=[2.0, 1.0])
    with pytest.raises(ValueError, match=r"of one training; name one of .*/a, .*/b"):
        read_event_curve(tmp_path)
    (tmp_path / "one").mkdir()
    (tmp_path / "a").rename(tmp_path / "one" / "a")
    assert read_event_curve(tmp_path / "one").losses == (2.0, 1.0)


def test_files_without_scalars_are_named(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        writer.add_text("note", "words")
    with pytest.raises(ValueError, match="hold no scalars"):
        read_event_curve(tmp_path)
    with pytest.raises(ValueError, match=r"expected an event file, got: No such"):
        read_event_curve(tmp_path / "gone.tfevents")


def test_a_file_cut_short_gives_what_is_whole_and_says_so(tmp_path, caplog):
    write(tmp_path, loss=[3.0, 2.0, 1.0])
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    assert read_event_curve(tmp_path).losses == (3.0, 2.0)
    assert "are cut short or damaged" in caplog.text


def test_a_value_that_is_no_number_is_named_with_its_step(tmp_path):
    write(tmp_path, loss=[3.0, float("nan"), 1.0])
    with pytest.raises(ValueError, match=r"\(step 1\): 'loss' must be a finite number, got 'nan'"):
        read_event_curve(tmp_path)


def test_the_package_that_is_missing_is_named(tmp_path, monkeypatch):
    write(tmp_path, loss=[2.0, 1.0])
    name = "tensorboard.backend.event_processing.event_file_loader"
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=r"install fmce\[tensorboard\]"):
        read_event_curve(tmp_path)


def test_phases_of_event_files_are_those_of_their_losses(tmp_path):
    write(tmp_path, train__loss=FALL, rate=[0.1] * 60)
    found = phases(tmp_path, {"threshold": 0.01}, options=CurveOptions(lr_column="rate")).phases
    # Event files keep single precision.
    assert found.markers == find_phases(FALL, PhaseConfig(threshold=0.01)).markers
    assert found.lr_fraction == pytest.approx(1.0)


def test_a_run_folder_needs_no_names(finished_run):
    with pytest.raises(ValueError, match="is a run folder, whose columns are known"):
        phases(finished_run.path, options=CurveOptions(column="loss"))


def test_a_folder_is_asked_for_event_files_only_where_there_are_some(tmp_path):
    assert not holds_events(tmp_path)
    write(tmp_path / "below", loss=[1.0])
    assert holds_events(tmp_path)
    (file,) = (tmp_path / "below").iterdir()
    assert holds_events(file)


def test_points_without_steps_are_epochs_in_the_order_of_writing(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        for loss in FALL:
            writer.add_scalar("train/loss", loss)
    curve = read_event_curve(tmp_path)
    assert curve.losses == pytest.approx(FALL)
    assert curve.notes[0].startswith("every row has step 0: each is taken for an epoch")


@pytest.mark.parametrize("length", [2, 20])
def test_steps_that_begin_anew_each_epoch_are_refused_unless_that_is_said(tmp_path, length):
    steps = [i % length for i in range(6 * length)]
    write(tmp_path, steps=steps, loss=[9.0 - i // length for i in range(6 * length)])
    with pytest.raises(ValueError, match=rf"step begins anew 5 times.*--steps-per-epoch {length}"):
        read_event_curve(tmp_path)
    curve = read_event_curve(tmp_path, CurveOptions(steps_per_epoch=length))
    assert curve.losses == (9, 8, 7, 6, 5, 4)


def test_a_training_begun_again_in_its_folder_is_counted(tmp_path):
    for offset in (5.0, 4.0, 3.0):
        write(tmp_path, loss=[offset + 1, offset])
    curve = read_event_curve(tmp_path)
    assert curve.losses == (4.0, 3.0)
    assert "begin anew at point 2" in curve.notes[0]
    assert "4 earlier rows left out" in curve.notes[0]


def test_losses_of_add_scalars_are_asked_for_and_the_rate_is_never_taken(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        for epoch, loss in enumerate(FALL):
            writer.add_scalar("lr", 0.1 * 0.9**epoch, epoch)
            writer.add_scalars("loss", {"train": loss, "val": loss + 0.1}, epoch)
    asked = r"which tag is the loss\? lr never is; .*loss_train/loss, loss_val/loss; .*in loss_train, loss_val"
    with pytest.raises(ValueError, match=asked):
        read_event_curve(tmp_path)
    curve = read_event_curve(
        tmp_path,
        CurveOptions(column="loss_train/loss", lr_column="lr", validation_column="loss_val/loss"),
    )
    assert curve.losses == pytest.approx(FALL)
    assert curve.learning_rates == pytest.approx([0.1 * 0.9**epoch for epoch in range(60)])
    assert curve.validation_losses == pytest.approx([loss + 0.1 for loss in FALL])


def test_folders_below_a_training_that_names_its_loss_are_passed_over_aloud(tmp_path):
    write(tmp_path, loss=[2.0, 1.0])
    write(tmp_path / "hparams", other=[9.0])
    curve = read_event_curve(tmp_path)
    assert (curve.losses, curve.notes[0]) == (
        (2.0, 1.0),
        "event files in hparams are passed over",
    )


@pytest.mark.parametrize("tag", ["lr", "epoch", "time/step", "train/grad_norm", "lr-Adam/pg1"])
def test_a_lone_rate_time_or_count_is_not_the_loss(tmp_path, tag):
    with SummaryWriter(tmp_path) as writer:
        for step in range(3):
            writer.add_scalar(tag, 1.0 + step, step)
    with pytest.raises(ValueError, match=f"which tag is the loss.*{tag} never is"):
        read_event_curve(tmp_path)


def write_record(path, content):
    from tensorboard.summary.writer.record_writer import RecordWriter

    with open(path, "wb") as file:
        RecordWriter(file).write(content)


def test_a_record_of_something_else_with_a_right_checksum_is_named(tmp_path):
    path = tmp_path / "events.out.tfevents.1.x"
    write_record(path, b"\xff" * 40)
    with pytest.raises(ValueError, match=f"{path}: expected TensorBoard's events"):
        read_event_curve(tmp_path)


def test_a_scalar_that_claims_a_huge_shape_is_none(tmp_path):
    from tensorboard.compat.proto.event_pb2 import Event

    event = Event(step=1)
    value = event.summary.value.add(tag="loss")
    value.metadata.plugin_data.plugin_name = "scalars"
    value.tensor.dtype = 1
    value.tensor.float_val.append(1.0)
    value.tensor.tensor_shape.dim.add(size=10**11)
    path = tmp_path / "events.out.tfevents.1.x"
    write_record(path, event.SerializeToString())
    with pytest.raises(ValueError, match="hold no scalars"):
        read_event_curve(tmp_path)

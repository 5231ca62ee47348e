"""Reading loss curves: formats, defaults, averaging over epochs, and every kind of damage."""

import json
import math
import re

import pandas as pd
import pytest

from fmce import PhaseConfig, find_phases
from fmce.convergence.files.curves import CurveOptions, read_curve


@pytest.fixture
def write(tmp_path):
    def write_file(name, text):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_file


def test_train_loss_is_the_second_choice_and_the_only_number_column_the_third(write):
    first = write("a.csv", "epoch,val,train_loss\n1,9,2\n2,9,1\n")
    second = write("b.csv", "epoch,step,lr,run,value\n1,5,0.1,x,2\n2,10,0.1,x,1\n")
    assert read_curve(first).losses == (2.0, 1.0)
    assert read_curve(second).column == "value"


def test_tsv_bom_spaces_quotes_and_row_numbers_are_read(write):
    path = write("run.TSV", b'\xef\xbb\xbf\t loss \tnote\r\n0\t 2.5\t"a\tb"\r\n1\t1e-3 \t\r\n\r\n')
    assert read_curve(path).losses == (2.5, 1e-3)


@pytest.mark.parametrize("suffix", ["jsonl", "ndjson"])
def test_json_lines_reach_into_nested_objects_by_dotted_keys(write, suffix):
    lines = [{"train": {"ce": {"mean": x}}, "val": {"ce": 9}} for x in (3, 2.5)]
    path = write(f"run.{suffix}", "\n".join(map(json.dumps, lines)) + "\n\n")
    curve = read_curve(path, CurveOptions(column="train.ce.mean"))
    assert (curve.losses, curve.column) == ((3.0, 2.5), "train.ce.mean")


def test_json_list_of_objects(write):
    path = write("run.json", '[{"loss": 2, "lr": 0.1},\n {"loss": 1, "lr": 0.05}]')
    curve = read_curve(path, CurveOptions(lr_column="lr"))
    assert (curve.losses, curve.learning_rates) == ((2.0, 1.0), (0.1, 0.05))


def test_missing_epochs_are_named(write):
    rows = "".join(f"{epoch},1.0\n" for epoch in (3, 4, 6, 10, 10**15))
    path = write("gaps.csv", "epoch,loss\n" + rows)
    with pytest.raises(ValueError, match=r"have no loss: 5, 7…9, 11…999999999999999; every"):
        read_curve(path, CurveOptions(epoch_column="epoch"))


@pytest.mark.parametrize("cell", ["abc", "nan", "-inf", "1e999", "1_000", "0x1"])
def test_a_bad_csv_cell_names_file_line_and_value(write, cell):
    path = write("run.csv", f"epoch,loss\n1,2.0\n\n2,{cell}\n")
    shown = cell
    with pytest.raises(
        ValueError, match=rf"run\.csv, line 4: 'loss' .* finite number, got '{shown}"
    ):
        read_curve(path)


@pytest.mark.parametrize("value", ['"x"', "true", "[1]", "NaN", "1" + "0" * 400])
def test_a_bad_json_value_names_file_line_and_value(write, value):
    path = write("run.jsonl", f'{{"loss": 1}}\n{{"loss": {value}}}\n')
    with pytest.raises(
        ValueError, match=r"run\.jsonl, line 2: 'loss' must be a finite number, got"
    ):
        read_curve(path)


@pytest.mark.parametrize(
    "text",
    [
        "[3.0, 2, 1.5]",
        '{"train_loss": [3.0, 2, 1.5]}',
        '{"epochs": 3, "train": 7, "loss": [3.0, 2, 1.5], "val_loss": [4, 3, null]}',
    ],
)
def test_json_of_plain_lists_is_a_curve(write, text):
    assert read_curve(write("run.json", text)).losses == (3.0, 2.0, 1.5)


def test_other_lists_of_an_object_are_columns_beside_the_loss(write):
    text = '{"nll": [3, 2, 1], "lr": [0.1, 0.2, 0.1]}'
    curve = read_curve(write("run.json", text), CurveOptions(lr_column="lr"))
    assert (curve.column, curve.learning_rates) == ("nll", (0.1, 0.2, 0.1))


@pytest.mark.parametrize(
    "names",
    [{"column": "train_los"}, {"epoch_column": "train_los"}, {"lr_column": "train_los"}],
)
def test_unknown_columns_list_near_matches(write, names):
    path = write("run.csv", "epoch,train_loss\n1,2\n")
    with pytest.raises(ValueError, match=r"'train_los'; did you mean 'train_loss'.*has: epoch, tr"):
        read_curve(path, CurveOptions(**names))


def test_losses_near_the_largest_float_are_averaged_without_overflow(write):
    path = write("run.csv", "epoch,loss\n1,1.6e308\n1,1.6e308\n")
    assert read_curve(path, CurveOptions(epoch_column="epoch")).losses == (1.6e308,)


def test_a_curve_from_a_file_has_the_phases_of_the_same_list(write):
    losses = [2.3] + [0.001] * 59
    text = "loss\n" + "".join(f"{loss!r}\n" for loss in losses)
    config = PhaseConfig(threshold=2e-3)
    curve = read_curve(write("step.csv", text))
    assert find_phases(curve.losses, config) == find_phases(losses, config)


def test_the_files_own_epochs_are_kept_whatever_their_distance(write):
    path = write("fifth.csv", "epoch,loss\n4,3\n9,2\n14,1\n")
    assert read_curve(path).epochs == (4, 9, 14)
    assert read_curve(write("bare.csv", "loss\n3\n2\n")).epochs is None


def test_csv_takes_the_column_called_loss(write):
    path = write("run.csv", "epoch,accuracy,loss\n1,0.1,2.5\n2,0.4,1.5\n")
    curve = read_curve(path)
    assert (curve.losses, curve.learning_rates, curve.epochs) == ((2.5, 1.5), None, (1, 2))
    assert (curve.source, curve.column) == (str(path), "loss")
    assert curve.read_as == "Keras CSVLogger: 2 epochs from 2 rows"
    assert curve.notes == ()


def test_columns_of_numbers_are_listed_for_choice(write):
    path = write("run.csv", "a,b,lr,text\n1,2,0.1,x\n")
    with pytest.raises(
        ValueError, match=r"which column is the loss\? lr never is; .*--column .* one of: a, b$"
    ):
        read_curve(path)
    assert read_curve(path, CurveOptions(column="b")).losses == (2.0,)
    assert read_curve(path, CurveOptions(column="a + b")).losses == (3.0,)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "lr",
            "learning_rate",
            "lr-Adam",
            "rate",
            "time",
            "epoch_time",
            "wall_clock_seconds",
            "step",
        ),
        *(
            "global_step",
            "iteration",
            "samples",
            "grad_norm",
            "loss_scale",
            "loss_weight",
            "accuracy",
        ),
        *("val_acc", "train/wps", "eta", "data_time", "gpu_memory", "num_tokens", "mAP50"),
    ],
)
def test_rates_times_steps_scores_and_held_out_losses_are_never_taken_for_the_loss(write, name):
    rows = "".join(f"{i},{9 - i}\n" for i in range(9))
    with pytest.raises(ValueError, match=r"which column is the loss"):
        read_curve(write("run.csv", f"epoch,{name}\n{rows}"))


def test_steps_are_averaged_by_epoch(write):
    rows = "0,0.1,8\n0,0.2,6\n0,0.4,7\n1,0.3,4\n1,0.2,2\n1,0.1,3\n"
    curve = read_curve(write("s.csv", "epoch,lr,loss\n" + rows), CurveOptions(lr_column="lr"))
    assert (curve.losses, curve.epochs) == ((7.0, 3.0), (0, 1))
    assert curve.learning_rates == (0.4, 0.1)  # each epoch's last
    assert curve.read_as == "a table: 2 epochs from 6 rows, the mean of 3 each"


@pytest.mark.parametrize(
    "name",
    [
        "Epoch",
        "EPOCH",
        "epochs",
        "epoch_idx",
        "epochIndex",
        "current_epoch",
        "train/epoch",
        "Epoch #",
    ],
)
def test_the_epoch_is_known_in_any_spelling(write, name):
    rows = "".join(f"{i // 4},{9 - i}\n" for i in range(8))
    assert read_curve(write("run.csv", f"{name},loss\n{rows}")).losses == (7.5, 3.5)


def test_rows_of_other_kinds_are_left_out_and_counted(write):
    rows = "1,3,,\n1,1,,\n1,,0.9,\n1,,,0.1\n2,1,,\n2,3,,\n2,,,0.05\n"
    path = write("mixed.csv", "epoch,train_loss,val_loss,lr\n" + rows)
    options = CurveOptions(lr_column="lr", validation_column="val_loss")
    curve = read_curve(path, options)
    assert (curve.losses, curve.learning_rates) == ((2.0, 2.0), (0.1, 0.05))
    assert curve.validation_losses == pytest.approx((0.9, math.nan), nan_ok=True)
    assert curve.notes == ("3 rows without train_loss left out",)


def test_an_epoch_without_a_learning_rate_has_the_latest(write):
    path = write("run.csv", "epoch,loss,lr\n1,3,0.1\n2,2,\n3,1,0.2\n")
    curve = read_curve(path, CurveOptions(lr_column="lr"))
    assert curve.learning_rates == (0.1, 0.1, 0.2)
    assert "lr: 1 of 3 epochs have no value; the latest earlier one is used" in curve.notes[-1]
    path = write("run.csv", "epoch,loss,lr\n1,2,\n2,1,0.1\n")
    with pytest.raises(ValueError, match=r"run\.csv: no 'lr' up to epoch 1"):
        read_curve(path, CurveOptions(lr_column="lr"))


@pytest.mark.parametrize(
    ("epochs", "means", "said"),
    [
        ((0.5, 1.0, 1.5, 2.0), (1.5, 3.5), "0 < e ≤ 1"),  # what is over when a row is written
        ((0.0, 0.5, 1.0, 1.5), (1.5, 3.5), "0 ≤ e < 1"),  # what is over when a batch begins
        ((0.33, 0.67, 1.0, 1.33), (2.0, 4.0), "0 < e ≤ 1"),
        ((0.0, 0.5, 1.0), (2.0,), "0 < e ≤ 1"),
    ],
)
def test_fractional_epochs_belong_to_a_whole_one(write, epochs, means, said):
    rows = "".join(f"{e},{i}\n" for i, e in enumerate(epochs, start=1))
    curve = read_curve(write("run.csv", "epoch,loss\n" + rows))
    assert curve.losses == means
    assert said in curve.notes[-1]


def test_rows_that_stand_more_than_an_epoch_apart_are_points(write):
    epochs = [1.67, 3.33, 5.0, 6.67, 8.33, 10.0]
    rows = "".join(f"{e},{9 - i}\n" for i, e in enumerate(epochs))
    curve = read_curve(write("run.csv", "epoch,loss\n" + rows))
    assert (curve.losses, curve.epochs) == ((9, 8, 7, 6, 5, 4), tuple(epochs))
    assert curve.notes == ("rows stand about every 1.67 epochs; each is a point of the curve",)


@pytest.mark.parametrize(
    ("epochs", "kept", "said"),
    [
        (
            [1, 2, 3, 2, 3, 4],
            [0, 3, 4, 5],
            "go back at line 5, where it was resumed; .* 2 earlier rows",
        ),
        (
            [1, 2, 3, 1, 2, 3],
            [3, 4, 5],
            "begin anew at line 5, which is another training; .* 3 earlier",
        ),
        ([0, 1, 2, 0, 1], [3, 4], "begin anew at line 5"),
        (
            [1, 2, 3, 3, 4],
            [0, 1, 3, 4],
            "1 epoch written again; the later rows hold, and 1 earlier row",
        ),
        ([1, 1, 2, 2, 2, 3, 3, 4, 4], [0, 1, 3, 4, 5, 6, 7, 8], "1 epoch written again"),
        ([3, 2, 1], [2, 1, 0], "newest first"),
        ([3, 3, 2, 2, 1, 1], [5, 4, 3, 2, 1, 0], "newest first"),
        ([2, 4, 1, 3], [2, 0, 3, 1], "not in the order of epochs and are sorted"),
    ],
)
def test_after_a_resume_the_later_rows_hold_and_the_rest_is_counted(write, epochs, kept, said):
    losses = [2.0**i for i in range(len(epochs))]
    rows = "".join(f"{e},{x!r}\n" for e, x in zip(epochs, losses, strict=True))
    curve = read_curve(write("run.csv", "epoch,loss\n" + rows))
    by_epoch = {}
    for i in kept:
        by_epoch.setdefault(epochs[i], []).append(losses[i])
    assert curve.losses == tuple(sum(x) / len(x) for _, x in sorted(by_epoch.items()))
    assert re.search(said, "\n".join(curve.notes))


def test_a_step_tells_a_resume_inside_an_epoch(write):
    rows = [(1, 1, 9), (1, 2, 8), (2, 3, 7), (2, 4, 6), (2, 3, 5), (2, 4, 4), (3, 5, 3), (3, 6, 2)]
    text = "epoch,step,loss\n" + "".join(f"{e},{s},{x}\n" for e, s, x in rows)
    assert read_curve(write("run.csv", text)).losses == (8.5, 4.5, 2.5)


@pytest.mark.parametrize("missing", [0, 3, 7])
def test_a_row_without_its_step_is_named(write, missing):
    rows = "".join(f"{'' if n == missing else n + 1},{9 - n}\n" for n in range(8))
    path = write("steps.csv", f"step,loss\n{rows}")
    with pytest.raises(ValueError, match=rf"line {missing + 2}: 'step' has no value where other"):
        read_curve(path)


def test_steps_that_begin_anew_at_each_epoch_are_refused_unless_that_is_said(write):
    text = "batch,loss\n" + "".join(f"{i % 4},{9 - i // 4}\n" for i in range(20))
    with pytest.raises(ValueError, match=r"line 6: batch begins anew 4 times.*--steps-per-epoch 4"):
        read_curve(write("run.csv", text))
    assert read_curve(write("run.csv", text), CurveOptions(steps_per_epoch=4)).losses == (
        9,
        8,
        7,
        6,
        5,
    )


def test_a_log_of_steps_is_read_per_row_or_averaged(write):
    text = "step,loss\n" + "".join(f"{5 * i + 4},{9 - i}\n" for i in range(8))
    curve = read_curve(write("run.csv", text))
    assert curve.losses == tuple(range(9, 1, -1))
    assert "each row is taken for one, about every 5 of step; --steps-per-epoch" in curve.notes[0]
    assert read_curve(write("run.csv", text), CurveOptions(steps_per_epoch=10)).losses == (
        8.5,
        6.5,
        4.5,
        2.5,
    )
    with pytest.raises(ValueError, match="needs a column of steps"):
        read_curve(write("bare.csv", "loss\n1\n"), CurveOptions(steps_per_epoch=10))
    with pytest.raises(ValueError, match="must be at least 1; got 0"):
        CurveOptions(steps_per_epoch=0)


SIDE_BY_SIDE = "".join(f"{e},{k},{x}\n" for e in (1, 2, 3) for k, x in (("A", 9 - e), ("B", 5 - e)))


def test_rows_of_two_kinds_under_one_name_are_not_averaged(write):
    path = write("run.csv", "epoch,name,loss\n" + SIDE_BY_SIDE)
    with pytest.raises(ValueError, match=r"2 kinds.*name is A, B; choose with --where name=VALUE"):
        read_curve(path)
    curve = read_curve(path, CurveOptions(where=("name=B",)))
    assert curve.losses == (4, 3, 2)
    assert curve.notes == ("rows where name=B: 3 of 6",)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("split", ("train", "val")),
        ("mode", ("Training", "Validation")),
        ("metric", ("train_loss", "train_acc")),
        ("is_train", ("True", "False")),
        ("is_validation", ("False", "True")),
    ],
)
def test_of_rows_of_several_kinds_the_training_s_are_taken(write, name, kinds):
    text = SIDE_BY_SIDE.replace("A", kinds[0]).replace("B", kinds[1])
    curve = read_curve(write("run.csv", f"epoch,{name},loss\n{text}"))
    assert curve.losses == (8, 7, 6)
    assert curve.notes == (f"rows where {name} is {kinds[0]}: 3; the other 3 are passed over",)


@pytest.mark.parametrize("name", ["seed", "fold", "run", "rank"])
def test_trainings_told_apart_by_a_number_are_not_averaged(write, name):
    path = write(
        "run.csv", f"epoch,{name},loss\n" + SIDE_BY_SIDE.replace("A", "0").replace("B", "1")
    )
    with pytest.raises(ValueError, match=rf"--where {name}=VALUE"):
        read_curve(path)
    assert read_curve(path, CurveOptions(where=(f"{name}=1",))).losses == (4, 3, 2)


def test_validation_rows_at_steps_of_their_own_are_not_averaged(write):
    text = "".join(
        f"{e},{s},{m},{x}\n"
        for e in (1, 2, 3)
        for s, m, x in (
            (10 * e, "train", 9 - e),
            (10 * e + 5, "train", 9 - e),
            (700 + e, "val", 99),
        )
    )
    curve = read_curve(write("run.csv", "epoch,iter,mode,loss\n" + text))
    assert curve.losses == (8, 7, 6)
    assert "rows where mode is train: 6; the other 3 are passed over" in curve.notes


@pytest.mark.parametrize("column", ["is_best", "saved", "clipped"])
def test_a_flag_beside_the_losses_is_no_kind(write, column):
    rows = "".join(f"{i // 4},{i},{i % 3 == 0},{20 - i}\n" for i in range(16))
    curve = read_curve(write("run.csv", f"epoch,step,{column},loss\n{rows}"))
    assert curve.losses == (18.5, 14.5, 10.5, 6.5)


def test_a_text_that_changes_on_the_way_is_no_kind(write):
    rows = "".join(
        f"{e},{'warm-up' if i < 5 else 'main'},{9 - e}\n"
        for i, e in enumerate([1, 1, 2, 2, 3, 3, 4, 4])
    )
    assert read_curve(write("run.csv", "epoch,note,loss\n" + rows)).losses == (8, 7, 6, 5)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (("run=c",), "no row has run = c; it has: a, b"),
        (("ruin=a",), "has no values 'ruin'; did you mean 'run'"),
        (("run",), r"--where needs COLUMN=VALUE; got 'run'"),
        (("run=a", "epoch=9"), "no row has epoch = 9"),
        (("run=a", "loss=1"), "no row fits run=a and loss=1 together"),
    ],
)
def test_a_condition_that_nothing_fits_is_refused(write, where, message):
    path = write("run.csv", "epoch,run,loss\n1,a,2\n1,b,1\n")
    with pytest.raises(ValueError, match=message):
        read_curve(path, CurveOptions(where=where))


def test_conditions_on_one_column_are_alternatives(write):
    path = write("run.csv", "epoch,run,a=b,loss\n1,x,1,3\n2,y,1,2\n2,z,2,9\n")
    assert read_curve(path, CurveOptions(where=("run=x", "run=y", "a=b=1.0"))).losses == (3, 2)


def test_the_content_says_the_form_and_the_name_does_not(write):
    lines = '{"epoch": 1, "loss": 2}\n{"epoch": 2, "loss": 1}\n'
    for name in ("run.json", "run.log", "run"):
        assert read_curve(write(name, lines)).losses == (2, 1)
    for separator in ",\t;| ":
        text = "epoch,train_nll\n1,2.5\n2,1.5\n".replace(",", separator)
        assert read_curve(write("run.txt", text)).losses == (2.5, 1.5)
    assert read_curve(write("excel.csv", "epoch;loss\n1;2,5\n2;1,5e-3\n")).losses == (2.5, 1.5e-3)
    text = "2026-01-01 INFO begin\n2026-01-01 INFO {'epoch': 1, 'loss': 2}\nend\n"
    curve = read_curve(write("run.log", text + text.replace("1, 'loss': 2", "2, 'loss': 1")))
    assert (curve.losses, curve.notes) == ((2, 1), ("lines without an object, passed over: 4",))


def test_a_format_that_is_named_overrides_the_content(write):
    path = write("run.csv", "epoch;x,loss\n1,2\n2,1\n")
    assert read_curve(path, CurveOptions(format="csv")).losses == (2, 1)
    path = write("run.csv", "epoch,train_loss,eval_loss,loss\n1,4,9,3\n2,3,9,2\n")
    assert read_curve(path).column == "train_loss"
    assert read_curve(path, CurveOptions(format="keras-csv")).column == "loss"
    with pytest.raises(ValueError, match=r"unknown format 'xml'; expected one of csv, .*lightning"):
        read_curve(path, CurveOptions(format="xml"))


@pytest.mark.parametrize(
    ("text", "losses", "said"),
    [
        ("# run 3\n# lr 0.1\nepoch,loss\n1,2\n2,1\n", (2, 1), "2 comment lines passed over"),
        ("# epoch loss\n1 2\n2 1\n", (2, 1), None),
        ("epoch,loss\n1,2\nepoch,loss\n2,1\n", (2, 1), "the header is repeated in line 3"),
        ("epoch,loss\n1,2\n2,1\n\0\0\0", (2, 1), "cut off by a crash or a full disk$"),
        ("epoch,loss\n1,2\n2,1.\0\0\0", (2,), "in the middle of a line, which is left out"),
        ("epoch,loss,acc\n1,2,3\n2,1", (2,), "line 3, the last, is cut short and left out"),
        ('{"loss": 2}\n{"loss": 1}\n{"loss"', (2, 1), "line 3, the last, is cut short"),
        ("loss,\n2,\n1,,,\n", (2, 1), None),
        ("| epoch | loss |\n|---|:-:|\n| 1 | 2 |\n| 2 | 1 |\n", (2, 1), None),
        (
            "epoch,loss\n1,2\n2,None\n3,1\n".replace("3,", "2,"),
            (2, 1),
            "1 row without loss left out",
        ),
    ],
)
def test_what_is_no_row_is_passed_over_and_counted(write, text, losses, said):
    curve = read_curve(write("run.csv", text))
    assert curve.losses == losses
    assert said is None or any(re.search(said, note) for note in curve.notes)


@pytest.mark.parametrize(
    ("text", "losses"),
    [
        ('{"loss": {"0": 2, "1": 1}, "acc": {"0": 0, "1": 9}}', (2, 1)),
        ('{"1": {"loss": 2}, "2": {"loss": 1}}', (2, 1)),
        ('{"columns": ["a", "loss"], "index": [0, 1], "data": [[0, 2], [0, 1]]}', (2, 1)),
        ('{"history": {"loss": [2, 1]}}', (2, 1)),
        (
            '{"config": {"lr": 1}, "log": [{"epoch": 0, "loss": 2}, {"epoch": 1, "loss": 1}]}',
            (2, 1),
        ),
        ('{"loss": [4, 3, 2, 1], "val_loss": [9, 8]}', (4, 3, 2, 1)),
        ('[{"epoch": 1, "loss": "2.0"}, {"epoch": 2, "loss": "1"}]', (2, 1)),
    ],
)
def test_documents_of_other_forms_are_read(write, text, losses):
    assert read_curve(write("run.json", text)).losses == losses


def test_a_list_of_every_second_epoch_stands_at_their_ends(write):
    path = write("run.json", '{"loss": [5, 4, 3, 2, 1], "val_loss": [9, 8]}')
    curve = read_curve(path, CurveOptions(validation_column="val_loss"))
    nan = math.nan
    assert curve.validation_losses == pytest.approx((nan, 9, nan, 8, nan), nan_ok=True)
    assert "val_loss has 2 values beside 5: taken for one in 2" in curve.notes


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.csv", "", "got no values"),
        ("run.csv", "epoch,loss\n", "got no values"),
        ("run.jsonl", "\n\n", "got no values"),
        ("run.json", "[]", "got no values"),
        ("run.json", " ", "got no values"),
        ("run.json", "{}", "got an object of nothing; export the values"),
        ("run.json", '{"loss": 1}', "got an object of loss; export the values of every epoch"),
        ("run.json", '{"a": [1], "b": [1, 2]}', r"which key is the loss\? name it with --key"),
        ("run.json", '{"a": [{"x": 1}], "b": [{"x": 1}]}', "one list of objects, got a, b; save"),
        ("run.json", "[1, true]", "record 2: expected an object or a loss, got 'True'"),
        ("run.json", '["1"]', "record 1: expected an object or a loss, got '1'"),
        ("run.json", "[{]", "no valid JSON"),
        ("run.jsonl", '{"loss": 1}\n{"loss"\n{"loss": 2}\n', "line 2: no valid JSON"),
        ("run.jsonl", "[" * 100_000, "no valid JSON"),
        ("run.csv", "2.5,1\n1.5,2\n", "line 1: expected column names; got numbers"),
        ("run.csv", "loss,loss\n1,2\n", "column 'loss' occurs twice"),
        ("run.csv", "loss,b\n1,2\n1,5,3\n", "line 3: 3 cells under a header of 2"),
        ("run.csv", 'loss,b\n1,"open\n', "broken table"),
        ("run.csv", b"loss\n\xe9\n", "UTF-8 text, got no such text at byte 5; save it as UTF-8"),
        ("run.csv", "epoch,loss,accuracy\n1,1\0\n2\n", "NUL bytes in it: damaged"),
        (
            "run.csv",
            "loss\n1\n".encode("utf-16-le"),
            "UTF-16 without a mark; save it as UTF-8",
        ),
        ("run.csv", b"PK\x03\x04\0\0\x08", "no text, or UTF-16"),
        ("run.csv", b"\x89PNG\r\n\x1a\n", "no such text at byte 0"),
    ],
)
def test_damaged_files_say_what_is_wrong(write, name, text, message):
    path = write(name, text)
    with pytest.raises(ValueError, match=message) as raised:
        read_curve(path)
    assert str(path) in str(raised.value)


def test_missing_files_and_folders_are_errors_for_the_user(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv: expected a log.*: No such file"):
        read_curve(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder\.csv: expected a log .*Is a directory"):
        read_curve(str(tmp_path / "folder.csv"))


def test_parquet_is_read(tmp_path):
    frame = pd.DataFrame({"step": [0, 1, 2], "loss": [3.0, 2.0, 1.0], "run_name": ["a"] * 3})
    frame.to_parquet(tmp_path / "run.parquet")
    assert read_curve(tmp_path / "run.parquet").losses == (3, 2, 1)


def test_a_download_of_tensorboard_has_its_tag_in_its_name(write):
    text = "Wall time,Step,Value\n1,0,2\n1,1,1\n"
    assert read_curve(write("run-a-tag-train_loss.csv", text)).column == "train_loss"
    with pytest.raises(ValueError, match=r"which column is the loss\? .*lr never"):
        read_curve(write("run-a-tag-lr.csv", text))


def test_a_first_line_of_values_is_no_header(write):
    text = "".join(f"2020 | INFO | epoch {e:03d} | loss {9 - e}\n" for e in range(1, 5))
    with pytest.raises(ValueError, match="which column is the loss"):
        read_curve(write("train.log", text))

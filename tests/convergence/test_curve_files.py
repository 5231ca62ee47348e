"""Reading loss curves: formats, defaults, averaging over epochs, and every kind of damage."""

import json

import pytest

from fmce import PhaseConfig, find_phases
from fmce.convergence.files.curves import LossCurve, read_curve


@pytest.fixture
def write(tmp_path):
    def write_file(name, text):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_file


def test_csv_takes_the_column_called_loss(write):
    path = write("run.csv", "epoch,accuracy,loss\n1,0.1,2.5\n2,0.4,1.5\n")
    assert read_curve(path) == LossCurve((2.5, 1.5), None, str(path), "loss", (1, 2))


def test_train_loss_is_the_second_choice_and_the_only_number_column_the_third(write):
    first = write("a.csv", "epoch,val,train_loss\n1,9,2\n2,9,1\n")
    second = write("b.csv", "epoch,step,lr,run,value\n1,5,0.1,x,2\n2,10,0.1,x,1\n")
    assert read_curve(first).losses == (2.0, 1.0)
    assert read_curve(second).column == "value"


def test_two_columns_of_numbers_are_listed_for_choice(write):
    path = write("run.csv", "a,b,text\n1,2,x\n")
    with pytest.raises(ValueError, match=r"which column is the loss\?.*--column.*a, b, text"):
        read_curve(path)
    assert read_curve(path, column="b").losses == (2.0,)


def test_tsv_bom_spaces_quotes_and_row_numbers_are_read(write):
    path = write("run.TSV", b'\xef\xbb\xbf\t loss \tnote\r\n0\t 2.5\t"a\tb"\r\n1\t1e-3 \t\r\n\r\n')
    assert read_curve(path).losses == (2.5, 1e-3)


@pytest.mark.parametrize("suffix", ["jsonl", "ndjson"])
def test_json_lines_reach_into_nested_objects_by_dotted_keys(write, suffix):
    lines = [{"train": {"ce": {"mean": x}}, "val": {"ce": 9}} for x in (3, 2.5)]
    path = write(f"run.{suffix}", "\n".join(map(json.dumps, lines)) + "\n\n")
    curve = read_curve(path, key="train.ce.mean")
    assert (curve.losses, curve.column) == ((3.0, 2.5), "train.ce.mean")


def test_a_key_that_holds_the_dot_wins_over_a_nested_one(write):
    path = write("run.jsonl", '{"a": {"b": 1}, "a.b": 2}\n')
    assert read_curve(path, key="a.b").losses == (2.0,)


def test_json_list_of_objects(write):
    path = write("run.json", '[{"loss": 2, "lr": 0.1},\n {"loss": 1, "lr": 0.05}]')
    curve = read_curve(path, lr_column="lr")
    assert (curve.losses, curve.learning_rates) == ((2.0, 1.0), (0.1, 0.05))


def test_steps_are_averaged_by_epoch_in_epoch_order(write):
    rows = "1,0.3,4\n0,0.1,8\n0,0.2,6\n0,0.4,7\n1,0.2,2\n"
    path = write("steps.csv", "epoch,lr,loss\n" + rows)
    curve = read_curve(path, epoch_column="epoch", lr_column="lr")
    assert curve.losses == (7.0, 3.0)
    assert curve.learning_rates == (0.4, 0.2)  # each epoch's last
    assert (curve.epochs, curve.skipped_rows) == ((0, 1), 0)


def test_rows_of_other_kinds_are_skipped_and_counted_when_averaging(write):
    rows = "1,3,,\n1,1,,\n1,,0.9,\n1,,,0.1\n2,1,,\n2,,,0.05\n"
    path = write("mixed.csv", "epoch,train_loss,val_loss,lr\n" + rows)
    curve = read_curve(path, epoch_column="epoch", lr_column="lr")
    assert (curve.losses, curve.learning_rates) == ((2.0, 1.0), (0.1, 0.05))
    assert curve.skipped_rows == 3


def test_repeated_epochs_without_the_epoch_column_are_refused(write):
    path = write("steps.jsonl", '{"epoch": 1, "loss": 2}\n{"epoch": 1, "loss": 1}\n')
    with pytest.raises(ValueError, match=r"line 2: epoch 1 occurs again.*--epoch-column epoch"):
        read_curve(path)
    assert read_curve(path, epoch_column="epoch").losses == (1.5,)


def test_missing_epochs_are_named(write):
    rows = "".join(f"{epoch},1.0\n" for epoch in (3, 4, 6, 10, 10**15))
    path = write("gaps.csv", "epoch,loss\n" + rows)
    with pytest.raises(ValueError, match=r"have no loss: 5, 7…9, 11…999999999999999; every"):
        read_curve(path, epoch_column="epoch")


def test_an_epoch_without_a_learning_rate_is_named(write):
    path = write("run.csv", "epoch,loss,lr\n1,2,0.1\n2,1,\n")
    with pytest.raises(ValueError, match="no 'lr' in epoch 2"):
        read_curve(path, epoch_column="epoch", lr_column="lr")


def test_an_epoch_that_is_no_whole_number_is_refused(write):
    path = write("run.csv", "epoch,loss\n1,2\n1.5,1\n")
    with pytest.raises(ValueError, match=r"line 3: 'epoch' must be a whole number; got 1\.5"):
        read_curve(path, epoch_column="epoch")


@pytest.mark.parametrize("cell", ["abc", "nan", "-inf", "1e999", "1_000", "0x1"])
def test_a_bad_csv_cell_names_file_line_and_value(write, cell):
    path = write("run.csv", f"epoch,loss\n1,2.0\n\n2,{cell}\n")
    shown = {"1e999": "inf"}.get(cell, cell)
    with pytest.raises(
        ValueError, match=rf"run\.csv, line 4: 'loss' .* finite number; got '{shown}"
    ):
        read_curve(path)


@pytest.mark.parametrize("value", ['"2.0"', "true", "[1]", "NaN", "1" + "0" * 400])
def test_a_bad_json_value_names_file_line_and_value(write, value):
    path = write("run.jsonl", f'{{"loss": 1}}\n{{"loss": {value}}}\n')
    with pytest.raises(
        ValueError, match=r"run\.jsonl, line 2: 'loss' must be a finite number; got"
    ):
        read_curve(path)


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("run.csv", "run,loss\na,2\nb,\n", "line 3"),
        ("run.csv", "run,loss\na,2\n,\nb,1\n", "line 3"),
        ("run.jsonl", '{"loss": 1}\n{"other": 1}\n', "line 2"),
        ("run.json", '[{"loss": 1}, {"loss": null}]', "record 2"),
    ],
)
def test_a_row_without_a_loss_is_no_epoch(write, name, text, place):
    with pytest.raises(ValueError, match=rf"{place}: 'loss' has no value; .*--epoch-column"):
        read_curve(write(name, text))


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
    curve = read_curve(write("run.json", text), lr_column="lr")
    assert (curve.column, curve.learning_rates) == ("nll", (0.1, 0.2, 0.1))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.csv", "", "holds no values"),
        ("run.csv", "epoch,loss\n", "holds no values"),
        ("run.jsonl", "\n\n", "holds no values"),
        ("run.json", "[]", "holds no values"),
        ("run.json", " ", "holds no values"),
        ("run.json", "{}", "expected an object of lists of one length; got no list"),
        ("run.json", '{"loss": 1}', "got no list: name the file .jsonl"),
        ("run.json", '{"a": [1], "b": [1, 2]}', "got 'a' of 1, 'b' of 2"),
        ("run.json", "3", "expected a list of objects or of losses, or an object of lists; got 3"),
        ("run.json", "[1, true]", "record 2: expected an object; got True"),
        ("run.json", '["1"]', "record 1: expected an object; got '1'"),
        ("run.json", "[{]", "no valid JSON"),
        ("run.jsonl", '{"loss": 1}\n{"loss"', "line 2: no valid JSON"),
        ("run.jsonl", "[" * 100_000, "line 1: no valid JSON"),
        ("run.csv", "2.5,1\n1.5,2\n", "line 1: expected column names; got numbers"),
        ("run.csv", "loss,loss\n1,2\n", "column 'loss' occurs twice"),
        ("run.csv", "loss,b\n1,2\n1,5,3\n", "line 3: 3 cells under a header of 2"),
        ("run.csv", 'loss,b\n1,"open\n', "broken table"),
        ("run.csv", b"loss\n\xff\xfe\n", "expected UTF-8"),
        ("run.txt", "loss\n1\n", r"ending in .csv, .tsv, .jsonl, .ndjson, .json; got .txt"),
        ("run", "loss\n1\n", "got no suffix"),
    ],
)
def test_damaged_files_say_what_is_wrong(write, name, text, message):
    with pytest.raises(ValueError, match=message):
        read_curve(write(name, text))


def test_missing_files_and_folders_are_errors_for_the_user(tmp_path):
    with pytest.raises(ValueError, match=r"none\.csv: cannot be read: No such file"):
        read_curve(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ValueError, match=r"folder\.csv: cannot be read: Is a directory"):
        read_curve(str(tmp_path / "folder.csv"))


@pytest.mark.parametrize(
    "names",
    [{"column": "train_los"}, {"epoch_column": "train_los"}, {"lr_column": "train_los"}],
)
def test_unknown_columns_list_near_matches(write, names):
    path = write("run.csv", "epoch,train_loss\n1,2\n")
    with pytest.raises(ValueError, match=r"'train_los'; did you mean 'train_loss'.*has: epoch, tr"):
        read_curve(path, **names)


def test_column_is_for_tables_and_key_for_objects(write):
    table, objects = write("a.csv", "loss\n1\n"), write("a.jsonl", '{"loss": 1}\n')
    with pytest.raises(ValueError, match=r"named by column \(--column\); got key='loss'"):
        read_curve(table, key="loss")
    with pytest.raises(ValueError, match=r"named by key \(--key\); got column='loss'"):
        read_curve(objects, column="loss")


def test_losses_near_the_largest_float_are_averaged_without_overflow(write):
    path = write("run.csv", "epoch,loss\n1,1.6e308\n1,1.6e308\n")
    assert read_curve(path, epoch_column="epoch").losses == (1.6e308,)


def test_a_curve_from_a_file_has_the_phases_of_the_same_list(write):
    losses = [2.3] + [0.001] * 59
    text = "loss\n" + "".join(f"{loss!r}\n" for loss in losses)
    config = PhaseConfig(threshold=2e-3)
    curve = read_curve(write("step.csv", text))
    assert find_phases(curve.losses, config) == find_phases(losses, config)


def test_rows_that_stand_newest_first_are_refused(write):
    path = write("new.csv", "epoch,loss\n3,1\n2,2\n1,3\n")
    with pytest.raises(ValueError, match=r"line 3: epoch 2\.0 follows 3\.0.*--epoch-column epoch"):
        read_curve(path)
    assert read_curve(path, epoch_column="epoch").losses == (3, 2, 1)


def test_the_files_own_epochs_are_kept_whatever_their_distance(write):
    path = write("fifth.csv", "epoch,loss\n4,3\n9,2\n14,1\n")
    assert read_curve(path).epochs == (4, 9, 14)
    assert read_curve(write("bare.csv", "loss\n3\n2\n")).epochs is None


def test_columns_separated_by_another_sign_are_named_as_that(write):
    path = write("excel.csv", "epoch;loss\n1;2,5\n2;1,5\n")
    with pytest.raises(ValueError, match="separated by ','; got ';': save it with ','"):
        read_curve(path)

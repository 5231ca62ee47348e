"""Who may write to a run folder, and metrics lines that survive kills."""

import errno
import json
import re
import subprocess
import sys

import pytest

from fmce.digests import digest_of, read_sealed
from fmce.runs.log import (
    append_metrics,
    environment,
    lock_run,
    mark_done,
    read_done,
    read_metrics,
    rewrite_metrics,
)

ROWS = [{"epoch": e, "loss": 1 / e} for e in (1, 2, 3)]


def claim(folder, config="a: 1\n"):
    with lock_run(folder, config):
        pass


def with_lines(folder, rows=ROWS, tail=""):
    for row in rows:
        append_metrics(folder, row)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(tail)
    return folder


def test_a_new_folder_gets_config_and_versions(tmp_path):
    claim(tmp_path / "a" / "run")
    assert read_sealed(tmp_path / "a" / "run" / "config.yaml") == "a: 1\n"
    versions = json.loads((tmp_path / "a" / "run" / "versions.json").read_text())
    assert versions["torch"].startswith("2.")
    assert {"fmce", "python", "cores", "gpu"} <= versions.keys()


def test_the_same_config_may_go_on_and_another_is_refused_with_the_difference(tmp_path):
    claim(tmp_path, "a: 1\nb: 2\n")
    claim(tmp_path, "a: 1\nb: 2\n")
    with pytest.raises(FileExistsError, match=r"\(b: 2 in the folder, 3 now\)"):
        claim(tmp_path, "a: 1\nb: 3\n")
    assert read_sealed(tmp_path / "config.yaml") == "a: 1\nb: 2\n"


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (
            "rafs:\n- 0.9\nseeds:\n- 1\n",
            "rafs:\n- 0.8\nseeds:\n- 1\n",
            "rafs: [0.9] in the folder, [0.8] now",
        ),
        ("t: {a: 1, b: 2}\n", "t: {a: 1, b: 3}\n", "t.b: 2 in the folder, 3 now"),
        ("a: 1\n", "a: 1\nb: 2\n", "b: nothing in the folder, 2 now"),
        ("a: {}\n", "a: {b: 2}\n", "(a.b: nothing in the folder, 2 now"),
        (
            "a: 1\nb: 1\nc: 1\nd: 1\n",
            "a: 2\nb: 2\nc: 2\nd: 2\n",
            "c: 1 in the folder, 2 now; and 1 more",
        ),
        ("- a\n", "a: 1\n", "which is no config"),
        ("a: [\n", "a: 1\n", "which is no config"),
    ],
)
def test_the_difference_names_the_fields(tmp_path, before, now, said):
    claim(tmp_path, before)
    with pytest.raises(FileExistsError, match=re.escape(f"{said})")):
        claim(tmp_path, now)


def claim_with_new_field(folder, value):
    text = f"train: {{epochs: 3, warmup: {value}}}\n"
    with lock_run(folder, text, defaults={"train": {"epochs": 1, "warmup": 0}}):
        pass


def test_a_field_that_an_older_config_lacks_has_its_default(tmp_path):
    claim(tmp_path, "train: {epochs: 3}\n")
    claim_with_new_field(tmp_path, 0)
    assert read_sealed(tmp_path / "config.yaml") == "train: {epochs: 3}\n"
    with pytest.raises(FileExistsError, match="is the config of another run"):
        claim_with_new_field(tmp_path, 5)


def begin(folder, config):
    with lock_run(folder, config, before_training=("data.json", "metrics.jsonl")):
        pass


def test_a_start_that_trained_nothing_gives_way_to_another_config(tmp_path):
    begin(tmp_path, "a: 1\n")
    (tmp_path / "data.json").write_text("of a: 1")
    begin(tmp_path / "teacher", "a: 1\n")
    killed_write = tmp_path / "teacher" / "checkpoints" / ".epoch_0001.1f2e.tmp"
    killed_write.mkdir(parents=True)
    (killed_write / "model.safetensors").write_text("half")
    begin(tmp_path, "a: 2\n")
    assert read_sealed(tmp_path / "config.yaml") == "a: 2\n"
    assert {p.name for p in tmp_path.iterdir()} == {".lock", "config.yaml", "versions.json"}


@pytest.mark.parametrize("trained", ["teacher/checkpoints/epoch_0001/meta.json", "notes.txt"])
def test_a_start_with_anything_else_in_its_folder_is_kept(tmp_path, trained):
    begin(tmp_path, "a: 1\n")
    (tmp_path / "data.json").write_text("of a: 1")
    (tmp_path / trained).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / trained).write_text("")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileExistsError, match="is the config of another run"):
        begin(tmp_path, "a: 2\n")
    assert sorted(tmp_path.rglob("*")) == before
    assert read_sealed(tmp_path / "config.yaml") == "a: 1\n"


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("…")
    with pytest.raises(FileExistsError, match=r"holds 'thesis.tex'; choose an empty or new folder"):
        claim(tmp_path)
    assert not (tmp_path / "config.yaml").exists()


def test_what_a_kill_before_the_config_left_is_taken_up(tmp_path):
    claim(tmp_path)
    (tmp_path / "config.yaml").rename(tmp_path / ".config.yaml.1f2e.tmp")
    claim(tmp_path)
    assert read_sealed(tmp_path / "config.yaml") == "a: 1\n"


def test_a_file_in_the_folders_place_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(OSError, match=r"cannot write to the run folder .*run: File exists"):
        claim(tmp_path / "run")
    with pytest.raises(OSError, match="cannot write to the run folder"):
        claim(tmp_path / "run" / "below")


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    code = (
        "import sys, pathlib; from fmce.runs.log import lock_run\n"
        f"with lock_run(pathlib.Path({str(tmp_path)!r}), 'a: 1\\n'): pass"
    )
    with lock_run(tmp_path, "a: 1\n"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "another process is training in" in done.stderr
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_file_system_without_locks_is_warned_of_and_used(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fmce.runs.lock.fcntl.flock", refuse)
    claim(tmp_path / "run")
    assert (tmp_path / "run" / "config.yaml").exists()
    assert f"file system of {tmp_path / 'run'} has no locks" in caplog.text


def test_a_lock_that_fails_otherwise_is_an_error(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("fmce.runs.lock.fcntl.flock", fail)
    with pytest.raises(OSError, match="Input/output error"):
        claim(tmp_path / "run")


def test_the_lock_is_given_up_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), lock_run(tmp_path, "a: 1\n"):
        raise RuntimeError
    claim(tmp_path)


def test_lines_are_read_back_and_a_cut_last_one_is_left_out(tmp_path):
    assert read_metrics(tmp_path) == []
    assert read_metrics(with_lines(tmp_path, tail='{"epoch": 4, "lo')) == ROWS


@pytest.mark.parametrize("lines", [1, 2, 3])
@pytest.mark.parametrize("tail", ["", '{"epoch"', '{"epoch": 3, "loss": 0.33'])
def test_lines_end_with_the_checkpoint_after_a_kill(tmp_path, lines, tail):
    """The kill fell between checkpoint and line, or in the line; two lines lost is a power failure."""
    with_lines(tmp_path, ROWS[:lines], tail)
    noted = {row["epoch"]: {"metrics": row} for row in ROWS}
    assert rewrite_metrics(tmp_path, 3, noted) == ROWS
    assert read_metrics(tmp_path) == ROWS


def test_lines_of_epochs_beyond_the_checkpoint_are_dropped(tmp_path):
    with_lines(tmp_path)
    assert rewrite_metrics(tmp_path, 2, {2: {"metrics": ROWS[1]}}) == ROWS[:2]
    assert rewrite_metrics(tmp_path, 0, {}) == []
    assert read_metrics(tmp_path) == []


def test_deleted_checkpoints_lines_are_kept(tmp_path):
    with_lines(tmp_path)
    assert rewrite_metrics(tmp_path, 3, {1: {"metrics": ROWS[0]}, 3: {"metrics": ROWS[2]}}) == ROWS


def test_an_epoch_that_nothing_tells_of_is_an_error(tmp_path):
    with_lines(tmp_path, ROWS[:1])
    with pytest.raises(ValueError, match=r"lacks the lines of epochs \[2\]"):
        rewrite_metrics(tmp_path, 3, {3: {"metrics": ROWS[2]}})
    assert read_metrics(tmp_path) == ROWS[:1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("0.5", "0.7"),
        lambda text: text[: len(text) // 2],
        lambda text: text + text,
        lambda text: "",
        lambda text: "\0" * len(text),
        lambda text: "[1]\n" + text,
    ],
    ids=["flipped", "cut", "doubled", "emptied", "zeros", "another kind"],
)
def test_damaged_lines_of_a_finished_run_are_not_used(tmp_path, damage):
    mark_done(with_lines(tmp_path), {"epochs": 3})
    file = tmp_path / "metrics.jsonl"
    file.write_text(damage(file.read_text()))
    with pytest.raises(ValueError, match=re.escape(f"{file} is damaged")):
        read_metrics(tmp_path)
    with pytest.raises(ValueError, match=re.escape(f"{file} is damaged")):
        mark_done(tmp_path, {"epochs": 3})


def test_a_resume_does_not_use_lines_that_are_not_what_was_noted(tmp_path):
    with_lines(tmp_path)
    note = {"metrics": ROWS[2], "metrics_sha256": digest_of(ROWS)}
    assert rewrite_metrics(tmp_path, 3, {3: note}) == ROWS
    with_lines(tmp_path, [ROWS[0] | {"loss": 9.0}])
    with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged"):
        rewrite_metrics(tmp_path, 3, {3: note})


def test_an_epoch_of_a_thousand_million_takes_no_memory(tmp_path):
    with_lines(tmp_path)
    with pytest.raises(ValueError, match=r"lacks the lines of epochs \[4\]"):
        rewrite_metrics(tmp_path, 10**9, {10**9: {}})


@pytest.mark.parametrize("damage", ["", "a: 2\n", "# SHA-256 of the rest: 0\na: 1\n"])
def test_a_damaged_config_is_refused(tmp_path, damage):
    claim(tmp_path)
    (tmp_path / "config.yaml").write_text(damage)
    with pytest.raises((ValueError, FileExistsError), match=re.escape(str(tmp_path))):
        claim(tmp_path)


def test_the_owner_of_a_folder_makes_a_damaged_record_again(tmp_path, caplog):
    claim(tmp_path)
    mark_done(tmp_path, {"epochs": 3})
    (tmp_path / "phases.json").write_text('{"markers"')
    claim(tmp_path)
    assert "phases.json is not valid JSON" in caplog.text
    assert read_done(tmp_path) is None
    assert (tmp_path / "phases.json.damaged").exists()


def test_not_a_number_never_gets_into_the_lines(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_metrics(tmp_path, {"epoch": 1, "loss": float("nan")})
    assert read_metrics(tmp_path) == []


def test_a_run_is_done_once_it_says_so(tmp_path):
    assert read_done(tmp_path) is None
    mark_done(tmp_path, {"epochs": 3})
    assert read_done(tmp_path) == {"epochs": 3}


def test_a_package_that_is_not_there_is_recorded_as_such(monkeypatch):
    monkeypatch.setattr("fmce.runs.log._PACKAGES", ("numpy", "no-such-package"))
    versions = environment()
    assert versions["no-such-package"] is None
    assert versions["numpy"]

"""Writes are whole or not there."""

import math
from pathlib import Path

import pytest

from fmce.files import (
    append_json_line,
    read_json,
    read_json_lines,
    read_json_or_none,
    read_text,
    reading,
    refuse_links_out,
    replacing,
    write_folder,
    write_json,
    write_json_lines,
    write_text,
)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_text_is_replaced_and_nothing_stays_beside(tmp_path):
    for text in ("one", "zwei ü"):
        write_text(tmp_path / "a.txt", text)
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "zwei ü"
    assert names(tmp_path) == ["a.txt"]


def test_a_refused_value_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"x": 0.1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": math.nan})
    assert read_json(tmp_path / "a.json") == {"x": 0.1}


def test_json_that_was_cut_short_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{"x": ')
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON .* may be damaged"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_is_read_in_any_encoding_that_marks_itself(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("é\r\nb\n".encode(encoding))
    assert read_text(tmp_path / "a.txt") == "é\nb\n"


def test_text_in_an_unmarked_encoding_names_file_and_remedy(tmp_path):
    (tmp_path / "a.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(
        ValueError, match=r"a\.txt: expected a list .* text at byte 0; save it as UTF-8"
    ):
        read_text(tmp_path / "a.txt", "a list")


def test_an_empty_file_is_no_damaged_json(tmp_path):
    (tmp_path / "a.json").write_text(" \n")
    with pytest.raises(ValueError, match=r"a\.json is empty, expected JSON; write or export"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        (lambda: {}["key"], "got another kind of content ('key'); do that"),
        (lambda: None.items(), "got another kind of content"),
        (lambda: int("x"), "got invalid literal for int() with base 10: 'x'; do that"),
        (lambda: Path("/nowhere").read_text(), "got: No such file or directory"),
    ],
)
def test_an_error_while_reading_gets_its_file_and_a_remedy(fail, message):
    expected = pytest.raises((ValueError, OSError), match=r"^a\.b: expected numbers, ")
    with expected as raised, reading("a.b", "numbers", "do that"):
        fail()
    assert message in str(raised.value)


def test_an_error_that_names_its_file_stays_as_it_is():
    with pytest.raises(ValueError, match=r"^line 3 of a\.b is bad$"), reading("a.b", "numbers"):
        raise ValueError("line 3 of a.b is bad")


def test_a_folder_appears_with_all_its_files(tmp_path):
    seen = []

    def fill(target):
        (target / "a").write_text("1")
        seen.append((tmp_path / "new").exists())
        (target / "b").write_text("2")

    write_folder(tmp_path / "new", fill)
    assert seen == [False]
    assert names(tmp_path) == ["new"]
    assert names(tmp_path / "new") == ["a", "b"]


def test_a_folder_whose_filling_fails_leaves_the_old_one(tmp_path):
    write_folder(tmp_path / "x", lambda target: (target / "a").write_text("old") and None)

    def fail(target):
        (target / "a").write_text("new")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_folder(tmp_path / "x", fail)
    assert (tmp_path / "x" / "a").read_text() == "old"
    assert names(tmp_path) == ["x"]


def test_what_a_killed_writer_left_does_not_get_into_the_next(tmp_path):
    left = tmp_path / ".x.1f2e.tmp"
    left.mkdir()
    (left / "half").write_text("…")
    write_folder(tmp_path / "x", lambda target: (target / "a").write_text("1") and None)
    assert names(tmp_path) == ["x"]
    assert names(tmp_path / "x") == ["a"]


def test_a_file_that_cannot_be_written_is_named_itself(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"cannot write {tmp_path}/no/page.html: No such"):
        write_text(tmp_path / "no" / "page.html", "text")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=rf"cannot write {tmp_path}/folder: Is a directory"):
        write_text(tmp_path / "folder", "text")
    assert names(tmp_path) == ["folder"]


def test_an_error_while_writing_leaves_the_old_file_and_no_litter(tmp_path):
    write_text(tmp_path / "a", "old")
    with pytest.raises(TypeError), replacing(tmp_path / "a") as beside:
        beside.write_text(12)  # opens the file, then refuses
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_file_beside_is_never_written_through(tmp_path, monkeypatch):
    """Neither a link that somebody laid there nor another process's file is opened."""
    monkeypatch.setattr("fmce.files.secrets.token_hex", lambda _: "1f2e")
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / ".a.1f2e.tmp").symlink_to(tmp_path / "theirs")
    with pytest.raises(FileExistsError, match=rf"cannot write {tmp_path}/a: File exists"):
        write_text(tmp_path / "a", "mine")
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert names(tmp_path) == [".a.1f2e.tmp", "theirs"]


def test_a_new_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "a", "")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_file_that_is_not_there_is_none(tmp_path):
    assert read_json_or_none(tmp_path / "a.json") is None
    write_json(tmp_path / "a.json", [1])
    assert read_json_or_none(tmp_path / "a.json") == [1]


def test_json_lines_are_written_appended_and_read(tmp_path):
    path, separator = tmp_path / "a.jsonl", "one\u2028line"
    assert read_json_lines(path) == []
    append_json_line(path, {"epoch": 1, "name": separator})
    append_json_line(path, {"epoch": 2})
    assert read_json_lines(path) == [{"epoch": 1, "name": separator}, {"epoch": 2}]
    write_json_lines(path, [{"epoch": 3}])
    assert path.read_text() == '{"epoch": 3}\n'


def test_a_line_that_was_cut_short_ends_the_rows_or_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    append_json_line(path, {"name": "ü"})
    append_json_line(path, {"name": "ü"})
    path.write_bytes(path.read_bytes()[:-4])  # in the middle of a character
    assert read_json_lines(path, until_damage=True) == [{"name": "ü"}]
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2 is not valid JSON"):
        read_json_lines(path)


def test_a_line_that_nests_too_deep_ends_the_rows_or_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n' + "[" * 100_000 + "\n")
    assert read_json_lines(path, until_damage=True) == [{"a": 1}]
    with pytest.raises(ValueError, match="line 2 is not valid JSON"):
        read_json_lines(path)


def test_an_error_of_writing_names_the_folder(tmp_path):
    def fill(_folder):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"cannot write .*/maps: No space left"):
        write_folder(tmp_path / "maps", fill)
    assert names(tmp_path) == []


@pytest.mark.parametrize("place", ["runs", "runs/a", "maps.zarr/c/0"])
def test_a_link_out_of_a_folder_is_refused_at_any_depth(tmp_path, place):
    home, other = tmp_path / "home", tmp_path / "other"
    (home / place).parent.mkdir(parents=True)
    other.mkdir()
    (home / "inside").symlink_to(home)
    (home / "report.html").symlink_to(other / "page")  # replaced, never written through
    refuse_links_out(home, "delete it")
    (home / place).symlink_to(other)
    with pytest.raises(ValueError, match=f"home/{place} is a link out of the folder.*; delete it"):
        refuse_links_out(home, "delete it")


def test_where_a_folder_stands_does_not_make_its_files_stored_maps(tmp_path):
    home = tmp_path / "a.zarr" / "home"
    home.mkdir(parents=True)
    (home / "report.html").symlink_to(tmp_path / "page")
    refuse_links_out(home, "delete it")


def test_a_file_of_stored_maps_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "home" / "maps.zarr").mkdir(parents=True)
    (tmp_path / "home" / "maps.zarr" / "0").symlink_to(tmp_path / "precious")
    with pytest.raises(ValueError, match=r"maps\.zarr/0 is a link"):
        refuse_links_out(tmp_path / "home", "delete it")

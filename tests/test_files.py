"""Writes are whole or not there."""

import math

import pytest

from fmce.files import read_json, write_folder, write_json, write_text


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


def test_what_a_killed_writer_left_does_not_get_into_the_next(tmp_path):
    left = tmp_path / ".x.tmp"
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

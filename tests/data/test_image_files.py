"""Reading with damage: counts, names, deterministic substitutes, the rate beyond which it is an
error."""

import doctest
import logging

import pytest

from fmce.data import image_files as module
from fmce.data.image_files import (
    ReadFailures,
    UnreadableDataError,
    list_images,
    read_or_substitute,
    read_stems,
)


class _Numbers:
    """Items 0 … n−1, some of which cannot be read."""

    def __init__(self, n, broken, **options):
        self.n, self.broken = n, set(broken)
        self.failures = ReadFailures(**options)

    def __len__(self):
        return self.n

    def _read(self, index):
        if index in self.broken:
            raise OSError("truncated")
        return index

    def __getitem__(self, index):
        return read_or_substitute(index, self.n, self._read, self.failures, "file{}".format)


def test_a_damaged_item_is_replaced_by_the_next_readable_one_every_time():
    data = _Numbers(6, broken=[1, 2, 5])
    assert [data[i] for i in range(6)] == [0, 3, 3, 3, 4, 0]
    assert [data[i] for i in (-5, -1)] == [3, 0]


def test_reads_and_failures_are_counted_and_named(caplog):
    data = _Numbers(6, broken=[1, 2])
    with caplog.at_level(logging.WARNING):
        assert data[1] == data[1] == 3
    assert (data.failures.reads, data.failures.failures) == (6, 4)
    assert data.failures.failed_items == [1, 2]
    assert [r.getMessage().split(":")[0] for r in caplog.records] == [
        "cannot read file1",
        "cannot read file2",
    ]


def test_beyond_the_rate_and_the_least_number_an_error_names_the_files():
    data = _Numbers(100, broken=range(7), max_rate=0.05, min_files=6)
    with pytest.raises(UnreadableDataError, match=r"6 of 6.*file0, file1, file2, file3, file4 and"):
        data[0]


def test_below_the_rate_many_failures_are_no_error():
    data = _Numbers(1000, broken=[10, 200, 300, 400, 500, 600], max_rate=0.01)
    for index in range(1000):
        data[index]
    assert data.failures.failures == 6


def test_one_damaged_file_of_a_small_set_is_no_error_however_often_it_is_met():
    data = _Numbers(20, broken=[7], max_rate=0.01)
    assert [data[7] for _ in range(50)] == [8] * 50
    assert data.failures.failures == 50


def test_when_no_item_is_readable_reading_ends_with_an_error():
    data = _Numbers(3, broken=range(3), min_files=50)
    with pytest.raises(UnreadableDataError, match="none of the 3 items"):
        data[1]


def test_an_index_out_of_range_is_no_damage():
    with pytest.raises(IndexError, match="3 is out of range"):
        _Numbers(3, broken=[])[3]


def test_a_programming_error_while_reading_is_not_swallowed():
    data = _Numbers(3, broken=[])
    data._read = lambda index: {}["missing"]
    with pytest.raises(KeyError):
        data[0]


@pytest.mark.parametrize("options", [{"max_rate": 1.5}, {"min_files": 0}])
def test_wrong_limits_are_refused(options):
    with pytest.raises(ValueError, match="max_rate in"):
        ReadFailures(**options)


def test_stems_are_read_from_a_text_file_or_an_iterable(tmp_path):
    (tmp_path / "out.txt").write_text("# held out\n0001\n\n0002.jpg  # blurred\n", "utf-8")
    assert read_stems(tmp_path / "out.txt") == {"0001", "0002"}
    assert read_stems(str(tmp_path / "out.txt")) == {"0001", "0002"}
    assert read_stems(["0001", "a.b.png"]) == {"0001", "a.b"}
    with pytest.raises(ValueError, match="one stem per line"):
        read_stems(tmp_path / "none.txt")


def test_listing_skips_hidden_files_and_ends_at_links_in_a_circle(tmp_path):
    (tmp_path / "b" / ".cache").mkdir(parents=True)
    for name in ("z.JPG", "b/a.webp", "b/._a.jpg", "b/.cache/c.png", "b/notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    assert list_images(tmp_path) == [tmp_path / "b" / "a.webp", tmp_path / "z.JPG"]


def test_the_docstrings_examples_hold():
    assert doctest.testmod(module).failed == 0

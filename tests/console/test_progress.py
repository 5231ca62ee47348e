"""Progress: plain lines in a log, a bar on a terminal, nothing where no messages are shown."""

import io
import sys

import pytest

from fmce.console.log import show_messages
from fmce.console.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def shown():
    show_messages()


def work(steps=3, **options):
    with Progress("training x", steps, **options) as progress:
        for number in range(progress.done + 1, steps + 1):
            progress.advance(f"loss {number}")


def test_a_log_gets_the_first_line_and_the_last(shown, capsys):
    work()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["training x: 1/3 loss 1", "training x: 3/3 loss 3"]


def test_a_line_comes_every_few_seconds(shown, capsys, monkeypatch):
    monkeypatch.setattr("fmce.console.progress.LINE_EVERY", 0.0)
    work(start=1)
    assert capsys.readouterr().err.splitlines() == [
        "training x: 2/3 loss 2",
        "training x: 3/3 loss 3",
    ]


def test_without_messages_nothing_is_shown(capsys):
    work()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("rank", "lines"), [("0", 2), ("1", 0)])
def test_of_several_processes_the_first_alone_shows_progress(rank, lines, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    show_messages()
    work()
    assert len(capsys.readouterr().err.splitlines()) == lines


def test_progress_within_another_is_not_shown(shown, capsys):
    with Progress("experiment", 1) as outer:
        work()
        outer.advance()
    work(1)
    assert capsys.readouterr().err.splitlines() == ["experiment: 1/1", "training x: 1/1 loss 1"]


def test_a_terminal_gets_a_bar_on_standard_error(shown, monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    work()
    shown_text = sys.stderr.getvalue()
    assert "training x" in shown_text
    assert "3/3" in shown_text
    assert "training x: 1/3" not in shown_text
    assert capsys.readouterr().out == ""

"""Progress: plain lines in a log, a bar on a terminal, nothing when quiet."""

import io
import sys

from fmce.console.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def work(steps=3, **options):
    with Progress("training x", steps, **options) as progress:
        for number in range(progress.done + 1, steps + 1):
            progress.advance(f"loss {number}")


def test_a_log_gets_the_first_line_and_the_last(capsys):
    work()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["training x: 1/3 loss 1", "training x: 3/3 loss 3"]


def test_a_line_comes_every_few_seconds(capsys, monkeypatch):
    monkeypatch.setattr("fmce.console.progress.LINE_EVERY", 0.0)
    work(start=1)
    assert capsys.readouterr().err.splitlines() == [
        "training x: 2/3 loss 2",
        "training x: 3/3 loss 3",
    ]


def test_quiet_prints_nothing(capsys):
    work(quiet=True)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_on_standard_error(monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    work()
    shown = sys.stderr.getvalue()
    assert "training x" in shown
    assert "3/3" in shown
    assert "training x: 1/3" not in shown
    assert capsys.readouterr().out == ""

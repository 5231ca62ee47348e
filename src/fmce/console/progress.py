"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Self

from fmce.console.log import messages_shown

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

# Seconds between plain lines: a log file should show life without a line per epoch.
LINE_EVERY = 10.0


class Progress:
    """Progress of one piece of work of known length; a context manager.

    It shows itself where messages are shown, but not inside the block of another one: a training
    within an experiment would otherwise draw its bar over the experiment's.
    """

    _open: ClassVar[int] = 0

    def __init__(self, what: str, total: int, *, start: int = 0) -> None:
        """Describe the work.

        Args:
            what: A few words, such as "training digits".
            total: Steps in all, usually epochs.
            start: Steps done before, by an earlier process.
        """
        self.what, self.total, self.done = what, total, start
        self._shown = False
        self._bar: Bar | None = None
        self._last_line = 0.0

    def __enter__(self) -> Self:
        self._shown = messages_shown() and not Progress._open
        Progress._open += 1
        if self._shown and sys.stderr.isatty():
            self._bar = _make_bar()
            self._bar.add_task(self.what, total=self.total, completed=self.done, note="")
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        Progress._open -= 1
        if self._bar is not None:
            self._bar.stop()

    def advance(self, note: str = "") -> None:
        """Count one step; `note` describes its outcome."""
        self.done += 1
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done, note=note)
        elif self._shown:
            self._line(note)

    def _line(self, note: str) -> None:
        now = time.monotonic()
        if self.done == self.total or now - self._last_line >= LINE_EVERY:
            self._last_line = now
            text = f"{self.what}: {self.done}/{self.total} {note}".rstrip()
            print(text, file=sys.stderr, flush=True)


def _make_bar() -> "Bar":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )

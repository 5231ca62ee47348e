"""How far long work is: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

# Seconds between plain lines: a log file should show life without a line an epoch.
LINE_EVERY = 10.0


class Progress:
    """Progress of one piece of work of known length; a context manager."""

    def __init__(self, what: str, total: int, *, start: int = 0, quiet: bool = False) -> None:
        """Describe the work.

        Args:
            what: a few words, such as "training digits".
            total: steps in all, usually epochs.
            start: steps done before, by an earlier process.
            quiet: print nothing.
        """
        self.what, self.total, self.done, self.quiet = what, total, start, quiet
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._last_line = 0.0

    def __enter__(self) -> Self:
        if not self.quiet and sys.stderr.isatty():
            self._bar = _make_bar()
            self._task = self._bar.add_task(
                self.what, total=self.total, completed=self.done, note=""
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, note: str = "") -> None:
        """Count one step; `note` says how it went."""
        self.done += 1
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done, note=note)
        elif not self.quiet:
            self._line(note)

    def _line(self, note: str) -> None:
        now = time.monotonic()
        if self.done == self.total or now - self._last_line >= LINE_EVERY:
            self._last_line = now
            print(
                f"{self.what}: {self.done}/{self.total} {note}".rstrip(),
                file=sys.stderr,
                flush=True,
            )


def _make_bar() -> "Bar":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    return Bar(*columns, console=Console(stderr=True))

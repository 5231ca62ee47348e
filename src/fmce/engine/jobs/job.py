"""A job for another process, and how it ended."""

import traceback
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, Self


class Finished(NamedTuple):
    """How a job ended: `error` is one line, None where it was done; `details` a traceback if there is one."""

    name: str
    error: str | None = None
    details: str = ""


class Job(NamedTuple):
    """A call in another process: the function is importable from its module and writes its results to disk."""

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]

    def run(self) -> Finished:
        """Call the function; its error is returned, not raised.

        >>> Job("halve", int, ("x",)).run().error
        "invalid literal for int() with base 10: 'x'"
        """
        try:
            self.function(*self.args)
        except Exception as error:
            line = " ".join(str(error).split()) or type(error).__name__
            if not isinstance(error, (ValueError, OSError)):
                line = f"{type(error).__name__}: {line}"
            return Finished(self.name, line, traceback.format_exc())
        return Finished(self.name)


class Workers(Protocol):
    """Somewhere that jobs run; on leaving the context, jobs that still run are ended."""

    def __enter__(self) -> Self:
        """Make ready."""

    def __exit__(self, *_error: object) -> None:
        """Stop."""

    def submit(self, name: str, function: Callable[..., Any], *args: Any) -> None:
        """Take a job."""

    def wait(self) -> Finished:
        """Return the next job that ended."""

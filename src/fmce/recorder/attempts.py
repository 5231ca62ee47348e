"""Measurements that may fail without ending the training."""

from collections.abc import Callable
from typing import TypeVar

from fmce.console.log import logger

_T = TypeVar("_T")


class Attempts:
    """Runs what may fail; each kind of failure is reported once."""

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}
        self._reported: set[str] = set()

    def run(self, what: str, action: Callable[[], _T]) -> _T | None:
        """Return what the action gives; note and report its failure and return None.

        Args:
            what: Names it in the report and in `failed`.
            action: Does it.
        """
        try:
            return action()
        except Exception as error:
            self.failed[what] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            if what not in self._reported:
                self._reported.add(what)
                logger.warning(
                    "the recorder failed at %s (%s); it is recorded as missing and training continues",
                    *(what, self.failed[what]),
                )
            return None

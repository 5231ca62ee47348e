"""The sections of docs/results.md, one module each; a new module here is found without being listed.

A section has `ORDER` (its place on the page), `COMMAND` (what makes its rows; empty where it has none), `covers(row)`,
`section(rows)`: its Markdown paragraphs, heading first, and `reading(rows)`: what its rows support,
one sentence or paragraph each. Both are handed the rows that it covers and no others.
"""

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Protocol, cast

from experiments.result_rows import Row


class Section(Protocol):
    """What a module of this package offers."""

    ORDER: int
    COMMAND: str

    def covers(self, row: Row) -> bool:
        """Say whether a row belongs to this section."""

    def section(self, rows: Sequence[Row]) -> list[str]:
        """Return Markdown paragraphs; without rows, which one is missing and what makes it."""

    def reading(self, rows: Sequence[Row]) -> list[str]:
        """Return what the rows support, and nothing without rows."""


def all_sections() -> list[Section]:
    """Return the sections in the page's order.

    Raises:
        ValueError: two claim the same place.
    """
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    found = [cast(Section, importlib.import_module(f"{__name__}.{name}")) for name in names]
    places = [one.ORDER for one in found]
    if len(set(places)) < len(places):
        raise ValueError(f"expected a different ORDER in each section, got {sorted(places)}")
    return sorted(found, key=lambda one: one.ORDER)

"""What commands print: tables, and numbers with their spread."""

import math
from collections.abc import Iterable, Sequence
from typing import Any


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on standard output, plain where that is no terminal."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*("–" if cell is None else escape(str(cell)) for cell in row))
    console = Console()
    # A file or a pipe has no width of its own; 80 would fold the tables.
    console = console if console.is_terminal else Console(width=120)
    console.print(f"\n{title}", style="bold", markup=False, highlight=False, end="")
    console.print(table)


def percent(value: float | None, digits: int = 2) -> str:
    """Format a fraction as percent; an undefined one as a dash."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{digits}f} %"


def number(value: Any, digits: int = 4) -> str:
    """Format a number, or a dash where it is undefined."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}g}"


def size_text(count: int) -> str:
    """Format a number of bytes by powers of 1000.

    >>> size_text(51_000_000)
    '51.0 MB'
    """
    from rich.filesize import decimal

    return decimal(count)


def epochs(markers: Sequence[int] | None) -> str:
    """Format epoch markers, or say that there are none."""
    return "none" if markers is None else "[" + ", ".join(map(str, markers)) + "]"

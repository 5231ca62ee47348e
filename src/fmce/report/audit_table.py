"""An audit as cells of a table, for the command line, the report page and the results."""

from collections.abc import Mapping, Sequence
from typing import Any

AUDIT_HEADER = (
    *("what is new", "score or control", "phases", "runs", "accuracy", "MAE"),
    *("ρ", "worst ρ", "interval covers", "beats the clock"),
)


def audit_cells(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return the rows of `Audit.to_dict()` as text under `AUDIT_HEADER`; what a protocol repeats is left blank."""
    cells: list[tuple[str, ...]] = []
    last = ""
    for row in rows:
        protocol = row["protocol"]
        cells.append(
            (
                "" if protocol == last else protocol,
                *(row["predictor"], row["truth"], str(row["runs"])),
                _share(row["accuracy"]),
                _decimals(row["mae"], 2),
                _decimals(row["rho"], 3),
                _decimals(row["worst_rho"], 3),
                _share(row["coverage"]),
                row["beats_clock"] or "–",
            )
        )
        last = protocol
    return cells


def _decimals(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"

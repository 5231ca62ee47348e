"""What `fmce audit` prints."""

from typing import TYPE_CHECKING

from fmce.console.tables import print_table

if TYPE_CHECKING:
    from fmce.maturity.audit import Audit


def show_audit(found: "Audit", *, markdown: bool = False) -> None:
    """Print an audit's table, and what it could not answer."""
    from fmce.report.audit_table import AUDIT_HEADER, audit_cells
    from fmce.report.module_figures import markdown_table

    cells = audit_cells(found.to_dict()["rows"])
    if markdown:
        print(markdown_table(AUDIT_HEADER, cells))
        print()
    else:
        print_table(
            "Audit: distance in phases at the markers, order over all epochs", AUDIT_HEADER, cells
        )
    for line in found.unanswered:
        print(f"not answered: {line}")

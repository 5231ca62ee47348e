"""How far maturity scores can be trusted: scores and controls on runs that are new in one respect each."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.result_rows import Row, Table, select
from fmce.maturity.controls import CLOCKS
from fmce.report.audit_table import AUDIT_HEADER, audit_cells


def _rows(rows: Sequence[Row], what: str) -> list[Mapping[str, Any]]:
    return [
        one for row in select(rows, experiment="audit", what=what) for one in row["result"]["rows"]
    ]


def _table(found: Sequence[Mapping[str, Any]]) -> Table:
    """Return one table with a line per score or control, and a cell per protocol: MAE, ρ and the worst ρ."""
    protocols = list(dict.fromkeys(row["protocol"] for row in found))
    names = list(dict.fromkeys(row["predictor"] for row in found))
    lines = []
    for name in names:
        cells = {row["protocol"]: row for row in found if row["predictor"] == name}
        lines.append([name, *(_cell(cells.get(protocol)) for protocol in protocols)])
    runs = {row["protocol"]: row["runs"] for row in found}
    return Table(["score or control", *(f"{p} ({runs[p]} runs)" for p in protocols)], lines)


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    mark = {"yes": " ✓", "unclear": " (✓)"}.get(row["beats_clock"] or "", "")
    mae = "–" if row["mae"] is None else f"{row['mae']:.2f}"
    rhos = ["–" if row[k] is None else f"{row[k]:.3f}" for k in ("rho", "worst_rho")]
    return f"{mae}{mark}; {rhos[0]} ({rhos[1]})"


def raw_table(rows: Sequence[Row]) -> Table:
    """Return the score within the run and the controls, judged by raw phases."""
    return _table([row for row in _rows(rows, "within_run") if row["truth"] == "raw"])


def official_table(rows: Sequence[Row]) -> Table:
    """Return the same judged by official phases."""
    return _table([row for row in _rows(rows, "within_run") if row["truth"] == "official"])


def snapshot_table(rows: Sequence[Row]) -> Table:
    """Return the score of one checkpoint alone and the controls read alike, judged by raw phases."""
    return _table([row for row in _rows(rows, "snapshot") if row["truth"] == "raw"])


def coverage_table(rows: Sequence[Row]) -> Table:
    """Return the score's accuracy and how often its interval holds the phase, by protocol."""
    lines = []
    for form in ("within_run", "snapshot"):
        for row in _rows(rows, form):
            if row["predictor"] == "maturity score" and row["truth"] == "raw":
                covered = "–" if row["coverage"] is None else f"{100 * row['coverage']:.0f} %"
                right = f"{100 * row['accuracy']:.0f} %"
                lines.append([f"{form}: {row['protocol']}", str(row["runs"]), right, covered])
    return Table(["form: what is new", "runs", "accuracy", "90 % interval covers"], lines)


def published_table(rows: Sequence[Row]) -> Table:
    """Return the audit of run folders with published FMCE-Nets, beside the score and the clocks alone."""
    shown = ("published", "maturity score", *CLOCKS)
    found = [row for row in _rows(rows, "published") if row["predictor"].startswith(shown)]
    return Table(AUDIT_HEADER, audit_cells(found))

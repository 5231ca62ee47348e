"""What the commands on modules print."""

from pathlib import Path
from typing import TYPE_CHECKING

from fmce.console.tables import number, percent, print_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fmce.recorder.check_checkpoint import CheckpointCheck
    from fmce.recorder.clocks import ModuleTable
    from fmce.recorder.prices import ModulePrice


def show_modules(
    table: "ModuleTable", *, markdown: bool = False, figure: Path | None = None
) -> None:
    """Print a module table and what belongs to it."""
    from fmce.report.module_figures import HEADER, markdown_table, module_cells, module_remarks

    if markdown:
        print(markdown_table(HEADER, module_cells(table)))
        print()
    else:
        print_table(f"Modules of {table.run}, epoch {table.epochs}", HEADER, module_cells(table))
    print(*module_remarks(table), sep="\n")
    if figure is not None:
        print(f"figure: {figure}")


def show_prices(prices: "Sequence[ModulePrice]", *, markdown: bool = False) -> None:
    """Print what freezing up to each module would save of a training step."""
    from fmce.report.module_figures import markdown_table

    header = ("frozen up to", "saves of a step", "of which this module")
    rows = [(p.name, percent(p.saving, 1), percent(p.own_saving, 1)) for p in prices]
    if markdown:
        print(f"\n{markdown_table(header, rows)}\n")
    else:
        print_table("Price of freezing: multiply-adds, forward and backward", header, rows)
    print(
        "a schedule shortened by the same share costs as little: compare with that before you freeze"
    )


def _distance(unlike: "Mapping[str, float | None] | None") -> str:
    if unlike is None:
        return "–"
    distance = unlike["distance"]
    return "∞" if distance is None else f"{distance:.1f} σ"


def show_check(checkpoint: Path, found: "CheckpointCheck", *, markdown: bool = False) -> None:
    """Print how a checkpoint fits, and what is odd about each module."""
    from fmce.report.module_figures import markdown_table

    compared = any("unlike_peers" in facts for facts in found.facts.values())
    header = ("module", "parameters", "not loaded", "epoch", "dead", "drift to the run")
    header += (*(("unlike peers",) if compared else ()), "alarms")
    rows = []
    for name, facts in found.facts.items():
        drifts = [found.drifts[o] for o in facts.get("outputs", {}) if o in found.drifts]
        kinds = [a.kind.replace("_", " ") for a in found.alarms if a.module == name]
        epoch = found.epochs.get(name)
        rows.append(
            (
                *(name, f"{facts['parameters']:,}", str(facts.get("not_loaded", 0))),
                *("–" if epoch is None else str(epoch), number(facts.get("dead"), 2)),
                number(max(drifts), 3) if drifts else "–",
                *((_distance(facts.get("unlike_peers")),) if compared else ()),
                "; ".join(kinds) or "–",
            )
        )
    if markdown:
        print(markdown_table(header, rows))
        print()
    else:
        print_table(f"Check of {checkpoint}", header, rows)
    prefix, unused = found.comparison.prefix, found.comparison.unused
    if prefix is not None:
        old, new = (repr(part) if part else "nothing" for part in prefix)
        print(f"names fit once {old} is replaced by {new}: {found.comparison.fitting} tensors")
    elif unused:
        shown = ", ".join(unused[:5]) + (f" and {len(unused) - 5} more" if len(unused) > 5 else "")
        print(f"names of the checkpoint that the model does not have: {shown}")
    for alarm in found.alarms:
        print(f"alarm: {alarm.module}: {alarm.finding}; {alarm.check}")

"""Reads the rows under results/ and formats their numbers for Markdown; what they mean is said in sections/."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmce.files import read_json_lines

if TYPE_CHECKING:
    from fmce.fmce_net_pp.sweep.results import Comparison

Row = Mapping[str, Any]

ARMS = {
    "baseline": "plain training",
    "ral": "FMCE-Net++ (RAL)",
    "random_oracle": "control: untrained FMCE-Net as oracle",
    "phase_1": "control: oracle pulls to phase 1, not K",
    "scaled_rate": "control: plain, learning rate × RAF",
    "feature_matching": "control: maps pulled to checkpoint E_K's",
}


def portable(comparison: "Comparison") -> dict[str, Any]:
    """Return a comparison as a result row has it: without paths of this machine."""
    values = comparison.to_dict()
    del values["oracle"]
    for row in (*values["rows"], *values["same_seed"]):
        del row["folder"]
    return values


def read_rows(folder: Path) -> list[Row]:
    """Return the rows of all JSON-lines files of a folder; none where there is no folder."""
    return [row for path in sorted(folder.glob("*.jsonl")) for row in read_file(path)]


def read_file(path: Path) -> list[Row]:
    """Return the rows of one JSON-lines file; none where there is no file."""
    return list(read_json_lines(path))


def result_of(rows: Iterable[Row], what: str) -> Row | None:
    """Return the result of the first row of that name."""
    return next((row["result"] for row in rows if row.get("what") == what), None)


def net_of(rows: Sequence[Row], split: str, key: str) -> Row | None:
    """Return an FMCE-Net's metrics: "held_out", "test_images", or "other" for another seed's run."""
    if key == "other":
        return result_of(rows, f"FMCE-Net, split {split}, on another seed's run")
    result = result_of(rows, f"FMCE-Net, split {split}")
    return None if result is None else result[key]


def ral_of(result: Row | None) -> Row | None:
    """Return the comparison of FMCE-Net++ with plain training."""
    return result and next((c for c in result["comparisons"] if c["arm"] == "ral"), None)


def benchmark(rows: Iterable[Row]) -> Row | None:
    """Return the speed row of the demo's network on the processor."""
    wanted = ("step_overhead", "tiny", "cpu")
    keys = ("benchmark", "model", "device")
    return next((r for r in rows if tuple(r.get(k) for k in keys) == wanted), None)


def setting(row: Row) -> str:
    """Say with what a row was measured."""
    config, machine = row["config"], row["environment"]
    return (
        f"Network `{config['model']['name']}` at {config['data']['image_size']} px, "
        f"{config['train']['epochs']} epochs, batch {config['train']['batch_size']}, µ = "
        f"{config['phases']['threshold']:g}. Measured {row['date']} with torch {machine['torch']} "
        f"on {machine['gpu'] or str(machine['cores']) + ' CPU cores'}."
    )


def against_baseline(c: Row | None) -> tuple[str, str, str]:
    """Format an arm's difference from the baseline: value, interval and adjusted p."""
    if c is None:
        return "–", "–", "–"
    return signed(c["mean_difference"]), interval(c), p_value(c["p_holm"])


def interval(c: Row) -> str:
    """Format the interval of a difference; pairs without spread have none."""
    if c["interval_low"] is None:
        return "all equal" if c["n"] > 1 else "one pair"
    return f"{signed(c['interval_low'])} … {signed(c['interval_high'])}"


def p_value(p: float | None) -> str:
    """Format a p; a dash where there is none."""
    return "–" if p is None else f"{p:.2g}"


def difference(c: Row) -> str:
    """Format the difference from the baseline in one cell."""
    return f"{signed(c['mean_difference'])} pp (95 % interval {interval(c)}, {c['n']} seeds)"


def clear(c: Row) -> bool:
    """Return whether a difference stands after Holm's adjustment."""
    return c["p_holm"] is not None and c["p_holm"] < 0.05


def off_zero(c: Row) -> bool:
    """Return whether a difference's interval leaves out zero."""
    return c["interval_low"] is not None and (c["interval_low"] > 0 or c["interval_high"] < 0)


def missing(what: str, command: str) -> str:
    """Say that a row is not there and what makes it."""
    return f"Not measured yet: there is no row “{what}”. Make it with `{command}`."


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, first column left, numbers right."""
    rule = [":--", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))


def percent(fraction: float) -> str:
    """Format a fraction."""
    return f"{100 * fraction:.2f} %"


def signed(fraction: float) -> str:
    """Format a difference of fractions in percentage points; no minus before a zero."""
    return f"{100 * fraction + 0.0:+.2f}".replace("-0.00", "+0.00")


def decimal(value: float | None, digits: int = 4) -> str:
    """Format a number; a dash where it is undefined."""
    return "–" if value is None else f"{value:.{digits}f}"


def ratio(row: Row) -> str:
    """Format the engine's overhead."""
    return f"{row['epoch_over_bare']:.3f}"


def numbers(epochs: Sequence[int] | None) -> str:
    """Format markers; says so where there are none."""
    if epochs is None:
        return "none"
    assert all(a < b for a, b in pairwise(epochs)), "markers must rise"
    return ", ".join(map(str, epochs))

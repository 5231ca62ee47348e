"""Arms side by side: mean ± sd over seeds, and paired differences with intervals and adjusted p."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fmce.console.tables import number
from fmce.fmce_net_pp.arms import BASELINE
from fmce.metrics.statistics import holm, mean_sd, paired_comparison
from fmce.runs.log import read_metrics

Rows = Sequence[Mapping[str, Any]]


def epoch_seconds(folder: Path) -> float:
    """Return the median time of an epoch; with several trainings at a time it is a rough one."""
    return float(np.median([row["time_seconds"] for row in read_metrics(folder)]))


def summaries(rows: Rows) -> list[dict[str, Any]]:
    """Return mean, sd (n − 1) and epoch time of each arm, in the order of the rows.

    Args:
        rows: one a run, with arm, seed, test_accuracy (0–1) and epoch_seconds.

    Returns:
        One dict an arm; `n` is its number of runs, `sd` is None for a single one, `time_over_baseline`
        None without a baseline.
    """
    result: list[dict[str, Any]] = []
    for arm, mine in _by_arm(rows).items():
        mean, sd = mean_sd([row["test_accuracy"] for row in mine])
        seconds = float(np.median([row["epoch_seconds"] for row in mine]))
        spread = None if len(mine) < 2 else sd
        result.append(
            {"arm": arm, "mean": mean, "sd": spread, "n": len(mine), "epoch_seconds": seconds}
        )
    baseline = next((s["epoch_seconds"] for s in result if s["arm"] == BASELINE), None)
    for summary in result:
        summary["time_over_baseline"] = (
            None if baseline is None else summary["epoch_seconds"] / baseline
        )
    return result


def comparisons(rows: Rows) -> list[dict[str, Any]]:
    """Compare every other arm with the baseline, p adjusted by Holm over all of them."""
    return compare_pairs(rows, {arm: (BASELINE, arm) for arm in _by_arm(rows) if arm != BASELINE})


def compare_pairs(rows: Rows, pairs: Mapping[str, tuple[str, str]]) -> list[dict[str, Any]]:
    """Compare pairs of arms over the seeds that both have, p adjusted by Holm over all pairs.

    Args:
        rows: as in `summaries`.
        pairs: name → (reference arm, arm held against it).

    Returns:
        One dict a pair with its name as `arm`; pairs with fewer than two common seeds are left out. One
        without spread has no p of its own, but counts among those that p is adjusted for.
    """
    values = {
        arm: {r["seed"]: r["test_accuracy"] for r in mine} for arm, mine in _by_arm(rows).items()
    }
    results = {}
    for name, (reference, arm) in pairs.items():
        theirs, ours = values.get(reference, {}), values.get(arm, {})
        common = [seed for seed in theirs if seed in ours]
        if len(common) >= 2:
            results[name] = paired_comparison(
                [theirs[s] for s in common], [ours[s] for s in common]
            )
    adjusted = holm(np.array([r.p_value for r in results.values()]))
    return [
        {
            "arm": name,
            **result.to_dict(),
            "p_holm": None if np.isnan(p) else float(p),
            "verdict": result.verdict(scale=100, unit="pp", adjusted_p=float(p)),
        }
        for (name, result), p in zip(results.items(), adjusted, strict=True)
    ]


def arm_cells(
    summary: Mapping[str, Any], against: Mapping[str, Any] | None, seeds: int
) -> tuple[str, ...]:
    """Return an arm's cells for a printed table: arm, mean ± sd, difference, interval, p, epoch time.

    Args:
        summary: of `summaries`.
        against: of `comparisons`; None for the baseline.
        seeds: how many the arm should have; with fewer runs the mean says of how many it is.
    """
    spread = "" if summary["sd"] is None else f" ± {100 * summary['sd']:.2f}"
    few = f" ({summary['n']} of {seeds} seeds)" if summary["n"] < seeds else ""
    time = summary["time_over_baseline"]
    return (
        summary["arm"],
        f"{100 * summary['mean']:.2f}{spread} %{few}",
        *difference_cells(against),
        "–" if time is None else f"{time:.2f} ×",
    )


def difference_cells(against: Mapping[str, Any] | None) -> tuple[str, str, str]:
    """Return a comparison's cells: mean difference, 95 % interval, adjusted p."""
    if against is None:
        return "–", "–", "–"
    difference = f"{100 * against['mean_difference']:+.2f} pp"
    if against["interval_low"] is None:
        return difference, "all equal", "–"
    low, high = (100 * against[f"interval_{end}"] for end in ("low", "high"))
    return difference, f"{low:+.2f} … {high:+.2f}", number(against["p_holm"], 2)


def _by_arm(rows: Rows) -> dict[str, list[Mapping[str, Any]]]:
    return {
        arm: [row for row in rows if row["arm"] == arm]
        for arm in dict.fromkeys(row["arm"] for row in rows)
    }

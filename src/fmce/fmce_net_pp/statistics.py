"""Arms side by side: mean ± sd over seeds, and paired differences with intervals and adjusted p."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fmce.config.sweep import BASELINE
from fmce.metrics.statistics import holm, mean_sd, paired_comparison

_Rows = Sequence[Mapping[str, Any]]


def arm_summaries(rows: _Rows) -> list[dict[str, Any]]:
    """Compute mean, sd (n − 1) and epoch time of each arm, in the order of the rows.

    Rows have arm, seed, test_accuracy (0–1) and epoch_seconds.

    Returns:
        One dict per arm: arm, mean, sd (None for a single run), n (its number of runs), epoch_seconds
        (median over runs; rough where several trained at a time) and time_over_baseline (None without
        a baseline).
    """
    by_arm = _by_arm(rows)
    seconds = {arm: float(np.median([r["epoch_seconds"] for r in by_arm[arm]])) for arm in by_arm}
    result = []
    for arm, mine in by_arm.items():
        mean, sd = mean_sd([row["test_accuracy"] for row in mine])
        summary = {"arm": arm, "mean": mean, "sd": None if len(mine) < 2 else sd, "n": len(mine)}
        ratio = seconds[arm] / seconds[BASELINE] if BASELINE in seconds else None
        result.append(summary | {"epoch_seconds": seconds[arm], "time_over_baseline": ratio})
    return result


def compare_with_baseline(rows: _Rows) -> list[dict[str, Any]]:
    """Compare every other arm with the baseline, p adjusted by Holm over all of them; see `compare_pairs`."""
    return compare_pairs(rows, {arm: (BASELINE, arm) for arm in _by_arm(rows) if arm != BASELINE})


def compare_pairs(rows: _Rows, pairs: Mapping[str, tuple[str, str]]) -> list[dict[str, Any]]:
    """Compare pairs of arms over their common seeds, p adjusted by Holm over all pairs.

    `pairs` maps a name to (reference arm, arm compared with it); `rows` are as in `arm_summaries`.

    Returns:
        One dict per pair with its name as `arm`, the fields of `PairedComparison`, `p_holm` and a verdict
        in words. Pairs with fewer than two common seeds are left out. One without spread has no p, but
        counts among those that p is adjusted for.
    """
    arms = _by_arm(rows)
    values = {arm: {r["seed"]: r["test_accuracy"] for r in mine} for arm, mine in arms.items()}
    results = {}
    for name, (reference, arm) in pairs.items():
        theirs, ours = values.get(reference, {}), values.get(arm, {})
        common = [seed for seed in theirs if seed in ours]
        if len(common) >= 2:
            before, after = ([one[seed] for seed in common] for one in (theirs, ours))
            results[name] = paired_comparison(before, after)
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


def _by_arm(rows: _Rows) -> dict[str, list[Mapping[str, Any]]]:
    arms: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        arms.setdefault(row["arm"], []).append(row)
    return arms

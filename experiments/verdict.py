"""How well the verdict on a curve finds the epoch of rest, on curves whose truth is known and on real ones.

    python -m experiments.verdict [--curves 100] [--rows]
    python -m experiments.verdict --real [--out runs/papers]

Simulates six kinds of loss curves at four levels of relative noise and judges each with and without its learning
rates, beside the published convergence epoch E_K, early stopping with patience 10 and a moving average of 10
epochs, all at µ = 1e-3 of the curve's range. Truth is the first epoch from which the noiseless curve changes
by at most µ per epoch. Judges curves that are cut where they rest and later fall by another 20 % or more, and
predicts E_K of curves that are not there yet. Takes about 5 minutes on two idle CPU cores. Puts one row per kind
and noise into results/verdict.jsonl and draws docs/images/verdict.svg. Expected: at 1 % noise a median error of
at most 1 epoch (E_K: 10 or more), intervals that cover 85 to 100 %, and no cut curve called converged when its
learning rates are given.

`--real` trains the digits under two schedules and 5,000 images of Fashion-MNIST, several seeds each, and judges
their curves: about 8 minutes on one idle core; if interrupted, rerun the command to resume. The true epoch of a
real curve is unknown; that of the mean curve over the seeds, which has less noise, stands in for it.
"""

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.result_rows import record_result
from experiments.script import RESULTS, run_script
from experiments.sensitivity import schedule_config
from experiments.tables.verdict import early_table, error_table, prediction_table, real_table
from fmce.console.tables import print_table
from fmce.convergence.phases import NoPhasesError, PhaseConfig, find_phases
from fmce.convergence.prediction import predict_convergence_epoch
from fmce.convergence.verdict import Verdict, judge_curve
from fmce.files import read_json_lines
from fmce.maturity.train_classifier import train_classifier

Array = NDArray[np.float64]
PICTURE = RESULTS.parent / "docs" / "images" / "verdict.svg"
NOISES = (0.0, 0.003, 0.01, 0.03)
SHARE = 1e-3  # µ over the curve's range
KEY = ("experiment", "kind", "noise")
# Shares of the way to E_K at which it is predicted.
SEEN = (0.5, 0.75)
REAL = {("digits", "cosine"): 5, ("digits", "step"): 5, ("fashion-mnist", "cosine"): 3}


class Known(NamedTuple):
    """A noiseless curve and its learning rates; cut: epochs after which it rests and later falls, or None."""

    losses: Array
    rates: Array
    cut: int | None = None


def exponential(draw: np.random.Generator, epochs: int) -> Known:
    """An exponential fall to a floor at a constant rate."""
    t = np.arange(epochs)
    losses = 2.3 * np.exp(-t / draw.uniform(2, epochs / 8)) + draw.uniform(0.005, 0.3)
    return Known(losses, np.full(epochs, 1e-3))


def power_law(draw: np.random.Generator, epochs: int) -> Known:
    """A power law to a floor at a constant rate."""
    t = np.arange(epochs)
    losses = 2.3 * (1 + t / draw.uniform(1, 4)) ** -draw.uniform(0.8, 2) + draw.uniform(0.005, 0.1)
    return Known(losses, np.full(epochs, 1e-3))


def rate_drop(draw: np.random.Generator, epochs: int) -> Known:
    """A plateau that a tenth of the learning rate ends."""
    t, drop = np.arange(epochs), int(epochs * draw.uniform(0.4, 0.6))
    fall = 0.35 * (1 - np.exp(-(t - drop).clip(0) / 2))
    losses = 1.5 * np.exp(-t / draw.uniform(3, 8)) + 0.5 - (t >= drop) * fall
    return Known(losses, np.where(t < drop, 1e-1, 1e-2), drop)


def cosine(draw: np.random.Generator, epochs: int) -> Known:
    """A fall that ends as the cosine schedule takes the learning rate to zero."""
    t = np.arange(epochs)
    rates = 0.5 * (1 + np.cos(np.pi * t / epochs))
    tau = epochs / draw.uniform(10, 14)
    return Known(2.3 * np.exp(-t / tau) + 0.3 * rates + 0.02, rates)


def plateau(draw: np.random.Generator, epochs: int) -> Known:
    """A plateau that ends by itself, at a constant rate."""
    t, end = np.arange(epochs), epochs * draw.uniform(0.4, 0.55)
    second = 1 / (1 + np.exp((t - end) / draw.uniform(1, 2)))
    losses = 1.4 * np.exp(-t / draw.uniform(2, 5)) + draw.uniform(0.3, 0.6) * second + 0.2
    return Known(losses, np.full(epochs, 1e-3), int(end) - 8)


def warm_restarts(draw: np.random.Generator, epochs: int) -> Known:
    """Two cosine cycles; the floor follows the rate, and the second cycle ends lower."""
    cycle = epochs // 2
    t = np.arange(epochs)
    rates = 0.5 * (1 + np.cos(np.pi * (t % cycle) / cycle))
    floor = np.where(t < cycle, 0.45, 0.3) + 0.25 * rates
    return Known(1.8 * np.exp(-t / draw.uniform(2, 5)) + floor, rates, cycle)


KINDS: dict[str, Callable[[np.random.Generator, int], Known]] = {
    "exponential": exponential,
    "power law": power_law,
    "rate drop": rate_drop,
    "cosine": cosine,
    "plateau": plateau,
    "warm restarts": warm_restarts,
}


def published(losses: Array, threshold: float) -> int | None:
    """The paper's convergence epoch, with its recursive average and B = 5."""
    try:
        config = PhaseConfig(num_phases=1, threshold=threshold)
        return find_phases(losses, config).convergence_epoch
    except NoPhasesError:
        return None


def patience(losses: Array, threshold: float) -> int | None:
    """The best epoch, when ten epochs in a row have not bettered it by the threshold."""
    best = 0
    for epoch in range(1, len(losses)):
        if losses[epoch] < losses[best] - threshold:
            best = epoch
        elif epoch - best >= 10:
            return best + 1
    return None


def moving_average(losses: Array, threshold: float) -> int | None:
    """The first epoch from which the mean of ten epochs changes by at most the threshold."""
    return settled(np.convolve(losses, np.full(10, 0.1), mode="valid"), threshold) + 9


# What the verdict is compared with; each returns an epoch, or None where it finds none.
BASELINES: dict[str, Callable[[Array, float], int | None]] = {
    "published E_K": published,
    "patience 10": patience,
    "moving average": moving_average,
}


def settled(losses: Array, threshold: float) -> int:
    """Return the first 1-based epoch from which no step is larger than the threshold."""
    moving = np.flatnonzero(np.abs(np.diff(losses)) > threshold)
    return int(moving[-1]) + 2 if moving.size else 1


def measure(kind: str, noise: float, curves: int) -> dict[str, Any]:
    """Return what every estimator makes of `curves` curves of a kind at one noise."""
    draw = np.random.default_rng([int(noise * 1e4), *kind.encode()])
    judged: dict[str, list[tuple[float, bool, float]]] = {"with rates": [], "without rates": []}
    errors: dict[str, list[float]] = {name: [] for name in BASELINES}
    cuts: dict[str, list[str]] = {"with rates": [], "without rates": []}
    predictions: list[dict[str, Any]] = []
    while len(judged["with rates"]) < curves:
        epochs = int(draw.choice([60, 100, 150]))
        known = KINDS[kind](draw, epochs)
        threshold = SHARE * float(np.ptp(known.losses))
        truth = settled(known.losses, threshold)
        if truth > epochs - 3:
            continue
        losses = known.losses * np.exp(noise * draw.standard_normal(epochs))
        for how, rates in (("with rates", known.rates), ("without rates", None)):
            verdict = judge_curve(losses, rates, threshold=threshold)
            judged[how].append(compared(verdict, truth, epochs))
            if known.cut is not None:
                seen = slice(0, known.cut)
                early = judge_curve(losses[seen], None if rates is None else rates[seen])
                cuts[how].append(early.state)
        if noise in (0.0, 0.01) and len(predictions) < curves:
            predictions += predicted(losses, threshold)
        for name, estimate in BASELINES.items():
            found = estimate(losses, threshold)
            errors[name].append(abs((epochs if found is None else found) - truth))
    return {
        "curves": curves,
        **{how: summary(rows) for how, rows in judged.items()},
        **{name: {"error": spread_of(rows)} for name, rows in errors.items()},
        "called converged before a later fall": {
            how: states.count("converged") / len(states) if states else None
            for how, states in cuts.items()
        },
        "predicted E_K": prediction_summary(predictions),
    }


def predicted(losses: Array, threshold: float) -> list[dict[str, Any]]:
    """Return what is predicted of E_K at each share of the way to it, beside what it became."""
    config = PhaseConfig(num_phases=1, threshold=threshold)
    if (truth := published(losses, threshold)) is None:
        return []
    made = []
    for share in SEEN:
        found = predict_convergence_epoch(losses[: round(share * truth)], config)
        row: dict[str, Any] = {"seen": share, "made": found is not None}
        if found is not None:
            row["error"] = abs(found.epoch - truth) / truth
            row["covers"] = found.low <= truth <= found.high
        made.append(row)
    return made


def prediction_summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return how often E_K was predicted at each share, its median error relative to E_K, and coverage."""
    summaries = []
    for share in SEEN if rows else ():
        here = [row for row in rows if row["seen"] == share]
        made = [row for row in here if row["made"]]
        summaries.append(
            {
                "seen": share,
                "curves": len(here),
                "predicted": len(made),
                "error": float(np.median([row["error"] for row in made])) if made else None,
                "coverage": float(np.mean([row["covers"] for row in made])) if made else None,
            }
        )
    return summaries


def judge_real(data: str, schedule: str, seeds: int, out: Path) -> dict[str, Any]:
    """Train a data set under a schedule with several seeds and judge the curves."""
    curves, published_epochs, verdicts = [], [], []
    for seed in range(seeds):
        config = schedule_config(data, schedule, [f"train.seed={seed}"])
        run = train_classifier(config, out / "reduced" / f"{data}-{schedule}-seed{seed}")
        threshold = config.phases.threshold
        verdict = judge_curve(run.losses, run.learning_rates, threshold=threshold)
        verdicts.append({k: verdict.to_dict()[k] for k in ("state", "epoch", "low", "high")})
        published_epochs.append(published(np.array(run.losses), threshold))
        curves.append(run.losses)
    mean = np.exp(np.log(curves).mean(axis=0))
    smooth = judge_curve(mean, run.learning_rates, threshold=threshold)
    return {
        "threshold": threshold,
        "learning_rates": run.learning_rates,
        "losses": [[float(f"{value:.5g}") for value in curve] for curve in curves],
        "verdicts": verdicts,
        "published": published_epochs,
        "mean curve": {"epoch": smooth.epoch, "published": published(mean, threshold)},
    }


def compared(verdict: Verdict, truth: int, epochs: int) -> tuple[float, bool, float]:
    """Return error, whether the interval covers the truth, and its width."""
    if verdict.epoch is None or verdict.low is None:
        return float(epochs - truth), False, float("nan")
    high = epochs if verdict.high is None else verdict.high
    return abs(verdict.epoch - truth), verdict.low <= truth <= high, high - verdict.low


def summary(rows: Sequence[tuple[float, bool, float]]) -> dict[str, Any]:
    """Return median error, its 90th percentile, coverage and median width."""
    errors, covered, widths = map(np.array, zip(*rows, strict=True))
    return {
        "error": spread_of(errors),
        "coverage": float(covered.mean()),
        "width": float(np.nanmedian(widths)),
    }


def spread_of(errors: Any) -> list[float]:
    """Return the median and the 90th percentile."""
    return [float(np.median(errors)), float(np.percentile(errors, 90))]


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate, judge, record, draw and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curves", type=int, default=100, help="curves per kind and noise")
    parser.add_argument("--results", type=Path, default=RESULTS / "verdict.jsonl")
    parser.add_argument("--figure", type=Path, default=PICTURE)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--rows", action="store_true", help="print recorded rows only")
    parser.add_argument("--real", action="store_true", help="train and judge real curves")
    parser.add_argument("--out", type=Path, default=Path("runs/papers"), help="runs of --real")
    options = parser.parse_args(argv)
    found: Iterable[tuple[str, float | None, dict[str, Any]]] = ()
    if options.real:
        found = (
            (f"{data}, {schedule}", None, judge_real(data, schedule, seeds, options.out))
            for (data, schedule), seeds in REAL.items()
        )
    elif not options.rows:
        found = simulated(options.curves, options.jobs)
    for kind, noise, result in found:
        experiment = "verdict" if noise is not None else "verdict real"
        row = {"experiment": experiment, "kind": kind, "noise": noise, "share": SHARE}
        record_result(options.results, row | {"result": result}, key=KEY)
    if not options.real and not options.rows:
        draw_examples(options.figure)
    rows = read_json_lines(options.results)
    print_table("Error in epochs: median, 90th percentile", *error_table(rows))
    print_table("Called converged although the curve falls later", *early_table(rows))
    print_table("Predicted E_K", *prediction_table(rows))
    print_table("Real curves", *real_table(rows))


def simulated(curves: int, jobs: int | None) -> Iterator[tuple[str, float, dict[str, Any]]]:
    """Yield kind, noise and result of every cell, measured in so many processes."""
    cells = [(kind, noise, curves) for kind in KINDS for noise in NOISES]
    with ProcessPoolExecutor(jobs) as pool:
        results = pool.map(measure, *zip(*cells, strict=True))
        for (kind, noise, _), result in zip(cells, results, strict=True):
            yield kind, noise, result


def draw_examples(path: Path) -> None:
    """Draw one curve of each kind at 1 % noise with its truth, the verdict and the published epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.6), layout="constrained")
    for axes, (kind, make) in zip(figure.subplots(2, 3).flat, KINDS.items(), strict=True):
        draw = np.random.default_rng(3)
        known = make(draw, 100)
        threshold = SHARE * float(np.ptp(known.losses))
        losses = known.losses * np.exp(0.01 * draw.standard_normal(100))
        verdict = judge_curve(losses, known.rates, threshold=threshold)
        epochs = np.arange(1, 101)
        axes.semilogy(epochs, losses, ".", color="#9aa3ad", markersize=3)
        axes.semilogy(epochs, verdict.trend, color="#2f6f4f", linewidth=1)
        if verdict.low is not None:
            axes.axvspan(verdict.low, verdict.high or 100, color="#2f6f4f", alpha=0.25, linewidth=0)
        axes.axvline(settled(known.losses, threshold), color="#1f2933", linewidth=0.8)
        if (late := published(losses, threshold)) is not None:
            axes.axvline(late, color="#c8501e", linewidth=0.8, linestyle="--")
        axes.set_title(f"{kind}: {verdict.state.replace('_', ' ')}", fontsize=9)
    figure.supxlabel(
        "epoch (black: truth; green: 90 % interval; dashed: published E_K)", fontsize=9
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    run_script(main)

r"""FMCE-Net++'s cheaper forms against the published one, on scikit-learn's digits, over paired seeds.

    python -m experiments.ral_variants [--out runs/ral-variants] [--raf 0.5] [--seeds 1 2 3 4 5]
    python -m experiments.ral_variants --out runs/ral-variants-8px --raf 0.9 --arms published "width 0.25" \
        --seeds 1 2 3 4 5 6 7 8 9 10 --set data.image_size=8 data.shift=1 'model.options={"width": 8}' \
        train.epochs=24 train.batch_size=128 train.learning_rate=5e-3 phases.num_phases=5 \
        phases.if_not_converged=last fmce_net.epochs=10 recorder.probe_images=0

Time: about 25 minutes on one idle CPU core; the second command two. If interrupted, rerun the command to resume.
Records one row per RAF in results/ral_variants.jsonl, from the third seed on anew after each. RAF 0.5 is the
strongest pull for which the paper's table has gains, so that forms that pull differently differ most. Beside test
accuracy each arm gets its *pull*: the published oracle's −log q_K on the maps of test images at the end, which
FMCE-Net++ trains down. Expected: the pull of a plain training is a few nats and that of the published form nearly
zero; the cheapest forms lose up to several pp of accuracy at RAF 0.5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.script import options_parser, record, run_script
from fmce.config.io import with_settings
from fmce.config.presets import preset
from fmce.config.run import AuxiliaryConfig, RunConfig
from fmce.engine.runtime import Runtime, make_runtime
from fmce.feature_maps.extractor import map_extractor
from fmce.losses.auxiliary import fmcs_loss
from fmce.maturity.train_classifier import train_classifier
from fmce.maturity.train_fmce_net import train_fmce_net
from fmce.metrics.statistics import holm, mean_sd, paired_comparison
from fmce.runs.run import Run

LEAST_SEEDS = 3
BASELINE, PUBLISHED, NARROW = "plain training", "published", 0.25
FORMS: dict[str, dict[str, Any]] = {
    PUBLISHED: {},
    "every 4": {"oracle_every": 4},
    "quarter of the batch": {"oracle_batch_fraction": 0.25},
    "width 0.25": {"oracle_width": NARROW},
    "width 0.25, every 4": {"oracle_width": NARROW, "oracle_every": 4},
    "every 4, quarter of the batch": {"oracle_every": 4, "oracle_batch_fraction": 0.25},
}


def main(argv: Sequence[str] | None = None) -> None:
    """Train the oracles and all arms, compare, and record the row."""
    parser = options_parser(__doc__, "ral_variants.jsonl", "runs/ral-variants")
    parser.add_argument("--raf", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    arms = (BASELINE, *FORMS)
    parser.add_argument(
        "--arms", nargs="+", default=list(arms), choices=arms, help=f"all; {PUBLISHED} always"
    )
    text = "settings of the oracle's training and so of all arms, beside the preset of the digits"
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help=text)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(argv)
    runtime = make_runtime(options.device)
    oracle = train_classifier(
        with_settings(preset("digits"), options.set), options.out / "oracle", runtime=runtime
    )
    chosen = [name for name in arms if name in {PUBLISHED, *options.arms}]
    used = sorted({FORMS.get(name, {}).get("oracle_width", 1.0) for name in chosen}, reverse=True)
    widths = {width: train_oracle(oracle, width, runtime) for width in used}
    rows: list[dict[str, Any]] = []
    for count, seed in enumerate(options.seeds, start=1):
        rows += [arm_row(name, oracle, options.raf, seed, options.out, runtime) for name in chosen]
        if count >= LEAST_SEEDS:
            about = {"raf": options.raf, "seeds": options.seeds[:count], "oracles": widths}
            about["epochs"] = oracle.phases.convergence_epoch
            result = {**about, **compared(rows), "rows": rows}
            set_by = f" ({', '.join(options.set)})" if options.set else ""
            some = "" if chosen == list(arms) else f": {', '.join(chosen)}"
            what, seed = f"digits{set_by}, RAF {options.raf:g}{some}", oracle.config.train.seed
            record(options.results, "ral_variants", what, oracle.config, result, seed=seed)


def train_oracle(run: Run, width: float, runtime: Runtime) -> dict[str, Any]:
    """Train the run's FMCE-Net of a width; return its size and accuracy."""
    config = replace(run.config.fmce_net, width=width)
    metrics = train_fmce_net(run, "map", config=config, runtime=runtime)
    return {
        "parameters": metrics["parameters"],
        "held_out": metrics["held_out"]["accuracy"],
        "test_images": metrics["test_images"]["accuracy"],
    }


def arm_row(
    name: str, oracle: Run, raf: float, seed: int, out: Path, runtime: Runtime
) -> dict[str, Any]:
    """Train one arm of a seed; return what it came to."""
    run = train_classifier(
        arm(name, oracle, raf, seed), folder(out, name, raf, seed), runtime=runtime
    )
    done = run.done or {}
    return {
        "arm": name,
        "seed": seed,
        "test_accuracy": done["test_accuracy"],
        "test_loss": done["test_loss"],
        "pull": pull(run, oracle, runtime),
        "epoch_seconds": float(np.median([row["time_seconds"] for row in run.curve])),
    }


def arm(name: str, oracle: Run, raf: float, seed: int) -> RunConfig:
    """Return an arm's config; arms of a seed share weights, images, their order and number of epochs."""
    epochs = oracle.phases.convergence_epoch
    config = replace(oracle.config, train=replace(oracle.config.train, seed=seed, epochs=epochs))
    if name == BASELINE:
        return config
    auxiliary = AuxiliaryConfig("ral", str(oracle.path.resolve()), raf=raf, **FORMS[name])
    return replace(config, auxiliary=auxiliary)


def folder(out: Path, name: str, raf: float, seed: int) -> Path:
    """Return an arm's run folder; the baseline is the same for every RAF."""
    plain = name.replace(",", "").replace(" ", "-")
    return out / (plain if name == BASELINE else f"{plain}-raf{raf:g}") / f"seed{seed}"


@torch.no_grad()
def pull(run: Run, oracle: Run, runtime: Runtime) -> float:
    """Return the published oracle's mean −log q_K on the last checkpoint's maps of test images, in nats."""
    net = oracle.fmce_net("map", 1.0).to(runtime.device)
    extract = map_extractor(run, run.epochs[-1], runtime)
    total, count = 0.0, 0
    for batch in run.setup.batches(run.setup.data.test, runtime).epoch():
        total += fmcs_loss(net(extract(batch.images))).item() * len(batch.images)
        count += len(batch.images)
    return total / count


def compared(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return each arm's means, and its paired differences from the published form."""
    names = list(dict.fromkeys(row["arm"] for row in rows))
    keys = ("test_accuracy", "test_loss", "pull", "epoch_seconds")
    values = {n: {k: [r[k] for r in rows if r["arm"] == n] for k in keys} for n in names}
    arms: list[dict[str, Any]] = [{"arm": name} for name in names]
    for arm, key in product(arms, keys):
        arm[key], arm[f"{key}_sd"] = mean_sd(values[arm["arm"]][key])
    return {
        "arms": arms,
        "accuracy_over_published": differences(values, "test_accuracy"),
        "pull_over_published": differences(values, "pull"),
    }


def differences(values: Mapping[str, Mapping[str, list[float]]], key: str) -> list[dict[str, Any]]:
    """Compare every other arm with the published form seed by seed, p adjusted by Holm."""
    others = [name for name in values if name != PUBLISHED]
    results = [paired_comparison(values[PUBLISHED][key], values[name][key]) for name in others]
    adjusted = holm(np.array([result.p_value for result in results]))
    return [
        {"arm": name, **result.to_dict(), "p_holm": None if np.isnan(p) else float(p)}
        for name, result, p in zip(others, results, adjusted, strict=True)
    ]


if __name__ == "__main__":
    run_script(main)

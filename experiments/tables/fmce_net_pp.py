"""FMCE-Net++: arms against plain training beside the published rows, what a step costs, and cheaper forms."""

from collections.abc import Mapping, Sequence
from functools import partial

from experiments.paper_tables import MODEL_NAMES, data_name, model_name, published_accuracies
from experiments.result_rows import (
    Column,
    Row,
    Table,
    interval,
    percent,
    select,
    spread,
    table,
    value,
)
from experiments.tables import digits
from fmce.fmce_net_pp.statistics import arm_summaries, compare_pairs, compare_with_baseline

ARMS = {
    "baseline": "plain training",
    "random_oracle": "control: untrained FMCE-Net as oracle",
    "phase_1": "control: oracle pulls to phase 1, not K",
    "scaled_rate": "control: plain, learning rate × RAF",
    "feature_matching": "control: maps pulled to checkpoint E_K's",
    "label_smoothing": "control: plain, targets smoothed by 0.1",
    "weight_average": "control: plain, moving average of the weights",
    "ridge_probe": "ridge probe of the batch in place of an FMCE-Net",
}


def raf_of(arm: str) -> float | None:
    """Return an arm's RAF: 1 for plain training, None for a control.

    >>> raf_of("raf0.75"), raf_of("baseline"), raf_of("phase_1")
    (0.75, 1.0, None)
    """
    if arm == "baseline":
        return 1.0
    return float(arm.removeprefix("raf").split()[0]) if arm.startswith("raf") else None


def arm_name(arm: str) -> str:
    """Return an arm's name in words."""
    if arm == "ral":
        return "FMCE-Net++, selected RAF"
    return ARMS[arm] if arm in ARMS else f"FMCE-Net++, RAF {raf_of(arm):g}"


def arm_table(result: Row, data: str = "") -> Table:
    """Return the arms of a group with their paired differences from plain training.

    Naming a data set adds the paper's accuracies at each RAF, one column per published network.
    """
    against, seeds = {c["arm"]: c for c in result["comparisons"]}, len(result["seeds"])
    columns: dict[str, Column] = {
        "arm": lambda arm: arm_name(arm["arm"]),
        f"test accuracy, % ({seeds} seeds)": lambda arm: mean_cell(arm, seeds),
        "− plain, pp": lambda arm: value(against.get(arm["arm"]), "mean_difference", "pp"),
        "95 % interval": lambda arm: interval(against.get(arm["arm"])),
        "p": lambda arm: value(against.get(arm["arm"]), "p_value", ".2g"),
        "p (Holm)": lambda arm: value(against.get(arm["arm"]), "p_holm", ".2g"),
    }
    for model, name in MODEL_NAMES.items():
        if published := published_accuracies(data, model):
            columns[f"paper, {name}"] = partial(published_cell, published)
    return table(result["arms"], columns)


def mean_cell(arm: Row, seeds: int) -> str:
    """Format an arm's mean ± sd in percent, with its number of seeds where some are missing."""
    missing = "" if arm.get("n", seeds) == seeds else f" ({arm['n']} of {seeds} seeds)"
    return spread(arm) + missing


def published_cell(published: Mapping[float, tuple[float, float]], arm: Row) -> str:
    """Format the published accuracy at an arm's RAF."""
    accuracy = published.get(raf_of(arm["arm"]) or -1)
    return "{:.2f} ± {:.2f}".format(*accuracy) if accuracy else "–"


def digits_table(rows: Sequence[Row]) -> Table:
    """Return the arms on the digits; last the pair at the oracle's own seed, which has no statistics."""
    result = digits.comparison(rows)
    header, lines = arm_table(result)
    own = [
        (
            f"{arm_name(row['arm'])}, oracle's own seed",
            f"{100 * row['test_accuracy']:.2f}",
            *["–"] * (len(header) - 2),
        )
        for row in result["same_seed"]
    ]
    return Table(header, [*lines, *own])


def setup_table(rows: Sequence[Row]) -> Table:
    """Return what was compared with how many seeds and how RAF was selected, on the digits and in each sweep."""
    columns: dict[str, Column] = {
        "data, network": lambda row: ", ".join(
            (data_name(row["config"]["data"]["name"]), row["config"]["model"]["name"])
            if row["experiment"] == "digits"
            else (data_name(row["data"]), model_name(row["model"]))
        ),
        "settings": lambda row: ", ".join(f"`{one}`" for one in row["config"].get("settings", [])),
        "paired seeds": lambda row: str(len(row["result"]["seeds"])),
        "epochs (the oracle's E_K)": ("result.epochs", ""),
        "RAF selected": ("result.selection.raf", "g"),
        "validation accuracy and loss by RAF": lambda row: "; ".join(
            f"{c['raf']:g}: {value(c, 'validation_accuracy', '%')}, {value(c, 'validation_loss', '.4f')}"
            for c in row["result"]["selection"]["candidates"]
        ),
    }
    found = select(rows, what="FMCE-Net++ and controls")
    return table([*found, *select(rows, experiment="fmce_net_pp_table1")], columns)


def sweep_tables(rows: Sequence[Row]) -> str:
    """Return Table I, a table per sweep."""
    sweeps = select(rows, experiment="fmce_net_pp_table1")
    return "\n\n".join(arm_table(row["result"], row["data"]).markdown() for row in sweeps)


def oracle_forms_tables(rows: Sequence[Row]) -> str:
    """Return the arms beside other oracles, a table per data set."""
    found = select(rows, experiment="oracle_forms")
    names = dict.fromkeys(row["data"] for row in found)
    return "\n\n".join(forms_table(select(found, data=name), name).markdown() for name in names)


def forms_table(rows: Sequence[Row], data: str) -> Table:
    """Return the arms of a data set over paired seeds: on test images, against plain training, on training images."""
    flat = [
        {"arm": arm, "seed": row["seed"], **scores}
        for row in rows
        for arm, scores in row["result"]["arms"].items()
    ]
    against = {one["arm"]: one for one in compare_with_baseline(flat)}
    over = compare_pairs(flat, {arm: (arm, "ral") for arm in against if arm != "ral"})
    ral = {one["arm"]: one for one in over}

    def mean(arm: Row, name: str) -> float:
        return float(sum(one[name] for one in flat if one["arm"] == arm["arm"]) / arm["n"])

    columns: dict[str, Column] = {
        f"{data_name(data)}, {len(rows)} seeds": lambda arm: forms_name(arm["arm"]),
        "test accuracy, %": spread,
        "− plain, pp": lambda arm: value(against.get(arm["arm"]), "mean_difference", "pp"),
        "95 % interval": lambda arm: interval(against.get(arm["arm"])),
        "p (Holm)": lambda arm: value(against.get(arm["arm"]), "p_holm", ".2g"),
        "FMCE-Net++ − it, pp": lambda arm: value(ral.get(arm["arm"]), "mean_difference", "pp"),
        "on training images": lambda arm: percent(mean(arm, "train_accuracy")),
        "test loss": lambda arm: f"{mean(arm, 'test_loss'):.3f}",
    }
    return table(arm_summaries(flat), columns)


def forms_name(arm: str) -> str:
    """Return the name of an arm at the fixed RAF."""
    return "FMCE-Net++, RAF 0.9" if arm == "ral" else arm_name(arm)


def cam_table(rows: Sequence[Row]) -> Table:
    """Return the mean Gini of Grad-CAM over RAF."""
    lines = [
        (
            f"{data_name(row['data'])}, {model_name(row['model'])}: {arm}",
            *(value(means, name, ".3f") for name in ("gini", "area_above_half_max")),
        )
        for row in select(rows, experiment="fmce_net_pp_figures")
        for arm, means in zip(row["result"]["arms"], row["result"]["per_arm"], strict=True)
    ]
    return Table(("Grad-CAM over RAF", "Gini", "area above half max"), lines)


def cost_table(rows: Sequence[Row]) -> Table:
    """Return each form's step over the plain step: time and operations, two columns per network."""
    rows, header = select(rows, benchmark="ral_step"), ["form"]
    for row in rows:
        header += [f"{where(row)}: time ÷ plain", "operations ÷ plain"]
    lines = [
        (
            name,
            *(
                value(row["forms"].get(name), f"{what}_over_plain", ".2f")
                for row in rows
                for what in ("step", "operations")
            ),
        )
        for name in dict.fromkeys(name for row in rows for name in row["forms"])
    ]
    saved = [cell for row in rows for cell in (value(row, "oracle_after_over_before", ".2f"), "–")]
    return Table(header, [*lines, ("oracle alone, without what pooling drops ÷ all", *saved)])


def where(row: Row) -> str:
    """Return with which network and on what a row was timed."""
    # The environment names a machine's GPU also where the processor was timed.
    kind = row["environment"]["gpu"] if row["device"] == "cuda" else "CPU"
    precision = "" if row["precision"] == "float32" else f", {row['precision']}"
    clock = ", processor time" if row["clock"] == "process" else ""
    return f"{row['model'].rpartition(':')[2]}, {kind}, batch {row['batch_size']}{precision}{clock}"


def form_table(rows: Sequence[Row]) -> Table:
    """Return accuracy and pull of each form of FMCE-Net++, beside the published form's."""
    lines = []
    for row in select(rows, experiment="ral_variants"):
        result = row["result"]
        accuracy, pull = (
            {c["arm"]: c for c in result[f"{name}_over_published"]} for name in ("accuracy", "pull")
        )
        lines += [
            (
                arm["arm"],
                f"{row['config']['data']['image_size']} px, {result['epochs']} epochs",
                f"{result['raf']:g}",
                str(len(result["seeds"])),
                spread(arm, "test_accuracy", "test_accuracy_sd"),
                difference(accuracy.get(arm["arm"]), 100, ".2f"),
                f"{arm['pull']:.3f} ± {arm['pull_sd']:.3f}",
                difference(pull.get(arm["arm"]), 1, ".3f"),
            )
            for arm in result["arms"]
        ]
    header = ("test accuracy, % ± sd", "− published, pp (95 %)", "pull, nats ± sd")
    return Table(("form", "digits at", "RAF", "seeds", *header, "− published, nats (95 %)"), lines)


def difference(comparison: Row | None, scale: float, form: str) -> str:
    """Format a paired difference ± half of its interval."""
    if comparison is None:
        return "–"
    middle, low, high = (
        comparison[name] for name in ("mean_difference", "interval_low", "interval_high")
    )
    half = "all equal" if low is None else f"± {scale * (high - low) / 2:{form}}"
    return f"{scale * middle:+{form}} {half}"


def oracle_table(rows: Sequence[Row]) -> Table:
    """Return the oracles of the cheaper forms."""
    lines = [
        (width, f"{oracle['parameters']:,}", percent(oracle["test_images"]))
        for row in select(rows, experiment="ral_variants")
        for width, oracle in row["result"]["oracles"].items()
    ]
    return Table(("width of the oracle", "weights", "phases recognised on test images"), lines)

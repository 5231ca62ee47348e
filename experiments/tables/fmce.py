"""FMCE on the papers' data sets, ours beside the published rows: markers, FMCE-Nets, Grad-CAM, sensitivity."""

from collections.abc import Sequence
from statistics import mean

from experiments.paper_tables import (
    DATA_NAMES,
    data_name,
    model_name,
    paper_table,
    published_markers,
)
from experiments.result_rows import Column, Row, Table, epochs, percent, select, table, value

NET_COLUMNS = dict.fromkeys(("accuracy", "precision", "recall", "f1"), ".4f") | {
    "mae": ".3g",
    "spearman": ".4f",
}
NET_LABELS = {
    "held_out": "held out",
    "test_images": "test images",
    "map_split_on_other_run": "split map's net on the other run",
}
CAM_COLUMNS = {
    "gini": "Gini",
    "area_above_half_max": "area above half max",
    "centroid_drift": "centroid drift",
    "overlap": "overlap with the phase before",
}
VARIANT_COLUMNS: dict[str, Column] = {
    "setting": ("setting", ""),
    "markers (epochs)": ("markers", "epochs"),
    "to step curve, epochs": ("smoothing_distance", ".1f"),
    "lr at E_K": ("lr_fraction", ".3f"),
}


def short_name(row: Row) -> str:
    """Return data, network and image size of a row, by the papers' names where they have one."""
    size = row["config"]["data"]["image_size"]
    return f"{data_name(row['data'])}, {model_name(row['model'])}, {size} px"


def marker_table(rows: Sequence[Row]) -> Table:
    """Return Table I: each data set's published rows, then ours."""
    lines: list[tuple[str, ...]] = []
    rows = select(rows, experiment="fmce_table1")
    for data in dict.fromkeys(row["data"] for row in rows):
        lines += [
            (
                f"paper: {one['dataset']}, {one['model']}, 224 px",
                str(one["epochs"]),
                f"{one['mu_cqi']:g}",
                epochs(one["markers"]),
                percent(one["top1_accuracy"]),
            )
            for one in published_markers(data)
        ]
        for row in select(rows, data=data):
            result, phases = row["result"], row["config"]["phases"]
            share = phases.get("relative_threshold")
            lines.append(
                (
                    f"here: {short_name(row)}, {result['train_images']} images, seed {row['seed']}",
                    str(result["epochs"]),
                    f"{phases['threshold']:g}" if share is None else f"{share:g} of the fall",
                    epochs(result["markers"]),
                    percent(result["test_accuracy"]),
                )
            )
    return Table(("data, network", "M", "µ", "markers (epochs)", "test accuracy"), lines)


def cause_table(rows: Sequence[Row]) -> Table:
    """Return what our markers of Table I owe to the smoother and the schedule."""
    columns: dict[str, Column] = {
        "data, network": lambda row: f"{short_name(row)}, seed {row['seed']}",
        "E_K": lambda row: f"{row['result']['markers'][-1]} of {row['result']['epochs']}",
        "to step curve, epochs": ("result.smoothing_distance", ".1f"),
        "lr at E_K": ("result.lr_fraction", ".3f"),
        "to published, shares of E_K": lambda row: " and ".join(shape_distances(row)) or "–",
        "unsmoothed": ("result.unsmoothed_markers", "epochs"),
        "debiased": ("result.debiased_markers", "epochs"),
    }
    found = select(rows, experiment="fmce_table1")
    return table([row for row in found if row["result"]["markers"]], columns)


def shape_distances(row: Row) -> list[str]:
    """Return the mean distance of E_k / E_K to each published row of the data set."""
    ours = row["result"]["markers"]
    return [
        f"{mean(abs(a / ours[-1] - b / theirs[-1]) for a, b in zip(ours, theirs, strict=True)):.2f}"
        for theirs in (published["markers"] for published in published_markers(row["data"]))
    ]


def fmce_net_table(rows: Sequence[Row]) -> Table:
    """Return Table II: each data set's published rows, then ours by split and maps."""
    lines: list[tuple[str, ...]] = []
    rows = select(rows, experiment="fmce_table2")
    for data in dict.fromkeys(row["data"] for row in rows):
        published = {"CIFAR-10": "CIFAR", "MNIST": "MNIST"}.get(DATA_NAMES.get(data, ""))
        lines += [
            (f"paper: {name}", *(f"{number:.4f}" for number in numbers), "–", "–")
            for name, *numbers in paper_table("fmce_table_2")["rows"]
            if name.partition("-")[0] == published
        ]
        lines += [
            (
                f"here: {short_name(row)}, split {row['result']['split']}: {label}",
                *(value(row["result"][maps], name, form) for name, form in NET_COLUMNS.items()),
            )
            for row in select(rows, data=data)
            for maps, label in NET_LABELS.items()
            if row["result"].get(maps)
        ]
    return Table(("FMCE-Net", *NET_COLUMNS), lines)


def cam_table(rows: Sequence[Row]) -> Table:
    """Return Grad-CAM's numbers at the first, second, middle and last phase of each case."""
    lines = [
        (
            f"{short_name(row)}, phase {phase}",
            str(row["result"]["epochs"][phase - 1]),
            *(value(row["result"]["per_phase"][phase - 1], name, ".3f") for name in CAM_COLUMNS),
        )
        for row in select(rows, experiment="fmce_figures")
        for last in [len(row["result"]["epochs"])]
        for phase in dict.fromkeys((1, 2, (last + 1) // 2, last))
    ]
    return Table(("data, network, phase", "epoch", *CAM_COLUMNS.values()), lines)


def curve_name(row: Row) -> str:
    """Return whose curve a row of the sensitivity study is about, and the µ it was read with."""
    config = row["config"]
    return (
        f"{data_name(config['data']['name'])}, {model_name(config['model']['name'])} at "
        f"{config['data']['image_size']} px, {config['train']['epochs']} epochs, "
        f"µ = {config['phases']['threshold']:g}"
    )


def variant_tables(rows: Sequence[Row]) -> str:
    """Return the markers of each real curve under changed settings, a headed table per curve."""
    return "\n\n".join(
        f"### {curve_name(row)}\n\n{table(row['result']['variants'], VARIANT_COLUMNS).markdown()}"
        for row in select(rows, experiment="sensitivity", what="settings")
    )


def move_table(rows: Sequence[Row]) -> Table:
    """Return by how many epochs each setting moves E_K over all curves, and how often it leaves none."""
    curves = [
        row["result"]["variants"] for row in select(rows, experiment="sensitivity", what="settings")
    ]
    lines = []
    for label, prefix in (("smoother", "smoothing"), ("B", "B ="), ("µ × 0.5 to 4", "µ ×")):
        pairs = [
            (used["markers"], one["markers"])
            for used, *others in curves
            for one in others
            if one["setting"].startswith(prefix)
        ]
        moves = [changed[-1] - used[-1] for used, changed in pairs if changed]
        lost = sum(not changed for _, changed in pairs)
        lines.append((label, f"{min(moves):+d}", f"{max(moves):+d}", f"{lost} of {len(pairs)}"))
    header = ("least", "most", "no E_K")
    return Table((f"E_K on {len(curves)} curves moves by", *header), lines)


def schedules(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the schedules."""
    return [r for r in select(rows, experiment="sensitivity") if r["what"].startswith("schedule")]


def markers_at(row: Row, factor: int) -> list[int] | None:
    """Return a schedule's markers at a multiple of µ."""
    found: list[int] | None
    (found,) = (v["markers"] for v in row["result"]["variants"] if v["setting"] == f"µ × {factor}")
    return found


def schedule_table(rows: Sequence[Row]) -> Table:
    """Return where the same training converges under each learning-rate schedule."""
    columns: dict[str, Column] = {
        "data, schedule": lambda row: f"{data_name(row['data'])}, {row['result']['schedule']}",
        "test accuracy": ("result.test_accuracy", "%"),
        "last CQI": ("result.last_cqi", ".1e"),
        "markers at µ": lambda row: epochs(markers_at(row, 1)),
        "at 2 µ": lambda row: epochs(markers_at(row, 2)),
        "at 4 µ": lambda row: epochs(markers_at(row, 4)),
    }
    return table(schedules(rows), columns)

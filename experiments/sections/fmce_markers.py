"""FMCE's Table I: markers and accuracy of plain trainings on the papers' data sets, beside the published rows."""

from collections.abc import Sequence

from experiments.paper_runs import missing_cases
from experiments.paper_tables import DATA_NAMES, MODEL_NAMES, paper_table, published_markers
from experiments.result_rows import Row, decimal, missing, numbers, percent, table

ORDER, COMMAND = 100, "python -m experiments.fmce_table1 --medium"
HEADER = ("data, network", "M", "µ", "markers (epochs)", "test accuracy")


def covers(row: Row) -> bool:
    """Take the plain trainings of fmce_table1.py."""
    return row.get("experiment") == "fmce_table1"


def section(rows: Sequence[Row]) -> list[str]:
    """Return both columns, and what made each of our rows of markers."""
    parts = ["## FMCE, Table I: markers on the papers' data sets"]
    if not rows:
        return [*parts, missing("fmce_table1", COMMAND)]
    header = ("data, network", "to step curve, epochs", "lr at E_K", "unsmoothed", "debiased")
    lines = [causes(row) for row in rows if row["result"]["markers"]]
    absent = [missing(f"fmce_table1, {name}", COMMAND) for name in missing_cases(rows)]
    note = (
        "“To step curve” is the mean distance to the markers of a curve that falls in one step, "
        "smoothed alike; below 2 the smoother makes them. “lr” is a share of the peak: below 0.25 the "
        "cosine's end may have made the convergence."
    )
    return [*parts, *absent, table(HEADER, marker_lines(rows)), table(header, lines), note]


def marker_lines(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return a line for each published row of the data sets and for each of ours."""
    published = paper_table("fmce_table_1")
    lines = []
    for data in dict.fromkeys(row["data"] for row in rows):
        for values in published["rows"]:
            one = dict(zip(published["columns"], values, strict=True))
            if one["dataset"] == DATA_NAMES.get(data):
                lines.append(_paper_line(one))
        lines += [_our_line(row) for row in rows if row["data"] == data]
    return lines


def _paper_line(one: Row) -> tuple[str, ...]:
    name = f"paper: {one['dataset']}, {one['model']}, 224 px"
    markers, accuracy = numbers(one["markers"]), percent(one["top1_accuracy"])
    return name, str(one["epochs"]), f"{one['mu_cqi']:g}", markers, accuracy


def _our_line(row: Row) -> tuple[str, ...]:
    config, result = row["config"], row["result"]
    accuracy = percent(result["test_accuracy"])
    share, given = config["phases"].get("relative_threshold"), config["phases"]["threshold"]
    threshold = f"{given:g}" if share is None else f"{share:g} of the fall"
    markers = numbers(result["markers"])
    return f"here: {long_name(row)}", str(result["epochs"]), threshold, markers, accuracy


def long_name(row: Row) -> str:
    """Return data, network, size, images and seed of a row."""
    return f"{short_name(row)}, {row['result']['train_images']} images, seed {row['seed']}"


def short_name(row: Row) -> str:
    """Return data, network and image size of a row, by the papers' names where they have one."""
    data, model = row["data"], row["model"]
    name = f"{DATA_NAMES.get(data, data.rpartition(':')[2])}, {MODEL_NAMES.get(model, model)}"
    return f"{name}, {row['config']['data']['image_size']} px"


def causes(row: Row) -> tuple[str, ...]:
    """Return what a row's markers owe to the smoother and the schedule."""
    result = row["result"]
    return (
        f"{short_name(row)}, seed {row['seed']}",
        decimal(result["smoothing_distance"], 1),
        decimal(result["lr_fraction"], 3),
        numbers(result["unsmoothed_markers"]),
        numbers(result["debiased_markers"]),
    )


def reading(rows: Sequence[Row]) -> list[str]:
    """Say what of Table I is reproduced, and what was not tried."""
    with_phases = [r for r in rows if r["result"]["markers"] and r["seed"] == 0]
    whole = [r for r in with_phases if len(r["result"]["markers"]) == 10]
    # Short runs, which only show that a set loads, are asked for fewer.
    lost = [
        short_name(r)
        for r in rows
        if not r["result"]["markers"] and r["config"]["phases"].get("num_phases") == 10
    ]
    return [*_ladder(whole, lost), *_makers(whole), *_scale(rows)]


def _ladder(rows: Sequence[Row], lost: Sequence[str]) -> list[str]:
    without = f" No ten phases at the µ used: {', '.join(lost)}." if lost else ""
    if not rows:
        return [f"**Does not reproduce: ten phases.**{without}"] if lost else []
    last = ", ".join(
        f"{short_name(r)}: {r['result']['markers'][-1]} of {r['result']['epochs']}" for r in rows
    )
    distances = [d for row in rows for d in shape_distances(row)]
    shape = (
        f" As shares of E_K they lie {sum(distances) / len(distances):.2f} from the "
        "published rows of the same set on average."
        if distances
        else ""
    )
    return [
        f"**Reproduces in {'part' if lost else 'kind'}: trainings on the papers' data converge and have ten "
        f"phases.** (That markers rise is by construction.) E_K by set: {last}.{without}{shape} The epochs "
        "themselves depend on µ and M and are not comparable."
    ]


def shape_distances(row: Row) -> list[float]:
    """Return the mean distance of E_k / E_K to each published row of the data set."""
    ours = row["result"]["markers"]
    found = []
    for model in MODEL_NAMES:
        published = published_markers(row["data"], model)
        if published:
            theirs = published["markers"]
            pairs = zip(ours, theirs, strict=True)
            found.append(sum(abs(a / ours[-1] - b / theirs[-1]) for a, b in pairs) / len(ours))
    return found


def _makers(rows: Sequence[Row]) -> list[str]:
    known = [r["result"] for r in rows if r["result"]["smoothing_distance"] is not None]
    if not known:
        return []
    near = [one["smoothing_distance"] for one in known]
    late = [one["lr_fraction"] for one in known]
    driven = sum(value < 0.25 for value in late)
    return [
        f"**The rate was low when runs “converged”.** In {driven} of {len(known)} of these runs the "
        f"cosine had brought the learning rate below a quarter of its peak at E_K ({min(late):.3f} to "
        f"{max(late):.3f}), so it may have a part in E_K; a step curve's markers are {min(near):.1f} to "
        f"{max(near):.1f} epochs away."
    ]


def _scale(rows: Sequence[Row]) -> list[str]:
    if not rows or any(row["scale"] == "paper" for row in rows):
        return []
    return [
        "**Not run: the published rows themselves.** ResNet-50 and ShuffleNet v2 at 224 px over 100 to "
        "250 epochs want a GPU, and there was none. The same scripts without `--medium` run them and "
        "put their rows here."
    ]

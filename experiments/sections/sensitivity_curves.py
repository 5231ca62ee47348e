"""What the settings that the papers leave open, and the schedule, do to markers on real curves."""

from collections.abc import Sequence

from experiments.paper_tables import DATA_NAMES, MODEL_NAMES
from experiments.result_rows import Row, decimal, missing, numbers, percent, table

ORDER, COMMAND = 140, "python -m experiments.sensitivity"
SCHEDULED, SCHEDULES = ("digits", "fashion-mnist"), ("cosine", "constant", "step")
# Epochs between schedules below which they make no difference worth a name.
HARDLY = 2
HEADER = ("setting", "markers (epochs)", "to step curve, epochs", "lr at E_K")


def covers(row: Row) -> bool:
    """Take the rows of sensitivity.py."""
    return row.get("experiment") == "sensitivity"


def section(rows: Sequence[Row]) -> list[str]:
    """Return a table a curve, and one of the schedules."""
    parts = ["## Sensitivity of markers, on real curves"]
    if not rows:
        return [*parts, missing("sensitivity", COMMAND)]
    there = {(row["what"], row["data"]) for row in rows}
    wanted = [(f"schedule {name}", data) for data in SCHEDULED for name in SCHEDULES]
    parts += [
        missing(f"{what}, {data}", COMMAND) for what, data in wanted if (what, data) not in there
    ]
    for row in settings_of(rows):
        parts += [f"### {curve_name(row)}", table(HEADER, variant_lines(row))]
    schedules = schedules_of(rows)
    if schedules:
        header = ("data, schedule", "test accuracy", "last CQI", "markers at µ", "at 2 µ", "at 4 µ")
        note = (
            "Same training, only the schedule differs: cosine falls to zero, constant stays, step divides the "
            "rate by ten after half and after three quarters of the epochs."
        )
        lines = [schedule_line(row) for row in schedules]
        parts += ["### Learning-rate schedules", table(header, lines), note]
    return parts


def settings_of(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that vary settings on one curve."""
    return [row for row in rows if row["what"] == "settings"]


def schedules_of(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of schedules."""
    return [row for row in rows if row["what"].startswith("schedule")]


def curve_name(row: Row) -> str:
    """Say whose curve it is and with which µ it was read."""
    config = row["config"]
    data, model = config["data"]["name"], config["model"]["name"]
    return (
        f"{DATA_NAMES.get(data, data)}, {MODEL_NAMES.get(model, model)} at "
        f"{config['data']['image_size']} px, {config['train']['epochs']} epochs, µ = "
        f"{config['phases']['threshold']:g}"
    )


def variant_lines(row: Row) -> list[tuple[str, ...]]:
    """Return a line a changed setting."""
    return [
        (
            one["setting"],
            numbers(one["markers"]),
            decimal(one.get("smoothing_distance"), 1),
            decimal(one.get("lr_fraction"), 3),
        )
        for one in row["result"]["variants"]
    ]


def schedule_line(row: Row) -> tuple[str, ...]:
    """Return a schedule's accuracy, last CQI, and markers at three thresholds."""
    result = row["result"]
    found = {one["setting"]: one["markers"] for one in result["variants"]}
    return (
        f"{DATA_NAMES.get(row['data'], row['data'])}, {result['schedule']}",
        percent(result["test_accuracy"]),
        f"{result['last_cqi']:.1e}",
        *(numbers(found[f"µ × {factor}"]) for factor in (1, 2, 4)),
    )


def reading(rows: Sequence[Row]) -> list[str]:
    """Say by how much each setting moves E_K."""
    return [*_settings_reading(settings_of(rows)), *_schedule_reading(schedules_of(rows))]


def _settings_reading(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    said = []
    for label, prefix in (
        ("the smoother", "smoothing"),
        ("B", "B ="),
        ("µ by factors 0.5 to 4", "µ ×"),
    ):
        moves, lost = _moves(rows, prefix)
        if moves:
            none = f", and leaves none in {lost} cases" if lost else ""
            said.append(f"{label} moves E_K by {min(moves):+d} to {max(moves):+d} epochs{none}")
    return [
        f"**The settings that the paper leaves open decide E_K.** On {len(rows)} real curves, changed one at a "
        f"time: {'; '.join(said)}."
    ]


def _moves(rows: Sequence[Row], prefix: str) -> tuple[list[int], int]:
    """Return how far E_K moves under the settings of that name, and how many have no phases."""
    moves, lost = [], 0
    for row in rows:
        used, *others = row["result"]["variants"]
        for one in others:
            if one["setting"].startswith(prefix):
                if one["markers"] and used["markers"]:
                    moves.append(one["markers"][-1] - used["markers"][-1])
                else:
                    lost += 1
    return moves, lost


def _schedule_reading(rows: Sequence[Row]) -> list[str]:
    sets = dict.fromkeys(row["data"] for row in rows)
    groups = [[row for row in rows if row["data"] == data] for data in sets]
    said = [_ends(group) for group in groups if len(group) > 1]
    if not said:
        return []
    spreads = [_spread(group) for group in groups if len(group) > 1]
    most = max((spread for spread in spreads if spread is not None), default=0)
    if None in spreads or most > HARDLY:
        verdict = "**The schedule decides when a run “converges”.**"
    else:
        verdict = (
            f"**The schedule hardly moves E_K on these curves,** by {most} epochs at most: a low rate at E_K does "
            "not show that the schedule made it."
        )
    return [f"{verdict} The same training, the same µ, another schedule: {'; '.join(said)}."]


def _spread(rows: Sequence[Row]) -> int | None:
    """Return how far one data set's E_K lie apart; None where a schedule has none."""
    ends = [_end(row) for row in rows]
    known = [end for end in ends if end is not None]
    return max(known) - min(known) if len(known) == len(ends) else None


def _end(row: Row) -> int | None:
    """Return E_K at the run's own µ."""
    found = {one["setting"]: one["markers"] for one in row["result"]["variants"]}["µ × 1"]
    return int(found[-1]) if found else None


def _ends(rows: Sequence[Row]) -> str:
    """Say where one data set's training converges under each schedule."""
    each = []
    for row in rows:
        end = _end(row)
        each.append(f"{row['result']['schedule']} {'no E_K' if end is None else f'E_K {end}'}")
    epochs = rows[0]["config"]["train"]["epochs"]
    return f"{DATA_NAMES.get(rows[0]['data'], rows[0]['data'])}, {epochs} epochs: {', '.join(each)}"

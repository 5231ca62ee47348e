"""Draws what experiments.patience recorded: scores over steps, gap closed over pool size, agreement and score.

    python -m experiments.patience_figures [--out docs/images]

Takes seconds; trains nothing. Experiments that have no rows yet are left out.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.patience import CHEAPEST
from experiments.result_rows import Row
from experiments.results_page import ROOT
from experiments.script import options_parser, run_script
from experiments.tables.distillation import NAMES
from experiments.tables.patience import ARMS, CASES, Group, groups, lengths, mean, share, values
from fmce.files import read_json_lines
from fmce.report.arm_figures import ARM_COLOURS
from fmce.report.figures import INK, save_figure, styled

IMAGES, PANELS = ROOT / "docs" / "images", 3


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the three figures."""
    options = options_parser(__doc__, "patience.jsonl", str(IMAGES)).parse_args(argv)
    rows = [row for row in read_json_lines(options.results) if row.get("scale") != "small"]
    drawn = {"lengths": length_figure, "agreement": agreement_figure} if lengths(rows) else {}
    drawn |= {"pool": pool_figure} if pools(rows) else {}
    for name, draw in drawn.items():
        save_figure(draw(rows), options.out / f"patience-{name}.svg")
        print(f"drawn: {options.out / f'patience-{name}.svg'}")


@styled
def length_figure(rows: Sequence[Row]) -> Figure:
    """Draw the score over the steps, a line per arm at its mean, a dot per seed, and the teacher."""
    measured = by_case(rows)
    figure, panels = panels_of(len(measured))
    for axes, (case, found) in zip(panels, measured.items(), strict=True):
        for arm in ARMS:
            draw_arm(axes, found, arm)
        teacher = 100 * found[0][0]["result"]["teacher"]
        axes.axhline(teacher, color=INK, ls="--", lw=1, label="teacher")
        axes.set(xscale="log", xlabel="steps", ylabel="score (%)", title=CASES[case])
        lengths_of = [group[0]["result"]["steps"] for group in found]
        axes.set_xticks(lengths_of, [f"{steps:,}" for steps in lengths_of])
        axes.set_xticks([], minor=True)
    panels[0].legend()
    return figure


@styled
def agreement_figure(rows: Sequence[Row]) -> Figure:
    """Draw the score over the agreement with the teacher on images that nobody trained on."""
    measured = by_case(rows)
    figure, panels = panels_of(len(measured))
    for axes, (case, found) in zip(panels, measured.items(), strict=True):
        for arm in ARMS:
            across = [100 * mean(group, arm, "held_out") for group in found]
            up = [100 * mean(group, arm) for group in found]
            axes.plot(across, up, "o-", ms=4, lw=1, color=ARM_COLOURS[arm], label=NAMES[arm])
        # The last arm's points: of all arms, those of equal steps lie close together.
        for group, x, y in zip(found, across, up, strict=True):
            text = f"{group[0]['multiple']}×"
            axes.annotate(text, (x, y), textcoords="offset points", xytext=(6, -12))
        axes.axhline(100 * found[0][0]["result"]["teacher"], color=INK, ls="--", lw=1)
        axes.set(xlabel="same answer as the teacher (%)", ylabel="score (%)", title=CASES[case])
    panels[0].legend()
    return figure


@styled
def pool_figure(rows: Sequence[Row]) -> Figure:
    """Draw the share of the gap closed over the number of images in the pool, at equal steps."""
    figure = Figure(figsize=(4.6, 3.4))
    axes, points = figure.subplots(), pools(rows)
    axes.plot(*zip(*points, strict=True), "o-", color=ARM_COLOURS["function_matching"])
    axes.axhline(1, color=INK, ls="--", lw=1)
    axes.set(xscale="log", xlabel="images matched on", ylabel="gap closed", title=CASES[CHEAPEST])
    return figure


def panels_of(number: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with that many panels, in rows of at most PANELS."""
    columns, lines = min(number, PANELS), -(-number // PANELS)
    figure = Figure(figsize=(4.6 * columns, 3.4 * lines))
    return figure, [figure.add_subplot(lines, columns, place + 1) for place in range(number)]


def pools(rows: Sequence[Row]) -> list[tuple[int, float]]:
    """Return how many images were matched on and the share of the gap closed, for pools of one source."""
    sizes = [g for g in groups(rows, "deciders") if g[0]["what"].endswith("unlabelled images")]
    for base in by_case(rows).get(CHEAPEST, []):
        equal = [group for group in sizes if group[0]["multiple"] == base[0]["multiple"]]
        if equal:
            found = [(pool_size(group), share(group, base)) for group in (*equal, base)]
            return sorted((size, gap) for size, gap in found if gap is not None)
    return []


def by_case(rows: Sequence[Row]) -> dict[str, list[Group]]:
    """Return the experiments of each measured case, short before long."""
    found: dict[str, list[Group]] = {}
    for group in lengths(rows):
        found.setdefault(group[0]["case"], []).append(group)
    return found


def draw_arm(axes: Axes, found: Sequence[Group], arm: str) -> None:
    """Draw an arm's mean over the steps, and its seeds."""
    steps = [group[0]["result"]["steps"] for group in found]
    means = [100 * mean(group, arm) for group in found]
    axes.plot(steps, means, "-", lw=1.6, color=ARM_COLOURS[arm], label=NAMES[arm])
    for number, group in zip(steps, found, strict=True):
        scores = [100 * score for score in values(group, arm).values()]
        axes.plot([number] * len(scores), scores, "o", ms=3, color=ARM_COLOURS[arm])


def pool_size(group: Group) -> int:
    """Return how many images function matching trains on."""
    images = group[0]["result"]["images"]
    return int(images["labelled"] + images["unlabelled"])


if __name__ == "__main__":
    run_script(main)

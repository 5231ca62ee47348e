"""What of the papers cannot be reproduced by anyone, with the reason; from the published tables, no rows."""

from collections.abc import Sequence

from experiments.paper_tables import paper_table
from experiments.result_rows import Row

ORDER, COMMAND = 800, ""


def covers(row: Row) -> bool:  # noqa: ARG001  (every section takes a row)
    """Take no rows: this follows from the papers alone."""
    return False


def section(rows: Sequence[Row]) -> list[str]:  # noqa: ARG001  (every section takes its rows)
    """Return the list."""
    table = paper_table("fmce_net_pp_table_1")
    plain, collapsed = next((m[0], m[-1]) for _, data, m, _ in table["rows"] if data == "CIFAR-100")
    settings = [
        value - means[0]
        for _, _, means, _ in table["rows"]
        for raf, value in zip(table["raf"], means, strict=True)
        if value is not None and 0 < raf < 1
    ]
    above = sum(gain > 0 for gain in settings)
    points = (
        f"**FMCE-Net++, rows named CIFAR-100.** {plain:.2f} % from scratch, and a collapse to "
        f"{collapsed:.2f} % where guessing among 100 classes gives 1 %: those runs had ten classes.",
        "**FMCE-Net++, gains in the text that its table lacks.** The text's +0.80 and +1.08 pp stand in the "
        "table as 0.54 and 0.56; the text's drop of 8 to 10 points below RAF 0.70 stands there as values "
        "above the baseline.",
        "**FMCE-Net++, the collapse at RAF 0.** It follows from the loss: the classifier gets no gradient. "
        "Repeating it shows nothing.",
        f"**FMCE-Net++, a gain as such.** {above} of the {len(settings)} published settings between RAF 0 and 1 "
        "beat their baseline, and the best is picked on the test images; without controls that is no evidence.",
        "**FMCE, markers to the epoch.** Window B, the form of the smoother, optimiser details and FMCE-Net's "
        "training are not given; each moves markers by epochs (see the sensitivity study).",
        "**FMCE, Table II as a measure of maturity.** Its test maps come from the training's own checkpoints, so "
        "recognising a checkpoint is enough; on another run the same network guesses.",
        "**Grad-CAM's blue as “unfavourable”.** Grad-CAM is rectified: blue is zero.",
    )
    return ["## What cannot be reproduced", "\n".join(f"- {one}" for one in points)]


def reading(rows: Sequence[Row]) -> list[str]:  # noqa: ARG001  (every section takes its rows)
    """Say nothing: the section does."""
    return []

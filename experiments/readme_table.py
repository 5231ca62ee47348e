"""The README's table of results: the digits' rows in one column; used by results_page.py."""

from collections.abc import Sequence

from experiments.result_rows import (
    Row,
    benchmark,
    difference,
    net_of,
    numbers,
    percent,
    ral_of,
    ratio,
    result_of,
    table,
)

START, END = "<!-- results: start -->", "<!-- results: end -->"


def with_table(readme: str, rows: Sequence[Row]) -> str:
    """Return the README with its table of results made anew.

    Raises:
        ValueError: the README lacks the two comments that the table stands between.
    """
    before, start, rest = readme.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"expected {START} and {END} in README.md; put them back")
    return f"{before}{start}\n{summary(rows)}\n{end}{after}"


def summary(rows: Sequence[Row]) -> str:
    """Return the README's table."""
    digits = [row for row in rows if row.get("experiment") == "digits"]
    plain, pp = result_of(digits, "original task"), result_of(digits, "FMCE-Net++ and controls")
    held_out, other = (net_of(digits, "image", key) for key in ("held_out", "other"))
    by_map, bench = net_of(digits, "map", "held_out"), benchmark(rows)
    ral = ral_of(pp)
    lines = [
        ("test accuracy of the plain training", plain and percent(plain["test_accuracy"])),
        ("ten phase markers (epochs)", plain and numbers(plain["markers"])),
        ("FMCE-Net, held-out maps of its own run", by_map and percent(by_map["accuracy"])),
        ("FMCE-Net, unseen images of its own run", held_out and percent(held_out["accuracy"])),
        ("the same FMCE-Net on another seed's run", other and percent(other["accuracy"])),
        ("FMCE-Net++ minus plain training", ral and difference(ral)),
        ("epoch through `fmce` over a bare PyTorch loop", bench and ratio(bench)),
    ]
    return table(
        ("digits", "measured"), ((what, value or "not measured yet") for what, value in lines)
    )

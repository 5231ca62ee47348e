"""Makes the tables of README.md and two pages of docs/ anew from the rows under results/, and checks the findings.

    python -m experiments.results_page

In these pages `<!-- table: fmce.marker_table -->` stands before the table that this function of
experiments/tables/ returns, and `<!-- end of table -->` after it. All else is written by hand. Each number in a
finding, a list item of docs/results.md, must stand in a table of its section. One that does not is reported,
with exit code 1: correct the finding and its conclusion. Rows of scale `small` are left out.
"""

import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from experiments.result_rows import Row, Table
from fmce.files import read_json_lines

ROOT = Path(__file__).resolve().parent.parent
RESULTS, README = ROOT / "docs" / "results.md", ROOT / "README.md"
PAGES = (RESULTS, README, ROOT / "docs" / "performance.md")
_TABLE = re.compile(r"(<!-- table: (\w+)\.(\w+) -->\n)(?:.*?\n)??(<!-- end of table -->)", re.S)
# Digits that are no measurement: code, names, and how an interval or a test is read.
_NO_NUMBER = re.compile(r"`[^`]*`|[A-Za-z]+-\d+|ShuffleNet v2|E_\d|95 % interval|p [<≥] 0\.05")
_NUMBER = re.compile(r"(?<![\w.])[+-]?\d+(?:,\d{3})*(?:\.\d+)?(?: of \d+| %)?(?!\w)")


def main() -> None:
    """Write the tables; end with exit code 1 if findings quote numbers that the tables lack."""
    rows = shown_rows()
    for page in PAGES:
        text = with_tables(page.read_text(encoding="utf-8"), rows)
        page.write_text(text, encoding="utf-8")
    print(f"{len(rows)} rows → the tables of {', '.join(page.name for page in PAGES)}")
    if unfounded := unfounded_numbers(RESULTS.read_text(encoding="utf-8")):
        sys.exit("\n".join(unfounded))


def shown_rows() -> list[Row]:
    """Return the recorded rows without those of scale `small`."""
    files = sorted((ROOT / "results").glob("*.jsonl"))
    rows = [row for file in files for row in read_json_lines(file)]
    return [row for row in rows if row.get("scale") != "small"]


def with_tables(page: str, rows: Sequence[Row]) -> str:
    """Return a page with its tables made anew."""

    def replaced(match: re.Match[str]) -> str:
        start, module, function, end = match.groups()
        made = getattr(import_module(f"experiments.tables.{module}"), function)(rows)
        return f"{start}{made.markdown() if isinstance(made, Table) else made}\n{end}"

    return _TABLE.sub(replaced, page)


def unfounded_numbers(page: str) -> list[str]:
    r"""Return a line for each number in a finding that stands in no table of its section.

    >>> table = "<!-- table: a.b -->\n| 97.8 |\n<!-- end of table -->"
    >>> unfounded_numbers(f"## One\n- Right in 97.8 cases, and in 3 of 5.\n{table}")
    ['One: “3 of 5” is in none of its tables: - Right in 97.8 cases, and in 3 of 5.']
    """
    unfounded = []
    for section in re.split(r"^## ", page, flags=re.M)[1:]:
        tables = "\n".join(match[0] for match in _TABLE.finditer(section))
        known = {number(one) for one in _NUMBER.findall(tables)}
        for finding in re.findall(r"^- .*$", _TABLE.sub("", section), re.M) if tables else ():
            unfounded += [
                f"{section.splitlines()[0]}: “{one}” is in none of its tables: {finding}"
                for one in _NUMBER.findall(_NO_NUMBER.sub("", finding))
                if number(one) not in known
            ]
    return unfounded


def number(text: str) -> float | str:
    """Return what a quoted number is compared by: percent as a fraction, a share such as “3 of 5” as it is.

    >>> number("96.85 %"), number("0.9685"), number("3 of 5")
    (0.9685, 0.9685, '3 of 5')
    """
    if " of " in text:
        return text
    value = float(text.removesuffix(" %").replace(",", ""))
    return round(value / 100 if text.endswith("%") else value, 9)


if __name__ == "__main__":
    main()

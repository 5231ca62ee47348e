"""Records of training logs in JSON: a document, a line each, or at the ends of a text log's lines.

Errors name no file; `tables.py` adds it. NaN stays text here, so that it is told from a value that is missing.
"""

import ast
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Parsed:
    """Columns in one of the layouts of `writers.Writer`; the index is the line or number of each row.

    Args:
        layout: "table", "records", "lists" or "text".
        frame: The columns, of any cells.
        where: "KEY[]" for the key of a document under which the records were.
    """

    layout: str
    frame: "pd.DataFrame"
    where: tuple[str, ...] = ()


def records(text: str, notes: list[str]) -> Parsed | None:
    """Return the objects that lines end with; a logger may write text before them. None where there are none.

    Args:
        text: The file.
        notes: Gets what was passed over.

    Raises:
        ValueError: If a line begins as an object and is none; the last line may be cut short.
    """
    lines = text.rstrip("\n").split("\n")
    found: dict[int, dict[str, Any]] = {}
    other = 0
    for place, line in enumerate(lines, start=1):
        start = line.find("{")
        record = _object(line[start:]) if start >= 0 else None
        if record is not None:
            found[place] = record
        elif start == 0 and (place < len(lines) or not found):
            raise ValueError(f"line {place}: no valid JSON ({line[:40]!r}); fix or remove it")
        elif start == 0:
            notes.append(f"line {place}, the last, is cut short and left out")
        else:
            other += bool(line.strip())
    if other and found:
        notes.append(f"lines without an object, passed over: {other}")
    return Parsed("records", _normalized(found)) if found else None


_DECODER = json.JSONDecoder(parse_constant=str)


def _object(text: str) -> dict[str, Any] | None:
    for parse in (_DECODER.decode, ast.literal_eval):  # the latter as Python prints a dict
        try:
            found = parse(text.strip())
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        return found if isinstance(found, dict) else None
    return None


_VALUE = re.compile(
    r"^(?:[\d-]+ [\d:.]+: +)?(Epoch|train_loss|val_loss|Current learning rate:|Epoch time:) +(-?[\d.e+-]+)[ s]*$",
    re.MULTILINE,
)


def text_blocks(text: str) -> Parsed | None:
    """Return the values of a text log that names them one a line below a line "Epoch N"; None if there are none."""
    blocks: dict[int, dict[str, Any]] = {}
    for found in _VALUE.finditer(text):
        name = found[1].rstrip(":").lower().replace(" ", "_")
        if name == "epoch":
            blocks[text.count("\n", 0, found.start()) + 1] = {name: found[2]}
        elif blocks:
            blocks[max(blocks)][name] = found[2]
    # An epoch that was begun and not finished has no loss.
    return Parsed("text", _normalized(blocks)) if any(len(b) > 2 for b in blocks.values()) else None


def document(content: Any, notes: list[str]) -> Parsed:
    """Return the columns of a JSON document: a list of objects or losses, an object of lists, or objects in one.

    Args:
        content: What the file holds.
        notes: Gets what was passed over.

    Raises:
        ValueError: If it has another form.
    """
    import pandas as pd

    if isinstance(content, list):
        return _list(content)
    if not isinstance(content, dict):
        raise ValueError(
            f"expected an object or a list; got {str(content)[:40]}; export the values of every epoch"
        )
    under = {
        k: v for k, v in content.items() if isinstance(v, list) and v and isinstance(v[0], dict)
    }
    if len(under) > 1:
        raise ValueError(
            f"expected one list of objects, got {', '.join(under)}; save the one with the losses"
        )
    for key, items in under.items():
        frame = _list(items).frame
        if isinstance(content.get("metric"), str):  # trackio names the value that each record holds
            frame = frame.rename(columns={"value": content["metric"]})
        return Parsed("records", frame, (f"{key}[]",))
    if {"columns", "data"} <= content.keys():  # as pandas writes it
        return Parsed(
            "records", pd.DataFrame(content["data"], columns=content["columns"]), ("data[]",)
        )
    inner = [v for v in content.values() if isinstance(v, dict)]
    if inner and all(str(key).isdecimal() for v in inner for key in v):
        frame = pd.DataFrame({k: v for k, v in content.items() if isinstance(v, dict)})
        return Parsed("lists", frame.sort_index(key=lambda index: index.astype(int)))
    if inner and all(map(str.isdecimal, content)):
        numbered = {int(key): {"epoch": int(key)} | value for key, value in content.items()}
        return Parsed("records", _normalized(numbered), ("{}",))
    (flat,) = pd.json_normalize(content).to_dict("records") or [{}]
    lists = {
        str(name): values for name, values in flat.items() if isinstance(values, list) and values
    }
    if not lists:
        raise ValueError(
            f"expected a list of objects or of losses, or an object of lists; got an object of "
            f"{', '.join(map(str, list(content)[:8])) or 'nothing'}; export the values of every epoch"
        )
    return Parsed("lists", _columns(lists, notes))


def _list(items: list[Any]) -> Parsed:
    import pandas as pd

    if items and all(isinstance(item, list) and len(item) == 3 for item in items):
        return Parsed(
            "table", pd.DataFrame(items, columns=["Wall time", "Step", "Value"])
        )  # TensorBoard's
    found = {}
    for place, item in enumerate(items, start=1):
        # A bare number is a loss.
        record = (
            {"loss": item} if isinstance(item, int | float) and not isinstance(item, bool) else item
        )
        if not isinstance(record, dict):
            raise ValueError(
                f"record {place}: expected an object or a loss, got {str(item)[:40]!r}; export the values of "
                "every epoch"
            )
        found[place] = record
    return Parsed("records", _normalized(found))


def _normalized(found: dict[int, dict[str, Any]]) -> "pd.DataFrame":
    """Return objects as rows, the keys of nested ones joined by dots."""
    import pandas as pd

    return pd.json_normalize(list(found.values())).set_axis(list(found), axis="index")


def _columns(lists: dict[str, list[Any]], notes: list[str]) -> "pd.DataFrame":
    """Return lists as columns. A list shorter by a factor was written every few epochs, at their end."""
    import pandas as pd

    longest = max(map(len, lists.values()))
    columns = {}
    for name, values in lists.items():
        every = longest // len(values)
        if every > 1:
            notes.append(
                f"{name} has {len(values)} values beside {longest}: taken for one in {every}"
            )
        places = range(every, every * len(values) + 1, every)
        columns[name] = pd.Series(values, index=places, dtype=object)
    return pd.DataFrame(columns, index=range(1, longest + 1))

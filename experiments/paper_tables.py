"""The published tables as data: read from paper_tables.json, the one place where their numbers stand.

Accuracies of FMCE's tables are fractions, those of FMCE-Net++ and of the slides percent, as printed.
"""

from functools import cache
from pathlib import Path
from typing import Any

from fmce.files import read_json

FILE = Path(__file__).with_name("paper_tables.json")
# The papers' names of data sets and networks, by ours.
DATA_NAMES = {
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "mini-imagenet": "Mini-ImageNet",
}
MODEL_NAMES = {
    "torchvision:resnet50": "resnet50",
    "torchvision:shufflenet_v2_x1_0": "shufflenet_v2",
}
_NET_NAMES = {"MNIST": "MNIST", "CIFAR-10": "CIFAR", "Mini-ImageNet": "Imagenet"}


@cache
def paper_table(name: str) -> dict[str, Any]:
    """Return one published table with its source.

    Raises:
        KeyError: there is no table of that name.
    """
    return dict(read_json(FILE)[name])


def published_markers(data: str, model: str) -> dict[str, Any] | None:
    """Return a row of FMCE's Table I by its columns; None where the paper has no such row.

    >>> published_markers("mnist", "torchvision:resnet50")["markers"][-1]
    74
    """
    table = paper_table("fmce_table_1")
    rows = (dict(zip(table["columns"], row, strict=True)) for row in table["rows"])
    wanted = (DATA_NAMES.get(data), MODEL_NAMES.get(model))
    return next((row for row in rows if (row["dataset"], row["model"]) == wanted), None)


def published_net(data: str, model: str) -> dict[str, float] | None:
    """Return a row of FMCE's Table II: accuracy, precision, recall and F1 as fractions; None without one."""
    table = paper_table("fmce_table_2")
    letter = {"resnet50": "R", "shufflenet_v2": "S"}.get(MODEL_NAMES.get(model, ""))
    name = f"{_NET_NAMES.get(DATA_NAMES.get(data, ''))}-{letter}"
    for row in table["rows"]:
        if row[0] == name:
            return dict(zip(table["columns"][1:], row[1:], strict=True))
    return None


def published_accuracies(data: str, model: str) -> dict[float, tuple[float, float]]:
    """Return RAF → (mean, sd) of FMCE-Net++'s Table I in percent; empty where the paper has no such row."""
    table = paper_table("fmce_net_pp_table_1")
    wanted = (MODEL_NAMES.get(model), DATA_NAMES.get(data))
    for row_model, row_data, means, spreads in table["rows"]:
        if (row_model, row_data) == wanted:
            cells = zip(table["raf"], means, spreads, strict=True)
            return {float(raf): (mean, sd) for raf, mean, sd in cells if mean is not None}
    return {}


def net_accuracies() -> list[float]:
    """Return the six accuracies of FMCE's Table II."""
    return [row[1] for row in paper_table("fmce_table_2")["rows"]]


def best_gains() -> list[float]:
    """Return each row's best gain over its RAF = 1 in FMCE-Net++'s Table I, in percentage points."""
    rows = paper_table("fmce_net_pp_table_1")["rows"]
    gains = ([mean - means[0] for mean in means[1:] if mean is not None] for _, _, means, _ in rows)
    return [round(max(row), 2) for row in gains]

"""The published tables, read from paper_tables.json, the one place where their numbers stand.

Accuracies of FMCE's tables are fractions; those of FMCE-Net++ and of the slides are percent, as printed.
"""

from collections.abc import Mapping
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


def data_name(data: str) -> str:
    """Return the papers' name of a data set, or ours without its kind.

    >>> data_name("cifar10"), data_name("image-folder:flowers")
    ('CIFAR-10', 'flowers')
    """
    return DATA_NAMES.get(data, data.rpartition(":")[2])


def model_name(model: str) -> str:
    """Return the papers' name of a network, or ours."""
    return MODEL_NAMES.get(model, model)


@cache
def paper_table(name: str) -> dict[str, Any]:
    """Return one published table with its source."""
    return dict(read_json(FILE)[name])


def published_markers(data: str, model: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of FMCE's Table I for a data set, and for one network if given, by their columns.

    >>> published_markers("mnist", "torchvision:resnet50")[0]["markers"][-1]
    74
    """
    table = paper_table("fmce_table_1")
    rows = (dict(zip(table["columns"], row, strict=True)) for row in table["rows"])
    models = {MODEL_NAMES.get(model)} if model else set(MODEL_NAMES.values())
    return [r for r in rows if r["dataset"] == DATA_NAMES.get(data) and r["model"] in models]


def published_accuracies(data: str, model: str) -> dict[float, tuple[float, float]]:
    """Return RAF → (mean, sd) of FMCE-Net++'s Table I in percent; empty if the paper has no such row."""
    table = paper_table("fmce_net_pp_table_1")
    wanted = (MODEL_NAMES.get(model), DATA_NAMES.get(data))
    for row_model, row_data, means, spreads in table["rows"]:
        if (row_model, row_data) == wanted:
            cells = zip(table["raf"], means, spreads, strict=True)
            return {float(raf): (mean, sd) for raf, mean, sd in cells if mean is not None}
    return {}


def gains() -> list[list[float]]:
    """Return each row's gains over its RAF = 1 in FMCE-Net++'s Table I, in pp, for RAFs between 0 and 1."""
    table = paper_table("fmce_net_pp_table_1")
    return [
        [
            round(mean - means[0], 2)
            for raf, mean in zip(table["raf"], means, strict=True)
            if mean is not None and 0 < raf < 1
        ]
        for _, _, means, _ in table["rows"]
    ]


def slides(score: str) -> dict[str, float]:
    """Return the slides' scores by arm, in percent: "segmentation_miou" or "detection_map"."""
    return dict(paper_table("function_matching")[score])


def gap_closed(scores: Mapping[str, float]) -> float:
    """Return (function_matching − supervised) / (teacher − supervised).

    >>> gap_closed({"teacher": 65.0, "supervised": 61.0, "function_matching": 64.0})
    0.75
    """
    gained, gap = (scores[arm] - scores["supervised"] for arm in ("function_matching", "teacher"))
    return gained / gap

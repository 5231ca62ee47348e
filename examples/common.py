"""What the examples share: their options, the digits, and what they show at the end."""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from fmce import module_table
from fmce.cli.show_modules import show_modules
from fmce.report.write import report


def arguments(out: str, epochs: int) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(out), help="run folder")
    parser.add_argument("--epochs", type=int, default=epochs)
    torch.manual_seed(0)
    return parser.parse_args()


def digits() -> tuple[Tensor, Tensor]:
    """Return scikit-learn's digits: images (1797,1,8,8) in 0 to 1, and their classes."""
    pixels, classes = load_digits(return_X_y=True)
    return torch.tensor(pixels).float().view(-1, 1, 8, 8) / 16, torch.tensor(classes)


def show(run: Path) -> None:
    """Print the module table of a run and write its report."""
    show_modules(module_table(run))
    print(f"report: {report(run)}")

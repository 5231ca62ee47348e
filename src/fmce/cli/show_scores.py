"""What `fmce score` prints."""

import math
from typing import TYPE_CHECKING

from fmce.console.tables import number, percent, print_table

if TYPE_CHECKING:
    from fmce.maturity.module_scores import RunScores, ScoredModule

_COLUMNS = (
    *("score", "90 %", "snapshot order", "schedule", "own head's loss", "probe error"),
    *("activation", "weight norm"),
)
_LABELS = {"class": "with class labels", "free": "without labels"}


def show_scores(scores: "RunScores", epoch: int | None = None) -> None:
    """Print a table per module, or of one epoch a row per module, and what the scores may be used for."""
    if epoch is None:
        for module in scores.modules:
            rows = [
                (str(e), *_cells(module, n))
                for n, e in enumerate(module.within_run.epochs.tolist())
            ]
            print_table(f"{module.name} of {scores.run}", ("epoch", *_COLUMNS), rows)
    else:
        rows = [
            (m.name, *_cells(m, m.within_run.epochs.tolist().index(epoch))) for m in scores.modules
        ]
        print_table(f"Modules of {scores.run} at epoch {epoch}", ("module", *_COLUMNS), rows)
    first = scores.modules[0]
    source = "by its recorder" if scores.images is None else f"on {scores.images} training images"
    print(f"measured {source}, {_LABELS[first.within_run.labels]}")
    if not scores.finished:
        print("provisional: the training is not over, so the end is extrapolated")
    for novel, names in _by_novelty(scores).items():
        print(f"not in the scorer's training card: {', '.join(novel)} ({', '.join(names)})")
    print(f"score: {first.within_run.use}")
    print(f"snapshot: {first.snapshot.use}")


def _by_novelty(scores: "RunScores") -> dict[tuple[str, ...], list[str]]:
    """Return what is new to the scorer, and the modules of which it is."""
    found: dict[tuple[str, ...], list[str]] = {}
    for module in scores.modules:
        if module.within_run.novel:
            found.setdefault(module.within_run.novel, []).append(module.name)
    return found


def _cells(module: "ScoredModule", n: int) -> tuple[str, ...]:
    within, base = module.within_run, module.baselines
    value, order = within.values[n], module.snapshot_order[n]
    known = math.isfinite(value)
    size = len(within.epochs)
    return (
        number(value, 3) if known else "–",
        f"{within.low[n]:.1f} to {within.high[n]:.1f}" if known else "–",
        "–" if order is None else f"{order} of {size}",
        percent(base["share_of_schedule"][n], 0),
        _raised(base["head_loss"][n]),
        _percent_of_log(base["probe_error"][n]),
        _raised(base["mean_activation"][n]),
        _raised(base["weight_norm"][n]),
    )


def _raised(log: float | None) -> str:
    return "–" if log is None else number(math.exp(log), 3)


def _percent_of_log(log: float | None) -> str:
    return "–" if log is None else percent(math.exp(log), 1)

"""Scores of driving networks, whose labels belong to positions: pixels, boxes, and cells of a bird's-eye view.

    python -m experiments.transfer_driving [NETWORK …] [--seeds 0 1] [--epochs 30]

PSPNet on CamVid, FCOS on KITTI and the bird's-eye view of examples/bev.py train with a recorder that measures their
modules on 128 training images: averaged over each class's pixels, boxes or cells in each image, the background being a
class. The scorer that comes with fmce, which was fitted on classifiers, judges them as they are. A row per network and
seed goes to results/transfer.jsonl. Needs CamVid and KITTI below FMCE_DATA. Takes 10 minutes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.driving_modules import NETWORKS, Network
from experiments.recorded import train_epoch
from experiments.script import options_parser, record, run_script
from experiments.transfer_study import Case, errors, inside_share, positions_case
from fmce.recorder.history import recorded_histories
from fmce.recorder.probe import ScoredProbe
from fmce.recorder.recorder import Recorder
from fmce.runs.log import read_done
from fmce.scoring.scorer import Labels, MaturityScorer

IMAGES = 128
# What sees cameras, to which the cells of a bird's-eye view do not belong, and what gives rows instead of maps.
_WITHOUT_POSITIONS = ("cameras", "view", "head.classification_head", "head.regression_head")


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is not stored, score its modules, and record a row per network and seed."""
    parser = options_parser(__doc__, "transfer.jsonl", "runs/transfer_driving")
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args(argv)
    scorer = MaturityScorer.load()
    for name in options.networks or NETWORKS:
        network = NETWORKS[name]()
        for seed in options.seeds:
            folder = options.out / f"{name}-seed{seed}"
            trained(network, folder, seed, options.epochs)
            cases = [positions_case(history) for history in recorded_histories(folder)]
            result = {"modules": [judged_module(scorer, case) for case in cases]}
            config = {"epochs": options.epochs, "images": IMAGES}
            record(options.results, "transfer_driving", name, config, result, seed=seed)
            for row in result["modules"]:
                print(row)


def labels_of(targets: Tensor) -> Tensor:
    """Return a network's targets as a scored probe takes them; of occupancy grids (N,C,h,w), the class of each cell."""
    if targets.ndim != 4:
        return targets
    free = 1 - targets.amax(1, keepdim=True)
    return torch.cat([free, targets], 1).argmax(1)


def trained(network: Network, folder: Path, seed: int, epochs: int) -> None:
    """Train with a recorder that measures scores, where it was not done."""
    if read_done(folder) is not None:
        return
    torch.manual_seed(seed)
    model = network.build()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    images, targets = (part[:IMAGES] for part in network.part)
    probe = ScoredProbe(images, labels_of(targets))
    modules = [name for name in network.modules if name not in _WITHOUT_POSITIONS]
    with Recorder(folder, model, modules, probe, optimizer, keep="none") as recorder:
        for _ in range(epochs):
            train_epoch(
                *(model, optimizer, network.part, seed, recorder),
                batch=network.batch,
                loss_fn=network.loss,
            )
            recorder.end_epoch()
            schedule.step()


def judged_module(scorer: MaturityScorer, case: Case) -> dict[str, Any]:
    """Return how far a module's scores are off, with labels of positions and without labels."""
    found: dict[str, Any] = {"module": case.history.module}
    kinds: dict[str, Labels] = {"labels of positions": "class", "without labels": "free"}
    for kind, labels in kinds.items():
        scores = scorer.score(case.history, labels=labels)
        share = inside_share(scores, case.raw, case.used)
        found[kind] = errors(case, scores.values) | {"covered": share}
    snapshot = scorer.score(case.history, "snapshot").values
    found["snapshot"] = {"rho": errors(case, snapshot)["rho"]}
    found["epoch number"] = {"rho": errors(case, np.asarray(case.history.epochs, float))["rho"]}
    return found


if __name__ == "__main__":
    run_script(main)

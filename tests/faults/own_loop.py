"""A training in a loop of its own with the recorder: python -m tests.faults.own_loop FOLDER; a rerun resumes.

Its own checkpoint lies beside the folder, as FOLDER.pt.
"""

import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmce import PhaseConfig, Recorder
from fmce.data.classification.classification import read_digits

EPOCHS, BATCH = 12, 64
PHASES = PhaseConfig(
    num_phases=3, threshold=0.05, smoothing="none", window=2, if_not_converged="last"
)


def build() -> nn.Module:
    """Return the network with its initial weights."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Sequential(nn.Flatten(), nn.Linear(256, 10)),
    )


def data() -> dict[str, tuple[Tensor, Tensor]]:
    """Return images and classes as the commands take them."""
    pixels, targets = (torch.tensor(array) for array in read_digits())
    images = pixels.float().view(-1, 1, 8, 8) / 16
    return {"train": (images[:512], targets[:512]), "test": (images[512:640], targets[512:640])}


def probe() -> Tensor:
    """Return the inputs on which modules are measured."""
    return data()["test"][0][:32]


def train(folder: Path) -> None:
    """Train, from the loop's own checkpoint where there is one."""
    torch.set_num_threads(1)
    images, targets = data()["train"]
    model, own = build(), folder.with_name(f"{folder.name}.pt")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with Recorder(
        folder, model, probe=probe(), optimizer=optimizer, keep="all", phases=PHASES
    ) as recorder:
        if own.exists():
            state = torch.load(own, weights_only=True)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            recorder.load_state_dict(state["recorder"])
        for epoch in range(recorder.start(), EPOCHS):
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch))
            for batch in order.split(BATCH):
                loss = F.cross_entropy(model(images[batch]), targets[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                recorder.step(loss, len(batch))
            recorder.end_epoch()
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "recorder": recorder.state_dict()}, own.with_suffix(".tmp"))
            os.replace(own.with_suffix(".tmp"), own)


if __name__ == "__main__":
    train(Path(sys.argv[1]))

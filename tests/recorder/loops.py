"""A small network and a plain training loop on the digits, with or without a recorder."""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from fmce import Recorder
from fmce.data.classification.classification import read_digits


@functools.cache
def digits():
    """Return 600 images (600,1,8,8) and their classes."""
    images, targets = read_digits()
    return torch.tensor(images[:600]).float().view(-1, 1, 8, 8) / 16, torch.tensor(targets[:600])


class Small(nn.Module):
    """Stem, two blocks and a head, with batch norm, ReLUs and dropout."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, 10))

    def forward(self, x):
        """Return logits (B,10)."""
        return self.head(self.late(self.middle(self.stem(x))))


def inputs():
    """Return what the network takes."""
    return digits()[0][:4]


def made(seed=0):
    """Return a network and its optimizer."""
    torch.manual_seed(seed)
    model = Small()
    return model, torch.optim.Adam(model.parameters(), lr=3e-3)


def train_epoch(model, optimizer, recorder=None, batch_size=100):
    """Train one epoch; the order is drawn from torch's generator."""
    images, targets = digits()
    model.train()
    for index in torch.randperm(len(images)).split(batch_size):
        loss = F.cross_entropy(model(images[index]), targets[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if recorder is not None:
            recorder.step(loss, len(index))


def recorded(folder, epochs, model=None, optimizer=None, before=None, **options):
    """Train with a recorder; `before(epoch, model, optimizer)` may interfere. Return recorder and statuses."""
    if model is None:
        model, optimizer = made()
    options.setdefault("probe", digits()[0][:64])
    recorder = Recorder(folder, model, optimizer=optimizer, **options)
    statuses = []
    for epoch in range(recorder.epoch + 1, epochs + 1):
        if before is not None:
            before(epoch, model, optimizer)
        train_epoch(model, optimizer, recorder)
        statuses.append(recorder.end_epoch())
    recorder.close()
    return recorder, statuses

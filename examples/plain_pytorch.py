"""The recorder in a plain PyTorch loop: python examples/plain_pytorch.py [--out runs/plain] [--epochs 15]."""

import torch
import torch.nn.functional as F
from common import arguments, digits, show
from torch import nn

from fmce import Recorder

options = arguments("runs/plain", epochs=15)
images, targets = digits()
model = nn.Sequential(
    nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
    nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()),
    nn.Sequential(nn.Conv2d(32, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU()),
    nn.Sequential(nn.Flatten(), nn.Linear(256, 10)),
)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

with Recorder(options.out, model, probe=images[:256], optimizer=optimizer) as recorder:
    for _ in range(recorder.epoch, options.epochs):
        model.train()
        for batch in torch.randperm(len(images)).split(64):
            loss = F.cross_entropy(model(images[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.step(loss, len(batch))
        status = recorder.end_epoch()
        print(status)
        if status.at_rest:
            break

show(options.out)

"""The recorder in Lightning: python examples/lightning_digits.py [--out runs/lightning] [--epochs 10]."""

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from common import arguments, digits, show
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fmce.integrations.lightning import MaturityCallback

options = arguments("runs/lightning", epochs=10)


class Digits(pl.LightningModule):
    """A small classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(512, 10))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B,10)."""
        logits: Tensor = self.head(self.body(self.stem(images)))
        return logits

    def training_step(self, batch: list[Tensor]) -> Tensor:
        """Return the batch's loss, which the callback records."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor]) -> None:
        """Log the loss by which overfitting is recognised."""
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


images, targets = digits()
training = DataLoader(TensorDataset(images[:1400], targets[:1400]), batch_size=64, shuffle=True)
validation = DataLoader(TensorDataset(images[1400:], targets[1400:]), batch_size=256)
callback = MaturityCallback(
    options.out, ["stem", "body", "head"], probe=images[:256], stop="at_rest"
)
trainer = pl.Trainer(
    max_epochs=options.epochs,
    accelerator="cpu",
    callbacks=[callback],
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
)
trainer.fit(Digits(), training, validation)
print(callback.status)
show(options.out)

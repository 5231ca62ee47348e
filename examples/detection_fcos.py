"""The recorder on torchvision's FCOS: backbone stages, FPN levels and head, each with its own clock.

python examples/detection_fcos.py [--out runs/fcos] [--epochs 8]

Trains on rendered images with a bright square or disc each.
"""

import torch
from common import arguments, show
from torch import Tensor
from torchvision.models import resnet18
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN

from fmce import Recorder

SIDE = 64
options = arguments("runs/fcos", epochs=8)


def scene(generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """Return an image (3,64,64) with a square (class 0) or a disc (class 1), and its box."""
    size, x, y, kind = (
        int(torch.randint(*r, (1,), generator=generator))
        for r in ((16, 32), (0, 32), (0, 32), (0, 2))
    )
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    inside = (rows >= y) & (rows < y + size) & (columns >= x) & (columns < x + size)
    if kind == 1:
        inside &= (rows - y - size / 2) ** 2 + (columns - x - size / 2) ** 2 < (size / 2) ** 2
    image = 0.2 * torch.rand(3, SIDE, SIDE, generator=generator) + 0.7 * inside
    box = torch.tensor([[x, y, x + size, y + size]], dtype=torch.float32)
    return image, {"boxes": box, "labels": torch.tensor([kind])}


def detector() -> FCOS:
    """Return an FCOS on ResNet-18 with four FPN levels, the last one pooled from the third."""
    layers = {"layer2": "0", "layer3": "1", "layer4": "2"}
    backbone = BackboneWithFPN(resnet18(), layers, [128, 256, 512], 64, extra_blocks=None)
    anchors = AnchorGenerator(((8,), (16,), (32,), (64,)), ((1.0,),) * 4)
    return FCOS(backbone, 2, min_size=SIDE, max_size=SIDE, anchor_generator=anchors)


generator = torch.Generator().manual_seed(0)
scenes = [scene(generator) for _ in range(96)]
model = detector()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
modules = [
    "backbone.body.layer1",
    "backbone.body.layer2",
    "backbone.body.layer3",
    "backbone.body.layer4",
]
modules += ["backbone.fpn", "head"]
probe = [image for image, _ in scenes[:32]]


def loss_of(batch: list[tuple[Tensor, dict[str, Tensor]]]) -> Tensor:
    """Return the sum of FCOS's losses."""
    images, targets = zip(*batch, strict=True)
    return sum(model(list(images), list(targets)).values(), torch.zeros(()))


with Recorder(options.out, model, modules, probe, optimizer) as recorder:
    for _ in range(recorder.epoch, options.epochs):
        model.train()
        for batch in torch.randperm(len(scenes)).split(16):
            loss = loss_of([scenes[i] for i in batch.tolist()])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.step(loss, len(batch))
        print(recorder.end_epoch())

show(options.out)

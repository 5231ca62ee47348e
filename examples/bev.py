"""Record a small bird's-eye-view network, module by module: cameras → view transform → BEV encoder → head.

    python examples/bev.py [--out FOLDER] [--scenes 400] [--epochs 15]

Three calibrated cameras look around a car. Each pixel's features are lifted along its ray by a depth that the
network predicts, and fall onto one grid of the ground; a head says which cells hold a car or a pedestrian. (The way
of Philion & Fidler, "Lift, Splat, Shoot", 2020.) The modules follow one another, and the recorder shows when each
of them came to rest. Scenes are drawn, nothing is downloaded. Takes about a minute on one core.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn

import fmce
from fmce.report.module_figures import HEADER, markdown_table, module_cells, module_remarks
from fmce.report.write import report

MODULES = ("cameras", "view", "bev", "head")
CLASSES = ("car", "pedestrian")
# Length, width and height of each class in metres.
SIZES = ((4.0, 2.0, 1.5), (0.8, 0.8, 1.8))
# The grid covers so many metres to each side, in cells of one.
REACH = 12
CELLS = 2 * REACH
HEIGHT, WIDTH, STRIDE = 32, 64, 4
DEPTHS = torch.arange(1.0, 16.0)
PROBE = 64


@dataclass(frozen=True)
class Camera:
    """A pinhole camera on the car, whose frame is x to the front, y to the left and z up, in metres.

    Attributes:
        yaw: Where it looks, in radians from the front to the left.
        focal: Focal length in pixels; by default 120° are seen.
        mounted: Height above the ground.
    """

    yaw: float
    focal: float = WIDTH / 2 / math.tan(math.radians(60))
    mounted: float = 1.6

    @property
    def axes(self) -> np.ndarray:
        """What the camera calls right, down and forward, in the car's frame: rows (3,3)."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        return np.array([[s, -c, 0.0], [0.0, 0.0, -1.0], [c, s, 0.0]])

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return pixels (P,2) and depths (P,) of points (P,3) of the car's frame."""
        seen = (points - [0.0, 0.0, self.mounted]) @ self.axes.T
        depth = seen[:, 2]
        scale = self.focal / np.maximum(depth, 1e-6)
        return seen[:, :2] * scale[:, None] + [WIDTH / 2, HEIGHT / 2], depth

    def lift(self, pixels: np.ndarray, depths: np.ndarray) -> np.ndarray:
        """Return the points (D,P,3) of the car's frame that pixels (P,2) show at depths (D,)."""
        rays = np.concatenate(
            [(pixels - [WIDTH / 2, HEIGHT / 2]) / self.focal, np.ones((len(pixels), 1))], 1
        )
        return depths[:, None, None] * (rays @ self.axes) + [0.0, 0.0, self.mounted]


CAMERAS = tuple(Camera(math.radians(yaw)) for yaw in (0, 120, -120))


def draw_scenes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw scenes.

    Returns:
        Images float (N,cameras,3,H,W) from −1 to 1, and occupancy float (N,classes,cells,cells), rows to the front.
    """
    draw = np.random.default_rng(seed)
    images, grids = zip(*(_scene(draw) for _ in range(count)), strict=True)
    x = torch.from_numpy(np.stack(images)).permute(0, 1, 4, 2, 3).float() / 127.5 - 1
    return x, torch.from_numpy(np.stack(grids))


def _scene(draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 (cameras,H,W,3) and the occupied cells (classes,cells,cells) of one scene."""
    grid = np.zeros((len(CLASSES), CELLS, CELLS), np.float32)
    centres = np.arange(CELLS) + 0.5 - REACH
    faces = []
    for _ in range(draw.integers(3, 8)):
        kind = int(draw.integers(len(CLASSES)))
        length, width, height = SIZES[kind]
        away, angle, yaw = draw.uniform(3, REACH - 1), *draw.uniform(0, 2 * math.pi, 2)
        at = np.array([away * math.cos(angle), away * math.sin(angle)])
        turn = np.array([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
        # Cells whose centre lies in the object, and the one it stands in.
        gx, gy = np.meshgrid(centres - at[0], centres - at[1], indexing="ij")
        inside = np.abs(np.stack([gx, gy], -1) @ turn) <= np.array([length, width]) / 2
        grid[kind] = np.maximum(grid[kind], inside.all(-1))
        grid[kind][tuple((at + REACH).astype(int))] = 1
        corners = np.array([[a, b] for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1))]) / 2
        base = (corners * [length, width]) @ turn.T + at
        colour = draw.uniform(60, 220, 3)
        box = np.array([[*p, z] for z in (0.0, height) for p in base])
        for n, side in enumerate(
            (*((k, (k + 1) % 4, (k + 1) % 4 + 4, k + 4) for k in range(4)), (4, 5, 6, 7))
        ):
            faces.append((box[list(side)], colour * (0.6 + 0.1 * n)))
    return np.stack([_photograph(camera, faces, draw) for camera in CAMERAS]), grid


def _photograph(
    camera: Camera, faces: list[tuple[np.ndarray, np.ndarray]], draw: np.random.Generator
) -> np.ndarray:
    """Return the image uint8 (H,W,3) of faces that a camera takes, far ones first."""
    image = Image.new("RGB", (WIDTH, HEIGHT), (150, 180, 210))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, HEIGHT // 2, WIDTH, HEIGHT), fill=(90, 90, 90))
    seen = [(*camera.project(corners), colour) for corners, colour in faces]
    for pixels, depths, colour in sorted(seen, key=lambda face: -face[1].mean()):
        if depths.min() > 0.2:
            pen.polygon([tuple(p) for p in pixels], fill=tuple(int(min(c, 255)) for c in colour))
    return (np.asarray(image) + draw.normal(0, 4, (HEIGHT, WIDTH, 3))).clip(0, 255).astype(np.uint8)


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Build a convolution with norm and ReLU."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class CameraEncoder(nn.Module):
    """The same encoder for the images of all cameras."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            block(3, 16, 2),
            block(16, channels, 2),
            block(channels, channels),
            block(channels, channels),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B,N,3,H,W) to features (B,N·C,h,w): one row per scene, so that it can be recorded."""
        features = self.layers(images.flatten(0, 1))
        return features.unflatten(0, images.shape[:2]).flatten(1, 2)


class ViewTransform(nn.Module):
    """Lift features along their rays by a predicted depth, and sum them up on a grid of the ground."""

    cells: Tensor

    def __init__(self, channels: int, context: int) -> None:
        super().__init__()
        self.channels, self.context = channels, context
        self.depth = nn.Sequential(
            block(channels, channels), nn.Conv2d(channels, len(DEPTHS) + context, 1)
        )
        self.register_buffer("cells", frustum_cells())

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B,N·C,h,w) to a grid (B,context,cells,cells)."""
        batch, cameras = len(features), len(CAMERAS)
        both = self.depth(features.unflatten(1, (cameras, self.channels)).flatten(0, 1))
        share = both[:, : len(DEPTHS)].softmax(1)  # (B·N,D,h,w)
        lifted = share[:, :, None] * both[:, None, len(DEPTHS) :]  # (B·N,D,context,h,w)
        points = lifted.unflatten(0, (batch, cameras)).permute(0, 3, 1, 2, 4, 5).flatten(2)
        # The last cell takes what falls outside.
        ground = points.new_zeros(batch, self.context, CELLS * CELLS + 1)
        ground = ground.index_add(2, self.cells, points)
        return ground[:, :, :-1].unflatten(2, (CELLS, CELLS))


def frustum_cells() -> Tensor:
    """Return the cell in which each point of each camera falls, int64 (N·D·h·w,); CELLS² outside the grid."""
    rows, columns = np.meshgrid(
        np.arange(0, HEIGHT, STRIDE), np.arange(0, WIDTH, STRIDE), indexing="ij"
    )
    pixels = np.stack([columns.ravel(), rows.ravel()], 1) + STRIDE / 2
    points = np.stack([camera.lift(pixels, DEPTHS.numpy()) for camera in CAMERAS])  # (N,D,P,3)
    place = np.floor(points[..., :2] + REACH).astype(np.int64)
    inside = ((place >= 0) & (place < CELLS)).all(-1)
    return torch.from_numpy(
        np.where(inside, place[..., 0] * CELLS + place[..., 1], CELLS * CELLS).ravel()
    )


class BevNet(nn.Module):
    """Cameras, view transform, BEV encoder and head, one after another."""

    def __init__(self, channels: int = 24, context: int = 16) -> None:
        super().__init__()
        self.cameras = CameraEncoder(channels)
        self.view = ViewTransform(channels, context)
        self.bev = nn.Sequential(block(context, 32), block(32, 32), block(32, 32))
        self.head = nn.Conv2d(32, len(CLASSES), 1)
        # Few cells are occupied.
        nn.init.constant_(self.head.bias, -3.0)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B,N,3,H,W) to logits of occupancy (B,classes,cells,cells)."""
        logits: Tensor = self.head(self.bev(self.view(self.cameras(images))))
        return logits


def bev_loss(logits: Tensor, grid: Tensor) -> Tensor:
    """Return the binary cross-entropy, occupied cells weighing three times."""
    return F.binary_cross_entropy_with_logits(logits, grid, pos_weight=grid.new_tensor(3.0))


@torch.no_grad()
def occupancy_iou(model: nn.Module, images: Tensor, grid: Tensor) -> list[float]:
    """Return intersection over union of the occupied cells, per class."""
    model.eval()
    found = torch.cat([model(part) for part in images.split(32)]) > 0
    both, either = (found & (grid > 0)).sum((0, 2, 3)), (found | (grid > 0)).sum((0, 2, 3))
    return (both / either.clamp(min=1)).tolist()


def train(folder: Path, scenes: int, epochs: int, seed: int = 0) -> list[float]:
    """Train and record; return the IoU per class on scenes that were not trained on."""
    torch.manual_seed(seed)
    images, grids = draw_scenes(scenes, seed)
    probe, _ = draw_scenes(PROBE, seed + 1)
    model = BevNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    with fmce.Recorder(folder, model, MODULES, probe, optimizer) as recorder:
        recorder.start()
        for _ in range(recorder.epoch, epochs):
            model.train()
            for index in torch.randperm(scenes).split(16):
                loss = bev_loss(model(images[index]), grids[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                recorder.step(loss, len(index))
            print(recorder.end_epoch())
            schedule.step()
    return occupancy_iou(model, *draw_scenes(128, seed + 2))


def main() -> None:
    """Train, and print the module table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/bev"), help="run folder")
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=15)
    options = parser.parse_args()
    scores = train(options.out, options.scenes, options.epochs)
    table = fmce.module_table(options.out)
    print(markdown_table(HEADER, module_cells(table)), *module_remarks(table), sep="\n")
    print(
        ", ".join(f"IoU of {name} {score:.2f}" for name, score in zip(CLASSES, scores, strict=True))
    )
    print(f"report: {report(options.out)}")


if __name__ == "__main__":
    main()

"""Networks for driving, recorded module by module: PSPNet on CamVid, FCOS on KITTI, and a bird's-eye view.

    python -m experiments.driving_modules [NETWORK …] [--small] [--seeds 0 1 2]

Needs CamVid and KITTI below FMCE_DATA; the bird's-eye view of examples/bev.py draws its scenes. Each network is
trained for 30 epochs of a cosine schedule with a recorder, whose module table is what a row in
results/recorder.jsonl holds; the first seed's is drawn in docs/images/. What has a row is not repeated. Takes about
8 minutes; --small, the bird's-eye view for 4 epochs, half a minute.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from examples import bev
from experiments.recorded import Part, data_root, train_epoch
from experiments.result_rows import select
from experiments.script import options_parser, record, run_script
from experiments.stopping import camvid
from fmce.config.distillation import DistillationDataConfig
from fmce.data.detection.boxes import to_labels
from fmce.data.transforms import normalize
from fmce.distillation.data.detection import detection_data
from fmce.files import read_json_lines
from fmce.losses.detection import fcos_losses
from fmce.models.fcos import fcos
from fmce.recorder.clocks import ModuleTable, module_table
from fmce.recorder.recorder import Recorder
from fmce.report.figures import save_figure
from fmce.report.module_figures import modules_figure
from fmce.runs.log import read_done

EPOCHS, SEEDS = 30, (0, 1, 2)
PICTURES = Path(__file__).resolve().parent.parent / "docs" / "images"


@dataclass(frozen=True)
class Network:
    """What is trained and recorded.

    Attributes:
        build: Makes it.
        modules: Those recorded, in the order in which they follow one another.
        part: Training images and their targets.
        probe: Fixed images.
        loss: Output and targets → mean loss.
        batch: Images per step.
    """

    build: Callable[[], nn.Module]
    modules: tuple[str, ...]
    part: Part
    probe: Tensor
    loss: Callable[[Any, Tensor], Tensor]
    batch: int = 16


def pspnet_camvid() -> Network:
    """Return PSPNet on CamVid: stages of the encoder, pyramid, head."""
    task = camvid()
    stages = tuple(f"encoder.layer{n}" for n in range(1, 5))
    modules = (*stages, "pyramid", "classifier")
    return Network(task.build, modules, task.parts[0], task.parts[1][0], task.loss, task.batch)


def fcos_kitti() -> Network:
    """Return FCOS on KITTI: stages of the encoder, feature pyramid, both towers."""
    data = detection_data(
        DistillationDataConfig("kitti", data_root("kitti101"), 64, 208, None, unlabelled=None)
    )
    parts = [
        normalize(p.images.float() / 255, data.mean, data.std)
        for p in (data.labelled, data.validation)
    ]
    assert data.labelled.targets is not None
    stages = tuple(f"pyramid.encoder.layer{n}" for n in range(1, 4))
    towers = ("head.classification_head", "head.regression_head")
    return Network(
        partial(
            fcos,
            "test_resnet",
            len(data.class_names),
            channels=32,
            convolutions=1,
            strides=(4, 8, 16),
        ),
        (*stages, "pyramid.fpn", *towers),
        (parts[0], data.labelled.targets),
        parts[1],
        lambda output, packed: fcos_losses(output, *to_labels(packed)).total(),
        batch=8,
    )


def birds_eye_view(scenes: int = 400) -> Network:
    """Return the network of examples/bev.py: cameras, view transform, BEV encoder, head."""
    part, probe = bev.draw_scenes(scenes, 0), bev.draw_scenes(bev.PROBE, 1)[0]
    return Network(bev.BevNet, bev.MODULES, part, probe, bev.bev_loss)


NETWORKS: Mapping[str, Callable[[], Network]] = {
    "pspnet": pspnet_camvid,
    "fcos": fcos_kitti,
    "bev": birds_eye_view,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Train what has no row, record a row per network and seed, and draw the first seed's modules."""
    parser = options_parser(__doc__, "recorder.jsonl", "runs/driving_modules")
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--figures", type=Path, default=PICTURES, help="folder of the figures")
    parser.add_argument("--small", action="store_true", help="bev, one seed, 4 epochs, 64 scenes")
    options = parser.parse_args(argv)
    if unknown := set(options.networks) - set(NETWORKS):
        parser.error(f"unknown network {min(unknown)}; choose from {', '.join(NETWORKS)}")
    about: dict[str, Any] = {"scale": "small"} if options.small else {}
    epochs = 4 if options.small else EPOCHS
    networks = {"bev": partial(birds_eye_view, 64)} if options.small else NETWORKS
    for seed in options.seeds[: 1 if options.small else None]:
        for name in options.networks or networks:
            rows = read_json_lines(options.results)
            if select(rows, experiment="driving_modules", what=name, seed=seed, **about):
                continue
            table = trained(networks[name](), options.out / f"{name}-seed{seed}", seed, epochs)
            config = {"epochs": epochs}
            record(
                options.results, "driving_modules", name, config, kept(table), seed=seed, **about
            )
            if seed == options.seeds[0]:
                options.figures.mkdir(parents=True, exist_ok=True)
                save_figure(modules_figure(table), options.figures / f"modules-{name}.svg")


def trained(network: Network, folder: Path, seed: int, epochs: int) -> ModuleTable:
    """Return the module table of a training, done where it was not."""
    if read_done(folder) is None:
        torch.manual_seed(seed)
        model = network.build()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        with Recorder(
            *(folder, model, network.modules, network.probe, optimizer), keep="none"
        ) as recorder:
            for _ in range(epochs):
                train_epoch(
                    *(model, optimizer, network.part, seed, recorder),
                    batch=network.batch,
                    loss_fn=network.loss,
                )
                recorder.end_epoch()
                schedule.step()
    return module_table(folder)


def kept(table: ModuleTable) -> dict[str, Any]:
    """Return what a row keeps of a module table."""
    modules = [
        {
            "name": clock.name,
            "parameters": row.facts["parameters"] if clock is row.clocks[0] else None,
            "drift": clock.drifts[0],
            "done_epoch": clock.done_epoch,
            "late_drift": clock.late_drift,
            "rest": None if clock.verdict is None else [clock.verdict.state, clock.verdict.epoch],
            "alarms": [alarm.kind for alarm in row.alarms],
        }
        for row in table.rows
        for clock in row.clocks
    ]
    names = ("epochs", "depth_correlation", "even_epoch")
    return {name: getattr(table, name) for name in names} | {"modules": modules}


if __name__ == "__main__":
    run_script(main)

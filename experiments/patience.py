"""Function matching on real data for longer and longer: what patience gives, and what decides it.

    python -m experiments.patience [CASE …] [--part lengths deciders …] [--seeds 1 2 3]

Needs the data sets of the cases below FMCE_DATA. One teacher per case teaches students of paired seeds for 1, 4,
16 and 64 times the case's shortest schedule. Each length has its own schedule, its last checkpoint counts, and
all arms have equal steps. `deciders` changes one thing at a time on Fashion-MNIST, the cheapest case; `labels`
gives its supervised student more labels; `teachers` asks what a better teacher gives on CamVid and CIFAR-10;
`settings` compares learning rates on images that no other part sees. A row is recorded in results/patience.jsonl as
soon as an experiment of one seed ends. If interrupted, rerun the command to resume; what has a row is not repeated.
`--plan` lists what is missing. Time on one idle CPU core, by the cost of a step: an hour for Fashion-MNIST, half an
hour for CIFAR-10, 40 minutes for CamVid; for KITTI 12 minutes for the teacher and 53 minutes a seed, of which 41 for
the longest; for `teachers` 20 minutes on CamVid and 25 on CIFAR-10. `--small`, one seed of Fashion-MNIST up to 4
times: about 10 minutes. Expected: no gain at first; the gap to the teacher closes as steps grow, and less with a
small pool.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.model_selection import train_test_split
from torch import Tensor

from experiments.distillation_runs import (
    FOLDERS,
    data_folder,
    unlabelled_folders,
    without_places,
)
from experiments.result_rows import select
from experiments.script import options_parser, record, run_script
from fmce.config.choices import ARMS, Arm
from fmce.config.distillation import (
    AugmentationConfig,
    DistillationConfig,
    DistillationDataConfig,
    NetConfig,
    StepsConfig,
    distillation_preset,
)
from fmce.config.io import to_dict
from fmce.data.batch import ImageSet
from fmce.data.classification.catalog import CHANNEL_STATISTICS
from fmce.data.classification.classification import ClassificationData, load_classification
from fmce.distillation.distill import distill
from fmce.engine.runtime import make_runtime
from fmce.files import read_json_lines, write_text
from fmce.models.tiny import TinyNet

MULTIPLES, INTERVALS, SETTINGS_SEED = (1, 4, 16, 64), 5, 0
CHEAPEST, LABELS, WIDTH, HELD_OUT, ZOOM = "fashion-mnist", 500, 3, 1000, 1.3
CAR_WIDTH = 60
"""In pixels of the original frames, which are 1,242 wide."""
MATCHED: tuple[Arm, ...] = ("function_matching",)
SUPERVISED: tuple[Arm, ...] = ("supervised",)
Change = Callable[[DistillationConfig], DistillationConfig]


@dataclass(frozen=True)
class Experiment:
    """One teacher's students of one seed.

    Attributes:
        case: Name of the data.
        part: One of PARTS.
        what: What differs from the case.
        multiple: Steps over the case's shortest schedule.
        arms: Which students.
        change: Makes the case's config this experiment's.
        teacher: Makes the case's config that of a teacher of the experiment's own.
    """

    case: str
    part: str
    what: str = "as it is"
    multiple: int = 16
    arms: tuple[Arm, ...] = ARMS
    change: Change = lambda config: config
    teacher: Change | None = None


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing and record a row per experiment and seed."""
    parser = options_parser(__doc__, "patience.jsonl", "runs/patience")
    add = parser.add_argument
    add("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; all by default")
    add("--part", nargs="+", choices=PARTS, default=list(PARTS), help="all by default")
    text = "lengths over the shortest; all by default"
    add("--multiples", type=int, nargs="+", choices=MULTIPLES, default=list(MULTIPLES), help=text)
    add("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the students")
    add("--small", action="store_true", help="the cheapest case, one seed, at most 4 times")
    add("--device", default="cpu", help="cpu, cuda or cuda:N (%(default)s)")
    add("--plan", action="store_true", help="list what is missing, train nothing")
    options = parser.parse_args(argv)
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"unknown case {min(unknown)}; choose from {', '.join(CASES)}")
    for experiment, seed in queue(options):
        about: dict[str, Any] = {"case": experiment.case, "part": experiment.part}
        about |= {"multiple": experiment.multiple, "seed": seed}
        about |= {"scale": "small"} if options.small else {}
        if select(read_json_lines(options.results), what=experiment.what, **about):
            continue
        if options.plan:
            print(*about.values(), experiment.what)
            continue
        config, result = trained(experiment, seed, data_folder(parser), options)
        record(options.results, "patience", experiment.what, config, result, **about)


def queue(options: argparse.Namespace) -> Iterator[tuple[Experiment, int]]:
    """Yield the experiments that the options name, part by part, all seeds of each."""
    cases = [CHEAPEST] if options.small else options.cases or list(CASES)
    multiples = [m for m in options.multiples if m <= 4 or not options.small]
    for part in options.part:
        seeds = [SETTINGS_SEED] if part == "settings" else options.seeds
        for experiment in PARTS[part]:
            if options.small and part != "lengths":
                experiment = replace(experiment, multiple=4)
            if experiment.case in cases and experiment.multiple in multiples:
                for seed in seeds[: 1 if options.small else None]:
                    yield experiment, seed


def trained(
    experiment: Experiment, seed: int, data: Path, options: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the config of an experiment's row, and what its students of a seed came to."""
    case, runtime = CASES[experiment.case](data, options.out), make_runtime(options.device)
    base, folder = case, options.out / experiment.case
    name = f"{experiment.part}-{experiment.what.replace(' ', '-')}"
    teacher = folder / "teacher"
    if experiment.teacher:
        base, teacher = experiment.teacher(case), folder / f"teacher-{name}"
    if not (teacher / "distill.json").exists():
        distill(alone(base), teacher, jobs=1, runtime=runtime)
    changed = experiment.change(case)
    steps = changed.student_steps.steps * experiment.multiple
    config = replace(
        changed,
        student_steps=replace(changed.student_steps, steps=steps, interval=steps // INTERVALS),
        teacher_checkpoint=str(teacher / "teacher"),
        arms=experiment.arms,
        seeds=(seed,),
    )
    where = folder / f"{name}-x{experiment.multiple}-seed{seed}"
    found = distill(config, where, jobs=1, runtime=runtime)
    return without_places(to_dict(config)), compact(found)


def alone(config: DistillationConfig) -> DistillationConfig:
    """Return the experiment that trains a case's teacher, whatever its students' settings are."""
    steps, interval = config.student_steps.steps, config.student_steps.interval
    short = replace(config.teacher_steps, steps=steps, interval=interval)
    return replace(config, arms=SUPERVISED, seeds=(SETTINGS_SEED,), student_steps=short)


def compact(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a row keeps of a result: scores, agreement, and the scores on the way."""
    name, agreement = found["score_name"], found["agreement_name"]
    arms = {
        row["arm"]: {
            "score": row["score"],
            **{pool: values[agreement] for pool, values in row["agreement"].items()},
            "kl": row["agreement"]["validation"]["mean_kl"],
            "curve": [point[name] for point in row["curve"]],
        }
        for row in found["rows"]
    }
    about = {key: found[key] for key in ("score_name", "images", "steps")}
    return {**about, "teacher": found["teacher"][name], "arms": arms}


def classification(name: str, labelled: int, width: int) -> DistillationConfig:
    """Return a teacher of width 16 and a narrower student, at 16 px."""
    mean, std = CHANNEL_STATISTICS[name]
    # By part `settings`, the best of three for both arms.
    budget = StepsConfig(steps=125, batch_size=64, learning_rate=8e-3, interval=25)
    return DistillationConfig(
        task="classify",
        data=DistillationDataConfig(
            name=name,
            height=16,
            width=16,
            labelled=labelled,
            unlabelled=None,
            held_out=HELD_OUT,
            validation=5000,
            # Of all images, so that students with more labels can have the same teacher.
            mean=mean,
            std=std,
        ),
        augmentation=AugmentationConfig(zoom=ZOOM),
        teacher=NetConfig("tiny", {"width": 16}),
        student=NetConfig("tiny", {"width": width}),
        teacher_steps=replace(budget, steps=4000, learning_rate=4e-3, interval=400),
        student_steps=budget,
    )


def camvid(data: Path, _out: Path) -> DistillationConfig:
    """Return CamVid with a quarter of its labels; the pool is the rest of its frames."""
    budget = StepsConfig(steps=50, batch_size=16, learning_rate=4e-3, interval=10)
    return DistillationConfig(
        data=DistillationDataConfig(
            name="camvid",
            root=str(data / "camvid"),
            height=48,
            width=64,
            labelled=367 // 4,
            unlabelled=None,
            held_out=60,
        ),
        student=NetConfig(
            options={"encoder_options": {"channels": [6, 8, 12, 16], "stem_width": 6}}
        ),
        teacher_steps=replace(budget, steps=2000, interval=200),
        student_steps=budget,
    )


def kitti(data: Path, out: Path) -> DistillationConfig:
    """Return KITTI's cars that are wide enough to be seen at this size; the pool is of other places."""
    config = distillation_preset("kitti")
    folders = unlabelled_folders(data, ("camvid/train", *FOLDERS), out / "clip-frames")
    return replace(
        config,
        data=replace(
            config.data,
            root=str(wide_cars(data / "kitti101", out / "kitti-cars")),
            height=96,
            width=312,
            folders=folders,
            held_out=60,
        ),
        teacher_steps=replace(config.teacher_steps, steps=2000),
        student_steps=replace(config.student_steps, steps=50, interval=10),
    )


def wide_cars(source: Path, folder: Path) -> Path:
    """Write KITTI's labels with all but wide cars as regions to ignore; its images are linked."""
    (folder / "label_2").mkdir(parents=True, exist_ok=True)
    for file in sorted((source / "label_2").glob("*.txt")):
        kept = []
        for line in file.read_text(encoding="utf-8").splitlines():
            name, *rest = line.split()
            wide = float(rest[5]) - float(rest[3]) >= CAR_WIDTH
            seen = name in ("Car", "Van") and wide
            kept.append(" ".join(["Car" if seen else "DontCare", *rest]) + "\n")
        write_text(folder / "label_2" / file.name, "".join(kept))
    if not (folder / "image_2").is_symlink():
        (folder / "image_2").symlink_to((source / "image_2").resolve())
    return folder


def images(**fields: Any) -> Change:
    """Return the change of some fields of `data`."""
    return lambda config: replace(config, data=replace(config.data, **fields))


def student_steps(**fields: Any) -> Change:
    """Return the change of some fields of `student_steps`."""
    return lambda config: replace(config, student_steps=replace(config.student_steps, **fields))


def student(name: str = "tiny", width: int = WIDTH) -> Change:
    """Return the change of the student."""
    return lambda config: replace(config, student=NetConfig(name, {"width": width}))


def temperature(value: float) -> Change:
    """Return the change of the temperature."""
    return lambda config: replace(config, temperature=value)


def both(first: Change, second: Change) -> Change:
    """Return two changes as one."""
    return lambda config: second(first(config))


def shuffled(config: DistillationConfig) -> DistillationConfig:
    """Return the config of a teacher that can know nothing; a short training is enough for that."""
    return own_function("shuffled_labels")(
        replace(config, teacher_steps=replace(config.teacher_steps, steps=1000, interval=200))
    )


def every_label(config: DistillationConfig) -> DistillationConfig:
    """Return the config of a teacher that learns from all labels of CamVid but 60, which are held out from it."""
    data = replace(
        config.data,
        labelled=367 - config.data.held_out,
        # Of the students' labelled frames: teacher and student must see the same view.
        mean=(0.4181, 0.4310, 0.4372),
        std=(0.2902, 0.2928, 0.2885),
    )
    return replace(config, data=data)


def wider(config: DistillationConfig) -> DistillationConfig:
    """Return the config of a teacher that is twice as wide and trains for twice as long."""
    steps = replace(config.teacher_steps, steps=2 * config.teacher_steps.steps)
    return replace(config, teacher=NetConfig("tiny", {"width": 32}), teacher_steps=steps)


def own_function(name: str) -> Change:
    """Return the change of the data to what a function of this file makes of them."""
    return images(name=f"experiments.patience:{name}")


class OtherCrop(TinyNet):
    """A student that is trained on another window of each view than the teacher sees."""

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, num_classes) of images (B, 3, H, W)."""
        return super().forward(other_window(images) if self.training else images)


def other_crop(num_classes: int, width: int) -> OtherCrop:
    """Build the student of the broken view."""
    return OtherCrop(num_classes, width=width)


def other_window(images: Tensor) -> Tensor:
    """Return a window of each image (B,C,H,W), zoomed and mirrored at random, at the image's size."""
    draw = torch.rand(4, len(images), device=images.device)
    side = ZOOM ** -draw[0]  # (B,)
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0], theta[:, 1, 1] = torch.where(draw[1] < 0.5, -side, side), side
    theta[:, :, 2] = (2 * draw[2:].T - 1) * (1 - side)[:, None]
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def settings_images() -> ClassificationData:
    """Return the data whose test images are those set aside for choosing settings."""
    found = load_classification(CHEAPEST)
    return replace(found, test=found.validation)


def shuffled_labels() -> ClassificationData:
    """Return the data with the training labels shuffled among their images."""
    found = load_classification(CHEAPEST)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(found.train)))
    return replace(found, train=ImageSet(found.train.images, found.train.targets[order]))


def pool_of_mnist() -> ClassificationData:
    """Return the data with MNIST's images as the pool."""
    return with_pool(load_classification(CHEAPEST), load_classification("mnist").train.images)


def pool_of_cifar10() -> ClassificationData:
    """Return the data with CIFAR-10's images, in grey, as the pool."""
    return with_pool(load_classification(CHEAPEST), load_classification("cifar10").train.images)


def with_pool(
    found: ClassificationData, images: Tensor, *, labelled: int = LABELS, held_out: int = HELD_OUT
) -> ClassificationData:
    """Put other images in the places that the labelled images and those held out leave.

    Args:
        found: Grey images; `train` gets the others.
        images: Uint8 (N,C,h,w), any number: they are repeated where there are too few.
        labelled: How many images of `train` keep their labels in the experiment.
        held_out: How many are held out.
    """
    every, targets = np.arange(len(found.train)), found.train.targets.numpy()
    # As fmce.distillation.data.classification draws them with the seed 0.
    _, rest = train_test_split(every, train_size=labelled, stratify=targets, random_state=0)
    places = torch.from_numpy(rest[held_out:])
    grey = images[torch.arange(len(places)) % len(images)].float().mean(dim=1, keepdim=True)
    mixed = found.train.images.clone()  # (N,1,H,W)
    mixed[places] = F.interpolate(grey, mixed.shape[-2:]).round().to(torch.uint8)
    return replace(found, train=ImageSet(mixed, found.train.targets))


CASES: dict[str, Callable[[Path, Path], DistillationConfig]] = {
    CHEAPEST: lambda _data, _out: classification(CHEAPEST, LABELS, WIDTH),
    "cifar10": lambda _data, _out: classification("cifar10", 4500, 8),
    "camvid": camvid,
    "kitti": kitti,
}
"""Name → config of the shortest schedule, by the folder of data sets and that of the runs."""
_DECIDERS: tuple[tuple[str, Change], ...] = (
    ("500 unlabelled images", images(unlabelled=500)),
    ("8000 unlabelled images", images(unlabelled=8000)),
    ("a pool of CIFAR-10", own_function("pool_of_cifar10")),
    ("other crop for the student", student("experiments.patience:other_crop")),
    ("2000 unlabelled images", images(unlabelled=2000)),
    ("mixup", student_steps(mixup=True)),
    ("temperature 4", temperature(4)),
    ("a pool of MNIST", own_function("pool_of_mnist")),
)
PARTS: dict[str, list[Experiment]] = {
    "settings": [
        Experiment(
            CHEAPEST,
            "settings",
            f"learning rate {rate:g}",
            multiple=4,
            arms=("supervised", "function_matching"),
            change=both(own_function("settings_images"), student_steps(learning_rate=rate)),
        )
        for rate in (2e-3, 4e-3, 8e-3)
    ],
    "lengths": [Experiment(c, "lengths", multiple=times) for c in CASES for times in MULTIPLES],
    "deciders": [
        Experiment(
            CHEAPEST,
            "deciders",
            "labels shuffled among images",
            arms=MATCHED,
            change=shuffled,
            teacher=shuffled,
        ),
        *(Experiment(CHEAPEST, "deciders", w, arms=MATCHED, change=c) for w, c in _DECIDERS),
        *(
            Experiment(
                CHEAPEST,
                "deciders",
                f"width {w}",
                arms=(*SUPERVISED, *MATCHED),
                change=student(width=w),
            )
            for w in (2, 6)
        ),
    ],
    "labels": [
        Experiment(CHEAPEST, "labels", f"{n} labels", arms=SUPERVISED, change=images(labelled=n))
        for n in (1000, 2000, 4000)
    ],
    "teachers": [
        *(
            Experiment("camvid", "teachers", "all labels", times, MATCHED, teacher=every_label)
            for times in (16, 64)
        ),
        Experiment("cifar10", "teachers", "width 32", 64, MATCHED, teacher=wider),
    ],
}


if __name__ == "__main__":
    run_script(main)

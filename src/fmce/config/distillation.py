"""What a distillation experiment is made of: teacher, student, images, and equal step budgets."""

from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from fmce.config import choices
from fmce.config.checks import (
    Count,
    Different,
    Flag,
    Natural,
    PlainOptions,
    Positive,
    Real,
    Share,
    Whole,
    config_class,
)

Pixels = Annotated[Whole, Field(ge=8, le=2**14)]


@config_class
class DistillationDataConfig:
    """Labelled images, and the unlabelled ones that function matching adds."""

    name: str = "scenes"
    """Segment: scenes, camvid, bdd100k, folder. Detect: scenes, bdd100k, kitti, coco, yolo, voc.
    Classify: a data set of `fmce train`."""
    root: str | None = None
    """Folder of the data set; for `folder`, it holds images/{train,val} and masks/{train,val}."""
    height: Pixels = 64
    width: Pixels = 128
    """Size in pixels that images are brought to (resized to cover it, cut at the centre)."""
    labelled: Count | None = 60
    """Labelled training images that every arm and the teacher see; None is all."""
    unlabelled: Count | None = 4000
    """Most unlabelled images in the pool; None is all there are."""
    folders: tuple[str, ...] = ()
    """Folders of unlabelled images, nested or not, and folders or fsspec addresses of shards. Training
    images left out by `labelled` join too."""
    storage: choices.ImageStorage = "auto"
    """Where unlabelled images are kept: files stay files, decoded ahead of the trainer; auto goes by size."""
    shuffle_buffer: Count = 2048
    """In files: how many frames are shuffled with one another; as many again wait undecoded in memory."""
    workers: Natural | None = None
    """In files: processes that decode images for one training; None goes by the cores, 0 is the trainer."""
    max_damaged: Share = 0.01
    """Share of reads that may meet a damaged image before a training stops."""
    record_frames: Flag = False
    """In files: record which frames each interval saw, in `frames/` of the student's run folder."""
    exclude: str | None = None
    """Text file of stems, one per line, of images to leave out: of the pool, the labelled and the validation ones."""
    held_out: Natural = 100
    """Unlabelled images kept out of the pool, on which agreement is measured; of shards, entire videos where
    there are enough."""
    validation: Count | None = None
    """Most validation images; None is all."""
    class_names: Annotated[tuple[str, ...], Different] = ()
    """For `folder`, `coco`, `yolo`, `voc`: names of the class ids 0 … C − 1."""
    unannotated_images: choices.UnannotatedImages = "empty"
    """Detect: an image without annotation has no objects (empty), is left out (skip), or is an error."""
    label_columns: choices.LabelColumns = "auto"
    """For `yolo`: what lines of more than 6 columns are, a box with further values behind it or a polygon; auto takes
    only what data.yaml or varying numbers of columns make clear."""
    mean: tuple[Real, ...] = ()
    """Three channel means on the 0–1 scale; empty takes ImageNet's where a network starts from its
    weights, and those of the labelled images elsewhere."""
    std: tuple[Positive, ...] = ()
    """The three standard deviations. A teacher trained elsewhere needs those of its training."""
    seed: Natural = 0
    """Draws which images are labelled and which are held out."""

    def __post_init__(self) -> None:
        if (len(self.mean), len(self.std)) not in ((0, 0), (3, 3)):
            given = f"{self.mean} and {self.std}"
            raise ValueError(f"mean and std: expected three numbers each, or none, got {given}")


@config_class
class NetConfig:
    """One of the two networks."""

    name: str = "pspnet:test_resnet"
    """Segment: "pspnet:TIMM_ENCODER" or "my.module:function"; detect: "fcos:BACKBONE" or a custom
    function; classify: as in `fmce train`."""
    options: PlainOptions = field(default_factory=dict)
    weights: str | None = None
    """"imagenet" starts the encoder from timm's weights (downloaded where missing); None from scratch."""


@config_class
class StepsConfig:
    """A step budget. An interval is what lies between two checkpoints."""

    steps: Count = 1500
    batch_size: Annotated[Whole, Field(ge=2)] = 16
    learning_rate: Positive = 1e-3
    interval: Count = 100
    """Steps between checkpoints; the learning rate follows a cosine, interval by interval."""
    mixup: Flag = False
    """Blend each image with another (λ ~ Beta(1, 1)); matching arms only, since no label is mixed."""

    def __post_init__(self) -> None:
        if self.steps % self.interval:
            raise ValueError(f"interval: must divide steps ({self.steps}), got {self.interval}")


@config_class
class AugmentationConfig:
    """How training images are varied; teacher and student always see the same view."""

    zoom: Annotated[Real, Field(ge=1, le=16)] = 1.5
    """Largest enlargement; a window of the image's own size is cut from it at random."""
    flip: Flag = True
    brightness: Annotated[Real, Field(ge=0, lt=1)] = 0.2
    """Largest relative change of brightness and of contrast."""


@config_class
class DistillationConfig:
    """A teacher, and a student trained in three arms of equal budgets."""

    task: choices.TaskName = "segment"
    data: DistillationDataConfig = field(default_factory=DistillationDataConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    teacher: NetConfig = field(default_factory=NetConfig)
    student: NetConfig = field(default_factory=NetConfig)
    teacher_steps: StepsConfig = field(default_factory=StepsConfig)
    student_steps: StepsConfig = field(default_factory=StepsConfig)
    teacher_checkpoint: str | None = None
    """A trained teacher to load strictly instead of training one; teacher.json must stand beside it."""
    teacher_floor: Share = 0.0
    """Least validation score (mIoU, AP or accuracy, 0–1) of the teacher; below it nothing is trained."""
    teacher_precision: choices.TeacherPrecision = "auto"
    """Of the teacher's forward passes while students are trained; auto: bfloat16 on GPUs that have it."""
    temperature: Positive = 1.0
    arms: Annotated[tuple[choices.Arm, ...], Field(min_length=1)] = choices.ARMS
    seeds: Annotated[tuple[Natural, ...], Field(min_length=1), Different] = (1, 2, 3)
    teacher_seed: Natural = 0

    def __post_init__(self) -> None:
        # Not given in the slides: a detector's classes are coins, for which they name none.
        if self.task == "detect" and self.temperature != 1:
            raise ValueError(f"temperature: expected 1 for detection, got {self.temperature}")
        if self.teacher_checkpoint is not None and not Path(self.teacher_checkpoint).exists():
            raise ValueError(f"teacher_checkpoint {self.teacher_checkpoint} does not exist")


# With this encoder a student has a quarter of its teacher's weights.
_NARROW: dict[str, Any] = {"encoder_options": {"channels": [16, 24, 24, 48], "stem_width": 8}}
_SCENES = DistillationDataConfig(height=48, width=96, labelled=30, unlabelled=3000, validation=100)


def _data(name: str, height: int, width: int, labelled: int | None) -> DistillationDataConfig:
    return DistillationDataConfig(name, None, height, width, labelled, unlabelled=None)


_BDD100K = replace(_data("bdd100k", 360, 640, None), held_out=500)


def _fcos(channels: int, strides: list[int], **options: Any) -> NetConfig:
    head = {"channels": channels, "convolutions": 1, "strides": strides}
    return NetConfig("fcos:test_resnet", head | options)


# Small networks on native or modest sizes that CPUs train in minutes; GPU sizes are in experiments/.
DISTILLATION_PRESETS: dict[str, DistillationConfig] = {
    # 30 labels leave the student short of the teacher.
    "scenes": DistillationConfig(
        data=_SCENES,
        augmentation=AugmentationConfig(zoom=1.25),
        student=NetConfig(options=_NARROW),
        teacher_steps=StepsConfig(steps=600, learning_rate=4e-3),
        student_steps=StepsConfig(steps=600, learning_rate=4e-3),
    ),
    # Objects are small: levels of stride 4 and 8. With 100 labels instead of 30 both arms are still
    # learning when the steps end, and more images are worth little yet.
    "scenes-detect": DistillationConfig(
        task="detect",
        data=replace(_SCENES, validation=200),
        augmentation=AugmentationConfig(zoom=1.25),
        teacher=_fcos(64, [4, 8]),
        student=_fcos(32, [4, 8], **_NARROW),
        teacher_steps=StepsConfig(steps=1000, batch_size=8, learning_rate=3e-3, interval=250),
        student_steps=StepsConfig(steps=800, batch_size=8, learning_rate=4e-3, interval=200),
    ),
    "camvid": DistillationConfig(data=_data("camvid", 96, 128, 92)),
    # KITTI's frames keep their shape of about 3.3; every fourth is for validation. As few steps as show
    # a teacher ahead; more is better where there is time.
    "kitti": DistillationConfig(
        task="detect",
        data=_data("kitti", 64, 208, None),
        teacher=_fcos(64, [4, 8, 16]),
        student=_fcos(32, [4, 8, 16], **_NARROW),
        teacher_steps=StepsConfig(steps=400, batch_size=8, learning_rate=3e-3, interval=200),
        student_steps=StepsConfig(steps=200, batch_size=8, learning_rate=4e-3, interval=100),
    ),
    # The slides' detectors; they give neither size nor steps. Half size; for a GPU.
    "bdd100k-detect": DistillationConfig(
        task="detect",
        data=_BDD100K,
        teacher=NetConfig("fcos:resnet101"),
        student=NetConfig("fcos:resnet18"),
        teacher_steps=StepsConfig(steps=90_000, interval=3000, learning_rate=1e-4),
        student_steps=StepsConfig(steps=180_000, interval=3000, learning_rate=1e-4),
    ),
    # The slides' networks; they give neither size nor steps. Half size; for a GPU.
    "bdd100k": DistillationConfig(
        data=_BDD100K,
        teacher=NetConfig("pspnet:resnet101"),
        student=NetConfig("pspnet:resnet18"),
        teacher_steps=StepsConfig(steps=40_000, interval=1000),
        student_steps=StepsConfig(steps=80_000, interval=1000),
    ),
    "digits": DistillationConfig(
        task="classify",
        data=_data("digits", 16, 16, 100),
        augmentation=AugmentationConfig(zoom=1.3, flip=False),
        teacher=NetConfig("tiny", {"width": 32}),
        student=NetConfig("tiny", {"width": 8}),
    ),
    "cifar10": DistillationConfig(
        task="classify",
        data=_data("cifar10", 32, 32, 4500),
        teacher=NetConfig("tiny", {"width": 64}),
        student=NetConfig("tiny", {"width": 16}),
    ),
}

# What `--task` means where no preset is named.
DISTILLATION_DEFAULTS: dict[choices.TaskName, str] = {
    "segment": "scenes",
    "classify": "digits",
    "detect": "scenes-detect",
}


def distillation_preset(name: str) -> DistillationConfig:
    """Return the named preset.

    Raises:
        ValueError: If no preset has that name.
    """
    if name not in DISTILLATION_PRESETS:
        raise ValueError(f"unknown preset {name!r}; choose from {', '.join(DISTILLATION_PRESETS)}")
    return DISTILLATION_PRESETS[name]

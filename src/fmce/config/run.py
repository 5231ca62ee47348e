"""What a run is made of: frozen dataclasses with range checks, read from and written to YAML.

Each number the papers leave open is marked where its default stands. Nothing here imports torch.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fmce.config.checks import check, check_choice, check_width
from fmce.config.io import _field_names, from_dict, read_yaml
from fmce.convergence.phases import PhaseConfig

Schedule = Literal["cosine", "constant", "step"]
Auxiliary = Literal["none", "ral", "feature_matching"]
OracleWeights = Literal["trained", "random"]
Init = Literal["scratch", "checkpoint"]
Split = Literal["map", "image", "run", "test"]
Storage = Literal["recompute", "memory", "stored"]
Keep = Literal["all", "markers", "last"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class DataConfig:
    """Images of the original task and how a training image is varied."""

    name: str = "digits"
    """A set of `fmce.data.classification.catalog`, "image-folder:FOLDER" or "my.module:function"."""
    image_size: int = 16
    """Side in pixels that every image is resized to (bilinear)."""
    shift: int = 2
    """Largest shift in pixels at `image_size`, each axis apart; zeros move in."""
    noise: float = 0.3
    """Standard deviation of Gaussian noise, in units of the channel's own."""
    flip: bool = False
    """Mirror every second image, on average."""
    split_seed: int = 0
    """Which images are train, validation and test; never the run's own seed."""
    root: str | None = None
    """Folder that data sets lie in; None is $FMCE_DATA, else ./data."""
    train_images: int | None = None
    """Train on that many images, classes balanced, drawn by `split_seed`; None takes all."""

    def __post_init__(self) -> None:
        few = self.train_images is not None and self.train_images < 1
        check(not few, "data.train_images", self.train_images, "at least 1, or null for all")
        check(self.image_size >= 1, "data.image_size", self.image_size, "at least 1 pixel")
        check(
            0 <= self.shift < self.image_size,
            "data.shift",
            self.shift,
            f"0 to {self.image_size - 1} pixels",
        )
        check(self.noise >= 0, "data.noise", self.noise, "0 or more")
        check(self.split_seed >= 0, "data.split_seed", self.split_seed, "0 or more")


@dataclass(frozen=True)
class ModelConfig:
    """The network of the original task."""

    name: str = "tiny"
    """"tiny", "torchvision:NAME", "timm:NAME" or "my.module:function"."""
    layer: str | None = None
    """Submodule whose output is the feature map; None takes the family's last conv stage."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for the model's builder."""


@dataclass(frozen=True)
class TrainConfig:
    """Adam on cross-entropy, as in the papers."""

    epochs: int = 60
    batch_size: int = 64
    learning_rate: float = 1e-3
    schedule: Schedule = "cosine"
    """Set once an epoch. "cosine" falls to 0 after the last; "step" divides the rate by 10 after half
    and again after three quarters of the epochs."""
    seed: int = 0

    def __post_init__(self) -> None:
        check(self.epochs >= 1, "train.epochs", self.epochs, "at least 1")
        check(self.batch_size >= 1, "train.batch_size", self.batch_size, "at least 1")
        check(
            0 < self.learning_rate < float("inf"),
            "train.learning_rate",
            self.learning_rate,
            "a positive number",
        )
        check_choice("train.schedule", self.schedule, Schedule)
        check(self.seed >= 0, "train.seed", self.seed, "0 or more")


@dataclass(frozen=True)
class AuxiliaryConfig:
    """What is added to the task's loss: nothing, FMCE-Net++'s RAL, or a control of it."""

    kind: Auxiliary = "none"
    oracle: str | None = None
    """Run folder whose frozen FMCE-Net (or checkpoint E_K, for feature matching) is used."""
    oracle_split: Split = "map"
    """Which of that run's FMCE-Nets; the papers' is the one trained on the `map` split."""
    raf: float = 1.0
    """Weight of the task's loss; 1 is the plain baseline."""
    target_phase: int | None = None
    """Phase that every map is pulled to; None is the last."""
    oracle_weights: OracleWeights = "trained"
    """"random" is a control: an untrained FMCE-Net of the same shape."""
    oracle_digest: str | None = None
    """SHA-256 of the oracle's weights, noted when training begins: a resume with another is refused."""
    same_seed: bool = False
    """Allow the oracle's own seed, which may only pull a run towards its own checkpoint."""
    init: Init = "scratch"
    """"checkpoint" starts from the oracle run's weights at E_K; the papers' tables need "scratch"."""
    oracle_every: int = 1
    """Let FMCE-Net judge every n-th step only, with n times the weight; the papers' is 1."""
    oracle_batch_fraction: float = 1.0
    """Let it judge that share of each batch only; the papers' is 1."""
    oracle_width: float | None = None
    """Which of the oracle run's FMCE-Nets, by its `fmce_net.width`; None is the run's own."""

    def __post_init__(self) -> None:
        check_choice("auxiliary.kind", self.kind, Auxiliary)
        check_choice("auxiliary.oracle_split", self.oracle_split, Split)
        check_choice("auxiliary.oracle_weights", self.oracle_weights, OracleWeights)
        check_choice("auxiliary.init", self.init, Init)
        check(0 <= self.raf <= 1, "auxiliary.raf", self.raf, "between 0 and 1")
        check(self.oracle_every >= 1, "auxiliary.oracle_every", self.oracle_every, "at least 1")
        check(
            0 < self.oracle_batch_fraction <= 1,
            "auxiliary.oracle_batch_fraction",
            self.oracle_batch_fraction,
            "above 0, at most 1",
        )
        check_width("auxiliary.oracle_width", self.oracle_width)
        self._check_kind()

    def _check_kind(self) -> None:
        if self.kind == "none" and self.raf != 1:
            raise ValueError(
                f"auxiliary.raf is {self.raf} but auxiliary.kind is none, so there is nothing to "
                "weigh against; name an oracle run (--oracle RUN) or leave raf at 1"
            )
        if self.kind == "none" and self.init != "scratch":
            raise ValueError(
                f"auxiliary.init is {self.init} but auxiliary.kind is none, so there is no run to start "
                "from; name an oracle run (--oracle RUN) or leave init at scratch"
            )
        if self.kind != "none" and self.oracle is None:
            raise ValueError(
                f"auxiliary.kind is {self.kind} but no oracle run is named; pass --oracle RUN"
            )
        for name, published in (
            ("oracle_every", 1),
            ("oracle_batch_fraction", 1),
            ("oracle_width", None),
        ):
            value = getattr(self, name)
            if self.kind != "ral" and value != published:
                raise ValueError(
                    f"auxiliary.{name} is {value} but auxiliary.kind is {self.kind}, so there is no "
                    "FMCE-Net to make cheaper; set auxiliary.kind=ral or leave it out"
                )


@dataclass(frozen=True)
class FMCENetConfig:
    """How FMCE-Net is trained on the FMCS-Dataset."""

    # Not given in the paper: optimiser, batch and epochs. The digits' few maps take 40 epochs of 64
    # (20: accuracy 0.942 on unseen images, 40: 0.968); the papers' sizes take 10 of 256.
    epochs: int = 40
    batch_size: int = 64
    learning_rate: float = 1e-3
    test_fraction: float = 0.25
    """Share of maps, images or runs held out; the paper's 3:1."""
    width: float = 1.0
    """Share of the published FMCE-Net's channels; each width is trained and kept apart."""
    storage: Storage = "memory"
    """Hold all maps, recompute them from the marker checkpoints in every epoch, or read what
    `fmce extract` stored."""
    # Not given in the paper. At 1024×7×7 the buffer takes 1.6 GB, at 2048×7×7 twice that.
    shuffle_buffer: int = 8192
    """Maps that are mixed with each other, on the device, where they are recomputed or read."""
    seed: int = 0

    def __post_init__(self) -> None:
        check(self.epochs >= 1, "fmce_net.epochs", self.epochs, "at least 1")
        check(self.batch_size >= 1, "fmce_net.batch_size", self.batch_size, "at least 1")
        check(
            0 < self.learning_rate < float("inf"),
            "fmce_net.learning_rate",
            self.learning_rate,
            "a positive number",
        )
        check(
            0 < self.test_fraction < 1,
            "fmce_net.test_fraction",
            self.test_fraction,
            "between 0 and 1, both excluded",
        )
        check_width("fmce_net.width", self.width)
        check_choice("fmce_net.storage", self.storage, Storage)
        check(
            self.shuffle_buffer >= 2,
            "fmce_net.shuffle_buffer",
            self.shuffle_buffer,
            "at least 2 maps",
        )
        check(self.seed >= 0, "fmce_net.seed", self.seed, "0 or more")


@dataclass(frozen=True)
class RuntimeConfig:
    """How passes are computed. The device is no part of it: a run may go on elsewhere."""

    precision: Precision = "float32"
    """Of forward passes; weights and losses stay float32."""
    channels_last: bool = False
    """Keep images, weights and maps in NHWC memory order, which convolutions on GPUs prefer."""
    compile: bool = False
    """Train through torch.compile; evaluation and feature maps are computed uncompiled."""
    tf32: bool = False
    """Let float32 products on GPUs round their factors to 10 bits of fraction."""

    def __post_init__(self) -> None:
        check_choice("runtime.precision", self.precision, Precision)


@dataclass(frozen=True)
class RunConfig:
    """One training of the original task, with all that later commands derive from it."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    # Ten classes at the papers' scale take 1e-4; on 1,257 digits with noise the loss never gets
    # that still, and 2e-3 marks the end of its fall.
    phases: PhaseConfig = field(default_factory=lambda: PhaseConfig(threshold=2e-3))
    fmce_net: FMCENetConfig = field(default_factory=FMCENetConfig)
    auxiliary: AuxiliaryConfig = field(default_factory=AuxiliaryConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


def run_config(folder: Path) -> RunConfig:
    """Read the config of a run folder.

    Raises:
        FileNotFoundError: the folder has no config.
        ValueError: the config is another command's, or no valid one.
    """
    file = folder / "config.yaml"
    if not file.exists():
        raise FileNotFoundError(f"{folder} is not a run folder: it has no config.yaml")
    values = read_yaml(file)
    strangers = [key for key in values if key not in _field_names(RunConfig)]
    if strangers:
        raise ValueError(
            f"{folder} is not a run folder of fmce train: its config.yaml has {strangers[0]!r}, as another "
            "command's has; name one of the runs in it"
        )
    return from_dict(RunConfig, values)

"""What a run is made of: frozen config sections, read from and written to YAML.

Each number the papers leave open is marked where its default stands. Nothing here imports torch.
"""

from dataclasses import field, fields
from pathlib import Path
from typing import Annotated

from pydantic import Field

from fmce.config import choices
from fmce.config.checks import (
    Amount,
    Count,
    Flag,
    Natural,
    NoFlags,
    PlainOptions,
    Positive,
    PositiveShare,
    Real,
    Share,
    Whole,
    config_class,
    field_types,
)
from fmce.config.io import from_dict, read_yaml
from fmce.convergence.phases import PhaseConfig
from fmce.files import wanted_by


@config_class
class DataConfig:
    """Images of the original task and how a training image is varied."""

    name: str = "digits"
    """A set of `fmce.data.classification.catalog`, "image-folder:FOLDER" or "my.module:function"."""
    image_size: Annotated[Count, Field(le=2**14)] = 16
    """Side in pixels that every image is resized to (bilinear)."""
    shift: Natural = 2
    """Largest shift in pixels at `image_size`, each axis apart; zeros move in."""
    noise: Amount = 0.3
    """Standard deviation of Gaussian noise, in units of the channel's own."""
    flip: Flag = False
    """Mirror every second image, on average."""
    split_seed: Natural = 0
    """Which images are train, validation and test; never the run's own seed."""
    root: str | None = None
    """Folder that holds the data sets; None is $FMCE_DATA, else ./data."""
    train_images: Count | None = None
    """Train on that many images, classes balanced, drawn by `split_seed`; None takes all."""

    def __post_init__(self) -> None:
        if self.shift >= self.image_size:
            raise ValueError(f"shift: expected 0 to {self.image_size - 1} pixels, got {self.shift}")


@config_class
class ModelConfig:
    """The network of the original task."""

    name: str = "tiny"
    """"tiny", "torchvision:NAME", "timm:NAME" or "my.module:function"."""
    layer: str | None = None
    """Submodule whose output is the feature map; None takes the family's last conv stage."""
    options: PlainOptions = field(default_factory=dict)
    """Keyword arguments for the model's builder."""


@config_class
class TrainConfig:
    """Adam on cross-entropy, as in the papers."""

    epochs: Count = 60
    batch_size: Count = 64
    learning_rate: Positive = 1e-3
    schedule: choices.Schedule = "cosine"
    """Set once per epoch. "cosine" falls to 0 after the last; "step" divides the rate by 10 after half
    and again after three quarters of the epochs."""
    seed: Natural = 0
    label_smoothing: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    """Share of each target that all classes get alike; not in the papers, a control of FMCE-Net++. The curve
    stays that of cross-entropy without it."""
    weight_average: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    """Decay per step of a moving average of the weights, which is then what is evaluated and kept as checkpoints;
    0 keeps the weights themselves. Not in the papers, a control of FMCE-Net++."""


@config_class
class AuxiliaryConfig:
    """What is added to the task's loss: nothing, FMCE-Net++'s RAL, or a control of it."""

    kind: choices.Auxiliary = "none"
    oracle: str | None = None
    """Run folder whose frozen FMCE-Net (or checkpoint E_K, for feature matching) is used."""
    oracle_split: choices.Split = "map"
    """Which of that run's FMCE-Nets; the papers' is the one trained on the `map` split."""
    raf: Share = 1.0
    """Weight of the task's loss; 1 is the plain baseline."""
    target_phase: Whole | None = None
    """Phase that every map is pulled towards; None is the last."""
    oracle_weights: choices.OracleWeights = "trained"
    """"random" is a control: an untrained FMCE-Net of the same shape."""
    oracle_digest: str | None = None
    """SHA-256 of the oracle's weights, recorded when training begins: a resume with another is refused."""
    same_seed: Flag = False
    """Allow the oracle's own seed, which would only pull a run towards its own checkpoint."""
    init: choices.Init = "scratch"
    """"checkpoint" starts from the oracle run's weights at E_K; the papers' tables need "scratch"."""
    oracle_every: Count = 1
    """Let FMCE-Net judge every n-th step only, with n times the weight; the papers' is 1."""
    oracle_batch_fraction: PositiveShare = 1.0
    """Let it judge that share of each batch only; the papers' is 1."""
    oracle_width: PositiveShare | None = None
    """Which of the oracle run's FMCE-Nets, by its `fmce_net.width`; None is the run's own."""

    def __post_init__(self) -> None:
        if self.kind in ("ral", "feature_matching") and self.oracle is None:
            raise ValueError(f"kind is {self.kind} but no oracle run is named; pass --oracle RUN")
        # Fields that are set → their defaults.
        changed = {f.name: f.default for f in fields(self) if getattr(self, f.name) != f.default}
        plain = {"raf": "is nothing to weigh against", "init": "is no run to start from"}
        for name, lack in plain.items() if self.kind == "none" else ():
            if name in changed:
                raise ValueError(
                    f"{name} is {getattr(self, name)} but auxiliary.kind is none, so there {lack}; name an "
                    f"oracle run (--oracle RUN) or leave {name} at {changed[name]}"
                )
        for name in ("oracle", "target_phase", "oracle_weights", "init"):
            if self.kind == "ridge_probe" and name in changed:
                raise ValueError(
                    f"{name} is {getattr(self, name)} but auxiliary.kind is ridge_probe, which asks no oracle run; "
                    "leave it out"
                )
        for name in ("oracle_every", "oracle_batch_fraction", "oracle_width"):
            if self.kind != "ral" and name in changed:
                raise ValueError(
                    f"{name} is {getattr(self, name)} but auxiliary.kind is {self.kind}, so there is no "
                    "FMCE-Net to make cheaper; set auxiliary.kind=ral or leave it out"
                )


@config_class
class FMCENetConfig:
    """How FMCE-Net is trained on the FMCS-Dataset."""

    # Not given in the paper: optimiser, batch and epochs. The digits' few maps take 40 epochs of 64
    # (20: accuracy 0.942 on unseen images, 40: 0.968); the papers' sizes take 10 of 256.
    epochs: Count = 40
    batch_size: Count = 64
    learning_rate: Positive = 1e-3
    test_fraction: Annotated[Real, Field(gt=0, lt=1)] = 0.25
    """Share of maps, images or runs held out; the paper's 3:1."""
    width: PositiveShare = 1.0
    """Share of the published FMCE-Net's channels; each width is trained and kept apart."""
    storage: choices.Storage = "memory"
    """Hold all maps, recompute them from the marker checkpoints in every epoch, or read what
    `fmce extract` stored."""
    # Not given in the paper. At 1024×7×7 the buffer takes 1.6 GB, at 2048×7×7 twice that.
    shuffle_buffer: Annotated[Whole, Field(ge=2)] = 8192
    """Maps that are mixed with each other, on the device, where they are recomputed or read."""
    seed: Natural = 0


@config_class
class RuntimeConfig:
    """How passes are computed. It does not name the device: a run may resume on another."""

    precision: choices.Precision = "float32"
    """Of forward passes; weights and losses stay float32."""
    channels_last: Flag = False
    """Keep images, weights and maps in NHWC memory order, which convolutions on GPUs prefer."""
    compile: Flag = False
    """Train through torch.compile; evaluation and feature maps are computed uncompiled."""
    cuda_graphs: Flag = False
    """Record the training passes once and replay them, where the CPU launches a small network's kernels
    more slowly than the GPU runs them; needs a GPU."""
    tf32: Flag = False
    """Let float32 products on GPUs round their factors to 10 bits of fraction."""

    def __post_init__(self) -> None:
        if self.compile and self.cuda_graphs:
            raise ValueError("compile and cuda_graphs: expected at most one of them to be true")


@config_class
class RecorderConfig:
    """What is measured of the network's modules at the end of each epoch."""

    modules: tuple[str, ...] | None = None
    """Submodules; None takes the children with parameters."""
    # An epoch of the digits takes half a second; larger sets have presets with 256.
    probe_images: Natural = 64
    """Validation images that the modules' outputs are measured on; 0 measures weights alone."""
    frozen: tuple[str, ...] = ()
    """Modules that are meant to be frozen."""
    keep: choices.KeepRecorded = "thinned"
    """Of a training loop of your own: which checkpoints stay."""
    model: str | None = None
    """Of a training loop of your own: class of the network and digest of its parameters' names and shapes."""
    probe: str | None = None
    """Of a training loop of your own: size and digest of the probe."""


@config_class
class RunConfig:
    """One training of the original task, with all that later commands derive from it."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    # Ten classes at the papers' scale take 1e-4; on 1,257 digits with noise the loss never gets
    # that still, and 2e-3 marks the end of its fall.
    phases: Annotated[PhaseConfig, NoFlags] = PhaseConfig(threshold=2e-3)
    fmce_net: FMCENetConfig = field(default_factory=FMCENetConfig)
    auxiliary: AuxiliaryConfig = field(default_factory=AuxiliaryConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    recorder: RecorderConfig = field(default_factory=RecorderConfig)


class OtherConfigError(ValueError):
    """A folder's config is not that of a run: another command wrote it."""


def run_config(folder: Path) -> RunConfig:
    """Read the config of a run folder.

    Raises:
        FileNotFoundError: If the folder has no config.
        OtherConfigError: If the config belongs to another command.
        ValueError: If it is not valid.
    """
    file = folder / "config.yaml"
    if not file.exists():
        raise FileNotFoundError(f"{folder} is not a run folder: it has no config.yaml")
    values = read_yaml(file)
    if not values:
        raise ValueError(f"{file} is empty: it is damaged; put the original back, or train again")
    strangers = [key for key in values if key not in field_types(RunConfig)]
    if strangers:
        raise OtherConfigError(
            f"{folder} is not a run folder of fmce train: its config.yaml has {strangers[0]!r}, as another "
            "command's has; name one of the runs in it"
        )
    with wanted_by(file):
        return from_dict(RunConfig, values)

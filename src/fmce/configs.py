"""What a run is made of: frozen dataclasses with range checks, read from and written to YAML.

Each number the papers leave open is marked where its default stands. Nothing here imports torch.
"""

import dataclasses
import difflib
import itertools
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from fmce.convergence.phases import PhaseConfig

Schedule = Literal["cosine", "constant", "step"]
Auxiliary = Literal["none", "ral", "feature_matching"]
OracleWeights = Literal["trained", "random"]
Init = Literal["scratch", "checkpoint"]
Split = Literal["map", "image", "run", "test"]
Backing = Literal["recompute", "memory", "stored"]
Keep = Literal["all", "markers", "last"]
Precision = Literal["float32", "bfloat16"]


def check(holds: bool, name: str, value: Any, expected: str) -> None:
    """Raise a ValueError that names a field, what it must be and what it is, unless `holds`."""
    if not holds:
        raise ValueError(f"{name} must be {expected}, got {value!r}")


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raise a ValueError unless a field's value is one of a Literal's."""
    options = typing.get_args(choices)
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(str, options))}, got {value!r}")


def check_width(name: str, value: float | None) -> None:
    """Raise a ValueError unless a width of FMCE-Net is in (0, 1]; None leaves it open."""
    check(
        value is None or 0 < value <= 1, name, value, "above 0, at most 1 (the published network)"
    )


@dataclass(frozen=True)
class DataConfig:
    """Images of the original task and how a training image is varied."""

    name: str = "digits"
    """A set of `fmce.data.specs`, "image-folder:FOLDER" or "my.module:function"."""
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
    tap: str | None = None
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
    every: int = 1
    """Let FMCE-Net judge every n-th step only, with n times the weight; the papers' is 1."""
    batch_share: float = 1.0
    """Let it judge that share of each batch only; the papers' is 1."""
    oracle_width: float | None = None
    """Which of the oracle run's FMCE-Nets, by its `scorer.width`; None is the run's own."""

    def __post_init__(self) -> None:
        check_choice("auxiliary.kind", self.kind, Auxiliary)
        check_choice("auxiliary.oracle_split", self.oracle_split, Split)
        check_choice("auxiliary.oracle_weights", self.oracle_weights, OracleWeights)
        check_choice("auxiliary.init", self.init, Init)
        check(0 <= self.raf <= 1, "auxiliary.raf", self.raf, "between 0 and 1")
        check(self.every >= 1, "auxiliary.every", self.every, "at least 1")
        check(
            0 < self.batch_share <= 1,
            "auxiliary.batch_share",
            self.batch_share,
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
        for name, published in (("every", 1), ("batch_share", 1), ("oracle_width", None)):
            value = getattr(self, name)
            if self.kind != "ral" and value != published:
                raise ValueError(
                    f"auxiliary.{name} is {value} but auxiliary.kind is {self.kind}, so there is no "
                    "FMCE-Net to make cheaper; set auxiliary.kind=ral or leave it out"
                )


@dataclass(frozen=True)
class ScorerConfig:
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
    maps: Backing = "memory"
    """Hold all maps, recompute them from the marker checkpoints in every epoch, or read what
    `fmce extract` stored."""
    # Not given in the paper. At 1024×7×7 the buffer takes 1.6 GB, at 2048×7×7 twice that.
    buffer: int = 8192
    """Maps that are mixed with each other, on the device, where they are recomputed or read."""
    seed: int = 0

    def __post_init__(self) -> None:
        check(self.epochs >= 1, "scorer.epochs", self.epochs, "at least 1")
        check(self.batch_size >= 1, "scorer.batch_size", self.batch_size, "at least 1")
        check(
            0 < self.learning_rate < float("inf"),
            "scorer.learning_rate",
            self.learning_rate,
            "a positive number",
        )
        check(
            0 < self.test_fraction < 1,
            "scorer.test_fraction",
            self.test_fraction,
            "between 0 and 1, both excluded",
        )
        check_width("scorer.width", self.width)
        check_choice("scorer.maps", self.maps, Backing)
        check(self.buffer >= 2, "scorer.buffer", self.buffer, "at least 2 maps")
        check(self.seed >= 0, "scorer.seed", self.seed, "0 or more")


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
    scorer: ScorerConfig = field(default_factory=ScorerConfig)
    auxiliary: AuxiliaryConfig = field(default_factory=AuxiliaryConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


# `fmce.commands.settings` adds what depends on the data set, such as flips.
PRESETS: dict[str, RunConfig] = {
    "digits": RunConfig(),
    # Section V of the FMCE paper; epochs of its MNIST rows.
    "paper": RunConfig(
        data=DataConfig(image_size=224, shift=4, noise=0.0),
        model=ModelConfig(name="torchvision:shufflenet_v2_x1_0"),
        train=TrainConfig(epochs=100, batch_size=256),
        phases=PhaseConfig(threshold=1e-4),
        scorer=ScorerConfig(epochs=10, batch_size=256, maps="recompute"),
    ),
    # Not given in the paper: its sets at their own size with a network for processors. µ is what CQI
    # falls below within 30 epochs on 10,000 images of Fashion-MNIST and CIFAR-10 (it ends at 0.008
    # and 0.014 there); more images or epochs allow a smaller one.
    "small": RunConfig(
        data=DataConfig(image_size=32, shift=4, noise=0.0),
        train=TrainConfig(epochs=30, batch_size=128),
        phases=PhaseConfig(threshold=2e-2),
        scorer=ScorerConfig(epochs=10, batch_size=256, maps="recompute"),
    ),
}

C = TypeVar("C")


def preset(name: str) -> RunConfig:
    """Return the named preset.

    Raises:
        ValueError: no preset has that name.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; choose from {', '.join(PRESETS)}")
    return PRESETS[name]


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config as plain nested dicts, the form `from_dict` reads."""
    return dataclasses.asdict(config)


def defaults_of(cls: type) -> dict[str, Any]:
    """Return what every field with a default means where a config does not name it, as nested dicts.

    >>> defaults_of(RunConfig)["train"]["schedule"]
    'cosine'
    """
    values: dict[str, Any] = {}
    for f in dataclasses.fields(cls):
        if f.default is not dataclasses.MISSING:
            values[f.name] = _plain(f.default)
        elif f.default_factory is not dataclasses.MISSING:
            values[f.name] = _plain(f.default_factory())
    return values


def _plain(value: Any) -> Any:
    """Return a value as YAML gives it back: dataclasses as dicts, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value


def from_dict(cls: type[C], values: Mapping[str, Any], *, base: C | None = None) -> C:
    """Build a config from nested dicts; what they leave out comes from `base` or the defaults.

    Args:
        cls: a config dataclass.
        values: field names to values; nested configs are dicts themselves.
        base: the config whose values hold where `values` says nothing.

    Raises:
        ValueError: an unknown key (the choices are named), a value of the wrong type or range.
    """
    return _build(cls, values, base, "")


def from_yaml(cls: type[C], path: str | Path, *, base: C | None = None) -> C:
    """Read a config from a YAML file.

    Raises:
        ValueError: the file is no YAML mapping, or its contents are no valid config.
        FileNotFoundError: there is no such file.
    """
    return from_dict(cls, read_yaml(path), base=base)


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


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of config sections, unchecked; an empty one has none.

    Raises:
        ValueError: the file is no YAML mapping.
        FileNotFoundError: there is no such file.
        OSError: it cannot be read, such as a folder.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        place = str(error).replace("\n", " ")
        raise ValueError(f"{path} is not valid YAML: {place}") from error
    except OSError as error:
        raise type(error)(
            f"expected a YAML file of config sections at {path}, which cannot be read: {error.strerror}"
        ) from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ValueError(
            f"{path}: expected a mapping of config sections, got {type(values).__name__}"
        )
    return values


def to_yaml(config: Any) -> str:
    """Return a config as YAML text, fields in their declared order."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def with_settings(config: C, settings: Sequence[str]) -> C:
    """Return the config changed by `section.field=value` settings, a later one over those before.

    A section set as a whole changes the fields it names; the others stay as they are.

    Raises:
        ValueError: a setting has no "=", names no field, or its value is out of range.

    >>> with_settings(RunConfig(), ["train.epochs=5"]).train.epochs
    5
    """
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"expected section.field=value, got {setting!r}")
        path = key.strip().split(".")
        node, kind = values, _field_type(type(config), path[0])
        for parent, below in itertools.pairwise(path):
            node, kind = node.setdefault(parent, {}), _field_type(kind, below)
            if not isinstance(node, dict):
                raise ValueError(f"{setting!r}: {parent!r} was already set to {node!r} as a whole")
        node[path[-1]] = _merged(kind, node.get(path[-1]), parse_value(setting, text))
    return from_dict(type(config), values, base=config)


def _field_type(cls: Any, name: str) -> Any:
    """Return the type of a config's field; None where there is no such field."""
    return typing.get_type_hints(cls).get(name) if dataclasses.is_dataclass(cls) else None


def _merged(kind: Any, old: Any, new: Any) -> Any:
    """Lay a section's values over those set before; anything else, free options too, replaces them."""
    if not (dataclasses.is_dataclass(kind) and isinstance(old, dict) and isinstance(new, dict)):
        return new
    return old | {k: _merged(_field_type(kind, k), old.get(k), v) for k, v in new.items()}


def parse_value(setting: str, text: str) -> Any:
    """Read a value as YAML does; an error names the setting it is of.

    Raises:
        ValueError: the text is no YAML.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or error
        raise ValueError(f"{setting!r}: the value is not valid YAML: {reason}") from error


def _build(cls: type[C], values: Mapping[str, Any], base: C | None, where: str) -> C:
    names = _field_names(cls)
    types_of = typing.get_type_hints(cls)
    hints = {name: types_of[name] for name in names}
    for key in values:
        if key not in names:
            raise ValueError(_unknown_key(where, str(key), hints))
    arguments = {} if base is None else {n: getattr(base, n) for n in names}
    for key, value in values.items():
        inner = arguments.get(key)
        arguments[key] = _convert(value, hints[key], inner, f"{where}{key}")
    return cls(**arguments)


def _convert(value: Any, hint: Any, base: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: expected a mapping, got {value!r}")
        return _build(typing.cast(type[Any], hint), value, base, f"{where}.")
    kinds = (
        typing.get_args(hint)
        if typing.get_origin(hint) in (typing.Union, types.UnionType)
        else (hint,)
    )
    if value is None and type(None) in kinds:
        return None
    if float in kinds and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:  # YAML 1.1 reads 1e-3 as text
            return float(value)
        except ValueError:
            raise ValueError(f"{where}: expected a number, got {value!r}") from None
    for kind in kinds:
        if typing.get_origin(kind) is Literal:
            check_choice(where, value, kind)
            return value
        if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
            item = typing.get_args(kind)[0]
            return tuple(_convert(v, item, None, f"{where}[{i}]") for i, v in enumerate(value))
        plain = typing.get_origin(kind) or kind
        if isinstance(value, plain) and not (plain is int and isinstance(value, bool)):
            return value
    plain_names = (getattr(typing.get_origin(k) or k, "__name__", str(k)) for k in kinds)
    # As YAML calls them.
    in_yaml = {"tuple": "a list", "dict": "a mapping", "NoneType": "null"}
    names = " or ".join(in_yaml.get(name, name) for name in plain_names)
    raise ValueError(f"{where}: expected {names}, got {value!r}")


def _unknown_key(where: str, key: str, hints: Mapping[str, Any]) -> str:
    """Name what is meant: the fields of that name in a section, else the nearest name."""
    inside = [f"{where}{name}.{key}" for name, hint in hints.items() if key in _field_names(hint)]
    near = inside or difflib.get_close_matches(key, hints, n=1)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    return f"unknown config key {where + key!r}{hint} Choices: {', '.join(hints)}"


def _field_names(cls: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []

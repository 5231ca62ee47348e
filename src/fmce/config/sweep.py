"""What an FMCE-Net++ sweep is made of: models × data sets × RAFs × seeds, its controls, and what else varies."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from fmce.config.checks import check, check_choice
from fmce.config.choices import Split
from fmce.config.io import from_dict, parse_value, read_yaml

Control = Literal["random_oracle", "phase_1", "scaled_rate", "feature_matching"]
Length = Literal["convergence", "full"]

# Fields that the grid itself sets; `vary` and `settings` must leave them alone.
_GRIDS_OWN = {
    "data.name": "data",
    "model.name": "models",
    "train.seed": "seeds",
    "auxiliary.kind": "controls",
    "auxiliary.oracle": "oracles",
    "auxiliary.oracle_split": "oracle_split",
    "auxiliary.oracle_digest": "oracles",
    "auxiliary.raf": "rafs",
    "auxiliary.same_seed": "seeds",
}


@dataclass(frozen=True)
class SweepConfig:
    """A grid of trainings. For each model and data set: an oracle, a baseline, FMCE-Net++ at each RAF, controls."""

    models: tuple[str, ...] = ("tiny",)
    """Networks, as in `model.name`."""
    data: tuple[str, ...] = ("digits",)
    """Data sets, as in `data.name`."""
    rafs: tuple[float, ...] = (0.9, 0.75)
    """Weights of the task's loss, each trained at every seed; one is picked on validation images."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Of the arms; paired across them."""
    controls: tuple[Control, ...] = get_args(Control)
    """Trained at the picked RAF, at every seed."""
    vary: dict[str, Any] = field(default_factory=dict)
    """section.field → values to try. Those of `auxiliary` vary FMCE-Net++ alone; any other field makes a
    group of its own with oracle and baseline."""
    settings: tuple[str, ...] = ()
    """`section.field=value` for every training."""
    preset: str | None = None
    """Where settings start; None is what suits the data set, as in `fmce train`."""
    oracles: tuple[str, ...] = ()
    """Run folders with an FMCE-Net, used where model and data set are theirs; others are trained first."""
    oracle_seed: int = 0
    """Seed of the oracles trained here."""
    oracle_split: Split = "map"
    """What the oracle's FMCE-Net held out."""
    length: Length = "convergence"
    """Epochs of every arm: the oracle's convergence epoch E_K (paper), or its full M."""

    def __post_init__(self) -> None:
        for name in ("models", "data", "rafs", "seeds"):
            _check_different(name, getattr(self, name), least=1)
        _check_different("controls", self.controls, least=0)
        for raf in self.rafs:
            check(
                0 <= raf < 1, "rafs", raf, "in [0, 1); 1 is the baseline, which is always trained"
            )
        for seed in (*self.seeds, self.oracle_seed):
            check(seed >= 0, "seeds and oracle_seed", seed, "0 or more")
        if len(self.seeds) < 2:
            raise ValueError(
                f"expected at least two different seeds, got {list(self.seeds)}; one has no spread"
            )
        if self.oracle_seed in self.seeds:
            raise ValueError(
                f"the oracle's seed {self.oracle_seed} must not be among the arms' {list(self.seeds)}: an arm of "
                "that seed may only be pulled to its own checkpoint"
            )
        for control in self.controls:
            check_choice("controls", control, Control)
        check_choice("oracle_split", self.oracle_split, Split)
        check_choice("length", self.length, Length)
        for key in (*self.vary, *(text.partition("=")[0].strip() for text in self.settings)):
            _check_free(key)
        for key, values in self.vary.items():
            check(isinstance(values, list | tuple), f"vary.{key}", values, "a list of values")
            _check_different(f"vary.{key}", [json.dumps(v) for v in values], least=1)

    @property
    def variants(self) -> list[tuple[str, ...]]:
        """Settings of FMCE-Net++ to try: every combination of the `auxiliary` fields that vary."""
        return list(_products(self.vary, of_auxiliary=True))

    @property
    def group_settings(self) -> list[tuple[str, ...]]:
        """Settings that make groups of their own: every combination of the other fields that vary."""
        return list(_products(self.vary, of_auxiliary=False))


def make_sweep_config(
    file: Path | None, given: Mapping[str, Any], vary: Sequence[str] = ()
) -> SweepConfig:
    """Return a grid from a YAML file, single fields that win over it, and texts of what varies.

    Args:
        file: YAML of the fields of `SweepConfig`; None starts from the defaults.
        given: field → value; None and empty lists of a field that needs values count as not given.
        vary: `section.field=A,B` texts, which add to the file's.

    Raises:
        ValueError: an unknown field, or a value out of range.
        FileNotFoundError: there is no such file.

    >>> make_sweep_config(None, {"rafs": [0.5]}, ["train.batch_size=32,64"]).vary
    {'train.batch_size': [32, 64]}
    """
    values = {} if file is None else read_yaml(file)
    values |= {k: v for k, v in given.items() if v or (k == "controls" and v is not None)}
    for text in vary:
        key, equals, listed = text.partition("=")
        if not equals:
            raise ValueError(f"--vary: expected section.field=A,B, got {text!r}")
        values["vary"] = {**values.get("vary", {}), key.strip(): parse_value(text, f"[{listed}]")}
    return from_dict(SweepConfig, values)


def _products(vary: Mapping[str, Any], *, of_auxiliary: bool) -> Iterator[tuple[str, ...]]:
    fields = {k: v for k, v in vary.items() if k.startswith("auxiliary.") == of_auxiliary}
    for values in itertools.product(*fields.values()):
        yield tuple(f"{key}={json.dumps(v)}" for key, v in zip(fields, values, strict=True))


def _check_different(name: str, values: Any, *, least: int) -> None:
    if len(values) < least or len(set(values)) != len(values):
        raise ValueError(
            f"{name} must be at least {least} value{'s' * (least != 1)}, all different, got {list(values)}"
        )


def _check_free(key: str) -> None:
    if key in _GRIDS_OWN:
        raise ValueError(f"{key} is set by the grid itself; name it in {_GRIDS_OWN[key]!r} instead")
    check("." in key, "keys of vary and settings", key, "section.field, such as train.batch_size")

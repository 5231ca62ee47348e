"""What an FMCE-Net++ experiment trains: the arms beside one oracle, and grids of models × data sets × settings."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import Field

from fmce.config.checks import Different, Flag, Natural, Real, config_class
from fmce.config.choices import Control, Length, Split
from fmce.config.io import from_dict, parse_value, read_yaml

# What a training is in its experiment; a control's role is its name.
ORACLE, BASELINE, TREATMENT = "oracle", "baseline", "ral"
CONTROLS: tuple[Control, ...] = get_args(Control)

# Fields that an experiment sets itself, and the option to use for each; `vary` and `settings` must not.
_SET_BY = {
    "data.name": "data",
    "model.name": "models",
    "train.seed": "seeds",
    "auxiliary.kind": "controls",
    "auxiliary.oracle": "oracles",
    "auxiliary.oracle_split": "oracle_split",
    "auxiliary.oracle_digest": "oracles",
    "auxiliary.oracle_weights": "controls",
    "auxiliary.raf": "rafs",
    "auxiliary.same_seed": "same_seed",
}

# 1 is plain training, which every experiment trains as its baseline.
_Raf = Annotated[Real, Field(ge=0, lt=1)]
_Names = Annotated[tuple[str, ...], Field(min_length=1), Different]
_Values = Annotated[list[Any], Field(min_length=1), Different]


@config_class
class ArmsConfig:
    """The arms trained beside an oracle. `CompareConfig` and `SweepConfig` share these fields."""

    rafs: Annotated[tuple[_Raf, ...], Field(min_length=1), Different] = (0.9, 0.75)
    """Candidate weights of the task's loss, in [0, 1); one is selected on validation images."""
    seeds: Annotated[tuple[Natural, ...], Field(min_length=2), Different] = (1, 2, 3)
    """Seeds of the arms, paired across them; at least two, without the oracle's own."""
    controls: Annotated[tuple[Control, ...], Different] = CONTROLS
    """Controls to train at the selected RAF, at every seed."""
    selection_seed: Natural | None = None
    """Seed of separate runs that select RAF and never read the test images; None trains every candidate
    at all `seeds` and selects on the mean over them."""
    same_seed: Flag = False
    """Also train baseline and FMCE-Net++ at the oracle's own seed, reported apart from the statistics."""
    length: Length = "convergence"
    """Epochs of every arm: the oracle's convergence epoch E_K (paper), or all epochs of its run."""
    oracle_split: Split = "map"
    """What the training of the oracle's FMCE-Net held out."""
    settings: tuple[str, ...] = ()
    """`section.field=value` settings of every training."""

    def __post_init__(self) -> None:
        if self.selection_seed in self.seeds:
            raise ValueError(
                f"selection_seed: expected a seed that is not among the arms' {list(self.seeds)}, got "
                f"{self.selection_seed}"
            )
        for setting in self.settings:
            _check_free(setting.partition("=")[0].strip())

    @property
    def variants(self) -> list[tuple[str, ...]]:
        """Settings of FMCE-Net++ to try at each RAF; one without settings here."""
        return [()]


@config_class
class CompareConfig(ArmsConfig):
    """FMCE-Net++ against its baseline and controls beside one given oracle; a sweep of one group."""

    selection_seed: Natural | None = 100
    """Seed of separate runs that select RAF and never read the test images; None trains every candidate
    at all `seeds` and selects on the mean over them."""
    settings: tuple[str, ...] = ()
    """`auxiliary.field=value` settings of FMCE-Net++ and its controls; all else is the oracle run's."""
    oracle: str = field(kw_only=True)
    """Run folder whose FMCE-Net is the oracle."""

    def __post_init__(self) -> None:
        for setting in self.settings:
            if not setting.strip().startswith("auxiliary."):
                raise ValueError(
                    f"expected auxiliary.FIELD=VALUE, got {setting!r}: the arms differ in the loss alone, all "
                    "else is the oracle run's; fmce sweep compares other settings, each with its own oracle"
                )
        super().__post_init__()

    @property
    def oracles(self) -> tuple[str, ...]:
        """The one oracle, as a sweep names its several."""
        return (self.oracle,)


@config_class
class SweepConfig(ArmsConfig):
    """A grid of groups, one for each model, data set and setting that varies: an oracle and its arms."""

    models: _Names = ("tiny",)
    """Networks, as in `model.name`."""
    data: _Names = ("digits",)
    """Data sets, as in `data.name`."""
    vary: dict[str, _Values] = field(default_factory=dict)
    """section.field → values to try. Those of `auxiliary` vary FMCE-Net++ alone; each value of any other
    field makes a group with its own oracle and baseline."""
    preset: str | None = None
    """Preset that settings start from; None is the one that suits the data set, as in `fmce train`."""
    oracles: tuple[str, ...] = ()
    """Run folders with an FMCE-Net, used where model and data set match; other groups train an oracle first."""
    oracle_seed: Natural = 0
    """Seed of the oracles trained here."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in self.vary:
            _check_free(key)

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
    """Return a grid from a YAML file, fields that replace the file's, and texts of what varies.

    Args:
        file: YAML of the fields of `SweepConfig`; None starts from the defaults.
        given: Field to value.
        vary: `section.field=A,B` texts, which add to the file's.

    Raises:
        ValueError: If a field is unknown, or a value has the wrong type or range.
        FileNotFoundError: If there is no such file.

    >>> make_sweep_config(None, {"rafs": [0.5]}, ["train.batch_size=32,64"]).vary
    {'train.batch_size': [32, 64]}
    """
    values = ({} if file is None else read_yaml(file)) | dict(given)
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


def _check_free(key: str) -> None:
    if key in _SET_BY:
        raise ValueError(f"{key} is set by the experiment itself; use {_SET_BY[key]!r} instead")
    if "." not in key:
        raise ValueError(
            f"keys of vary and settings: expected section.field, such as train.batch_size, got {key!r}"
        )

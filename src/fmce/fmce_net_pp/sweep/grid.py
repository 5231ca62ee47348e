"""The grid of a sweep: groups that share an oracle, the trainings of each, and where they lie."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fmce.config.io import with_settings
from fmce.config.presets import make_config
from fmce.config.run import AuxiliaryConfig, RunConfig
from fmce.config.sweep import SweepConfig
from fmce.data.classification.catalog import spec_of
from fmce.fmce_net_pp.arms import BASELINE, TREATMENT, arm_config, base_config, treatment_with
from fmce.maturity.auxiliary import check_target_phase
from fmce.models.build import LIBRARIES, import_function
from fmce.models.features import find_module
from fmce.runs.run import Run, open_run
from fmce.runs.setup import TrainingSetup

ORACLE = "oracle"
_SOME_CLASSES = 10


@dataclass(frozen=True)
class SweepRun:
    """One training of a sweep. A control's `raf` and `variant` are None and empty until one is picked."""

    arm: str
    seed: int
    raf: float | None = None
    variant: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The arm with what tells it from others of its kind, such as "raf0.9 oracle_every=4"."""
        if self.arm != TREATMENT:
            return self.arm
        fields = (setting.partition(".")[2] for setting in self.variant)
        return " ".join([f"raf{self.raf!r}", *fields])

    @property
    def name(self) -> str:
        """Name of its folder within the group's."""
        if self.arm == ORACLE:
            return ORACLE
        return f"runs/{_slug(self.label)}-seed{self.seed}"


@dataclass(frozen=True)
class Group:
    """A model on a data set with settings: one oracle, and the arms trained beside it."""

    config: SweepConfig
    model: str
    data: str
    settings: tuple[str, ...]
    folder: Path
    given_oracle: str | None = None
    """Run folder of an oracle that was trained before."""

    @property
    def name(self) -> str:
        """Name of its folder, such as "tiny,mnist"."""
        return self.folder.name

    @property
    def oracle_folder(self) -> Path:
        """Where the oracle's run is, or will be."""
        return Path(self.given_oracle) if self.given_oracle else self.folder / ORACLE

    @property
    def baselines(self) -> list[SweepRun]:
        """Plain training at each seed."""
        return [SweepRun(BASELINE, seed) for seed in self.config.seeds]

    @property
    def candidates(self) -> list[SweepRun]:
        """FMCE-Net++ at each RAF and variant, at each seed."""
        return [
            SweepRun(TREATMENT, seed, raf, variant)
            for raf in self.config.rafs
            for variant in self.config.variants
            for seed in self.config.seeds
        ]

    @property
    def controls(self) -> list[SweepRun]:
        """The controls at each seed."""
        return [SweepRun(arm, s) for arm in self.config.controls for s in self.config.seeds]

    @property
    def arms(self) -> list[SweepRun]:
        """All trainings beside the oracle's."""
        return [*self.baselines, *self.candidates, *self.controls]

    @property
    def runs(self) -> list[SweepRun]:
        """All trainings, the oracle's first."""
        seed = self.config.oracle_seed
        if self.given_oracle:
            seed = open_run(self.given_oracle).config.train.seed
        return [SweepRun(ORACLE, seed), *self.arms]

    def folder_of(self, run: SweepRun) -> Path:
        """Return a training's run folder."""
        return self.oracle_folder if run.arm == ORACLE else self.folder / run.name

    @property
    def plain_settings(self) -> list[str]:
        """Settings of every training; those of the auxiliary loss concern FMCE-Net++ and its controls alone."""
        whole = [*self.config.settings, *self.settings]
        return [s for s in whole if not s.strip().startswith("auxiliary.")]

    @property
    def net_folders(self) -> dict[Path, float]:
        """Folders of the FMCE-Nets that the arms need, with their widths."""
        oracle = Run(self.oracle_folder, self.oracle_config())
        given = {self.treatment(c, oracle).oracle_width for c in self.candidates}
        widths = sorted({oracle.config.fmce_net.width if w is None else w for w in given})
        return {oracle.fmce_net_folder(self.config.oracle_split, w): w for w in widths}

    def oracle_config(self) -> RunConfig:
        """Return the config of the oracle's run: plain, for all epochs."""
        if self.given_oracle:
            return open_run(self.given_oracle).config
        settings = [f"model.name={self.model}", *self.plain_settings]
        config = make_config(self.config.preset, self.data, settings=settings)
        return replace(config, train=replace(config.train, seed=self.config.oracle_seed))

    def config_of(self, run: SweepRun, oracle: Run, picked: SweepRun | None = None) -> RunConfig:
        """Return the config of an arm.

        Args:
            run: baseline, FMCE-Net++ or control.
            oracle: the group's oracle, with phases.
            picked: the candidate that was picked; a control is trained with its RAF and variant.
        """
        source = run if run.arm == TREATMENT else picked
        treatment = AuxiliaryConfig() if source is None else self.treatment(source, oracle)
        return arm_config(base_config(oracle, self.config.length), run.arm, run.seed, treatment)

    def treatment(self, candidate: SweepRun, oracle: Run) -> AuxiliaryConfig:
        """Return the auxiliary loss of a candidate."""
        auxiliary = AuxiliaryConfig(
            kind="ral",
            oracle=str(oracle.path.resolve()),
            oracle_split=self.config.oracle_split,
            raf=float(candidate.raf or 0),
        )
        chosen = [s for s in self.config.settings if s.strip().startswith("auxiliary.")]
        return treatment_with(auxiliary, [*chosen, *candidate.variant], oracle.config)


def make_groups(config: SweepConfig, out: Path) -> list[Group]:
    """Lay out a sweep, and refuse what could only fail later.

    Args:
        config: the grid.
        out: the sweep's folder.

    Raises:
        ValueError: a name or setting is unknown, an oracle fits no group or two, or it has an arm's seed.
        FileNotFoundError: a given oracle has no phases or no FMCE-Net.
    """
    groups = _lay_out(config, out)
    _check_names([group.name for group in groups])
    oracles = [open_run(Path(path).absolute()) for path in config.oracles]
    groups = [_with_oracle(group, oracles) for group in groups]
    _check_all_used(groups, oracles)
    for group in groups:
        _check_group(group)
    _check_models([group.oracle_config() for group in groups if not group.given_oracle])
    return groups


def begun_groups(config: SweepConfig, out: Path) -> list[Group]:
    """Lay out a sweep that was begun, unchecked: what it was begun with may be gone, or be refused by now."""
    there = [Path(path) for path in config.oracles if (Path(path) / "config.yaml").exists()]
    oracles = [open_run(path) for path in there]
    return [_with_oracle(group, oracles) for group in _lay_out(config, out)]


def _lay_out(config: SweepConfig, out: Path) -> list[Group]:
    groups = []
    for model, data, settings in itertools.product(
        config.models, config.data, config.group_settings
    ):
        fields = [setting.partition(".")[2] for setting in settings]
        folder = out.absolute() / _slug(" ".join([model, data, *fields]))
        groups.append(Group(config, model, data, settings, folder))
    return groups


def _with_oracle(group: Group, oracles: Sequence[Run]) -> Group:
    fitting = [run for run in oracles if _fits(run, group)]
    if len(fitting) > 1:
        places = ", ".join(str(run.path) for run in fitting)
        raise ValueError(f"expected one oracle for {group.name}, got {len(fitting)}: {places}")
    return replace(group, given_oracle=str(fitting[0].path)) if fitting else group


def _fits(run: Run, group: Group) -> bool:
    """Return whether a run has the group's model and data, and its settings change nothing in it."""
    if (run.config.model.name, run.config.data.name) != (group.model, group.data):
        return False
    return with_settings(run.config, group.plain_settings) == run.config


def _check_names(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"two parts of the sweep would share the folder {twice[0]!r}: their names differ in signs that "
            "folders leave out; put one into another sweep"
        )


def _check_all_used(groups: Sequence[Group], oracles: Sequence[Run]) -> None:
    used = {group.given_oracle for group in groups}
    for run in oracles:
        if str(run.path) not in used:
            raise ValueError(
                f"the oracle {run.path} is of {run.config.model.name} on {run.config.data.name}, which is no "
                "group of this sweep, or the sweep's settings are not its own"
            )


def _check_group(group: Group) -> None:
    """Make each kind of config once, so that a wrong name or setting ends the command and not a run."""
    config = group.oracle_config()
    if config.train.seed in group.config.seeds:
        raise ValueError(
            f"seed {config.train.seed} is that of the oracle {group.oracle_folder}: an arm of that seed may "
            "only be pulled to its own checkpoint; leave it out of the seeds"
        )
    _check_names([run.name for run in group.runs])
    oracle = Run(group.oracle_folder, config)
    phases = len(oracle.phases.markers) if group.given_oracle else config.phases.num_phases
    for candidate in group.candidates:
        check_target_phase(group.treatment(candidate, oracle), phases)
    if not group.given_oracle:
        return
    for width in group.net_folders.values():
        oracle.fmce_net(group.config.oracle_split, width)
    last = oracle.phases.convergence_epoch
    if "feature_matching" in group.config.controls and last not in oracle.epochs:
        raise FileNotFoundError(
            f"{oracle.path} has no checkpoint of epoch {last}, which the control feature_matching needs; "
            "train that run again, or leave the control out"
        )


def _check_models(configs: Sequence[RunConfig]) -> None:
    """Build each kind of network once: a wrong name, option or layer must not wait for its first training."""
    built = []
    for config in configs:
        classes = spec_of(config.data.name).num_classes
        kind = (config.model, classes)
        if kind in built:
            continue
        built.append(kind)
        family, _, function = config.model.name.partition(":")
        if classes is None and function and family not in LIBRARIES:
            # How many classes there are only the data say, and your function may take no other number.
            import_function(family, function)
        else:
            setup = TrainingSetup(config)
            model = setup.new_model(classes or _SOME_CLASSES)
            find_module(model, setup.layer_of(model))


def _slug(text: str) -> str:
    """Return a text as a file name."""
    return re.sub(r"[^A-Za-z0-9._=]+", "-", text.replace('"', "")).strip("-")

"""The grid of a sweep: groups that share an oracle, the trainings of each, and their folders."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fmce.config.io import with_settings
from fmce.config.presets import make_config
from fmce.config.run import AuxiliaryConfig, RunConfig
from fmce.config.sweep import BASELINE, ORACLE, TREATMENT, ArmsConfig, CompareConfig, SweepConfig
from fmce.config.trust import Trust
from fmce.data.classification.catalog import spec_of
from fmce.fmce_net_pp.arms import arm_config, plain_config
from fmce.maturity.auxiliary import check_target_phase
from fmce.models.build import LIBRARIES, import_function
from fmce.models.features import find_module
from fmce.runs.run import Run, open_run
from fmce.runs.setup import TrainingSetup

_SOME_CLASSES = 10


@dataclass(frozen=True)
class SweepRun:
    """One training of a group. Runs without a RAF take the selected one, and its variant.

    Attributes:
        role: "oracle", "baseline", "ral" or the name of a control.
        seed: Seed of the training.
        raf: Weight of the task's loss; None for oracle and baseline, and where it is selected later.
        variant: `auxiliary.field=value` settings that vary FMCE-Net++.
    """

    role: str
    seed: int
    raf: float | None = None
    variant: tuple[str, ...] = ()

    @property
    def arm(self) -> str:
        """Name of what its seeds share, such as "baseline" or "raf0.9 oracle_every=4"."""
        if self.raf is None:
            return self.role
        fields = (setting.partition(".")[2] for setting in self.variant)
        return " ".join([f"raf{self.raf!r}", *fields])

    @property
    def name(self) -> str:
        """Path of its folder within the group's."""
        return ORACLE if self.role == ORACLE else f"runs/{_slug(self.arm)}-seed{self.seed}"


@dataclass(frozen=True)
class Group:
    """A model on a data set with settings: one oracle, and the arms trained beside it.

    Attributes:
        config: Which arms.
        folder: Holds the group's trainings and results.
        oracle: The oracle's run, finished or yet to be trained.
        oracle_given: Whether it was trained before, outside this experiment.
        settings: What sets this group apart from others of its model and data.
    """

    config: ArmsConfig
    folder: Path
    oracle: Run
    oracle_given: bool
    settings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of its folder, such as "tiny-mnist"."""
        return self.folder.name

    @property
    def options(self) -> list[SweepRun]:
        """Each RAF and variant that selection chooses from."""
        choices = itertools.product(self.config.rafs, self.config.variants)
        return [SweepRun(TREATMENT, self.config.seeds[0], *choice) for choice in choices]

    @property
    def selection_seeds(self) -> tuple[int, ...]:
        """Seeds of the candidates: those of the arms, or a separate one where there is a choice."""
        if self.config.selection_seed is None:
            return self.config.seeds
        return (self.config.selection_seed,) if len(self.options) > 1 else ()

    @property
    def candidates(self) -> list[SweepRun]:
        """Trainings that select RAF: FMCE-Net++'s arms themselves, or separate ones."""
        return [replace(option, seed=s) for option in self.options for s in self.selection_seeds]

    @property
    def baselines(self) -> list[SweepRun]:
        """Plain training at each seed."""
        return [SweepRun(BASELINE, seed) for seed in (*self.config.seeds, *self._same_seed)]

    @property
    def selected_runs(self) -> list[SweepRun]:
        """Trainings that wait for the selected RAF and variant."""
        config = self.config
        roles: list[str] = [TREATMENT] if config.selection_seed is not None else []
        runs = [SweepRun(role, s) for role in (*roles, *config.controls) for s in config.seeds]
        return runs + [SweepRun(TREATMENT, seed) for seed in self._same_seed]

    @property
    def _same_seed(self) -> list[int]:
        return [self.oracle.config.train.seed] if self.config.same_seed else []

    @property
    def runs(self) -> list[SweepRun]:
        """All trainings, the oracle's first."""
        oracle = SweepRun(ORACLE, self.oracle.config.train.seed)
        return [oracle, *self.baselines, *self.candidates, *self.selected_runs]

    def folder_of(self, run: SweepRun) -> Path:
        """Return a training's run folder."""
        return self.oracle.path if run.role == ORACLE else self.folder / run.name

    @property
    def net_folders(self) -> dict[Path, float]:
        """Folders of the FMCE-Nets that the arms need, with their widths."""
        oracle = self.oracle
        given = {self.treatment(option).oracle_width for option in self.options}
        widths = sorted({oracle.config.fmce_net.width if w is None else w for w in given})
        return {oracle.fmce_net_folder(self.config.oracle_split, w): w for w in widths}

    def config_of(self, run: SweepRun, selected: SweepRun | None = None) -> RunConfig:
        """Return the config of an arm's training; `selected` is the candidate for runs without their own RAF."""
        source = run if run.raf is not None else selected
        treatment = AuxiliaryConfig() if source is None else self.treatment(source)
        treatment = replace(treatment, same_seed=run.seed == self.oracle.config.train.seed)
        plain = plain_config(self.oracle, self.config.length)
        return arm_config(plain, run.role, run.seed, treatment)

    def treatment(self, candidate: SweepRun) -> AuxiliaryConfig:
        """Return the auxiliary loss of a candidate."""
        oracle, split = str(self.oracle.path.resolve()), self.config.oracle_split
        auxiliary = AuxiliaryConfig("ral", oracle, split, raf=float(candidate.raf or 0))
        chosen = [s for s in self.config.settings if _is_auxiliary(s)]
        base = replace(self.oracle.config, auxiliary=auxiliary)
        return with_settings(base, [*chosen, *candidate.variant]).auxiliary


def make_groups(
    config: CompareConfig | SweepConfig, out: Path, trust: Trust = False
) -> list[Group]:
    """Lay out a comparison or sweep, and refuse what could only fail later.

    Raises:
        ValueError: If a name or setting is unknown, an oracle fits no group or two, or an arm has its seed.
        FileNotFoundError: If a given oracle has no phases or no FMCE-Net.
    """
    if isinstance(config, SweepConfig):
        trust = trust or {*config.models, *config.data}
    oracles = [open_run(Path(path).absolute(), trust=trust) for path in config.oracles]
    groups = lay_out(config, out, oracles)
    used = {group.oracle.path for group in groups}
    for run in (run for run in oracles if run.path not in used):
        raise ValueError(
            f"the oracle {run.path} belongs to {run.config.model.name} on {run.config.data.name}, which is no "
            "group of this sweep, or the sweep's settings are not its own"
        )
    for group in groups:
        _check_group(group)
    _check_models([group.oracle.config for group in groups if not group.oracle_given])
    return groups


def lay_out(config: CompareConfig | SweepConfig, out: Path, oracles: Sequence[Run]) -> list[Group]:
    """Return the groups of a comparison or sweep, unchecked: one of a comparison, in `out` itself."""
    if isinstance(config, CompareConfig):
        return [Group(config, out.absolute(), oracle, oracle_given=True) for oracle in oracles]
    groups = []
    cells = itertools.product(config.models, config.data, config.group_settings)
    for model, data, settings in cells:
        fields = [setting.partition(".")[2] for setting in settings]
        folder = out.absolute() / _slug(" ".join([model, data, *fields]))
        plain = [s for s in (*config.settings, *settings) if not _is_auxiliary(s)]
        fitting = [run for run in oracles if _fits(run, model, data, plain)]
        if len(fitting) > 1:
            places = ", ".join(str(run.path) for run in fitting)
            raise ValueError(f"expected one oracle for {folder.name}, got {len(fitting)}: {places}")
        if not fitting:
            made = make_config(config.preset, data, settings=[f"model.name={model}", *plain])
            made = replace(made, train=replace(made.train, seed=config.oracle_seed))
        oracle = fitting[0] if fitting else Run(folder / ORACLE, made)
        groups.append(Group(config, folder, oracle, bool(fitting), settings))
    _check_names([group.name for group in groups])
    return groups


def _fits(run: Run, model: str, data: str, settings: Sequence[str]) -> bool:
    """Return whether a run has that model and data, and the settings change nothing in it."""
    if (run.config.model.name, run.config.data.name) != (model, data):
        return False
    return with_settings(run.config, settings) == run.config


def _check_names(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"two parts of the sweep would share the folder {twice[0]!r}: their names differ only in characters "
            "that folder names leave out; move one to another sweep"
        )


def _check_group(group: Group) -> None:
    """Make each kind of config once, so that a wrong name or setting ends the command and not a run."""
    oracle, config = group.oracle, group.config
    seed = oracle.config.train.seed
    if seed in (*config.seeds, config.selection_seed):
        raise ValueError(
            f"seed {seed} is the own seed of the oracle {oracle.path}, so an arm of it would only be pulled towards "
            "its own checkpoint; leave it out of the seeds (--same-seed adds that pair, reported apart)"
        )
    _check_names([run.name for run in group.runs])
    phases = len(oracle.phases.markers) if group.oracle_given else oracle.config.phases.num_phases
    for option in group.options:
        check_target_phase(group.treatment(option), phases)
    if not group.oracle_given:
        return
    for width in group.net_folders.values():
        oracle.fmce_net(config.oracle_split, width)
    last = oracle.phases.convergence_epoch
    if "feature_matching" in config.controls and last not in oracle.epochs:
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
            # Only the data know the number of classes, and a custom function may accept no other.
            import_function(family, function)
        else:
            setup = TrainingSetup(config)
            model = setup.new_model(classes or _SOME_CLASSES)
            find_module(model, setup.layer_of(model))


def _is_auxiliary(setting: str) -> bool:
    """Return whether a setting concerns FMCE-Net++ and its controls alone."""
    return setting.strip().startswith("auxiliary.")


def _slug(text: str) -> str:
    """Return a text as a file name."""
    return re.sub(r"[^A-Za-z0-9._=]+", "-", text.replace('"', "")).strip("-")

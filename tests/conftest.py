"""What many tests share: one small finished run on the digits, a second seed's, and the command itself."""

import fcntl
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import yaml

# What a run's config did not have at first.
NEWER = (
    *(f"auxiliary.{name}" for name in ("oracle_every", "oracle_batch_fraction", "oracle_width")),
    "fmce_net.width",
)
# Few steps of a narrow network on 8-pixel digits, but every part of the method in place.
SETTINGS = (
    "data.image_size=8",
    "data.shift=1",
    "model.options={width: 4}",
    "train.epochs=8",
    "train.batch_size=128",
    "train.learning_rate=5e-3",
    "phases.num_phases=3",
    "phases.threshold=0.1",
    "phases.smoothing=none",
    "phases.window=2",
    "phases.if_not_converged=last",
    "fmce_net.epochs=2",
)

LONG = {"end_to_end", "faults", "distillation", "experiments", "fmce_net_pp", "examples"}


def pytest_configure(config):
    # One thread here and in every process that a test starts: sums come out the same in both, and
    # tiny networks gain nothing from a second.
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(items):
    """Begin with files that take minutes, so that test processes side by side end at the same time."""
    items.sort(key=lambda item: LONG.isdisjoint(item.path.relative_to(item.config.rootpath).parts))


@pytest.fixture(autouse=True)
def messages_as_they_were():
    """Undo what a test, or the command line in this process, chose to be shown."""
    from fmce.console.log import logger

    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


def without(file, *names):
    """Drop `field` or `section.field` from a YAML file, as a version wrote it that did not know them."""
    values = yaml.safe_load(file.read_text())
    for name in names:
        *sections, field = name.split(".")
        inside = values
        for section in sections:
            inside = inside[section]
        del inside[field]
    file.write_text(yaml.safe_dump(values, sort_keys=False))


def train_and_score(config, folder):
    from fmce.maturity.train_classifier import train_classifier
    from fmce.maturity.train_fmce_net import train_fmce_net
    from fmce.runs.run import open_run

    train_fmce_net(train_classifier(config, folder), "map")
    return open_run(folder)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """Call a function with a folder of its name in the first process of a test run that asks; others get its result."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def make(name, function):
        (folder / "shared").mkdir(exist_ok=True)
        with open(folder / f"shared-{name}.pickle", "a+b") as kept:
            fcntl.flock(kept, fcntl.LOCK_EX)
            kept.seek(0)
            if not (written := kept.read()):
                kept.write(written := pickle.dumps(function(folder / "shared" / name)))
            return pickle.loads(written)

    return make


@pytest.fixture(scope="session")
def finished_run(made_once):
    """A finished run of seed 0 with phases and the FMCE-Net of split "map"; never change its folder."""
    from fmce.config.io import with_settings
    from fmce.config.run import RunConfig

    config = with_settings(RunConfig(), SETTINGS)
    return made_once("seed0", partial(train_and_score, config))


@pytest.fixture(scope="session")
def other_run(finished_run, made_once):
    """The same at seed 1."""
    config = finished_run.config
    config = replace(config, train=replace(config.train, seed=1))
    return made_once("seed1", partial(train_and_score, config))


@pytest.fixture
def own_run(finished_run, tmp_path):
    """A copy of the finished run that a test may change."""
    from fmce.runs.run import open_run

    shutil.copytree(finished_run.path, tmp_path / "run")
    return open_run(tmp_path / "run")


@pytest.fixture(scope="session")
def fmce_command():
    """Run `fmce` in a process of its own and return what it said."""

    def run(*arguments, **options):
        return subprocess.run(
            [sys.executable, "-m", "fmce", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **options,
        )

    return run


@pytest.fixture(scope="session")
def compared(finished_run, made_once):
    """Config, folder and result of a comparison: two RAFs, all controls, two seeds, the oracle's apart."""
    from fmce.config.sweep import CompareConfig
    from fmce.engine.jobs.local import LocalWorkers
    from fmce.fmce_net_pp.compare import compare

    oracle = str(finished_run.path)
    config = CompareConfig(oracle=oracle, rafs=(0.9, 0.5), seeds=(1, 2), same_seed=True)

    def make(out):
        return config, out, compare(config, out, workers=LocalWorkers(2))

    return made_once("compared", make)


SMALL_DISTILLATION = (
    "data.height=16",
    "data.width=24",
    "data.labelled=8",
    "data.unlabelled=8",
    "data.held_out=4",
    "data.validation=4",
    "teacher_steps={steps: 4, batch_size: 4, interval: 2}",
    "student_steps={steps: 4, batch_size: 4, interval: 2}",
    "student.options={encoder_options: {channels: [4, 4, 4, 8], stem_width: 4}}",
    "seeds=[1, 2]",
)


@pytest.fixture(scope="session")
def small_distillation():
    """Settings of one small function-matching experiment."""
    return list(SMALL_DISTILLATION)


@pytest.fixture(scope="session")
def experiment(made_once, small_distillation):
    """Its folder: scenes, three arms, two seeds; never change it."""
    pytest.importorskip("timm")
    from fmce.config.distillation import DistillationConfig
    from fmce.config.io import with_settings
    from fmce.distillation.distill import distill

    def make(out):
        distill(with_settings(DistillationConfig(), small_distillation), out, jobs=2)
        return out

    return made_once("scenes", make)

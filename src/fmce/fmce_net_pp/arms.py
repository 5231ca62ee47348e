"""The arms of an FMCE-Net++ experiment: what each one trains, as the config of a run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from fmce.config.choices import Length
from fmce.config.run import AuxiliaryConfig, RunConfig
from fmce.config.sweep import BASELINE, TREATMENT
from fmce.config.trust import function_names
from fmce.engine.runtime import make_runtime
from fmce.maturity.prepare import merge_runtime, with_oracle_digest
from fmce.runs.run import Run, open_run

# What the controls that ask no oracle change in the training of the baseline. Both values are not in the papers:
# Szegedy et al. 2016, section 7; and about the last thousand steps, in short trainings fewer.
_TRAINING: dict[str, dict[str, Any]] = {
    "label_smoothing": {"label_smoothing": 0.1},
    "weight_average": {"weight_average": 0.999},
}
# What each role changes in FMCE-Net++'s auxiliary loss; the others have none, or their own.
_CHANGES: dict[str, dict[str, Any]] = {
    TREATMENT: {},
    "random_oracle": {"oracle_weights": "random"},
    "phase_1": {"target_phase": 1},
    # It asks no FMCE-Net, so options that make one cheaper do not apply.
    "feature_matching": {
        "kind": "feature_matching",
        "oracle_every": 1,
        "oracle_batch_fraction": 1.0,
        "oracle_width": None,
    },
}


def plain_config(oracle: Run, length: Length) -> RunConfig:
    """Return the plain training that all arms beside an oracle derive from.

    It takes the oracle's E_K epochs where `length` is "convergence", all of its run where it is "full".
    """
    config = oracle.config
    epochs = oracle.phases.convergence_epoch if length == "convergence" else config.train.epochs
    # Of many short trainings, only weights and gradients are recorded.
    recorder = replace(config.recorder, probe_images=0)
    train_section = replace(config.train, epochs=epochs)
    return replace(config, train=train_section, auxiliary=AuxiliaryConfig(), recorder=recorder)


def arm_config(base: RunConfig, role: str, seed: int, treatment: AuxiliaryConfig) -> RunConfig:
    """Return one training's config; arms of one seed share initial weights, data order and length.

    Args:
        base: The plain training.
        role: "baseline", "ral" or the name of a control.
        seed: Seed of the training.
        treatment: FMCE-Net++'s auxiliary loss, with its oracle and RAF.
    """
    train_section = replace(base.train, seed=seed)
    if role == BASELINE:
        return replace(base, train=train_section)
    if role == "scaled_rate":
        # Scaling the loss would control for nothing: Adam divides the scale out again.
        rate = base.train.learning_rate * max(treatment.raf, 1e-6)
        return replace(base, train=replace(train_section, learning_rate=rate))
    if role in _TRAINING:
        return replace(base, train=replace(train_section, **_TRAINING[role]))
    if role == "ridge_probe":
        probe = AuxiliaryConfig("ridge_probe", raf=treatment.raf)
        return replace(base, train=train_section, auxiliary=probe)
    return replace(base, train=train_section, auxiliary=replace(treatment, **_CHANGES[role]))


def check_trained_as(folder: Path, config: RunConfig, precision: str) -> None:
    """Refuse a finished training of another length, precision or oracle: its pairs would not match."""
    # As `train` records it: the oracle run's `runtime` section holds unless this call overrides it.
    wanted, _ = merge_runtime(config, make_runtime("cpu", precision))
    if open_run(folder, trust=function_names(wanted)).config != with_oracle_digest(wanted):
        raise ValueError(
            f"{folder} was trained with another config, oracle or precision than this experiment has now; "
            "use a new folder, or delete that one to train it again"
        )

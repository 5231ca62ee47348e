"""The arms of an FMCE-Net++ experiment: what is trained in each, and one training of one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from fmce.config.choices import Keep
from fmce.config.io import with_settings
from fmce.config.run import AuxiliaryConfig, RunConfig
from fmce.engine.runtime import make_runtime
from fmce.maturity.prepare import merge_runtime, with_oracle_digest
from fmce.maturity.train_classifier import train_classifier
from fmce.runs.run import Run, open_run

Length = Literal["convergence", "full"]

BASELINE, TREATMENT = "baseline", "ral"
# What each control changes in FMCE-Net++'s auxiliary loss; `scaled_rate` has none at all.
_CHANGES: dict[str, dict[str, Any]] = {
    TREATMENT: {},
    "random_oracle": {"oracle_weights": "random"},
    "phase_1": {"target_phase": 1},
    # There is no FMCE-Net in it that an option could make cheaper.
    "feature_matching": {
        "kind": "feature_matching",
        "oracle_every": 1,
        "oracle_batch_fraction": 1.0,
        "oracle_width": None,
    },
}
CONTROLS = ("random_oracle", "phase_1", "scaled_rate", "feature_matching")


def base_config(oracle: Run, length: Length) -> RunConfig:
    """Return the plain training that all arms beside an oracle are made from: its own, of the length asked for.

    Args:
        oracle: run with phases.
        length: "convergence" trains for the oracle's E_K epochs, "full" for all its M.
    """
    config = oracle.config
    epochs = oracle.phases.convergence_epoch if length == "convergence" else config.train.epochs
    return replace(config, train=replace(config.train, epochs=epochs), auxiliary=AuxiliaryConfig())


def treatment_with(
    auxiliary: AuxiliaryConfig, settings: Sequence[str], base: RunConfig
) -> AuxiliaryConfig:
    """Return FMCE-Net++'s auxiliary loss changed by `auxiliary.field=value` settings, such as a cheaper form.

    Raises:
        ValueError: an unknown field, or a value out of range.
    """
    return with_settings(replace(base, auxiliary=auxiliary), settings).auxiliary


def arm_config(base: RunConfig, arm: str, seed: int, treatment: AuxiliaryConfig) -> RunConfig:
    """Return one training's config; arms of one seed share initial weights, data order and length.

    Args:
        base: the plain training.
        arm: baseline, ral or a control.
        seed: of the training.
        treatment: FMCE-Net++'s auxiliary loss, with its oracle and RAF.
    """
    train_section = replace(base.train, seed=seed)
    if arm == BASELINE:
        return replace(base, train=train_section)
    if arm == "scaled_rate":
        # Scaling the loss would be no control: Adam divides the scale out again.
        rate = base.train.learning_rate * max(treatment.raf, 1e-6)
        return replace(base, train=replace(train_section, learning_rate=rate))
    return replace(base, train=train_section, auxiliary=replace(treatment, **_CHANGES[arm]))


def train_arm(
    config: RunConfig, folder: Path, device: str, precision: str, read_test: bool, keep: Keep
) -> None:
    """Train one arm in its run folder, silently; a job for another process."""
    runtime = make_runtime(device, precision)
    train_classifier(config, folder, runtime=runtime, keep=keep, read_test=read_test)


def check_is_that_arm(folder: Path, config: RunConfig, precision: str) -> None:
    """Refuse a finished arm of another length, precision or oracle: it would be paired with unlike ones.

    Raises:
        ValueError: the folder's config is not what training `config` here would record.
    """
    # As `train` records it: the oracle's own `runtime` section holds where this call names nothing else.
    wanted, _ = merge_runtime(config, make_runtime("cpu", precision))
    if open_run(folder).config != with_oracle_digest(wanted):
        raise ValueError(
            f"{folder} was trained with another config, oracle or precision than this comparison has now; "
            "compare into a new folder, or delete that one to train it again"
        )


def best_on_validation(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the candidate of highest validation accuracy; the lower validation loss decides between equals."""
    return max(rows, key=lambda row: (row["validation_accuracy"], -row["validation_loss"]))

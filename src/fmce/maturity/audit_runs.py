"""The audit of run folders: their checkpoints are measured, their FMCE-Nets asked, and all of it judged."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from fmce.config.choices import Split
from fmce.digests import write_record
from fmce.engine.runtime import Runtime, make_runtime
from fmce.maturity.audit import (
    IMAGES,
    KNOWN,
    TRUTHS,
    Audit,
    AuditRow,
    audit,
    judged_rows,
    protocols_of,
)
from fmce.maturity.controls import Predictor, Scores, Truth, scorer_predictor
from fmce.maturity.fmcs import fmcs
from fmce.maturity.histories import PROBE, run_histories
from fmce.runs.checkpoint import checkpoint_path
from fmce.runs.run import Run
from fmce.scoring.history import ModuleHistory, continuous_phases
from fmce.scoring.scorer import MaturityScorer
from fmce.scoring.tables import NOVELTIES, Form

AUDIT_FILE = "audit.json"
_FIELDS = NOVELTIES[1:]


def audit_runs(
    runs: Sequence[Run],
    *,
    scorer: MaturityScorer | None = None,
    form: Form = "within_run",
    split: Split = "map",
    modules: Sequence[str] | None = None,
    probe: int = PROBE,
    runtime: Runtime | None = None,
) -> Audit:
    """Judge every score that there is on run folders, and write `audit.json` into the first.

    Judged are the scorer, and each run's published FMCE-Net on its own checkpoints and on those of the others; beside
    them the controls, calibrated on the other runs.

    Args:
        runs: With losses that have phases, and checkpoints.
        scorer: A scorer; None takes the one that comes with fmce.
        form: Which of its scores.
        split: Which FMCE-Nets.
        modules: Submodules; None takes those recorded.
        probe: How many training images are looked at, two draws of them.
        runtime: The device.

    Raises:
        ValueError: If there are no runs, or a run has no phases.
        FileNotFoundError: If a run keeps no checkpoint.
    """
    runtime, scorer = runtime or make_runtime(), scorer or MaturityScorer.load()
    for run in runs:
        try:
            continuous_phases(run.losses)
        except ValueError as error:
            raise ValueError(f"{run.path} has no ten phases to judge by: {error}") from error
    judged, second = (
        [
            h
            for run in runs
            for h in run_histories(run, modules, probe=probe, view=v, runtime=runtime)
        ]
        for v in (0, 1)
    )
    found = audit(
        {f"maturity score ({form})": scorer_predictor(scorer, form)},
        judged,
        novelty=lambda history: next(iter(scorer.novelties(history)[::-1]), ""),
        second_views=second,
        reference=judged,
        form=form,
    )
    rows, lacking = _published(runs, judged, split, runtime)
    found = Audit((*rows, *found.rows), (*found.unanswered, *lacking))
    write_record(runs[0].path / AUDIT_FILE, found.to_dict())
    return found


def _published(
    runs: Sequence[Run], judged: Sequence[ModuleHistory], split: Split, runtime: Runtime
) -> tuple[list[AuditRow], list[str]]:
    """Return how each run's FMCE-Net does on all runs, and why it cannot judge some."""
    rows, lacking = [], []
    for owner in runs:
        if not owner.fmce_net_file(split).exists():
            lacking.append(f"published FMCE-Net: {owner.path} has none (fmce train-net)")
            continue
        answers: dict[str, dict[int, float]] = {}
        for run in runs:
            epochs = next(h.epochs for h in judged if h.run == str(run.path))
            try:
                answers[str(run.path)] = _expected(owner, run, epochs.tolist(), split, runtime)
            except ValueError as error:
                lacking.append(f"published FMCE-Net of {owner.path} on {run.path}: {error}")
        # One history of each run: an FMCE-Net judges one layer's maps.
        mine = {h.run: h for h in judged if h.run in answers}
        about = mine[str(owner.path)].about if str(owner.path) in mine else {}
        name = f"published FMCE-Net of {owner.path.name}"
        new = partial(_new, about=about, own=str(owner.path))
        found = protocols_of(list(mine.values()), new)
        # It is asked about test images, and was trained on training images alone.
        own = [case for case in found.pop(KNOWN, []) if case]
        if own:
            found[IMAGES] = own
        rows += [
            row
            for protocol, cases in found.items()
            for truth in TRUTHS
            for row in judged_rows(protocol, cases, {name: _told(answers)}, truth)
        ]
    return rows, lacking


def _expected(
    owner: Run, run: Run, epochs: Sequence[int], split: Split, runtime: Runtime
) -> dict[int, float]:
    """Return the mean phase that a run's FMCE-Net expects of each checkpoint of a run."""
    folder = run.path / "checkpoints"
    return {
        epoch: float(
            fmcs(owner, checkpoint=checkpoint_path(folder, epoch), split=split, runtime=runtime)[
                "mean"
            ]
        )
        for epoch in epochs
    }


def _told(answers: Mapping[str, Mapping[int, float]]) -> Predictor:
    def predict(history: ModuleHistory, _: Truth) -> Scores:
        mine = answers[history.run]
        return np.array([mine[int(epoch)] for epoch in history.epochs]), None, None

    return predict


def _new(history: ModuleHistory, about: Mapping[str, str], own: str) -> str:
    """Return what a run has that another has not: the hardest of it."""
    if history.run == own:
        return ""
    new = [name for name in _FIELDS if history.about.get(name) != about.get(name)]
    return new[-1] if new else "run"

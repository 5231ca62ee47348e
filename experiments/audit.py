"""How far can maturity scores be trusted? The audit of the transfer study's trainings, with all controls.

    python -m experiments.audit [--small] [--published] [--out runs/transfer]

Reads the trainings that experiments.transfer stored. A scorer is fitted on those meant for it, and judged beside the
controls of `fmce audit` on those that are new in seed, width, recipe, data set or architecture, by the last module, in
both forms of the score, for raw and official phases. --published trains five short runs on the digits, three of them
with an FMCE-Net: each network's score is judged on its own run and on the others. Rows go to results/transfer.jsonl.
Takes about five minutes on one CPU core once the trainings are there; --small one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.script import options_parser, record, run_script
from experiments.transfer_runs import (
    FITTED,
    LARGE,
    SMALL,
    SMALL_UNSEEN,
    UNSEEN,
    StoredRun,
    load_runs,
)
from fmce.config.presets import make_config
from fmce.maturity.audit import IMAGES, TRUTHS, audit, audit_case, judged_rows
from fmce.maturity.audit_runs import audit_runs
from fmce.maturity.controls import control_predictors, scorer_predictor
from fmce.maturity.train_classifier import train_classifier
from fmce.maturity.train_fmce_net import train_fmce_net
from fmce.runs.run import Run
from fmce.scoring.history import ModuleHistory, continuous_phases
from fmce.scoring.scorer import FORMS, MaturityScorer

EXPERIMENT, NAME = "audit", "maturity score"
# What the audit calls what is new in the study's protocols.
_NOVELTIES = {"seed": "run", "larger network": "architecture"}
_SHORT = (
    *("data.image_size=8", "data.shift=1", 'model.options={"width": 8}', "train.epochs=24"),
    *("train.batch_size=128", "train.learning_rate=5e-3", "phases.if_not_converged=last"),
    "fmce_net.epochs=10",
)
PUBLISHED: Mapping[str, Sequence[str]] = {
    **{f"seed{seed}": (f"train.seed={seed}",) for seed in range(3)},
    "rate": ("train.learning_rate=2e-3",),
    "width": ('model.options={"width": 12}',),
}
"""Name → settings of the short runs beside the shared ones."""


def main(argv: Sequence[str] | None = None) -> None:
    """Fit, judge, and record a row per form, and one for published FMCE-Nets."""
    parser = options_parser(__doc__, "transfer.jsonl", "runs/transfer")
    add = parser.add_argument
    add("--small", action="store_true", help="the handful of short trainings")
    add("--published", action="store_true", help="train five runs and audit their FMCE-Nets")
    options = parser.parse_args(argv)
    about: dict[str, Any] = {"scale": "small"} if options.small else {}
    unseen = dict(SMALL_UNSEEN if options.small else UNSEEN)
    if not options.small:
        unseen["larger network"] = [*unseen.get("larger network", ()), *LARGE]
    fitted = load_runs(options.out, SMALL if options.small else FITTED)
    kinds, judged = dict[str, str](), list[ModuleHistory]()
    for kind, trainings in unseen.items():
        found = last_modules(load_runs(options.out, trainings))
        kinds |= {history.run: kind for history in found}
        judged += found
    if len(fitted) < 3 or not judged:
        raise ValueError(
            f"expected stored trainings below {options.out}, got {len(fitted)} to fit on and {len(judged)} to judge; "
            "run python -m experiments.transfer first"
        )
    scorers = {view: MaturityScorer.fit(last_modules(fitted, view)) for view in (None, 0)}
    for form in FORMS:
        rows = rows_of(scorers[None], fitted, judged, kinds, form)
        rows = [*rows, *seen_runs(scorers[0], fitted, form)]
        sizes = {"fitted": len(fitted), "judged": len(judged)}
        record(options.results, EXPERIMENT, form, sizes, {"rows": rows}, **about)
    if options.published:
        runs = published_runs(options.out / "published")
        found_runs = audit_runs(runs, scorer=scorers[None], modules=["blocks.2"])
        result = found_runs.to_dict()
        for run in runs:  # no paths of this machine
            place = f"{run.path.parent}/"
            result["unanswered"] = [line.replace(place, "") for line in result["unanswered"]]
        settings = {"settings": list(_SHORT), "runs": {n: list(v) for n, v in PUBLISHED.items()}}
        record(options.results, EXPERIMENT, "published", settings, result, **about)


def published_runs(folder: Path) -> list[Run]:
    """Train the five short runs and the FMCE-Nets of the first three; what is stored is kept."""
    runs = []
    for name, changes in PUBLISHED.items():
        config = make_config("digits", settings=[*_SHORT, *changes])
        run = train_classifier(config, folder / name)
        if name.startswith("seed"):
            train_fmce_net(run, "map")
        runs.append(run)
    return runs


def rows_of(
    scorer: MaturityScorer,
    fitted: Sequence[StoredRun],
    judged: Sequence[ModuleHistory],
    kinds: dict[str, str],
    form: Any,
) -> list[dict[str, Any]]:
    """Return the audit's rows on runs that are new; each larger network counts as a new architecture."""
    rows = []
    for large in (False, True):
        some = [h for h in judged if (kinds[h.run] == "larger network") == large]
        if not some:
            continue
        found = audit(
            {NAME: scorer_predictor(scorer, form)},
            some,
            novelty=lambda h: _NOVELTIES.get(kinds[h.run], kinds[h.run]),
            reference=last_modules(fitted),
            form=form,
        )
        for row in found.to_dict()["rows"]:
            if not large:
                rows.append(row)
            elif row["protocol"] == "unseen architecture":
                rows.append(row | {"protocol": "larger network"})
    return rows


def seen_runs(
    first_view: MaturityScorer, fitted: Sequence[StoredRun], form: Any
) -> list[dict[str, Any]]:
    """Return the rows of unseen images: the runs it was fitted on, measured on another draw of images."""
    known = last_modules(fitted, 0)
    predictors = {NAME: scorer_predictor(first_view, form), **control_predictors(known, form)}
    cases = [audit_case(history) for history in last_modules(fitted, 1)]
    rows = [row for truth in TRUTHS for row in judged_rows(IMAGES, cases, predictors, truth)]
    return [row.to_dict() for row in rows]


def last_modules(runs: Sequence[StoredRun], view: int | None = None) -> list[ModuleHistory]:
    """Return the history of each run's last module with its head's loss, measured on one draw of images or on all."""
    found = []
    for run in runs:
        try:
            continuous_phases(run.losses)
        except ValueError:  # it never learned
            continue
        if view is not None:
            part = slice(view, view + 1)
            run = replace(run, values=run.values[part], twins=run.twins[part])
        history = run.histories(views=len(run.values))[-1]
        values = {**history.values, "head_loss": run.head["loss"]}
        found.append(replace(history, values=values))
    return found


if __name__ == "__main__":
    run_script(main)

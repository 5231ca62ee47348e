"""The command that judges maturity scores."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from fmce.cli.options import (
    Device,
    Flag,
    Json,
    OwnDataName,
    OwnModelName,
    Split,
    Trust,
    option,
    print_json,
    required,
    runtime_of,
)


def audit(
    runs: Annotated[
        Positional[tuple[Path, ...]],
        required("run folders with checkpoints; better three or more", "RUN"),
    ],
    scorer: Annotated[
        Path | None, option("file of MaturityScorer.save; default: the one of fmce", "FILE")
    ] = None,
    form: Annotated[
        Literal["within_run", "snapshot"], option("which of the scorer's scores", "NAME")
    ] = "within_run",
    split: Split = "map",
    modules: Annotated[
        tuple[str, ...], option("submodules; default: those recorded", "NAME …")
    ] = (),
    probe: Annotated[int, option("training images looked at, in two draws", "N")] = 768,
    markdown: Annotated[Flag, option("print a Markdown table, to be pasted")] = False,
    json: Json = False,
    model: OwnModelName = None,
    data: OwnDataName = None,
    trust: Trust = False,
    device: Device = "auto",
) -> None:
    """Audit maturity scores on runs: what they tell beyond the epoch number.

    Example: fmce audit runs/seed0 runs/seed1 runs/seed2
    """
    from fmce.cli.show_audit import show_audit
    from fmce.maturity.audit_runs import audit_runs
    from fmce.runs.run import open_run
    from fmce.scoring.scorer import MaturityScorer

    if not runs:
        raise ValueError("fmce audit needs at least one RUN")
    found = audit_runs(
        [open_run(run, trust=trust, model=model, data=data) for run in runs],
        scorer=None if scorer is None else MaturityScorer.load(scorer),
        form=form,
        split=split,
        modules=modules or None,
        probe=probe,
        runtime=runtime_of(device),
    )
    if json:
        print_json(found.to_dict())
    else:
        show_audit(found, markdown=markdown)

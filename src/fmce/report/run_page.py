"""One self-contained HTML page from a run folder's files: figures inlined, no scripts, nothing fetched."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape
from markupsafe import Markup
from matplotlib.figure import Figure

from fmce.config.choices import FMCE_NET_METRICS, GRAD_CAM_NUMBERS
from fmce.config.io import read_yaml
from fmce.config.run import run_config
from fmce.console.log import logger
from fmce.convergence.phases import Phases, window_sensitivity
from fmce.digests import read_arrays, read_record, read_record_or_none, read_sealed
from fmce.files import reading
from fmce.recorder.clocks import module_table
from fmce.report.arm_figures import comparison_figure
from fmce.report.audit_table import AUDIT_HEADER, audit_cells
from fmce.report.loss_figure import loss_phases_figure
from fmce.report.module_figures import HEADER, module_cells, module_remarks, modules_figure
from fmce.report.picture_figures import confusion_figure, grad_cam_figure
from fmce.runs.log import judge_metrics, read_done, read_metrics, read_phases, task_loss

_DELETE = "delete it to make the page without it"
_OF_NET = ("held_out", "test_images")


def report_page(run: Path, comparison: Path | None = None) -> str:
    """Return the report of a run as HTML; parts whose files are missing are left out and named."""
    if not (run / "config.yaml").exists():
        raise FileNotFoundError(f"{run} is not a run folder: it has no config.yaml")
    done = read_done(run)
    if done is not None and "markers" in done:
        read_phases(run)  # found, so a missing file is a loss and no part to leave out
    if done is None:
        logger.warning("%s is missing: the training is not finished", run / "DONE.json")
    context = {
        "run": str(run),
        "config": read_sealed(run / "config.yaml"),
        "versions": recorded_versions(run),
        "done": done,
        "verdict": _verdict(run),
        "modules": _modules(run),
        "curve": _curve(run),
        "fmce_nets": _fmce_nets(run),
        "comparison": None if comparison is None else _comparison(run, comparison),
        "explain": _explain(run),
        "audit": _audit(run),
        "metric_names": FMCE_NET_METRICS,
        "cam_names": GRAD_CAM_NUMBERS,
    }
    return str(template("run.html.j2").render(context))


def recorded_versions(folder: Path) -> dict[str, Any]:
    """Return the versions that a run or experiment was made with; where their file is missing, warn and return none."""
    file = folder / "versions.json"
    versions = read_record_or_none(file, _DELETE)
    if versions is None:
        logger.warning("%s is missing; the page is made without versions", file)
    return versions or {}


def _verdict(run: Path) -> tuple[str, ...]:
    """Return the verdict's three lines, by the settings that the phases were found with; none without epochs."""
    rows, found = read_metrics(run), _phases(run)
    config = run_config(run).phases if found is None else found.config
    return judge_metrics(rows, config).lines if rows else ()


def _phases(run: Path) -> Phases | None:
    return read_phases(run) if (run / "phases.json").exists() else None


def _modules(run: Path) -> dict[str, Any] | None:
    """Return the table of the run's modules; None where none were recorded."""
    if not any(row.get("modules") for row in read_metrics(run)):
        return None
    table = module_table(run)
    figure = modules_figure(table) if any(row.clocks for row in table.rows) else None
    return {
        "header": HEADER,
        "rows": module_cells(table),
        "remarks": module_remarks(table),
        "figure": figure and inline(figure, "Drift left of each module"),
    }


def _audit(run: Path) -> dict[str, Any] | None:
    """Return the table of `fmce audit`; None where none was made."""
    found = read_record_or_none(run / "audit.json", _DELETE)
    if found is None:
        return None
    cells = audit_cells(found["rows"])
    return {"header": AUDIT_HEADER, "rows": cells, "unanswered": found["unanswered"]}


def _curve(run: Path) -> dict[str, Any] | None:
    if (phases := _phases(run)) is None:
        return None
    rows = read_metrics(run)
    # Phases found during training belong to the epochs there were then.
    losses = [task_loss(row) for row in rows[: phases.num_epochs]]
    if len(losses) < phases.num_epochs:
        raise ValueError(
            f"{run / 'metrics.jsonl'} has {len(losses)} epochs, but phases.json has {phases.num_epochs}; "
            f"find them again: fmce phases {run}"
        )
    variants = {
        "step": phases.step_curve_markers,
        "unsmoothed": phases.unsmoothed_markers,
        "debiased": phases.debiased_markers,
    }
    return {
        "phases": phases,
        "markers": [
            {"phase": k, "epoch": epoch, "loss": losses[epoch - 1], "cqi": phases.cqi[epoch - 1]}
            | {name: markers[k - 1] if markers else None for name, markers in variants.items()}
            for k, epoch in enumerate(phases.markers, start=1)
        ],
        "later_epochs": len(rows) - phases.num_epochs,
        "windows": window_sensitivity(losses, phases.config),
        "figure": inline(loss_phases_figure(losses, phases), "Loss curve, CQI and phases"),
    }


def _fmce_nets(run: Path) -> list[dict[str, Any]]:
    fmce_nets = []
    for folder in sorted((run / "fmce_net").glob("*")):
        file, remedy = folder / "metrics.json", f"delete {folder} and run: fmce train-net {run}"
        if not file.exists():
            if (folder / "DONE.json").exists():
                logger.warning("%s is missing; the page is made without it; %s", file, remedy)
            continue
        metrics = read_record(file, _OF_NET, remedy)
        config = file.with_name("config.yaml")
        shown = metrics["held_out"] or metrics["test_images"]
        # The folder's name distinguishes a narrower network of the same split.
        name = file.parent.name
        matrix = confusion_figure(np.array(shown["confusion"]), title=f"split {name}")
        figure = inline(matrix, f"Confusion matrix, split {name}")
        # The page says so where other phases were found since.
        markers = read_yaml(config).get("markers") if config.exists() else None
        fmce_nets.append({**metrics, "split": name, "figure": figure, "markers": markers})
    return fmce_nets


def _comparison(run: Path, folder: Path) -> dict[str, Any]:
    result = read_record_or_none(folder / "compare.json", f"run: fmce compare {run} --out {folder}")
    if result is None:
        command = f"fmce compare {run} --out {folder}"
        raise FileNotFoundError(f"{folder} has no compare.json; run: {command}")
    tested = [r for r in result["rows"] if r["role"] != "oracle" and r["test_accuracy"] is not None]
    figure = comparison_figure(tested, title="Test accuracy by arm, one dot per seed")
    against = {c["arm"]: c for c in result["comparisons"]}
    return {
        **result,
        "against": against,
        "verdict": against[result["selected"]],
        "figure": inline(figure, "Test accuracy by arm"),
    }


def _explain(run: Path) -> dict[str, Any] | None:
    remedy = f"run: fmce explain {run}"
    numbers = read_record_or_none(run / "explain" / "numbers.json", remedy)
    if numbers is None:
        if (run / "explain").is_dir():
            raise FileNotFoundError(f"{run / 'explain' / 'numbers.json'} is missing; {remedy}")
        return None
    file = run / "explain" / "grad_cam.npz"
    arrays = read_arrays(file, numbers.get("sha256"), remedy)
    with reading(file, "the maps that numbers.json describes", remedy):
        figure = grad_cam_figure(
            arrays["images"], arrays["cams"], numbers["epochs"], numbers["classes"]
        )
    return {**numbers, "figure": inline(figure, "Grad-CAM over the phases")}


def inline(figure: Figure, description: str) -> Markup:
    """Return a figure as an <img> that carries its own PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode()
    return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(description, data)


def template(name: str) -> Template:
    """Return one of this package's page templates; an undefined name in it is an error."""
    environment = Environment(
        loader=PackageLoader("fmce.report", "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda v: "–" if v is None else f"{100 * v:.2f} %"
    environment.filters["number"] = lambda v: "–" if v is None or v != v else f"{v:.4g}"
    return environment.get_template(name)

"""One self-contained HTML page from a run folder's files: figures inlined, no scripts, nothing fetched."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape
from markupsafe import Markup
from matplotlib.figure import Figure

from fmce.convergence.phases import Phases, window_sensitivity
from fmce.files import read_json_or_none
from fmce.report.figures import loss_phases_figure
from fmce.report.map_figures import comparison_figure, confusion_figure, grad_cam_figure
from fmce.runs.log import read_metrics

METRICS = ("accuracy", "precision", "recall", "f1", "mae", "spearman", "kappa")
CAM_NUMBERS = ("gini", "area_above_half_max", "centroid_drift", "overlap")


def report_page(run: Path, comparison: Path | None = None) -> str:
    """Return the report of a run as HTML; parts whose files are missing are left out and named.

    Args:
        run: run folder.
        comparison: folder of `fmce compare`, for the FMCE-Net++ part.

    Raises:
        FileNotFoundError: `run` is no run folder, or `comparison` holds no comparison.
    """
    if not (run / "config.yaml").exists():
        raise FileNotFoundError(f"{run} is not a run folder: it has no config.yaml")
    if comparison is not None and not (comparison / "compare.json").exists():
        raise FileNotFoundError(
            f"{comparison} has no compare.json; run: fmce compare {run} --out {comparison}"
        )
    rows = read_metrics(run)
    context = {
        "run": str(run),
        "config": _text(run / "config.yaml"),
        "versions": read_json_or_none(run / "versions.json") or {},
        "done": read_json_or_none(run / "DONE.json"),
        "curve": _curve(run, rows),
        "fmce_nets": _fmce_nets(run),
        "comparison": _comparison(comparison),
        "explain": _explain(run),
        "metric_names": METRICS,
        "cam_names": CAM_NUMBERS,
    }
    return str(template("run.html.j2").render(context))


def _curve(run: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    text = _text(run / "phases.json")
    if not text:
        return None
    phases = Phases.from_json(text)
    # Phases found while training went on are of the epochs there were then.
    losses = [row.get("task_loss", row["loss"]) for row in rows][: phases.num_epochs]
    if len(losses) < phases.num_epochs:
        raise ValueError(
            f"{run / 'metrics.jsonl'} has {len(losses)} epochs, but phases.json is of {phases.num_epochs}; "
            f"find them again: fmce phases {run}"
        )
    markers = [
        {
            "phase": k,
            "epoch": epoch,
            "loss": losses[epoch - 1],
            "cqi": phases.cqi[epoch - 1],
            "step": phases.step_curve_markers[k - 1] if phases.step_curve_markers else None,
            "unsmoothed": phases.unsmoothed_markers[k - 1] if phases.unsmoothed_markers else None,
            "debiased": phases.debiased_markers[k - 1] if phases.debiased_markers else None,
        }
        for k, epoch in enumerate(phases.markers, start=1)
    ]
    figure = loss_phases_figure(losses, phases)
    return {
        "phases": phases,
        "markers": markers,
        "later_epochs": len(rows) - phases.num_epochs,
        "windows": window_sensitivity(losses, phases.config),
        "figure": inline(figure, "Loss curve, CQI and phases"),
    }


def _fmce_nets(run: Path) -> list[dict[str, Any]]:
    fmce_nets = []
    for folder in sorted((run / "fmce_net").glob("*")):
        metrics = read_json_or_none(folder / "metrics.json")
        if metrics is None:
            continue
        shown = metrics["held_out"] or metrics["test_images"]
        # The folder's name tells a narrower network of the same split apart.
        name = folder.name
        matrix = confusion_figure(np.array(shown["confusion"]), title=f"split {name}")
        figure = inline(matrix, f"Confusion matrix, split {name}")
        # Of phases found anew since, the metrics say nothing.
        config = yaml.safe_load(_text(folder / "config.yaml")) or {}
        fmce_nets.append(
            {**metrics, "split": name, "figure": figure, "markers": config.get("markers")}
        )
    return fmce_nets


def _comparison(folder: Path | None) -> dict[str, Any] | None:
    if folder is None:
        return None
    result = read_json_or_none(folder / "compare.json")
    if result is None:
        return None
    figure = comparison_figure(result["rows"], title="Test accuracy by arm, one dot a seed")
    against = {c["arm"]: c for c in result["comparisons"]}
    return {**result, "against": against, "figure": inline(figure, "Test accuracy by arm")}


def _explain(run: Path) -> dict[str, Any] | None:
    numbers = read_json_or_none(run / "explain" / "numbers.json")
    if numbers is None:
        return None
    with np.load(run / "explain" / "grad_cam.npz") as arrays:
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


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""

"""`fmce demo`: a complete method on built-in data, from training to report."""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from fmce.config.choices import Split
from fmce.config.distillation import DISTILLATION_DEFAULTS, distillation_preset
from fmce.config.presets import preset
from fmce.config.sweep import CompareConfig
from fmce.console.log import logger
from fmce.console.progress import Progress
from fmce.convergence.phases import Phases
from fmce.convergence.verdict import Verdict
from fmce.digests import read_record
from fmce.distillation.distill import distill
from fmce.distillation.export import export
from fmce.engine.jobs.local import LocalWorkers, run_jobs
from fmce.engine.runtime import Runtime, cores, make_runtime
from fmce.fmce_net_pp.compare import compare
from fmce.fmce_net_pp.sweep.results import Comparison
from fmce.maturity.explain import explain
from fmce.maturity.phases import phases
from fmce.maturity.train_classifier import train_classifier
from fmce.maturity.train_fmce_net import train_fmce_net
from fmce.recorder.clocks import ModuleTable, module_table
from fmce.report.write import report
from fmce.runs.log import judge_metrics, read_done
from fmce.runs.run import open_run


@dataclass(frozen=True)
class DemoResult:
    """What the demo on the digits found.

    Args:
        report: The page.
        test_accuracy: Of the original task, a fraction.
        phases: The convergence phases of its training.
        verdict: The verdict on its loss curve.
        modules: The modules of its network.
        fmce_nets: Metrics of FMCE-Net, split "map" and split "image".
        comparison: FMCE-Net++ against its baseline.
    """

    report: Path
    test_accuracy: float
    phases: Phases
    verdict: Verdict
    modules: ModuleTable
    fmce_nets: tuple[dict[str, Any], dict[str, Any]]
    comparison: Comparison


def demo(out: Path, *, runtime: Runtime | None = None) -> DemoResult:
    """Run everything on scikit-learn's digits and write `out/report.html`; a killed demo resumes.

    Args:
        out: Folder of the run (`original`), the comparison (`compare`) and the report.
        runtime: Device and precision.

    Raises:
        ModuleNotFoundError: If captum, which Grad-CAM needs, is not installed.
    """
    runtime = runtime or make_runtime()
    if find_spec("captum") is None:  # known now rather than after two minutes
        raise ModuleNotFoundError("the demo needs captum for Grad-CAM: pip install 'fmce[explain]'")
    if runtime.device.type == "cpu":
        # At this size a second thread gains nothing, and waits for a busy core cost a lot.
        torch.set_num_threads(1)
    device = str(runtime.device)

    with LocalWorkers(cores() if runtime.device.type == "cpu" else 1) as workers:
        starts = [] if read_done(out / "original") else [f"start {i}" for i in range(workers.count)]
        for name in starts:  # so that they import, which takes seconds, while one core is free
            workers.submit(name, import_module, "torch._dynamo")
        logger.info("1/5 original task")
        run = train_classifier(preset("digits"), out / "original", runtime=runtime)
        if run.has_phases:
            logger.info("its loss and phases: %s", phases(run.path).figure)
        for _ in starts:
            workers.wait()

        logger.info("2/5 FMCE-Net on the feature maps of the ten markers")
        with Progress("FMCE-Net, splits map and image", 2) as progress:
            splits = {split: (run.path, split, device) for split in ("map", "image")}
            run_jobs(_train_fmce_net, splits, workers, progress)
        by_map, by_image = (read_record(run.fmce_net_folder(s) / "metrics.json") for s in splits)

        logger.info(
            "3/5 FMCE-Net++ against its baseline (8 trainings; fmce compare adds the controls)"
        )
        plan = CompareConfig(oracle=str(run.path), rafs=(0.9, 0.75), seeds=(1, 2, 3), controls=())
        comparison = compare(
            plan, out / "compare", workers=workers, device=device, precision=runtime.precision
        )

    logger.info("4/5 Grad-CAM across the phases")
    explain(run, num_images=6, runtime=runtime)

    logger.info("5/5 report")
    page = report(run.path, comparison=out / "compare", out=out / "report.html")
    assert run.done is not None
    return DemoResult(
        page,
        run.done["test_accuracy"],
        run.phases,
        judge_metrics(run.curve, run.config.phases),
        module_table(run.path),
        (by_map, by_image),
        comparison,
    )


def _train_fmce_net(run: Path, split: Split, device: str) -> None:
    train_fmce_net(open_run(run), split, runtime=make_runtime(device))


@dataclass(frozen=True)
class DistillationDemoResult:
    """What the demo of function matching found.

    Args:
        report: The page.
        result: What `distill` returns.
        export: What `export` returns; None where ONNX is not installed.
    """

    report: Path
    result: dict[str, Any]
    export: dict[str, Any] | None


def distillation_demo(
    task: Literal["segment", "detect"], out: Path, *, runtime: Runtime | None = None
) -> DistillationDemoResult:
    """Run function matching on built-in road scenes and write `out/report.html`; a killed demo resumes.

    Args:
        task: What the networks do.
        out: Folder of the experiment.
        runtime: Device and precision.
    """
    config = distillation_preset(DISTILLATION_DEFAULTS[task])
    result = distill(config, out, runtime=runtime or make_runtime())
    with_onnx = all(find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))
    exported = export(out, out / "student") if with_onnx else None
    return DistillationDemoResult(report(out), result, exported)

"""`fmce demo`: a whole method on built-in data, from training to report."""

import time
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch

from fmce.config.distillation import DISTILLATION_DEFAULTS, distillation_preset
from fmce.config.presets import preset
from fmce.config.run import Split
from fmce.console.progress import Progress
from fmce.console.tables import percent
from fmce.distillation.distill import distill
from fmce.distillation.export import export
from fmce.engine.jobs.run import run_jobs
from fmce.engine.runtime import Runtime, cores, make_runtime
from fmce.files import read_json
from fmce.fmce_net_pp.arms import TREATMENT
from fmce.fmce_net_pp.compare import Comparison, compare
from fmce.maturity.explain import explain
from fmce.maturity.phases import remarks
from fmce.maturity.train import train
from fmce.maturity.train_fmce_net import train_net
from fmce.report.write import distillation_report, report
from fmce.runs.run import open_run


def demo(out: Path, *, runtime: Runtime | None = None) -> Path:
    """Run everything on scikit-learn's digits and write `out/report.html`; goes on after a kill.

    Args:
        out: folder of the run (`original`), the comparison (`compare`) and the report.
        runtime: device and precision.

    Returns:
        The report's path.
    """
    runtime = runtime or make_runtime()
    if find_spec("captum") is None:  # known now rather than after four minutes
        raise ModuleNotFoundError("the demo needs captum for Grad-CAM: pip install 'fmce[explain]'")
    if runtime.device.type == "cpu":
        # At this size a second thread gains nothing, and waits for a busy core cost a lot.
        torch.set_num_threads(1)
    started = time.perf_counter()
    config, device = preset("digits"), str(runtime.device)

    print("1/5 original task", flush=True)
    run = train(config, out / "original", runtime=runtime)
    phases = run.phases

    print("2/5 FMCE-Net on the feature maps of the ten markers", flush=True)
    with Progress("FMCE-Net, splits map and image", 2) as progress:
        splits = {split: (run.path, split, device) for split in ("map", "image")}
        run_jobs(_train_net, splits, cores() if device == "cpu" else 1, progress)
    by_map, by_image = (read_json(run.fmce_net_folder(s) / "metrics.json") for s in splits)

    print(
        "3/5 FMCE-Net++ against its baseline (8 trainings; fmce compare adds the controls)",
        flush=True,
    )
    plan = Comparison(str(run.path), rafs=(0.9, 0.75), seeds=(1, 2, 3), controls=False)
    comparison = compare(plan, out / "compare", runtime=runtime)

    print("4/5 Grad-CAM across the phases", flush=True)
    explain(run, num_images=6, runtime=runtime, quiet=True)

    print("5/5 report", flush=True)
    page = report(run.path, comparison=out / "compare", out=out / "report.html")

    assert run.done is not None
    against = next(c for c in comparison["comparisons"] if c["arm"] == TREATMENT)
    print()
    print(f"test accuracy       {percent(run.done['test_accuracy'])}")
    print(f"phase markers       {list(phases.markers)}")
    for line in remarks(phases):
        print(f"                    {line}")
    print(
        f"FMCE-Net accuracy   {percent(by_map['held_out']['accuracy'])} on held-out maps (split map)"
    )
    print(
        f"                    {percent(by_image['held_out']['accuracy'])} on unseen images (split image)"
    )
    print(f"baseline            {_mean(against, 'baseline')} over {against['n']} seeds")
    print(f"FMCE-Net++          {_mean(against, 'treatment')} at RAF {comparison['raf']}")
    print(f"                    {against['verdict']}")
    print(f"time                {time.perf_counter() - started:.0f} s")
    print(f"report              {page}")
    return page


def _train_net(run: Path, split: Split, device: str) -> None:
    train_net(open_run(run), split, runtime=make_runtime(device), quiet=True)


def distillation_demo(
    task: Literal["segment", "detect"], out: Path, *, runtime: Runtime | None = None
) -> Path:
    """Run function matching on built-in road scenes and write `out/report.html`; goes on after a kill.

    Args:
        task: what the networks do.
        out: folder of the experiment.
        runtime: device and precision.

    Returns:
        The report's path.
    """
    started = time.perf_counter()
    distill(
        distillation_preset(DISTILLATION_DEFAULTS[task]), out, runtime=runtime or make_runtime()
    )
    if all(find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript")):
        export(out, out / "student")
    page = distillation_report(out)
    print(f"time    {time.perf_counter() - started:.0f} s")
    print(f"report  {page}")
    return page


def _mean(against: dict[str, float], arm: str) -> str:
    return f"{100 * against[f'mean_{arm}']:.2f} ± {100 * against[f'sd_{arm}']:.2f} %"

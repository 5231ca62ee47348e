"""Commands that show: the demo and the report."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from fmce.cli.options import Device, RunFolder, _runtime, command

if TYPE_CHECKING:
    pass


@command("demo")
def demo(
    task: Annotated[
        Literal["digits", "segment", "detect"],
        arg(help="FMCE on digits, or function matching on scenes"),
    ] = "digits",
    out: Annotated[Path | None, arg(help="folder to write; runs/demo… if left out")] = None,
    device: Device = "auto",
) -> None:
    """Run a whole method on built-in data and write a report.

    Example: fmce demo --task segment
    """
    from fmce.cli.show_distillation import show_export, show_result
    from fmce.cli.show_maturity import show_demo
    from fmce.demo import demo as run_demo
    from fmce.demo import distillation_demo

    started = time.perf_counter()
    if task == "digits":
        found = run_demo(out or Path("runs/demo"), runtime=_runtime(device))
        show_demo(found)
        page = found.report
    else:
        folder = out or Path(f"runs/demo-{task}")
        distilled = distillation_demo(task, folder, runtime=_runtime(device))
        show_result(distilled.result)
        if distilled.export is not None:
            show_export(folder / "student", distilled.export)
        page = distilled.report
    print(f"time                {time.perf_counter() - started:.0f} s")
    print(f"report              {page}")


@command("report")
def report(
    run: RunFolder,
    comparison: Annotated[Path | None, arg(help="folder of fmce compare", metavar="FOLDER")] = None,
    out: Annotated[Path | None, arg(help="page; RUN/report.html if left out")] = None,
) -> None:
    """Write the report of a run, or of a distill folder, as one HTML file.

    Example: fmce report runs/digits --comparison runs/compare
    """
    from fmce.report.write import distillation_report
    from fmce.report.write import report as run_report

    if (run / "distill.json").exists():
        print(f"report: {distillation_report(run, out=out)}")
        return
    print(f"report: {run_report(run, comparison=comparison, out=out)}")

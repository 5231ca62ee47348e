"""Commands of all methods: the demo and the report."""

import time
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from fmce.cli.options import Device, option, required, runtime_of


def demo(
    task: Annotated[
        Literal["digits", "segment", "detect"],
        option("FMCE and FMCE-Net++ on digits, or function matching on road scenes"),
    ] = "digits",
    out: Annotated[Path | None, option("folder to write; default: below runs/", "FOLDER")] = None,
    device: Device = "auto",
) -> None:
    """Run a complete method on built-in data and write a report.

    Example: fmce demo --task segment
    """
    from fmce.cli.show_distillation import show_export, show_result
    from fmce.cli.show_maturity import show_demo
    from fmce.demo import demo as run_demo
    from fmce.demo import distillation_demo

    started = time.perf_counter()
    if task == "digits":
        found = run_demo(out or Path("runs/demo"), runtime=runtime_of(device))
        show_demo(found)
        page = found.report
    else:
        folder = out or Path(f"runs/demo-{task}")
        distilled = distillation_demo(task, folder, runtime=runtime_of(device))
        show_result(distilled.result)
        if distilled.export is not None:
            show_export(folder / "student", distilled.export)
        page = distilled.report
    print(f"time                {time.perf_counter() - started:.0f} s")
    print(f"report              {page}")


def report(
    run: Annotated[Positional[Path], required("folder of fmce train or fmce distill", "RUN")],
    comparison: Annotated[Path | None, option("folder of fmce compare", "FOLDER")] = None,
    out: Annotated[Path | None, option("page to write; default: RUN/report.html", "FILE")] = None,
) -> None:
    """Write the report of a run or a distillation as one HTML file.

    Example: fmce report runs/digits --comparison runs/compare
    """
    from fmce.report.write import report as write_report

    print(f"report: {write_report(run, comparison=comparison, out=out)}")

"""`fmce report`: one self-contained HTML page of a run, or of a function-matching experiment."""

from pathlib import Path

from fmce.config.run import run_config
from fmce.files import write_text
from fmce.report.distillation_page import distillation_page
from fmce.report.run_page import report_page


def report(run: Path, *, comparison: Path | None = None, out: Path | None = None) -> Path:
    """Write the report of a run and return its path.

    Args:
        run: run folder.
        comparison: folder of `fmce compare` for the FMCE-Net++ part.
        out: the page; `RUN/report.html` by default.

    Raises:
        FileNotFoundError: a folder is not what it should be.
        ValueError: it is another command's.
    """
    run_config(run)  # a page of such a folder would be empty
    path = out or run / "report.html"
    page = report_page(run, comparison)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    return path


def distillation_report(experiment: Path, *, out: Path | None = None) -> Path:
    """Write the report of a function-matching experiment and return its path.

    Args:
        experiment: folder of `fmce distill`.
        out: the page; `EXPERIMENT/report.html` by default.

    Raises:
        FileNotFoundError: the folder holds no finished experiment.
    """
    path = out or experiment / "report.html"
    write_text(path, distillation_page(experiment))
    return path

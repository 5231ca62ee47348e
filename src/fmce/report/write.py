"""`fmce report`: one self-contained HTML page of a run, or of a function-matching experiment."""

from pathlib import Path

from fmce.config.run import run_config
from fmce.files import write_text
from fmce.report.distillation_page import distillation_page
from fmce.report.run_page import report_page


def report(run: Path, *, comparison: Path | None = None, out: Path | None = None) -> Path:
    """Write the report of a run and return its path.

    Args:
        run: Run folder.
        comparison: Folder of `fmce compare` for the FMCE-Net++ part.
        out: The page; `RUN/report.html` by default.

    Raises:
        FileNotFoundError: If a folder is not what it should be.
        ValueError: If it belongs to another command.
    """
    run_config(run)  # the page of another command's folder would be empty
    return _write(report_page(run, comparison), out or run / "report.html")


def distillation_report(experiment: Path, *, out: Path | None = None) -> Path:
    """Write the report of a function-matching experiment and return its path.

    Args:
        experiment: Folder of `fmce distill`.
        out: The page; `EXPERIMENT/report.html` by default.

    Raises:
        FileNotFoundError: If the folder holds no finished experiment.
    """
    return _write(distillation_page(experiment), out or experiment / "report.html")


def _write(page: str, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    return path

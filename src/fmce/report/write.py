"""`fmce report`: one self-contained HTML page of a run, or of a function-matching experiment."""

from pathlib import Path

from fmce.config.run import run_config
from fmce.files import write_text
from fmce.report.distillation_page import distillation_page
from fmce.report.run_page import report_page


def report(folder: Path, *, comparison: Path | None = None, out: Path | None = None) -> Path:
    """Write the report of a run or of a function-matching experiment and return its path.

    Args:
        folder: Folder of `fmce train` or of `fmce distill`.
        comparison: Folder of `fmce compare` for the FMCE-Net++ part of a run's page.
        out: The page; `FOLDER/report.html` by default.

    Raises:
        FileNotFoundError: If a folder is not what it should be, or its experiment is not finished.
        ValueError: If the folder belongs to another command.
    """
    if (folder / "distill.json").exists():
        page = distillation_page(folder)
    elif (folder / "data.json").exists():
        raise FileNotFoundError(
            f"{folder / 'distill.json'} is missing: the experiment is not finished, or the file is lost; repeat fmce "
            "distill, which writes it"
        )
    else:
        run_config(folder)  # the page of another command's folder would be empty
        page = report_page(folder, comparison)
    path = out or folder / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    return path

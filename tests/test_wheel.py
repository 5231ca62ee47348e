"""A wheel holds all that the package needs: installed into an empty environment, it runs."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import fmce

ROOT = Path(__file__).resolve().parents[1]


def run(*words, **options):
    done = subprocess.run(
        [*map(str, words)], capture_output=True, text=True, check=False, timeout=300, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    out = tmp_path_factory.mktemp("dist")
    # --no-isolation: the build backend that is installed, so that nothing is downloaded.
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT)
    (file,) = out.glob("*.whl")
    return file


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_package(wheel):
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("fmce/")}
    package = Path(fmce.__file__).parent
    files = (path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert inside == {f"fmce/{path.relative_to(package).as_posix()}" for path in files}


@pytest.mark.slow
def test_an_empty_environment_runs_the_installed_wheel(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    run(
        *(sys.executable, "-m", "pip", "--python", python, "install"),
        *("--quiet", "--no-index", "--no-deps", wheel),
    )
    # Dependencies are those of this environment; a line of a .pth file shows them without this
    # environment's own .pth files, one of which would lead to the source tree.
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    found = run(python, "-c", "import fmce; print(fmce.__file__)", cwd=tmp_path).strip()
    assert Path(found).is_relative_to(tmp_path)
    command = tmp_path / "env" / "bin" / "fmce"
    assert run(command, "--version") == f"fmce {fmce.__version__}\n"
    curve = tmp_path / "losses.csv"
    curve.write_text("loss\n" + "\n".join(str(2.0 * 0.8**i) for i in range(60)))
    shown = run(command, "phases", curve, "--threshold", "0.01", "--num-phases", "3")
    assert "convergence epoch" in shown

"""`import fmce`: what it offers and what it costs."""

import subprocess
import sys
import time

import pytest

import fmce

HEAVY = ("torch", "torchvision", "matplotlib", "sklearn", "scipy", "captum", "timm")


def seconds_of(code):
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    return time.perf_counter() - started


@pytest.mark.parametrize("name", fmce.__all__)
def test_every_public_name_loads(name):
    assert getattr(fmce, name) is not None
    assert name in dir(fmce)


def test_the_names_promised_are_public():
    promised = (
        "smooth_losses cqi PhaseConfig find_phases Phases FeatureMaps FMCENet "
        "representation_auxiliary_loss phase_metrics open_run seed_epoch split_maps"
    )
    assert set(promised.split()) <= set(fmce.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        _ = fmce.nosuch


def test_import_loads_nothing_heavy():
    code = f"import sys, fmce; print([n for n in {HEAVY} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_import_takes_under_0_3_seconds_more_than_python_alone():
    bare = min(seconds_of("pass") for _ in range(3))
    assert min(seconds_of("import fmce") for _ in range(3)) - bare < 0.3


def test_finding_phases_of_a_file_never_imports_torch(tmp_path):
    losses = tmp_path / "losses.csv"
    losses.write_text("loss\n" + "\n".join(str(2.0 * 0.8**i) for i in range(60)))
    code = (
        "import sys; from fmce.cli.main import main\n"
        f"main(['phases', {str(losses)!r}, '--threshold', '0.01', '--figure', {str(tmp_path / 'p.png')!r}])\n"
        "print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False True"
    assert (tmp_path / "p.png").exists()

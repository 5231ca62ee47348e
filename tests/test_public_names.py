"""`import fmce`: what it offers and what it costs."""

import inspect
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fmce

NAMES = [name for name in fmce.__all__ if name != "__version__"]
ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "torchvision", "matplotlib", "sklearn", "scipy", "captum", "timm", "pydantic")


def seconds_of(code):
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    return time.perf_counter() - started


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_loads(name):
    assert getattr(fmce, name) is not None
    assert name in dir(fmce)


def test_the_stub_lists_what_there_is_and_type_checkers_see_it(tmp_path):
    stub = Path(fmce.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    listed = re.findall(r"^from \.\S+ import (\w+) as (\w+)$", stub, re.M)
    assert [name for name, again in listed if name != again] == []
    names = [name for name, _ in listed]
    assert sorted(names) == sorted(set(names))
    assert {*names, "__version__"} == set(fmce.__all__)
    user = tmp_path / "user.py"
    user.write_text("".join(f"from fmce import {name}\n" for name in fmce.__all__))
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(user)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_says_what_it_is(name):
    said = inspect.getdoc(getattr(fmce, name)) or ""
    assert said.splitlines()[0].endswith((".", ":")), name
    assert not said.startswith(f"{name}("), f"{name} has a dataclass's made-up docstring"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nosuch"):
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

"""Arrows between packages only point down."""

import ast
from pathlib import Path

import pytest

import fmce

ROOT = Path(fmce.__file__).parent
BELOW = {"configs", "convergence", "data", "engine", "losses", "metrics", "models"}
MATCHING = {
    "matching_config",
    "matching_data",
    "matching_frames",
    "matching_pools",
    "matching_scenes",
    "detection_data",
}
MAY_IMPORT = {
    "convergence": {"convergence"},
    "configs": {"convergence"},
    "engine": {"engine"},
    "data": {"data"},
    "losses": {"losses"},
    "metrics": {"metrics"},
    "models": {"models"},
    "interpret": {"interpret", "models.features"},
    "report": {"report", "convergence", "metrics.statistics"},
    "run_folder": {"configs", "convergence", "data", "engine", "models"},
    "matching_config": {"configs"},
    "sweep_config": {"configs"},
    "matching_pools": {"matching_config", "data"},
    "matching_frames": {"matching_config", "matching_pools", "data", "engine"},
    "matching_scenes": {"matching_config", "matching_frames", "matching_pools", "data"},
    "detection_data": {"matching_config", "matching_frames", "matching_pools", "matching_scenes"}
    | {"data"},
    "matching_data": {"matching_config", "matching_frames", "matching_pools", "matching_scenes"}
    | {"detection_data", "data", "engine"},
    "tasks": {"tasks", "engine", "losses", "metrics", "data.batch", "data.boxes", "data.shares"}
    | {"models.detection", "models.features", "models.pspnet"},
    "commands": BELOW
    | MATCHING
    | {"commands", "interpret", "report", "run_folder", "sweep_config", "tasks"},
    "cli": {
        "__init__",
        "configs",
        "commands",
        "matching_config",
        "run_folder",
        "sweep_config",
        "engine.runtime",
        "engine.lost_rank",
        "data.video",
    },
    "__main__": {"cli"},
    "__init__": BELOW | {"interpret", "run_folder"},
}


def imports(path):
    """Yield every module that a file imports, also inside functions and for type checkers."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def rule_of(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_what_lies_below_it(path):
    allowed = MAY_IMPORT[rule_of(path)]
    ours = [n for n in imports(path) if n.split(".")[0] == "fmce"]
    names = [n.partition(".")[2] or "__init__" for n in ours]
    wrong = [n for n in names if not any(n == a or n.startswith(f"{a}.") for a in allowed)]
    assert wrong == []


def test_one_file_imports_lightning_fabric():
    users = [p for p in ROOT.rglob("*.py") if any(n.startswith("lightning") for n in imports(p))]
    assert users == [ROOT / "engine" / "runtime.py"]


@pytest.mark.parametrize("path", sorted((ROOT / "convergence").glob("*.py")), ids=lambda p: p.name)
def test_convergence_needs_numpy_alone(path):
    others = {n.split(".")[0] for n in imports(path)} - {"fmce", "numpy"}
    assert others <= set(__import__("sys").stdlib_module_names)

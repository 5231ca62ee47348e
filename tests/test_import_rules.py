"""Imports only run downwards, and nowhere in a circle."""

import ast
import sys
from pathlib import Path

import pytest

import fmce

ROOT = Path(fmce.__file__).parent
# From the ground up: a file may import from its own room and from those named before it.
LAYERS = [
    *(
        "files",
        "seeding",
        "console",
        "convergence",
        "models",
        "losses",
        "metrics",
        "data",
        "config",
    ),
    *("engine", "runs", "feature_maps", "tasks", "report"),
    *("maturity", "fmce_net_pp", "distillation", "demo", "cli", "__main__"),
]


def module_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(ROOT.rglob("*.py"))}
FILES = [path for module, path in MODULES.items() if module != "fmce"]


def imports(path):
    """Return every module that a file imports, also inside functions and for type checkers."""
    return [*imported(ast.parse(path.read_text(encoding="utf-8")))]


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno} imports relatively"
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in below)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def ours(path):
    return {name for name in imports(path) if name in MODULES and name != "fmce"}


def layer_of(module):
    return LAYERS.index(module.split(".")[1])


def test_every_room_has_its_layer():
    assert {module_of(path).split(".")[1] for path in FILES} == set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_what_lies_below_it(path):
    own = layer_of(module_of(path))
    assert [name for name in ours(path) if layer_of(name) > own] == []


def test_no_import_runs_in_a_circle():
    graph = {module_of(path): ours(path) for path in FILES}
    # What imports nothing that is left can go; a circle is what never can.
    while free := {module for module, below in graph.items() if not below & graph.keys()}:
        graph = {module: below for module, below in graph.items() if module not in free}
    assert graph == {}


@pytest.mark.parametrize("path", sorted((ROOT / "convergence").glob("*.py")), ids=lambda p: p.name)
def test_convergence_needs_numpy_alone_and_scipy_inside_functions(path):
    def strangers(names):
        return {n.split(".")[0] for n in names} - {"fmce", "numpy"} - set(sys.stdlib_module_names)

    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_import = ast.Module([n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)], [])
    assert strangers(imported(at_import)) == set()
    assert strangers(imports(path)) <= {"scipy"}

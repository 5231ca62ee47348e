"""Imports only run downwards, and nowhere in a circle."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fmce

ROOT = Path(fmce.__file__).parent
# From the ground up: a file may import from its own room and from those named before it.
LAYERS = [
    *(
        "files",
        "digests",
        "seeding",
        "console",
        "convergence",
        "scoring",
        "models",
        "losses",
        "metrics",
        "data",
        "config",
    ),
    *("engine", "runs", "recorder", "integrations", "feature_maps", "tasks", "report"),
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


def test_no_public_name_is_defined_twice():
    """Commands of the command line are called like the library functions they call; nothing else repeats."""
    places = {}
    for path in FILES:
        if path.is_relative_to(ROOT / "cli") or path.stem == "child":
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            named = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
            if isinstance(node, ast.Assign):
                named = [target.id for target in node.targets if isinstance(target, ast.Name)]
            for name in named:
                if not name.startswith("_"):
                    places.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_no_file_is_over_400_lines_and_no_function_takes_over_10_parameters():
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and not path.is_relative_to(ROOT / "cli"):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                assert len(arguments) <= 10, f"{path}: {node.name}"


def test_the_picture_of_the_layers_is_that_of_the_imports():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import draw_layers as d; print(d.drawn(d.imports_of_rooms()), end='')",
        ],
        cwd=ROOT.parents[1] / "docs",
        capture_output=True,
        text=True,
        check=True,
    )
    picture = ROOT.parents[1] / "docs" / "images" / "layers.svg"
    assert done.stdout == picture.read_text(encoding="utf-8"), "run: python docs/draw_layers.py"


def test_only_the_command_line_and_the_console_print():
    for path in FILES:
        if path.relative_to(ROOT).parts[0] not in ("cli", "console"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
                assert not (called and node.func.id == "print"), f"{path}:{node.lineno}"

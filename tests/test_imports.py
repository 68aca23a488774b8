"""Imports point down only, siblings do not know each other, and no import hides a cycle in a function."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = [
    {"types", "files", "packages", "region", "wording"},
    {"store"},
    {"workspace"},
    {
        "windows",
        "block_map",
        "normalize",
        "validation",
        "denoise",
        "fills",
        "holes",
        "repair",
        "haze",
        "diameter",
        "polarity",
        "scales",
        "metrics",
        "measurements",
        "preparation",
        "io",
        "datasets",
        "counting",
    },
    {"model"},
    {"recognition"},
    {"training", "consensus"},
    {"sleep"},
    {
        "parameters",
        "inference",
        "image_consensus",
        "tables",
        "serialization",
        "provenance",
    },
    {"image_posterior", "segmenting"},
    {"scale_search"},
    {"teaching"},
    {"learning", "suggest", "callbacks", "generation", "shape"},
    {"counting_picture", "fitting", "html", "tuning", "report"},
    {"estimator", "pooling"},
    {"diagnosis", "napari_widget"},
    {"cli"},
]
STRANGERS = [{"training", "consensus"}, {"sleep", "consensus"}]
TOP = "estimator"  # cellsegmenter/__init__.py re-exports it, so `import cellsegmenter` counts as this part


def module_name(path: Path) -> str:
    """`cellsegmenter.model.unet` for cellsegmenter/model/unet.py, `cli.main` for cli/main.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {
    module_name(path): path
    for folder in ("cellsegmenter", "cli")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def imported_by(node: ast.Import | ast.ImportFrom, module: str) -> Iterator[str]:
    """The modules that an import statement in `module` names, ours resolved to the very file."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        package = module.split(".") if FILES[module].name == "__init__.py" else module.split(".")[:-1]
        parents = package[: len(package) - node.level + 1]
        base = ".".join([*parents, base] if base else parents)
    for alias in node.names:
        yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in FILES else base


def imports(module: str) -> list[tuple[str, bool, int]]:
    """(imported module, whether inside a function, line) for every import statement of a file."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    inside = {
        id(child)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.walk(function)
    }
    return [
        (target, id(node) in inside, node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for target in imported_by(node, module)
    ]


def is_ours(module: str) -> bool:
    return module.split(".")[0] in ("cellsegmenter", "cli")


def part(module: str) -> str:
    """The part of the architecture a module belongs to."""
    names = module.split(".")
    if names[0] == "cli":
        return "cli"
    return names[1] if len(names) > 1 else TOP


def height(module: str) -> int:
    for level, parts in enumerate(LAYERS):
        if part(module) in parts:
            return level
    pytest.fail(f"{module} belongs to no layer: give {part(module)!r} its place in LAYERS")


@pytest.mark.parametrize("module", FILES)
def test_imports_point_down(module):
    for target, _, line in imports(module):
        if is_ours(target) and part(target) != part(module):
            assert height(target) <= height(module), f"{module}:{line} imports {target}, which lies above it"


@pytest.mark.parametrize("module", FILES)
def test_training_and_consensus_do_not_know_each_other(module):
    for target, _, line in imports(module):
        if is_ours(target) and part(target) != part(module):
            assert {part(target), part(module)} not in STRANGERS, f"{module}:{line} imports {target}"


@pytest.mark.parametrize("module", [name for name in FILES if part(name) != "cli"])
def test_no_import_of_ours_inside_a_function(module):
    # Optional packages (zarr, pandas, ...) may load late; our own modules may not: it would hide a cycle.
    for target, is_inside, line in imports(module):
        assert not (is_inside and is_ours(target)), f"{module}:{line} imports {target} inside a function"


def test_no_cycles():
    graph = {
        module: {target for target, _, _ in imports(module) if is_ours(target) and target != module}
        for module in FILES
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_the_command_line_starts_without_torch():
    script = "import sys, cellsegmenter_cli.main; print({'torch', 'sklearn', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_no_remedy_asks_a_registry_for_this_package():
    asking = re.compile(r"pip install[^\n]*cellsegmenter")  # it is on none
    for path in [*FILES.values(), *ROOT.glob("docs/*.md")]:
        assert not asking.search(path.read_text(encoding="utf-8")), path


def test_every_package_is_installed():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = {name.replace("cellsegmenter_cli", "cli") for name in project["tool"]["setuptools"]["packages"]}
    assert listed == {module_name(path) for path in FILES.values() if path.name == "__init__.py"}

"""The layout of the package: which packages may import which, how deep imports go, how long files and functions are."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "crossmorph"
# From what a user meets down to what everything rests on. A module imports only from rows below its package's own;
# packages of one row never import each other.
ROWS = (
    {"__main__"},
    {"cli"},
    {"integrations"},
    {"workflows", "reproduction"},
    {"reports"},
    {"quality", "evaluation", "provenance"},
    {"registration", "training"},
    {"transforms", "datasets", "networks"},
    {"functional", "images", "simulation"},
    {"system"},
    {"errors"},
)
LONGEST_CHAIN = 16  # modules, each of which imports the next
LONGEST_FILE, LONGEST_FUNCTION = 400, 60  # lines


def height(module: str) -> int:
    """Of a module's row, counted from below; the root stands above all, so that no module may import from it."""
    package = module.split(".")[0]
    return next((number for number, packages in enumerate(reversed(ROWS)) if package in packages), len(ROWS))


@cache
def modules() -> dict[str, Path]:
    """Every module by its name without ``crossmorph.``."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts)] = path
    return found


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def named(node: ast.AST) -> Iterator[str]:
    """What an import statement names, without ``crossmorph.``; of ``from a.b import c`` both ``a.b`` and ``a.b.c``."""
    names = []
    if isinstance(node, ast.ImportFrom) and node.module:
        names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    elif isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    return (name.removeprefix("crossmorph.") for name in names if name.startswith("crossmorph."))


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of ours that a module imports, at its top or within a function."""
    every = {name for node in ast.walk(parsed(modules()[module])) for name in named(node)}
    return frozenset(every & set(modules()))


@cache
def chain(module: str) -> tuple[str, ...]:
    """The longest chain of imports that begins with a module."""
    return (module, *max((chain(other) for other in imports(module)), key=len, default=()))


def test_every_package_has_its_row() -> None:
    packages = {module.split(".")[0] for module in modules()} - {"__init__"}
    assert packages == set().union(*ROWS)


def test_imports_run_downhill() -> None:
    assert len(modules()) > 90
    wrong = [
        f"{module} imports {other}"
        for module in modules()
        for other in imports(module)
        if height(other) >= height(module) and module.split(".")[0] != other.split(".")[0]
    ]
    assert not wrong


def test_the_longest_chain_of_imports() -> None:
    longest = max(map(chain, modules()), key=len)
    assert len(longest) <= LONGEST_CHAIN, " > ".join(longest)


@pytest.mark.parametrize("module", sorted(modules()))
def test_files_and_functions_are_short(module: str) -> None:
    path = modules()[module]
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef):
            # Declarations of a command's options are no code.
            start = node.body[0].lineno if module.startswith("cli.") else node.lineno
            assert node.end_lineno is not None
            assert node.end_lineno - start < LONGEST_FUNCTION, node.name

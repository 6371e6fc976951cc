"""What `import crossmorph` shows: names, their types for editors, and the version."""

import ast
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import crossmorph

NAMES = {
    "Check", "DEFAULT_MODELS", "Hierarchy", "HierarchySpec", "Image", "InputError", "Measures", "Model", "Outputs",
    "Registration", "Result", "Settings", "Warp", "compose", "load_model", "read_image", "read_transform", "register",
    "register_files", "register_images", "resample", "train", "write_image", "write_transform",
}  # fmt: skip


def test_the_public_names() -> None:
    assert set(crossmorph.__all__) == NAMES
    assert set(dir(crossmorph)) == {*NAMES, "__version__"}
    for name in NAMES:
        assert getattr(crossmorph, name) is not None
    assert crossmorph.__version__ == metadata.version("crossmorph")
    assert not hasattr(crossmorph, "nonsense")


def test_the_stub_names_the_same_from_the_same_modules() -> None:
    stub = ast.parse(Path(crossmorph.__file__).with_suffix(".pyi").read_text())
    imported = {
        alias.name: node.module for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == {name: f"crossmorph.{home}" for name, home in crossmorph._HOMES.items()}
    listed = next(node.value for node in stub.body if isinstance(node, ast.Assign))
    assert sorted(ast.literal_eval(listed)) == crossmorph.__all__


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, crossmorph; dir(crossmorph); print({'torch', 'numpy', 'SimpleITK'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr

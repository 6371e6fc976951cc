"""The weights that ship with the package, by name. Imports nothing heavy: the completion of a shell asks for them."""

from importlib import resources
from pathlib import Path

DEFAULT_MODELS = {2: "any-2d", 3: "any-3d"}  # by dimension of the images


def shipped_models() -> dict[str, Path]:
    """Cards of the weights inside the package, by name."""
    folder = Path(str(resources.files("crossmorph.networks") / "weights"))
    return {path.stem: path for path in sorted(folder.glob("*.json"))}

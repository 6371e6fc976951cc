"""The weights that ship with the package or were pulled, by name.

Imports nothing heavy: the completion of a shell asks for them.
"""

import os
from importlib import resources
from pathlib import Path

import platformdirs

DEFAULT_MODELS = {2: "any-2d", 3: "any-3d"}  # by dimension of the images


def shipped_models() -> dict[str, Path]:
    """Cards of the weights inside the package, by name."""
    folder = Path(str(resources.files("crossmorph.networks") / "weights"))
    return {path.stem: path for path in sorted(folder.glob("*.json"))}


def registry() -> Path:
    """Folder of the models that were pulled: the variable CROSSMORPH_MODELS, or within the data of the user."""
    chosen = os.environ.get("CROSSMORPH_MODELS")
    return Path(chosen) if chosen else Path(platformdirs.user_data_dir("crossmorph", appauthor=False)) / "models"


def pulled_models() -> dict[str, Path]:
    """Cards of the models that were pulled, by name."""
    return {path.stem: path for path in sorted(registry().glob("*/*.json")) if path.stem == path.parent.name}

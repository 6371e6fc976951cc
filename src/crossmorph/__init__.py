"""Registration of medical images of different modality: coarse registration, translation, fine registration.

The public names below are imported when they are first used, so that ``import crossmorph`` costs nothing.
"""

from importlib import import_module
from typing import Any

DEFAULT_MODELS = {2: "any-2d", 3: "any-3d"}  # shipped weights by dimension of the images

_HOMES = {
    "Image": "image",
    "InputError": "errors",
    "Hierarchy": "hierarchy",
    "HierarchySpec": "hierarchy",
    "Registration": "hierarchy",
    "Result": "api",
    "Settings": "pipeline",
    "Warp": "transform",
    "load_model": "checkpoint",
    "read_image": "image",
    "read_transform": "transform",
    "register": "api",
    "register_files": "command",
    "register_images": "pipeline",
    "resample": "transform",
    "train": "training",
    "write_image": "image",
    "write_transform": "transform",
}

__all__ = ["DEFAULT_MODELS", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

"""Registration of medical images of different modality: coarse registration, translation, fine registration.

The public names below are imported when they are first used, so that ``import crossmorph`` costs nothing.
"""

from importlib import import_module, metadata
from typing import Any

_HOMES = {
    "DEFAULT_MODELS": "networks.checkpoint",
    "Image": "images.image",
    "InputError": "errors",
    "Check": "quality.assessment",
    "Hierarchy": "networks.hierarchy",
    "HierarchySpec": "networks.hierarchy",
    "Measures": "quality.assessment",
    "Model": "networks.checkpoint",
    "Outputs": "workflows.outputs",
    "Registration": "networks.hierarchy",
    "Result": "workflows.result",
    "Settings": "registration.settings",
    "Warp": "transforms.warp",
    "compose": "transforms.composition",
    "load_model": "networks.checkpoint",
    "read_image": "images.io",
    "read_transform": "transforms.warp_files",
    "register": "workflows.register",
    "register_files": "workflows.register_files",
    "register_images": "registration.register_images",
    "resample": "transforms.warp",
    "train": "training.train",
    "write_image": "images.io",
    "write_transform": "transforms.warp_files",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("crossmorph")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

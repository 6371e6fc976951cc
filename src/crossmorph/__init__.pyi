"""The public names, for editors and type checkers; `__init__.py` imports each when it is first used."""

from crossmorph.errors import InputError as InputError
from crossmorph.images.image import Image as Image
from crossmorph.images.io import read_image as read_image
from crossmorph.images.io import write_image as write_image
from crossmorph.networks.checkpoint import DEFAULT_MODELS as DEFAULT_MODELS
from crossmorph.networks.checkpoint import Model as Model
from crossmorph.networks.checkpoint import load_model as load_model
from crossmorph.networks.hierarchy import Hierarchy as Hierarchy
from crossmorph.networks.hierarchy import HierarchySpec as HierarchySpec
from crossmorph.networks.hierarchy import Registration as Registration
from crossmorph.quality.assessment import Check as Check
from crossmorph.quality.assessment import Measures as Measures
from crossmorph.registration.register_images import register_images as register_images
from crossmorph.registration.settings import Settings as Settings
from crossmorph.training.train import train as train
from crossmorph.transforms.composition import compose as compose
from crossmorph.transforms.warp import Warp as Warp
from crossmorph.transforms.warp import resample as resample
from crossmorph.transforms.warp_files import read_transform as read_transform
from crossmorph.transforms.warp_files import write_transform as write_transform
from crossmorph.workflows.outputs import Outputs as Outputs
from crossmorph.workflows.register import register as register
from crossmorph.workflows.register_files import register_files as register_files
from crossmorph.workflows.result import Result as Result

__version__: str
__all__ = [
    "DEFAULT_MODELS",
    "Check",
    "Hierarchy",
    "HierarchySpec",
    "Image",
    "InputError",
    "Measures",
    "Model",
    "Outputs",
    "Registration",
    "Result",
    "Settings",
    "Warp",
    "compose",
    "load_model",
    "read_image",
    "read_transform",
    "register",
    "register_files",
    "register_images",
    "resample",
    "train",
    "write_image",
    "write_transform",
]

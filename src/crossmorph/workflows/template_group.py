"""The images of a template, how it is made, and what is known of each of its rounds."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import READABLE_SUFFIXES, read_image
from crossmorph.registration.settings import Freedom, Settings
from crossmorph.system.files import suffix_of

TEMPLATE, STATE, RECORD, MEAN = "template.nii.gz", "state.json", "template.json", "mean.h5"
TRANSFORM, INVERSE, MOVED = "transform.h5", "inverse.h5", "moved.nii.gz"
ROUNDS, SUBJECTS = "rounds", "subjects.html"
FEWEST = 2


class How(NamedTuple):
    """How a template is made, and on what; see :func:`make_template`."""

    rounds: int
    spacing: float | None
    sharpening: float
    freedom: Freedom
    model: str | None
    settings: Settings
    jobs: int
    scheduler: str | None
    device: str
    threads: int | None
    command: str


class Group(NamedTuple):
    """Images by their names, the SHA-256 of each, and the folder of the template; paths absolute."""

    names: list[str]
    images: list[Path]
    digests: list[str]
    output: Path


class State(NamedTuple):
    """What is known of a round that is finished.

    Attributes:
        key: hash of all that decides it.
        matrices: from the middle space to each image's, RAS millimetres.
        entropy: of the template, see :class:`crossmorph.workflows.template_average.Sharpness`.
        gradient: likewise.
        variation: between the images, see :class:`crossmorph.workflows.template_average.Average`.
        removed: mean length over the foreground of the mean deformation that was taken off, millimetres.
        mean_deformation: what is left of it, likewise.
        failed: the images of whose registration a check failed.
    """

    key: str
    matrices: list[list[list[float]]]
    entropy: float
    gradient: float
    variation: float
    removed: float
    mean_deformation: float
    failed: list[str]


def names_of(paths: Sequence[Path]) -> list[str]:
    """What the images are called: their files' names without suffix. Raises InputError where these are not of use."""
    if len(paths) < FEWEST:
        raise InputError(f"received {len(paths)} images; expected at least {FEWEST}")
    names = [path.name[: -len(suffix_of(path, READABLE_SUFFIXES, "image"))] for path in paths]
    for path, name in zip(paths, names, strict=True):
        if names.count(name) > 1 or name in ("", ROUNDS) or name.startswith("."):
            raise InputError(f"{path}: is named {name!r} without its suffix; expected names that tell the images apart")
    return names


def check_images(paths: Sequence[Path]) -> None:
    """Refuse images of different dimension or without millimetres. Raises InputError."""
    first: Image | None = None
    for path in paths:
        image = read_image(path)
        first = first or image
        if image.dim != first.dim or not image.physical:
            what = f"{image.dim}-D" if image.physical else "without millimetres"
            raise InputError(f"{path}: is {what}; expected {first.dim}-D images in millimetres, as {paths[0]}")

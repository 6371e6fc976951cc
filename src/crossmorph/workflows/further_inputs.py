"""What `register` is given beside its two images: masks, further images of each side, points that correspond."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.images.conversion import as_exact_image, as_image
from crossmorph.images.image import Image, ImageLike
from crossmorph.images.io import read_image
from crossmorph.provenance.record import Source, file_source, memory_source
from crossmorph.registration.evidence import Evidence, Points
from crossmorph.registration.masks import with_masks
from crossmorph.system.files import suffix_of
from crossmorph.workflows.point_tables import MARKUPS, POINT_SUFFIXES, read_points
from crossmorph.workflows.slicer_markups import read_markups

POINTS = ("moving_points", "fixed_points")
MASKS = ("moving_mask", "fixed_mask", "ignore_moving", "ignore_fixed")
PointsLike = str | Path | Float[ndarray, "n dim"]


class FurtherInputs(NamedTuple):
    """What is given beside the two images; None or empty: nothing.

    Attributes:
        moving_mask: above 0 where to look in the moving image.
        fixed_mask: likewise in the fixed image.
        ignore_moving: above 0 where what the moving image shows is no evidence, say a lesion.
        ignore_fixed: likewise in the fixed image.
        others: further images of each side, moving and fixed.
        points: of the moving and of the fixed image, in one order: files, or ``(n, dim)`` in RAS millimetres.
    """

    moving_mask: ImageLike | None = None
    fixed_mask: ImageLike | None = None
    ignore_moving: ImageLike | None = None
    ignore_fixed: ImageLike | None = None
    others: tuple[tuple[ImageLike, ImageLike], ...] = ()
    points: tuple[PointsLike, PointsLike] | None = None

    def by_role(self) -> dict[str, ImageLike | PointsLike]:
        """Everything that is given, by the name of its part."""
        named = {name: getattr(self, name) for name in MASKS}
        for number, pair in enumerate(self.others, start=2):
            named |= {f"{side}_{number}": image for side, image in zip(("moving", "fixed"), pair, strict=True)}
        if self.points is not None:
            named |= dict(zip(POINTS, self.points, strict=True))
        return {name: given for name, given in named.items() if given is not None}

    def files(self) -> list[tuple[str, Path]]:
        """Every file with its part."""
        return [(role, Path(given)) for role, given in self.by_role().items() if isinstance(given, str | Path)]


NO_MORE = FurtherInputs()


class Evident(NamedTuple):
    """The two images with their masks, and what is given beside them."""

    moving: Image
    fixed: Image
    evidence: Evidence


def further_inputs(given: dict[str, Any]) -> FurtherInputs:
    """What is given by name. Raises InputError where a name is unknown."""
    unknown = set(given) - set(FurtherInputs._fields)
    if unknown:
        raise InputError(
            f"register: received {', '.join(sorted(unknown))}; expected some of {', '.join(FurtherInputs._fields)}"
        )
    return FurtherInputs(**{**given, "others": tuple(given.get("others", ()))})


def from_roles(inputs: dict[str, Path]) -> FurtherInputs:
    """The same from files by their parts, as a record names them; other parts are left alone."""
    others: list[tuple[Path | None, ...]] = []
    while (pair := tuple(inputs.get(f"{side}_{len(others) + 2}") for side in ("moving", "fixed"))) != (None, None):
        others.append(pair)
    points = tuple(inputs.get(name) for name in POINTS)
    masks = {name: inputs.get(name) for name in MASKS}
    return FurtherInputs(**masks, others=tuple(others), points=None if None in points else points)  # type: ignore[arg-type]


def read_further(moving: Image, fixed: Image, given: FurtherInputs, accuracy: float) -> Evident:
    """Read what is given and lay it on the two images.

    Args:
        moving: the moving image.
        fixed: the fixed image.
        given: beside them.
        accuracy: of the points, millimetres.

    Raises:
        InputError: an input that cannot be used, or that does not fit the images.
    """
    masks = {name: None if (mask := getattr(given, name)) is None else _mask(mask, name) for name in MASKS}
    points = None
    if given.points is not None:
        there, here = (_points(each, fixed.dim) for each in given.points)
        if there.shape != here.shape:
            raise InputError(
                f"points: received {there.shape[1]} of the moving and {here.shape[1]} of the fixed image; expected as "
                "many of each, in one order"
            )
        points = Points(here, there, accuracy)
    return Evident(
        with_masks(moving, "moving", masks["moving_mask"], masks["ignore_moving"]),
        with_masks(fixed, "fixed", masks["fixed_mask"], masks["ignore_fixed"]),
        Evidence(tuple(_other(pair, fixed.dim) for pair in given.others), points),
    )


def further_sources(given: FurtherInputs) -> list[Source]:
    """What is given, for the record of a run; see :func:`read_further` for the errors."""
    found = []
    for role, each in given.by_role().items():
        if isinstance(each, str | Path):
            found.append(file_source(role, each))
        elif role in POINTS:
            found.append(memory_source(role, np.asarray(each, np.float64)))
        else:
            found.append(memory_source(role, as_exact_image(each, role)))
    return found


def _mask(given: ImageLike, role: str) -> Image:
    return read_image(given, labels=True) if isinstance(given, str | Path) else as_exact_image(given, role)


def _other(pair: tuple[ImageLike, ImageLike], dim: int) -> tuple[Image, Image]:
    """A further image of each side."""
    moving, fixed = as_image(pair[0], "further moving image"), as_image(pair[1], "further fixed image")
    for given, image in zip(pair, (moving, fixed), strict=True):
        if image.dim != dim:
            name = given if isinstance(given, str | Path) else "a further image"
            raise InputError(f"{name} is {image.dim}-D, shape {image.shape}; expected {dim}-D as the first image")
    return moving, fixed


def _points(given: PointsLike, dim: int) -> Float[ndarray, "dim n"]:
    """The coordinates of points, RAS millimetres."""
    if not isinstance(given, str | Path):
        points = np.asarray(given, np.float64)
        if points.ndim != 2 or points.shape[1] != dim or not len(points) or not np.isfinite(points).all():
            raise InputError(f"points of shape {points.shape}: expected finite numbers, (n, {dim})")
        return points.T
    path = Path(given)
    if suffix_of(path, POINT_SUFFIXES, "point table") == MARKUPS:
        return read_markups(path, dim).points
    return read_points(path, dim).points

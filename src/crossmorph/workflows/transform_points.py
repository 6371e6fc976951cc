"""Points through transforms: tables of ANTs and of Slicer.

Points move opposite to images. A transform that moves an image from the moving space to the fixed one takes points of
the fixed space to the moving one, because it says of every point of the fixed grid where to look in the moving image.
So does ``antsApplyTransformsToPoints``; landmarks found on the moving image go to the fixed image by the inverse.

The tables are those of :mod:`crossmorph.workflows.point_tables`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.functional.interpolation import inside
from crossmorph.system.files import suffix_of
from crossmorph.transforms.composition import Step, dim_of, move_points
from crossmorph.transforms.warp import Warp, transform_points
from crossmorph.workflows.point_tables import MARKUPS, POINT_SUFFIXES, read_points, write_points
from crossmorph.workflows.slicer_markups import read_markups, write_markups
from crossmorph.workflows.transform_files import check_targets, read_steps


def points_file(transforms: Sequence[Path], source: Path, target: Path, inverse: bool = False) -> list[str]:
    """Take a table of points through transforms; other columns and the order of the rows are kept.

    Args:
        transforms: files, in the order in which points go through them, as of ``antsApplyTransformsToPoints -t``.
        source: table of points of the fixed space, or of the moving space if ``inverse``.
        target: table to write, in the format of the source.
        inverse: from the moving space to the fixed one.

    Returns:
        Sentences of caution: points beyond the warp's grid.

    Raises:
        InputError: a file that cannot be used or written, a table without points, without columns of coordinates or
            with cells that are not finite numbers, or an inverse that cannot be found.
    """
    check_targets([*transforms, source], [target])
    suffix = suffix_of(source, POINT_SUFFIXES, "point table")
    if suffix != suffix_of(target, POINT_SUFFIXES, "point table"):
        raise InputError(f"{target}: expected a name that ends as {source.name} does")
    steps = read_steps(transforms, inverse=inverse)
    if suffix == MARKUPS:
        markups = read_markups(source, dim_of(steps[0]))
        write_markups(target, markups, move_points(steps, markups.points))
        return _beyond(steps[0], markups.points, source)
    table = read_points(source, dim_of(steps[0]))
    write_points(target, table, move_points(steps, table.points))
    return _beyond(steps[0], table.points, source)


def _beyond(first: Step, points: Float64[ndarray, "dim count"], source: Path) -> list[str]:
    """A caution where points lie beyond a warp's grid."""
    if not isinstance(first, Warp):
        return []
    within = inside(transform_points(np.linalg.inv(first.affine), points), first.shape)
    beyond = int((~within).sum())
    held = "where the displacement at its edge is held (ITK's is none)"
    return [f"{source}: {beyond} of {within.size} points lie beyond the warp's grid, {held}"] if beyond else []

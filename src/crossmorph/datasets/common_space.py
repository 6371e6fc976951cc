"""The common space of all people: an affine map for each that takes the centres of structures to those of an average.

The average is of 81 adults (11 whole heads and 70 brains, see docs/people.md), upright, right, anterior and superior in
millimetres, near to MNI space but of the size that heads have on average (MNI's template is larger). Structures of the
two sides mirror each other.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from crossmorph.errors import InputError

# Centres of structures, mm; of those with two sides the right one.
_BOTH_SIDES = {
    "white matter": (26.4, -16.8, 15.8),
    "cortex": (30.0, -17.2, 12.7),
    "lateral ventricle": (12.8, -14.5, 12.5),
    "cerebellar white matter": (17.1, -49.7, -30.1),
    "cerebellar cortex": (23.7, -59.0, -32.3),
    "thalamus": (11.1, -17.4, 5.1),
    "caudate": (12.7, 9.3, 8.7),
    "putamen": (23.8, 1.7, 0.1),
    "pallidum": (18.8, -2.6, -1.2),
    "hippocampus": (24.2, -20.6, -11.6),
    "amygdala": (20.5, -4.0, -16.6),
}
_MIDLINE = {
    "brain stem": (0.0, -28.7, -28.6),
    "third ventricle": (0.0, -9.2, -2.8),
    "fourth ventricle": (0.0, -42.1, -28.7),
}
CENTRES: dict[str, tuple[float, float, float]] = {
    **_MIDLINE,
    **{f"right {name}": centre for name, centre in _BOTH_SIDES.items()},
    **{f"left {name}": (-x, y, z) for name, (x, y, z) in _BOTH_SIDES.items()},
}

# Of grey and white matter together: centre and standard deviation along each axis, mm.
BRAIN_CENTRE = (0.0, -21.5, 7.2)
BRAIN_SPREAD = (30.7, 38.2, 26.4)

ENOUGH = 8  # structures with a known centre, of both sides, for an affine map of twelve numbers
SIZES = (0.7, 1.5)  # a head of a child to one larger than any, relative to the average, along any axis


class Spread(NamedTuple):
    """Centre and standard deviation along each axis of grey and white matter, RAS mm."""

    centre: Float[ndarray, "3"]
    deviation: Float[ndarray, "3"]


def to_common(centres: Mapping[str, Float[ndarray, "3"]], brain: Spread) -> Float[ndarray, "4 4"]:
    """A person's RAS millimetres to those of the common space.

    Args:
        centres: of the person's structures, mm.
        brain: of grey and white matter.

    Returns:
        The affine map that is nearest in the least-squares sense, where enough structures are known; else shift and
        size along each axis, which keep the person's own orientation.

    Raises:
        InputError: left and right are exchanged, or the head is far smaller or larger than any.
    """
    known = [name for name in CENTRES if name in centres]
    sides = {name.split()[0] for name in known}
    if len(known) >= ENOUGH and {"left", "right"} <= sides:
        own = np.stack([centres[name] for name in known])
        common = np.array([CENTRES[name] for name in known])
        solution, *_ = np.linalg.lstsq(np.column_stack([own, np.ones(len(own))]), common, rcond=None)
        matrix = np.vstack([solution.T, [0, 0, 0, 1]])
    else:
        matrix = np.diag([*np.divide(BRAIN_SPREAD, brain.deviation), 1.0])
        matrix[:3, 3] = BRAIN_CENTRE - matrix[:3, :3] @ brain.centre
    if np.linalg.det(matrix) < 0:
        raise InputError("left and right are exchanged; expected left structures on the left of the header's axes")
    sizes = 1 / np.linalg.svd(matrix[:3, :3], compute_uv=False)
    if sizes.min() < SIZES[0] or sizes.max() > SIZES[1]:
        raise InputError(
            f"its size is {sizes.min():.2f} to {sizes.max():.2f} of an average head's; "
            f"expected {SIZES[0]} to {SIZES[1]}: is this a head, and its voxel size right?"
        )
    return matrix

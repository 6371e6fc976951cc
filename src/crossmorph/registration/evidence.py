"""What a registration is given beside its two images: further images of each side, and points that correspond."""

from typing import NamedTuple

from jaxtyping import Float
from numpy import ndarray

from crossmorph.images.image import Image


class Points(NamedTuple):
    """Points that correspond, ``(dim, n)`` in RAS millimetres: each of the fixed image, and where it is in the other.

    ``accuracy`` is how well they do, millimetres: the field leads each point to within it.
    """

    fixed: Float[ndarray, "dim n"]
    moving: Float[ndarray, "dim n"]
    accuracy: float


class Evidence(NamedTuple):
    """What is given beside the two images.

    Attributes:
        others: further images of each side, moving and fixed, in the spaces of the two: of other contrasts, say.
        points: that correspond, or None.
    """

    others: tuple[tuple[Image, Image], ...] = ()
    points: Points | None = None


NOTHING = Evidence()

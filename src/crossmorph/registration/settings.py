"""How a pair is registered: the settings that a user chooses."""

import math
from typing import Any, Literal, NamedTuple, get_args

from jaxtyping import Float
from numpy import ndarray

from crossmorph.errors import InputError

# One of NAMED_INITS, or a map from fixed to moving space, RAS millimetres: a matrix, or
# steps (crossmorph.transforms.composition) of which one is a warp.
Init = str | Float[ndarray, "n n"] | tuple[Any, ...]
NAMED_INITS = ("affine", "centers", "none")
# What a linear map may change, see crossmorph.registration.affine_search.generators.
Freedom = Literal["rigid", "similarity", "affine"]
LINEAR_STAGES: tuple[Freedom, ...] = get_args(Freedom)
REGISTRATION_STAGES = (*LINEAR_STAGES, "deformable")
IGNORE = ("none", "auto")
Refine = str | float  # auto, on, off or seconds, see `refinement_seconds`


class Settings(NamedTuple):
    """How a pair is registered.

    Attributes:
        init: see :func:`crossmorph.registration.initialization.initial_affines`; of two initial affines, the one from
            which the coarse network reaches more mutual information is used. From a warp, see
            :mod:`crossmorph.registration.continuation`.
        smoothness: of the field, 0 (detailed) to 1 (stiff), for models that were trained for it; None is their default.
        refine: instance optimisation after the networks: ``on`` until it stops gaining, seconds to spend on it at most,
            ``off``, or ``auto``: ``on`` for volumes, where it adds 8 to 13 points of Dice on people, ``off`` for
            slices.
        refine_steps: how many steps it may take at most; with the steps that one limited by time took, and ``on``, it
            is repeated to the bit.
        stage: the last one: ``rigid``, ``similarity`` or ``affine``, for which no network is used
            (:mod:`crossmorph.registration.linear`), or ``deformable``.
        ignore: ``auto`` registers twice, the second time without the evidence of what the images show differently after
            the first (:mod:`crossmorph.registration.disagreement`); ``none``.
        points_accuracy: millimetres to within which corresponding points lie, where there are any.
    """

    init: Init = "affine"
    smoothness: float | None = None
    refine: Refine = "auto"
    refine_steps: int | None = None
    stage: str = "deformable"
    ignore: str = "none"
    points_accuracy: float = 2.0

    @property
    def freedom(self) -> Freedom | None:
        """The linear stage that the registration ends with, None where it is deformable."""
        return next((stage for stage in LINEAR_STAGES if stage == self.stage), None)


DEFAULTS = Settings()


def refinement_seconds(wanted: Refine, dim: int) -> float:
    """The wall time that instance optimisation may take: 0 for none, infinite until it stops gaining.

    Raises:
        InputError: neither one of the words nor seconds above 0.
    """
    words = {"auto": math.inf if dim == 3 else 0.0, "on": math.inf, "off": 0.0}
    if isinstance(wanted, str) and wanted in words:
        return words[wanted]
    if isinstance(wanted, bool) or not isinstance(wanted, int | float) or not 0 < wanted < math.inf:
        raise InputError(f"refine {wanted!r}: expected auto, on, off or seconds above 0")
    return float(wanted)

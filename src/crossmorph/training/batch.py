"""What a training iteration is given, wherever it comes from."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Samples(NamedTuple):
    """A batch: what the networks see, and what the objectives compare in its place.

    Attributes:
        moving: images in [0, 1].
        fixed: images in [0, 1].
        moving_truth: the moving anatomy as the objectives see it; the image itself where nothing better is known.
        fixed_truth: the fixed anatomy.
    """

    moving: Float[Tensor, "batch 1 *space"]
    fixed: Float[Tensor, "batch 1 *space"]
    moving_truth: Float[Tensor, "batch channels *space"]
    fixed_truth: Float[Tensor, "batch channels *space"]

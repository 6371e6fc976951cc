"""Pairs of images in memory, on the training grid, and the stream of training batches drawn from them."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossmorph.training.augmentation import AugmentSpec, augment, draw
from crossmorph.training.batch import Samples


class Dataset(NamedTuple):
    """Images of a list of pairs on one grid.

    Attributes:
        moving: distinct moving images, ``(images, 1, *space)``, in [0, 1].
        fixed: distinct fixed images.
        pairs: indices into both, one row a pair.
        moving_labels: label maps of the moving images, or None where any is missing.
        fixed_labels: label maps of the fixed images, or None.
    """

    moving: Float[Tensor, "moving_images 1 *space"]
    fixed: Float[Tensor, "fixed_images 1 *space"]
    pairs: Int[Tensor, "pairs 2"]
    moving_labels: Int[Tensor, "moving_images 1 *space"] | None
    fixed_labels: Int[Tensor, "fixed_images 1 *space"] | None


@lru_cache(maxsize=2)
def _order(seed: int, stage: int, epoch: int, length: int) -> np.ndarray:
    """The order of the pairs in one epoch; the last two are kept, since a batch may straddle their border."""
    return np.random.default_rng([seed, stage, 0, epoch]).permutation(length)


def batch(data: Dataset, spec: AugmentSpec, seed: int, stage: int, first: int, count: int) -> Samples:
    """Samples ``first`` to ``first + count - 1`` of the endless, shuffled, augmented stream of one stage.

    A sample depends on ``(seed, stage, its number)`` alone: not on its batch, nor on the process that draws it, nor on
    interruptions of the run.
    """
    length = len(data.pairs)
    samples = []
    for number in range(first, first + count):
        epoch, position = divmod(number, length)
        moving, fixed = data.pairs[_order(seed, stage, epoch, length)[position]]
        parameters = draw(spec, np.random.default_rng([seed, stage, 1, number]))
        samples.append(augment(data.moving[moving], data.fixed[fixed], parameters))
    images = [torch.stack([sample[role] for sample in samples]) for role in (0, 1)]
    return Samples(*images, *images)

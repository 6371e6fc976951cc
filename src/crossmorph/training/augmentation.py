"""Augmentation of training pairs: left-right flips and changes of contrast."""

import numpy as np
import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class AugmentSpec(BaseModel):
    """Range of the augmentation.

    ``flip``: mirror both images along the first axis in half of the pairs. ``gamma``: raise each image to a
    power drawn log-uniformly from ``exp(+-gamma)``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    flip: bool = False
    gamma: float = Field(default=0.0, ge=0, le=2)


class Augmentation(BaseModel):
    """Parameters of one pair, drawn at random."""

    flip: bool
    moving_gamma: float
    fixed_gamma: float


def draw(spec: AugmentSpec, rng: np.random.Generator) -> Augmentation:
    """Draw the parameters of one pair; the same generator state gives the same parameters."""
    moving_gamma, fixed_gamma = np.exp(rng.uniform(-spec.gamma, spec.gamma, size=2))
    return Augmentation(flip=spec.flip and rng.random() < 0.5, moving_gamma=moving_gamma, fixed_gamma=fixed_gamma)


def augment(
    moving: Float[Tensor, "1 *space"], fixed: Float[Tensor, "1 *space"], parameters: Augmentation
) -> tuple[Float[Tensor, "1 *space"], Float[Tensor, "1 *space"]]:
    """Apply the parameters to one pair of images in [0, 1]."""
    moving, fixed = moving**parameters.moving_gamma, fixed**parameters.fixed_gamma
    if parameters.flip:
        moving, fixed = torch.flip(moving, [1]), torch.flip(fixed, [1])
    return moving, fixed

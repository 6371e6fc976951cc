"""Regularization terms of displacement fields, one number a pair."""

import torch
from jaxtyping import Float
from torch import Tensor


def bending_energy(displacement: Float[Tensor, "batch dim *space"]) -> Float[Tensor, " batch"]:
    """``sum_ij |d2 u / di dj|^2`` by second differences, summed over the grid and divided by its voxels.

    0 for every affine field (Rueckert et al., IEEE TMI 1999, doi:10.1109/42.796284).
    """
    energy = displacement.new_zeros(len(displacement))
    for axis in range(2, displacement.ndim):
        slope = displacement.diff(dim=axis)
        for other in range(axis, displacement.ndim):
            curvature = slope.diff(dim=other).flatten(1)
            energy = energy + (1 if other == axis else 2) * (curvature * curvature).sum(1)
    return energy / displacement[0, 0].numel()


def smoothness(displacement: Float[Tensor, "batch dim *space"]) -> Float[Tensor, " batch"]:
    """Mean over voxels of ``sum_{k,j} (u_k(p + e_j) - u_k(p))^2``, forward differences, in voxels squared.

    A mean, not a sum, so that the effect of a weight does not depend on the size of the image.
    """
    axes = range(2, displacement.ndim)
    differences = [displacement.diff(dim=axis).square().sum(1).flatten(1).mean(1) for axis in axes]
    return torch.stack(differences).sum(0)

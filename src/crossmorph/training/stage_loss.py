"""The objective of one stage of training as a module: from a batch of pairs to the weighted terms of the loss."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from crossmorph.functional import spatial
from crossmorph.functional.similarity import Similarity
from crossmorph.networks.affine import affine_displacement, same_place
from crossmorph.networks.hierarchy import Hierarchy, Stage, chain
from crossmorph.training.batch import Samples
from crossmorph.training.losses import (
    Terms,
    Weights,
    affine_terms,
    balance,
    coarse_terms,
    fine_terms,
    translation_terms,
)


class Batch(NamedTuple):
    """Pairs, and for each the requested smoothness (0 to 1) and whether the initial affine is applied (0 or 1)."""

    samples: Samples
    smoothness: Tensor
    aligned: Tensor


class StageLoss(nn.Module):
    """The objective of one stage as a module, so that Fabric can distribute it over processes."""

    def __init__(
        self, hierarchy: Hierarchy, stage: Stage, similarity: Similarity, compare: Similarity, weights: Weights
    ) -> None:
        super().__init__()
        self.hierarchy = hierarchy
        self.stage = stage
        self.similarity = similarity  # of images
        self.compare = compare  # of the images' ground truths, see Samples
        self.weights = weights

    def forward(self, shown: Batch) -> Terms:
        """The stage's weighted terms; their sum is the loss."""
        hierarchy, compare, weights = self.hierarchy, self.compare, self.weights
        samples, smoothness, aligned = shown
        moving, fixed, moving_truth, fixed_truth = samples
        if self.stage == "affine":
            assert hierarchy.affine is not None
            affines = hierarchy.affine(moving, fixed, same_place(fixed))
            return affine_terms(moving_truth, fixed_truth, affines, hierarchy.affine.spec.canvas, compare)
        if hierarchy.affine is not None:
            # The later networks are given images that are aligned as in registration.
            initial = initial_displacement(hierarchy, moving, fixed)
            initial = initial * aligned.view(-1, *[1] * (initial.ndim - 1))
            moving, moving_truth = (spatial.warp(image, initial, outside="zero") for image in (moving, moving_truth))
            samples = Samples(moving, fixed, moving_truth, fixed_truth)
        balanced = balance(smoothness, hierarchy.spec.smoothness_range)
        coarse = hierarchy.register_coarse(moving, fixed, smoothness)
        if self.stage == "coarse":
            return coarse_terms(moving_truth, fixed_truth, coarse, compare, weights, balanced)
        mask = hierarchy.translate(moving, fixed, coarse)
        if self.stage == "translation":
            return translation_terms(moving, fixed, coarse, mask, self.similarity, weights)
        fine = hierarchy.register_fine(moving, fixed, moving + mask, coarse, smoothness)
        return fine_terms(samples, moving + mask, fine, chain(coarse, fine), compare, weights, balanced)


@torch.no_grad()
def initial_displacement(hierarchy: Hierarchy, moving: Tensor, fixed: Tensor) -> Tensor:
    """The affine that the affine network estimates, as a displacement of images on one grid."""
    return affine_displacement(hierarchy.register_affine(moving, fixed, same_place(fixed)), moving)

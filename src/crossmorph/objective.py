"""The objectives of the three stages (Eq. 1-3), each as named terms whose weighted sum is minimised."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from crossmorph import spatial
from crossmorph.hierarchy import Flow
from crossmorph.similarity import Similarity, mse


class Weights(BaseModel):
    """Weights of the terms; the defaults are the paper's (alpha_i, beta_i, lambda_i of Eq. i)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    coarse_smoothness: float = Field(default=0.02, ge=0)
    coarse_similarity: float = Field(default=0.15, ge=0)
    translation_mask: float = Field(default=0.02, ge=0)
    translation_similarity: float = Field(default=0.02, ge=0)
    translation_error: float = Field(default=2.5, ge=0)
    fine_smoothness: float = Field(default=0.02, ge=0)
    fine_similarity: float = Field(default=0.10, ge=0)
    fine_error: float = Field(default=1.5, ge=0)


class CoarseTerms(NamedTuple):
    """Eq. 1, weighted, to be added: smoothness, minus similarity forward and backward."""

    smoothness: Tensor
    forward: Tensor
    backward: Tensor


class TranslationTerms(NamedTuple):
    """Eq. 2, weighted, to be added: minus similarity of mask and translation to M, squared error to F."""

    mask: Tensor
    structure: Tensor
    error: Tensor


class FineTerms(NamedTuple):
    """Eq. 3, weighted, to be added: smoothness, minus similarity, squared error of the translation to F."""

    smoothness: Tensor
    similarity: Tensor
    error: Tensor


Terms = CoarseTerms | TranslationTerms | FineTerms


def smoothness(displacement: Float[Tensor, "batch dim *space"]) -> Float[Tensor, ""]:
    """Mean over voxels of ``sum_{k,j} (u_k(p + e_j) - u_k(p))^2``, forward differences, in voxels squared.

    A mean, not a sum, so that a weight means the same at any size of image.
    """
    differences = [displacement.diff(dim=axis).square().sum(1).mean() for axis in range(2, displacement.ndim)]
    return torch.stack(differences).sum()


def stretch(image: Float[Tensor, "batch 1 *space"]) -> Float[Tensor, "batch 1 *space"]:
    """Each image to [0, 1] by its own smallest and largest value, which pass no gradient.

    The mask takes either sign (CSF is bright in T2w and dark in T1w); clamping it would stop its gradient.
    """
    flat = image.detach().flatten(1)
    low, high = (bound.view(-1, *[1] * (image.ndim - 1)) for bound in (flat.amin(1), flat.amax(1)))
    return (image - low) / (high - low).clamp_min(1e-6)


def coarse_terms(moving: Tensor, fixed: Tensor, coarse: Flow, similarity: Similarity, weights: Weights) -> CoarseTerms:
    """``a1 smooth(phi0) - b1 sim(M o phi0, F) - b1 sim(F o phi0^-1, M)``."""
    forward = similarity(spatial.warp(moving, coarse.displacement), fixed).mean()
    backward = similarity(spatial.warp(fixed, coarse.inverse), moving).mean()
    return CoarseTerms(
        weights.coarse_smoothness * smoothness(coarse.displacement),
        -weights.coarse_similarity * forward,
        -weights.coarse_similarity * backward,
    )


def translation_terms(
    moving: Tensor, fixed: Tensor, coarse: Flow, mask: Tensor, similarity: Similarity, weights: Weights
) -> TranslationTerms:
    """``-a2 sim(Mask, M) - b2 sim(T, M) + l2 MSE(T o phi0, F)`` with ``T = M + Mask``."""
    translated = moving + mask
    return TranslationTerms(
        -weights.translation_mask * similarity(stretch(mask), moving).mean(),
        -weights.translation_similarity * similarity(translated, moving).mean(),
        weights.translation_error * mse(spatial.warp(translated, coarse.displacement), fixed).mean(),
    )


def fine_terms(
    moving: Tensor, fixed: Tensor, translated: Tensor, fine: Flow, final: Flow, similarity: Similarity, weights: Weights
) -> FineTerms:
    """``a3 smooth(phi1) - b3 sim(M o phi, F) + l3 MSE(T o phi, F)`` with ``phi = phi0 o phi1``."""
    moved, moved_translation = spatial.warp(torch.cat([moving, translated], dim=1), final.displacement).split(1, dim=1)
    return FineTerms(
        weights.fine_smoothness * smoothness(fine.displacement),
        -weights.fine_similarity * similarity(moved, fixed).mean(),
        weights.fine_error * mse(moved_translation, fixed).mean(),
    )

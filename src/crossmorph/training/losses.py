"""The objectives of the three stages (Eq. 1-3), each as named terms whose weighted sum is minimised."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from crossmorph.functional import spatial
from crossmorph.functional.regularization import smoothness
from crossmorph.functional.similarity import Similarity, mse
from crossmorph.networks.affine import Affine, move, same_place
from crossmorph.networks.hierarchy import Flow
from crossmorph.training.batch import Samples


class Weights(BaseModel):
    """Weights of the terms; the defaults are the paper's (alpha_i, beta_i, lambda_i of Eq. i).

    ``coarse_backward`` is that of the coarse stage's backward similarity; None, as in the paper, is as much as forward.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    coarse_smoothness: float = Field(default=0.02, ge=0)
    coarse_similarity: float = Field(default=0.15, ge=0)
    coarse_backward: float | None = Field(default=None, ge=0)
    translation_mask: float = Field(default=0.02, ge=0)
    translation_similarity: float = Field(default=0.02, ge=0)
    translation_error: float = Field(default=2.5, ge=0)
    fine_smoothness: float = Field(default=0.02, ge=0)
    fine_similarity: float = Field(default=0.10, ge=0)
    fine_error: float = Field(default=1.5, ge=0)


class AffineTerms(NamedTuple):
    """Of the affine network, which the paper lacks: minus similarity at its grid's and a quarter of that resolution."""

    similarity: Tensor
    distant: Tensor


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


Terms = AffineTerms | CoarseTerms | TranslationTerms | FineTerms


class Balance(NamedTuple):
    """Factors, for each pair, of the smoothness terms and of all other terms."""

    smoothness: Float[Tensor, " batch"]
    others: Float[Tensor, " batch"]


def balance(wanted: Float[Tensor, " batch"], between: tuple[float, float]) -> Balance:
    """Weights of smoothness against the other terms, in pairs of different requested smoothness.

    ``f = low^(1 - s) high^s`` multiplies the smoothness weight; then both sides are divided by ``(1 + f) / 2``, so that
    no pair dominates a batch (a convex combination, as in HyperMorph, Hoopes et al., IPMI 2021, arXiv
    2101.01035). At ``f = 1`` nothing changes.

    Args:
        wanted: ``s``, from 0 to 1.
        between: ``low`` and ``high``, the factors at either end.
    """
    factor = between[0] ** (1 - wanted) * between[1] ** wanted
    return Balance(2 * factor / (1 + factor), 2 / (1 + factor))


def stretch(image: Float[Tensor, "batch 1 *space"]) -> Float[Tensor, "batch 1 *space"]:
    """Each image to [0, 1] by its own smallest and largest value, which pass no gradient.

    The mask has either sign (CSF is bright in T2w and dark in T1w); clamping it would remove its gradient.
    """
    flat = image.detach().flatten(1)
    low, high = (bound.view(-1, *[1] * (image.ndim - 1)) for bound in (flat.amin(1), flat.amax(1)))
    return (image - low) / (high - low).clamp_min(1e-6)


def affine_terms(
    moving: Tensor, fixed: Tensor, affines: list[Affine], side: int, similarity: Similarity
) -> AffineTerms:
    """``-sim(M o A_k, F)``, the mean over iterations k, on a grid of ``side`` voxels and at a quarter of that.

    The lower resolution gives a gradient where the anatomies do not overlap yet.
    """
    shape = tuple(fixed.shape[2:])
    still = move(fixed, same_place(fixed), shape, side)
    near, far = [], []
    for affine in affines:
        moved = move(moving, affine, shape, side)
        near.append(similarity(moved, still).mean())
        far.append(similarity(_quartered(moved), _quartered(still)).mean())
    return AffineTerms(-torch.stack(near).mean(), -torch.stack(far).mean())


def _quartered(image: Tensor) -> Tensor:
    """The image at a quarter of its resolution, by averages."""
    for _ in range(2):
        image = spatial.resize_image(image, tuple(size // 2 for size in image.shape[2:]))
    return image


def coarse_terms(
    moving: Tensor,
    fixed: Tensor,
    coarse: Flow,
    similarity: Similarity,
    weights: Weights,
    balance: Balance,
) -> CoarseTerms:
    """``a1 smooth(phi0) - b1 sim(M o phi0, F) - b1 sim(F o phi0^-1, M)``, balanced as in :class:`Balance`."""
    stiff = weights.coarse_smoothness * (balance.smoothness * smoothness(coarse.displacement)).mean()
    forward = similarity(spatial.warp(moving, coarse.displacement), fixed)
    forward = -weights.coarse_similarity * (balance.others * forward).mean()
    weight = weights.coarse_similarity if weights.coarse_backward is None else weights.coarse_backward
    if weight == 0:
        return CoarseTerms(stiff, forward, torch.zeros_like(forward))
    backward = similarity(spatial.warp(fixed, coarse.inverse), moving)
    return CoarseTerms(stiff, forward, -weight * (balance.others * backward).mean())


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
    samples: Samples,
    translated: Tensor,
    fine: Flow,
    final: Flow,
    similarity: Similarity,
    weights: Weights,
    balance: Balance,
) -> FineTerms:
    """``a3 smooth(phi1) - b3 sim(M o phi, F) + l3 MSE(T o phi, F)`` with ``phi = phi0 o phi1``, balanced as above."""
    both = torch.cat([samples.moving_truth, translated], dim=1)
    channels = samples.moving_truth.shape[1]
    moved, moved_translation = spatial.warp(both, final.displacement).split([channels, 1], dim=1)
    return FineTerms(
        weights.fine_smoothness * (balance.smoothness * smoothness(fine.displacement)).mean(),
        -weights.fine_similarity * (balance.others * similarity(moved, samples.fixed_truth)).mean(),
        weights.fine_error * (balance.others * mse(moved_translation, samples.fixed)).mean(),
    )

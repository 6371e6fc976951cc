"""Masks: they are laid on the images by place, what they leave out is no evidence, and what is ignored is filled."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from crossmorph.errors import InputError
from crossmorph.images.image import Image, fill, scale_intensity
from crossmorph.networks.affine import Affine
from crossmorph.registration.affine_search import View, search_affine
from crossmorph.registration.linear import register_linear
from crossmorph.registration.masks import with_masks
from crossmorph.registration.pair_similarity import Pair, pair_similarity
from crossmorph.transforms.grid import Grid, evidence_on

SPACED = np.diag([2.0, 3.0, 1.0])
FAR = np.array([[2.0, 0, 900], [0, 3, 0], [0, 0, 1]])


def blobs(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    data = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 3.0)
    return ((data - data.min()) / (data.max() - data.min())).astype(np.float32)


def image(data: np.ndarray) -> Image:
    return Image(data, SPACED)


def test_a_mask_of_another_grid_is_laid_by_its_place() -> None:
    fine = np.diag([1.0, 1.5, 1.0])
    fine[:2, 2] = -0.5, -0.75  # the same field of view
    mask = np.zeros((40, 40), np.uint8)
    mask[10:24, 10:40] = 7
    found = with_masks(image(blobs((20, 20))), "fixed", Image(mask, fine), None)
    expected = np.zeros((20, 20), bool)
    expected[5:12, 5:20] = True
    assert np.array_equal(found.mask, expected)
    assert found.ignored is None
    assert np.array_equal(found.evidence, expected)


def test_what_is_ignored_is_no_evidence_within_the_mask() -> None:
    look, ignored = np.zeros((2, 20, 20), np.uint8)
    look[:12], ignored[10:] = 1, 1
    found = with_masks(image(blobs((20, 20))), "moving", image(look), image(ignored))
    assert np.array_equal(np.flatnonzero(found.evidence.any(1)), range(10))
    there = evidence_on(found, Grid(SPACED, (25, 20)))
    assert np.array_equal(np.flatnonzero(there.any(1)), range(10))


@pytest.mark.parametrize(
    ("mask", "ignored", "message"),
    [
        (Image(np.ones((4, 4, 4), np.uint8), np.eye(4)), None, "fixed mask is 3-D.*expected 2-D"),
        (Image(np.zeros((20, 20), np.uint8), SPACED), None, "marks no voxel"),
        (Image(np.ones((20, 20), np.uint8), FAR), None, "own space"),
        (None, Image(np.ones((20, 20), np.uint8), SPACED), "leave 0 of 400 voxels of the fixed image"),
    ],
)
def test_masks_that_say_nothing_are_refused(mask: Image | None, ignored: Image | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_masks(image(blobs((20, 20))), "fixed", mask, ignored)


def test_a_hole_is_filled_from_around_and_nothing_else_changes() -> None:
    """A ramp along one axis is its own best fill, to what smoothing and the nearest voxels leave."""
    ramp = np.broadcast_to(np.linspace(0, 1, 40, dtype=np.float32)[:, None], (40, 40)).copy()
    hole = np.zeros((40, 40), bool)
    hole[15:25, 15:25] = True
    spoilt = np.where(hole, 50.0, ramp).astype(np.float32)
    filled = fill(spoilt, hole, (2.0, 2.0))
    assert np.array_equal(filled[~hole], ramp[~hole])
    assert np.abs(filled - ramp)[hole].max() < 0.15
    assert np.array_equal(fill(spoilt, np.zeros_like(hole), (2.0, 2.0)), spoilt)


def test_what_is_ignored_has_no_part_in_the_scale() -> None:
    data = blobs((30, 30))
    hole = np.zeros((30, 30), bool)
    hole[5:15, 5:15] = True
    spoilt = replace(image(np.where(hole, 1000.0, data).astype(np.float32)), ignored=hole)
    expected = scale_intensity(data[~hole])
    assert np.allclose(spoilt.scaled().data[~hole], np.clip(expected.data, 0, 1), atol=1e-6)
    assert spoilt.scaled(filled=False).data[hole].min() == 1.0
    assert spoilt.scaled().data[hole].max() < 1.0


def test_mutual_information_is_of_the_masks_alone() -> None:
    """Noise in half of one image changes nothing once that half is ignored."""
    shown = blobs((40, 40))
    noise = shown.copy()
    noise[20:] = np.random.default_rng(1).random((20, 40))
    left = np.zeros((40, 40), bool)
    left[:20] = True

    def information(data: np.ndarray, seen: np.ndarray) -> float:
        tensors = [torch.from_numpy(each)[None, None] for each in (data, shown, seen.astype(np.float32), seen)]
        return pair_similarity(Pair(*tensors)).information

    whole = np.ones((40, 40), bool)
    assert information(noise, left) == information(shown, left)
    assert information(noise, whole) < 0.8 * information(shown, whole)


def spoilt_pair() -> tuple[Image, Image, np.ndarray]:
    """An image, the same shifted by 6 mm but for a large block of something else that lies still, and the block."""
    data = np.pad(blobs((34, 34), 3), 7)
    shifted = np.roll(data, 3, axis=0)
    block = np.zeros(data.shape, bool)
    block[8:40, 4:32] = True
    moving, fixed = data.copy(), shifted.copy()
    moving[block] = fixed[block] = blobs(data.shape, 9)[block]
    affine = np.diag([2.0, 2.0, 1.0])
    return Image(moving, affine), Image(fixed, affine), block


def test_a_rigid_map_follows_what_the_masks_leave() -> None:
    moving, fixed, block = spoilt_pair()
    plain = register_linear(moving, fixed, "rigid", "none").matrix
    masked = register_linear(replace(moving, ignored=block), replace(fixed, ignored=block), "rigid", "none").matrix
    assert np.allclose(masked[:2, 2], [-6.0, 0.0], atol=0.4)
    assert np.linalg.norm(plain[:2, 2] - [-6.0, 0.0]) > 2


def test_the_search_looks_into_the_masks_alone() -> None:
    moving, fixed, block = spoilt_pair()
    half = torch.full((2,), 24.0)
    views = [torch.from_numpy(each.scaled().data)[None, None] for each in (moving, fixed)]
    mask = torch.from_numpy(~block)[None, None].float()
    start = search_affine(View(views[0], half), View(views[1], half), _still(), freedom="rigid")
    found = search_affine(View(views[0], half, mask), View(views[1], half, mask), _still(), freedom="rigid")
    truth = torch.tensor([-3.0, 0.0])
    assert (found.shift[0] - truth).norm() < 1.0 < (start.shift[0] - truth).norm()


def _still() -> Affine:
    return Affine(torch.eye(2)[None], torch.zeros(1, 2))

"""Similarity where both images show something, by hand and by properties."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from crossmorph.functional import spatial
from crossmorph.functional.similarity import mi
from crossmorph.images.image import Image
from crossmorph.registration.pair_similarity import Pair, is_cut, pair_similarity


def picture(seed: int = 0) -> Tensor:
    noise = torch.rand((1, 1, 48, 40), generator=torch.Generator().manual_seed(seed))
    smooth = spatial.bspline_smooth(noise, 3.0)
    return (smooth - smooth.min()) / (smooth.max() - smooth.min())


def pair(moving: Tensor, fixed: Tensor, moving_seen: Tensor | None = None) -> Pair:
    everywhere = torch.ones_like(fixed)
    return Pair(moving, fixed, everywhere if moving_seen is None else moving_seen, everywhere > 0)


def test_where_all_is_seen_it_is_mutual_information() -> None:
    one, other = picture(0), picture(1)
    assert pair_similarity(pair(one, other)).information == pytest.approx(float(mi(one, other)), rel=1e-5)


def test_half_a_field_of_view_counts_half() -> None:
    """Two equal halves: nothing is learnt of the half that is not seen, and the black there is not compared."""
    half = torch.cat([picture()[..., :20]] * 2, dim=3)
    seen = torch.zeros_like(half)
    seen[..., :20] = 1
    whole, left = pair_similarity(pair(half, half)), pair_similarity(pair(half * seen, half, seen))
    assert left.information == pytest.approx(whole.information / 2, rel=1e-4)
    assert left.correlation == pytest.approx(1, abs=0.01)
    assert left.shown


@pytest.mark.parametrize("step", [5, 15, 30])
def test_nothing_is_gained_by_moving_out_of_sight(step: int) -> None:
    image = picture()
    field = torch.zeros(1, 2, *image.shape[2:])
    field[:, 0] = step
    assert pair_similarity(pair(image, image), field).information < pair_similarity(pair(image, image)).information


def test_what_is_constant_where_both_are_seen_shows_nothing() -> None:
    image = picture()
    seen = torch.zeros_like(image)
    seen[..., 30:] = 1
    flat = torch.where(seen > 0, 0.5, image)
    assert not pair_similarity(pair(flat, image, seen)).shown
    assert not pair_similarity(pair(image, image, torch.zeros_like(image))).shown
    assert pair_similarity(pair(image, image)).shown


def test_the_mask_moves_with_the_image() -> None:
    """The field brings the seen half of the moving image over the fixed one's other half."""
    image = picture()
    seen = torch.zeros_like(image)
    seen[..., :20] = 1
    shifted = torch.roll(image, -20, dims=3)
    field = torch.zeros(1, 2, *image.shape[2:])
    field[:, 1] = -20  # fixed voxel p is compared with the moving voxel p - 20
    found = pair_similarity(pair(shifted * seen, image, seen), field)
    moved = float(mi(image[..., 20:], image[..., 20:]))
    assert found.information == pytest.approx(moved / 2, rel=1e-3)


def test_an_image_is_cut_where_it_shows_something_at_its_edge_or_has_a_mask() -> None:
    data = np.zeros((12, 12, 12), np.float32)
    data[4:8, 4:8, 4:8] = 1
    image = Image(data, np.eye(4))
    assert not is_cut(image)
    assert is_cut(replace(image, mask=data > 0))
    data = data.copy()
    data[5:8, 11, 5:8] = 0.4
    assert is_cut(Image(data, np.eye(4)))


def test_noise_in_air_at_the_edge_does_not_cut_an_image() -> None:
    """Rician noise of 5% has single voxels above .2 in air, and a mean of 5% sqrt(pi / 2) = .063."""
    generator = np.random.default_rng(0)
    data = np.hypot(*generator.normal(0, 0.05, (2, 60, 60, 60))).astype(np.float32)
    assert data[0].max() > 0.15
    assert not is_cut(Image(data, np.eye(4)))
    assert is_cut(Image(2 * data, np.eye(4)))

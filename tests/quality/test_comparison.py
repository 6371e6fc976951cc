"""Two transforms compared: signs, intervals and blocks, on maps made by hand."""

import numpy as np
import torch

from crossmorph.quality.comparison import BLOCK, Comparison, compare

SIDE = 64
HALF = torch.zeros(SIDE, SIDE, dtype=torch.bool)
HALF[: SIDE // 2] = True
ONES = torch.ones(SIDE, SIDE)


def noise(seed: int, blocky: bool) -> torch.Tensor:
    """Of standard deviation 1, alike within blocks or not."""
    rng = np.random.default_rng(seed)
    if not blocky:
        return torch.from_numpy(rng.standard_normal((SIDE, SIDE)))
    return torch.from_numpy(np.kron(rng.standard_normal((SIDE // BLOCK,) * 2), np.ones((BLOCK, BLOCK))))


def test_the_same_difference_everywhere_is_certain_and_has_a_sign() -> None:
    """By hand: 3 mm and 1 mm, but for the background, which does not count."""
    other = torch.where(HALF, 3 * ONES, 0)
    assert compare(ONES, other, HALF) == Comparison("first", 2.0, 2.0, 2.0)
    assert compare(other, ONES, HALF) == Comparison("other", -2.0, -2.0, -2.0)
    assert compare(ONES, ONES, HALF) == Comparison("neither", 0.0, 0.0, 0.0)


def test_what_differs_from_block_to_block_is_less_certain_than_what_differs_from_voxel_to_voxel() -> None:
    """By hand: the standard error of the mean of 32 blocks is 8 times that of 2048 voxels."""
    widths = {}
    for blocky in (True, False):
        found = [compare(ONES, ONES + noise(seed, blocky), HALF) for seed in range(20)]
        widths[blocky] = np.mean([each.high - each.low for each in found])
    assert 6 < widths[True] / widths[False] < 10
    np.testing.assert_allclose(widths[True], 2 * 1.96 / np.sqrt(32), rtol=0.15)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Without a true difference, one is claimed in 5% of the cases; by a bootstrap of 32 blocks in a few more."""
    claimed = [compare(ONES, ONES + noise(seed, True), HALF).better != "neither" for seed in range(100)]
    assert 0 < sum(claimed) <= 13


def test_the_same_maps_give_the_same_interval() -> None:
    other = ONES + noise(5, True)
    assert compare(ONES, other, HALF) == compare(ONES, other, HALF)

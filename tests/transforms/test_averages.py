"""Averages of transforms by arithmetic."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from crossmorph.transforms.averages import centring_affine, mean_warp
from crossmorph.transforms.warp import Warp


def random_affines(seed: int, count: int, dim: int = 3) -> list[np.ndarray]:
    """Maps with rotations of up to half a radian, scales, shears and shifts of tens of millimetres."""
    rng = np.random.default_rng(seed)
    maps = []
    for _ in range(count):
        log = np.zeros((dim + 1, dim + 1))
        log[:dim, :dim] = rng.uniform(-0.25, 0.25, (dim, dim))
        log[:dim, dim] = rng.uniform(-40, 40, dim)
        maps.append(linalg.expm(log))
    return maps


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 10**6), st.integers(2, 6), st.sampled_from([2, 3]))
def test_the_centred_maps_have_no_mean(seed: int, count: int, dim: int) -> None:
    maps = random_affines(seed, count, dim)
    middle = centring_affine(maps)
    logs = [linalg.logm(matrix @ middle) for matrix in maps]
    assert np.abs(np.mean(logs, axis=0)).max() < 1e-8
    volumes = [np.linalg.det((matrix @ middle)[:-1, :-1]) for matrix in maps]
    assert np.mean(np.log(volumes)) == pytest.approx(0, abs=1e-8)


def test_two_maps_meet_half_way() -> None:
    """A turn by 0.4 about an axis and the identity: the middle is a turn by 0.2."""
    log = np.zeros((4, 4))
    log[:2, :2] = [[0, -0.4], [0.4, 0]]
    middle = centring_affine([np.eye(4), linalg.expm(log)])
    np.testing.assert_allclose(middle, linalg.expm(-log / 2), atol=1e-12)


def test_the_middle_does_not_depend_on_the_reference() -> None:
    maps = random_affines(3, 5)
    other = [matrix @ np.linalg.inv(maps[2]) for matrix in maps]
    for one, two in zip(maps, other, strict=True):
        np.testing.assert_allclose(one @ centring_affine(maps), two @ centring_affine(other), atol=1e-8)


def test_the_mean_of_warps() -> None:
    warps = [Warp(np.full((2, 3, 4), value, np.float32), np.eye(3)) for value in (1, 2, 6)]
    mean = mean_warp(iter(warps))
    np.testing.assert_array_equal(mean.displacement, np.full((2, 3, 4), 3.0))
    with pytest.raises(ValueError, match="at least one"):
        mean_warp([])

"""Scores: hand arithmetic, MONAI as the reference, and what must hold for any input."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from crossmorph.functional.metrics import (
    dice,
    endpoint_error_mm,
    folds_percent,
    hd95_mm,
    mean_dice,
    min_jacobian,
    mse_percent,
    ncc,
    psnr,
    ssim,
)

SHAPES = pytest.mark.parametrize("shape", [(40, 34), (20, 18, 22)], ids=["2d", "3d"])
IN_2D = (40, 34)


def noise(shape: tuple[int, ...], seed: int, sigma: float = 2.0) -> np.ndarray:
    return ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)


def labels(shape: tuple[int, ...], seed: int) -> np.ndarray:
    values = noise(shape, seed)
    return np.digitize(values, np.quantile(values, [0.5, 0.7, 0.9])).astype(np.int32)


def image(shape: tuple[int, ...], seed: int) -> np.ndarray:
    values = noise(shape, seed)
    return ((values - values.min()) / np.ptp(values)).astype(np.float32)


def voxel(shape: tuple[int, ...], *where: int) -> np.ndarray:
    mask = np.zeros(shape, np.int32)
    mask[where] = 1
    return mask


# --- overlap ---------------------------------------------------------------------------------------------------------


def test_dice_by_hand() -> None:
    fixed = np.array([[1, 1, 1, 0], [2, 2, 0, 0]])
    moved = np.array([[1, 1, 0, 0], [2, 1, 3, 3]])
    assert dice(moved, fixed) == {1: 2 * 2 / (3 + 3), 2: 2 * 1 / (1 + 2)}
    assert mean_dice(moved, fixed) == pytest.approx(2 / 3)


def test_dice_of_maps_without_common_ground() -> None:
    nothing, something = np.zeros((3, 3), np.int32), np.full((3, 3), 4, np.int32)
    assert dice(nothing, something) == {4: 0.0}
    assert dice(something, nothing) == {}
    assert np.isnan(mean_dice(something, nothing))


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=10)
def test_dice_is_symmetric_and_perfect_for_equals(seed: int) -> None:
    one, other = labels(IN_2D, seed), labels(IN_2D, seed + 1)
    assert dice(one, other) == dice(other, one)
    assert dice(one, one) == {1: 1.0, 2: 1.0, 3: 1.0}


# --- surfaces --------------------------------------------------------------------------------------------------------


def test_hd95_between_two_voxels_is_their_distance_in_mm() -> None:
    spacing = (1.5, 2.0)
    distance = hd95_mm(voxel((9, 9), 1, 2), voxel((9, 9), 3, 6), spacing)
    assert distance == {1: pytest.approx(np.hypot(2 * 1.5, 4 * 2.0))}


def test_hd95_of_a_shifted_box_leaves_the_surfaces_that_coincide_out_of_the_tail() -> None:
    box = np.zeros((50, 50), np.int32)
    box[10:30, 10:30] = 1
    assert hd95_mm(np.roll(box, 7, axis=0), box, (2.0, 1.0)) == {1: pytest.approx(14.0)}
    outlier = box.copy()
    outlier[49, 49] = 1  # one voxel of 77 on the surface, beyond the 95th percentile
    assert hd95_mm(outlier, box, (2.0, 1.0)) == {1: pytest.approx(0.0)}


def test_hd95_of_a_label_that_was_lost_is_the_diagonal() -> None:
    fixed = voxel((30, 40), 3, 3)
    assert hd95_mm(np.zeros_like(fixed), fixed, (1.0, 1.0)) == {1: pytest.approx(50.0)}
    assert hd95_mm(fixed, np.zeros_like(fixed), (1.0, 1.0)) == {}


@SHAPES
def test_hd95_agrees_with_monai(shape: tuple[int, ...]) -> None:
    from monai.metrics import compute_hausdorff_distance

    spacing = (0.8, 1.5, 3.0)[: len(shape)]
    fixed = labels(shape, 0)
    moved = np.roll(np.where(noise(shape, 2) > 0, fixed, labels(shape, 1)), 2, axis=0)
    ours = hd95_mm(moved, fixed, spacing)
    one_hot = [
        torch.from_numpy(np.stack([array == label for label in ours])[None].astype(np.float32))
        for array in (moved, fixed)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 calls what it has itself deprecated
        theirs = compute_hausdorff_distance(*one_hot, include_background=True, percentile=95, spacing=list(spacing))
    np.testing.assert_allclose(list(ours.values()), theirs[0].numpy(), rtol=1e-5)
    assert min(ours.values()) > 0


# --- intensities -----------------------------------------------------------------------------------------------------


def test_mse_and_psnr_by_hand() -> None:
    reference = np.full((4, 5), 0.5, np.float32)
    picture = reference.copy()
    picture[0, 0] = 0.9
    assert mse_percent(picture, reference) == pytest.approx(100 * 0.4**2 / 20, rel=1e-5)
    assert psnr(reference + np.float32(0.1), reference) == pytest.approx(20.0, abs=1e-4)
    assert psnr(reference, reference) == np.inf


@SHAPES
def test_ssim_agrees_with_monai(shape: tuple[int, ...]) -> None:
    from monai.metrics import SSIMMetric

    one, other = image(shape, 0), np.clip(image(shape, 0) + 0.1 * noise(shape, 3, 0), 0, 1).astype(np.float32)
    metric = SSIMMetric(spatial_dims=len(shape), data_range=1.0)
    theirs = float(metric(*(torch.from_numpy(array)[None, None] for array in (one, other))))
    assert ssim(one, other) == pytest.approx(theirs, abs=1e-5)
    assert 0.2 < theirs < 0.95


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=10)
def test_ssim_is_symmetric_and_one_only_for_equals(seed: int) -> None:
    one, other = image(IN_2D, seed), image(IN_2D, seed + 1)
    assert ssim(one, other) == pytest.approx(ssim(other, one))
    assert ssim(one, other) < ssim(one, one) == pytest.approx(1.0)


def test_ssim_of_an_image_thinner_than_its_window_is_not_known() -> None:
    assert np.isnan(ssim(image((40, 10), 0), image((40, 10), 1)))


def test_ncc_sees_only_what_is_inside_and_any_linear_relation() -> None:
    one = image(IN_2D, 0)
    inside = np.zeros(IN_2D, bool)
    inside[5:30, 5:30] = True
    falling = np.where(inside, 0.9 - 0.5 * one, image(IN_2D, 1)).astype(np.float32)
    assert ncc(one, one, inside) == pytest.approx(1)
    assert ncc(one, falling, inside) == pytest.approx(-1, abs=1e-5)
    assert ncc(one, falling, np.ones(IN_2D, bool)) > -0.9
    assert ncc(one, image(IN_2D, 1), inside) == pytest.approx(
        np.corrcoef(one[inside], image(IN_2D, 1)[inside])[0, 1], abs=1e-6
    )


def test_ncc_of_a_constant_or_of_nothing_is_not_known() -> None:
    one = image(IN_2D, 0)
    assert np.isnan(ncc(one, np.ones_like(one), np.ones(IN_2D, bool)))
    assert np.isnan(ncc(one, one, np.zeros(IN_2D, bool)))


# --- fields ----------------------------------------------------------------------------------------------------------


@SHAPES
@pytest.mark.parametrize("factor", [1.0, 0.5, 1.2])
def test_min_jacobian_of_a_scaling(shape: tuple[int, ...], factor: float) -> None:
    displacement = (factor - 1) * np.indices(shape, np.float64)
    assert min_jacobian(displacement) == pytest.approx(factor ** len(shape))
    assert folds_percent(displacement) == 0


def test_folds_by_hand() -> None:
    # One point is pushed 1.5 voxels along x, past its neighbour: the two cells on that side fold, of 4 x 5.
    displacement = np.zeros((2, 5, 6))
    displacement[0, 2, 3] = 1.5
    assert folds_percent(displacement) == pytest.approx(100 * 2 / 20)
    # There the edge along x runs from 3.5 back to 3, and the edge along y adds nothing to it: 1 * (3 - 3.5).
    assert min_jacobian(displacement) == pytest.approx(-0.5)


def test_a_mirror_folds_everywhere() -> None:
    displacement = np.zeros((3, 4, 5, 6), np.float32)
    displacement[1] = -2 * np.indices((4, 5, 6))[1]
    assert folds_percent(displacement) == 100
    assert min_jacobian(displacement) == pytest.approx(-1)


def test_folding_of_a_grid_without_cells_is_not_known() -> None:
    displacement = np.zeros((2, 1, 6))
    assert np.isnan(folds_percent(displacement))
    assert np.isnan(min_jacobian(displacement))


def test_endpoint_error_is_the_mean_distance_in_the_foreground() -> None:
    truth = np.zeros((2, 4, 4))
    found = truth.copy()
    found[:, 0, 0] = 3.0, 4.0
    found[:, 3, 3] = 100.0, 100.0
    foreground = np.zeros((4, 4), bool)
    foreground[0, :2] = True
    assert endpoint_error_mm(found, truth, foreground) == pytest.approx(2.5)
    assert np.isnan(endpoint_error_mm(found, truth, np.zeros((4, 4), bool)))

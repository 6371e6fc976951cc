"""Simulated scans: signals by hand, noise and bias by their statistics, deformations and true fields by equations."""

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from crossmorph.errors import InputError
from crossmorph.simulation import deformation, mri

SHAPE = (128, 128)

# --- signal ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tissue", "t1", "t2", "pd"),
    # T1w of white matter: E1 = exp(-18/500) = 0.96464; 0.77 * 0.5 * 0.03536 / (1 - 0.96464 * 0.86603) * exp(-10/61).
    # T2w of CSF: (1 - 2 exp(-3222.5/2569) + 2 exp(-3282.5/2569) - exp(-3300/2569)) exp(-120/329) = 0.71005 * 0.69437.
    [("csf", 0.02098, 0.49304, 0.63840), ("gm", 0.05215, 0.19814, 0.55173), ("wm", 0.07020, 0.13843, 0.46623)],
)
def test_signal_by_hand(tissue: str, t1: float, t2: float, pd: float) -> None:
    signals = [mri.signal(mri.RELAXATION[tissue], modality) for modality in ("t1", "t2", "pd")]
    np.testing.assert_allclose(signals, [t1, t2, pd], atol=2e-5)


@pytest.mark.parametrize(
    ("tissue", "flair"),
    # Grey matter: 1 - 2 exp(-1700/833) + 2 exp(-8940/833) - exp(-9000/833) = 1 - 0.25986 + 0.00004 - 0.00002 = 0.74016;
    # times 0.86 exp(-120/83) = 0.86 * 0.23558. CSF: 1 - 1.03192 + 0.06163 - 0.03011 = -0.00040, times exp(-120/329).
    [("csf", 0.00027), ("gm", 0.14995), ("wm", 0.12942), ("fat", 0.17729)],
)
def test_flair_by_hand(tissue: str, flair: float) -> None:
    assert mri.signal(mri.RELAXATION[tissue], "flair") == pytest.approx(flair, abs=2e-5)


def test_fat_and_muscle_by_hand() -> None:
    """T1w of fat: 0.5 * 0.05013 / (1 - 0.94987 * 0.86603) exp(-10/58). T2w of muscle: 0.97094 exp(-120/47)."""
    fat, muscle = mri.RELAXATION["fat"], mri.RELAXATION["muscle"]
    assert mri.signal(fat, "t1") == pytest.approx(0.11891, abs=2e-5)
    assert mri.signal(muscle, "t2") == pytest.approx(0.97094 * 0.07784, abs=2e-5)


def test_contrasts_that_no_scanner_gives() -> None:
    """Inverted T1w mirrors the signals .2989, .7429, 1 about the middle of their range; no synthetic order is real."""
    np.testing.assert_allclose(mri.contrast_signals("inverted"), [1, 0.5560, 0.2989], atol=2e-4)
    real = {tuple(np.argsort(mri.contrast_signals(name))) for name in ("t1", "t2", "pd", "flair", "inverted")}
    unreal = {tuple(np.argsort(mri.contrast_signals(name))) for name in mri.SYNTHETIC}
    assert (len(real), len(unreal)) == (3, 3)
    assert not real & unreal
    assert all(max(signals) == 1 for signals in mri.SYNTHETIC.values())
    with pytest.raises(InputError, match="'inverted' of csf, gm, wm, fat, muscle; expected csf, gm, wm alone"):
        mri.contrast_signals("inverted", mri.HEAD_TISSUES)


@pytest.mark.parametrize(("modality", "order"), [("t1", "csf gm wm"), ("t2", "wm gm csf"), ("pd", "wm gm csf")])
def test_contrast(modality: mri.Modality, order: str) -> None:
    """Dark to bright. CSF is bright in T2w and dark in T1w, which is what makes the pair multi-modal."""
    assert sorted(mri.TISSUES, key=lambda tissue: mri.signal(mri.RELAXATION[tissue], modality)) == order.split()


def blocks(size: int = 120) -> np.ndarray:
    """Four bands of pure tissue along the first axis: background, CSF, grey and white matter."""
    return np.repeat(np.eye(4)[1:], size // 4, axis=1)[:, :, None] * np.ones((1, 1, size))


def test_simulation_without_noise_is_the_relative_signal() -> None:
    image = mri.simulate(blocks(), "t1", np.random.default_rng(0), deformation.Difficulty(noise=0.0, bias=0.0))
    np.testing.assert_allclose(image[15::30, 0], [0, 0.02098 / 0.07020, 0.05215 / 0.07020, 1], atol=1e-3)
    assert image.dtype == np.float32


@pytest.mark.parametrize(
    ("modality", "reference"), [("t1", 3), ("t2", 1), ("pd", 1), ("flair", 2), ("inverted", 1), ("synthetic-c", 3)]
)
def test_noise_is_rician_at_the_level_of_the_reference_tissue(modality: mri.Contrast, reference: int) -> None:
    """In air the magnitude of complex Gaussian noise has mean sigma sqrt(pi/2); in bright tissue it is Gaussian."""
    image = mri.simulate(blocks(), modality, np.random.default_rng(0), deformation.Difficulty(noise=0.03, bias=0.0))
    bands = image.reshape(4, -1)
    sigma = 0.03 * bands[reference].mean()
    assert bands[0].mean() == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=0.03)
    assert bands[3].std() == pytest.approx(sigma, rel=0.05)


def test_bias_field_spans_its_range_over_the_brain() -> None:
    """Pure white matter has the signal 1, so the image is the bias field itself."""
    fractions = np.zeros((3, 64, 64))
    fractions[2, 8:50, 20:60] = 1
    image = mri.simulate(fractions, "t1", np.random.default_rng(1), deformation.Difficulty(noise=0.0, bias=0.2))
    brain = image[8:50, 20:60]
    assert (brain.min(), brain.max()) == pytest.approx((0.9, 1.1))
    assert np.abs(np.diff(brain, axis=0)).max() < 0.02


def test_scale_and_bias_of_a_head_are_those_of_its_brain() -> None:
    """Fat lies beyond 1, as bright as its relaxation makes it; the bias field spans its range over the brain alone."""
    fractions = np.zeros((5, 64, 64))
    fractions[2, 16:40, 20:60] = 1
    fractions[3, 40:62, 20:60] = 1
    draw = [deformation.Difficulty(noise=0.0, bias=bias) for bias in (0.0, 0.2)]
    plain, biased = (mri.simulate(fractions, "t1", np.random.default_rng(1), one) for one in draw)
    assert plain[50, 30] == pytest.approx(0.11891 / 0.07020, rel=1e-3)
    brain = biased[16:40, 20:60]
    assert (brain.min(), brain.max()) == pytest.approx((0.9, 1.1))


# --- anatomy ---------------------------------------------------------------------------------------------------------


def test_warp_pulls_back() -> None:
    """A displacement of +3 along the first axis fetches the value three voxels on; beyond the edge is background."""
    fractions = scipy.ndimage.gaussian_filter(np.random.default_rng(0).random((3, 20, 24)), (0, 1, 1)) / 3
    u = np.zeros((2, 20, 24))
    np.testing.assert_allclose(deformation.warp_fractions(fractions, u), fractions, atol=1e-5)
    u[0] = 3
    warped = deformation.warp_fractions(fractions, u)
    np.testing.assert_allclose(warped[:, :-3], fractions[:, 3:], atol=1e-5)
    assert not warped[:, -3:].any()


def test_labels_are_the_largest_part() -> None:
    fractions = np.array([[0.1, 0.6, 0.1, 0.0], [0.2, 0.3, 0.5, 0.2], [0.1, 0.1, 0.3, 0.7]])
    assert mri.tissue_labels(fractions).tolist() == [0, 1, 2, 3]


# --- deformation -----------------------------------------------------------------------------------------------------


def test_shift_alone_is_constant_and_in_range() -> None:
    shifts = deformation.Difficulty(6.0, rotation=0.0, scale=0.0, elastic_amplitude=(0.0, 0.0))
    drawn = [deformation.random_deformation(np.random.default_rng(seed), (9, 7), shifts) for seed in range(50)]
    assert max(np.ptp(u, axis=(1, 2)).max() for u in drawn) < 1e-12
    assert 5 < max(np.abs(u).max() for u in drawn) <= 6


def test_rotation_alone_is_a_rotation_about_the_centre() -> None:
    turns = deformation.Difficulty(0.0, rotation=10.0, scale=0.0, elastic_amplitude=(0.0, 0.0))
    u = deformation.random_deformation(np.random.default_rng(0), (21, 21), turns)
    q = np.indices((21, 21)) + u - 10
    assert np.abs(u[:, 10, 10]).max() < 1e-12
    np.testing.assert_allclose(np.hypot(*q), np.hypot(*(np.indices((21, 21)) - 10)), atol=1e-12)
    assert 0.1 < abs(np.rad2deg(np.arctan2(q[1, 20, 10], q[0, 20, 10]))) <= 10


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32), rough=st.booleans())
def test_random_deformations_are_invertible_and_as_large_as_asked(seed: int, rough: bool) -> None:
    difficulty = deformation.ROUGH if rough else deformation.SMOOTH
    u = deformation.random_deformation(np.random.default_rng(seed), SHAPE, difficulty)
    cells = np.stack([np.diff(u, axis=1)[:, :, :-1], np.diff(u, axis=2)[:, :-1]], axis=1) + np.eye(2)[:, :, None, None]
    assert (cells[0, 0] * cells[1, 1] - cells[0, 1] * cells[1, 0]).min() > 0.2
    only_elastic = deformation.Difficulty(0.0, 0.0, 0.0, difficulty.elastic_sigma, difficulty.elastic_amplitude)
    elastic = deformation.random_deformation(np.random.default_rng(seed), SHAPE, only_elastic)
    low, high = difficulty.elastic_amplitude
    assert low - 1e-9 <= np.linalg.norm(elastic, axis=0).max() <= high + 1e-9


def test_foldings_are_drawn_again() -> None:
    """A fifth of these would fold, or nearly: the determinant of I + du/dp, by central differences, stays above 0.3."""
    strong = deformation.Difficulty(elastic_sigma=6.0, elastic_amplitude=(5.0, 5.0))
    for seed in range(12):
        (xx, xy), (yx, yy) = map(
            np.gradient, deformation.random_deformation(np.random.default_rng(seed), SHAPE, strong)
        )
        assert ((1 + xx) * (1 + yy) - xy * yx).min() > 0.3


def test_deformation_in_three_dimensions() -> None:
    shape = (24, 20, 16)
    u_moving, u_fixed = (
        deformation.random_deformation(
            np.random.default_rng(seed), shape, deformation.Difficulty(elastic_amplitude=(1.0, 2.0))
        )
        for seed in (0, 1)
    )
    assert u_moving.shape == (3, *shape)
    u = deformation.true_field(u_moving, u_fixed)
    q = np.indices(shape) + u
    inside = ((q > 4) & (q < np.array(shape).reshape(3, 1, 1, 1) - 5)).all(0)
    moved = q + np.stack([scipy.ndimage.map_coordinates(component, q, order=3) for component in u_moving])
    assert inside.sum() > 100
    assert np.linalg.norm(moved - np.indices(shape) - u_fixed, axis=0)[inside].max() < 1e-2


def affine_displacement(matrix: np.ndarray, shift: np.ndarray) -> np.ndarray:
    return np.asarray(np.tensordot(matrix, np.indices((32, 40)), axes=1) + shift[:, None, None])


def test_true_field_between_affine_deformations() -> None:
    """(I + A) q + a = (I + B) p + b, so q = (I + A)^-1 ((I + B) p + b - a)."""
    a, b = np.array([[0.1, -0.05], [0.02, 0.03]]), np.array([[-0.08, 0.1], [0.0, 0.06]])
    shift_a, shift_b = np.array([3.0, -2.0]), np.array([-1.0, 4.0])
    u = deformation.true_field(affine_displacement(a, shift_a), affine_displacement(b, shift_b))
    p = np.indices((32, 40)).reshape(2, -1)
    expected = np.linalg.solve(np.eye(2) + a, (np.eye(2) + b) @ p + (shift_b - shift_a)[:, None]) - p
    np.testing.assert_allclose(u.reshape(2, -1), expected, atol=1e-4)


def test_true_field_solves_its_equation_between_voxels() -> None:
    """A moving deformation known everywhere, not on its grid alone, is met to the 1e-3 voxel promised."""

    def moving(q: np.ndarray) -> np.ndarray:
        x, y = q
        return np.stack([4 * np.sin(y / 15) * np.cos(x / 20) + 0.05 * x + 2, 4 * np.cos(x / 17) - 0.08 * y])

    grid = np.indices(SHAPE).astype(float)
    u_fixed = deformation.random_deformation(np.random.default_rng(0), SHAPE)
    q = grid + deformation.true_field(moving(grid), u_fixed)
    inside = ((q > 5) & (q < 122)).all(0)
    error = np.linalg.norm(q + moving(q) - grid - u_fixed, axis=0)
    assert inside.mean() > 0.6
    assert error[inside].max() < 1e-3


def test_true_field_through_a_fold_is_refused() -> None:
    u = np.zeros((2, 32, 32))
    u[0] = 6 * np.sin(np.arange(32))[:, None]
    with pytest.raises(InputError, match="folds"):
        deformation.true_field(u, np.zeros_like(u))

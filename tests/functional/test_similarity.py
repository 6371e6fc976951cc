"""Similarities: two-by-two images by hand, NumPy and SciPy in other words, MONAI, bounds, gradients, equal bits."""

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import GlobalMutualInformationLoss
from scipy.interpolate import BSpline
from torch import Tensor

from crossmorph.functional import metrics, similarity
from crossmorph.functional.similarity import SIMILARITIES, Similarity

SHAPES = [(20, 24), (12, 10, 14)]
dimensions = pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
EVERY: dict[str, Similarity] = {**SIMILARITIES, "mse": similarity.mse}
every = pytest.mark.parametrize("name", EVERY)


def images(shape: tuple[int, ...], batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Smooth images in [0, 1] that share much of their structure, in other contrasts; float64."""
    noise = np.random.default_rng(seed).standard_normal((3, batch, 1, *shape))
    blobs = scipy.ndimage.gaussian_filter(noise, (0, 0, 0, *[1.5] * len(shape)))
    blobs /= np.abs(blobs).max()
    shared = 0.5 + 0.4 * blobs[0]
    return torch.from_numpy(shared + 0.1 * blobs[1]), torch.from_numpy(np.cos(2.5 * shared) ** 2 * 0.9 + 0.1 * blobs[2])


def value_and_gradient(name: str, varying: Tensor, constant: Tensor) -> tuple[Tensor, Tensor]:
    varying = varying.clone().requires_grad_()
    value = EVERY[name](varying, constant)
    value.sum().backward()
    assert varying.grad is not None
    return value.detach(), varying.grad


def assert_near(actual: Tensor, expected: np.ndarray | list[float] | float, tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), expected, atol=tolerance, rtol=0)


# --- mutual information ----------------------------------------------------------------------------------------------


def parzen_joint(varying: np.ndarray, constant: np.ndarray, bins: int = 32) -> np.ndarray:
    """Rows: the bin that holds the constant image; columns: cubic B-splines about every bin, at 1 + 29 x."""
    element = BSpline.basis_element(np.arange(-2.0, 3.0), extrapolate=False)
    position = 1 + np.clip(varying.ravel(), 0, 1) * (bins - 3)
    windows = np.nan_to_num(element(position[:, None] - np.arange(bins)))
    row = np.minimum(np.floor(np.clip(constant.ravel(), 0, 1) * bins), bins - 1)
    return np.asarray((row == np.arange(bins)[:, None]).astype(float) @ windows / len(position))


def shannon(p: np.ndarray) -> float:
    return float(-sum(x * np.log(x) for x in p.ravel() if x > 0))


@dimensions
def test_histogram_is_numpys(shape: tuple[int, ...]) -> None:
    varying, constant = images(shape)
    varying, constant = 1.4 * varying - 0.2, 1.4 * constant - 0.2  # some lie outside [0, 1]
    joint = similarity.joint_histogram(varying, constant)
    assert joint.shape == (2, 32, 32)
    for k in range(2):
        assert_near(joint[k], parzen_joint(varying[k].numpy(), constant[k].numpy()), 1e-12)
        assert_near(joint[k].sum(), 1, 1e-12)


def test_histogram_by_hand() -> None:
    """Six bins: x = 0, 1/3, 1/2, 1 lie at 1, 2, 2.5, 4; windows are (1, 4, 1)/6 on a bin, (1, 23, 23, 1)/48 between."""
    varying = torch.tensor([0.0, 1 / 3, 0.5, 1.0], dtype=torch.float64).view(1, 1, 2, 2)
    constant = torch.tensor([0.0, 0.99, 0.1, 1.0], dtype=torch.float64).view(1, 1, 2, 2)
    expected = np.zeros((6, 6))
    expected[0, :3] = 1 / 6, 4 / 6, 1 / 6
    expected[5, 1:4] += 1 / 6, 4 / 6, 1 / 6
    expected[0, 1:5] += 1 / 48, 23 / 48, 23 / 48, 1 / 48
    expected[5, 3:6] += 1 / 6, 4 / 6, 1 / 6
    assert_near(similarity.joint_histogram(varying, constant, bins=6)[0], expected / 4, 1e-12)


def test_entropy_by_hand() -> None:
    table = torch.tensor([[[0.5, 0.25], [0.25, 0.0]], [[1.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    assert_near(similarity.entropy(table), [1.5 * np.log(2), 0])


def test_mutual_information_of_a_two_by_two_table_by_hand() -> None:
    """Images of 0 and 1 only: joint (3 1; 1 3)/8. The window (1, 4, 1)/6 adds its own entropy h to the varying side.

    The bins of 0 and 1 do not meet, so H(a) = log 2 + h, H(a, b) = H(table) + h, and MI is the table's own.
    """
    a = torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1], dtype=torch.float64).view(1, 1, 2, 4)
    b = torch.tensor([0.0, 0, 0, 1, 0, 1, 1, 1], dtype=torch.float64).view(1, 1, 2, 4)
    table = -(6 / 8 * np.log(3 / 8) + 2 / 8 * np.log(1 / 8))
    window = 2 / 6 * np.log(6) + 4 / 6 * np.log(6 / 4)
    assert_near(similarity.mi(a, b), [2 * np.log(2) - table])
    assert_near(similarity.nmi(a, b), [(2 * np.log(2) + window) / (table + window)], 1e-5)
    assert_near(similarity.mi(a, 1 - a), [np.log(2)])
    assert_near(similarity.mi(a, torch.tensor([0.0, 1, 0, 1, 0, 1, 0, 1], dtype=torch.float64).view(1, 1, 2, 4)), [0])


@dimensions
def test_mutual_information_is_numpys(shape: tuple[int, ...]) -> None:
    """In other words: MI = sum p log(p / (pa pb)), NMI = (H(a) + H(b)) / H(a, b)."""
    varying, constant = images(shape)
    for k in range(2):
        joint = parzen_joint(varying[k].numpy(), constant[k].numpy())
        independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
        there = joint > 0
        pair = varying[k : k + 1], constant[k : k + 1]
        assert_near(similarity.mi(*pair), [(joint[there] * np.log(joint[there] / independent[there])).sum()])
        assert_near(similarity.nmi(*pair), [(shannon(joint.sum(0)) + shannon(joint.sum(1))) / shannon(joint)], 1e-5)


@dimensions
def test_mutual_information_is_monais(shape: tuple[int, ...]) -> None:
    """Within 3%: of its 32 bins MONAI spreads [0, 1] over 28, we over 29 (varying) and 32 (constant)."""
    shape = tuple(4 * size for size in shape) if len(shape) == 2 else tuple(2 * size for size in shape)
    varying, constant = images(shape, batch=1)
    low, high = varying.min(), varying.max()
    varying = (varying - low) / (high - low)
    constant = (constant - constant.min()) / (constant.max() - constant.min())
    monai = -GlobalMutualInformationLoss(kernel_type="b-spline", num_bins=32)(varying, constant)
    ours = similarity.mi(varying, constant)
    assert ours.item() > 0.3
    assert ours.item() == pytest.approx(monai.item(), rel=0.03)


@dimensions
def test_mutual_information_needs_no_order_of_the_voxels_nor_of_the_intensities(shape: tuple[int, ...]) -> None:
    varying, constant = images(shape)
    there = torch.from_numpy(np.random.default_rng(0).permutation(varying[0].numel()))
    shuffled = (image.flatten(1)[:, there].view_as(image) for image in (varying, constant))
    assert_near(similarity.mi(*shuffled), similarity.mi(varying, constant).numpy())
    assert_near(similarity.mi(1 - varying, constant), similarity.mi(varying, constant).numpy())


@pytest.mark.parametrize("name", ["mi", "nmi"])
def test_information_has_the_same_bits_on_any_number_of_threads(name: str) -> None:
    varying, constant = (image.float() for image in images((192, 192), batch=4))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(value_and_gradient(name, varying, constant))
    finally:
        torch.set_num_threads(before)
    for value, gradient in results[1:]:
        assert torch.equal(value, results[0][0])
        assert torch.equal(gradient, results[0][1])


# --- local correlation, gradient orientation, squared error ----------------------------------------------------------


def box(image: np.ndarray, window: int) -> np.ndarray:
    """Sums over cubes, nothing outside."""
    return np.asarray(scipy.ndimage.uniform_filter(image, window, mode="constant") * window**image.ndim)


@dimensions
@pytest.mark.parametrize("window", [3, 9])
def test_local_correlation_is_scipys(shape: tuple[int, ...], window: int) -> None:
    varying, constant = images(shape)
    expected = []
    for i, j in zip(varying.numpy()[:, 0], constant.numpy()[:, 0], strict=True):
        size = box(np.ones_like(i), window)
        cross = box(i * j, window) - box(i, window) * box(j, window) / size
        var_i, var_j = (box(x * x, window) - box(x, window) ** 2 / size for x in (i, j))
        expected.append((cross**2 / (var_i * var_j + 1e-5)).mean())
    assert_near(similarity.ncc(varying, constant, window), expected)
    found = similarity.local_correlation_map(varying, constant, window)
    assert found.shape == varying.shape
    assert torch.equal(found.flatten(1).mean(1), similarity.ncc(varying, constant, window))
    assert window != 9 or torch.equal(similarity.ncc(varying, constant), similarity.ncc(varying, constant, window))
    assert 0.2 < min(expected) < max(expected) < 1


def test_local_correlation_by_hand() -> None:
    """One voxel of 2 and one of 3, side by side, seen by windows of n voxels: cross = -2 * 3 / n and so on.

    Of the six windows that see both, the two in the middle row hold 9 voxels and the other four 6.
    """
    varying, constant = torch.zeros(1, 1, 3, 4, dtype=torch.float64), torch.zeros(1, 1, 3, 4, dtype=torch.float64)
    varying[0, 0, 1, 1], constant[0, 0, 1, 2] = 2, 3
    of = {n: (6 / n) ** 2 / ((4 - 4 / n) * (9 - 9 / n) + 1e-5) for n in (6, 9)}
    assert_near(similarity.ncc(varying, constant, 3), [(2 * of[9] + 4 * of[6]) / 12])


@dimensions
def test_local_correlation_does_not_mind_the_sign(shape: tuple[int, ...]) -> None:
    """T1w against T2w: where one is bright the other is dark. Away from the border, where nothing outside counts."""
    varying, _ = images(tuple(size + 20 for size in shape))
    there = torch.nn.functional.pad(torch.ones(2, 1, *shape, dtype=torch.float64), [10] * 2 * len(shape))
    varying = (varying - 0.5) * there
    assert_near(similarity.ncc(varying, -varying), similarity.ncc(varying, varying).numpy())
    assert_near(similarity.ncc(varying, -2 * varying), similarity.ncc(varying, varying).numpy(), 0.02)


@dimensions
def test_gradient_directions_are_numpys(shape: tuple[int, ...]) -> None:
    image, _ = images(shape)
    for k in range(2):
        summed = np.stack([box(part, 7) for part in np.gradient(image[k, 0].numpy())])
        expected = summed / np.linalg.norm(summed, axis=0)
        assert_near(similarity.gradient_directions(image)[k], expected, 1e-6)


def test_gradient_orientation_by_hand() -> None:
    """Ramps point one way everywhere: 3-4-5 against the first axis is 0.6, against the second 0.8; signs are lost."""
    i, j = torch.meshgrid(torch.arange(12.0), torch.arange(10.0), indexing="ij")
    ramps = torch.stack([3 * i + 4 * j, 3 * i + 4 * j, 3 * i + 4 * j])[:, None] / 100
    others = torch.stack([i, -j, 3 * i + 4 * j])[:, None] / 50
    assert_near(similarity.lg(ramps, others), [0.6, 0.8, 1], 1e-6)


@dimensions
def test_squared_error_is_numpys(shape: tuple[int, ...]) -> None:
    varying, constant = images(shape)
    expected = ((varying.numpy() - constant.numpy()) ** 2).reshape(2, -1).mean(1)
    assert_near(similarity.mse(varying, constant), expected, 1e-12)


# --- every similarity ------------------------------------------------------------------------------------------------


def test_names() -> None:
    assert {name: function.__name__ for name, function in SIMILARITIES.items()} == {
        name: name for name in ("mi", "nmi", "ncc", "lg")
    }


@dimensions
@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_a_batch_is_its_elements(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    varying, constant = (image.to(dtype) for image in images(shape, batch=3))
    value, gradient = value_and_gradient(name, varying, constant)
    assert (value.dtype, value.shape, gradient.dtype) == (dtype, (3,), dtype)
    for k in range(3):
        single, single_gradient = value_and_gradient(name, varying[k : k + 1], constant[k : k + 1])
        assert_near(value[k], single.item(), 1e-6)
        assert_near(gradient[k], single_gradient[0].numpy(), 1e-6)


@every
def test_one_precision_is_the_other(name: str) -> None:
    varying, constant = images((32, 32))
    single, gradient = value_and_gradient(name, varying.float(), constant.float())
    double, gradient_double = value_and_gradient(name, varying, constant)
    assert_near(single, double.numpy(), 2e-5)
    assert_near(gradient, gradient_double.numpy(), 2e-5)


@dimensions
@every
def test_alignment_scores_better(name: str, shape: tuple[int, ...]) -> None:
    """Against a shift by two voxels, an image and its like in another contrast agree best where they are."""
    varying, constant = images(tuple(size + 8 for size in shape))
    if name == "mse":
        constant = varying + 0.05 * constant
    aligned, apart = (EVERY[name](moved, constant) for moved in (varying, varying.roll(2, dims=2)))
    assert (aligned < apart).all() if name == "mse" else (aligned > apart).all()


BOUNDS = {"mi": (0, np.log(32)), "nmi": (1, 2), "ncc": (0, 1), "lg": (0, 1), "mse": (0, 1)}


@every
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 999), other=st.integers(0, 999))
def test_values_keep_their_bounds(name: str, seed: int, other: int) -> None:
    low, high = BOUNDS[name]
    varying, constant = images((16, 18), seed=seed)[0], images((16, 18), seed=other)[1]
    value = EVERY[name](varying, constant)
    assert low - 1e-9 <= value.min()
    assert value.max() <= high + 1e-9


@dimensions
@every
@pytest.mark.parametrize("which", ["varying", "constant", "both"])
def test_images_without_structure_have_a_value_and_no_gradient(name: str, shape: tuple[int, ...], which: str) -> None:
    """Blank images, as at the end of a stack of slices."""
    varying, constant = (image.float() for image in images(shape))
    if which != "constant":
        varying = torch.zeros_like(varying)
    if which != "varying":
        constant = torch.zeros_like(constant)
    value, gradient = value_and_gradient(name, varying, constant)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    if name != "mse":
        assert_near(value, 1 if name == "nmi" else 0, 1e-5)
        assert gradient.abs().max() < 1e-6


@every
@pytest.mark.parametrize("level", [0.0, 0.37, 1.0])
def test_grey_images_have_a_finite_gradient(name: str, level: float) -> None:
    value, gradient = value_and_gradient(name, torch.full((2, 1, 32, 32), level), torch.full((2, 1, 32, 32), 0.6))
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 0.1


@pytest.mark.parametrize("name", ["mi", "nmi"])
def test_intensities_beyond_the_bins_have_no_gradient(name: str) -> None:
    varying, constant = images((16, 16))
    varying[:, :, :4] += 2
    varying[:, :, -4:] -= 2
    _, gradient = value_and_gradient(name, varying, constant)
    assert gradient[:, :, 4:-4].abs().max() > 1e-4
    assert gradient[:, :, :4].abs().max() == gradient[:, :, -4:].abs().max() == 0


@pytest.mark.parametrize("shape", [(6, 7), (9, 10, 9)], ids=["2d", "3d"])
@every
def test_gradients_are_the_slopes(name: str, shape: tuple[int, ...]) -> None:
    """By finite differences; the constant image has a slope too in all but the information, which says it has none."""
    varying, constant = images(shape)
    large = len(shape) == 3  # one random direction instead of every voxel's
    assert torch.autograd.gradcheck(EVERY[name], (varying.requires_grad_(), constant), fast_mode=large)
    if name not in ("mi", "nmi"):
        assert torch.autograd.gradcheck(EVERY[name], (varying.detach(), constant.requires_grad_()), fast_mode=large)


# --- overlap of fractions --------------------------------------------------------------------------------------------


def test_overlap_by_hand() -> None:
    """2 (1 * 0.5 + 0) / (1 + 1 + 0.25 + 0) of the first tissue, 1 of the second, none of the third: the mean of two."""
    a = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]])
    b = torch.tensor([[[0.5, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]])
    assert similarity.overlap(a, b).item() == pytest.approx((2 * 0.5 / 2.25 + 1) / 2)
    assert similarity.overlap(a, a).item() == pytest.approx(1)
    assert similarity.overlap(0 * a, 0 * a).item() == 0


def test_overlap_of_label_maps_is_dice() -> None:
    labels = torch.randint(0, 4, (2, 12, 12), generator=torch.Generator().manual_seed(0))
    one_hot = torch.stack([(labels == k).float() for k in (1, 2, 3)], dim=1)
    ours = similarity.overlap(one_hot[:1], one_hot[1:]).item()
    theirs = [metrics.dice(labels[0].numpy(), labels[1].numpy())[k] for k in (1, 2, 3)]
    assert ours == pytest.approx(sum(theirs) / 3)


def test_overlaps_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(2, 3, 4, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    assert torch.autograd.gradcheck(lambda x: similarity.overlap(x, b), (a.requires_grad_(),))


def test_mi_of_some_voxels_is_that_of_an_image_of_these_alone():
    torch.manual_seed(0)
    varying, constant = torch.rand(2, 1, 6, 8), torch.rand(2, 1, 6, 8)
    where = torch.zeros(2, 1, 6, 8, dtype=torch.bool)
    where[:, :, 1:4, 2:7] = True
    expected = similarity.mi(varying[:, :, 1:4, 2:7], constant[:, :, 1:4, 2:7])
    torch.testing.assert_close(similarity.mi(varying, constant, where), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(similarity.mi(varying, constant, torch.zeros_like(where)), torch.zeros(2))


@dimensions
def test_windows_correlation_is_pearsons_squared_of_each_bright_window(shape):
    varying, constant = images(shape)
    window, step = 5, 3
    constant = constant - 0.3 * (torch.arange(shape[0]).view(1, 1, -1, *[1] * (len(shape) - 1)) > shape[0] // 2)
    expected = []
    for a, b in zip(varying[:, 0].numpy(), constant[:, 0].numpy(), strict=True):
        corners = np.ndindex(*((size - window) // step + 1 for size in shape))
        cubes = [tuple(slice(step * k, step * k + window) for k in corner) for corner in corners]
        bright = [cube for cube in cubes if b[cube].mean() > b.mean() / 2]
        assert 0 < len(bright) < len(cubes)
        moments = [np.cov(a[cube].ravel(), b[cube].ravel(), bias=True) for cube in bright]
        expected.append(np.mean([m[0, 1] ** 2 / (m[0, 0] * m[1, 1] + 1e-7) for m in moments]))
    assert_near(similarity.windows_correlation(varying, constant, window, step), np.array(expected))


def test_windows_correlation_of_nothing_is_none():
    varying, _ = images((20, 24))
    assert_near(similarity.windows_correlation(varying, torch.zeros_like(varying)), [0, 0])
    assert_near(similarity.windows_correlation(varying[..., :5], varying[..., :5]), [0, 0])

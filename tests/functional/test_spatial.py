"""Fields: affine and polynomial truths, tiny arrays by hand, SciPy and SimpleITK, group properties, gradients."""

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline
from torch import Tensor

from crossmorph.functional import spatial

SHAPES = [(12, 15), (9, 8, 10)]
DTYPES = [torch.float32, torch.float64]
dimensions = pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
precisions = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])


def random(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth_field(shape: tuple[int, ...], largest: float, batch: int = 1, seed: int = 0, sigma: float = 3.0) -> Tensor:
    """Gaussian-filtered noise of a given largest component, fading to nothing at the border."""
    noise = np.random.default_rng(seed).standard_normal((batch, len(shape), *shape))
    field = scipy.ndimage.gaussian_filter(noise, (0, 0, *[sigma] * len(shape)), mode="wrap")
    for axis, size in enumerate(shape, start=2):
        window = np.sin(np.pi * np.arange(size) / (size - 1)) ** 2
        field *= window.reshape(-1, *[1] * (len(shape) + 1 - axis))
    return torch.from_numpy(field * largest / np.abs(field).max())


def affine_field(matrix: np.ndarray, shape: tuple[int, ...], shift: float = 0.0) -> Tensor:
    """``u(p) = (A - I)(p - centre) + shift``: the affine map A about the centre."""
    dim = len(shape)
    centred = np.indices(shape) - (np.array(shape).reshape(-1, *[1] * dim) - 1) / 2
    return torch.from_numpy(np.tensordot(matrix - np.eye(dim), centred, axes=1) + shift)[None]


def turn(dim: int, degrees: float = 20.0, size: float = 0.9) -> np.ndarray:
    """A rotation in the plane of the first two axes, times a scaling."""
    matrix = np.eye(dim)
    angle = np.deg2rad(degrees)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return size * matrix


def inner(field: Tensor, margin: int = 2) -> Tensor:
    """Away from the border."""
    for axis in range(2, field.ndim):
        field = field.narrow(axis, margin, field.shape[axis] - 2 * margin)
    return field


def assert_near(actual: Tensor, expected: Tensor | np.ndarray | float, tolerance: float) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), np.asarray(expected), atol=tolerance, rtol=0)


# --- sampling --------------------------------------------------------------------------------------------------------


def test_identity_grid_holds_the_array_indices() -> None:
    grid = spatial.identity_grid((2, 3, 4), torch.float64)
    assert (grid.dtype, grid.shape) == (torch.float64, (1, 3, 2, 3, 4))
    assert grid[0, :, 1, 2, 3].tolist() == [1, 2, 3]


@dimensions
@precisions
@pytest.mark.parametrize(("mode", "order"), [("linear", 1), ("nearest", 0)])
def test_sample_is_scipys(shape: tuple[int, ...], dtype: torch.dtype, mode: spatial.Interpolation, order: int) -> None:
    """Other shapes out than in, two channels, and up to 3 voxels beyond the border."""
    image = random((2, 2, *shape)).to(dtype)
    out = shape[::-1]
    size = torch.tensor(shape, dtype=torch.float64).view(1, -1, *[1] * len(shape))
    where = (random((2, len(shape), *out), seed=1) * (size + 6) - 3).to(dtype)
    expected = [
        [scipy.ndimage.map_coordinates(channel.numpy(), q.numpy(), order=order, mode="nearest") for channel in element]
        for element, q in zip(image, where, strict=True)
    ]
    sampled = spatial.sample(image, where, mode)
    assert sampled.dtype == dtype
    assert_near(sampled, np.array(expected), 2e-5 if dtype == torch.float32 else 1e-12)


@dimensions
@pytest.mark.parametrize(("mode", "itk"), [("linear", sitk.sitkLinear), ("nearest", sitk.sitkNearestNeighbor)])
def test_zero_outside_is_itks_rule(shape: tuple[int, ...], mode: spatial.Interpolation, itk: int) -> None:
    image, u = 1 + random((1, 1, *shape)), 12 * random((1, len(shape), *shape), seed=1) - 6
    moving = sitk.GetImageFromArray(image[0, 0].numpy().T)
    vectors = sitk.GetImageFromArray(np.moveaxis(u[0].numpy(), 0, -1).swapaxes(0, -2).copy(), isVector=True)
    moved = sitk.Resample(moving, moving, sitk.DisplacementFieldTransform(vectors), itk, 0.0)
    expected = sitk.GetArrayFromImage(moved).T
    warped = spatial.warp(image, u, mode, outside="zero")
    assert 0.2 < (expected == 0).mean() < 0.8
    assert_near(warped[0, 0], expected, 1e-9)


def test_the_image_ends_half_a_voxel_beyond_its_outermost_centres() -> None:
    image = torch.tensor([[[[5.0, 7.0]]]])
    where = torch.tensor([[0.0, 0, 0, 0, 0, 0], [-0.6, -0.5, 0.25, 1.49, 1.5, 9]]).view(1, 2, 1, 6)
    assert_near(spatial.sample(image, where, outside="zero"), [[[[0, 5, 5.5, 7, 0, 0]]]], 1e-6)
    assert_near(spatial.sample(image, where, outside="edge"), [[[[5, 5, 5.5, 7, 7, 7]]]], 1e-6)
    sideways = torch.tensor([[0.6, -0.6, 0.4], [0.0, 0.0, 0.0]]).view(1, 2, 1, 3)
    assert_near(spatial.sample(image, sideways, outside="zero"), [[[[0, 0, 5]]]], 1e-6)


def test_sample_refuses_coordinates_of_another_dimension() -> None:
    with pytest.raises(ValueError, match="coordinates have 3 components, expected 2 for a 2-D image"):
        spatial.sample(torch.zeros(1, 1, 4, 4), torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize("shape", [(9, 11), (7, 8, 9)])
def test_a_kept_warp_is_the_warp_of_each_field(shape: tuple[int, ...]) -> None:
    image, places = random((1, 1, *shape)), torch.arange(1, math.prod(shape), 3)
    whole, some = (spatial.warper(image, shape, each) for each in (torch.arange(math.prod(shape)), places))
    for seed in (0, 1):
        field = smooth_field(shape, 2.0, seed=seed).float()
        expected = spatial.warp(image, field)
        assert_near(whole(field), expected, 1e-6)
        needed = torch.zeros(math.prod(shape))
        needed[places] = 1
        assert_near(some(field), expected * needed.view(shape), 1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_volume_is_sampled_in_parts_as_in_one(channels: int) -> None:
    image, field = random((1, channels, 9, 8, 7)), smooth_field((12, 6, 5), 3.0).float()
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 5, 12):
            torch.set_num_threads(count)
            found.append(spatial.warp(image, field))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(each, found[0]) for each in found)
    assert found[0].is_contiguous()
    field.requires_grad_()
    assert_near(spatial.warp(image, field).detach(), found[0], 0)


def test_a_line_turns_by_90_degrees() -> None:
    """``R (di, dj) = (-dj, di)``, so (4, 2) fetches what lies at (2, 4)."""
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2] = torch.tensor([1.0, 2, 3, 4, 5])
    u = affine_field(turn(2, 90, 1.0), (5, 5)).float()
    expected = torch.zeros(5, 5)
    expected[:, 2] = torch.tensor([1.0, 2, 3, 4, 5])
    assert_near(spatial.warp(image, u)[0, 0], expected, 1e-5)
    assert_near(spatial.warp(image, u, "nearest")[0, 0], expected, 0)


def test_doubling_by_hand() -> None:
    """``warped(p) = moving(p / 2)``, along an axis beside one of a single voxel."""
    image = torch.tensor([0.0, 10, 20, 30]).view(1, 1, 4, 1)
    u = torch.stack([-torch.arange(4.0).view(4, 1) / 2, torch.zeros(4, 1)])[None]
    assert_near(spatial.warp(image, u).flatten(), [0, 5, 10, 15], 1e-5)


def test_translation_pulls_back_each_element_by_its_own() -> None:
    image = random((2, 1, 8, 9))
    u = torch.tensor([[3.0, 0.0], [0.0, -2.0]], dtype=torch.float64).view(2, 2, 1, 1).expand(2, 2, 8, 9)
    warped = spatial.warp(image, u)
    assert_near(warped[0, :, :5], image[0, :, 3:], 1e-12)
    assert_near(warped[1, :, :, 2:], image[1, :, :, :-2], 1e-12)
    assert_near(warped[1, 0, :, 0], image[1, 0, :, 0], 1e-12)  # the border is held


@dimensions
@precisions
def test_identity_changes_nothing(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    image, zero = random((2, 3, *shape)).to(dtype), torch.zeros(2, len(shape), *shape, dtype=dtype)
    for mode, outside in product(("linear", "nearest"), ("edge", "zero")):
        assert_near(spatial.warp(image, zero, mode, outside), image, 1e-5 if dtype == torch.float32 else 1e-12)
    u = smooth_field(shape, 2.0, 2).to(dtype)
    assert_near(spatial.compose(u, zero), u, 1e-5)
    assert_near(spatial.compose(zero, u), u, 0)
    assert_near(spatial.integrate(zero), zero, 0)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), slope=st.tuples(*[st.floats(-3, 3)] * 2))
def test_a_linear_image_is_sampled_exactly(seed: int, slope: tuple[float, float]) -> None:
    rows, columns = spatial.identity_grid((7, 6), torch.float64)[0]
    where = random((1, 2, 5, 4), seed) * torch.tensor([6.0, 5.0]).view(1, 2, 1, 1)
    sampled = spatial.sample((slope[0] * rows + slope[1] * columns + 1)[None, None], where)
    assert_near(sampled[0, 0], slope[0] * where[0, 0] + slope[1] * where[0, 1] + 1, 1e-9)


# --- composition, integration, inversion -----------------------------------------------------------------------------


@dimensions
@precisions
def test_affine_maps_compose_as_matrices_do(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """The inner map shrinks, so the outer one is asked inside the grid only, where linear interpolation is exact."""
    dim = len(shape)
    stretch = np.diag([1.2, 0.8, 1.1][:dim])
    outer, shrink = affine_field(stretch, shape, 0.5).to(dtype), affine_field(turn(dim, 20, 0.6), shape).to(dtype)
    expected = affine_field(stretch @ turn(dim, 20, 0.6), shape, 0.5)
    assert_near(inner(spatial.compose(outer, shrink)), inner(expected), 1e-4 if dtype == torch.float32 else 1e-9)


def test_composition_of_translations_by_hand() -> None:
    """``u_inner(p) + u_outer(p + u_inner(p))`` on a row: the inner step goes first."""
    row = torch.zeros(1, 2, 1, 4)
    outer, step = row.clone(), row.clone()
    outer[0, 1, 0] = torch.tensor([0.0, 10, 20, 30])
    step[0, 1, 0] = torch.tensor([1.0, 0.5, 0, -2])
    assert_near(spatial.compose(outer, step)[0, 1, 0], [11, 15.5, 20, 8], 1e-4)


@dimensions
def test_composition_of_smooth_fields_is_associative(shape: tuple[int, ...]) -> None:
    a, b, c = (smooth_field((24,) * len(shape), 1.0, seed=seed, sigma=4) for seed in range(3))
    left, right = (spatial.compose(spatial.compose(a, b), c), spatial.compose(a, spatial.compose(b, c)))
    assert_near(left, right, 0.05)
    assert (spatial.compose(a, b) - spatial.compose(b, a)).abs().max() > 0.2  # so the order does matter


@dimensions
@precisions
def test_flow_of_a_linear_velocity_is_the_matrix_exponential(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """``v = L (p - c)``, inward: 2^k steps make ``(I + L / 2^k)^(2^k)`` to rounding, and that tends to exp(L)."""
    dim = len(shape)
    shape = (15,) * dim
    generator = np.diag([-0.3, -0.2, -0.25][:dim])
    generator[0, 1], generator[1, 0] = -0.4, 0.4
    velocity = affine_field(generator + np.eye(dim), shape).to(dtype)
    product_ = np.linalg.matrix_power(np.eye(dim) + generator / 2**7, 2**7)
    flow = inner(spatial.integrate(velocity), 4)
    assert_near(flow, inner(affine_field(product_, shape), 4), 1e-4 if dtype == torch.float32 else 1e-10)
    assert_near(flow, inner(affine_field(scipy.linalg.expm(generator), shape), 4), 5e-3)
    finer = inner(spatial.integrate(velocity.double(), 14), 4)
    assert_near(finer, inner(affine_field(scipy.linalg.expm(generator), shape), 4), 5e-5)


def test_flow_of_a_sine() -> None:
    """``dx/dt = a sin(k x)`` has ``tan(k x(t) / 2) = tan(k x(0) / 2) exp(a k t)``."""
    x = np.arange(65.0)
    a, k = 4.0, np.pi / 64
    velocity = torch.zeros(1, 2, 65, 3, dtype=torch.float64)
    velocity[0, 0] = torch.from_numpy(a * np.sin(k * x))[:, None]
    expected = 2 / k * np.arctan(np.tan(k * x / 2) * np.exp(a * k)) - x
    assert_near(spatial.integrate(velocity, 10)[0, 0, :, 1], expected, 5e-3)


@dimensions
@precisions
def test_flow_of_a_constant_is_a_translation(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    velocity = torch.full((1, len(shape), *shape), 2.5, dtype=dtype)
    assert_near(spatial.integrate(velocity), velocity, 1e-5)


def test_one_step_of_squaring_by_hand() -> None:
    """Half of ``v = (4, 2, 0)`` is (2, 1, 0); after it, those steps fetch 0, 0 and 0 at 2, 2 and 2."""
    velocity = torch.zeros(1, 2, 3, 1)
    velocity[0, 0, :, 0] = torch.tensor([4.0, 2.0, 0.0])
    assert_near(spatial.integrate(velocity, 1)[0, 0, :, 0], [2, 1, 0], 1e-6)
    assert_near(spatial.integrate(velocity, 0)[0, 0, :, 0], [4, 2, 0], 0)


@dimensions
def test_flow_of_the_negative_velocity_is_the_inverse(shape: tuple[int, ...]) -> None:
    velocity = smooth_field((24,) * len(shape), 1.5, batch=2, sigma=6)
    forward, backward = spatial.integrate(velocity), spatial.integrate(-velocity)
    assert forward.abs().max() > 1
    assert_near(spatial.compose(forward, backward), 0, 0.05)
    assert_near(spatial.compose(backward, forward), 0, 0.05)


# --- resolution and smoothness ---------------------------------------------------------------------------------------

RESIZED = pytest.mark.parametrize(
    ("shape", "new"), [((12, 15), (24, 30)), ((12, 15), (6, 5)), ((9, 8), (7, 13)), ((6, 8, 10), (12, 4, 15))]
)


@RESIZED
def test_resize_is_scipys_zoom_in_new_voxels(shape: tuple[int, ...], new: tuple[int, ...]) -> None:
    u = smooth_field(shape, 2.0)
    ratio = np.array(new) / shape
    expected = [
        factor * scipy.ndimage.zoom(component.numpy(), ratio, order=1, mode="nearest", grid_mode=True)
        for factor, component in zip(ratio, u[0], strict=True)
    ]
    assert_near(spatial.resize(u, new)[0], np.stack(expected), 1e-9)
    assert_near(spatial.resize_image(u, new)[0, 0], expected[0] / ratio[0], 1e-9)


@RESIZED
def test_an_affine_map_is_the_same_at_any_resolution(shape: tuple[int, ...], new: tuple[int, ...]) -> None:
    """About the centre, and with one scale: a turn would be another matrix on voxels of another aspect."""
    matrix = np.diag([1.3, 0.8, 0.9][: len(shape)])
    assert_near(inner(spatial.resize(affine_field(matrix, shape), new)), inner(affine_field(matrix, new)), 1e-9)


def test_resize_by_hand() -> None:
    """Edges aligned: the new centres of 2 -> 4 lie at -1/4, 1/4, 3/4, 5/4; displacements double."""
    u = torch.tensor([[[[0.0], [4.0]], [[1.0], [1.0]]]])
    assert_near(spatial.resize(u, (4, 1))[0, :, :, 0], [[0, 2, 6, 8], [1, 1, 1, 1]], 1e-6)
    assert torch.equal(spatial.resize(u, (2, 1)), u)


@settings(deadline=None, max_examples=25)
@given(size=st.integers(1, 40), spacing=st.floats(1.0, 20.0))
def test_spline_basis_is_scipys_and_sums_to_one(size: int, spacing: float) -> None:
    basis = torch.from_numpy(spatial.bspline_basis(size, spacing))
    assert_near(basis.sum(1), np.ones(size), 1e-9)
    assert_near(basis, basis.flip(0, 1), 1e-9)
    element = BSpline.basis_element(np.arange(-2.0, 3.0), extrapolate=False)
    controls = spacing * (np.arange(basis.shape[1]) - (basis.shape[1] - 1) / 2)
    distance = (np.arange(size)[:, None] - (size - 1) / 2 - controls) / spacing
    assert_near(basis, np.nan_to_num(element(distance)), 1e-9)


def test_spline_smoothing_by_hand() -> None:
    """An impulse, controls on the 3 voxels and one beyond either end: c = B'f / B'1, then B c, B = (1, 4, 1) / 6."""
    basis = np.array([[1, 4, 1, 0, 0], [0, 1, 4, 1, 0], [0, 0, 1, 4, 1]]) / 6
    impulse = np.array([0.0, 6, 0])
    expected = basis @ (basis.T @ impulse / basis.sum(0))
    assert expected[1] == pytest.approx(1 / 5 + 16 / 6 + 1 / 5)
    smooth = spatial.bspline_smooth(torch.from_numpy(impulse).view(1, 1, 3, 1), 1.0)
    assert_near(smooth[0, 0, :, 0], expected, 1e-12)


@dimensions
def test_spline_smoothing_keeps_what_is_coarse_and_drops_what_is_fine(shape: tuple[int, ...]) -> None:
    shape = (21, 17, 19)[: len(shape)]
    constant = torch.full((1, 1, *shape), 3.0)
    assert_near(spatial.bspline_smooth(constant, 5.3), constant, 1e-5)
    line = affine_field(np.diag([1.5, 0.7, 1.1][: len(shape)]), shape)
    assert_near(inner(spatial.bspline_smooth(line, 2.0), 6), inner(line, 6), 1e-9)
    alternating = (-1.0) ** spatial.identity_grid(shape).sum(1, keepdim=True)
    assert inner(spatial.bspline_smooth(alternating, 4.0), 4).abs().max() < 2e-3


# --- derivatives -----------------------------------------------------------------------------------------------------


@dimensions
def test_gradient_is_numpys(shape: tuple[int, ...]) -> None:
    field = random((2, 3, *shape))
    gradient = spatial.spatial_gradient(field)
    assert_near(gradient, np.stack(np.gradient(field.numpy(), axis=range(2, field.ndim)), axis=2), 1e-12)


@dimensions
@precisions
def test_determinants_of_an_affine_map_are_its_own_everywhere(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    dim = len(shape)
    matrix = np.array([[1.2, 0.3, -0.1], [-0.2, 0.7, 0.25], [0.15, 0.05, -1.1]])[:dim, :dim]
    u = affine_field(matrix, shape, 2.0).to(dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    expected = np.linalg.det(matrix)
    assert_near(spatial.jacobian_determinant(u), np.full((1, *shape), expected), tolerance)
    cells = (1, 2**dim, *[size - 1 for size in shape])
    assert_near(spatial.strict_jacobian(u), np.full(cells, expected), tolerance)


def test_determinant_of_a_quadratic_map() -> None:
    """``phi = (x + 0.1 x y, y - 0.05 x^2)``: ``det = 1 + 0.1 y + 0.01 x^2``, as central differences see squares."""
    x, y = spatial.identity_grid((8, 9), torch.float64)[0]
    u = torch.stack([0.1 * x * y, -0.05 * x**2])[None]
    inside = slice(1, -1)
    expected = 1 + 0.1 * y + 0.01 * x**2
    assert_near(spatial.jacobian_determinant(u)[0, inside, inside], expected[inside, inside], 1e-12)


def test_corners_of_one_cell_by_hand() -> None:
    """The last corner goes to (a, b): the four determinants are 1, a, b and a + b - 1."""
    u = torch.zeros(1, 2, 2, 2)
    u[0, :, 1, 1] = torch.tensor([0.25 - 1, 0.5 - 1])
    assert_near(spatial.strict_jacobian(u).flatten(), [1, 0.25, 0.5, -0.25], 1e-6)


def test_corners_in_three_dimensions_are_triple_products() -> None:
    u = smooth_field((4, 5, 3), 1.0)
    points = np.indices((4, 5, 3)) + u[0].numpy()
    strict = spatial.strict_jacobian(u)[0].numpy()
    for (number, corner), cell in product(enumerate(product((0, 1), repeat=3)), np.ndindex(3, 4, 2)):
        edges = []
        for axis in range(3):
            start, end = (np.where(np.arange(3) == axis, side, corner) + cell for side in (0, 1))
            edges.append(points[(slice(None), *end)] - points[(slice(None), *start)])
        expected = edges[0] @ np.cross(edges[1], edges[2])
        assert strict[(number, *cell)] == pytest.approx(expected, abs=1e-12)


@dimensions
def test_a_fold_that_alternates_escapes_central_differences_only(shape: tuple[int, ...]) -> None:
    """``u_0 = 0.6 (-1)^i``: neighbours pass each other (1 - 1.2), while voxels two apart keep their distance."""
    u = torch.zeros(1, len(shape), *shape)
    u[:, 0] = 0.6 * (-1.0) ** spatial.identity_grid(shape)[:, 0]
    assert (inner(spatial.jacobian_determinant(u)[:, None], 1) - 1).abs().max() < 1e-6
    strict = spatial.strict_jacobian(u)
    assert_near(strict[:, :, 0], np.full(strict[:, :, 0].shape, 1 - 1.2), 1e-6)
    assert_near(strict[:, :, 1], np.full(strict[:, :, 1].shape, 1 + 1.2), 1e-6)


@dimensions
def test_each_pair_counts_its_own_folded_cells(shape: tuple[int, ...]) -> None:
    """Half of the cells of the first field fold, those of odd ``i``; none of the second."""
    u = torch.zeros(2, len(shape), *shape)
    u[0, 0] = 0.6 * (-1.0) ** (spatial.identity_grid(shape)[0, 0] + 1)
    folds = spatial.folds(u)
    assert folds.dtype == torch.bool
    assert folds.shape == (2, *(size - 1 for size in shape))
    assert folds[0, 1::2].all()
    assert not folds[0, ::2].any()
    assert not folds[1].any()
    expected = 100 * ((shape[0] - 1) // 2) / (shape[0] - 1)
    assert_near(spatial.folds_percent(u), [expected, 0], 1e-12)


def test_length_by_hand() -> None:
    field = torch.tensor([[[[3.0, 0.0]], [[4.0, 2.0]]]])
    assert_near(spatial.length(field), [[[[5, 2]]]], 1e-6)


def test_endpoint_error_is_a_length() -> None:
    a, b = torch.zeros(2, 2, 3, 3), torch.zeros(2, 2, 3, 3)
    a[1, :, 2, 1], b[1, :, 2, 1] = torch.tensor([4.0, -1.0]), torch.tensor([1.0, 3.0])
    error = spatial.endpoint_error(a, b)
    assert (error[1, 2, 1].item(), error.sum().item()) == (5, 5)


# --- every function --------------------------------------------------------------------------------------------------

FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "warp": lambda u, image: spatial.warp(image, u),
    "warp, zero outside": lambda u, image: spatial.warp(image, u, outside="zero"),
    "compose": lambda u, _: spatial.compose(u, 0.5 * u),
    "integrate": lambda u, _: spatial.integrate(u, 4),
    "resize": lambda u, _: spatial.resize(u, tuple(size + 2 for size in u.shape[2:])),
    "bspline_smooth": lambda u, _: spatial.bspline_smooth(u, 2.0),
    "jacobian_determinant": lambda u, _: spatial.jacobian_determinant(u),
    "strict_jacobian": lambda u, _: spatial.strict_jacobian(u),
    "endpoint_error": lambda u, _: spatial.endpoint_error(u, 0.5 * u),
}


@dimensions
@precisions
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_batch_is_its_elements(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    u, image = smooth_field(shape, 1.5, batch=3).to(dtype), random((3, 2, *shape)).to(dtype)
    together = FUNCTIONS[name](u, image)
    singles = torch.cat([FUNCTIONS[name](u[k : k + 1], image[k : k + 1]) for k in range(3)])
    assert together.dtype == dtype
    assert_near(together, singles, 1e-6)


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 3)], ids=["2d", "3d"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_are_the_slopes(name: str, shape: tuple[int, ...]) -> None:
    """By finite differences, for both arguments; displacements stay between 0.1 and 0.4, off the kinks at voxels."""
    u = (0.1 + 0.3 * random((2, len(shape), *shape))).requires_grad_()
    image = random((2, 1, *shape), seed=1).requires_grad_("warp" in name)
    assert torch.autograd.gradcheck(FUNCTIONS[name], (u, image))

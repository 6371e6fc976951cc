"""Linear registration finds maps it was not told, changes only what its stage allows, and says what cannot be done."""

import numpy as np
import pytest
from numpy import ndarray
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from crossmorph import Image, InputError
from crossmorph.registration.linear import register_images_linear, register_linear
from crossmorph.registration.linear_optimization import optimise_linear
from crossmorph.transforms.warp import resample, transform_points


def anatomy(points: ndarray) -> ndarray:
    """A lopsided ellipsoid of 64 mm with blobs inside, at points in millimetres, the same at every call."""
    rng = np.random.default_rng(0)
    dim = len(points)
    half = np.array([30.0, 34.0, 28.0])[:dim].reshape(-1, *[1] * (points.ndim - 1))
    inside = 1 / (1 + np.exp(12 * (np.sqrt(((points / half) ** 2).sum(0)) - 1)))
    total = np.full(points.shape[1:], 0.4)
    for _ in range(60 if dim == 3 else 25):
        middle = rng.uniform(-26, 26, dim).reshape(half.shape)
        total += rng.choice([-0.3, 0.3]) * np.exp(-((points - middle) ** 2).sum(0) / (2 * rng.uniform(3, 5) ** 2))
    return inside * np.clip(total, 0.1, 1)


def seen(spacing: tuple[float, ...], turn: float, dark: bool, extent: float = 84.0) -> Image:
    """The anatomy on a grid of its own, with noise; a voxel as thick as a slice is the mean of its extent."""
    dim = len(spacing)
    shape = np.round(extent / np.array(spacing)).astype(int)
    affine = np.eye(dim + 1)
    directions = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    affine[:2, :2] = directions
    affine[:dim, :dim] *= spacing
    affine[:dim, dim] = -affine[:dim, :dim] @ ((shape - 1) / 2)
    parts = max(1, round(spacing[-1] / spacing[0]))
    index = np.indices((*shape[:-1], shape[-1] * parts)).astype(np.float64)
    index[-1] = (index[-1] + 0.5) / parts - 0.5
    fine = anatomy(transform_points(affine, index))
    data = fine.reshape(*shape, parts).mean(-1)
    data = np.where(data > 0.05, 1.1 - data, data) if dark else data
    noise = np.random.default_rng(int(dark)).normal(0, 0.02, data.shape)
    return Image((data + noise).astype(np.float32), affine)


def motion(dim: int, degrees: float, shift: float, size: float = 1.0) -> ndarray:
    matrix = np.eye(dim + 1)
    axis = np.array([0.3, -0.5, 1.0]) / np.linalg.norm([0.3, -0.5, 1.0])
    turn = Rotation.from_rotvec(np.deg2rad(degrees) * (axis if dim == 3 else np.array([0.0, 0.0, 1.0]))).as_matrix()
    matrix[:dim, :dim] = size * turn[:dim, :dim]
    matrix[:dim, dim] = np.array([1.0, -0.6, 0.4])[:dim] * shift
    return matrix


def apart(found: ndarray, truth: ndarray) -> float:
    """Mean distance over a ball of 30 mm."""
    dim = len(truth) - 1
    points = np.random.default_rng(1).normal(size=(dim, 500))
    points *= 30 * np.random.default_rng(2).random(500) ** (1 / dim) / np.linalg.norm(points, axis=0)
    return float(np.linalg.norm(transform_points(found, points) - transform_points(truth, points), axis=0).mean())


def moved(image: Image, matrix: ndarray) -> Image:
    return Image(image.data, matrix @ image.affine)


@pytest.mark.parametrize(("degrees", "shift"), [(4.0, 3.0), (-30.0, 20.0)])
@pytest.mark.parametrize(
    "spacing",
    [(1.0, 1.0), *(pytest.param(each, marks=pytest.mark.slow) for each in ((1.5, 1.5, 1.5), (1.2, 1.2, 4.8)))],
)
def test_a_known_rigid_motion_is_found_across_contrasts(
    spacing: tuple[float, ...], degrees: float, shift: float
) -> None:
    truth = motion(len(spacing), degrees, shift)
    fixed = seen((1.5,) * len(spacing), 0.2, dark=True)
    found = register_linear(moved(seen(spacing, 0.0, dark=False), truth), fixed, "rigid")
    assert apart(found.matrix, truth) < 0.3
    matrix = found.matrix[:-1, :-1]
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(len(matrix)), atol=1e-4)
    assert np.linalg.det(matrix) > 0


def test_each_stage_changes_what_its_name_says() -> None:
    truth = motion(2, 5.0, 2.0, size=1.08)
    truth[:2, :2] = truth[:2, :2] @ np.array([[1.0, 0.06], [0.0, 1.0]])
    moving, fixed = moved(seen((1.0, 1.0), 0.0, dark=False), truth), seen((1.0, 1.0), 0.2, dark=True)
    errors = []
    for stage in ("rigid", "similarity", "affine"):
        matrix = register_linear(moving, fixed, stage).matrix
        errors.append(apart(matrix, truth))
        gram = matrix[:2, :2] @ matrix[:2, :2].T
        if stage == "affine":
            continue
        np.testing.assert_allclose(gram / np.sqrt(np.linalg.det(gram)), np.eye(2), atol=1e-4)
        assert (abs(np.linalg.det(gram) - 1) < 1e-4) == (stage == "rigid")
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.3


def test_a_small_block_is_found_in_the_whole() -> None:
    whole = seen((1.5, 1.5, 1.5), 0.0, dark=True)
    block = seen((1.5, 1.5, 1.5), 0.0, dark=False)
    part = Image(block.data[12:40, 14:44, 10:36], block.affine.copy())
    part.affine[:3, 3] += block.affine[:3, :3] @ [12, 14, 10]
    truth = motion(3, 3.0, 2.0)
    found = optimise_linear(moved(part, truth).scaled(), whole.scaled(), np.eye(4), "rigid")
    assert apart(found.matrix, truth) < 0.5


def test_a_start_is_gone_on_from_and_its_scale_stays() -> None:
    truth = motion(2, 5.0, 3.0, size=1.1)
    moving, fixed = moved(seen((1.0, 1.0), 0.0, dark=False), truth), seen((1.0, 1.0), 0.2, dark=True)
    found = register_linear(moving, fixed, "rigid", init=np.diag([1.1, 1.1, 1.0]))
    assert apart(found.matrix, truth) < 0.3
    assert np.linalg.det(found.matrix) == pytest.approx(1.21, rel=1e-4)


def test_the_same_images_give_the_same_bits() -> None:
    moving, fixed = seen((1.0, 1.0), 0.0, dark=False), seen((1.0, 1.0), 0.2, dark=True)
    first, again = (register_linear(moving, fixed, "affine").matrix for _ in range(2))
    assert np.array_equal(first, again)


def test_fields_and_translation_of_a_linear_result() -> None:
    """The field is the matrix at every voxel; the translation has the fixed image's contrast."""
    truth = motion(2, 4.0, 3.0)
    moving, fixed = moved(seen((1.0, 1.0), 0.0, dark=False), truth), seen((1.0, 1.0), 0.2, dark=True)
    found = register_images_linear(moving, fixed, "rigid")
    points = transform_points(fixed.affine, np.indices(fixed.shape).astype(np.float64))
    np.testing.assert_allclose(
        points + found.warp.displacement, transform_points(found.matrix, points), rtol=0, atol=1e-4
    )
    there = transform_points(moving.affine, np.indices(moving.shape).astype(np.float64))
    back = transform_points(np.linalg.inv(found.matrix), there)
    np.testing.assert_allclose(there + found.inverse.displacement, back, rtol=0, atol=1e-4)
    inside = gaussian_filter(fixed.data, 2) > 0.3
    still = fixed.scaled().data[inside]
    translated, given = (resample(image, found.warp).data[inside] for image in (found.translated, moving.scaled()))
    assert np.corrcoef(given, still)[0, 1] < -0.4
    assert np.corrcoef(translated, still)[0, 1] > 0.8


def test_what_cannot_be_compared_is_refused() -> None:
    fixed = seen((1.0, 1.0), 0.0, dark=True)
    with pytest.raises(InputError, match=r"moving image is 3-D, shape .* fixed image 2-D"):
        register_linear(seen((4.0, 4.0, 4.0), 0.0, dark=False), fixed)
    with pytest.raises(InputError, match="init 'headers': expected affine, centers, none or a matrix"):
        register_linear(fixed, fixed, init="headers")
    with pytest.raises(InputError, match="nothing to compare: the fields of view share 0%"):
        register_linear(moved(fixed, motion(2, 0.0, 500.0)), fixed, init="none")

"""The model's grid: it covers every image, however that lies in its file, and resampling onto it does not alias."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.transforms.grid import LARGEST_GRID, Grid, centre, centred_grid, onto_grid, working_grid

PAGE = np.diag([-1.0, -1.0, 1.0])
MODEL = {"spacing": 1.5, "size": 128, "divisor": 16}


def affine(matrix: object, position: tuple[float, ...]) -> ndarray:
    """An affine of either dimension."""
    full = np.eye(len(position) + 1)
    full[:-1, :-1], full[:-1, -1] = matrix, position
    return full


def turn(degrees: float) -> ndarray:
    """A rotation in the plane."""
    return Rotation.from_euler("z", degrees, degrees=True).as_matrix()[:2, :2]


def empty(shape: tuple[int, ...], matrix: object, physical: bool = True) -> Image:
    """An image of which only the place matters, however large."""
    position = (-31.0, 17.0, 5.0)[: len(shape)]
    return Image(np.broadcast_to(np.float32(0), shape), affine(matrix, position), physical)


def noise(shape: tuple[int, ...], seed: int = 0) -> ndarray:
    """Independent voxels."""
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def points(grid: Grid | Image) -> ndarray:
    """RAS millimetres of the voxel centres, (dim, *space)."""
    dim = len(grid.shape)
    offset = grid.affine[:dim, dim].reshape(-1, *[1] * dim)
    return np.tensordot(grid.affine[:dim, :dim], np.indices(grid.shape), axes=1) + offset


def corners(image: Image) -> ndarray:
    """RAS millimetres of the corners of the field of view, half a voxel beyond the centres, (corner, dim)."""
    ends = np.array(list(product(*((-0.5, size - 0.5) for size in image.shape))))
    return ends @ image.affine[:-1, :-1].T + image.affine[:-1, -1]


def voxels(grid: Grid, where: ndarray) -> ndarray:
    """Voxel coordinates, in a grid, of points (point, dim) in RAS millimetres."""
    return (where - grid.affine[:-1, -1]) @ np.linalg.inv(grid.affine[:-1, :-1]).T


def stored_otherwise(image: Image, order: tuple[int, ...], flips: tuple[int, ...]) -> Image:
    """The same image in the world with its axes permuted and some then reversed."""
    index = np.zeros_like(image.affine)
    index[-1, -1] = 1
    for axis, old in enumerate(order):
        size = image.shape[old]
        index[old, axis] = -1 if axis in flips else 1
        index[old, -1] = size - 1 if axis in flips else 0
    return Image(np.flip(image.data.transpose(order), flips), image.affine @ index)


def test_an_image_of_the_models_own_kind_stays_as_it_is() -> None:
    image = Image(noise((128, 128)), affine(np.diag([1.5, 1.5]), (-95.25, -112.25)))
    grid = working_grid(image, **MODEL)
    assert grid.shape == (128, 128)
    np.testing.assert_allclose(grid.affine, image.affine, rtol=0, atol=1e-12)
    assert onto_grid(image, grid) is image


@pytest.mark.parametrize("order", list(permutations(range(2))))
@pytest.mark.parametrize("flips", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize("degrees", [0, 20])
def test_the_grid_is_the_worlds_and_not_the_files(order: tuple[int, ...], flips: tuple[int, ...], degrees: int) -> None:
    image = Image(noise((50, 70)), affine(turn(degrees) @ np.diag([1.1, 0.8]), (-31.0, 17.0)))
    other = stored_otherwise(image, order, flips)
    expected, grid = working_grid(image, **MODEL), working_grid(other, **MODEL)
    assert grid.shape == expected.shape == (48, 48)
    np.testing.assert_allclose(grid.affine, expected.affine, atol=1e-9)
    np.testing.assert_allclose(onto_grid(other, grid).data, onto_grid(image, expected).data, atol=1e-5)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("flips", [(), (0, 2), (1,)])
def test_the_grid_of_a_volume_is_the_worlds(order: tuple[int, ...], flips: tuple[int, ...]) -> None:
    matrix = Rotation.from_euler("xyz", [10, -15, 20], degrees=True).as_matrix() @ np.diag([1.0, 2.0, 3.0])
    image = Image(noise((20, 30, 11)), affine(matrix, (-31.0, 17.0, 5.0)))
    other = stored_otherwise(image, order, flips)
    expected, grid = working_grid(image, 2.0, 64, 8), working_grid(other, 2.0, 64, 8)
    assert grid.shape == expected.shape == (16, 32, 24)
    np.testing.assert_allclose(grid.affine, expected.affine, atol=1e-9)
    np.testing.assert_allclose(onto_grid(other, grid).data, onto_grid(image, expected).data, atol=1e-5)


@pytest.mark.parametrize("degrees", [-40, -10, 0, 30, 44])
def test_a_turned_image_lends_its_directions(degrees: float) -> None:
    image = empty((128, 112), turn(degrees) * 1.5)
    grid = working_grid(image, **MODEL)
    assert grid.shape == (128, 112)  # not the larger box about the turned image
    np.testing.assert_allclose(grid.affine, image.affine, atol=1e-9)


def test_beyond_45_degrees_the_other_axis_lies_nearest_to_right() -> None:
    grid = working_grid(empty((128, 112), turn(60) * 1.5), **MODEL)
    assert grid.shape == (112, 128)
    np.testing.assert_allclose(grid.affine[:2, :2], turn(-30) * 1.5, atol=1e-9)


def test_anisotropic_voxels_by_hand() -> None:
    image = empty((100, 30), np.diag([-0.5, 4.0]))  # 50 mm x 120 mm, stored from right to left
    grid = working_grid(image, **MODEL)
    assert grid.shape == (48, 80)  # 33.3 and 80 voxels of 1.5 mm
    np.testing.assert_allclose(grid.affine[:2, :2], np.diag([1.5, 1.5]), atol=1e-12)
    # The middle is that of the image, -31 - 24.75 and 17 + 58, half of 47 and of 79 voxels from the first.
    np.testing.assert_allclose(grid.affine[:2, 2], [-55.75 - 23.5 * 1.5, 75 - 39.5 * 1.5], atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(
    shape=st.lists(st.integers(1, 150), min_size=2, max_size=3),
    sizes=st.lists(st.floats(0.3, 4), min_size=3, max_size=3),
    angles=st.lists(st.floats(-180, 180), min_size=3, max_size=3),
    spacing=st.sampled_from([0.7, 1.5, 2.0]),
    divisor=st.sampled_from([1, 8, 16]),
)
def test_the_grid_covers_any_image(
    shape: list[int], sizes: list[float], angles: list[float], spacing: float, divisor: int
) -> None:
    dim = len(shape)
    rotation = turn(angles[0]) if dim == 2 else Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    image = empty(tuple(shape), rotation @ np.diag(sizes[:dim]))
    if np.prod([side * size / spacing + divisor for side, size in zip(shape, sizes, strict=False)]) > LARGEST_GRID:
        return
    grid = working_grid(image, spacing, 128, divisor)
    size = np.array(grid.shape)
    assert not (size % divisor).any()
    matrix = grid.affine[:dim, :dim] / spacing
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(dim), atol=1e-9)
    where = voxels(grid, corners(image))
    spare = 1e-3 * divisor  # the hair that is forgiven
    assert (where >= -0.5 - spare).all()
    assert (where <= size - 0.5 + spare).all()
    needed = where.max(0) - where.min(0) > size - divisor - spare
    assert (needed | (size == 2 * divisor)).all()  # and no more than that, but for the least size
    np.testing.assert_allclose(voxels(grid, centre(image)[None])[0], (size - 1) / 2, atol=1e-6)


def test_a_hair_too_much_does_not_cost_a_row_of_blocks() -> None:
    assert working_grid(empty((128, 128), np.eye(2) * 1.5001), **MODEL).shape == (128, 128)
    assert working_grid(empty((128, 128), np.eye(2) * 1.51), **MODEL).shape == (144, 144)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((512, 384), (128, 96)), ((300, 200), (128, 96)), ((50, 60), (112, 128)), ((7, 7), (128, 128))],
)
def test_the_longer_side_of_a_png_spans_the_models_size(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    image = empty(shape, PAGE[:2, :2], physical=False)
    grid = working_grid(image, **MODEL)
    assert grid.shape == expected
    # Grid axes go right and anterior, a page's left to right and down.
    np.testing.assert_allclose(grid.affine[:2, :2], np.eye(2) * max(shape) / 128, atol=1e-12)
    assert working_grid(empty(shape, PAGE[:2, :2]), **MODEL).shape != expected


def test_a_grid_too_large_is_refused_with_advice() -> None:
    assert LARGEST_GRID == 2**23  # 4096 x 2048
    assert working_grid(empty((4096, 2048), np.eye(2) * 1.5), **MODEL).shape == (4096, 2048)
    with pytest.raises(InputError, match=r"6144 x 3096 mm, 4096 x 2064 voxels at the model's 1.5 mm; .*8388608.*crop"):
        working_grid(empty((4096, 2064), np.eye(2) * 1.5), **MODEL)
    with pytest.raises(InputError, match="expected at most 8388608 voxels"):
        working_grid(empty((100, 100, 100), np.eye(3) * 1e30), **MODEL)
    with pytest.raises(InputError, match="expected at most 8388608 voxels"):
        working_grid(empty((3, 30000), PAGE[:2, :2], physical=False), 1.5, 10**6, 16)


def test_centre_by_hand() -> None:
    np.testing.assert_allclose(centre(empty((5, 4), np.diag([2.0, 3.0]))), [-31 + 2 * 2, 17 + 1.5 * 3])
    np.testing.assert_allclose(centre(empty((5, 4), [[0, -3], [2, 0]])), [-31 - 1.5 * 3, 17 + 2 * 2])
    np.testing.assert_allclose(centre(empty((1, 1, 1), np.eye(3))), [-31, 17, 5])


def test_a_centred_grid_by_hand() -> None:
    grid = centred_grid(empty((5, 4), [[0, -3], [-2, 0]]), 0.5, (3, 7))
    np.testing.assert_allclose(grid.affine, affine(np.eye(2) * 0.5, (-35.5 - 0.5, 13 - 1.5)), atol=1e-12)
    assert grid.shape == (3, 7)


SOURCES = {
    "coarser": np.eye(2) * 0.4,
    "finer": np.eye(2) * 3.0,
    "anisotropic": np.diag([0.3, 2.0]),
    "turned": turn(25) @ np.diag([0.5, 0.7]),
    "stored otherwise": np.array([[0, 0.6], [-0.4, 0]]),
}


@pytest.mark.parametrize("matrix", list(SOURCES.values()), ids=list(SOURCES))
def test_a_ramp_stays_the_ramp(matrix: ndarray) -> None:
    place = empty(tuple(int(90 / size) for size in np.linalg.norm(matrix, axis=0)), matrix)
    slope = np.array([0.3, -0.2])
    image = Image((np.tensordot(slope, points(place), axes=1) + 2).astype(np.float32), place.affine)
    grid = working_grid(image, **MODEL)
    moved = onto_grid(image, grid)
    assert moved.shape == grid.shape
    np.testing.assert_array_equal(moved.affine, grid.affine)
    truth = np.tensordot(slope, points(grid), axes=1) + 2
    where = voxels(Grid(image.affine, image.shape), points(grid).reshape(2, -1).T).reshape(*grid.shape, 2)
    margin = 8 / np.array(image.spacing)  # the smoothing sees the border within 4 of its widths
    inside = ((where > margin) & (where < np.array(image.shape) - 1 - margin)).all(-1)
    assert inside.sum() > 1000
    np.testing.assert_allclose(moved.data[inside], truth[inside], atol=2e-4)


def test_beyond_the_image_there_is_nothing() -> None:
    image = Image(np.ones((60, 100), np.float32), affine(np.eye(2) * 1.5, (0.0, 0.0)))
    grid = working_grid(image, **MODEL)
    assert grid.shape == (64, 112)
    expected = np.pad(image.data, ((2, 2), (6, 6)))
    np.testing.assert_array_equal(onto_grid(image, grid).data, expected)


@pytest.mark.parametrize("ratio", [3, 5])
def test_quadratics_become_their_box_means(ratio: int) -> None:
    # The mean of x^2 over a box of r voxels is that at its middle plus (r^2 - 1) / 12, which plain sampling misses.
    x, y = np.indices((30 * ratio, 40), dtype=float)
    x -= x.mean()
    image = Image((x**2 + 7 * (y - 20) ** 2).astype(np.float32), affine(np.diag([1.5 / ratio, 1.5]), (0.0, 0.0)))
    grid = Grid(affine(np.eye(2) * 1.5, ((ratio - 1) / 2 * 1.5 / ratio, 0.0)), (30, 40))
    box = image.data.reshape(30, ratio, 40).mean(1)
    missed = (ratio**2 - 1) / 12
    np.testing.assert_allclose(onto_grid(image, grid).data[5:-5, 5:-5], box[5:-5, 5:-5], atol=0.02 * missed)


@pytest.mark.parametrize("ratio", [2, 3, 4, 8])
def test_noise_is_averaged_like_the_box_mean(ratio: int) -> None:
    image = Image(noise((48 * ratio, 48 * ratio)), affine(np.eye(2) * 1.5 / ratio, (0.0, 0.0)))
    first = (ratio - 1) / 2
    grid = Grid(affine(np.eye(2) * 1.5, (first * 1.5 / ratio,) * 2), (48, 48))
    box = image.data.reshape(48, ratio, 48, ratio).mean((1, 3))
    moved = onto_grid(image, grid).data
    plain = map_coordinates(image.data, np.indices((48, 48)) * ratio + first, order=1)
    inner = (slice(2, -2),) * 2
    assert np.corrcoef(moved[inner].ravel(), box[inner].ravel())[0, 1] > 0.85
    assert 0.6 < moved[inner].std() / box[inner].std() < 1.1
    if ratio > 2:  # halfway between two voxels, plain linear sampling is the box mean of two
        assert plain[inner].std() > 1.4 * moved[inner].std()
        assert np.abs(moved - box)[inner].mean() < 0.6 * np.abs(plain - box)[inner].mean()


@pytest.mark.parametrize(("ratio", "tolerance"), [(2, 0.17), (3, 0.05), (4, 0.01)])
def test_a_checkerboard_becomes_grey(ratio: int, tolerance: float) -> None:
    board = np.indices((40 * ratio, 40 * ratio)).sum(0) % 2
    image = Image(board.astype(np.float32), affine(np.eye(2) * 1.5 / ratio, (0.0, 0.0)))
    moved = onto_grid(image, Grid(affine(np.eye(2) * 1.5, (0.0, 0.0)), (40, 40)))
    np.testing.assert_allclose(moved.data[3:-3, 3:-3], 0.5, atol=tolerance)


@pytest.mark.parametrize("size", [1.45, 1.5, 2.0, 4.0])
def test_where_the_grid_is_not_coarser_nothing_is_smoothed(size: float) -> None:
    image = Image(noise((40, 30)), affine(np.eye(2) * size, (0.0, 0.0)))
    grid = centred_grid(image, 1.5, (16, 16))
    where = voxels(grid._replace(affine=image.affine), points(grid).reshape(2, -1).T)
    expected = map_coordinates(image.data.astype(float), where.T, order=1).reshape(16, 16)
    np.testing.assert_allclose(onto_grid(image, grid).data, expected, atol=1e-6)


@pytest.mark.parametrize("grid_spacing", [(1.5, 1.5), (1.5, 0.5)])
def test_only_an_axis_that_is_finer_than_the_grids_is_smoothed(grid_spacing: tuple[float, float]) -> None:
    image = Image(noise((90, 40)), affine(np.diag([0.5, grid_spacing[1]]), (0.0, 0.0)))
    grid = Grid(affine(np.diag(grid_spacing), (0.0, 0.0)), (30, 40))
    expected = gaussian_filter(image.data, (np.sqrt(8 / 12), 0), mode="nearest")[::3]
    np.testing.assert_allclose(onto_grid(image, grid).data, expected, atol=1e-6)
    other = stored_otherwise(image, (1, 0), (1,))
    np.testing.assert_allclose(onto_grid(other, grid).data, expected, atol=1e-6)

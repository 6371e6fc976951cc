"""Where the moving image is put before the networks look: maps in the world, for grids of any geometry."""

import math

import numpy as np
import pytest
import scipy.ndimage
import torch

from crossmorph.images.image import Image
from crossmorph.networks.affine import Affine
from crossmorph.networks.hierarchy import Hierarchy, HierarchySpec
from crossmorph.networks.unet import UNetSpec
from crossmorph.registration.initialization import initial_affines
from crossmorph.transforms.grid import centre, covering_grid, onto_grid
from crossmorph.transforms.warp import Warp, followed_by, resample


def world(degrees: float, spacing: tuple[float, float], origin: tuple[float, float]) -> np.ndarray:
    """Voxel to millimetres of an oblique grid."""
    angle = math.radians(degrees)
    affine = np.eye(3)
    affine[:2, :2] = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) * spacing
    affine[:2, 2] = origin
    return affine


def picture(shape: tuple[int, int], affine: np.ndarray) -> Image:
    noise = scipy.ndimage.gaussian_filter(np.random.default_rng(0).random(shape), 4, mode="constant")
    return Image(((noise - noise.min()) / np.ptp(noise)).astype(np.float32), affine)


def model(answer: Affine | None) -> Hierarchy:
    """A hierarchy that finds the same affine map whatever it sees; None: where it began."""
    small = UNetSpec(encoder=(2, 2, 2), decoder=(2, 2, 2), final=())
    hierarchy = Hierarchy(HierarchySpec(coarse=small, translator=small, fine=small))
    hierarchy.affine = torch.nn.Identity()
    hierarchy.register_affine = lambda _moving, _fixed, start: answer or start
    return hierarchy


TURN = world(20, (1.1, 1.1), (3.0, -4.0))  # what takes a point of the fixed space to the moving space
GEOMETRIES = {
    "plain": (np.diag([1.5, 1.5, 1]), np.diag([1.5, 1.5, 1])),
    "oblique": (world(30, (1.0, 1.2), (-10, 5)), world(-15, (1.5, 1.5), (-30, -20))),
    "mirrored": (world(10, (-1.0, 1.2), (60, 5)), world(0, (1.5, -1.5), (-30, 70))),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_what_the_network_finds_in_voxels_becomes_a_map_of_the_world(name: str) -> None:
    moving = picture((72, 60), GEOMETRIES[name][0])
    still = Warp(np.zeros((2, 64, 64), np.float32), GEOMETRIES[name][1])
    fixed = resample(moving, followed_by(still, TURN))
    grid, there = (covering_grid(image, 1.5, 8) for image in (fixed, moving))
    voxels = np.linalg.inv(there.affine) @ TURN @ grid.affine
    middles = [np.append((np.array(g.shape) - 1) / 2, 1) for g in (grid, there)]
    shift = (voxels @ middles[0] - middles[1])[:2]
    answer = Affine(*(torch.tensor(part, dtype=torch.float32)[None] for part in (voxels[:2, :2], shift)))
    target = torch.from_numpy(onto_grid(fixed, grid).data)[None, None]
    by_header, found = initial_affines(moving, fixed, target, grid, model(answer), "affine")
    assert np.array_equal(by_header, np.eye(3))
    np.testing.assert_allclose(found, TURN, atol=1e-4)


def test_without_a_network_or_a_wish_the_positions_are_used() -> None:
    image = picture((64, 64), np.diag([1.5, 1.5, 1]))
    grid = covering_grid(image, 1.5, 8)
    target = torch.from_numpy(image.data)[None, None]
    good = Affine(torch.eye(2)[None], torch.zeros(1, 2))
    for hierarchy, start in ((model(None), "affine"), (model(good), "none"), (model(good), "affine")):
        (only,) = initial_affines(image, image, target, grid, hierarchy, start)
        assert np.array_equal(only, np.eye(3))


def test_without_an_affine_network_the_map_is_searched_for() -> None:
    fixed = picture((64, 64), np.diag([1.5, 1.5, 1]))
    moving = Image(np.roll(fixed.data, 3, 1), fixed.affine)
    hierarchy = model(None)
    hierarchy.affine = None
    grid = covering_grid(fixed, 1.5, 8)
    _, found = initial_affines(moving, fixed, torch.from_numpy(fixed.data)[None, None], grid, hierarchy, "affine")
    np.testing.assert_allclose(found[:2, 2] + (found[:2, :2] - np.eye(2)) @ centre(fixed), [0, 4.5], atol=0.8)


@pytest.mark.parametrize("start", ["centers", "affine"])
def test_images_far_from_each_other_begin_centre_on_centre(start: str) -> None:
    fixed = picture((64, 64), np.diag([1.5, 1.5, 1]))
    moving = Image(fixed.data, world(0, (1.5, 1.5), (500.0, -300.0)))
    grid = covering_grid(fixed, 1.5, 8)
    target = torch.from_numpy(fixed.data)[None, None]
    (matrix,) = initial_affines(moving, fixed, target, grid, model(None), start)
    np.testing.assert_allclose(matrix[:2, 2], [500, -300])
    np.testing.assert_allclose(matrix @ [*centre(fixed), 1], [*centre(moving), 1])

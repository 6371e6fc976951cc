"""Slabs and blocks of a head: the initial affine of a part of the anatomy to the whole, and back."""

import itertools
from functools import cache

import numpy as np
import pytest
import torch

from crossmorph.images.image import Image
from crossmorph.networks.hierarchy import Hierarchy, HierarchySpec
from crossmorph.networks.unet import UNetSpec
from crossmorph.registration.initialization import initial_affines
from crossmorph.simulation.anatomy import tissue_volume, volume_affine
from crossmorph.simulation.mri import simulate
from crossmorph.transforms.grid import centre, covering_grid, onto_grid

SHAPE, SPACING = (60, 74, 62), 3.0
PLACES = (0.25, 0.4, 0.5, 0.65, 0.8)  # of the brain's height, the slab's middle
THICKNESSES = (30, 45, 60)  # mm
WHOLE = "whole"
BLOCKS = {
    "back": ((20, 8, 20), (40, 28, 40)),
    "front": ((22, 46, 24), (42, 66, 44)),
    WHOLE: ((0, 0, 0), SHAPE),
}


@cache
def contrasts() -> tuple[Image, Image, np.ndarray]:
    """T2w and T1w of one anatomy, and where the brain is."""
    tissues, rng = tissue_volume(SHAPE, SPACING), np.random.default_rng(0)
    affine = volume_affine(SHAPE, SPACING)
    t2, t1 = (Image(simulate(tissues, name, rng).astype(np.float32), affine) for name in ("t2", "t1"))
    return t2, t1, tissues.sum(0) > 0.5


def turned() -> np.ndarray:
    """Fixed to moving space: 10 degrees about z, 5 about x, and some millimetres."""
    z, x = np.deg2rad(10), np.deg2rad(5)
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    matrix, middle = np.eye(4), centre(contrasts()[1])
    matrix[:3, :3] = about_z @ about_x
    matrix[:3, 3] = middle + np.array([8, -6, 10]) - matrix[:3, :3] @ middle
    return matrix


def cropped(image: Image, low: tuple[int, ...], high: tuple[int, ...]) -> Image:
    affine = image.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    return Image(np.ascontiguousarray(image.data[tuple(map(slice, low, high))]), affine)


def slab(place: float, thickness: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    layers = np.nonzero(contrasts()[2].any((0, 1)))[0]
    middle = layers[0] + place * (layers[-1] - layers[0])
    low, high = (int(np.clip(round(middle + sign * thickness / SPACING / 2), 0, SHAPE[2])) for sign in (-1, 1))
    return (0, 0, low), (*SHAPE[:2], high)


def error(box: tuple[tuple[int, ...], tuple[int, ...]], role: str) -> float:
    """Millimetres to the truth, on average over the brain in the box, of the affine that is found."""
    t2, t1, brain = contrasts()
    moving, fixed = (cropped(t2, *box), t1) if role == "moving" else (t2, cropped(t1, *box))
    truth = turned()
    moving = Image(moving.data, truth @ moving.affine).scaled()
    small = UNetSpec(encoder=(2, 2), decoder=(2, 2), final=())
    hierarchy = Hierarchy(HierarchySpec(dim=3, coarse=small, translator=small, fine=small))
    fixed = fixed.scaled()
    grid = covering_grid(fixed, SPACING, hierarchy.divisor)
    target = torch.from_numpy(onto_grid(fixed, grid).data)[None, None]
    found = initial_affines(moving, fixed, target, grid, hierarchy, "affine")[-1]
    seen = np.zeros_like(brain)
    seen[tuple(map(slice, *box))] = True
    points = t1.affine @ np.vstack([np.argwhere(seen & brain).T, np.ones((seen & brain).sum())])
    return float(np.linalg.norm(((found - truth) @ points)[:3], axis=0).mean())


@pytest.mark.parametrize(
    ("box", "role"),
    [(slab(0.5, 45), "moving"), (slab(0.65, 45), "fixed"), (BLOCKS["back"], "moving"), (BLOCKS["front"], "fixed")],
    ids=["slab", "slab fixed", "back", "front fixed"],
)
def test_a_part_of_the_head_finds_its_place(box, role):
    assert error(box, role) < 2.5


@pytest.mark.slow
@pytest.mark.parametrize("role", ["moving", "fixed"])
@pytest.mark.parametrize(("place", "thickness"), list(itertools.product(PLACES, THICKNESSES)))
def test_slabs_at_five_places_of_three_thicknesses(place, thickness, role):
    assert error(slab(place, thickness), role) < 3


@pytest.mark.slow
@pytest.mark.parametrize("role", ["moving", "fixed"])
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_and_the_whole(name, role):
    assert error(BLOCKS[name], role) < 2.5

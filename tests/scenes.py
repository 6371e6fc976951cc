"""Pairs with a known answer for the peers: a scene of blobs in the world, seen by two grids in two contrasts."""

import numpy as np

from crossmorph.images.image import Image
from crossmorph.transforms.warp import Warp

SETTINGS = {"2d": ((64, 56), (1.5, 2.0)), "3d": ((28, 26, 24), (2.0, 2.5, 3.0))}
TURN = 0.5  # radians between the axes of the grid and those of the world
CENTRE = np.array([12.0, -30.0, 8.0])  # mm, of everything there is to see
BLOBS = 24


def oblique(which: str, flip: bool = False) -> np.ndarray:
    """Affine of a turned, anisotropic grid about the centre; left-handed if flipped."""
    shape, spacing = SETTINGS[which]
    dim = len(shape)
    turn = np.eye(dim)
    turn[:2, :2] = [[np.cos(TURN), -np.sin(TURN)], [np.sin(TURN), np.cos(TURN)]]
    affine = np.eye(dim + 1)
    affine[:dim, :dim] = turn * np.array(spacing) * np.where(np.arange(dim) == 0, 1 - 2 * flip, 1)
    affine[:dim, dim] = CENTRE[:dim] - affine[:dim, :dim] @ (np.array(shape) - 1) / 2
    return affine


def world(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    dim = len(shape)
    points = np.tensordot(affine[:dim, :dim], np.indices(shape), 1)
    return points + affine[:dim, dim].reshape(-1, *[1] * dim)


def scene(points: np.ndarray) -> np.ndarray:
    """Blobs in the world, the same at every call: intensities at points (mm)."""
    rng = np.random.default_rng(0)
    dim = len(points)
    total = np.zeros(points.shape[1:])
    for _ in range(BLOBS):
        offset = points - (CENTRE[:dim] + rng.uniform(-28, 28, dim)).reshape(-1, *[1] * dim)
        total += rng.uniform(0.3, 1) * np.exp(-(offset**2).sum(0) / (2 * rng.uniform(5, 9) ** 2))
    return total / total.max()


def pull(points: np.ndarray) -> np.ndarray:
    """Where a fixed point lies in the moving image: scaled, turned and shifted about the centre."""
    dim = len(points)
    matrix = np.eye(dim) * 1.06
    matrix[:2, :2] = 1.06 * np.array([[np.cos(0.12), -np.sin(0.12)], [np.sin(0.12), np.cos(0.12)]])
    centre = CENTRE[:dim].reshape(-1, *[1] * dim)
    return np.tensordot(matrix, points - centre, 1) + centre + np.array([4.0, -3.0, 2.0])[:dim].reshape(centre.shape)


def pair(which: str, flip: bool = False) -> tuple[Image, Image]:
    """Moving and fixed image of the scene, in inverted contrast, on different grids."""
    shape, _ = SETTINGS[which]
    affine = oblique(which, flip)
    straight = np.eye(len(shape) + 1) * 2.0
    straight[-1, -1] = 1
    larger = tuple(size + 6 for size in shape)
    straight[:-1, -1] = CENTRE[: len(shape)] - (np.array(larger) - 1)
    moving = scene(world(straight, larger))
    fixed = scene(pull(world(affine, shape)))
    return Image(moving.astype(np.float32), straight), Image((1 - fixed**0.7).astype(np.float32), affine)


def error_mm(warp: Warp) -> float:
    """Mean distance to the truth in the inner half of the grid."""
    points = world(warp.affine, warp.shape)
    distance = np.linalg.norm(points + warp.displacement - pull(points), axis=0)
    return float(distance[tuple(slice(size // 4, -size // 4) for size in warp.shape)].mean())

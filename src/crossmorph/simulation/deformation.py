"""Random deformations of an anatomy, and the true field between two of them.

A displacement u has the shape (dim, *space), in voxels of its own grid, component k along array axis k, and pulls back:
warped(p) = source(p + u(p)).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import scipy.linalg
import scipy.ndimage
from jaxtyping import Float

from crossmorph.errors import InputError


@dataclass(frozen=True)
class Difficulty:
    """How far apart and how noisy simulated images are.

    Attributes:
        shift: Largest shift along each axis, voxels.
        rotation: Largest rotation about the centre, degrees.
        scale: Largest relative change of size along each axis.
        elastic_sigma: Standard deviation of the Gaussian that smooths the elastic part, voxels.
        elastic_amplitude: Range of the elastic part's largest displacement, voxels.
        noise: Standard deviation of the noise, relative to the reference tissue's signal.
        bias: Range of the bias field over the brain: 0.2 spans 0.90 to 1.10.
    """

    shift: float = 6.0
    rotation: float = 10.0
    scale: float = 0.10
    elastic_sigma: float = 12.0
    elastic_amplitude: tuple[float, float] = (3.5, 7.0)
    noise: float = 0.03
    bias: float = 0.20


SMOOTH = Difficulty()
ROUGH = Difficulty(12.0, 20.0, 0.15, elastic_sigma=6.0, elastic_amplitude=(3.5, 3.5), noise=0.05)
MIN_JACOBIAN = 0.3  # a random deformation that comes nearer to folding is drawn again


# --- anatomy ---------------------------------------------------------------------------------------------------------


def warp_fractions(
    fractions: Float[np.ndarray, "tissue *space"], u: Float[np.ndarray, "dim *space"]
) -> Float[np.ndarray, "tissue *space"]:
    """Deform tissue fractions by cubic splines: `warped(p) = fractions(p + u(p))`, background outside."""
    where = np.indices(u.shape[1:]) + u
    warped = np.stack([scipy.ndimage.map_coordinates(tissue, where, order=3, cval=0.0) for tissue in fractions])
    warped = np.clip(warped, 0, 1)  # cubic splines overshoot
    return np.asarray(warped / np.maximum(warped.sum(0), 1))


# --- deformation -----------------------------------------------------------------------------------------------------


def random_deformation(
    rng: np.random.Generator, shape: Sequence[int], difficulty: Difficulty = SMOOTH
) -> Float[np.ndarray, "dim *space"]:
    """Draw an invertible displacement: a shift, rotation and scaling about the centre, plus an elastic part.

    The elastic part is white noise under a Gaussian filter, scaled to its largest displacement.

    Args:
        rng: Source of randomness; drawn from again until the Jacobian determinant is above 0.3 everywhere.
        shape: Shape of the grid, 2-D or 3-D.
        difficulty: Ranges of the parameters; each is uniform.

    Returns:
        Displacement in voxels, float64.
    """
    dim = len(shape)
    column = (slice(None), *[None] * dim)
    centred = np.indices(shape) - (np.array(shape)[column] - 1) / 2
    while True:
        matrix, shift = _random_affine(rng, dim, difficulty)
        noise = rng.standard_normal((dim, *shape))
        sigma = (0, *[difficulty.elastic_sigma] * dim)
        elastic = scipy.ndimage.gaussian_filter(noise, sigma, mode="wrap")
        elastic *= rng.uniform(*difficulty.elastic_amplitude) / np.linalg.norm(elastic, axis=0).max()
        u: np.ndarray = np.tensordot(matrix - np.eye(dim), centred, axes=1) + shift[column] + elastic
        if _jacobian_determinant(u).min() > MIN_JACOBIAN:
            return u


def _random_affine(rng: np.random.Generator, dim: int, difficulty: Difficulty) -> tuple[np.ndarray, np.ndarray]:
    """A matrix, rotation times scaling, and a shift in voxels."""
    generator = np.zeros((dim, dim))
    for i, j in combinations(range(dim), 2):
        angle = np.deg2rad(rng.uniform(-difficulty.rotation, difficulty.rotation))
        generator[i, j], generator[j, i] = -angle, angle
    scaling = np.diag(1 + rng.uniform(-difficulty.scale, difficulty.scale, dim))
    return scipy.linalg.expm(generator) @ scaling, rng.uniform(-difficulty.shift, difficulty.shift, dim)


def _jacobian_determinant(u: Float[np.ndarray, "dim *space"]) -> Float[np.ndarray, "*space"]:
    """det(I + du/dp) by central differences."""
    gradient = np.stack([np.stack(np.gradient(component)) for component in u])
    jacobian = np.moveaxis(gradient, (0, 1), (-2, -1)) + np.eye(len(u))
    return np.asarray(np.linalg.det(jacobian))


def affine_of(displacement: Float[np.ndarray, "dim *space"]) -> Float[np.ndarray, "n n"]:
    """The affine map of voxel indices behind an affine displacement."""
    dim = len(displacement)
    flat = displacement.reshape(dim, -1)
    next_along = [math.prod(displacement.shape[axis + 1 :]) for axis in range(1, dim + 1)]
    matrix = np.eye(dim + 1)
    matrix[:dim, :dim] += flat[:, next_along] - flat[:, :1]
    matrix[:dim, dim] = flat[:, 0]
    return matrix


def true_field(
    u_moving: Float[np.ndarray, "dim *space"],
    u_fixed: Float[np.ndarray, "dim *space"],
    tolerance: float = 1e-4,
) -> Float[np.ndarray, "dim *space"]:
    """The displacement u that takes one deformed image of an anatomy to another: `moving(p + u(p)) = fixed(p)`.

    With `moving(p) = S(p + u_moving(p))` and `fixed(p) = S(p + u_fixed(p))`, the point q = p + u(p) solves
    `q + u_moving(q) = p + u_fixed(p)`. With the affine part of u_moving split off, u_moving(q) = A q + b + e(q), the
    iteration `q <- (I + A)^-1 (p + u_fixed(p) - b - e(q))` converges where e alone does not fold; e between voxels is
    its cubic spline, and beyond the grid its mirror image.

    Args:
        u_moving: Displacement of the moving image, voxels.
        u_fixed: Displacement of the fixed image on a grid of the same shape, voxels.
        tolerance: Largest error of the equation, voxels.

    Returns:
        Displacement on the fixed grid, voxels, float64.

    Raises:
        InputError: If the iteration does not converge, so u_moving is too close to folding.
    """
    grid = np.indices(u_fixed.shape[1:])
    matrix, offset, elastic = _split_affine(u_moving)
    splines = [scipy.ndimage.spline_filter(component, 3, mode="mirror") for component in elastic]
    inverse = np.linalg.inv(np.eye(len(grid)) + matrix)
    target = (grid + u_fixed).reshape(len(grid), -1) - offset[:, None]
    q = inverse @ target
    # Linear interpolation comes close, at a fifth of the cost of a cubic one.
    for samples, order, enough in ((elastic, 1, max(tolerance, 0.01)), (splines, 3, tolerance)):
        left = np.arange(q.shape[1])  # the points that have yet to converge, of a million in a volume
        for _ in range(200):
            at = q[:, left]
            bend = [scipy.ndimage.map_coordinates(e, at, order=order, mode="mirror", prefilter=False) for e in samples]
            residual = target[:, left] - (at + matrix @ at + np.stack(bend))
            far = np.linalg.norm(residual, axis=0) >= enough
            left = left[far]
            if not left.size:
                break
            q[:, left] += inverse @ residual[:, far]
        else:
            raise InputError("the deformation of the moving image could not be inverted; expected one without folds")
    return q.reshape(grid.shape) - grid


def _split_affine(u: Float[np.ndarray, "dim *space"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least squares u(p) = A p + b + e(p): A, b and e on the grid."""
    grid = np.indices(u.shape[1:]).reshape(len(u), -1)
    design = np.vstack([grid, np.ones(grid.shape[1])])
    solution = np.linalg.solve(design @ design.T, design @ u.reshape(len(u), -1).T).T
    return solution[:, :-1], solution[:, -1], u - (solution @ design).reshape(u.shape)

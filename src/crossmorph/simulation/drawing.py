"""Random parts of simulated images: deformations, layers of a head, bias field and noise, as tensors.

Training pairs and test pairs of people are drawn from them.
"""

import math
from functools import cache
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.ndimage
import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

Range = tuple[float, float]
SOFTNESS = 0.6  # mm over which one layer of the head gives way to the next


class Lattice(NamedTuple):
    """The grid of the images: voxels along each axis, and the millimetres of one."""

    shape: tuple[int, ...]
    spacing: float


class Placement(BaseModel):
    """Ranges of the affine part of a deformation: shift in voxels, rotation in degrees in each plane, scale.

    Each deformation reaches for a fifth to the whole of all three.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    shift: float = Field(default=8.0, ge=0)
    rotation: float = Field(default=14.0, ge=0, le=180)
    scale: Range = (0.87, 1.15)


def random_displacement(
    rng: np.random.Generator, shape: tuple[int, ...], placement: Placement, sigma: float, strain: float
) -> Float[Tensor, "1 dim *space"]:
    """A random placement about the centre, plus Gaussian-smooth noise scaled to its largest displacement."""
    dim = len(shape)
    column = (1, dim, *[1] * dim)
    reach = rng.uniform(0.2, 1.0)
    planes = list(combinations(range(dim), 2))
    generator = np.zeros((dim, dim))
    for (i, j), angle in zip(planes, rng.uniform(-placement.rotation, placement.rotation, len(planes)), strict=True):
        generator[j, i] = math.radians(angle) * reach
        generator[i, j] = -generator[j, i]
    size = math.exp(rng.uniform(*np.log(placement.scale)) * reach)
    stretch = np.eye(dim) + rng.uniform(-0.05, 0.05, (dim, dim))
    matrix = torch.tensor(scipy.linalg.expm(generator) @ stretch * size, dtype=torch.float32)
    shift = torch.tensor(rng.uniform(-placement.shift, placement.shift, dim) * reach, dtype=torch.float32)
    centred = _voxels(shape) - (torch.tensor(shape).view(column) - 1) / 2
    placed = torch.einsum("ij,bj...->bi...", matrix, centred) - centred + shift.view(column)
    elastic = smooth_noise(rng, dim, shape, sigma)
    return placed + elastic * (strain * sigma * size / elastic.square().sum(0).max().sqrt())


def smooth_noise(
    rng: np.random.Generator, channels: int, shape: tuple[int, ...], sigma: float
) -> Float[Tensor, "channels *space"]:
    """White noise under a periodic Gaussian filter whose width is in voxels."""
    noise = torch.from_numpy(rng.standard_normal((channels, *shape), dtype=np.float32))
    for axis, size in enumerate(shape, start=1):
        noise = (noise.movedim(axis, -1) @ gaussian_matrix(size, round(sigma, 1))).movedim(-1, axis)
    return noise


@cache
def gaussian_matrix(size: int, sigma: float) -> Float[Tensor, "size size"]:
    """Matrix of a Gaussian filter along a periodic axis."""
    return torch.from_numpy(scipy.ndimage.gaussian_filter1d(np.eye(size, dtype=np.float32), sigma, mode="wrap"))


def random_turn(rng: np.random.Generator) -> "Turn":
    """Each axis mirrored by an even chance, and both exchanged by another."""
    axes = tuple(int(axis) for axis in np.flatnonzero(rng.random(2) < 0.5) + 1)
    return Turn(axes, bool(rng.random() < 0.5))


class Turn(NamedTuple):
    """A mirroring and transposition of the last two axes of ``(channel, *space)``."""

    flipped: tuple[int, ...]
    transposed: bool

    def __call__(self, image: Tensor) -> Tensor:
        """The image, turned."""
        image = torch.flip(image, self.flipped)
        return image.transpose(1, 2) if self.transposed else image


class Head(NamedTuple):
    """Outer bounds of the layers around a brain, mm from it: fluid, inner table, marrow, outer table, fat, skin."""

    bounds: tuple[float, ...]


def random_head(rng: np.random.Generator) -> Head:
    """Layers of random thickness."""
    thickness = rng.uniform([0.0, 1.0, 0.5, 1.0, 1.0, 1.0], [3.0, 2.5, 4.0, 2.5, 9.0, 3.0])
    return Head(tuple(np.cumsum(thickness)))


def head_layers(
    rng: np.random.Generator, distance: Float[Tensor, "*space"], head: Head | None
) -> Float[Tensor, "layers *space"] | None:
    """Parts of each voxel that are the layers of a head, whose thickness varies smoothly from place to place."""
    if head is None:
        return None
    uneven = smooth_noise(rng, 1, tuple(distance.shape), 10.0)[0]
    distance = distance * torch.exp(uneven * (rng.uniform(0, 0.25) / uneven.abs().max()))
    beyond = [torch.sigmoid((distance - bound) / SOFTNESS) for bound in (0.0, *head.bounds)]
    return torch.stack([inner - outer for inner, outer in pairwise(beyond)])


def biased(rng: np.random.Generator, image: Float[Tensor, "*space"], bias: Range) -> Float[Tensor, "*space"]:
    """The image under a smooth bias field whose range over the image is drawn from ``bias``."""
    field = smooth_noise(rng, 1, tuple(image.shape), image.shape[0] / 4)[0]
    return image * (1 + rng.uniform(*bias) * ((field - field.min()) / (field.max() - field.min()) - 0.5))


def noisy(
    rng: np.random.Generator, image: Float[Tensor, "*space"], brightest: float, noise: Range, gamma: float
) -> Float[Tensor, "*space"]:
    """The image under Rician noise, scaled to [0, 1] and raised to a power.

    Args:
        rng: source of randomness.
        image: without noise.
        brightest: signal of the brightest tissue, of which the noise is a part.
        noise: range of its standard deviation; small values are drawn more often.
        gamma: the image is raised to ``exp(+-gamma)``.
    """
    low, high = noise
    sigma = (low + (high - low) * rng.random() ** 2) * brightest
    real, imaginary = torch.from_numpy(rng.standard_normal((2, *image.shape), dtype=np.float32)) * sigma
    return scaled(torch.hypot(image + real, imaginary)) ** math.exp(rng.uniform(-gamma, gamma))


def outside_signal(rng: np.random.Generator, layers: Float[Tensor, "layers *space"]) -> Float[Tensor, "*space"]:
    """Signal of a head: a random one for each layer, mostly dark in the skull's two tables, mottled in fat and skin."""
    signals = rng.uniform(0.0, 1.3, len(layers))
    if rng.random() < 0.8:
        signals[[1, 3]] *= 0.15
    mottle = smooth_noise(rng, 1, tuple(layers.shape[1:]), rng.uniform(1.5, 6.0))[0]
    mottled = 1 + rng.uniform(0, 0.6) * mottle / mottle.abs().max()
    return torch.einsum("l,l...->...", torch.tensor(signals, dtype=torch.float32), layers) * mottled


def scaled(image: Float[Tensor, "*space"]) -> Float[Tensor, "*space"]:
    """To [0, 1] between the 0.5 and 99.5 percentiles of every second voxel along each axis (a part of the time)."""
    low, high = torch.quantile(image[(slice(None, None, 2),) * image.ndim].flatten(), torch.tensor([0.005, 0.995]))
    return ((image - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)


def _voxels(shape: tuple[int, ...]) -> Float[Tensor, "1 dim *space"]:
    """Indices of the voxels of a grid."""
    axes = [torch.arange(size, dtype=torch.float32) for size in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]

"""An endless stream of simulated pairs, drawn while training: any contrast, with or without a head around the brain.

Each pair is one anatomy, a slice of the tissue maps or all of them, under two random deformations, and each image of it
gets a contrast, a bias field and noise of its own. What the objectives compare are not these images but the tissue
fractions behind them, which are the same anatomies free of noise and contrast (Hoffmann et al., SynthMorph, IEEE TMI
2022, doi:10.1109/TMI.2021.3116879, trains on the overlap of the labels behind synthetic images). No true deformation is
used.
"""

import math
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import scipy.linalg
import scipy.ndimage
import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from crossmorph import spatial
from crossmorph.data.anatomy import tissue_slice, tissue_volume
from crossmorph.data.people_spec import PeopleSpec
from crossmorph.data.phantom import split_levels
from crossmorph.data.samples import Samples
from crossmorph.data.signals import signals_of
from crossmorph.data.simulation import RELAXATION, TISSUES, signal

Acquisition = Literal["t1", "t2", "pd", "flair", "ct", "random"]
Range = tuple[float, float]

FINENESS = 2  # voxels of the source maps per voxel of the images, so that linear interpolation does not blur
MARGIN = 48.0  # mm that the source maps reach beyond the images, for heads and shifts
FARTHEST = 40.0  # mm outside the brain; beyond it the distance is held
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


class SynthesisSpec(BaseModel):
    """What to draw. Every range is uniform unless said.

    Attributes:
        anatomies: folder of label maps of people, made by ``prepare anatomies``, whose training split is drawn from;
            None draws from the tissue maps of one template.
        people: what is drawn of people, where ``anatomies`` is given.
        moving: contrasts of moving images, drawn with equal chance; ``random`` gives every tissue a random signal.
        fixed: contrasts of fixed images.
        alike: chance that both images have one contrast.
        travel: voxels along each axis that the grid's centre may lie from the anatomy's, the same for both images: a
            grid smaller than the anatomy then shows any part of it.
        near: placement of each of the two images; shear and elastic parts come on top.
        far: placement of the moving image while the affine network learns.
        elastic_sigma: width of the Gaussian that smooths the elastic part, voxels.
        elastic_strain: largest elastic displacement of an image as a multiple of its ``elastic_sigma``.
        noise: standard deviation of the Rician noise, of the brightest tissue; small values are drawn more often.
        bias: range of the bias field over the slice.
        gamma: each image is raised to ``exp(+-gamma)``.
        heads: chance that a head surrounds the brain; of people, an image that shows more than a brain alone, where no
            head is labelled.
        coarse: chance that an image is blurred along an axis, as thick or few voxels do; of people, that it has slices.
        turned: chance that both images are mirrored or transposed alike; square slices only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    anatomies: Path | None = None
    people: PeopleSpec = PeopleSpec()
    moving: tuple[Acquisition, ...] = Field(default=("t2",), min_length=1)
    fixed: tuple[Acquisition, ...] = Field(default=("t1",), min_length=1)
    alike: float = Field(default=0.0, ge=0, le=1)
    travel: float = Field(default=0.0, ge=0)
    near: Placement = Placement()
    far: Placement = Placement(shift=40.0, rotation=50.0, scale=(0.62, 1.6))
    elastic_sigma: Range = (5.0, 14.0)
    elastic_strain: Range = (0.1, 0.58)
    noise: Range = (0.0, 0.09)
    bias: Range = (0.0, 0.4)
    gamma: float = Field(default=0.2, ge=0)
    heads: float = Field(default=0.0, ge=0, le=1)
    coarse: float = Field(default=0.0, ge=0, le=1)
    turned: float = Field(default=0.0, ge=0, le=1)


def synthesise(
    spec: SynthesisSpec, lattice: Lattice, seed: int, stage: int, first: int, count: int, far: bool
) -> Samples:
    """Pairs ``first`` to ``first + count - 1`` of a stage's stream; each depends on (seed, stage, its number) alone.

    Args:
        spec: what to draw.
        lattice: on what grid; of two axes: slices, of three: volumes.
        seed: of the run.
        stage: index of the stage.
        first: number of the first pair.
        count: pairs.
        far: place the moving images by ``spec.far``.
    """
    pairs = [
        _pair(spec, lattice, np.random.default_rng([seed, stage, 2, number]), far)
        for number in range(first, first + count)
    ]
    return Samples(*(torch.stack(column) for column in zip(*pairs, strict=True)))


def _pair(
    spec: SynthesisSpec, lattice: Lattice, rng: np.random.Generator, far: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = lattice.shape
    levels = split_levels("train") if len(shape) == 2 else (None,)
    source = _source(lattice, levels[rng.integers(len(levels))])
    head = random_head(rng) if rng.random() < spec.heads else None
    strain, sigma = rng.uniform(*spec.elastic_strain), rng.uniform(*spec.elastic_sigma)
    # Now and then the fixed image has lost the head that the moving one keeps.
    heads = [head, head if rng.random() < 0.9 else None]
    images, truths = [], []
    signals = [_tissue_signals(rng, contrasts[rng.integers(len(contrasts))]) for contrasts in (spec.moving, spec.fixed)]
    if rng.random() < spec.alike:
        signals[1] = signals[0]
    dim = len(shape) if spec.travel else 0
    centre = torch.tensor(rng.uniform(-spec.travel, spec.travel, dim), dtype=torch.float32)
    turn = random_turn(rng) if rng.random() < spec.turned else None
    for role in (0, 1):
        placement = spec.far if far and role == 0 else spec.near
        deformation = random_displacement(rng, shape, placement, sigma, strain)
        if spec.travel:
            deformation = deformation + centre.view(1, -1, *[1] * len(shape))
        maps = spatial.warp(source[None], _to_source(deformation, lattice.spacing))[0]
        image = _acquire(spec, rng, maps[:3], head_layers(rng, maps[3], heads[role]), signals[role])
        truth = maps[:3]
        if turn is not None:
            image, truth = turn(image), turn(truth)
        images.append(image)
        truths.append(truth)
    return images[0], images[1], truths[0], truths[1]


# --- anatomy ---------------------------------------------------------------------------------------------------------


def _margin(spacing: float) -> int:
    return math.ceil(MARGIN / spacing)


@cache
def _source(lattice: Lattice, level: float | None) -> Float[Tensor, "4 *space"]:
    """CSF, grey and white matter and the distance outside the brain (mm), of a slice or all, finely sampled."""
    margin = _margin(lattice.spacing)
    fractions = tissue_volume(lattice.shape, lattice.spacing) if level is None else tissue_slice(level)
    fractions = np.pad(fractions, [(0, 0)] + [(margin, margin)] * len(lattice.shape))
    fine = np.stack([scipy.ndimage.zoom(f, FINENESS, order=3, grid_mode=True, mode="nearest") for f in fractions])
    fine = np.clip(fine, 0, 1)
    fine /= np.maximum(fine.sum(0), 1)
    distance = scipy.ndimage.distance_transform_edt(fine.sum(0) < 0.5) * lattice.spacing / FINENESS
    return torch.from_numpy(np.concatenate([fine, np.minimum(distance, FARTHEST)[None]]).astype(np.float32))


def _to_source(displacement: Float[Tensor, "1 dim *space"], spacing: float) -> Float[Tensor, "1 dim *space"]:
    """A displacement of the image grid as one that looks up the finer, wider source maps."""
    grid = spatial.identity_grid(tuple(displacement.shape[2:]))
    return (grid + displacement + _margin(spacing) + 0.5) * FINENESS - 0.5 - grid


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
    centred = spatial.identity_grid(shape) - (torch.tensor(shape).view(column) - 1) / 2
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


# --- heads -----------------------------------------------------------------------------------------------------------


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


# --- acquisition -----------------------------------------------------------------------------------------------------


def _acquire(
    spec: SynthesisSpec,
    rng: np.random.Generator,
    fractions: Float[Tensor, "3 *space"],
    layers: Float[Tensor, "layers *space"] | None,
    tissue_signals: list[float],
) -> Float[Tensor, "1 *space"]:
    """An image of an anatomy, in [0, 1] as :func:`crossmorph.image.scale_intensity` leaves it."""
    signals = torch.tensor(tissue_signals, dtype=torch.float32)
    shape = tuple(fractions.shape[1:])
    image = torch.einsum("t,t...->...", signals, fractions)
    if layers is not None:
        image = image + outside_signal(rng, layers * (1 - fractions.sum(0)).clamp(0, 1))
    image = biased(spec, rng, image)
    if rng.random() < spec.coarse:
        axis = int(rng.integers(len(shape)))
        blur = gaussian_matrix(shape[axis], round(rng.uniform(0.4, 1.3), 1))
        image = (image.movedim(axis, -1) @ blur).movedim(-1, axis)
    return noisy(spec, rng, image, float(signals.max()))[None]


def biased(spec: SynthesisSpec, rng: np.random.Generator, image: Float[Tensor, "*space"]) -> Float[Tensor, "*space"]:
    """The image under a smooth bias field."""
    bias = smooth_noise(rng, 1, tuple(image.shape), image.shape[0] / 4)[0]
    return image * (1 + rng.uniform(*spec.bias) * ((bias - bias.min()) / (bias.max() - bias.min()) - 0.5))


def noisy(
    spec: SynthesisSpec, rng: np.random.Generator, image: Float[Tensor, "*space"], brightest: float
) -> Float[Tensor, "*space"]:
    """The image under Rician noise relative to the brightest tissue, scaled to [0, 1] and raised to a power."""
    low, high = spec.noise
    noise = (low + (high - low) * rng.random() ** 2) * brightest
    real, imaginary = torch.from_numpy(rng.standard_normal((2, *image.shape), dtype=np.float32)) * noise
    return scaled(torch.hypot(image + real, imaginary)) ** math.exp(rng.uniform(-spec.gamma, spec.gamma))


def _tissue_signals(rng: np.random.Generator, contrast: Acquisition) -> list[float]:
    """Signals of CSF, grey and white matter, the brightest 1."""
    if contrast == "random":
        drawn = rng.uniform(0.0, 1.0, len(TISSUES))
        return list(drawn / drawn.max())
    if contrast == "ct":
        drawn = signals_of("ct", ("csf", "cortex", "white matter"))
        return list(drawn / drawn.max())
    signals = [signal(RELAXATION[tissue], contrast) for tissue in TISSUES]
    return [value / max(signals) for value in signals]


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

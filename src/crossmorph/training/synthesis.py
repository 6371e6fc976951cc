"""An endless stream of simulated pairs, drawn while training: any contrast, with or without a head around the brain.

Each pair is one anatomy, a slice of the tissue maps or all of them, under two random deformations, and each image of it
gets a contrast, a bias field and noise of its own. What the objectives compare are not these images but the tissue
fractions behind them, which are the same anatomies free of noise and contrast (Hoffmann et al., SynthMorph, IEEE TMI
2022, doi:10.1109/TMI.2021.3116879, trains on the overlap of the labels behind synthetic images). No true deformation is
used.
"""

import math
from functools import cache
from pathlib import Path

import numpy as np
import scipy.linalg
import scipy.ndimage
import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from crossmorph.functional import spatial
from crossmorph.simulation.anatomy import split_levels, tissue_slice, tissue_volume
from crossmorph.simulation.drawing import (
    Lattice,
    Placement,
    Range,
    biased,
    gaussian_matrix,
    head_layers,
    noisy,
    outside_signal,
    random_displacement,
    random_head,
    random_turn,
)
from crossmorph.simulation.mri import RELAXATION, TISSUES, signal
from crossmorph.simulation.tissue_signals import Acquisition, signals_of
from crossmorph.training.batch import Samples
from crossmorph.training.people_spec import PeopleSpec

FINENESS = 2  # voxels of the source maps per voxel of the images, so that linear interpolation does not blur
MARGIN = 48.0  # mm that the source maps reach beyond the images, for heads and shifts
FARTHEST = 40.0  # mm outside the brain; beyond it the distance is held


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


# --- acquisition -----------------------------------------------------------------------------------------------------


def _acquire(
    spec: SynthesisSpec,
    rng: np.random.Generator,
    fractions: Float[Tensor, "3 *space"],
    layers: Float[Tensor, "layers *space"] | None,
    tissue_signals: list[float],
) -> Float[Tensor, "1 *space"]:
    """An image of an anatomy, in [0, 1] as :func:`crossmorph.images.image.scale_intensity` leaves it."""
    signals = torch.tensor(tissue_signals, dtype=torch.float32)
    shape = tuple(fractions.shape[1:])
    image = torch.einsum("t,t...->...", signals, fractions)
    if layers is not None:
        image = image + outside_signal(rng, layers * (1 - fractions.sum(0)).clamp(0, 1))
    image = biased(rng, image, spec.bias)
    if rng.random() < spec.coarse:
        axis = int(rng.integers(len(shape)))
        blur = gaussian_matrix(shape[axis], round(rng.uniform(0.4, 1.3), 1))
        image = (image.movedim(axis, -1) @ blur).movedim(-1, axis)
    return noisy(rng, image, float(signals.max()), spec.noise, spec.gamma)[None]


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

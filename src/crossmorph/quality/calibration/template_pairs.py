"""Pairs of one template, of many kinds: easy, hard, and pairs that cannot be registered.

The true field is known of all pairs but those that cannot be registered. Slices are of the levels of the split; of
volumes there is one brain, so that only the random numbers differ. Anatomies, fields and contrasts are those of
:mod:`crossmorph.simulation`, on the model's grid at its spacing.
"""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import scipy.linalg
import scipy.ndimage
from jaxtyping import Float
from numpy import ndarray

from crossmorph.images.image import Image
from crossmorph.quality.calibration.other_objects import replaced
from crossmorph.quality.calibration.simulated_pair import (
    CANNOT_BE_REGISTERED,
    LESIONS,
    RADIUS,
    Setting,
    SimulatedPair,
    chosen,
    with_lesion,
)
from crossmorph.simulation.anatomy import SPACING, split_levels, tissue_slice, tissue_volume
from crossmorph.simulation.deformation import ROUGH, SMOOTH, Difficulty, random_deformation, true_field, warp_fractions
from crossmorph.simulation.head_layers import surround
from crossmorph.simulation.mri import CONTRASTS, Contrast, simulate

# How often each kind is drawn, relative to the others. Heads and levels exist of slices only.
KINDS = {
    "smooth": 4.0,
    "rough": 3.0,
    "wild": 3.0,
    "far": 3.0,
    "turned": 2.5,
    "noisy": 2.0,
    "heads": 2.0,
    "one head": 2.0,
    "other level": 2.0,
    "upside down": 1.0,
    "object": 1.5,
    "two objects": 1.5,
    "noise": 1.2,
    "pattern": 0.6,
}
SLICES_ONLY = ("heads", "one head")
# mm at least between the levels of a pair of "other level": levels are 1.5 mm apart and drawn from a split.
MIN_DISTANCE = 28.5
MARGIN = 32  # voxels of 1.5 mm, around the slices of heads and of "far"
SCANNED: tuple[Contrast, ...] = ("t1", "t2", "pd", "flair")


def draw_template(setting: Setting, rng: np.random.Generator) -> SimulatedPair:
    """A pair of the template."""
    kind = chosen(rng, {name: weight for name, weight in KINDS.items() if setting.dim == 2 or name not in SLICES_ONLY})
    contrasts = _contrasts(rng, SCANNED if kind in SLICES_ONLY else CONTRASTS)
    difficulty = _difficulty(rng, kind, setting.spacing)
    brains = _anatomies(rng, kind, setting)
    shape = brains[0].shape[1:]
    moving_u = _displacement(rng, kind, shape, difficulty)
    fixed_u = random_deformation(rng, shape, difficulty)
    deformed = [warp_fractions(*pair) for pair in zip(brains, (moving_u, fixed_u), strict=True)]
    images = [simulate(f, contrast, rng, difficulty) for f, contrast in zip(deformed, contrasts, strict=True)]
    images = replaced(rng, kind, images)
    truth = None if kind in CANNOT_BE_REGISTERED else true_field(moving_u, fixed_u) * setting.spacing
    affine = _affine(shape, setting.spacing)
    tissue = deformed[1][:3].sum(0) > 0.5
    moving, fixed = (Image(data, affine) for data in images)
    pair = SimulatedPair(kind, moving, fixed, truth, tissue, np.zeros(tissue.shape, bool))
    has_lesion = truth is not None and tissue.any() and rng.random() < LESIONS
    return with_lesion(pair, rng, rng.uniform(*RADIUS)) if has_lesion else pair


def _contrasts(rng: np.random.Generator, known: tuple[Contrast, ...]) -> tuple[Contrast, Contrast]:
    """T2w to T1w now and then, else any two."""
    if rng.random() < 0.4:
        return "t2", "t1"
    first, second = rng.integers(len(known), size=2)
    return known[first], known[second]


def _difficulty(rng: np.random.Generator, kind: str, spacing: float) -> Difficulty:
    """In voxels of the model, the same in millimetres whatever their size."""
    base = ROUGH if kind == "rough" else SMOOTH
    if kind == "wild":
        sigma = rng.uniform(7, 14)
        strain = (0.4 * sigma, 0.62 * sigma)
        base = Difficulty(shift=16.0, rotation=30.0, scale=0.25, elastic_sigma=sigma, elastic_amplitude=strain)
    voxels = SPACING / spacing
    low, high = base.elastic_amplitude
    return replace(
        base,
        shift=base.shift * voxels,
        elastic_sigma=base.elastic_sigma * voxels,
        elastic_amplitude=(low * voxels, high * voxels),
        noise=rng.uniform(0.12, 0.4) if kind == "noisy" else rng.uniform(0.01, 0.09),
        bias=rng.uniform(0.1, 0.4),
    )


def _anatomies(rng: np.random.Generator, kind: str, setting: Setting) -> tuple[ndarray, ndarray]:
    """Tissue fractions of the moving and of the fixed image before they are deformed."""
    if len(setting.shape) == 3:
        brain = _brain(setting.shape, setting.spacing)
        return (_slab(brain, -1), _slab(brain, 1)) if kind == "other level" else (brain, brain)
    levels = split_levels(setting.split)
    level = float(rng.choice(levels))
    grid = (setting.shape[0], setting.shape[1]), setting.spacing
    brain = tissue_slice(level, *grid)
    if kind == "other level":
        apart = [z for z in levels if abs(z - level) >= MIN_DISTANCE]
        nearest = min(apart, key=lambda z: abs(z - level)) if apart else max(levels, key=lambda z: abs(z - level))
        return tissue_slice(nearest, *grid), brain
    margin = MARGIN * math.ceil(SPACING / setting.spacing)
    padded = np.pad(brain, [(0, 0), (margin, margin), (margin, margin)])
    if kind in SLICES_ONLY:
        head = surround(padded, setting.spacing, level, rng)
        pairs = [(head, padded), (padded, head)]
        return (head, head) if kind == "heads" else pairs[rng.integers(2)]
    return (padded, padded) if kind == "far" else (brain, brain)


@cache
def _brain(shape: tuple[int, ...], spacing: float) -> ndarray:
    return tissue_volume(shape, spacing)


def _slab(brain: ndarray, side: int) -> ndarray:
    """The third of a volume below or above its middle third, moved to the middle."""
    third = brain.shape[3] // 3
    shown = np.zeros_like(brain)
    start = 0 if side < 0 else 2 * third
    shown[..., third : 2 * third] = brain[..., start : start + third]
    return shown


def _displacement(rng: np.random.Generator, kind: str, shape: tuple[int, ...], difficulty: Difficulty) -> ndarray:
    """Of the moving image: a small one, in some kinds followed by a large rotation, in `far` by scale and shift too."""
    small = random_deformation(rng, shape, difficulty)
    if kind not in ("far", "turned", "upside down"):
        return small
    degrees = {"far": (0, 45), "turned": (45, 180), "upside down": (168, 192)}[kind]
    angle = np.deg2rad(rng.uniform(*degrees)) * rng.choice([-1, 1])
    dim = len(shape)
    generator = np.zeros((dim, dim))
    axis = rng.permutation(dim)[:2] if kind != "upside down" else np.array([0, dim - 1])
    generator[axis[0], axis[1]], generator[axis[1], axis[0]] = -angle, angle
    matrix, shift = scipy.linalg.expm(generator), np.zeros(dim)
    if kind == "far":
        matrix = matrix * np.exp(rng.uniform(*np.log((0.75, 1.35))))
        shift = rng.uniform(-0.15, 0.15, dim) * shape
    column = (slice(None), *[None] * dim)
    centred = np.indices(shape) - (np.array(shape)[column] - 1) / 2
    # First the small displacement, then the rotation about the centre.
    return np.asarray(np.tensordot(matrix, centred + small, axes=1) + shift[column] - centred)


def _affine(shape: tuple[int, ...], spacing: float) -> Float[ndarray, "n n"]:
    affine = np.diag([spacing] * len(shape) + [1.0])
    affine[:-1, -1] = -spacing * (np.array(shape) - 1) / 2
    return affine

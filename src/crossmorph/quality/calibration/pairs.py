"""Simulated pairs to calibrate a model with, of many kinds: easy, hard, and pairs that cannot be registered.

The true field is known of all pairs but those that cannot be registered. Slices are of the training levels or of the
test levels; of volumes there is one brain, so that only the random numbers differ. Anatomies, fields and contrasts are
those of :mod:`crossmorph.simulation`, on the model's grid at its spacing.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import scipy.linalg
import scipy.ndimage
from jaxtyping import Bool, Float
from numpy import ndarray

from crossmorph.images.image import Image
from crossmorph.simulation.anatomy import SPACING, split_levels, tissue_slice, tissue_volume
from crossmorph.simulation.deformation import ROUGH, SMOOTH, Difficulty, random_deformation, true_field, warp_fractions
from crossmorph.simulation.head_layers import surround
from crossmorph.simulation.mri import CONTRASTS, Contrast, simulate

Split = Literal["train", "test"]
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
    "noise": 1.5,
}
CANNOT_BE_REGISTERED = ("other level", "object", "two objects", "noise")
SLICES_ONLY = ("heads", "one head")
# mm at least between the levels of a pair of "other level": levels are 1.5 mm apart and drawn from a split.
MIN_DISTANCE = 28.5
MARGIN = 32  # voxels of 1.5 mm, around the slices of heads and of "far"
LESIONS = 0.2  # of the pairs whose true field is known
RADIUS = (5.0, 14.0)  # mm, of a lesion
SCANNED: tuple[Contrast, ...] = ("t1", "t2", "pd", "flair")


class SimulatedPair(NamedTuple):
    """A simulated pair.

    Attributes:
        kind: one of ``KINDS``.
        moving: the moving image.
        fixed: the fixed image.
        truth: the true field on the fixed image's grid, mm; None where the pair cannot be registered.
        tissue: where the fixed image shows tissue.
        lesion: where in it the fixed image has a lesion that the moving image lacks.
    """

    kind: str
    moving: Image
    fixed: Image
    truth: Float[ndarray, "dim *space"] | None
    tissue: Bool[ndarray, "*space"]
    lesion: Bool[ndarray, "*space"]


class Setting(NamedTuple):
    """What pairs are drawn for.

    Attributes:
        shape: voxels of the model's grid.
        spacing: millimetres of a voxel of that grid.
        split: whose anatomies are drawn.
    """

    shape: tuple[int, ...]
    spacing: float
    split: Split


def draw(setting: Setting, seed: int, number: int) -> SimulatedPair:
    """Pair ``number`` of a seed; it depends on these and the setting alone."""
    rng = np.random.default_rng([seed, ("train", "test").index(setting.split), number])
    dim = len(setting.shape)
    kinds = [kind for kind in KINDS if dim == 2 or kind not in SLICES_ONLY]
    weights = np.array([KINDS[kind] for kind in kinds])
    kind = kinds[rng.choice(len(kinds), p=weights / weights.sum())]
    contrasts = _contrasts(rng, SCANNED if kind in SLICES_ONLY else CONTRASTS)
    difficulty = _difficulty(rng, kind, setting.spacing)
    brains = _anatomies(rng, kind, setting)
    shape = brains[0].shape[1:]
    moving_u = _displacement(rng, kind, shape, difficulty)
    fixed_u = random_deformation(rng, shape, difficulty)
    deformed = [warp_fractions(*pair) for pair in zip(brains, (moving_u, fixed_u), strict=True)]
    images = [simulate(f, contrast, rng, difficulty) for f, contrast in zip(deformed, contrasts, strict=True)]
    images = _replaced(rng, kind, images)
    truth = None if kind in CANNOT_BE_REGISTERED else true_field(moving_u, fixed_u) * setting.spacing
    affine = _affine(shape, setting.spacing)
    tissue = deformed[1][:3].sum(0) > 0.5
    moving, fixed = (Image(data, affine) for data in images)
    pair = SimulatedPair(kind, moving, fixed, truth, tissue, np.zeros(tissue.shape, bool))
    has_lesion = truth is not None and tissue.any() and rng.random() < LESIONS
    return with_lesion(pair, rng, rng.uniform(*RADIUS)) if has_lesion else pair


def with_lesion(pair: SimulatedPair, rng: np.random.Generator, radius: float) -> SimulatedPair:
    """The pair with a lesion in the fixed image only; the true field is that of the tissue below it.

    Args:
        pair: the pair.
        rng: source of its place, in the tissue, and its brightness.
        radius: millimetres.
    """
    spacing = pair.fixed.spacing[0]
    inner = scipy.ndimage.distance_transform_edt(pair.tissue) * spacing > radius
    places = np.argwhere(inner if inner.any() else pair.tissue)
    centre = places[rng.integers(len(places))].reshape(-1, *[1] * pair.fixed.dim)
    distance = np.linalg.norm(np.indices(pair.fixed.shape) - centre, axis=0) * spacing
    inside = distance < radius * (1 + 0.2 * _texture(rng, pair.fixed.shape, 4.0))
    soft = scipy.ndimage.gaussian_filter(inside.astype(np.float32), 0.7)
    data = pair.fixed.data * (1 - soft) + soft * rng.uniform(0.0, 1.0) * float(np.quantile(pair.fixed.data, 0.99))
    fixed = Image(data.astype(np.float32), pair.fixed.affine)
    return pair._replace(fixed=fixed, lesion=inside & pair.tissue)


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


# --- images of no brain ----------------------------------------------------------------------------------------------


def _replaced(rng: np.random.Generator, kind: str, images: list[ndarray]) -> list[ndarray]:
    """One of the images, or both, as another object or as noise."""
    shape = images[0].shape
    if kind == "two objects":
        return [_object(rng, shape), _object(rng, shape)]
    if kind in ("object", "noise"):
        made = _object if kind == "object" else _noise
        which = rng.integers(2 if kind == "object" else 3)
        return [made(rng, shape) if which in (role, 2) else image for role, image in enumerate(images)]
    return images


def _object(rng: np.random.Generator, shape: tuple[int, ...]) -> Float[ndarray, "*space"]:
    """A body with a rim and organs: ellipsoids of random brightness, mottled, with noise."""
    dim = len(shape)
    axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij", sparse=True)
    size = rng.uniform(0.5, 0.85, dim)
    image = np.zeros(shape)
    body = _ellipsoid(axes, rng.uniform(-0.1, 0.1, dim), size)
    image[body] = rng.uniform(0.2, 1)
    inner = _ellipsoid(axes, np.zeros(dim), size * rng.uniform(0.8, 0.95)) & body
    image[inner] = rng.uniform(0.2, 1)
    for _ in range(rng.integers(4, 10)):
        organ = _ellipsoid(axes, rng.uniform(-0.5, 0.5, dim) * size, rng.uniform(0.06, 0.35, dim))
        image[organ & inner] = rng.uniform(0, 1)
    image *= 1 + rng.uniform(0, 0.3) * _texture(rng, shape, rng.uniform(1.5, 5))
    real, imaginary = rng.standard_normal((2, *shape)) * rng.uniform(0.01, 0.08)
    return np.hypot(scipy.ndimage.gaussian_filter(image, 0.7) + real, imaginary).astype(np.float32)


def _ellipsoid(axes: Sequence[ndarray], centre: ndarray, radii: ndarray) -> Bool[ndarray, "*space"]:
    parts = (((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii, strict=True))
    return np.asarray(sum(parts) < 1)


def _noise(rng: np.random.Generator, shape: tuple[int, ...]) -> Float[ndarray, "*space"]:
    """White, or more or less smooth."""
    noise = rng.standard_normal(shape)
    if rng.random() < 0.6:
        noise = _texture(rng, shape, rng.uniform(0.6, 5))
    return (np.abs(noise) if rng.random() < 0.5 else noise - noise.min()).astype(np.float32)


def _texture(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> Float[ndarray, "*space"]:
    smooth = scipy.ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return np.asarray(smooth / np.abs(smooth).max())


def _affine(shape: tuple[int, ...], spacing: float) -> Float[ndarray, "n n"]:
    affine = np.diag([spacing] * len(shape) + [1.0])
    affine[:-1, -1] = -spacing * (np.array(shape) - 1) / 2
    return affine

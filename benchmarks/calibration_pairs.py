"""Pairs to calibrate the flags on: simulated ones whose truth is known, easy to hopeless, and ones that have no truth.

Slices are of the training levels or of the test levels; of volumes there is one brain, so that only the random numbers
differ. Everything is drawn by the phantom's own functions, at a model's own grid and spacing.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import scipy.linalg
import scipy.ndimage
from jaxtyping import Bool, Float
from numpy import ndarray

from crossmorph import Image
from crossmorph.datasets.phantom import split_levels
from crossmorph.simulation.anatomy import SPACING, tissue_slice, tissue_volume
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
HOPELESS = ("other level", "upside down", "object", "two objects", "noise")
SLICES_ONLY = ("heads", "one head")
APART = (
    28.5  # mm at least between the levels of a pair of "other level": levels are 1.5 mm apart and drawn from a split
)
LESIONS = 0.2  # of the pairs that have a truth
RADIUS = (5.0, 14.0)  # mm, of a lesion
SCANNED: tuple[Contrast, ...] = ("t1", "t2", "pd", "flair")


class Drawn(NamedTuple):
    """A pair.

    ``truth`` is the field on the fixed grid, mm, None where there is none; ``tissue`` where the fixed image has any,
    ``lesion`` where in it a blob lies that the moving image lacks.
    """

    kind: str
    moving: Image
    fixed: Image
    truth: Float[ndarray, "dim *space"] | None
    tissue: Bool[ndarray, "*space"]
    lesion: Bool[ndarray, "*space"]


class Setting(NamedTuple):
    """Voxels and millimetres of a model's grid, and the split whose anatomies are drawn."""

    shape: tuple[int, ...]
    spacing: float
    split: Split


def draw(setting: Setting, seed: int, number: int) -> Drawn:
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
    known = kind not in HOPELESS or kind == "upside down"
    truth = true_field(moving_u, fixed_u) * setting.spacing if known else None
    affine = _affine(shape, setting.spacing)
    tissue = deformed[1][:3].sum(0) > 0.5
    drawn = Drawn(kind, Image(images[0], affine), Image(images[1], affine), truth, tissue, np.zeros(tissue.shape, bool))
    sick = truth is not None and tissue.any() and rng.random() < LESIONS
    return with_lesion(drawn, rng, rng.uniform(*RADIUS)) if sick else drawn


def with_lesion(drawn: Drawn, rng: np.random.Generator, radius: float) -> Drawn:
    """The pair with a blob in the fixed image that the moving one lacks; the truth is that of the tissue below it.

    Args:
        drawn: the pair.
        rng: source of its place, in the tissue, and its brightness.
        radius: millimetres.
    """
    spacing = drawn.fixed.spacing[0]
    inner = scipy.ndimage.distance_transform_edt(drawn.tissue) * spacing > radius
    places = np.argwhere(inner if inner.any() else drawn.tissue)
    centre = places[rng.integers(len(places))].reshape(-1, *[1] * drawn.fixed.dim)
    distance = np.linalg.norm(np.indices(drawn.fixed.shape) - centre, axis=0) * spacing
    inside = distance < radius * (1 + 0.2 * _texture(rng, drawn.fixed.shape, 4.0))
    soft = scipy.ndimage.gaussian_filter(inside.astype(np.float32), 0.7)
    data = drawn.fixed.data * (1 - soft) + soft * rng.uniform(0.0, 1.0) * float(np.quantile(drawn.fixed.data, 0.99))
    fixed = Image(data.astype(np.float32), drawn.fixed.affine)
    return drawn._replace(fixed=fixed, lesion=inside & drawn.tissue)


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
    brain = tissue_slice(level)
    if kind == "other level":
        apart = [z for z in levels if abs(z - level) >= APART]
        nearest = min(apart, key=lambda z: abs(z - level)) if apart else max(levels, key=lambda z: abs(z - level))
        return tissue_slice(nearest), brain
    if kind in SLICES_ONLY:
        room = np.pad(brain, [(0, 0), (32, 32), (32, 32)])
        head = surround(room, SPACING, level, rng)
        pairs = [(head, room), (room, head)]
        return (head, head) if kind == "heads" else pairs[rng.integers(2)]
    if kind == "far":
        brain = np.pad(brain, [(0, 0), (32, 32), (32, 32)])
    return brain, brain


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
    """Of the moving image: drawn near, or on top of a rotation, and far ones a scaling and a shift."""
    near = random_deformation(rng, shape, difficulty)
    if kind not in ("far", "turned", "upside down"):
        return near
    degrees = {"far": (0, 45), "turned": (45, 180), "upside down": (168, 192)}[kind]
    turn = np.deg2rad(rng.uniform(*degrees)) * rng.choice([-1, 1])
    dim = len(shape)
    generator = np.zeros((dim, dim))
    axis = rng.permutation(dim)[:2] if kind != "upside down" else np.array([0, dim - 1])
    generator[axis[0], axis[1]], generator[axis[1], axis[0]] = -turn, turn
    matrix, shift = scipy.linalg.expm(generator), np.zeros(dim)
    if kind == "far":
        matrix = matrix * np.exp(rng.uniform(*np.log((0.75, 1.35))))
        shift = rng.uniform(-0.15, 0.15, dim) * shape
    column = (slice(None), *[None] * dim)
    centred = np.indices(shape) - (np.array(shape)[column] - 1) / 2
    # First the near displacement, then the rotation about the centre.
    return np.asarray(np.tensordot(matrix, centred + near, axes=1) + shift[column] - centred)


# --- what is no brain ------------------------------------------------------------------------------------------------


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

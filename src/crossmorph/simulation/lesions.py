"""Tumours in simulated slices of the brain: a solid rim around necrosis, oedema, and what they push aside.

A tumour is drawn in the coordinates of the template's slice, voxels, and grows there; the slice may then be deformed.
"""

from typing import NamedTuple

import numpy as np
import scipy.ndimage
from jaxtyping import Float, UInt8

from crossmorph.simulation.mri import TISSUES, Tissue

# T1 and T2 of a solid tumour of high grade and of the tissue around it, as multiples of the opposite white matter's:
# 1863/938 and 90/38, 1261/933 and 65/38 ms, by MR fingerprinting. De Blank et al. (2019), "Magnetic resonance
# fingerprinting to characterize childhood and young adult brain tumors", Pediatric Neurosurgery 54(5):310-318. Applied
# to BrainWeb's white matter (500 and 70 ms). Assumed, not measured: necrosis half way from the solid tumour to CSF,
# proton densities between those of white matter and CSF, since there is more water, T2* that of grey matter.
LESIONS = {
    "necrosis": Tissue(1780.0, 248.0, 69.0, 0.95),
    "oedema": Tissue(676.0, 120.0, 69.0, 0.85),
    "solid": Tissue(993.0, 166.0, 69.0, 0.88),
}
PARTS = (*TISSUES, *LESIONS)

VARIATION = 0.1  # largest relative difference of a tumour's relaxation times from `LESIONS`

RADIUS = (7.0, 20.0)  # mm
PUSH = (0.15, 0.35)  # mass effect: tissue at the centre has grown from 1 - push to 1 in length
DEPTH = 3.0  # mm of brain that are left around a tumour
WIDTH = 1.2  # of the mass effect, in radii
RIPPLES = (2, 3, 4, 5)  # waves around a tumour by which its outline differs from a circle
EDGE = 3.0  # voxels from no tumour to nothing but tumour


class Tumour(NamedTuple):
    """A tumour, in the coordinates of a subject whose deformation is undone: voxels of the template's slice.

    Attributes:
        centre: Of the tumour.
        radius: Mean radius of the solid part, voxels.
        push: Mass effect, see `pushed`.
        ripples: Relative amplitude and phase of each of `RIPPLES`, for the tumour and for its oedema: (2, 2, waves).
        necrosis: Radius of the necrosis relative to the tumour's; 0 without one.
        oedema: Radius of the oedema relative to the tumour's.
        tissues: Relaxation times of `LESIONS`' tissues in this tumour.
    """

    centre: np.ndarray
    radius: float
    push: float
    ripples: np.ndarray
    necrosis: float
    oedema: float
    tissues: tuple[Tissue, ...]


def draw_tumour(
    fractions: Float[np.ndarray, "tissue x y"], spacing: float, rng: np.random.Generator, other: Tumour | None = None
) -> Tumour:
    """Draw a tumour that lies in grey or white matter of the template's slice, in one hemisphere, within the brain.

    Args:
        fractions: Of the template, `TISSUES`.
        spacing: Of the voxels, mm.
        rng: Source of randomness.
        other: A tumour that it must not overlap.
    """
    brain = scipy.ndimage.binary_fill_holes(fractions.sum(0) > 0.5)
    depth = scipy.ndimage.distance_transform_edt(np.pad(brain, 1))[1:-1, 1:-1]
    points = np.indices(brain.shape)
    from_midline = np.abs(points[0] - (brain.shape[0] - 1) / 2)
    apart = np.inf if other is None else np.linalg.norm(points - other.centre[:, None, None], axis=0) - other.radius
    radius = rng.uniform(*RADIUS) / spacing
    while True:
        room = (depth >= radius + DEPTH / spacing) & (from_midline >= 0.8 * radius) & (apart >= radius)
        places = np.argwhere(room & (fractions[1:].sum(0) > 0.5))
        if len(places):
            break
        radius *= 0.9
    ripples = np.stack(
        [[rng.uniform(0, size, len(RIPPLES)), rng.uniform(0, 2 * np.pi, len(RIPPLES))] for size in (0.08, 0.15)]
    )
    return Tumour(
        centre=places[rng.integers(len(places))] + rng.uniform(-0.5, 0.5, 2),
        radius=radius,
        push=rng.uniform(*PUSH),
        ripples=ripples,
        necrosis=rng.uniform(0.4, 0.75) if rng.random() < 0.6 else 0.0,
        oedema=rng.uniform(1.4, 2.4),
        tissues=tuple(_varied(tissue, rng) for tissue in LESIONS.values()),
    )


def _varied(tissue: Tissue, rng: np.random.Generator) -> Tissue:
    t1, t2 = rng.uniform(1 - VARIATION, 1 + VARIATION, 2)
    return tissue._replace(t1=tissue.t1 * t1, t2=tissue.t2 * t2)


def pushed(points: Float[np.ndarray, "2 x y"], tumour: Tumour) -> Float[np.ndarray, "2 x y"]:
    """Where the tissue at each point was before the tumour pushed it away.

    `x - push (x - c) exp(-t)` with `t = |x - c|^2 / w^2`, the centre c and w = 1.2 radii. With `e = push exp(-t)` its
    Jacobian determinant is `(1 - e) (1 - e (1 - 2t))`, at least (1 - push)^2: it can be undone for any push below 1.
    """
    offset = points - tumour.centre[:, None, None]
    squared = (offset**2).sum(0) / (WIDTH * tumour.radius) ** 2
    return np.asarray(points - tumour.push * offset * np.exp(-squared))


def unpushed(points: Float[np.ndarray, "2 x y"], tumour: Tumour) -> Float[np.ndarray, "2 x y"]:
    """Where the tumour has pushed each point: the inverse of `pushed`, by Newton's method along the radius."""
    offset = points - tumour.centre[:, None, None]
    before = np.linalg.norm(offset, axis=0) / (WIDTH * tumour.radius)
    after = before.copy()
    for _ in range(8):  # the slope lies between 1 - push and 1 + 0.45 push: four suffice for 1e-12
        e = tumour.push * np.exp(-(after**2))
        after -= (after * (1 - e) - before) / (1 - e * (1 - 2 * after**2))
    return np.asarray(tumour.centre[:, None, None] + offset / (1 - tumour.push * np.exp(-(after**2))))


def grow(
    fractions: Float[np.ndarray, "part x y"],
    points: Float[np.ndarray, "2 x y"],
    tumour: Tumour,
    rng: np.random.Generator,
) -> Float[np.ndarray, "part x y"]:
    """Replace brain tissue by a tumour's.

    The solid part and the necrosis take the place of what was there. The oedema spreads through white matter, a quarter
    as much through grey, and fades outwards; fluid stays as it is.

    Args:
        fractions: Of `PARTS`.
        points: Where each voxel lies in the tumour's coordinates.
        tumour: The tumour.
        rng: Of the texture inside it.
    """
    offset = points - tumour.centre[:, None, None]
    distance, angle = np.linalg.norm(offset, axis=0), np.arctan2(offset[1], offset[0])
    outline, reach = (tumour.radius * _ripple(angle, ripples) for ripples in tumour.ripples)
    texture = scipy.ndimage.gaussian_filter(rng.standard_normal(distance.shape), 2.5)
    texture /= texture.std()
    core = np.clip((outline - distance) / EDGE + 0.5, 0, 1)
    dead = np.clip((tumour.necrosis * outline - distance) / EDGE + 0.3 * texture + 0.5, 0, 1) if tumour.necrosis else 0
    dead = np.maximum(dead, np.clip(0.15 + 0.1 * texture, 0, 1))
    fade = np.clip((tumour.oedema * reach - distance) / ((tumour.oedema - 1) * reach), 0, 1)
    taken = np.array([0.0, 0.25, 1.0])[:, None, None] * fade * (2 - fade)
    brain = fractions[: len(TISSUES)]
    swollen, left = brain * taken, brain * (1 - taken)
    inside = core * brain.sum(0)
    lesions = np.stack([inside * dead, (1 - core) * swollen.sum(0), inside * (1 - dead)])
    return np.concatenate([(1 - core) * left, lesions])


def _ripple(angle: np.ndarray, ripples: np.ndarray) -> np.ndarray:
    waves = (a * np.cos(k * angle + phase) for k, a, phase in zip(RIPPLES, *ripples, strict=True))
    return np.asarray(1 + sum(waves))


def tumour_mask(fractions: Float[np.ndarray, "part x y"]) -> UInt8[np.ndarray, "x y"]:
    """1 necrosis, 2 oedema, 3 solid tumour, where the tumour is the larger part of a voxel; 0 elsewhere."""
    lesions = fractions[len(TISSUES) :]
    return np.where(lesions.sum(0) > 0.5, 1 + lesions.argmax(0), 0).astype(np.uint8)

"""What a lesion in one image does to a registration: ``python benchmarks/lesions.py --anatomies FOLDER -o FOLDER``.

Pairs of one person under a known field (test people of ``crossmorph prepare anatomies``) and of the template. Into the
fixed image a lesion of 10, 20 or 40 mm is put, which pushes aside what lies around it; the true field includes that.
The error is the distance, mm, between the field that is found and the true one, over the tissue outside the lesion:
all of it, and what lies within 15 mm of the lesion. Every pair is registered without the lesion, with it, with its
outline as ``ignore_fixed``, and with ``ignore_fixed="auto"``. One thread. Writes ``lesions.csv``, prints a table.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from crossmorph import Image
from crossmorph.quality.calibration.people_pairs import draw_people
from crossmorph.quality.calibration.simulated_pair import Setting, SimulatedPair
from crossmorph.quality.calibration.template_pairs import draw_template
from crossmorph.simulation.lesions import PUSH, WIDTH

DIAMETERS = (10.0, 20.0, 40.0)  # mm
NEAR = 15.0  # mm from the lesion
KINDS = ("one person", "deformed person", "smooth", "rough")
CONDITIONS = ("no lesion", "lesion", "outline", "auto")
COLUMNS = ("pair", "source", "kind", "diameter_mm", "condition", "error_mm", "near_mm", "found_dice")
MOST_DRAWN = 60  # pairs that are looked at for each one that is used


class Lesioned(NamedTuple):
    """A pair of images whose fixed image has a lesion, and the same pair without it."""

    whole: SimulatedPair
    pair: SimulatedPair


def draw(source: str, setting: Setting, seed: int) -> SimulatedPair:
    """A pair of one anatomy under a known field, whose fixed image has no lesion."""
    for attempt in range(MOST_DRAWN):
        rng = np.random.default_rng([seed, attempt, 77])
        pair = (draw_people if source == "people" else draw_template)(setting, rng)
        if pair.kind in KINDS and pair.truth is not None and not pair.lesion.any():
            return pair
    raise RuntimeError(f"no pair of {KINDS} in {MOST_DRAWN}")


def with_lesion(whole: SimulatedPair, rng: np.random.Generator, radius: float) -> tuple[SimulatedPair, SimulatedPair]:
    """The pair with a lesion of some radius (mm) in the fixed image, and with what it has pushed aside alone.

    The tissue at ``x`` lay at ``x - p (x - c) exp(-|x - c|^2 / w^2)`` before (:mod:`crossmorph.simulation.lesions`).
    """
    spacing, dim = whole.fixed.spacing[0], whole.fixed.dim
    column = (-1, *[1] * dim)
    depth = ndimage.distance_transform_edt(whole.tissue) * spacing
    places = np.argwhere(depth > min(0.8 * radius, 0.95 * depth.max()))
    centre = places[rng.integers(len(places))].reshape(column)
    voxels = np.indices(whole.fixed.shape, dtype=float)
    offset = voxels - centre
    distance = np.linalg.norm(offset, axis=0) * spacing
    before = voxels - rng.uniform(*PUSH) * offset * np.exp(-((distance / (WIDTH * radius)) ** 2))

    def carried(values: np.ndarray, order: int = 1) -> np.ndarray:
        return ndimage.map_coordinates(values, before, order=order, mode="nearest")

    assert whole.truth is not None
    truth = (before - voxels) * spacing + np.stack([carried(component) for component in whole.truth])
    ripples = ndimage.gaussian_filter(rng.standard_normal(whole.fixed.shape), 4.0)
    inside = distance < radius * (1 + 0.2 * np.clip(ripples / ripples.std(), -2, 2) / 2)
    soft = ndimage.gaussian_filter(inside.astype(np.float32), 0.7)
    bright = float(np.quantile(whole.fixed.data, 0.99)) * rng.uniform(0.0, 1.0)
    data = carried(whole.fixed.data) * (1 - soft) + soft * bright
    tissue = carried(whole.tissue.astype(np.float32)) > 0.5
    images = (Image(each.astype(np.float32), whole.fixed.affine) for each in (data, carried(whole.fixed.data)))
    lesioned, pushed = (whole._replace(fixed=fixed, truth=truth, tissue=tissue, lesion=inside) for fixed in images)
    return lesioned, pushed


def errors(field: np.ndarray, pair: SimulatedPair, lesion: np.ndarray) -> tuple[float, float]:
    """Mean error over the tissue outside a lesion, and over what of it lies near."""
    missed = np.linalg.norm(field - pair.truth, axis=0)
    apart = ndimage.distance_transform_edt(~lesion) * pair.fixed.spacing[0]
    outside = pair.tissue & ~lesion
    return float(missed[outside].mean()), float(missed[outside & (apart < NEAR)].mean())

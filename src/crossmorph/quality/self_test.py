"""A self-test on the user's own pair: known deformations, and the distance of the registration from them.

Nobody knows the true field between two scans, so two questions are asked whose answers are known, for fields ``k`` of
graded size:

* **known truth**: the moving image M is registered to its own translation T, deformed by k and with noise of its own as
  strong as the fixed image's. ``(T o k)(x)`` shows what M has at ``k(x)``, so k is the truth, to the voxel. The anatomy
  is the user's, the contrast is the fixed image's as far as the translation succeeds; but both images are one person on
  one day, so this flatters: take it for the least error to expect.
* **the real pair**: ``M o k`` is registered to the fixed image. Its field f must satisfy ``k o f = g``, where g is the
  field of M itself. What is left of that says how much the answer depends on where the images lay. It sees no error
  that f and g share.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray

from crossmorph.functional.interpolation import affine_slab, slabs
from crossmorph.functional.similarity import foreground
from crossmorph.images.image import Image
from crossmorph.networks.checkpoint import Model
from crossmorph.quality.assessment import Check
from crossmorph.quality.checks import NOT_CALIBRATED, assess
from crossmorph.registration.register_images import Registered, register_images
from crossmorph.registration.settings import DEFAULTS, Settings
from crossmorph.simulation.anatomy import SPACING
from crossmorph.simulation.deformation import SMOOTH, Difficulty, random_deformation
from crossmorph.system.progress import stage
from crossmorph.transforms.grid import working_grid
from crossmorph.transforms.warp import Warp, displacement_at, from_voxel_displacement, resample, resample_warp

FIELDS = 5
MAX_ERROR = 2.0  # mm of median error, above which a check should warn


class Trial(NamedTuple):
    """One registration of a known field.

    Attributes:
        median: of the error over the foreground, millimetres (pixels where the image has none).
        most: its 95th percentile.
        checks: names of the checks that did not pass.
    """

    median: float
    most: float
    checks: tuple[str, ...]


class Tried(NamedTuple):
    """The trials of one field, and its median size; see the module."""

    size: float
    known: Trial
    pair: Trial

    def as_text(self) -> str:
        """A line of the table."""
        known, pair = (
            f"{t.median:9.2f} {t.most:6.2f}   {', '.join(t.checks) or 'passed':<18}" for t in (self.known, self.pair)
        )
        return f"{self.size:6.2f}             {known} {pair}".rstrip()


class Verification(NamedTuple):
    """The outcome of the self-test.

    Attributes:
        rows: a field each, from the smallest to the largest.
        checks: of the registration of the pair as it is.
        unit: of the lengths, ``mm`` or ``pixels``.
        limit: the median error above which a check should have warned, in that unit.
    """

    rows: tuple[Tried, ...]
    checks: tuple[Check, ...]
    unit: str
    limit: float

    @property
    def missed(self) -> int:
        """Trials that ended further off than the limit although every check passed."""
        return sum(
            trial.median > self.limit and not trial.checks for row in self.rows for trial in (row.known, row.pair)
        )

    def as_dict(self) -> dict[str, Any]:
        """The object of `--json`."""
        rows = [{"size": row.size, "known": row.known._asdict(), "pair": row.pair._asdict()} for row in self.rows]
        checks = [check._asdict() for check in self.checks]
        return {"rows": rows, "checks": checks, "unit": self.unit, "limit": self.limit, "missed": self.missed}

    def as_text(self) -> str:
        """A table for people."""
        return "\n".join([heading(self.unit), *(row.as_text() for row in self.rows), self.closing()])

    def closing(self) -> str:
        """What stands below the table."""
        raised = ", ".join(check.name for check in self.checks if check.level != "passed") or "none"
        missed = f"errors above {self.limit:.2g} {self.unit} that no check found: {self.missed} of {2 * len(self.rows)}"
        return f"checks of the pair itself that did not pass: {raised}\n{missed}"


def heading(unit: str) -> str:
    """The two lines above the table, for lengths in a unit."""
    return (
        f"known field ({unit})   translated copy, true error        the pair, disagreement\n"
        "median                median    95%   checks              median    95%   checks"
    )


def verify(
    moving: Image,
    fixed: Image,
    model: Model,
    settings: Settings = DEFAULTS,
    fields: int = FIELDS,
    seed: int = 0,
    watch: Callable[[Tried], None] | None = None,
) -> Verification:
    """Deform the user's own images by known fields, register them, and compare.

    Args:
        moving: the moving image.
        fixed: the fixed image.
        model: weights.
        settings: how to register.
        fields: how many known fields, the largest of which is as large as those of the smooth phantom: up to 9 mm of
            shift, 10 degrees, 10% of scale, 5 to 10 mm of elastic deformation. Each costs two registrations.
        seed: of the fields and the noise.
        watch: called with every row as soon as it is known.

    Raises:
        InputError: as of :func:`crossmorph.register_images`.
    """
    stage("the pair as it is")
    plain = register_images(moving, fixed, model, settings)
    here, there = _foreground(moving), _foreground(fixed)
    rows = []
    for number in range(fields):
        stage(f"known field {number + 1} of {fields}")
        rng = np.random.default_rng([seed, number])
        known = known_field(moving, model, (number + 1) / fields, rng)
        copy = Image(_noisy(plain.translated, fixed, rng), moving.affine, moving.physical)
        deformed = resample(copy, known)
        of_copy = register_images(moving, deformed, model, settings)
        error = np.linalg.norm(of_copy.warp.displacement - known.displacement, axis=0)
        moved_away = resample(moving, known)
        of_pair = register_images(moved_away, fixed, model, settings)
        apart = _disagreement(of_pair.warp, known, plain.warp)
        size = float(np.median(np.linalg.norm(known.displacement, axis=0)[here]))
        where = resample(Image(here.astype(np.uint8), moving.affine, moving.physical), known, "nearest").data > 0
        rows.append(
            Tried(
                size,
                _trial(error[where], of_copy, moving, deformed),
                _trial(apart[there], of_pair, moved_away, fixed),
            )
        )
        if watch:
            watch(rows[-1])
    limit = MAX_ERROR * plain.grid.spacing / model.card.spacing
    return Verification(tuple(rows), assess(plain, moving, fixed).checks, fixed.unit, limit)


def known_field(image: Image, model: Model, strength: float, rng: np.random.Generator) -> Warp:
    """A random invertible field on an image's grid, as in the smooth phantom times ``strength``.

    Args:
        image: whose grid.
        model: whose spacing stands for millimetres where the image has none.
        strength: above 0, 1 for the phantom's own.
        rng: source of randomness.
    """
    grid = working_grid(image, model.card.spacing, max(model.card.shape), model.hierarchy.divisor)
    voxels = SPACING / model.card.spacing  # of the model, in one of the phantom
    low, high = SMOOTH.elastic_amplitude
    difficulty = Difficulty(
        shift=SMOOTH.shift * strength * voxels,
        rotation=SMOOTH.rotation * strength,
        scale=SMOOTH.scale * strength,
        elastic_sigma=SMOOTH.elastic_sigma * voxels,
        elastic_amplitude=(low * strength * voxels, high * strength * voxels),
    )
    field = random_deformation(rng, grid.shape, difficulty)
    return resample_warp(from_voxel_displacement(field, grid.affine), image.affine, image.shape)


def _trial(error: Float[ndarray, " voxels"], registered: Registered, moving: Image, fixed: Image) -> Trial:
    checks = assess(registered, moving, fixed).checks
    median, most = np.quantile(error, (0.5, 0.95)) if error.size else (math.nan, math.nan)
    # That a model has no calibration says nothing of this pair.
    names = tuple(check.name for check in checks if check.level != "passed" and check.name != NOT_CALIBRATED)
    return Trial(float(median), float(most), names)


def _disagreement(found: Warp, known: Warp, plain: Warp) -> Float[ndarray, "*space"]:
    """``|k(f(x)) - g(x)|`` at every voxel of the fixed grid, of warps in the world."""
    error = np.empty(found.shape)
    for slab in slabs(found.shape):
        points = affine_slab(found.affine, found.shape, slab) + found.displacement[:, slab]
        whole = found.displacement[:, slab] + displacement_at(known, points)
        error[slab] = np.linalg.norm(whole - plain.displacement[:, slab], axis=0)
    return error


def _noisy(translated: Image, fixed: Image, rng: np.random.Generator) -> Float[ndarray, "*space"]:
    """The translation with noise as strong as the fixed image's, both in the latter's scale."""
    strength = _noise(fixed.scaled().data)
    return (translated.data + strength * rng.standard_normal(translated.shape)).astype(np.float32)


def _noise(image: Float[ndarray, "*space"]) -> float:
    """Standard deviation of white noise, by the median of what second differences along every axis leave.

    Immerkaer, Computer Vision and Image Understanding 1996, doi:10.1006/cviu.1996.0060, in any dimension and with a
    median in place of the mean, so that edges count little.
    """
    left = image.astype(np.float64)
    for axis in range(image.ndim):
        left = np.diff(left, n=2, axis=axis)
    return float(np.median(np.abs(left)) / 0.6745 / math.sqrt(6.0**image.ndim)) if left.size else 0.0


def _foreground(image: Image) -> Bool[ndarray, "*space"]:
    scaled = torch.from_numpy(image.scaled().data)[None, None]
    return np.asarray(foreground(scaled)[0, 0])

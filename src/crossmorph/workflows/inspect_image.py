"""What is in an image file, what looks wrong with it, and what `register` would do."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import nibabel
import numpy as np
from jaxtyping import Float, Num
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.images.dicom import read_dicom
from crossmorph.images.image import Content, Image
from crossmorph.images.io import READABLE_SUFFIXES, READERS, SERIES_SUFFIXES
from crossmorph.images.nifti import nifti_series
from crossmorph.images.nifti_geometry import coded, volume_affine
from crossmorph.images.orientation import spatial_axes
from crossmorph.networks.checkpoint import DEFAULT_MODELS, find_card, read_card
from crossmorph.networks.hierarchy import Hierarchy
from crossmorph.system.files import readable, suffix_of
from crossmorph.system.memory import memory_needed
from crossmorph.transforms.grid import working_grid, working_spacing
from crossmorph.workflows.guess_contrast import appearance

Level = Literal["ok", "note", "problem"]

FIELD_OF_VIEW_MM = (100.0, 400.0)  # of the longest side, that a head fits
OBLIQUE_DEGREES = 1.0
THICK = 4.0  # spacing by the finest
THIN_VOXELS = {2: 32, 3: 8}  # along an axis
FEW_VALUES = 32
OUTLIER = 5.0  # times the range from percentile 0.5 to 99.5, above it
EMPTY_PART = 0.2
MOST_LOOKED_AT = 2**22  # voxels for percentiles and different values; of more every n-th


class Finding(NamedTuple):
    """What is to be said of an image, in one sentence."""

    level: Level
    name: str
    sentence: str


class Examined(NamedTuple):
    """A file: what is in it, what was found, and what `register` would do with it as the fixed image."""

    path: Path
    facts: dict[str, Any]
    findings: list[Finding]
    plan: str
    readable: bool

    def as_dict(self) -> dict[str, Any]:
        """An object of the list of `--json`."""
        findings = [finding._asdict() for finding in self.findings]
        told = {"path": str(self.path), "readable": self.readable, **self.facts, "findings": findings}
        return {**told, "register": self.plan}

    def as_text(self) -> str:
        """What `doctor` prints."""
        lines = [str(self.path)]
        if self.facts:
            facts, unit = self.facts, self.facts["unit"]
            place = f"{_by(facts['field_of_view'])} {unit}, axes {facts['orientation'] or 'unknown'}"
            grid = f"{_by(facts['shape'])} voxels of {_by(facts['spacing'])} {unit}"
            lines.append(f"  {facts['format']}, {grid}, {place}, {facts['stored']}")
            levels = [f"{name} {value:.6g}" for name, value in facts["intensity"].items() if value is not None]
            lines.append(f"  intensities {', '.join(levels)}")
        lines += [f"  {finding.level:<9}{finding.sentence}" for finding in self.findings]
        return "\n".join([*lines, f"  register {self.plan}"])


class _Found(NamedTuple):
    """A file's voxels as they are, whatever they are worth; of a series those of its first volume."""

    voxels: Num[ndarray, "*space"]
    affine: Float[ndarray, "n n"]
    physical: bool
    stored: str
    header: nibabel.Nifti1Header | None
    volumes: int
    cautions: tuple[str, ...]

    @property
    def spacing(self) -> tuple[float, ...]:
        return tuple(float(norm) for norm in np.linalg.norm(self.affine[:-1, :-1], axis=0))

    @property
    def extent(self) -> tuple[float, ...]:
        return tuple(size * step for size, step in zip(self.voxels.shape, self.spacing, strict=True))


def examine(path: Path, model: str | None = None) -> Examined:
    """Look at an image file.

    Args:
        path: a file or a folder of one DICOM series, see :func:`crossmorph.read_image`. What that refuses for its
            voxels (NaN, one intensity, a series) is looked at all the same.
        model: what `register` would use; None is the shipped model of the image's dimension.

    Returns:
        What was found; not readable, with the reason, where the file cannot be read.
    """
    try:
        found = _read(path)
    except InputError as error:
        return Examined(path, {}, [Finding("problem", "file", str(error))], "would refuse it", False)
    finite = found.voxels[np.isfinite(found.voxels)]
    voxels = _voxels(found, finite)
    findings = [*_series(found), *voxels, *_place(found), *_sampling(found)]
    image = None
    if not any(each.level == "problem" for each in voxels):
        with np.errstate(over="ignore"):
            image = Image(np.asarray(found.voxels, np.float32), found.affine, found.physical)
        findings += _slices(found)
        findings += [] if any(each.name == "labels" for each in voxels) else _guesses(image)
    plan = _plan(found, image, model)
    order = ("problem", "note", "ok")
    return Examined(path, _facts(path, found, finite), sorted(findings, key=lambda f: order.index(f.level)), plan, True)


def _read(path: Path) -> _Found:
    if path.is_dir():
        return _found(read_dicom(path))
    suffix = suffix_of(path, READABLE_SUFFIXES, "image")
    with readable(path):
        if suffix in SERIES_SUFFIXES:
            series = nifti_series(path)
            return _found(series._replace(voxels=series.voxels[..., 0]))._replace(volumes=series.voxels.shape[-1])
        return _found(READERS[suffix](path))


def _found(content: Content) -> _Found:
    stored = str(content.stored) if content.stored is not None else "voxels with a scale"
    if content.stored is None and content.header is not None:
        stored = f"{content.header.get_data_dtype()} with a scale"
    return _Found(content.voxels, content.affine, content.physical, stored, content.header, 1, content.cautions)


def _facts(path: Path, found: _Found, finite: Num[ndarray, " some"]) -> dict[str, Any]:
    intensity: dict[str, float | None] = dict.fromkeys(("from", "0.5%", "median", "99.5%", "to"))
    if finite.size:
        levels = (finite.min(), *np.percentile(_some(finite), (0.5, 50, 99.5)), finite.max())
        intensity = dict(zip(intensity, (float(level) for level in levels), strict=True))
    return {
        "format": "DICOM" if path.is_dir() else suffix_of(path, READABLE_SUFFIXES, "image"),
        "shape": list(found.voxels.shape),
        "volumes": found.volumes,
        "spacing": [round(step, 6) for step in found.spacing],
        "field_of_view": [round(side, 3) for side in found.extent],
        "unit": "mm" if found.physical else "pixels",
        "orientation": _orientation(found),
        "stored": found.stored,
        "intensity": intensity,
    }


def _orientation(found: _Found) -> str | None:
    """The ends of the world axes that the voxel axes point to, as ``RAS``; None where the file does not say."""
    if not found.physical or (found.header is not None and not coded(found.header)):
        return None
    dim = len(found.affine) - 1
    full, axes = np.eye(4), tuple(range(dim))
    full[:dim, :dim] = found.affine[:dim, :dim]
    if found.header is not None:
        full, axes = volume_affine(Path(), found.header), spatial_axes(Path(), found.header.get_data_shape()[:3])
    codes = nibabel.aff2axcodes(full)
    return "".join(codes[axis] or "?" for axis in axes)


def _some(values: Num[ndarray, " all"]) -> Num[ndarray, " some"]:
    return values[:: max(1, values.size // MOST_LOOKED_AT)]


def _by(numbers: Sequence[int | float]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)


# --- findings --------------------------------------------------------------------------------------------------------


def _series(found: _Found) -> list[Finding]:
    if found.volumes == 1:
        return []
    sentence = f"Is a series of {found.volumes} volumes, of which the first was looked at: extract the one to register."
    return [Finding("problem", "series", sentence)]


def _voxels(found: _Found, finite: Num[ndarray, " some"]) -> list[Finding]:
    bad = found.voxels.size - finite.size
    findings = []
    if bad:
        findings.append(Finding("problem", "finite", f"{bad} of {found.voxels.size} voxels are NaN or infinite."))
    if not finite.size or finite.min() == finite.max():
        what = f"Every voxel is {finite.flat[0]:g}" if finite.size else "No voxel is a number"
        return [*findings, Finding("problem", "constant", f"{what}: there is nothing to register.")]
    some = _some(finite)
    low, high = (float(value) for value in np.percentile(some, (0.5, 99.5)))
    above = int((finite > high + OUTLIER * (high - low)).sum())
    if above and high > low:
        sentence = (
            f"{above} voxels are far above the rest, up to {float(finite.max()):g}, 99.5% below {high:g}; they do"
        )
        findings.append(Finding("note", "outliers", f"{sentence} no harm, as intensities are clipped at percentiles."))
    values = np.unique(some)
    if len(values) <= FEW_VALUES and np.array_equal(values, np.round(values)):
        sentence = f"Holds {len(values)} different whole numbers: looks like a label map, which --labels would move."
        findings.append(Finding("note", "labels", sentence))
    return findings


def _place(found: _Found) -> list[Finding]:
    """Orientation and position."""
    if not found.physical:
        sentence = "Has no millimetres and no orientation; register takes it to show what the model was trained on."
        return [Finding("note", "geometry", sentence)]
    findings = [Finding("problem", "orientation", caution) for caution in found.cautions]
    matrix = found.affine[:-1, :-1] / np.array(found.spacing)
    if len(matrix) == 3 and np.linalg.det(matrix) < 0:
        sentence = "The axes are left-handed, as many scanners store them; the affine says so, and register follows it."
        findings.append(Finding("ok", "handedness", sentence))
    angle = float(np.degrees(np.arccos(np.clip(np.abs(matrix).max(axis=0), -1, 1)).max()))
    if angle > OBLIQUE_DEGREES:
        sentence = (
            f"Is oblique: an axis lies {angle:.0f} degrees from the nearest one of the world, which register knows."
        )
        findings.append(Finding("ok", "oblique", sentence))
    return findings


def _sampling(found: _Found) -> list[Finding]:
    """Spacing, field of view and numbers of voxels."""
    findings = []
    longest, (least, most) = max(found.extent), FIELD_OF_VIEW_MM
    if found.physical and not least <= longest <= most:
        sentence = f"The field of view is {_by([round(side, 1) for side in found.extent])} mm, which is no head's"
        if np.allclose(found.spacing, 1):
            sentence += "; a spacing of exactly 1 mm looks like one that was never set"
        findings.append(Finding("problem", "field of view", f"{sentence}."))
    if max(found.spacing) > THICK * min(found.spacing):
        sentence = (
            f"Voxels are {_by([round(step, 3) for step in found.spacing])} mm: what lies between slices is not seen."
        )
        findings.append(Finding("note", "thick", sentence))
    shape = found.voxels.shape
    if min(shape) < THIN_VOXELS[len(shape)]:
        sentence = f"One axis has {min(shape)} voxels: too few for a field along it to be more than a guess."
        findings.append(Finding("note", "thin", sentence))
    return findings


def _slices(found: _Found) -> list[Finding]:
    """Slices of one value: missing ones between others, or room around."""
    findings = []
    for axis, size in enumerate(found.voxels.shape):
        others = tuple(other for other in range(found.voxels.ndim) if other != axis)
        empty = found.voxels.min(axis=others) == found.voxels.max(axis=others)
        full = np.flatnonzero(~empty)
        inside = empty[full[0] : full[-1]].sum()
        if inside:
            sentence = f"Empty slices along axis {axis}, between others that are not: {inside}."
            findings.append(Finding("problem", "empty slices", sentence))
        elif empty.sum() > EMPTY_PART * size:
            sentence = f"{empty.sum()} of {size} slices along axis {axis} are empty; cropping them saves time."
            findings.append(Finding("note", "empty slices", sentence))
    return findings


def _guesses(image: Image) -> list[Finding]:
    if not image.physical:
        return []
    seen = appearance(image)
    if seen.contrast == "CT":
        return [Finding("note", "contrast", "Looks like CT; the shipped weights were trained on simulated MR only.")]
    if seen.skull is None:
        return [Finding("note", "contrast", "Shows no object of a head's size, so its contrast cannot be guessed.")]
    skull = "shows scalp and skull" if seen.skull else "shows a brain without the skull"
    findings = [Finding("ok", "skull", f"Looks like it {skull}.")]
    if seen.contrast == "unclear":
        return [*findings, Finding("note", "contrast", "Its contrast is unclear; that alone does no harm.")]
    return [*findings, Finding("ok", "contrast", f"Looks like {seen.contrast}.")]


# --- what register would do ------------------------------------------------------------------------------------------


def _plan(found: _Found, image: Image | None, model: str | None) -> str:
    if image is None:
        return "would refuse it, see above"
    if found.volumes > 1:
        return "would refuse it, as it is a series"
    try:
        card = read_card(find_card(model or DEFAULT_MODELS[image.dim]))
        if card.hierarchy.dim != image.dim:
            raise InputError(f"it is {image.dim}-D, and model {card.name} registers {card.hierarchy.dim}-D images")
        grid = working_grid(image, card.spacing, max(card.shape), Hierarchy(card.hierarchy).divisor)
    except InputError as error:
        return f"would refuse it: {error}"
    spacing = working_spacing(image, card.spacing, max(card.shape))
    memory = memory_needed(grid.shape, image.shape, image.shape) / 1e9
    lattice = f"{_by(grid.shape)} voxels of {spacing:g} {'mm' if image.physical else 'pixels'}"
    return f"would use {card.name}, and with this as the fixed image {lattice}, about {memory:.1f} GB of memory"

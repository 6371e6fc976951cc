"""Images and fields as a page of HTML holds them: in few bytes, turned as they are looked at.

A layer is a picture of 8 bits with all slices of an image side by side, turned as a radiograph hangs, as in
:mod:`crossmorph.reports.planes`. All layers cover the fixed image's field of view, each in as many voxels as it needs:
images the most, maps of the field fewer, the field itself fewest.
"""

import base64
import io
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import nibabel
import numpy as np
import PIL.Image
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from scipy import ndimage

from crossmorph.functional.similarity import foreground
from crossmorph.images.image import SCALE_PERCENTILES, Image, scale_intensity
from crossmorph.reports.planes import hang
from crossmorph.transforms.warp import Warp, voxel_displacement

MAP_VOXELS, FIELD_NODES, LABEL_VOXELS = 2**19, 2**16, 2**21  # at most
MOST_LABELS = 255  # that have a level of their own
UNKNOWN, BACKGROUND, FIRST = 0, 1, 2  # levels of a map: two that are no values, and the first that is one
LOSSLESS_BYTES = 1_800_000  # of all pictures of a page: as many need no loss, however badly they compress
# On brains of 1 mm this is half as large as JPEG of the same error.
LOSSY = {"format": "WEBP", "quality": 80, "method": 2}
LOSSLESS = {"format": "PNG", "optimize": False}
# Ends of the colour bars: factors of volume, and lengths.
NICE_FACTORS = (1.5, 2.0, 3.0, 4.0, 8.0)
NICE_LENGTHS = (3.0, 5.0, 10.0, 20.0, 50.0)
HANGING = (("R", "L"), ("A", "P"), ("S", "I"))  # at the beginning and the end of each axis of a volume


class View(NamedTuple):
    """How the fixed image is turned to be looked at: nibabel's orientation, the turned grid, and its labels."""

    turn: ndarray
    affine: ndarray
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    labels: tuple[tuple[str, str], ...] | None

    def of(self, data: ndarray, shape: tuple[int, ...]) -> ndarray:
        """Voxels of the fixed image's grid, turned, in fewer voxels."""
        return average_to(nibabel.apply_orientation(data, self.turn), shape)

    def lattice(self, most: int) -> tuple[int, ...]:
        """Voxels along each axis, at most so many together."""
        return lattice_within(self.shape, self.spacing, most)


def view_of(fixed: Image) -> View:
    """How an image is looked at: the patient's right, front and head at the beginning of its axes."""
    turn, affine = hang(fixed)
    shape = nibabel.apply_orientation(np.empty(fixed.shape, bool), turn).shape
    spacing = tuple(float(norm) for norm in np.linalg.norm(affine[:-1, :-1], axis=0))
    return View(turn, affine, shape, spacing, _labels(fixed, turn))


def _labels(fixed: Image, turn: ndarray) -> tuple[tuple[str, str], ...] | None:
    """Letters at the beginning and the end of each axis of the view, None where the file does not know the patient.

    A slice's own axes do not tell how it lies in the patient: its header does.
    """
    header = fixed.header
    placed = header is not None and bool(header["qform_code"] or header["sform_code"])
    if not fixed.physical or (header is not None and not placed):
        return None
    if fixed.dim == 3:
        return HANGING
    if header is None:
        return None
    ends = nibabel.aff2axcodes(header.get_best_affine())
    labels = [("", "")] * 2
    opposite = dict((pair for pair in HANGING), **{end: begin for begin, end in HANGING})
    for (axis, flip), end in zip(turn, ends, strict=False):
        last = end if flip > 0 else opposite[end]
        labels[int(axis)] = (opposite[last], last)
    return tuple(labels)


def lattice_within(shape: tuple[int, ...], spacing: tuple[float, ...], most: int) -> tuple[int, ...]:
    """A lattice over the same field of view with at most so many voxels, as nearly isotropic as that needs.

    Only axes finer than the lattice are coarsened: thick slices stay as they are.

    Args:
        shape: voxels along each axis.
        spacing: of a voxel along each axis.
        most: voxels of the lattice, at least 1.

    Returns:
        The shape where it is small enough, or a smaller one.
    """
    step, lattice = min(spacing), shape
    while math.prod(lattice) > most:
        step *= 1.01
        sides = zip(shape, spacing, strict=True)
        lattice = tuple(max(1, math.floor(size * along / max(step, along) + 1e-6)) for size, along in sides)
    return lattice


def average_to(data: Float[ndarray, "*space"], shape: tuple[int, ...]) -> Float[ndarray, "*out"]:
    """Means over the voxels of a coarser lattice that covers the same field of view.

    Args:
        data: values.
        shape: voxels along each axis, at most those of ``data``; a voxel across a border counts by its parts.
    """
    for axis, size in enumerate(shape):
        if size != data.shape[axis]:
            parts = _parts(data.shape[axis], size).astype(data.dtype)
            data = np.moveaxis(np.tensordot(parts, data, (1, axis)), 0, axis)
    return data


def _parts(size: int, fewer: int) -> Float[ndarray, "fewer size"]:
    """Weights of ``size`` voxels in each of ``fewer`` of them; rows sum to 1."""
    low, wide = np.arange(fewer)[:, None] * (size / fewer), size / fewer
    begin = np.arange(size)
    return np.clip(np.minimum(begin + 1, low + wide) - np.maximum(begin, low), 0, None) / wide


def picture_layers(view: View, fixed: Image, moved: dict[str, Image], translated: Image, most: int) -> dict[str, Any]:
    """The fixed image, the moving image at its stages, and its translation, on one lattice.

    Args:
        view: of the fixed image.
        fixed: the fixed image.
        moved: the moving image on the fixed image's grid, by the stage's name.
        translated: its translation there, in [0, 1].
        most: voxels of the lattice at most.

    Returns:
        ``pictures`` (layers: name, shape, source), and what the lattice is: ``shape``, ``spacing``, ``shown`` and
        ``stored`` (voxels' sides of the lattice and of the fixed image, to read), ``lossy``, ``labels``, ``world`` and
        ``voxel`` (lattice index to RAS millimetres and to the fixed image's voxel index, rows), ``start`` (index of the
        fixed image's centre of intensity).
    """
    shape = view.lattice(most)
    stages = [view.of(image.data, shape) for image in moved.values()]
    still = view.of(scale_intensity(fixed.data).data, shape)
    # Stages are compared with each other: one scale for all.
    some = np.stack([data.reshape(-1)[:: _stride(data)] for data in stages])
    low, high = np.percentile(some, SCALE_PERCENTILES)
    width = high - low if high > low else 1.0
    units = [still, *((data - low) / width for data in stages), view.of(translated.data, shape)]
    how = LOSSLESS if len(units) * math.prod(shape) <= LOSSLESS_BYTES else LOSSY
    ratio = np.divide(view.shape, shape)
    coarse = np.diag([*ratio, 1.0])
    coarse[:-1, -1] = (ratio - 1) / 2
    return {
        "shape": shape,
        "spacing": tuple(float(side) for side in ratio * view.spacing),
        "shown": [f"{side:.3g}" for side in ratio * view.spacing],
        "stored": [f"{side:.3g}" for side in view.spacing],
        "lossy": how is LOSSY,
        "labels": view.labels,
        "world": (view.affine @ coarse).tolist(),
        "voxel": (np.linalg.inv(fixed.affine) @ view.affine @ coarse).tolist(),
        "start": _middle(still),
        "pictures": [
            {"name": name, "shape": shape, "source": data_uri(PIL.Image.fromarray(mosaic(_levels(unit))), how)}
            for name, unit in zip(["fixed", *moved, "translated"], units, strict=True)
        ],
    }


def _stride(data: ndarray) -> int:
    """Every how many-th voxel the percentiles are taken of; odd, so that it walks through all columns."""
    return max(1, data.size // 2**19) | 1


def _middle(data: ndarray) -> list[int]:
    """Index of the centre of intensity, or of the whole where all is black."""
    middle = []
    for axis, size in enumerate(data.shape):
        profile = np.asarray(data.sum(tuple(other for other in range(data.ndim) if other != axis)), np.float64)
        weights = profile if profile.sum() > 0 else np.ones(size)
        middle.append(round(float(weights @ np.arange(size) / weights.sum())))
    return middle


def _levels(unit: ndarray) -> UInt8[ndarray, "*space"]:
    """Values of [0, 1] as 0 to 255; beyond it they are clipped."""
    return np.rint(np.clip(unit, 0, 1) * 255).astype(np.uint8)


def map_layers(view: View, fixed: Image, maps: dict[str, Image]) -> list[dict[str, Any]]:
    """Maps to lay over the images, without loss.

    Args:
        view: of the fixed image.
        fixed: the fixed image; where it shows nothing, a map means nothing.
        maps: on its grid: ``jacobian``, logarithms, or others, lengths from zero; they need not be finite.

    Returns:
        Layers with ``low`` and ``high``, the values of levels ``FIRST`` and 255; beyond them they are clipped. Level
        ``UNKNOWN`` is what is not finite, ``BACKGROUND`` what lies there.
    """
    layers = []
    shape = view.lattice(MAP_VOXELS)
    inside = shown_region(view.of(scale_intensity(fixed.data).data, shape))
    for name, image in maps.items():
        known = np.isfinite(image.data)
        values = view.of(np.where(known, image.data, 0).astype(np.float32), shape)
        unknown = view.of((~known).astype(np.float32), shape) > 1e-6  # a fold must not be averaged away
        low, high = _range(name, values[inside & ~unknown])
        levels = FIRST + np.rint(np.clip((values - low) / (high - low), 0, 1) * (255 - FIRST))
        levels = np.where(unknown, UNKNOWN, np.where(inside, levels, BACKGROUND)).astype(np.uint8)
        source = data_uri(PIL.Image.fromarray(mosaic(levels)), LOSSLESS)
        layers.append({"name": name, "shape": shape, "low": low, "high": high, "source": source})
    return layers


def label_layers(view: View, labels: Mapping[str, Image]) -> list[dict[str, Any]]:
    """Label maps, whose borders are drawn, without loss.

    Args:
        view: of the fixed image.
        labels: whole numbers on its grid, by name; 0 is background.

    Returns:
        Layers with ``values``: the label of each level, level 0 first. Beyond ``MOST_LABELS`` labels, several share a
        level and its value, which then names them all.
    """
    layers = []
    shape = view.lattice(LABEL_VOXELS)
    for name, image in labels.items():
        turned = nibabel.apply_orientation(np.rint(image.data).astype(np.int64), view.turn)
        # The voxel in the middle of each of the lattice's: a mean of labels is none.
        sides = zip(shape, view.shape, strict=True)
        nearest = [((np.arange(few) + 0.5) * size / few).astype(int) for few, size in sides]
        found, ranks = np.unique(turned[np.ix_(*nearest)], return_inverse=True)
        own = np.cumsum(found != 0)  # 1 for the first label, 2 for the next
        table = np.where(found == 0, 0, (own - 1) % MOST_LABELS + 1)
        values = [
            ", ".join(map(str, found[table == level])) if level else "background" for level in range(table.max() + 1)
        ]
        source = data_uri(PIL.Image.fromarray(mosaic(table[ranks].reshape(shape).astype(np.uint8))), LOSSLESS)
        layers.append({"name": name, "shape": shape, "values": values, "source": source})
    return layers


def shown_region(fixed: ndarray) -> ndarray:
    """Where an image shows something, with what that encloses."""
    bright = foreground(torch.from_numpy(np.ascontiguousarray(fixed))[None, None])[0, 0].numpy()
    return np.asarray(ndimage.binary_fill_holes(bright))


def _range(name: str, values: ndarray) -> tuple[float, float]:
    """The ends of a colour bar: symmetric for a logarithm, from zero for a length."""
    reach = float(np.percentile(np.abs(values), 99.5)) if values.size else 0.0
    if name == "jacobian":
        end = math.log(_at_least(math.exp(min(reach, 5.0)), NICE_FACTORS))
        return -end, end
    return 0.0, _at_least(reach, NICE_LENGTHS)


def _at_least(value: float, nice: tuple[float, ...]) -> float:
    return next((number for number in nice if number >= value), nice[-1])


def field_layer(view: View, warp: Warp) -> dict[str, Any]:
    """A field on the fixed image's grid, along the axes of the view, in lengths.

    Returns:
        ``source``: 16-bit whole numbers (little-endian, base64), to be multiplied by ``scale``; one component after the
        other, each of ``shape`` with the first axis running fastest.
    """
    shape = view.lattice(FIELD_NODES)
    world = np.stack([view.of(component.astype(np.float32), shape) for component in warp.displacement])
    lengths = voxel_displacement(Warp(world, view.affine)) * np.reshape(view.spacing, (-1, *[1] * warp.dim))
    scale = max(float(np.abs(lengths).max()), 1e-6) / 32767
    numbers = np.rint(lengths / scale).astype("<i2")
    packed = b"".join(component.tobytes(order="F") for component in numbers)
    return {"shape": shape, "scale": scale, "source": base64.b64encode(packed).decode()}


def mosaic(levels: UInt8[ndarray, "*space"]) -> UInt8[ndarray, "rows columns"]:
    """Slices side by side, row by row, as nearly square as may be.

    Args:
        levels: a slice ``(x, y)`` or a volume ``(x, y, z)``; x runs across a slice and y down.

    Returns:
        ``ceil(sqrt(z))`` slices across; black where the last row has none.
    """
    across, down, count = (*levels.shape, 1)[:3]
    columns = math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    volume = np.zeros((across, down, rows * columns), np.uint8)
    volume[..., :count] = levels.reshape(across, down, count)
    tiles = volume.reshape(across, down, rows, columns).transpose(2, 1, 3, 0)
    return np.ascontiguousarray(tiles.reshape(rows * down, columns * across))


def data_uri(picture: PIL.Image.Image, how: dict[str, Any]) -> str:
    """A picture as a page holds it; ``how``: ``LOSSLESS`` or ``LOSSY``."""
    return f"data:image/{how['format'].lower()};base64,{base64.b64encode(encoded(picture, how)).decode()}"


def encoded(picture: PIL.Image.Image, how: dict[str, Any]) -> bytes:
    """A picture as a file holds it; ``how``: ``LOSSLESS`` or ``LOSSY``."""
    stream = io.BytesIO()
    picture.save(stream, **how)
    return stream.getvalue()

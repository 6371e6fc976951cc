"""The files of BrainWeb: found by their names, and read to one array layout and geometry from any format.

All arrays are (x, y, z) in RAS millimetres. The formats: MINC, which holds its own geometry; raw bytes and raw shorts,
which hold voxels alone, x fastest, of 8 and 12 bits (https://brainweb.bic.mni.mcgill.ca/about_data_formats.html); and
NIfTI, into which users convert. The bytes of shorts come lowest first in files of today and highest first by that page;
the wrong order gives larger numbers.
"""

import gzip
import math
import os
import re
import zlib
from pathlib import Path
from typing import Literal, NamedTuple

import nibabel
import numpy as np
from jaxtyping import Float, Num

from crossmorph.errors import InputError
from crossmorph.images.image import scale_intensity
from crossmorph.images.io import read_image
from crossmorph.system.files import brief, readable

Kind = Literal["phantom", "subject", "subject-t1"]

RAW_BYTES, RAW_SHORTS = (".rawb", ".rawb.gz"), (".raws", ".raws.gz")
SUFFIXES = (*RAW_BYTES, *RAW_SHORTS, ".mnc", ".mnc.gz", ".nii", ".nii.gz")
SHORT_MAX = 4095  # of 12 bits
START_TOLERANCE = 1.0  # mm; a converter may shift by half a voxel; a file of another grid is farther off

# Patterns of the site's file names, and the files' keys: a simulated volume, a model of the normal or an MS brain, a
# file of one of the 20 subjects. `mit` is connective tissue, `wml` MS lesions.
NAMES = (
    re.compile(r"(?P<key>(t1|t2|pd)_(icbm_normal|ai_msles[123])_1mm_pn\d_rf\d+)"),
    re.compile(r"(?P<key>phantom_1\.0mm_(normal|msles[123])_(crisp|bck|csf|gry|wht|fat|m\+s|skn|skl|gli|mit|wml))"),
    re.compile(r"(?P<key>subject\d\d_(crisp|t1w))(_\w+)?"),
)


class SiteGrid(NamedTuple):
    """Where the voxels of a kind of file lie: their number along x, y, z, the first one's centre and the step, mm."""

    shape: tuple[int, int, int]
    start: tuple[float, float, float]
    spacing: float

    @property
    def affine(self) -> Float[np.ndarray, "4 4"]:
        """Voxel to RAS millimetres."""
        affine = np.diag([self.spacing, self.spacing, self.spacing, 1.0])
        affine[:3, 3] = self.start
        return affine


# Phantoms: https://brainweb.bic.mni.mcgill.ca/anatomic_normal.html. Subjects:
# https://brainweb.bic.mni.mcgill.ca/anatomic_normal_20.html; their starts as in the headers of the site's MINC files,
# after the PyPI package brainweb-dl 0.4.6. The T1w volumes of the subjects have a larger field of view.
GRIDS: dict[Kind, SiteGrid] = {
    "phantom": SiteGrid((181, 217, 181), (-90.0, -126.0, -72.0), 1.0),
    "subject": SiteGrid((362, 434, 362), (-90.25, -126.25, -72.25), 0.5),
    "subject-t1": SiteGrid((256, 256, 181), (-127.75, -145.75, -72.25), 1.0),
}


class Volume(NamedTuple):
    """Voxels and their place, axes to the right, the front and the top.

    Attributes:
        data: ``(x, y, z)``.
        affine: voxel index to RAS millimetres; diagonal but for the position.
    """

    data: Num[np.ndarray, "x y z"]
    affine: Float[np.ndarray, "4 4"]


def find_files(source: Path) -> dict[str, Path]:
    """The files of BrainWeb in a folder and below, by what they are.

    Args:
        source: The folder. Files with other names are ignored.

    Returns:
        Files by the site's name of the volume, in lower case and without what stands for the format:
        `t1_icbm_normal_1mm_pn3_rf20`, `phantom_1.0mm_normal_crisp`, `subject04_crisp`, `subject04_t1w`.

    Raises:
        InputError: If the folder cannot be read, or two files are the same volume.
    """
    if not source.is_dir():
        raise InputError(f"{source}: is no folder; expected one with files from BrainWeb")
    found: dict[str, Path] = {}
    for path in sorted(Path(folder, name) for folder, _, names in os.walk(source) for name in names):
        key = _key(path.name.lower())
        if key in found:
            raise InputError(f"{found[key]} and {path} are both {key}; expected it once")
        if key:
            found[key] = path
    return found


def _key(name: str) -> str:
    suffix = _suffix(name)
    stem = name.removesuffix(suffix).replace("%2b", "+").replace("m-s", "m+s")
    matches = (pattern.fullmatch(stem) for pattern in NAMES)
    return next((match["key"] for match in matches if match), "") if suffix else ""


def _suffix(name: str) -> str:
    return next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")


def read_labels(path: Path, kind: Kind, classes: int) -> Volume:
    """Read a crisp (discrete) model.

    Raw shorts may hold 16 times the label, plus meaningless lower bits: `value >> 4`.

    Args:
        path: The file.
        kind: Of the file, which gives the grid.
        classes: How many labels there are besides 0.

    Returns:
        Labels, uint8.

    Raises:
        InputError: If the file cannot be read, is truncated or damaged, or is not what its name says.
    """
    volume = _read(path, kind)
    values = volume.data
    if _suffix(path.name) in RAW_SHORTS and values.max() > classes:
        values = values >> 4
    labels = np.rint(values)
    # MINC may store labels as bytes that are scaled to the largest one, which puts them off by up to 11 / 255 / 2.
    if np.abs(values - labels).max() > 0.03 or labels.min() < 0 or labels.max() > classes or labels.max() == 0:
        raise InputError(
            f"{path}: holds values from {volume.data.min():g} to {volume.data.max():g}; expected a crisp model, "
            f"labels 0 to {classes}"
        )
    _check_neck(path, labels > 0)
    return Volume(labels.astype(np.uint8), volume.affine)


def read_fractions(path: Path, kind: Kind) -> Volume:
    """Read the fuzzy model of one tissue: the part of each voxel that it fills, 0 to 1, float16.

    Raises:
        InputError: As :func:`read_labels`.
    """
    volume = _read(path, kind)
    suffix = _suffix(path.name)
    full = 255 if suffix in RAW_BYTES else SHORT_MAX if suffix in RAW_SHORTS else 1
    fractions = np.asarray(volume.data, np.float32) / full
    if fractions.min() < -0.01 or fractions.max() > 1.01:
        raise InputError(
            f"{path}: holds values from {volume.data.min():g} to {volume.data.max():g}; expected a fuzzy model, "
            "parts of voxels from 0 to 1"
        )
    return Volume(np.clip(fractions, 0, 1).astype(np.float16), volume.affine)


def read_intensities(path: Path, kind: Kind) -> Volume:
    """Read a simulated volume, its intensities scaled to [0, 1] by their percentiles.

    Raises:
        InputError: As :func:`read_labels`.
    """
    volume = _read(path, kind)
    if volume.data.min() == volume.data.max():
        raise InputError(f"{path}: every voxel is {volume.data.flat[0]:g}; expected an image of a head")
    _check_neck(path, volume.data)
    return Volume(scale_intensity(volume.data).data, volume.affine)


def _check_neck(path: Path, data: np.ndarray) -> None:
    """Refuse a head whose lowest slice does not cut the neck: its axes are in another order.

    brainweb-dl 0.4.6 writes (z, y, x) arrays as if they were (x, y, z), which no header shows.
    """
    neck, others = data[:, :, 0].mean(), (data[0].mean(), data[-1].mean(), data[:, :, -1].mean())
    if neck <= max(others):
        raise InputError(
            f"{path}: the neck is not cut by its lowest slice, so its axes are not x, y, z "
            "(brainweb-dl writes such files); expected the site's own file"
        )


def _read(path: Path, kind: Kind) -> Volume:
    grid = GRIDS[kind]
    if _suffix(path.name) in (*RAW_BYTES, *RAW_SHORTS):
        return Volume(_read_raw(path, grid), grid.affine)
    image = read_image(path)
    if image.dim != 3:
        raise InputError(f"{path}: has {image.dim} axes; expected a volume of {_sizes(grid.shape)} voxels")
    turn = nibabel.orientations.io_orientation(image.affine)
    data = nibabel.orientations.apply_orientation(image.data, turn)
    affine = image.affine @ nibabel.orientations.inv_ornt_aff(turn, image.shape)
    if data.shape != grid.shape or not np.allclose(affine[:3, :3], grid.affine[:3, :3], atol=1e-3):
        raise InputError(
            f"{path}: has {_sizes(data.shape)} voxels of {_sizes(np.linalg.norm(affine[:3, :3], axis=0))} mm; "
            f"expected {_sizes(grid.shape)} of {grid.spacing:g} mm along x, y, z"
        )
    if np.abs(affine[:3, 3] - grid.start).max() > START_TOLERANCE:
        raise InputError(
            f"{path}: begins at {_sizes(affine[:3, 3], ', ')} mm; expected {_sizes(grid.start, ', ')} mm, "
            "as BrainWeb's files do"
        )
    return Volume(data, affine)


def _sizes(numbers: tuple[float | int, ...] | np.ndarray, between: str = "x") -> str:
    return between.join(f"{number:g}" for number in numbers)


def _read_raw(path: Path, grid: SiteGrid) -> Num[np.ndarray, "x y z"]:
    """Voxels of a file that holds nothing else."""
    dtype = np.dtype("u1" if _suffix(path.name) in RAW_BYTES else "<u2")
    needed = math.prod(grid.shape) * dtype.itemsize
    content = read_raw_bytes(path, needed, path.name.lower().endswith(".gz"))
    if len(content) != needed:
        there = f"{len(content)} bytes" if len(content) < needed else "more bytes"
        voxels = f"{_sizes(grid.shape)} voxels of {dtype.itemsize}"
        raise InputError(f"{path}: holds {there} uncompressed; expected {needed} bytes: {voxels}")
    values = np.frombuffer(content, dtype)
    if dtype.itemsize == 2:
        values = min(values, values.byteswap(), key=np.max)
        if values.max() > SHORT_MAX:
            raise InputError(f"{path}: holds values beyond {SHORT_MAX} in either order of bytes; expected 12 bits")
    return values.reshape(grid.shape[::-1]).T


def read_raw_bytes(path: Path, most: int, packed: bool) -> bytes:
    """The content of a file, up to one byte more than ``most``; of a ``packed`` file (gzip), uncompressed.

    Raises:
        InputError: If it cannot be read, is empty, or is incomplete.
    """
    with readable(path):
        try:
            with (gzip.open if packed else open)(path, "rb") as stream:
                content: bytes = stream.read(most + 1)
                return content
        except EOFError as error:
            raise InputError(f"{path}: is truncated, an incomplete download; fetch it again") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{path}: is not gzip-compressed or is damaged ({brief(error)})") from error

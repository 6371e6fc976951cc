"""MINC files to voxels with their geometry.

MINC keeps world coordinates right, anterior and superior, and ITK 5 reads them as left, posterior and superior: a
rotation by 180 degrees about the vertical axis (https://github.com/InsightSoftwareConsortium/ITK/pull/4864). nibabel
reads them correctly, and so does crossmorph: for this format alone ``affine`` is not what ITK reads.
"""

import gzip
import io
import math
import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.images.image import Content, slice_header
from crossmorph.images.orientation import spatial_affine, spatial_axes
from crossmorph.system.files import DEFLATE_LIMIT, brief

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


def read_minc(path: Path) -> Content:
    """Read a MINC file, version 1 (also ``.mnc.gz``) or 2.

    Returns:
        Voxels with the axes of the file in reverse, x first as a rule; ``stored`` is set where all intensities are
        whole numbers of the file's type.

    Raises:
        InputError: not MINC, truncated or damaged, not of three spatial axes, or of a singular geometry.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = _open_minc(path)
            announced = math.prod(image.shape) * image.get_data_dtype().itemsize
            if announced > DEFLATE_LIMIT * path.stat().st_size:
                raise InputError(
                    f"{path}: is truncated: its header announces {announced} bytes, too many for a file of "
                    f"{path.stat().st_size} bytes"
                )
            axes = spatial_axes(path, image.shape[::-1])
            voxels = np.asarray(image.dataobj).T.reshape([image.shape[::-1][axis] for axis in axes])
    except InputError:
        raise
    except Exception as error:  # nibabel raises errors of many types on a damaged file
        reason = brief(error) or type(error).__name__
        raise InputError(f"{path}: is not a MINC file that nibabel can read, or is damaged ({reason})") from error
    full = image.affine[:, [2, 1, 0, 3]]
    affine = spatial_affine(path, full, axes)
    header = slice_header(full, image.shape[::-1]) if len(axes) == 2 else None
    stored = _exact_type(voxels, image.get_data_dtype().newbyteorder("="))
    return Content(voxels, affine, stored, header)


def _open_minc(path: Path) -> Any:
    """A MINC file as nibabel sees it; version 1 from memory, so that no more bytes can be read than the file has."""
    with (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb") as stream:
        if stream.read(len(HDF5_MAGIC)) == HDF5_MAGIC:
            return nibabel.Minc2Image.from_filename(path)
        stream.seek(0)
        held = nibabel.fileholders.FileHolder(fileobj=io.BytesIO(stream.read()))
    return nibabel.Minc1Image.from_file_map({"image": held})


def _exact_type(voxels: ndarray, dtype: np.dtype) -> np.dtype | None:
    """The type, if it holds every voxel exactly; otherwise None."""
    if dtype.kind not in "iu":
        return dtype
    limits = np.iinfo(dtype)
    with np.errstate(invalid="ignore"):
        whole = (voxels == np.round(voxels)).all() and limits.min <= voxels.min() and voxels.max() <= limits.max
    return dtype if whole else None

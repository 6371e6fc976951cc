"""FreeSurfer's volumes, ``.mgz`` and ``.mgh``, to voxels with their geometry.

ITK does not read them; the geometry is what nibabel reads.
"""

import io
import math
from pathlib import Path

import nibabel
import numpy as np

from crossmorph.errors import InputError
from crossmorph.images.image import Content, slice_header
from crossmorph.images.orientation import spatial_affine, spatial_axes
from crossmorph.system.files import brief, unpacked
from crossmorph.system.memory import check_room

HEADER_BYTES = 284  # https://surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat
VERSION = 1
PLACED = slice(28, 30)  # goodRASFlag, which nibabel sets where it is not
NO_PLACE = "Does not say where it lies (goodRASFlag is 0): FreeSurfer takes it for a coronal volume about the origin."
ERRORS = (nibabel.freesurfer.mghformat.MGHError, nibabel.spatialimages.HeaderDataError, ValueError, KeyError)


def read_mgh(path: Path) -> Content:
    """Read an image or a label map of FreeSurfer, compressed or not.

    Raises:
        InputError: another file, truncated or damaged, a series, or of a singular geometry.
    """
    with unpacked(path) as (stream, bound):
        head = stream.read(HEADER_BYTES)
        if len(head) < HEADER_BYTES or int.from_bytes(head[:4], "big") != VERSION:
            raise InputError(f"{path}: is not a FreeSurfer volume of version {VERSION}")
        try:
            header = nibabel.freesurfer.mghformat.MGHHeader.from_fileobj(io.BytesIO(head))
            shape = tuple(int(size) for size in header.get_data_shape())
            dtype = header.get_data_dtype()
        except ERRORS as error:
            raise InputError(f"{path}: is not a FreeSurfer volume, or is damaged ({brief(error)})") from error
        if min(shape, default=0) < 1:
            raise InputError(f"{path}: has shape {shape}, expected axes of at least one voxel")
        needed = math.prod(shape) * int(dtype.itemsize)
        if needed > bound:
            raise InputError(f"{path}: is truncated: its header announces {needed} bytes, too many for the file")
        check_room(path, math.prod(shape), needed)
        content = bytearray(stream.read(needed))
        while stream.read(1 << 20):  # gzip checks its checksum at the very end
            pass
    if len(content) < needed:
        raise InputError(
            f"{path}: is truncated: its header announces {needed} bytes of voxels, {len(content)} are there"
        )
    axes = spatial_axes(path, shape)
    voxels = np.frombuffer(content, dtype).reshape(shape, order="F").astype(dtype.newbyteorder("="))
    with np.errstate(all="ignore"):
        affine = header.get_affine()
    kept = spatial_affine(path, affine, axes)
    lent = slice_header(affine, shape) if len(axes) == 2 else None
    cautions = () if int.from_bytes(head[PLACED], "big") == 1 else (NO_PLACE,)
    voxels = voxels.reshape(tuple(shape[axis] for axis in axes))
    return Content(voxels, kept, voxels.dtype, lent, True, cautions)

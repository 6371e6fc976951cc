"""The headers of NIfTI-1, NIfTI-2 and Analyze 7.5, each as one of NIfTI-1, which ITK and our outputs know.

Formats: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h, .../nifti2/doc/nifti2.h; Analyze is what has the
size of a NIfTI-1 header and no magic, and SPM keeps a scale of intensities in it.
"""

import struct
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np

from crossmorph.errors import InputError

HEADER_BYTES = 540  # of the largest header
LARGEST_AXIS = 32767
SIZES = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
# Fields of NIfTI-1 that NIfTI-2 has as well, and those of them that Analyze has.
FIELDS: tuple[str, ...] = ("dim", "pixdim", "datatype", "bitpix")
NIFTI_FIELDS: tuple[str, ...] = (
    *("dim_info", "xyzt_units", "toffset", "descrip", "intent_code", "qform_code", "sform_code", "scl_slope"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
    "scl_inter",
)


class Header(NamedTuple):
    """A header as it is, which says how voxels are stored, and as one of NIfTI-1; and what is uncertain about it."""

    layout: Any
    nifti: nibabel.Nifti1Header
    cautions: tuple[str, ...]


def parse_header(name: Path, head: bytes, pair: bool) -> Header:
    """The header at the beginning of a file.

    Args:
        name: the file, for errors.
        head: its first ``HEADER_BYTES``, or all of a shorter one.
        pair: whether it stands in a file of its own (``.hdr``), which may be Analyze.

    Raises:
        InputError: it is none, or cannot be used.
    """
    sizes = struct.unpack("<i", head[:4]) + struct.unpack(">i", head[:4]) if len(head) >= 4 else ()
    kind = next((kind for size, kind in SIZES.items() if size in sizes and len(head) >= size), None)
    if kind is None:
        raise InputError(f"{name}: is not a NIfTI file")
    size = kind.template_dtype.itemsize
    layout: Any = kind(head[:size], check=False)
    cautions: tuple[str, ...] = ()
    magic = layout["magic"].item()
    if pair and kind is nibabel.Nifti1Header and magic not in (b"n+1", b"ni1"):
        layout = nibabel.Spm2AnalyzeHeader(head[:size], check=False)
        cautions = ("Is Analyze 7.5, which stores no orientation; a .mat file beside it is not read.",)
    else:
        expected = {False: kind.single_magic, True: kind.pair_magic}[pair]
        if magic != expected:
            place = "beside it" if pair else "in one"
            raise InputError(
                f"{name}: is not a NIfTI file of header and voxels {place} (magic {magic!r}, expected {expected!r})"
            )
    _check(name, layout, 0 if pair else kind.single_vox_offset)
    return Header(layout, _as_nifti1(name, layout), cautions)


def _check(name: Path, layout: Any, first: int) -> None:
    """Refuse voxels of an unknown type or place, and more dimensions than there are sizes."""
    try:
        layout.get_data_dtype()
    except (nibabel.spatialimages.HeaderDataError, KeyError) as error:
        raise InputError(f"{name}: has voxels of a type unknown to NIfTI, code {int(layout['datatype'])}") from error
    if not 0 <= layout["dim"][0] <= 7:
        raise InputError(f"{name}: has {layout['dim'][0]} dimensions, expected 7 at most")
    offset = float(layout["vox_offset"])
    if not first <= offset < 2**62:
        raise InputError(f"{name}: its NIfTI header is invalid (voxels at byte {offset:g}, expected {first} or later)")


def _as_nifti1(name: Path, layout: Any) -> nibabel.Nifti1Header:
    if type(layout) is nibabel.Nifti1Header:
        made = layout.copy()
    else:
        if np.abs(layout["dim"]).max() > LARGEST_AXIS:
            raise InputError(f"{name}: has dimensions {layout['dim'].tolist()}, expected {LARGEST_AXIS} voxels at most")
        made = nibabel.Nifti1Header(endianness=layout.endianness)
        analyze = isinstance(layout, nibabel.Spm2AnalyzeHeader)
        for field in (*FIELDS, "scl_slope") if analyze else FIELDS + NIFTI_FIELDS:
            with np.errstate(all="ignore"):  # infinite in fewer bits: refused with the geometry
                made[field] = layout[field]
    made["magic"], made["vox_offset"] = made.single_magic, made.single_vox_offset
    # The standard allows -1 and 1, files hold other values; nibabel refuses those, ITK takes the sign.
    made["pixdim"][0] = -1 if made["pixdim"][0] < 0 else 1
    return made

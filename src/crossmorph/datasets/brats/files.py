"""The cases of BraTS in a folder: T1w, T2w and tumour mask of each, found by their names, of any year.

==========  ============================================================================================
2015        `brats_tcia_pat105_0001/VSD.Brain.XX.O.MR_T1.35536/VSD.Brain.XX.O.MR_T1.35536.mha`, in `HGG` or `LGG`
2017-2019   `Brats18_TCIA01_131_1/Brats18_TCIA01_131_1_t1.nii.gz`, `_t2`, `_t1ce`, `_flair`, `_seg`
2020, 2021  `BraTS20_Training_001_t1.nii.gz`, `BraTS2021_00000_t1.nii.gz`, likewise
2023 on     `BraTS-GLI-00000-000-t1n.nii.gz`, `-t2w`, `-t1c`, `-t2f`, `-seg`; also MEN, MET and others
==========  ============================================================================================

The T1w is the native one, without contrast agent. The last number of a name before 2020 and from 2023 on is that of a
visit; the name before it is that of the subject.
"""

import gzip
import math
import re
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import nibabel
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from crossmorph.errors import InputError
from crossmorph.images.io import read_image
from crossmorph.images.itk import TYPES, read_information
from crossmorph.system.files import readable

Kind = Literal["t1", "t2", "tumour", "other"]

_MHA = re.compile(r"VSD\.Brain(_3more)?\.XX\.([A-Z]+\.)*(?P<kind>MR_T1c|MR_T1|MR_T2|MR_Flair|OT)\.\d+\.mha", re.I)
_NIFTI = re.compile(
    r"(?P<case>(?P<family>Brats1[789]|BraTS20|BraTS2021)_.+)_(?P<kind>t1|t1ce|t2|flair|seg)\.nii(\.gz)?", re.I
)
_NIFTI_2023 = re.compile(r"(?P<case>BraTS-[A-Z]+-\d+-\d+)-(?P<kind>t1n|t1c|t2w|t2f|seg)\.nii(\.gz)?", re.I)
_KINDS: dict[str, Kind] = {
    "t1": "t1",
    "mr_t1": "t1",
    "t1n": "t1",
    "t2": "t2",
    "mr_t2": "t2",
    "t2w": "t2",
    "seg": "tumour",
    "ot": "tumour",
}
NEEDED: tuple[Kind, ...] = ("t1", "t2")


class Named(NamedTuple):
    """The information in a file's name and folder: the naming of its year, the case and the kind of image."""

    family: str
    case: str
    kind: Kind


class Case(NamedTuple):
    """One visit of a subject; `tumour` is the mask, None where there is none."""

    name: str
    subject: str
    t1: Path
    t2: Path
    tumour: Path | None


def find_cases(source: Path) -> tuple[str, list[Case]]:
    """The cases in a folder and below, one for each subject: the first visit by name.

    Args:
        source: The folder.

    Returns:
        The naming they have (`2015`, `brats18`, `2023`..), and the cases by name.

    Raises:
        InputError: If there are none, or of namings of several years (whose subjects recur under other names), if a
            case lacks its T1w or T2w, or if two files are the same image of a case.
    """
    if not source.is_dir():
        raise InputError(f"{source}: is not a folder; expected one with cases of BraTS")
    found: dict[str, dict[Kind, Path]] = {}
    families: dict[str, Path] = {}
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        named = _named(path)
        if named is None:
            continue
        families.setdefault(named.family, path)
        images = found.setdefault(named.case, {})
        if named.kind != "other" and named.kind in images:
            raise InputError(
                f"{path}: case {named.case} has this image already in {images[named.kind]}; expected one of a name"
            )
        images[named.kind] = path
    if not found:
        raise InputError(
            f"{source}: no cases of BraTS in it; expected unpacked files named like Brats18_.._t1.nii.gz, "
            "BraTS2021_.._t1.nii.gz, BraTS-GLI-..-t1n.nii.gz or VSD.Brain.XX.O.MR_T1.*.mha"
        )
    if len(families) > 1:
        raise InputError(
            f"{source}: cases of several years ({', '.join(str(path) for path in families.values())}); expected one, "
            "since the same subjects recur under other names"
        )
    return next(iter(families)), _first_visits(found)


def _named(path: Path) -> Named | None:
    """Family, case and kind of a file by its name; None if it is not a name of BraTS."""
    if match := _MHA.fullmatch(path.name):
        # Every image may have a folder of its own. HGG and LGG of 2015 share names of cases: brats_2013_pat0001_1.
        folder = path.parent.parent if path.parent.name == path.stem else path.parent
        grade = folder.parent.name
        case = f"{grade}/{folder.name}" if grade in ("HGG", "LGG") else folder.name
        return Named("2015", case, _KINDS.get(match["kind"].lower(), "other"))
    if match := _NIFTI.fullmatch(path.name):
        return Named(match["family"].lower(), match["case"], _KINDS.get(match["kind"].lower(), "other"))
    if match := _NIFTI_2023.fullmatch(path.name):
        return Named("2023", match["case"], _KINDS.get(match["kind"].lower(), "other"))
    return None


def _first_visits(found: dict[str, dict[Kind, Path]]) -> list[Case]:
    cases: dict[str, Case] = {}
    for name, images in sorted(found.items()):
        missing = [kind for kind in NEEDED if kind not in images]
        if missing:
            beside = images.get("t1") or images.get("t2") or next(iter(images.values()))
            raise InputError(f"{beside}: case {name} has no {' and no '.join(missing)} image; expected t1 and t2")
        case = Case(name, subject_of(name), images["t1"], images["t2"], images.get("tumour"))
        cases.setdefault(case.subject, case)
    return list(cases.values())


def subject_of(case: str) -> str:
    """The subject of a case: its name without the number of the visit, where names of its year have one."""
    if re.fullmatch(r"(.*/)?brats_(tcia|2013)_pat\d+_\d+|Brats1[789]_.+_\d+", case, re.I):
        return case.rpartition("_")[0]
    return case.rpartition("-")[0] if case.lower().startswith("brats-") else case


# --- grids and whole files -------------------------------------------------------------------------------------------


def check_grids(cases: Iterable[Case]) -> None:
    """Refuse truncated files, and images of a case that differ in shape.

    Fast: headers and sizes are checked; voxels are uncompressed only where these are unexpected.

    Raises:
        InputError: a file is truncated or of another shape; the first is named.
    """
    for case in cases:
        shape = _whole_shape(case.t1, labels=False)
        if len(shape) != 3:
            raise InputError(f"{case.t1}: has shape {shape}; expected a volume")
        for path in (case.t2, case.tumour):
            if path and (other := _whole_shape(path, labels=path is case.tumour)) != shape:
                raise InputError(f"{path}: has shape {other}; expected {shape}, as {case.t1}")


def _whole_shape(path: Path, labels: bool) -> tuple[int, ...]:
    """The shape of an image whose file has the size that its header announces."""
    with readable(path):
        shape, whole = _mha_size(path) if path.suffix.lower() == ".mha" else _nifti_size(path)
        return shape if whole else read_image(path, labels).shape


def _mha_size(path: Path) -> tuple[tuple[int, ...], bool]:
    reader = read_information(path, "MetaImageIO")
    shape = tuple(reader.GetSize())
    with path.open("rb") as stream:
        head = stream.read(1 << 14)
    end = re.search(rb"ElementDataFile\s*=\s*LOCAL\r?\n", head)
    packed = re.search(rb"CompressedDataSize\s*=\s*(\d+)", head)
    if not end:
        return shape, False
    compressed = re.search(rb"CompressedData\s*=\s*True", head, re.I)
    if compressed and not packed:
        return shape, False
    needed = int(packed[1]) if packed else math.prod(shape) * TYPES[reader.GetPixelID()].itemsize
    return shape, path.stat().st_size >= end.end() + needed


def _nifti_size(path: Path) -> tuple[tuple[int, ...], bool]:
    """The last four bytes of a gzip file are the size of its content (RFC 1952); not so those of a truncated file."""
    packed = path.name.lower().endswith(".gz")
    try:
        with (gzip.open if packed else open)(path, "rb") as stream:
            # Unchecked: nibabel would correct invalid values and log that; the reader checks them later.
            header = nibabel.Nifti1Header(stream.read(nibabel.Nifti1Header.template_dtype.itemsize), check=False)
        shape = tuple(int(size) for size in header.get_data_shape())
        needed = int(header.get_data_offset()) + math.prod(shape) * header.get_data_dtype().itemsize
    except (EOFError, KeyError, ValueError, OSError, zlib.error, HeaderDataError, WrapStructError):
        return (), False
    size = path.stat().st_size
    if packed:
        with path.open("rb") as raw:
            raw.seek(-4, 2)
            size = struct.unpack("<I", raw.read())[0]
    return shape, size == needed % 2**32 if packed else size >= needed

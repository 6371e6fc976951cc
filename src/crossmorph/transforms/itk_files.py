"""ITK's files of transforms: checked before ITK reads them, and HDF5 written so that the same transform gives one file.

ITK takes sizes in a file as they are: it makes room for what a header announces, and dies of some damage. Its own HDF5
files hold the time of day and the version of the system's kernel, so no two are alike; ours hold neither.
"""

import math
import mmap
import os
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
from jaxtyping import Float, Float64
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.images.itk import ITK_ERRORS, itk_reason, silent_itk
from crossmorph.system.files import DEFLATE_LIMIT, brief, readable

MOST_MATLAB = 1 << 16  # bytes; an affine map takes some 200
MATLAB_BYTES = {0: 8, 10: 4}  # of a number: little-endian, double or single
GROUP = "TransformGroup"
MOST_TEXT = 1 << 12  # letters of a name, and names
CHUNK = 1 << 15  # numbers that are compressed together
# Bytes of one place in all numbers come together first ("shuffle"): a field of 182 x 218 x 182 voxels then takes 70 MB
# and 1.2 s, without that 81 MB and 2 s; a higher level takes 69 MB.
COMPRESSION = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
HEAP = b"GCOL\1\0\0\0"
ON_A_GRID = ("DisplacementField", "BSpline")  # parameters for each point
# Of others that SimpleITK knows, by dimension.
PARAMETERS: dict[str, Callable[[int], int]] = {
    **dict.fromkeys(("Translation", "Scale"), lambda dim: dim),
    **dict.fromkeys(("Affine", "MatrixOffsetTransformBase"), lambda dim: dim * (dim + 1)),
    **dict.fromkeys(("Euler2D", "Versor"), lambda _: 3),
    **dict.fromkeys(("Euler3D", "VersorRigid3D"), lambda _: 6),
    "Similarity2D": lambda _: 4,
    "Similarity3D": lambda _: 7,
    "ScaleVersor3D": lambda _: 9,
    "ComposeScaleSkewVersor3D": lambda _: 12,
    "ScaleSkewVersor3D": lambda _: 15,
}
NUMBER = re.compile(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?")


class Part(NamedTuple):
    """One of a file's transforms as ITK names and stores it: type, parameters, fixed parameters."""

    kind: str
    parameters: Float[ndarray, " n"]
    fixed: Float64[ndarray, " m"]


def read_itk_transform(path: Path) -> sitk.Transform:
    """A file of ITK's as SimpleITK reads it, of its own class. Raises InputError where it is none, or is damaged."""
    with readable(path):
        suffix = path.suffix.lower()
        (_check_hdf5 if suffix == ".h5" else _check_matlab if suffix == ".mat" else _check_text)(path)
        try:
            with silent_itk():
                return sitk.ReadTransform(os.fspath(path)).Downcast()
        except ITK_ERRORS as error:
            raise InputError(f"{path}: is not an ITK transform, or is truncated ({itk_reason(error)})") from error


def write_hdf5(path: Path, parts: Sequence[Part]) -> None:
    """Write transforms as ITK's HDF5, the same bytes whenever and wherever it is done.

    Args:
        path: the file, which is written to as it stands.
        parts: one transform, or a composite followed by its parts, of which the last acts first.

    Raises:
        OSError: the file cannot be written.
    """
    import h5py  # type: ignore[import-untyped]  # waits until it is needed

    text = h5py.string_dtype("ascii")
    try:
        with silent_itk(), h5py.File(path, "w", libver="earliest") as file:
            file.create_dataset("ITKVersion", data=[sitk.Version.ITKVersionString()], dtype=text)
            for number, part in enumerate(parts):
                group = file.create_group(f"{GROUP}/{number}")
                group.create_dataset("TransformType", data=[part.kind], dtype=text)
                if part.parameters.size:
                    group.create_dataset("TransformFixedParameters", data=part.fixed)
                    large = {"chunks": (CHUNK,), **COMPRESSION} if part.parameters.size > CHUNK else {}
                    group.create_dataset("TransformParameters", data=part.parameters, **large)
    except RuntimeError as error:  # what h5py calls a full disk when it closes the file
        raise OSError(brief(error)) from error


def affine_part(matrix: Float[ndarray, "n n"]) -> Part:
    """An affine map of LPS points."""
    parameters = np.concatenate([matrix[:-1, :-1].ravel(), matrix[:-1, -1]])
    return Part(type_name("Affine", matrix.dtype, len(matrix) - 1), parameters, np.zeros(len(matrix) - 1))


def type_name(name: str, dtype: np.dtype, dim: int) -> str:
    """ITK's name of a type, as ``AffineTransform_double_3_3``; all parts of a composite have one precision."""
    return f"{name}Transform_{'float' if dtype == np.float32 else 'double'}_{dim}_{dim}"


def is_single(path: Path) -> bool:
    """Whether all large parameters in an HDF5 file of ITK's, which was checked before, are float32."""
    import h5py  # waits until it is needed

    with silent_itk(), h5py.File(path, "r") as file:
        groups = file[GROUP].values()
        return all(
            group["TransformParameters"].dtype.itemsize == 4 for group in groups if "TransformParameters" in group
        )


def _check_hdf5(path: Path) -> None:
    """Refuse what is damaged, and arrays larger than what is stored of them, for which ITK would make room first."""
    import h5py  # waits until it is needed

    def check(name: str, item: object) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        if item.nbytes > DEFLATE_LIMIT * max(item.id.get_storage_size(), 64):
            raise InputError(f"{path}: is truncated or damaged: {brief(name)} announces {item.nbytes} bytes")
        if item.dtype.kind == "O":
            _check_texts(path, item)
        elif item.ndim != 1 or item.dtype.kind != "f":
            raise InputError(f"{path}: is no ITK transform: {brief(name)} holds {item.shape} of {item.dtype}")

    if not _whole_heaps(path):
        raise InputError(f"{path}: is not an ITK transform, or is truncated (a heap of its texts is damaged)")
    try:
        with silent_itk(), h5py.File(path, "r") as file:
            file.visititems(check)
            parts = list(_hdf5_parts(file))
    except InputError:
        raise
    except Exception as error:  # h5py passes on whatever HDF5 stumbles over
        raise InputError(f"{path}: is not an ITK transform, or is truncated ({brief(error)})") from error
    _check_parts(path, parts)


def _check_texts(path: Path, item: Any) -> None:
    """Refuse a dataset of texts that are too long, before room is made for them, or that cannot be read.

    In the file each is its length in 4 bytes and 12 of where it lies.
    """
    offset = item.id.get_offset()
    if offset is not None and item.size <= MOST_TEXT:
        with path.open("rb") as stream:
            stream.seek(offset)
            lengths = np.frombuffer(stream.read(16 * item.size), "<u4")[::4]
        if (lengths > MOST_TEXT).any():
            raise InputError(f"{path}: is damaged: {brief(item.name)} is a text of {lengths.max()} letters")
    item[()]


def _whole_heaps(path: Path) -> bool:
    """Whether the heaps of text in an HDF5 file can be walked through; HDF5 goes round forever in some that cannot.

    A heap is a head of 16 bytes, of which the last 8 are its size, and objects: number, 6 bytes, size, content, each
    filled up to 8 bytes; object 0 is what is left (HDF5 File Format Specification, III.E).
    """
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(HEAP)
        while at >= 0:
            end = at + int.from_bytes(content[at + 8 : at + 16], "little")
            if end > len(content):
                return False
            at += 16
            while at + 16 <= end:
                number, size = struct.unpack("<H6xQ", content[at : at + 16])
                if not number and size < 16:
                    return False
                at += 16 + -(-size // 8) * 8 if number else size
            if at > end:
                return False
            at = content.find(HEAP, at)
    return True


def _hdf5_parts(file: Any) -> Iterable[tuple[str, int, list[float]]]:
    for group in file[GROUP].values():
        count = group["TransformParameters"].size if "TransformParameters" in group else 0
        fixed = group["TransformFixedParameters"][()].tolist() if "TransformFixedParameters" in group else []
        yield group["TransformType"][0].decode(), count, fixed


def _check_text(path: Path) -> None:
    """Refuse a text file whose parameters are no numbers, or not as many as its transforms have."""
    parts: list[tuple[str, int, list[float]]] = []
    kind, count = "", 0
    for line in path.read_bytes().decode("ascii", "replace").split("\n"):
        key, _, value = line.partition(":")
        numbers = [_number(word) for word in re.split("[ \t\r]+", value) if word]
        if key.strip() == "Transform":
            kind, count = value.strip(), 0
        elif key.strip() == "Parameters":
            # ITK reads up to the first word that is no number.
            count = -1 if np.isnan(numbers).any() else len(numbers)
            parts.append((kind, count, []))
        elif key.strip() == "FixedParameters" and parts:
            parts[-1] = (kind, count, numbers)
    _check_parts(path, parts)


def _number(word: str) -> float:
    return float(word) if NUMBER.fullmatch(word) else math.nan


def _check_parts(path: Path, parts: Iterable[tuple[str, int, list[float]]]) -> None:
    """Refuse transforms (type, number of parameters, fixed parameters) of fewer parameters than ITK will look for."""
    for kind, count, fixed in parts:
        name, dim = kind.partition("Transform")[0], int(kind[-1]) if kind[-1:] in ("2", "3") else 0
        if name in ON_A_GRID:
            wanted = math.prod(fixed[:dim]) * dim if dim else math.nan
        else:
            wanted = PARAMETERS[name](dim) if name in PARAMETERS else count
        if count != wanted:
            raise InputError(f"{path}: is damaged: {brief(kind)} has {count} parameters, expected {wanted:g}")


def _check_matlab(path: Path) -> None:
    """Refuse a binary file whose matrices do not fill it exactly.

    Each is five integers (type, rows, columns, whether complex, letters of the name), the name and the numbers
    (MATLAB's level 4 format, https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf).
    """
    content = path.read_bytes() if path.stat().st_size <= MOST_MATLAB else b""
    at, parts = 0, list[tuple[str, int, list[float]]]()
    while at + 20 <= len(content):
        kind, rows, columns, imaginary, letters = struct.unpack("<5i", content[at : at + 20])
        name = content[at + 20 : at + 20 + letters]
        if kind not in MATLAB_BYTES or min(rows, columns, letters - 1) < 0 or imaginary or not name.endswith(b"\0"):
            break
        at += 20 + letters + rows * columns * MATLAB_BYTES[kind]
        parts.append((name[:-1].decode("latin-1"), rows * columns, []))
    if not content or at != len(content):
        raise InputError(f"{path}: is not an ITK transform, or is truncated (its matrices do not fill the file)")
    _check_parts(path, parts)

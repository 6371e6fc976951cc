"""MetaImage and NRRD: the voxels are those that were checked, whatever the header says of sizes and places."""

import gzip
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.images.io import read_image

VOXELS = (np.arange(32 * 31 * 8) % 355).astype(np.int16).reshape(32, 31, 8)
RAW = VOXELS.tobytes(order="F")
META = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = {compressed}
{fields}TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 10 20 30
ElementSpacing = 1 2 3
DimSize = 32 31 8
ElementType = {kind}
ElementDataFile = {file}
"""
NRRD = """NRRD0004
type: {kind}
dimension: 3
space: left-posterior-superior
sizes: 32 31 8
space directions: (1,0,0) (0,2,0) (0,0,3)
kinds: domain domain domain
endian: little
encoding: {encoding}
space origin: (10,20,30)
{fields}
"""


def meta(path: Path, content: bytes, fields: str = "", compressed: bool = False, kind: str = "MET_SHORT") -> Path:
    """A MetaImage: the header by hand, and the bytes that follow it; of an `.mhd`, beside it."""
    name = "LOCAL" if path.suffix == ".mha" else "voxels.raw"
    header = META.format(compressed=compressed, fields=fields and f"{fields}\n", kind=kind, file=name).encode()
    path.write_bytes(header + content if path.suffix == ".mha" else header)
    if path.suffix == ".mhd":
        (path.parent / name).write_bytes(content)
    return path


def nrrd(path: Path, content: bytes, fields: str = "", encoding: str = "raw", kind: str = "short") -> Path:
    """An NRRD file: the header by hand, and the bytes that follow it; of an `.nhdr`, beside it."""
    detached = path.suffix == ".nhdr"
    fields += "data file: voxels.raw\n" if detached else ""
    header = NRRD.format(encoding=encoding, fields=fields, kind=kind).encode()
    path.write_bytes(header if detached else header + content)
    if detached:
        (path.parent / "voxels.raw").write_bytes(content)
    return path


def itk(path: Path) -> ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T


PACKED = zlib.compress(RAW)


@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
@pytest.mark.parametrize("size", [None, 0, 1, len(PACKED) // 2, len(PACKED) - 1, len(PACKED) + 1, 10**6, -1])
def test_compressed_metaimage_of_any_announced_size(tmp_path: Path, suffix: str, size: int | None) -> None:
    # ITK returns uninitialised memory, or an error, for most of these.
    fields = "" if size is None else f"CompressedDataSize = {size}"
    path = meta(tmp_path / f"a{suffix}", PACKED, fields, compressed=True)
    np.testing.assert_array_equal(read_image(path).data, VOXELS)
    np.testing.assert_allclose(read_image(path).affine @ [1, 1, 1, 1], [-11, -22, 33, 1])


def test_compressed_metaimage_with_its_size_is_as_in_itk(tmp_path: Path) -> None:
    for content in (PACKED, PACKED + bytes(100), gzip.compress(RAW)):
        path = meta(tmp_path / "a.mha", content, f"CompressedDataSize = {len(content)}", compressed=True)
        np.testing.assert_array_equal(read_image(path).data, itk(path))


@pytest.mark.parametrize("make", [meta, nrrd], ids=["mha", "nrrd"])
def test_compressed_voxels_that_are_not_whole_are_refused(tmp_path: Path, make) -> None:
    def packed(content: bytes) -> Path:
        if make is meta:
            return meta(tmp_path / "a.mha", content, f"CompressedDataSize = {len(content)}", compressed=True)
        return nrrd(tmp_path / "a.nrrd", content, encoding="gzip")

    whole = zlib.compress(RAW) if make is meta else gzip.compress(RAW)
    np.testing.assert_array_equal(read_image(packed(whole)).data, VOXELS)
    for damaged, reason in (
        (whole[:-1], "truncated"),
        (whole[: len(whole) // 2], "truncated"),
        (whole[:200] + bytes([whole[200] ^ 16]) + whole[201:], "damaged"),
        ((zlib.compress if make is meta else gzip.compress)(RAW[:-2]), "15872 bytes of voxels, 15870 were unpacked"),
        (RAW, "damaged|truncated"),
    ):
        with pytest.raises(InputError, match=reason) as caught:
            read_image(packed(damaged))
        assert "\n" not in str(caught.value)


TYPES = {
    "MET_CHAR": ("signed char", np.int8),
    "MET_UCHAR": ("unsigned char", np.uint8),
    "MET_SHORT": ("short", np.int16),
    "MET_USHORT": ("uint16", np.uint16),
    "MET_INT": ("int32", np.int32),
    "MET_UINT": ("unsigned int", np.uint32),
    "MET_LONG": ("longlong", np.int32),
    "MET_LONG_LONG": ("int64", np.int64),
    "MET_FLOAT": ("float", np.float32),
    "MET_DOUBLE": ("double", np.float64),
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("order", ["<", ">"])
def test_types_and_orders_of_bytes_are_as_in_itk(tmp_path: Path, kind: str, order: str) -> None:
    name, dtype = TYPES[kind]
    content = (VOXELS % 127).astype(np.dtype(dtype).newbyteorder(order)).tobytes(order="F")
    path = meta(tmp_path / "a.mha", content, kind=kind)
    path.write_bytes(path.read_bytes().replace(b"MSB = False", b"MSB = True" if order == ">" else b"MSB = False"))
    np.testing.assert_array_equal(read_image(path).data, VOXELS % 127)
    np.testing.assert_array_equal(itk(path), VOXELS % 127)
    assert read_image(path).stored == dtype
    wide = np.int64 if name == "longlong" else dtype
    path = nrrd(tmp_path / "a.nrrd", (VOXELS % 127).astype(np.dtype(wide).newbyteorder(order)).tobytes("F"), kind=name)
    path.write_bytes(
        path.read_bytes().replace(b"endian: little", b"endian: big" if order == ">" else b"endian: little")
    )
    np.testing.assert_array_equal(read_image(path).data, VOXELS % 127)
    np.testing.assert_array_equal(itk(path), VOXELS % 127)
    assert read_image(path).stored == wide


@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
def test_where_the_voxels_of_a_metaimage_begin_is_as_in_itk(tmp_path: Path, suffix: str) -> None:
    before = bytes(range(100))
    path = meta(tmp_path / f"a{suffix}", before + RAW, "HeaderSize = -1")
    np.testing.assert_array_equal(itk(path), VOXELS)
    np.testing.assert_array_equal(read_image(path).data, VOXELS)
    start = 100 if suffix == ".mhd" else path.stat().st_size - len(RAW) + 1
    path = meta(tmp_path / f"a{suffix}", before + RAW, f"HeaderSize = {start}")
    np.testing.assert_array_equal(itk(path), VOXELS)
    np.testing.assert_array_equal(read_image(path).data, VOXELS)


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr"])
@pytest.mark.parametrize(
    ("fields", "before", "encoding"),
    [
        ("byte skip: 7\n", b"1234567", "raw"),
        ("byteskip: 7\n", b"1234567", "raw"),
        ("line skip: 2\n", b"one\ntwo\n", "raw"),
        ("lineskip: 1\nbyte skip: 3\n", b"one\nabc", "raw"),
        ("byte skip: -1\n", b"any number", "raw"),
        ("byte skip: 7\n", b"1234567", "gzip"),
    ],
)
def test_where_the_voxels_of_an_nrrd_file_begin_is_as_in_itk(
    tmp_path: Path, suffix: str, fields: str, before: bytes, encoding: str
) -> None:
    content = gzip.compress(before + RAW) if encoding == "gzip" else before + RAW
    path = nrrd(tmp_path / f"a{suffix}", content, fields, encoding)
    np.testing.assert_array_equal(itk(path), VOXELS)
    np.testing.assert_array_equal(read_image(path).data, VOXELS)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ("ElementByteOrderMSB = True", "says two orders of bytes"),
        ("HeaderSize = -7", "begin before its first byte"),
        ("HeaderSize = 10000000", "is truncated"),
        ("HeaderSize = x", "cannot be read by ITK"),
    ],
)
def test_metaimages_that_cannot_be_placed_are_refused(tmp_path: Path, fields: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read_image(meta(tmp_path / "a.mha", RAW, fields))


@pytest.mark.parametrize(
    ("fields", "encoding", "reason"),
    [
        ("byte skip: -1\n", "gzip", "begin before its first byte|cannot be read by ITK"),
        ("byte skip: -2\n", "raw", "begin before its first byte|cannot be read by ITK"),
        ("byte skip: 8\n", "raw", "is truncated"),
        ("line skip: x\n", "raw", "expected a whole number|cannot be read by ITK"),
    ],
)
def test_nrrd_files_that_cannot_be_placed_are_refused(tmp_path: Path, fields: str, encoding: str, reason: str) -> None:
    content = gzip.compress(RAW) if encoding == "gzip" else RAW
    with pytest.raises(InputError, match=reason):
        read_image(nrrd(tmp_path / "a.nrrd", content, fields, encoding))


def test_an_nrrd_file_without_its_order_of_bytes_is_refused(tmp_path: Path) -> None:
    path = nrrd(tmp_path / "a.nrrd", RAW)
    path.write_bytes(re.sub(rb"endian: little\n", b"", path.read_bytes()))
    with pytest.raises(InputError, match=r"does not say the order of the bytes|cannot be read by ITK"):
        read_image(path)

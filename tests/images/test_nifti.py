"""NIfTI files to images and back: geometry against ITK, every refused file, voxel types, outputs that appear whole."""

import contextlib
import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray
from scipy.spatial.transform import Rotation

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import read_image, write_image
from crossmorph.images.orientation import itk_affine


def affine4(matrix: ndarray, position: tuple[float, float, float] = (-10, -20, 30)) -> ndarray:
    """A 4 x 4 affine."""
    full = np.eye(4)
    full[:3, :3], full[:3, 3] = matrix, position
    return full


SCALES = np.diag([1.5, 2.0, 3.0])
AXIAL = affine4(SCALES)
ROTATED = affine4(Rotation.from_euler("z", 30, degrees=True).as_matrix() @ SCALES)
OBLIQUE = affine4(Rotation.from_euler("xyz", [20, -10, 30], degrees=True).as_matrix() @ SCALES)
CORONAL = affine4([[1.5, 0, 0], [0, 0, 3], [0, 2, 0]])
AFFINES = {
    "axial": AXIAL,
    "flipped": affine4(SCALES * [[-1], [1], [1]]),
    "swapped": affine4([[0, 1.5, 0], [2, 0, 0], [0, 0, 3]]),
    "rotated": ROTATED,
    "oblique": OBLIQUE,
}
SHAPES = {"2d": (6, 5), "slice": (6, 5, 1), "slice of a series": (6, 5, 1, 1), "3d": (6, 5, 4)}
CODES = {"both": (1, 1), "q": (1, 0), "s": (0, 2)}


def ramp(shape: tuple[int, ...]) -> ndarray:
    """Distinct intensities."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 1


def save(
    path: Path, data: ndarray, affine: ndarray = AXIAL, codes: tuple[int, int] = (1, 1), units: str = "mm"
) -> Path:
    """Write with nibabel: what a user's file looks like."""
    nifti = nibabel.Nifti1Image(data, affine)
    nifti.set_qform(affine, codes[0])
    nifti.set_sform(affine, codes[1])
    nifti.header.set_xyzt_units(units)
    nibabel.save(nifti, path)
    return path


def itk_read(path: Path) -> tuple[ndarray, ndarray]:
    """Voxels in (x, y, z) order and index-to-RAS affine as SimpleITK has them, a single slice as 2-D."""
    image = sitk.ReadImage(str(path))
    if image.GetDimension() == 3 and image.GetSize()[2] == 1:
        image = image[:, :, 0]
    return sitk.GetArrayFromImage(image).T, itk_affine(image.GetSpacing(), image.GetDirection(), image.GetOrigin())


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", AFFINES)
def test_geometry_is_that_of_itk_and_survives_writing(tmp_path: Path, name: str, shape: str, codes: str) -> None:
    source = save(tmp_path / "in.nii.gz", ramp(SHAPES[shape]), AFFINES[name], CODES[codes])
    image = read_image(source)
    data, affine = itk_read(source)
    np.testing.assert_array_equal(image.data, data)
    np.testing.assert_allclose(image.affine, affine, atol=1e-6)
    assert image.physical
    assert image.data.dtype == np.float32

    write_image(tmp_path / "out.nii.gz", image)
    again = read_image(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(again.data, image.data)
    np.testing.assert_allclose(again.affine, image.affine, atol=1e-5)
    written = nibabel.load(tmp_path / "out.nii.gz")
    assert written.shape == SHAPES[shape]
    np.testing.assert_allclose(written.affine, AFFINES[name], atol=1e-5)
    np.testing.assert_allclose(written.get_qform(coded=True)[0], written.get_sform(coded=True)[0], atol=1e-5)
    assert written.header["qform_code"] == written.header["sform_code"] == max(CODES[codes])


def test_axial_slice_by_hand(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "a.nii", ramp((6, 5, 1))))
    np.testing.assert_allclose(image.affine, [[1.5, 0, -10], [0, 2, -20], [0, 0, 1]])
    assert image.spacing == (1.5, 2.0)
    assert (image.dim, image.shape) == (2, (6, 5))


@pytest.mark.parametrize("codes", [(1, 2), (2, 1), (1, 1)])
def test_forms_that_disagree_follow_itk(tmp_path: Path, codes: tuple[int, int]) -> None:
    nifti = nibabel.Nifti1Image(ramp((6, 5)), None)
    nifti.set_qform(AXIAL, codes[0])
    nifti.set_sform(ROTATED, codes[1])
    nibabel.save(nifti, tmp_path / "a.nii")
    image = read_image(tmp_path / "a.nii")
    np.testing.assert_allclose(image.affine, itk_read(tmp_path / "a.nii")[1], atol=1e-6)
    write_image(tmp_path / "b.nii", image)
    np.testing.assert_allclose(read_image(tmp_path / "b.nii").affine, image.affine, atol=1e-5)


@pytest.mark.parametrize("units", ["micron", "meter"])
def test_other_units_become_millimetres(tmp_path: Path, units: str) -> None:
    source = save(tmp_path / "a.nii", ramp((6, 5)), units=units)
    image = read_image(source)
    np.testing.assert_allclose(image.affine, itk_read(source)[1], rtol=1e-6)
    np.testing.assert_allclose(image.spacing, np.array([1.5, 2.0]) * {"micron": 1e-3, "meter": 1e3}[units], rtol=1e-6)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1)])
def test_without_position_codes_the_spacing_counts(tmp_path: Path, shape: tuple[int, ...]) -> None:
    source = save(tmp_path / "a.nii", ramp(shape), codes=(0, 0))
    image = read_image(source)
    np.testing.assert_allclose(image.affine, np.diag([-1.5, -2.0, 1.0]))
    np.testing.assert_allclose(image.affine, itk_read(source)[1], atol=1e-6)
    assert image.physical
    write_image(tmp_path / "b.nii", image)
    np.testing.assert_allclose(read_image(tmp_path / "b.nii").affine, image.affine)


def test_coronal_slice_of_three_axes_takes_the_axes_of_the_page(tmp_path: Path) -> None:
    source = save(tmp_path / "a.nii", ramp((6, 5, 1)), CORONAL)
    image = read_image(source)
    np.testing.assert_allclose(image.affine, [[-1.5, 0, -10], [0, -2, -20], [0, 0, 1]])
    np.testing.assert_allclose(image.affine, itk_read(source)[1])
    write_image(tmp_path / "b.nii", image)
    np.testing.assert_allclose(nibabel.load(tmp_path / "b.nii").affine, CORONAL, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6))
def test_any_2d_affine_is_written_such_that_itk_reads_it(
    tmp_path_factory: pytest.TempPathFactory, values: list
) -> None:
    affine = np.eye(3)
    affine[:2] = np.reshape(values, (2, 3))
    lengths = np.linalg.norm(affine[:2, :2], axis=0)
    if abs(np.linalg.det(affine)) < 0.1 * max(lengths.prod(), 0.1):
        return
    path = tmp_path_factory.mktemp("any") / "a.nii"
    write_image(path, Image(ramp((4, 3)), affine))
    np.testing.assert_allclose(itk_read(path)[1], affine, atol=1e-5)


def test_scaled_integers_of_either_byte_order(tmp_path: Path) -> None:
    stored = np.arange(30, dtype=np.int16).reshape(6, 5)
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    scaled = nibabel.Nifti1Image(stored, AXIAL, header)
    scaled.header.set_slope_inter(0.5, -3)
    nibabel.save(scaled, tmp_path / "scaled.nii.gz")
    assert gzip.decompress((tmp_path / "scaled.nii.gz").read_bytes())[:4] == b"\0\0\x01\x5c"
    np.testing.assert_allclose(read_image(tmp_path / "scaled.nii.gz").data, stored * 0.5 - 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_labels_are_int32_and_keep_their_type_when_written(tmp_path: Path, dtype: type) -> None:
    values = np.array([[0, 1], [3, 200]], dtype)
    labels = read_image(save(tmp_path / "l.nii.gz", values), labels=True)
    assert labels.data.dtype == np.int32
    np.testing.assert_array_equal(labels.data, values)
    write_image(tmp_path / "o.nii.gz", labels)
    assert nibabel.load(tmp_path / "o.nii.gz").get_data_dtype() == np.int32
    assert read_image(save(tmp_path / "0.nii", np.zeros((3, 3), dtype)), labels=True).data.max() == 0


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (np.array([[True, False]]), np.uint8),
        (np.array([[5, -7]]), np.int32),
        (np.array([[5, 2**40 + 1]]), np.int64),
        (np.array([[5, 2**64 - 1]], np.uint64), np.uint64),
        (ramp((1, 2)), "f4"),
    ],
)
def test_stored_types(tmp_path: Path, data: ndarray, dtype: str) -> None:
    write_image(tmp_path / "a.nii", Image(data, np.eye(3)))
    written = nibabel.load(tmp_path / "a.nii")
    assert written.get_data_dtype() == dtype
    np.testing.assert_array_equal(written.dataobj, data)


def test_the_fixed_header_does_not_rescale_what_is_written(tmp_path: Path) -> None:
    scaled = nibabel.Nifti1Image(np.arange(30, dtype=np.int16).reshape(6, 5), AXIAL)
    scaled.header.set_slope_inter(0.5, -3)
    scaled.header["cal_max"] = 7
    nibabel.save(scaled, tmp_path / "fixed.nii")
    fixed = read_image(tmp_path / "fixed.nii")
    for values in (ramp((6, 5)) * 1.37, np.arange(30, dtype=np.int32).reshape(6, 5)):
        write_image(tmp_path / "moved.nii", Image(values, fixed.affine, header=fixed.header))
        written = nibabel.load(tmp_path / "moved.nii")
        np.testing.assert_array_equal(written.dataobj, values.astype(written.get_data_dtype()))
        assert written.header["cal_max"] == 0


NOISE = np.random.default_rng(0).random((64, 64)).astype(np.float32)


def edit(path: Path, affine: ndarray = AXIAL, codes: tuple[int, int] = (1, 1), **fields: object) -> None:
    """Write noise, then overwrite header fields without touching the voxels."""
    plain = save(path.with_name("plain.nii"), NOISE, affine, codes)
    content = plain.read_bytes()
    header = np.frombuffer(bytearray(content[:348]), nibabel.Nifti1Header.template_dtype)[0]
    for name, value in fields.items():
        header[name] = value
    content = header.tobytes() + content[348:]
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def cut(path: Path, size: int) -> None:
    """Write noise and keep the file's beginning."""
    save(path, NOISE)
    path.write_bytes(path.read_bytes()[:size])


def flip_bit(path: Path) -> None:
    """Write noise and damage one byte in the middle."""
    content = bytearray(save(path, NOISE).read_bytes())
    content[6000] ^= 16
    path.write_bytes(content)


def signal_nan(path: Path) -> None:
    """Write noise and make a number of the affine a NaN of the kind that warns when it is converted."""
    content = bytearray(save(path, NOISE).read_bytes())
    content[311] = 255
    path.write_bytes(content)


HUGE = [2, 32000, 32000, 1, 1, 1, 1, 1]
SHEAR = affine4([[1.5, 0.4, 0], [0, 2, 0], [0, 0, 3]])
TEXT = b"this is no image" * 100
BAD = {
    "missing": ("a.nii.gz", lambda path: path.unlink(missing_ok=True), "No such file"),
    "folder": ("a.nii.gz", lambda path: path.mkdir(), "is a folder"),
    "text": ("a.nii.gz", lambda path: path.write_bytes(TEXT), "not a NIfTI file"),
    "text in gzip": ("a.nii.gz", lambda path: path.write_bytes(gzip.compress(TEXT)), "not a NIfTI file"),
    "text .nii": ("a.nii", lambda path: path.write_bytes(TEXT), "not a NIfTI file"),
    "empty": ("a.nii.gz", lambda path: path.touch(), "0 bytes"),
    "truncated in the header": ("a.nii.gz", lambda path: cut(path, 40), "truncated"),
    "truncated in the voxels": ("a.nii.gz", lambda path: cut(path, 9000), "truncated"),
    "truncated at the end": ("a.nii.gz", lambda path: cut(path, -4), "truncated"),
    "truncated .nii": ("a.nii", lambda path: cut(path, 9000), "truncated"),
    "damaged": ("a.nii.gz", flip_bit, "damaged"),
    "huge claim": ("a.nii.gz", lambda path: edit(path, dim=HUGE), "too many for the file"),
    "short": ("a.nii.gz", lambda path: edit(path, dim=[2, 100, 100, 1, 1, 1, 1, 1]), "announces 40352 bytes, 16736"),
    "zero axis": ("a.nii", lambda path: edit(path, dim=[2, 0, 64, 1, 1, 1, 1, 1]), r"shape \(0, 64\)"),
    "negative axis": ("a.nii", lambda path: edit(path, dim=[2, -3, 64, 1, 1, 1, 1, 1]), r"shape \(-3, 64\)"),
    "no voxel offset": ("a.nii", lambda path: edit(path, vox_offset=0), "voxels at byte 0"),
    "no quaternion": ("a.nii", lambda path: edit(path, AXIAL, (1, 0), quatern_b=7), "header is invalid"),
    "no data type": ("a.nii", lambda path: edit(path, datatype=77), "unknown to NIfTI, code 77"),
    "nan affine": ("a.nii", lambda path: edit(path, srow_x=[np.nan, 0, 0, 0]), "sform holds NaN"),
    "signalling nan": ("a.nii", signal_nan, "not finite|holds NaN"),
    "singular affine": (
        "a.nii",
        lambda path: edit(path, srow_y=[0, 0, 0, 0], qform_code=0),
        "no rotation, or singular",
    ),
    "sheared": ("a.nii", lambda path: edit(path, SHEAR, (0, 1)), "orthonormal"),
    "detached": ("a.nii", lambda path: edit(path, magic=b"ni1"), "magic"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("labels", [False, True])
def test_bad_files_are_refused_in_one_line(tmp_path: Path, case: str, labels: bool) -> None:
    name, make, reason = BAD[case]
    make(tmp_path / name)
    with pytest.raises(InputError, match=reason) as caught:
        read_image(tmp_path / name, labels)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@settings(deadline=None, max_examples=60)
@given(st.integers(4, 347), st.integers(0, 255), st.integers(4, 347), st.integers(0, 255))
def test_any_header_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, first: int, one: int, second: int, other: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "mangled.nii"
    content = bytearray(save(path, ramp((6, 5, 1))).read_bytes())
    content[first], content[second] = one, other
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        image = read_image(path)
        assert np.isfinite(image.data).all()
        write_image(path.with_name("again.nii"), image)


ODD_HEADERS = {
    "no handedness": ((1, 0), {"pixdim": [0, 1.5, 2, 1, 1, 1, 1, 1]}),
    "no handedness beside an sform": ((1, 1), {"pixdim": [0, 1.5, 2, 1, 1, 1, 1, 1]}),
    "unknown position code": ((1, 1), {"sform_code": 127}),
    "unknown position codes": ((1, 1), {"sform_code": 127, "qform_code": 99}),
    "no quaternion beside an sform": ((0, 2), {"quatern_b": 1e38}),
    "nan offset beside an sform": ((0, 2), {"qoffset_x": np.nan}),
}


@pytest.mark.parametrize("case", ODD_HEADERS)
def test_what_itk_makes_of_an_odd_header_survives_writing(tmp_path: Path, case: str) -> None:
    codes, fields = ODD_HEADERS[case]
    edit(tmp_path / "a.nii", codes=codes, **fields)
    image = read_image(tmp_path / "a.nii")
    np.testing.assert_allclose(image.affine, itk_read(tmp_path / "a.nii")[1], atol=1e-6)
    write_image(tmp_path / "b.nii", image)
    data, affine = itk_read(tmp_path / "b.nii")
    np.testing.assert_array_equal(data, NOISE)
    np.testing.assert_allclose(affine, image.affine, atol=1e-5)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (np.where(ramp((4, 4)) < 3, np.nan, ramp((4, 4))), "2 of 16 voxels are NaN or infinite"),
        (np.where(ramp((4, 4)) < 2, 1e300, ramp((4, 4)).astype(np.float64)), "1 of 16 voxels are NaN or infinite"),
        (np.full((4, 4), 7, np.float32), "every voxel is 7"),
        (ramp((4, 4)).astype(np.complex64), "complex64 numbers"),
        (np.zeros((4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "colour"),
        (ramp((4, 4, 3, 2)), r"shape \(4, 4, 3, 2\), expected a 2-D or 3-D image"),
        (ramp((4, 4, 1, 2)), "one volume of a series"),
        (ramp((4, 4, 1, 1, 2)), "expected a 2-D or 3-D image"),
        (ramp((4,)), "expected a 2-D or 3-D image"),
    ],
)
def test_unusable_voxels_are_refused(tmp_path: Path, data: ndarray, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read_image(save(tmp_path / "a.nii.gz", data))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (np.array([[0.5, 1], [2, np.nan]]), "2 of 4 voxels are not whole"),
        (np.array([[0, 1e20]]), "do not fit 64 bits"),
    ],
)
def test_unusable_labels_are_refused(tmp_path: Path, data: ndarray, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read_image(save(tmp_path / "a.nii.gz", data), labels=True)


def test_coronal_slice_of_two_axes_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"stored with three axes, \(X, Y, 1\)"):
        read_image(save(tmp_path / "a.nii", ramp((6, 5)), CORONAL))


def test_permission_denied_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.nii.gz", ramp((6, 5)))

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(gzip, "GzipFile", deny)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
        read_image(path)
    monkeypatch.setattr(Path, "touch", deny)
    with pytest.raises(InputError, match=r"cannot be written \(Permission denied\)"):
        write_image(tmp_path / "b.nii.gz", Image(ramp((6, 5)), np.eye(3)))


def test_output_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.nii.gz"
    write_image(path, Image(ramp((6, 5)), np.eye(3)))
    with path.open("rb") as reader:  # replaced, not overwritten: who reads the old file goes on reading it
        before = path.read_bytes()
        write_image(path, Image(ramp((7, 5)), np.eye(3)))
        assert reader.read() == before
    before = path.read_bytes()

    def full_disk(_: object, name: Path) -> None:
        name.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nibabel, "save", full_disk)
    with pytest.raises(InputError, match="No space left"):
        write_image(path, Image(ramp((3, 3)), np.eye(3)))
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_outputs_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    image, volume = Image(ramp((6, 5)), np.eye(3)), Image(ramp((3, 4, 5)), np.eye(4))
    (tmp_path / "folder.nii").mkdir()
    sheared = Image(volume.data, affine4([[1, 0.5, 0], [0, 1, 0], [0, 0, 1]]))
    for name, what, reason in (
        ("missing/a.nii", image, "missing does not exist"),
        ("folder.nii", image, "is a folder"),
        ("sheared.nii", sheared, "is it sheared"),
    ):
        with pytest.raises(InputError, match=reason) as caught:
            write_image(tmp_path / name, what)
        assert str(tmp_path / name) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.nii"]

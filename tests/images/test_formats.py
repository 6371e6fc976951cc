"""MetaImage, NRRD, MINC, TIFF and DICOM against SimpleITK and nibabel reading the same files; every refused file."""

import gzip
import os
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import PIL.Image
import pytest
import SimpleITK as sitk
from numpy import ndarray
from scipy.spatial.transform import Rotation

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import read_image, write_image
from crossmorph.images.orientation import itk_affine

OBLIQUE = Rotation.from_euler("xyz", [20, -10, 30], degrees=True).as_matrix()
DIRECTIONS = {
    "lps": np.eye(3),
    "ras": np.diag([-1.0, -1.0, 1.0]),
    "oblique": OBLIQUE,
    "left-handed": OBLIQUE @ np.diag([1.0, 1.0, -1.0]),
    "sagittal": np.array([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]]),
}
SPACING = (0.9, 1.5, 3.0)
SHAPE = (7, 6, 5)


def ramp(shape: tuple[int, ...] = SHAPE, dtype: type = np.int16) -> ndarray:
    """Distinct intensities: no flip or transposition of it is the same."""
    return np.arange(-20, np.prod(shape) - 20).reshape(shape).astype(dtype)


def volume(data: ndarray, direction: ndarray = DIRECTIONS["left-handed"]) -> sitk.Image:
    """An ITK image of anisotropic spacing, away from the origin."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    image.SetSpacing(SPACING[: data.ndim])
    image.SetDirection(direction[: data.ndim, : data.ndim].ravel().tolist())
    image.SetOrigin((-10, 20, 30)[: data.ndim])
    return image


def geometry(image: sitk.Image) -> ndarray:
    """Index to RAS."""
    return itk_affine(image.GetSpacing(), image.GetDirection(), image.GetOrigin())


def save_dicom(folder: Path, image: sitk.Image, uid: str = "1.2.3", skip: tuple[int, ...] = (), **tags: str) -> None:
    """Write a series, its files numbered against the order of position."""
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    axes = np.reshape(image.GetDirection(), (3, 3))
    count = image.GetSize()[2]
    for k in set(range(count)) - set(skip):
        plane = image[:, :, k]
        place = image.TransformIndexToPhysicalPoint((0, 0, k))
        values = {
            "0008|0060": "MR",
            "0008|0018": f"{uid}.{k + 1}",
            "0020|000d": "1.2",
            "0020|000e": uid,
            "0020|0032": "\\".join(f"{x:.9g}" for x in place),
            "0020|0037": "\\".join(f"{x:.9g}" for x in [*axes[:, 0], *axes[:, 1]]),
        } | {f"{key[1:5]}|{key[5:]}": value for key, value in tags.items()}
        for key, value in values.items():
            plane.SetMetaData(key, value)
        file = folder / f"{uid}-{count - k:02d}.dcm"
        writer.SetFileName(str(file if not file.exists() else file.with_stem(f"{file.stem}b")))
        writer.Execute(plane)


@pytest.mark.parametrize("compressed", [False, True], ids=["raw", "compressed"])
@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nhdr"])
@pytest.mark.parametrize("name", DIRECTIONS)
def test_itk_formats_are_read_as_itk_reads_them(tmp_path: Path, name: str, suffix: str, compressed: bool) -> None:
    path = tmp_path / f"a{suffix}"
    theirs = volume(ramp(), DIRECTIONS[name])
    sitk.WriteImage(theirs, str(path), compressed)
    image = read_image(path)
    np.testing.assert_array_equal(image.data, ramp())
    np.testing.assert_allclose(image.affine, geometry(sitk.ReadImage(str(path))), atol=1e-9)
    np.testing.assert_allclose(image.affine, geometry(theirs), atol=1e-6)
    assert (image.data.dtype, image.stored, image.physical, image.header) == (np.float32, np.int16, True, None)
    labels = read_image(path, labels=True).data
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, ramp())


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.float32, np.float64, np.int64])
@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_every_voxel_type_is_read(tmp_path: Path, suffix: str, dtype: type) -> None:
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(volume(ramp((7, 6), np.int16).clip(0).astype(dtype)), str(path), True)
    image = read_image(path)
    assert image.stored == dtype
    np.testing.assert_array_equal(image.data, ramp((7, 6)).clip(0))
    np.testing.assert_allclose(image.affine, geometry(sitk.ReadImage(str(path))), atol=1e-9)


@pytest.mark.parametrize("name", DIRECTIONS)
@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_one_slice_is_two_dimensional_as_in_simpleitk(tmp_path: Path, suffix: str, name: str) -> None:
    theirs = volume(ramp((7, 6, 1)), DIRECTIONS[name])
    sitk.WriteImage(theirs, str(tmp_path / f"a{suffix}"))
    image = read_image(tmp_path / f"a{suffix}")
    assert image.shape == (7, 6)
    np.testing.assert_allclose(image.affine, geometry(theirs[:, :, 0]), atol=1e-9)
    sitk.WriteImage(theirs, str(tmp_path / "a.nii"))
    np.testing.assert_allclose(image.affine, read_image(tmp_path / "a.nii").affine, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
@pytest.mark.parametrize("name", DIRECTIONS)
@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_what_is_written_itk_reads_back(tmp_path: Path, suffix: str, name: str, dtype: type) -> None:
    path = tmp_path / f"a{suffix}"
    data, affine = ramp(SHAPE).clip(0, 200).astype(dtype), geometry(volume(ramp(), DIRECTIONS[name]))
    write_image(path, Image(data, affine))
    theirs = sitk.ReadImage(str(path))
    voxels = sitk.GetArrayFromImage(theirs).T
    assert voxels.dtype == dtype
    np.testing.assert_array_equal(voxels, data)
    np.testing.assert_allclose(geometry(theirs), affine, atol=1e-9)
    np.testing.assert_allclose(read_image(path).affine, affine, atol=1e-9)
    assert [path.name for path in tmp_path.iterdir()] == [path.name]


def test_a_slice_is_written_with_two_axes(tmp_path: Path) -> None:
    affine = geometry(volume(ramp((7, 6)), np.array([[0.6, -0.8], [0.8, 0.6]])))
    for name in ("a.mha", "a.nrrd"):
        write_image(tmp_path / name, Image(ramp((7, 6), np.int64), affine))
        theirs = sitk.ReadImage(str(tmp_path / name))
        np.testing.assert_allclose(geometry(theirs), affine, atol=1e-9)
        assert theirs.GetPixelID() == sitk.sitkInt32


def test_outputs_appear_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, image = tmp_path / "a.mha", Image(ramp(), np.eye(4))
    write_image(path, image)
    before = path.read_bytes()

    def full_disk(_: object, name: str, **__: object) -> None:
        Path(name).write_bytes(b"half")
        raise RuntimeError("ITK ERROR: no space left")

    monkeypatch.setattr(sitk, "WriteImage", full_disk)
    for wanted, reason in ((path, "written by ITK .*no space left"), (tmp_path / "b" / "a.mha", "does not exist")):
        with pytest.raises(InputError, match=reason):
            write_image(wanted, image)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before
    with pytest.raises(InputError, match=r"cannot appear together; expected \.mha"):
        write_image(tmp_path / "a.mhd", image)
    with pytest.raises(InputError, match="its direction is zero, singular"):
        write_image(tmp_path / "b.nrrd", Image(ramp(), np.diag([1.0, 1, 0, 1]) + np.eye(4, k=1)))


# MINC: written by ITK, of which the world is turned by half a turn (see crossmorph.images.metaimage_nrrd); nibabel is
# the reference.
@pytest.mark.parametrize("name", DIRECTIONS)
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_left_stays_left_in_minc(tmp_path: Path, name: str, dtype: type) -> None:
    sitk.WriteImage(volume(ramp(dtype=dtype), DIRECTIONS[name]), str(tmp_path / "a.mnc"))
    image, theirs = read_image(tmp_path / "a.mnc"), nibabel.load(tmp_path / "a.mnc")
    assert image.stored == dtype
    values = np.asarray(theirs.dataobj)
    assert values.size == image.data.size
    for index in np.ndindex(values.shape):
        place = np.linalg.solve(image.affine, theirs.affine @ [*index, 1])[:3]
        np.testing.assert_allclose(place, np.round(place), atol=1e-6)
        assert image.data[tuple(np.round(place).astype(int))] == values[index]


def test_minc_by_hand(tmp_path: Path) -> None:
    # ITK writes the numbers of its own frame; MINC's are right, anterior, superior.
    sitk.WriteImage(volume(ramp(), np.eye(3)), str(tmp_path / "a.mnc"))
    image = read_image(tmp_path / "a.mnc")
    np.testing.assert_allclose(image.affine, [[0.9, 0, 0, -10], [0, 1.5, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1]])
    np.testing.assert_array_equal(image.data, ramp())


def sample(name: str) -> Path:
    """A file of nibabel's own tests."""
    return Path(nibabel.__file__).parent / "tests" / "data" / name


def test_minc_1_and_2_with_scales_and_packed(tmp_path: Path) -> None:
    for name, shape in (("tiny.mnc", (20, 20, 10)), ("small.mnc", (29, 28, 18))):
        image, theirs = read_image(sample(name)), nibabel.load(sample(name))
        np.testing.assert_array_equal(image.data, np.asarray(theirs.dataobj).T.astype(np.float32))
        np.testing.assert_allclose(image.affine @ [0, 0, 2, 1], theirs.affine @ [2, 0, 0, 1])
        assert (image.shape, image.stored) == (shape, None)
    (tmp_path / "a.mnc.gz").write_bytes(gzip.compress(sample("tiny.mnc").read_bytes()))
    np.testing.assert_array_equal(read_image(tmp_path / "a.mnc.gz").data, read_image(sample("tiny.mnc")).data)


def test_minc_of_whole_numbers_beyond_its_type_has_no_stored_type(tmp_path: Path) -> None:
    sitk.WriteImage(volume(ramp()), str(tmp_path / "a.mnc"))
    with h5py.File(tmp_path / "a.mnc", "r+") as file:
        for name in ("image-min", "image-max"):
            file[f"minc-2.0/image/0/{name}"][...] *= 1024
    image = read_image(tmp_path / "a.mnc")
    np.testing.assert_array_equal(image.data, ramp() * 1024.0)
    assert image.stored is None


@pytest.mark.parametrize("suffix", [".tif", ".tiff"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_tiff_is_read_as_png_is(tmp_path: Path, suffix: str, dtype: type) -> None:
    path, levels = tmp_path / f"a{suffix}", ramp((7, 6)).clip(0).astype(dtype)
    sitk.WriteImage(volume(levels, np.eye(3)), str(path), True)
    image = read_image(path)
    np.testing.assert_array_equal(image.data, levels)
    np.testing.assert_array_equal(image.affine, np.diag([-1, -1, 1]))
    assert (image.physical, image.stored) == (False, dtype)
    write_image(tmp_path / f"b{suffix}", image)
    with PIL.Image.open(tmp_path / f"b{suffix}") as again:
        assert (again.format, again.mode) == ("TIFF", "L")
        np.testing.assert_array_equal(np.asarray(again).T, levels)
    np.testing.assert_array_equal(read_image(tmp_path / f"b{suffix}").data, levels)


@pytest.mark.parametrize("name", ["lps", "oblique", "sagittal"])
def test_dicom_series_is_read_as_it_was_written(tmp_path: Path, name: str) -> None:
    theirs = volume(ramp(), DIRECTIONS[name])
    save_dicom(tmp_path / "series", theirs)
    (tmp_path / "series" / "notes.txt").write_text("no slice")
    image = read_image(tmp_path / "series")
    np.testing.assert_array_equal(image.data, ramp())
    np.testing.assert_allclose(image.affine, geometry(theirs), atol=1e-6)
    assert (image.stored, image.physical) == (np.int16, True)
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "series"))
    again = sitk.ReadImage(files)
    np.testing.assert_array_equal(image.data, sitk.GetArrayFromImage(again).T)
    np.testing.assert_allclose(image.affine, geometry(again), atol=1e-9)


def test_dicom_slices_are_rescaled_each_by_its_own_factor(tmp_path: Path) -> None:
    # The rescale tags say what the stored numbers mean; ITK's writer divides by them, and its reader multiplies.
    theirs = volume(ramp().clip(0) * 4, DIRECTIONS["oblique"])
    save_dicom(tmp_path / "s", theirs, skip=(2, 3, 4))
    save_dicom(tmp_path / "s", theirs, skip=(0, 1), _00281053="2", _00281052="0")
    image = read_image(tmp_path / "s")
    readers = [sitk.ReadImage(str(tmp_path / "s" / f"1.2.3-{5 - k:02d}.dcm")) for k in range(5)]
    assert len({reader.GetPixelID() for reader in readers}) == 2
    for k, reader in enumerate(readers):
        np.testing.assert_allclose(image.data[..., k], sitk.GetArrayFromImage(reader)[0].T)
    assert image.stored is None


def test_dicom_of_one_slice_is_two_dimensional(tmp_path: Path) -> None:
    theirs = volume(ramp((7, 6, 1)), OBLIQUE)
    save_dicom(tmp_path / "s", theirs)
    image = read_image(tmp_path / "s")
    np.testing.assert_array_equal(image.data, ramp((7, 6)))
    np.testing.assert_allclose(image.affine, geometry(theirs[:, :, 0]), atol=1e-6)


@pytest.mark.parametrize("uid", ["1.2.3", "1.2.4"])
def test_a_dicom_file_means_its_series(tmp_path: Path, uid: str) -> None:
    several(tmp_path / "both")
    save_dicom(tmp_path / "one", volume(ramp() if uid == "1.2.3" else ramp((7, 6, 2)), OBLIQUE), uid)
    expected = read_image(tmp_path / "one")
    for number in (1, 2):
        image = read_image(tmp_path / "both" / f"{uid}-0{number}.dcm")
        np.testing.assert_array_equal(image.data, expected.data)
        np.testing.assert_array_equal(image.affine, expected.affine)
    cut = tmp_path / "both" / "1.2.3-02.dcm"
    cut.write_bytes(cut.read_bytes()[:-20])
    for name in (f"{uid}-01.dcm", "1.2.3-02.dcm"):
        with pytest.raises(InputError, match=r"DICOM files are truncated.*: 1\.2\.3-02\.dcm"):
            read_image(tmp_path / "both" / name)
    (tmp_path / "text.dcm").write_text("no slice")
    with pytest.raises(InputError, match=r"text\.dcm: is not a DICOM file"):
        read_image(tmp_path / "text.dcm")
    with pytest.raises(InputError, match="No such file"):
        read_image(tmp_path / "none.dcm")


def several(folder: Path) -> None:
    """Two series in one folder."""
    save_dicom(folder, volume(ramp(), OBLIQUE), _0008103e="T1w")
    save_dicom(folder, volume(ramp((7, 6, 2)), OBLIQUE), "1.2.4")


def cut_slice(folder: Path, number: int) -> None:
    """A series of which one file ends early."""
    save_dicom(folder, volume(ramp(), OBLIQUE))
    file = sorted(folder.iterdir())[number]
    file.write_bytes(file.read_bytes()[:-20])


def mixed(folder: Path, other: sitk.Image) -> None:
    """A series to which another image was added."""
    save_dicom(folder, volume(ramp(), OBLIQUE))
    save_dicom(folder, other)


def tilted(folder: Path) -> None:
    """Slices that are shifted against each other."""
    for k in range(4):
        one = volume(ramp((7, 6, 1)), OBLIQUE)
        one.SetOrigin((OBLIQUE @ [0, 0.5 * k, 3 * k]).tolist())
        save_dicom(folder, one)
        (folder / "1.2.3-01.dcm").rename(folder / f"{k}.dcm")


def claims_more(folder: Path) -> None:
    """Slices whose headers announce 65535 x 65535 pixels."""
    save_dicom(folder, volume(ramp(), OBLIQUE))
    for file in folder.iterdir():
        content = file.read_bytes()
        # Rows and Columns, explicit or implicit as their type may be.
        sizes = rb"(\x28\x00[\x10\x11]\x00(?:US\x02\x00|\x02\x00\x00\x00)).."
        content, count = re.subn(sizes, lambda found: found[1] + b"\xff\xff", content, flags=re.DOTALL)
        assert count == 2
        file.write_bytes(content)


def colour(shape: tuple[int, ...]) -> sitk.Image:
    """An image of three numbers a voxel."""
    return sitk.GetImageFromArray(np.zeros((*shape, 3), np.uint8), isVector=True)


BAD_SERIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda folder: folder.mkdir(), "without DICOM files, expected an image file or one DICOM series"),
    "several": (
        several,
        r"holds 2 DICOM series: T1w \(5 slices of 7 x 6, 1\.2\.3-01\.dcm\); without description \(2 slices of 7 x 6, "
        r"1\.2\.4-01\.dcm\); expected one: give a file of it instead of the folder",
    ),
    "missing": (
        lambda folder: save_dicom(folder, volume(ramp(), OBLIQUE), skip=(2,)),
        r"slices are missing: 1\.2\.3-04\.dcm and 1\.2\.3-02\.dcm lie 6 mm apart, the others 3 mm \(4 slices\)",
    ),
    "truncated in the middle": (lambda folder: cut_slice(folder, 2), r"1 of 5 DICOM files are truncated.*-03\.dcm"),
    "truncated at the end": (lambda folder: cut_slice(folder, 0), r"1 of 5 DICOM files are truncated.*-01\.dcm"),
    "doubled": (lambda folder: mixed(folder, volume(ramp((7, 6, 2)), OBLIQUE)), "several slices .* have one position"),
    "other size": (lambda folder: mixed(folder, volume(ramp((4, 6, 2)), OBLIQUE)), r"its size \(\d, 6\), spacing"),
    "other direction": (lambda folder: mixed(folder, volume(ramp((7, 6, 2)), np.eye(3))), "or orientation is not"),
    "tilted": (tilted, r"shifted by 0\.5 mm against each other"),
    "colour": (lambda folder: save_dicom(folder, colour((5, 6, 7))), "expected one real number each"),
    "huge claim": (claims_more, "announces|truncated"),
    "constant": (lambda folder: save_dicom(folder, volume(ramp() * 0, OBLIQUE)), "every voxel is 0"),
}


@pytest.mark.parametrize("case", BAD_SERIES)
def test_bad_series_are_refused_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str], case: str) -> None:
    make, reason = BAD_SERIES[case]
    make(tmp_path / "series")
    capfd.readouterr()
    refused(tmp_path / "series", reason, capfd)


def refused(path: Path, reason: str, capfd: pytest.CaptureFixture[str]) -> None:
    """One line that names the file, and nothing else on the terminal."""
    with pytest.raises(InputError, match=reason) as caught:
        read_image(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def edit(path: Path, pattern: str = "", replacement: str = "", compressed: bool = False, image: object = None) -> None:
    """Write a volume, and change the header alone."""
    sitk.WriteImage(volume(ramp((32, 32, 8))) if image is None else image, str(path), compressed)
    content = path.read_bytes()
    edited = re.sub(pattern.encode(), replacement.encode(), content, count=1, flags=re.MULTILINE)
    assert edited != content or not pattern
    path.write_bytes(edited)


def cut(path: Path, end: int, compressed: bool = False) -> None:
    """Write a volume and keep the file's beginning."""
    edit(path, compressed=compressed)
    path.write_bytes(path.read_bytes()[:end])


def flip_bit(path: Path) -> None:
    """Write a compressed volume and damage one of its bytes."""
    edit(path, compressed=True)
    content = bytearray(path.read_bytes())
    content[-40] ^= 16
    path.write_bytes(content)


def lone_header(path: Path) -> None:
    """Write header and voxels, and lose the voxels."""
    edit(path)
    path.with_suffix(".raw").unlink()


def picture(mode: str) -> PIL.Image.Image:
    """A picture of another kind than grey."""
    return PIL.Image.fromarray(ramp((7, 6)).clip(0).astype(np.uint8)).convert(mode)


def nan_volume() -> sitk.Image:
    """One voxel is not a number."""
    data = ramp(dtype=np.float32)
    data[1, 2, 3] = np.nan
    return volume(data)


SERIES = sitk.JoinSeries([volume(ramp()), volume(ramp())])
BAD = {
    "text": (".mha", lambda path: path.write_text("no image"), "cannot be read by ITK"),
    "text nrrd": (".nrrd", lambda path: path.write_text("no image"), "cannot be read by ITK"),
    "text tiff": (".tif", lambda path: path.write_text("no image"), "is not a TIFF file"),
    "text minc": (".mnc", lambda path: path.write_text("no image"), "not a MINC file"),
    "empty": (".mha", lambda path: path.touch(), "0 bytes"),
    "missing": (".nrrd", lambda path: path.unlink(missing_ok=True), "No such file"),
    "truncated": (".mha", lambda path: cut(path, -4), "announces 16384 bytes of voxels, too many for the 16380"),
    "truncated nrrd": (".nrrd", lambda path: cut(path, -4), "announces 16384 bytes of voxels, too many for the 16380"),
    "truncated minc": (".mnc", lambda path: cut(path, -4), "truncated"),
    "truncated tiff": (".tif", lambda path: edit_tiff(path, -300), "is damaged"),
    "header only": (".mha", lambda path: cut(path, 60), "cannot be read by ITK"),
    "truncated zlib": (".mha", lambda path: cut(path, -4, True), "is truncated"),
    "truncated gzip": (".nrrd", lambda path: cut(path, -4, True), "is truncated"),
    "damaged zlib": (".mha", flip_bit, "damaged"),
    "damaged gzip": (".nrrd", flip_bit, "damaged"),
    "short zlib": (".mha", lambda path: edit(path, "32 32 8$", "32 32 9", True), "18432 bytes of voxels, 16384 were"),
    "short gzip": (".nrrd", lambda path: edit(path, "32 32 8$", "32 32 9", True), "18432 bytes of voxels, 16384 were"),
    "huge": (".mha", lambda path: edit(path, "32 32 8$", "10000 10000 10000"), "too many for the 16384"),
    "huge zlib": (".mha", lambda path: edit(path, "32 32 8$", "10000 10000 10000", True), "2000000000000 bytes"),
    "huge nrrd": (".nrrd", lambda path: edit(path, "32 32 8$", "10000 10000 10000"), "too many for the 16384"),
    "huge gzip": (".nrrd", lambda path: edit(path, "32 32 8$", "10000 10000 10000", True), "2000000000000 bytes"),
    "zero axis": (".mha", lambda path: edit(path, "32 32 8$", "0 32 8"), r"shape \(0, 32, 8\)"),
    "negative axis": (".mha", lambda path: edit(path, "32 32 8$", "-7 32 8"), "too many for"),
    "zero spacing": (".mha", lambda path: edit(path, "Spacing = .*", "Spacing = 0 1 1"), "its affine is singular"),
    "nan spacing": (".mha", lambda path: edit(path, "Spacing = .*", "Spacing = nan 1 1"), "expected finite numbers"),
    "nan origin": (".mha", lambda path: edit(path, "Offset = .*", "Offset = 0 nan 0"), "Offset is 0 nan 0, expected"),
    "singular": (
        ".mha",
        lambda path: edit(path, "trix = .*", "trix = 1 0 0 1 0 0 0 0 1"),
        "its affine is singular",
    ),
    "zero spacing nrrd": (
        ".nrrd",
        lambda path: edit(path, r"ions: \(.*?\)", "ions: (0,0,0)"),
        "its affine is singular",
    ),
    "singular nrrd": (
        ".nrrd",
        lambda path: edit(path, "ions: .*", "ions: (0,1,0) (0,1,0) (0,0,1)"),
        "its affine is singular",
    ),
    "nan nrrd": (
        ".nrrd",
        lambda path: edit(path, "gin: .*", "gin: (nan,nan,nan)"),
        "space origin is .*expected finite",
    ),
    "text voxels": (".mha", lambda path: edit(path, "Data = True", "Data = False"), "stored as text, expected raw"),
    "bzip2": (".nrrd", lambda path: edit(path, "raw", "hex"), "stored as hex, expected raw or gzip"),
    "several pieces": (".mhd", lambda path: edit(path, "a.raw", "LIST"), r"several files \(LIST\)"),
    "lone header": (".mhd", lone_header, r"should lie in .*a\.raw, which is missing"),
    "colour": (
        ".mha",
        lambda path: edit(path, image=colour((5, 6, 7))),
        "vector of 8-bit unsigned.* expected one real",
    ),
    "colour nrrd": (".nrrd", lambda path: edit(path, image=colour((5, 6, 7))), "expected one real number each"),
    "colour tiff": (".tif", lambda path: edit(path, image=colour((6, 7))), r"colour or transparency \(mode RGB\)"),
    "palette tiff": (".tif", lambda path: picture("P").save(path), r"\(mode P\); save it as greyscale"),
    "transparent tiff": (".tif", lambda path: picture("LA").save(path), r"\(mode LA\); save it as greyscale"),
    "pages": (".tif", lambda path: edit(path, image=volume(ramp(dtype=np.uint8))), "holds 5 pages"),
    "series": (".mha", lambda path: edit(path, image=SERIES), "one volume of a series"),
    "series nrrd": (".nrrd", lambda path: edit(path, image=SERIES), "one volume of a series"),
    "series minc": (".mnc", lambda path: path.write_bytes(sample("minc2_4d.mnc").read_bytes()), "volume of a series"),
    "nan": (".mha", lambda path: edit(path, image=nan_volume()), "1 of 210 voxels are NaN"),
    "constant": (".nrrd", lambda path: edit(path, image=volume(ramp() * 0)), "every voxel is 0"),
}


def edit_tiff(path: Path, end: int) -> None:
    """Write a TIFF file whose directory comes first, and cut its pixels."""
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:end])


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str], case: str) -> None:
    suffix, make, reason = BAD[case]
    make(tmp_path / f"a{suffix}")
    capfd.readouterr()
    refused(tmp_path / f"a{suffix}", reason, capfd)


def test_a_tiff_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    edit_tiff(tmp_path / "a.tif", 10000)
    content = (tmp_path / "a.tif").read_bytes()
    for tag in (b"\x00\x01\x04\x00\x01\x00\x00\x00", b"\x01\x01\x04\x00\x01\x00\x00\x00"):
        assert tag in content
        content = content.replace(tag + b"\x40\x00\x00\x00", tag + b"\x00\x30\x00\x00")
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(InputError, match=r"announces \(12288, 12288\) pixels"):
        read_image(tmp_path / "a.tif")


def test_a_minc_file_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    sitk.WriteImage(volume(ramp()), str(tmp_path / "a.mnc"))
    with h5py.File(tmp_path / "a.mnc", "r+") as file:
        group = file["minc-2.0/image/0"]
        attributes = dict(group["image"].attrs)
        del group["image"]
        group.create_dataset("image", (10000, 10000, 10000), "i2", chunks=(100, 100, 100)).attrs.update(attributes)
    with pytest.raises(InputError, match="announces 2000000000000 bytes, too many"):
        read_image(tmp_path / "a.mnc")


def test_the_terminal_is_given_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    edit(tmp_path / "a.mha")
    read_image(tmp_path / "a.mha")
    sitk.ReadImage(str(tmp_path / "a.mha"))
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"

"""Files that nibabel, ANTs and FreeSurfer read: voxels and geometry against nibabel and SimpleITK on the same file."""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pytest
import SimpleITK as sitk
from numpy import ndarray
from scipy.spatial.transform import Rotation

from crossmorph.errors import InputError
from crossmorph.images.io import read_image, read_series
from crossmorph.images.orientation import itk_affine

PLACE = np.eye(4)
PLACE[:3, :3] = Rotation.from_euler("xyz", [20, -10, 30], degrees=True).as_matrix() * (1.5, 2, -3)
PLACE[:3, 3] = -10, -20, 30


def ramp(shape: tuple[int, ...] = (7, 6, 5), dtype: type = np.int16) -> ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def same_as_nibabel(path: Path, affine: bool = True) -> None:
    image = read_image(path)
    # Of .mgh nibabel.load leaves the file open.
    theirs = nibabel.MGHImage.from_bytes(path.read_bytes()) if path.suffix == ".mgh" else nibabel.load(path)
    voxels = np.asarray(theirs.dataobj)
    np.testing.assert_array_equal(image.data, voxels.reshape(image.shape))
    np.testing.assert_array_equal(read_image(path, labels=True).data, voxels.reshape(image.shape))
    if affine:
        np.testing.assert_allclose(image.affine, theirs.affine, atol=1e-5)


def same_as_itk(path: Path) -> None:
    image, theirs = read_image(path), sitk.ReadImage(str(path))
    np.testing.assert_array_equal(image.data, sitk.GetArrayFromImage(theirs).T)
    affine = itk_affine(theirs.GetSpacing(), theirs.GetDirection(), theirs.GetOrigin())
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)


@pytest.mark.parametrize("name", ["a.mgz", "a.mgh"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_freesurfer(tmp_path: Path, name: str, dtype: type) -> None:
    nibabel.save(nibabel.MGHImage(ramp(dtype=dtype), PLACE), tmp_path / name)
    same_as_nibabel(tmp_path / name)
    image = read_image(tmp_path / name)
    assert (image.stored, image.cautions, image.physical) == (dtype, (), True)


def test_a_freesurfer_slice_keeps_its_place(tmp_path: Path) -> None:
    nibabel.save(nibabel.MGHImage(ramp((7, 1, 5)), PLACE), tmp_path / "a.mgz")
    nibabel.save(nibabel.Nifti1Image(ramp((7, 1, 5)), PLACE), tmp_path / "a.nii")
    one, other = read_image(tmp_path / "a.mgz"), read_image(tmp_path / "a.nii")
    np.testing.assert_array_equal(one.data, other.data)
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-5)
    np.testing.assert_allclose(one.header.get_best_affine(), PLACE, atol=1e-5)


def test_freesurfer_files_without_a_place_say_so(tmp_path: Path) -> None:
    nibabel.save(nibabel.MGHImage(ramp(), None), tmp_path / "a.mgh")
    content = bytearray((tmp_path / "a.mgh").read_bytes())
    content[28:30] = b"\0\0"
    (tmp_path / "a.mgh").write_bytes(content)
    same_as_nibabel(tmp_path / "a.mgh")
    (said,) = read_image(tmp_path / "a.mgh").cautions
    assert said.startswith("Does not say where it lies (goodRASFlag is 0)")


def test_bad_freesurfer_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mgz"
    nibabel.save(nibabel.MGHImage(ramp((9, 9, 9)), PLACE), path)
    content = gzip.decompress(path.read_bytes())
    huge = content[:4] + (30000).to_bytes(4, "big") * 3 + content[16:]
    for damaged, reason in (
        (gzip.compress(content[:284]), "is truncated: its header announces 1458 bytes"),
        (gzip.compress(content[:1000]), "announces 1458 bytes of voxels, 716 are there"),
        (path.read_bytes()[:-9], "is truncated or damaged"),
        (gzip.compress(b"no volume" * 99), "is not a FreeSurfer volume"),
        (b"no volume", "is not a FreeSurfer volume"),
        (gzip.compress(huge), "too many for the file"),
        (gzip.compress(content[:20] + b"\0\0\0\x63" + content[24:]), "is not a FreeSurfer volume"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=reason) as caught:
            read_image(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
    nibabel.save(nibabel.MGHImage(ramp((7, 6, 5, 2)), PLACE), path)
    with pytest.raises(InputError, match="one volume of a series"):
        read_image(path)


@pytest.mark.parametrize("names", [("a.hdr", "a.img"), ("a.hdr.gz", "a.img.gz")])
def test_nifti_pairs(tmp_path: Path, names: tuple[str, str]) -> None:
    nibabel.save(nibabel.Nifti1Pair(ramp(), PLACE), tmp_path / names[1])
    for name in names:
        same_as_nibabel(tmp_path / name)
        same_as_itk(tmp_path / name)
        assert read_image(tmp_path / name).cautions == ()
    (tmp_path / names[1]).unlink()
    with pytest.raises(InputError, match=r"is one of a pair of files, and a\.img(\.gz)? is not beside it"):
        read_image(tmp_path / names[0])


def test_a_series_in_a_pair(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(ramp((7, 6, 5, 2)), PLACE), tmp_path / "a.img")
    images = read_series(tmp_path / "a.hdr")
    np.testing.assert_array_equal(np.stack([image.data for image in images], -1), ramp((7, 6, 5, 2)))


def save_analyze(path: Path, scale: float = 0) -> None:
    """Analyze 7.5, with SPM's scale."""
    image = nibabel.AnalyzeImage(ramp(), None)
    image.header.set_zooms((1.5, 2, 3))
    nibabel.save(image, path)
    content = bytearray(path.with_suffix(".hdr").read_bytes())
    content[112:116] = np.float32(scale).tobytes()
    path.with_suffix(".hdr").write_bytes(content)


def test_analyze_is_read_as_itk_reads_it_and_has_no_orientation(tmp_path: Path) -> None:
    save_analyze(tmp_path / "a.img")
    for name in ("a.hdr", "a.img"):
        same_as_nibabel(tmp_path / name, affine=False)  # whose axes and origin are SPM's
        same_as_itk(tmp_path / name)
        image = read_image(tmp_path / name)
        assert image.spacing == (1.5, 2, 3)
        first, second = image.cautions
        assert first.startswith("Is Analyze 7.5, which stores no orientation")
        assert "left and right are not known" in second
        assert image.stored == np.int16


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (70, np.int16(1024), "voxels of a type unknown to NIfTI, code 1024"),
        (40, np.int16(32767), "has 32767 dimensions, expected 7 at most|type unknown to NIfTI"),
        (108, np.float32(-5), "voxels at byte -5, expected 0 or later"),
        (42, np.int16(0), "expected axes of at least one voxel"),
    ],
)
def test_bad_analyze_headers_are_refused(tmp_path: Path, place: int, value: np.generic, reason: str) -> None:
    save_analyze(tmp_path / "a.img")
    content = bytearray((tmp_path / "a.hdr").read_bytes())
    content[place : place + value.nbytes] = value.tobytes()
    (tmp_path / "a.hdr").write_bytes(content)
    with pytest.raises(InputError, match=reason):
        read_image(tmp_path / "a.img")


def test_the_scale_of_spm_is_that_of_nibabel(tmp_path: Path) -> None:
    save_analyze(tmp_path / "a.img", 0.5)
    image = read_image(tmp_path / "a.img")
    np.testing.assert_array_equal(image.data, nibabel.load(tmp_path / "a.img").get_fdata())
    assert image.data.max() == 104.5
    assert image.stored is None


@pytest.mark.parametrize("form", [nibabel.Nifti2Image, nibabel.Nifti2Pair])
@pytest.mark.parametrize("shape", [(7, 6, 5), (7, 6, 1), (7, 1, 6)])
def test_nifti_2_is_read_as_nifti_1(tmp_path: Path, form: type, shape: tuple[int, ...]) -> None:
    path = tmp_path / ("a.nii.gz" if form is nibabel.Nifti2Image else "a.img")
    image = form(ramp(shape), PLACE)
    image.set_qform(PLACE, 1)
    nibabel.save(image, path)
    nibabel.save(nibabel.Nifti1Image(ramp(shape), PLACE), tmp_path / "b.nii")
    same_as_nibabel(path, affine=1 not in shape)
    np.testing.assert_allclose(read_image(path).affine, read_image(tmp_path / "b.nii").affine, atol=1e-5)
    assert type(read_image(path).header) is nibabel.Nifti1Header


def test_nifti_2_of_more_voxels_along_an_axis_than_nifti_1_holds(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti2Image(ramp((40000, 2, 2), np.int32), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(InputError, match="expected 32767 voxels at most"):
        read_image(tmp_path / "a.nii")


def test_compression_is_seen_from_the_content(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(ramp(), PLACE), tmp_path / "plain.nii")
    nibabel.save(nibabel.MGHImage(ramp(), PLACE), tmp_path / "plain.mgh")
    nibabel.save(nibabel.Nifti1Pair(ramp(), PLACE), tmp_path / "plain.img")
    shutil.copy(tmp_path / "plain.nii", tmp_path / "a.nii.gz")
    shutil.copy(tmp_path / "plain.mgh", tmp_path / "a.mgz")
    (tmp_path / "b.nii").write_bytes(gzip.compress((tmp_path / "plain.nii").read_bytes()))
    (tmp_path / "b.hdr").write_bytes(gzip.compress((tmp_path / "plain.hdr").read_bytes()))
    shutil.copy(tmp_path / "plain.img", tmp_path / "b.img.gz")
    for name in ("a.nii.gz", "b.nii", "a.mgz", "b.hdr", "b.img.gz"):
        image = read_image(tmp_path / name)
        np.testing.assert_array_equal(image.data, ramp())
        np.testing.assert_allclose(image.affine, PLACE, atol=1e-5)


def tiled(path: Path, levels: ndarray, order: str, white: bool = False) -> None:
    """A TIFF file of tiles of 16 x 16, by hand (TIFF 6.0, section 15)."""
    kind, side = {"u": 1, "i": 2, "f": 3}[levels.dtype.kind], 16
    rows, columns = (-(-size // side) for size in levels.shape)
    whole = np.zeros((rows * side, columns * side), levels.dtype.newbyteorder(order))
    whole[: levels.shape[0], : levels.shape[1]] = levels
    blocks = whole.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side * side)
    tags = {256: levels.shape[1], 257: levels.shape[0], 258: 8 * levels.itemsize, 259: 1, 262: 0 if white else 1}
    tags |= {277: 1, 322: side, 323: side, 324: 0, 325: 0, 339: kind}
    number, short = np.dtype(f"{order}u4"), np.dtype(f"{order}u2")
    places = 8 + 2 + 12 * len(tags) + 4
    counts = places + 4 * len(blocks)
    first = counts + 4 * len(blocks)
    starts = first + blocks[0].nbytes * np.arange(len(blocks))
    content = (b"II" if order == "<" else b"MM") + np.array([42], short).tobytes() + np.array([8], number).tobytes()
    content += np.array([len(tags)], short).tobytes()
    for tag, value in tags.items():
        many = {324: places, 325: counts}.get(tag)
        content += np.array([tag, 4], short).tobytes()
        content += np.array([1 if many is None else len(blocks), value if many is None else many], number).tobytes()
    content += bytes(4) + starts.astype(number).tobytes() + np.full(len(blocks), blocks[0].nbytes, number).tobytes()
    path.write_bytes(content + blocks.tobytes())


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.int32, np.float32])
def test_tiled_tiff(tmp_path: Path, dtype: type, order: str) -> None:
    levels = (np.arange(40 * 50).reshape(40, 50) % 250 - (100 if np.dtype(dtype).kind == "i" else 0)).astype(dtype)
    tiled(tmp_path / "a.tif", levels, order)
    image = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.data, levels.T)
    assert image.stored == dtype


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.float32])
def test_tiff_in_strips_is_as_in_itk(tmp_path: Path, dtype: type) -> None:
    levels = (np.arange(40 * 50).reshape(40, 50) % 250 - (100 if np.dtype(dtype).kind == "i" else 0)).astype(dtype)
    levels.flat[7] = np.iinfo(dtype).max if np.dtype(dtype).kind in "iu" else 1e6
    for packed in (False, True):
        sitk.WriteImage(sitk.GetImageFromArray(levels), str(tmp_path / "a.tif"), packed)
        image = read_image(tmp_path / "a.tif")
        np.testing.assert_array_equal(image.data, levels.T.astype(np.float32))
        theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.tif"))).T
        np.testing.assert_array_equal(image.data, theirs.astype(np.float32))
        assert image.stored == dtype


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_where_0_is_white_holds_the_stored_levels(tmp_path: Path, dtype: type) -> None:
    levels = np.arange(40 * 50).reshape(40, 50).astype(dtype)
    tiled(tmp_path / "a.tif", levels, "<", white=True)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").data, levels.T)


def test_tiff_of_other_numbers_is_refused(tmp_path: Path) -> None:
    PIL.Image.fromarray(np.eye(9) > 0).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match="mode 1"):
        read_image(tmp_path / "a.tif")
    tiled(tmp_path / "b.tif", ramp((20, 20), np.float64), "<")
    with pytest.raises(InputError, match=r"b\.tif: "):
        read_image(tmp_path / "b.tif")


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[:-300],
    "cut in the directory": lambda content: content[:100],
    "text": lambda content: b"no image" + content[:0],
    "another page without a size": lambda content: content[:142] + (8 + 12).to_bytes(4, "little") + content[146:],
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_tiled_tiff_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str], case: str) -> None:
    tiled(tmp_path / "a.tif", ramp((40, 50)), "<")
    (tmp_path / "a.tif").write_bytes(DAMAGES[case]((tmp_path / "a.tif").read_bytes()))
    with pytest.raises(InputError, match="is not a TIFF file of a known kind, or is damaged") as caught:
        read_image(tmp_path / "a.tif")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")

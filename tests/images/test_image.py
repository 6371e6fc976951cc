"""PNG files to images and back, intensity scaling, and what an image refuses to be."""

from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray
from scipy.spatial.transform import Rotation

from crossmorph.errors import InputError
from crossmorph.images.image import Image, in_stored_type, scale_intensity
from crossmorph.images.io import read_image, read_series, write_image, write_series


def ramp(shape: tuple[int, ...]) -> ndarray:
    """Distinct intensities."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 1


def itk_read(path: Path) -> tuple[ndarray, ndarray]:
    """Voxels (x, y) and index-to-RAS affine as SimpleITK has them."""
    image = sitk.ReadImage(str(path))
    affine = np.eye(3)
    affine[:2, :2] = -np.reshape(image.GetDirection(), (2, 2)) * image.GetSpacing()
    affine[:2, 2] = -np.array(image.GetOrigin())
    return sitk.GetArrayFromImage(image).T, affine


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.gz", "nii"])
def test_unknown_formats_are_refused(tmp_path: Path, name: str) -> None:
    for call in (lambda path: read_image(path), lambda path: write_image(path, Image(ramp((6, 5)), np.eye(3)))):
        with pytest.raises(InputError, match=r"expected a name ending in \.nii\.gz, \.nii, \.png"):
            call(tmp_path / name)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_png_is_read_as_itk_reads_it_and_round_trips(tmp_path: Path, depth: type) -> None:
    levels = np.random.default_rng(0).integers(0, np.iinfo(depth).max, (5, 7), endpoint=True).astype(depth)
    levels[0, 0] = np.iinfo(depth).max
    PIL.Image.fromarray(levels).save(tmp_path / "a.png", dpi=(96, 96))
    image = read_image(tmp_path / "a.png")
    data, affine = itk_read(tmp_path / "a.png")
    np.testing.assert_array_equal(image.data, data)
    np.testing.assert_array_equal(image.affine, affine)
    assert (image.shape, image.physical, image.header) == ((7, 5), False, None)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", labels=True).data, levels.T)
    write_image(tmp_path / "b.png", image)
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(tmp_path / "b.png")), levels)


def test_png_of_one_bit_is_read_as_itk_reads_it(tmp_path: Path) -> None:
    PIL.Image.fromarray(np.eye(4) > 0).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").data, itk_read(tmp_path / "a.png")[0])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ([[0, 255.4]], ("uint8", [[0, 255]])),
        ([[0, 255.6]], ("uint16", [[0, 256]])),
        ([[0, 65535]], ("uint16", [[0, 65535]])),
        ([[0, 1]], ("uint8", [[0, 1]])),
        ([[0, 0.001]], ("uint16", [[0, 66]])),
        ([[0.5, 1]], ("uint16", [[32768, 65535]])),
    ],
)
def test_png_depth_follows_the_values(tmp_path: Path, data: list, expected: tuple[str, list]) -> None:
    write_image(tmp_path / "a.png", Image(np.array(data, np.float32).T, np.eye(3)))
    levels = np.asarray(PIL.Image.open(tmp_path / "a.png"))
    assert (levels.dtype.name, levels.tolist()) == expected


@pytest.mark.parametrize("value", [-1, 65536, np.nan, np.inf])
def test_png_never_wraps(tmp_path: Path, value: float) -> None:
    with pytest.raises(InputError, match="PNG holds whole numbers from 0 to 65535"):
        write_image(tmp_path / "a.png", Image(np.array([[3.0, value]], np.float32), np.eye(3)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("mode", "reason"),
    [("RGB", "holds colour;"), ("RGBA", "transparency"), ("LA", "transparency"), ("P", "palette")],
)
def test_png_of_other_kinds_is_refused(tmp_path: Path, mode: str, reason: str) -> None:
    PIL.Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5)).convert(mode).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=reason):
        read_image(tmp_path / "a.png")


def test_damaged_png_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    PIL.Image.fromarray(noise).save(path)
    content = path.read_bytes()
    claims_more = content[:16] + (30000).to_bytes(4, "big") + content[20:]
    for damaged in (content[:2000], content[:20], claims_more, b"no image at all"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"a\.png: (is|announces)") as caught:
            read_image(path)
        assert "\n" not in str(caught.value)


def test_a_volume_is_not_written_as_png(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"volume\.png: PNG holds 2-D images, received shape \(3, 4, 5\)"):
        write_image(tmp_path / "volume.png", Image(ramp((3, 4, 5)), np.eye(4)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["volume.tif", "volume.tiff"])
def test_tiff_holds_what_png_holds(tmp_path: Path, name: str) -> None:
    for data, reason in ((ramp((3, 4, 5)), "TIFF holds 2-D images"), (ramp((3, 4)) - 9, "TIFF holds whole numbers")):
        with pytest.raises(InputError, match=reason):
            write_image(tmp_path / name, Image(data, np.eye(data.ndim + 1)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("dtype", "scale", "stored"),
    [
        (np.int16, (1, 0), np.int16),
        (np.uint8, None, np.uint8),
        (np.float64, (1, 0), np.float64),
        (np.int16, (0.5, 0), None),
        (np.int16, (1, -1024), None),
        (np.int16, (0, 7), np.int16),  # NIfTI: slope 0 means no scale
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_stored_is_the_type_of_plain_voxels(
    tmp_path: Path, dtype: type, scale: tuple[float, float] | None, stored: type | None, order: str
) -> None:
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype(dtype)
    nifti = nibabel.Nifti1Image(ramp((6, 5)).astype(dtype), np.eye(4), header)
    nibabel.save(nifti, tmp_path / "a.nii")
    if scale:
        content = bytearray((tmp_path / "a.nii").read_bytes())
        content[112:120] = np.array(scale, f"{order}f4").tobytes()
        (tmp_path / "a.nii").write_bytes(content)
    for image in (read_image(tmp_path / "a.nii"), read_series(tmp_path / "a.nii")[0]):
        assert image.stored == stored
        assert image.stored is None or image.stored.isnative


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_stored_of_a_png_is_its_depth(tmp_path: Path, depth: type) -> None:
    PIL.Image.fromarray(np.arange(20, dtype=depth).reshape(4, 5)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").stored == depth


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (np.uint8, [[0, 0, 2, 255]]),
        (np.int16, [[-300, 0, 2, 32767]]),
        (np.int64, [[-300, 0, 2, 10**12]]),
        (np.float32, [[-300.2, 0.4, 1.6, 1e12]]),
        (None, [[-300.2, 0.4, 1.6, 1e12]]),
    ],
)
def test_a_moved_image_takes_the_type_of_the_moving_one(stored: type | None, expected: list) -> None:
    moved = Image(np.array([[-300.2, 0.4, 1.6, 1e12]]), np.eye(3))
    source = Image(ramp((2, 2)), np.diag([2.0, 2, 1]), stored=None if stored is None else np.dtype(stored))
    typed = in_stored_type(moved, source)
    assert typed.data.tolist() == expected
    assert typed.data.dtype == (np.dtype(stored) if stored in (np.uint8, np.int16, np.int64) else moved.data.dtype)
    np.testing.assert_array_equal(typed.affine, moved.affine)
    for kind in (np.int64, np.uint64):
        limits = np.iinfo(kind)
        far = in_stored_type(
            Image(np.array([[-1e30, 1e30]]), np.eye(3)), Image(ramp((2, 2)), np.eye(3), stored=np.dtype(kind))
        )
        assert far.data[0, 0] == limits.min
        assert limits.max - 2048 <= int(far.data[0, 1]) <= limits.max


def test_int16_stays_int16_from_file_to_file(tmp_path: Path) -> None:
    values = np.arange(-15, 15, dtype=np.int16).reshape(6, 5)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([2.0, 2, 2, 1])), tmp_path / "a.nii")
    image = read_image(tmp_path / "a.nii")
    for name in ("b.nii.gz", "b.mha", "b.nrrd"):
        write_image(tmp_path / name, in_stored_type(Image(image.data + 0.3, image.affine), image))
        written = sitk.ReadImage(str(tmp_path / name))
        assert written.GetPixelID() == sitk.sitkInt16
        np.testing.assert_array_equal(sitk.GetArrayFromImage(written).T, values)


OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", [20, -10, 30], degrees=True).as_matrix() * [1.5, 2, -3]
OBLIQUE[:3, 3] = -10, 20, 30


def save_series(path: Path, shape: tuple[int, ...], dtype: type = np.int16) -> nibabel.Nifti1Image:
    """A series of 2.5 s a volume on an oblique, left-handed grid."""
    nifti = nibabel.Nifti1Image(ramp(shape).astype(dtype), OBLIQUE)
    nifti.header.set_xyzt_units("mm", "msec")
    nifti.header["pixdim"][4] = 2500
    nibabel.save(nifti, path)
    return nifti


def test_a_series_is_read_volume_by_volume_and_survives(tmp_path: Path) -> None:
    theirs = save_series(tmp_path / "a.nii.gz", (6, 5, 4, 3))
    images = read_series(tmp_path / "a.nii.gz")
    assert [image.shape for image in images] == [(6, 5, 4)] * 3
    for k, image in enumerate(images):
        np.testing.assert_array_equal(image.data, np.asarray(theirs.dataobj)[..., k])
        np.testing.assert_allclose(image.affine, OBLIQUE, atol=1e-5)
        nibabel.save(theirs.slicer[..., k], tmp_path / "one.nii")
        np.testing.assert_array_equal(image.affine, read_image(tmp_path / "one.nii").affine)
        assert image.stored == np.int16
    write_series(tmp_path / "b.nii.gz", [in_stored_type(image, image) for image in images])
    again = nibabel.load(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(again.dataobj, theirs.dataobj)
    np.testing.assert_allclose(again.affine, OBLIQUE, atol=1e-5)
    assert (again.get_data_dtype(), again.header.get_zooms()[3]) == (np.int16, 2500)
    assert again.header.get_xyzt_units() == ("mm", "msec")


def test_a_moved_series_takes_its_time_from_the_moving_one(tmp_path: Path) -> None:
    save_series(tmp_path / "moving.nii", (6, 5, 4, 3))
    nibabel.save(nibabel.Nifti1Image(ramp((3, 4, 5)), np.diag([2.0, 2, 2, 1])), tmp_path / "fixed.nii")
    moving, fixed = read_series(tmp_path / "moving.nii"), read_image(tmp_path / "fixed.nii")
    moved = [Image(fixed.data + k, fixed.affine, header=fixed.header) for k in range(3)]
    write_series(tmp_path / "moved.nii", moved, moving[0].header)
    again = nibabel.load(tmp_path / "moved.nii")
    assert (again.shape, again.header.get_zooms()) == ((3, 4, 5, 3), (2, 2, 2, 2500))
    assert again.header.get_xyzt_units() == ("mm", "msec")
    np.testing.assert_array_equal(np.asarray(again.dataobj)[..., 2], fixed.data + 2)


def test_a_series_of_slices_is_two_dimensional(tmp_path: Path) -> None:
    theirs = save_series(tmp_path / "a.nii", (6, 5, 1, 3))
    images = read_series(tmp_path / "a.nii")
    assert [image.shape for image in images] == [(6, 5)] * 3
    write_series(tmp_path / "b.nii", images)
    again = nibabel.load(tmp_path / "b.nii")
    np.testing.assert_array_equal(again.dataobj, theirs.dataobj)
    np.testing.assert_allclose(again.affine, OBLIQUE, atol=1e-5)
    write_series(tmp_path / "c.nii", [Image(image.data, np.diag([2.0, 3, 1])) for image in images])
    for image, other in zip(read_series(tmp_path / "c.nii"), images, strict=True):
        np.testing.assert_array_equal(image.data, other.data)
        np.testing.assert_allclose(image.affine, np.diag([2.0, 3, 1]))


@pytest.mark.parametrize("name", ["a.nii", "a.mha", "a.png"])
def test_an_image_is_a_series_of_one(tmp_path: Path, name: str) -> None:
    write_image(tmp_path / name, Image(ramp((6, 5)).astype(np.uint8), np.diag([2.0, 3, 1])))
    (image,) = read_series(tmp_path / name)
    alone = read_image(tmp_path / name)
    np.testing.assert_array_equal(image.data, alone.data)
    np.testing.assert_array_equal(image.affine, alone.affine)
    write_series(tmp_path / f"b{name}", [image])
    np.testing.assert_array_equal(read_image(tmp_path / f"b{name}").data, alone.data)


def test_series_that_cannot_be_are_refused(tmp_path: Path) -> None:
    save_series(tmp_path / "vectors.nii", (6, 5, 4, 1, 3))
    with pytest.raises(InputError, match=r"shape \(6, 5, 4, 1, 3\), expected a series of at most four axes"):
        read_series(tmp_path / "vectors.nii")
    save_series(tmp_path / "nan.nii", (6, 5, 4, 2), np.float32)
    content = (tmp_path / "nan.nii").read_bytes()
    (tmp_path / "nan.nii").write_bytes(content[:-4] + np.float32(np.nan).tobytes())
    with pytest.raises(InputError, match="1 of 240 voxels are NaN"):
        read_series(tmp_path / "nan.nii")
    one, other = Image(ramp((3, 4, 5)), np.eye(4)), Image(ramp((3, 4, 5)), np.diag([1.0, 1, 2, 1]))
    for images in ([one, other], [one, Image(ramp((3, 4, 6)), np.eye(4))]):
        with pytest.raises(InputError, match="image 1 of the series lies on another grid"):
            write_series(tmp_path / "b.nii", images)
    with pytest.raises(InputError, match="unknown series format"):
        write_series(tmp_path / "b.mha", [one, one])


def test_a_series_may_hold_a_volume_of_one_intensity(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5, 2), np.float32), np.eye(4)), tmp_path / "a.nii")
    assert [image.data.max() for image in read_series(tmp_path / "a.nii")] == [0, 0]


def test_an_affine_of_another_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs an affine of shape \(3, 3\)"):
        Image(ramp((6, 5)), np.eye(4))


def test_scale_by_hand() -> None:
    scaled = scale_intensity(np.arange(1001.0).reshape(7, 143))
    assert (scaled.low, scaled.high) == (5.0, 995.0)
    np.testing.assert_allclose(scaled.data.flat[[0, 5, 995, 1000]], [0, 0, 1, 1])
    assert scaled.data.flat[104] == pytest.approx(99 / 990)
    assert scaled.data.dtype == np.float32


def test_scale_of_one_bright_voxel_uses_the_whole_range() -> None:
    data = np.zeros((64, 64))
    data[3, 4], data[5, 6] = 8, 2
    scaled = scale_intensity(data)
    assert (scaled.low, scaled.high, scaled.data[5, 6]) == (0, 8, 0.25)


@pytest.mark.parametrize(("value", "reason"), [(3, "all 3: a constant"), (np.nan, "must be finite")])
def test_scale_refuses_what_has_no_range(value: float, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        scale_intensity(np.full((4, 4), value))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 99), st.floats(0.01, 1e4), st.floats(-1e3, 1e3))
def test_scale_ignores_gain_and_offset(seed: int, gain: float, offset: float) -> None:
    data = np.random.default_rng(seed).random((20, 20))
    np.testing.assert_allclose(scale_intensity(gain * data + offset).data, scale_intensity(data).data, atol=1e-4)


@pytest.mark.parametrize(("grey", "white", "fluid"), [(0.55, 0.75, 0.25), (0.30, 0.25, 1.0)], ids=["T1w", "T2w"])
def test_scale_is_stable_under_noise(grey: float, white: float, fluid: float) -> None:
    radius = np.hypot(*np.meshgrid(np.linspace(-1.3, 1.3, 128), np.linspace(-1.3, 1.3, 128)))
    signal = np.select([radius < 0.2, radius < 0.6, radius < 0.9, radius < 1], [fluid, white, grey, fluid], 0)
    highs = []
    for seed in range(8):
        noise = np.random.default_rng(seed).normal(0, 0.03 * signal.max(), (2, 128, 128))
        scaled = scale_intensity(np.hypot(signal + noise[0], noise[1]))
        highs.append(scaled.high)
        assert 0 <= scaled.low < 0.01 * signal.max()
        assert (scaled.data[signal > 0] == 1).mean() < 0.012
    assert np.std(highs) < 0.005 * np.mean(highs)
    assert np.mean(highs) == pytest.approx(signal.max(), rel=0.1)


TURNED = np.eye(4)
TURNED[:3, :3] = Rotation.from_euler("xyz", [10, -20, 30], degrees=True).as_matrix() * [1.5, -1.2, 2]
TURNED[:3, 3] = 5, -7, 11
FORMS = {
    "2-D": Image(ramp((6, 5)), np.array([[-1.5, 0, 3], [0, 2, 4], [0, 0, 1.0]])),
    "2-D, turned": Image(ramp((6, 5)), np.array([[1.2, -0.5, 3], [0.6, 1.0, 4], [0, 0, 1.0]])),
    "3-D, turned": Image(ramp((6, 5, 4)), TURNED),
    "labels": Image(np.arange(120, dtype=np.uint32).reshape(6, 5, 4) * 2**25 + 1, TURNED),
}


@pytest.mark.parametrize("kind", FORMS)
def test_images_for_other_libraries_are_those_of_the_file(kind: str, tmp_path: Path) -> None:
    image = FORMS[kind]
    image.save(tmp_path / "a.nii")
    theirs, ours = nibabel.load(tmp_path / "a.nii"), image.to_nibabel()
    np.testing.assert_array_equal(ours.affine, theirs.affine)
    np.testing.assert_array_equal(np.asarray(ours.dataobj), image.data)
    assert ours.get_data_dtype() == image.data.dtype
    theirs, ours = sitk.ReadImage(str(tmp_path / "a.nii")), image.to_sitk()
    assert ours.GetPixelID() == theirs.GetPixelID()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(ours).T, image.data)
    for place in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(ours, place)(), getattr(theirs, place)(), atol=1e-5)


def test_an_image_is_an_array_for_numpy_and_short_to_read() -> None:
    image = FORMS["3-D, turned"]
    assert np.asarray(image) is image.data
    assert np.asarray(image, np.int16).dtype == np.int16
    assert np.array(image) is not image.data
    assert np.mean(image) == image.data.mean()
    assert repr(image) == "Image(6 x 5 x 4 voxels of 1.5 x 1.2 x 2 mm, float32)"


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_labels_go_back_to_the_type_that_they_had(dtype: type) -> None:
    limits = np.iinfo(dtype)
    stored = np.array([[limits.min, limits.max - 1, limits.max]], dtype)
    wide = stored.astype(np.uint64 if dtype == np.uint64 else np.int64)
    source = Image(wide, np.eye(3), stored=np.dtype(dtype))
    again = in_stored_type(Image(wide, np.eye(3)), source)
    assert again.data.dtype == dtype
    np.testing.assert_array_equal(again.data, stored)
    beyond = Image(np.array([[-(2**40), 2**40]]), np.eye(3))
    held = np.array([[max(limits.min, -(2**40)), min(limits.max, 2**40)]], dtype)
    np.testing.assert_array_equal(in_stored_type(beyond, source).data, held)

"""Slices that are stored with three axes, in any plane: two axes in memory, and back to where they were."""

from itertools import product
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from numpy import ndarray
from scipy.spatial.transform import Rotation

from crossmorph.errors import InputError
from crossmorph.images.conversion import as_image, in_form_of
from crossmorph.images.image import Image
from crossmorph.images.io import read_image, read_series, write_image, write_series
from crossmorph.images.orientation import itk_affine

SPACING = np.array([1.5, 2.0, 3.0])
TURNS = {
    "straight": np.diag([1.0, 1.0, 1.0]),
    "left-handed": np.diag([-1.0, 1.0, 1.0]),
    "oblique": Rotation.from_euler("xyz", [10, -5, 8], degrees=True).as_matrix(),
    "turned": np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]),
}
PLANES = {"(X, Y, 1)": (7, 6, 1), "(X, 1, Z)": (7, 1, 6), "(1, Y, Z)": (1, 7, 6)}


def place(turn: str) -> ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = TURNS[turn] * SPACING, (-10, -20, 30)
    return affine


def ramp(shape: tuple[int, ...]) -> ndarray:
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape)


def save(path: Path, voxels: ndarray, affine: ndarray) -> Path:
    """By nibabel, or by SimpleITK in its own formats."""
    nifti = nibabel.Nifti1Image(voxels, affine)
    if ".nii" in path.suffixes:
        nifti.set_qform(affine, 1)
        nibabel.save(nifti, path)
        return path
    nibabel.save(nifti, path.with_suffix(".nii"))
    sitk.WriteImage(sitk.ReadImage(str(path.with_suffix(".nii"))), str(path))
    return path


def as_slice(path: Path, across: int) -> tuple[ndarray, ndarray]:
    """Voxels and affine of the slice that SimpleITK cuts from the file."""
    volume = sitk.ReadImage(str(path))
    one = (volume[0, :, :], volume[:, 0, :], volume[:, :, 0])[across]
    return sitk.GetArrayFromImage(one).T, itk_affine(one.GetSpacing(), one.GetDirection(), one.GetOrigin())


STORED = [*product(PLANES, TURNS, [".nii"]), *product(PLANES, ["oblique"], [".mha", ".nrrd"])]


@pytest.mark.parametrize(("plane", "turn", "suffix"), STORED)
def test_a_slice_is_what_simpleitk_cuts_and_is_written_back_in_place(
    tmp_path: Path, plane: str, turn: str, suffix: str
) -> None:
    shape = PLANES[plane]
    path = save(tmp_path / f"a{suffix}", ramp(shape), place(turn))
    image = read_image(path)
    voxels, affine = as_slice(path, shape.index(1))
    np.testing.assert_array_equal(image.data, voxels)
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)
    assert image.stored == np.int16
    for name in ("b.nii", "b.mha"):
        write_image(tmp_path / name, image)
        again = read_image(tmp_path / name)
        np.testing.assert_array_equal(again.data, image.data)
        np.testing.assert_allclose(again.affine, image.affine, atol=1e-5)
        theirs, ours = sitk.ReadImage(str(path)), sitk.ReadImage(str(tmp_path / name))
        assert ours.GetSize() == theirs.GetSize() == shape
        for index in np.ndindex(shape):
            expected = theirs.TransformIndexToPhysicalPoint(index)
            np.testing.assert_allclose(ours.TransformIndexToPhysicalPoint(index), expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(7, 1, 6, 3), (1, 7, 6, 3)])
def test_a_series_of_slices_in_any_plane(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = save(tmp_path / "a.nii", ramp(shape), place("oblique"))
    images = read_series(path)
    assert [image.shape for image in images] == [(7, 6)] * 3
    write_series(tmp_path / "b.nii", images)
    again = nibabel.load(tmp_path / "b.nii")
    np.testing.assert_array_equal(again.dataobj, ramp(shape))
    np.testing.assert_allclose(again.affine, place("oblique"), atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "kept"),
    [((1, 1, 6), (1, 6)), ((1, 6, 1), (1, 6)), ((6, 1, 1), (6, 1)), ((6, 1), (6, 1)), ((1, 6), (1, 6))],
)
def test_of_two_axes_of_one_voxel_one_stays(tmp_path: Path, shape: tuple[int, ...], kept: tuple[int, ...]) -> None:
    path = save(tmp_path / "a.nii", ramp(shape), place("straight"))
    image = read_image(path)
    assert image.shape == kept
    write_image(tmp_path / "b.nii", image)
    assert nibabel.load(tmp_path / "b.nii").shape == shape


@pytest.mark.parametrize("shape", PLANES.values())
@pytest.mark.parametrize("form", ["array", "nibabel", "SimpleITK"])
def test_slices_in_memory_keep_their_form(tmp_path: Path, shape: tuple[int, ...], form: str) -> None:
    affine = place("oblique")
    path = save(tmp_path / "a.nii", ramp(shape), affine)
    source = {"array": (ramp(shape), affine), "nibabel": nibabel.load(path), "SimpleITK": sitk.ReadImage(str(path))}[
        form
    ]
    image = as_image(source, "fixed image")
    expected = read_image(path)
    np.testing.assert_array_equal(image.data, expected.data)
    np.testing.assert_allclose(image.affine, expected.affine, atol=1e-5)
    back = in_form_of(image, source)
    if form == "array":
        assert back.shape == shape
    elif form == "nibabel":
        assert back.shape == shape
        np.testing.assert_array_equal(back.affine, source.affine)
    else:
        assert back.GetSize() == shape
        assert back.GetOrigin() == source.GetOrigin()


def test_an_image_of_one_layer_is_refused_with_advice() -> None:
    with pytest.raises(
        InputError, match=r"moving image: is an image of shape \(7, 1, 6\), a single slice; expected two"
    ):
        as_image(Image(ramp((7, 1, 6)).astype(np.float32), np.eye(4)), "moving image")


@pytest.mark.parametrize("turn", ["straight", "left-handed"])
def test_an_array_of_two_axes_may_have_nibabels_affine(tmp_path: Path, turn: str) -> None:
    affine = place(turn)
    affine[:3, :3] = Rotation.from_euler("z", 20, degrees=True).as_matrix() @ affine[:3, :3]
    image = as_image((ramp((7, 6)), affine), "fixed image")
    np.testing.assert_array_equal(image.affine, affine[np.ix_([0, 1, 3], [0, 1, 3])])
    np.testing.assert_allclose(
        image.affine, read_image(save(tmp_path / "a.nii", ramp((7, 6)), affine)).affine, atol=1e-5
    )
    assert in_form_of(image, (ramp((7, 6)), affine)).shape == (7, 6)


@pytest.mark.parametrize("turn", ["oblique", "turned"])
def test_an_array_of_two_axes_that_leave_the_plane_is_refused(turn: str) -> None:
    with pytest.raises(InputError, match=r"two axes that leave the axial plane, .* expected an affine of 3 x 3"):
        as_image((ramp((7, 6)), place(turn)), "fixed image")
    for shape, size in (((7, 6), 5), ((7, 6, 5), 3), ((7,), 3)):
        with pytest.raises(InputError, match="expected two or three axes and an affine of one more"):
            as_image((ramp(shape), np.eye(size)), "fixed image")


@pytest.mark.parametrize("shape", [*PLANES.values(), (7, 6), (7, 6, 5)])
@pytest.mark.parametrize("turn", TURNS)
def test_simpleitk_images_leave_the_terminal_alone(
    shape: tuple[int, ...], turn: str, capfd: pytest.CaptureFixture[str]
) -> None:
    source = sitk.GetImageFromArray(ramp(shape).T)
    source.SetSpacing(SPACING[: len(shape)].tolist())
    direction = TURNS[turn] if len(shape) == 3 else np.array([[0.8, -0.6], [0.6, 0.8]])
    source.SetDirection(direction.ravel().tolist())
    source.SetMetaData("sform_code_name", "NIFTI_XFORM_UNKNOWN")
    capfd.readouterr()
    in_form_of(as_image(source, "fixed image"), source)
    with pytest.raises(InputError, match="every voxel is 0"):
        as_image(source * 0, "moving image")
    assert capfd.readouterr() == ("", "")

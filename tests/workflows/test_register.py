"""Registration in a program: every form of image comes in, and goes out in the same form, at the same place."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

import crossmorph
from crossmorph.datasets.pairs import read_pairs
from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import read_image, write_image
from crossmorph.provenance.record import read_record
from crossmorph.workflows.register import as_image


@pytest.fixture(scope="module")
def paths(phantom):
    pair = read_pairs(phantom / "test" / "pairs.csv")[0]
    return pair.moving, pair.fixed


@pytest.fixture(scope="module")
def plain(paths):
    return crossmorph.register(*paths)


def test_paths_give_images_and_everything_else(plain, paths):
    assert isinstance(plain.moved, Image)
    fixed = read_image(paths[1])
    assert plain.moved.shape == plain.transform.shape == fixed.shape
    assert plain.inverse.shape == plain.translated.shape == read_image(paths[0]).shape
    assert plain.measures.mutual_information_final > plain.measures.mutual_information_before
    assert plain.passed
    assert {check.level for check in plain.checks} == {"passed"}
    np.testing.assert_array_equal(plain.apply(paths[0]).data, plain.moved.data)


def test_nibabel_comes_back_on_the_fixed_grid(plain, paths):
    moving, fixed = (nibabel.load(path) for path in paths)
    result = crossmorph.register(moving, fixed)
    assert result.moved.shape == fixed.shape
    np.testing.assert_array_equal(result.moved.affine, fixed.affine)
    np.testing.assert_allclose(np.squeeze(result.moved.get_fdata()), plain.moved.data, atol=1e-4)
    np.testing.assert_array_equal(result.translated.affine, moving.affine)


def test_simpleitk_comes_back_on_the_fixed_grid(plain, paths):
    moving, fixed = (sitk.ReadImage(str(path)) for path in paths)
    result = crossmorph.register(moving, fixed)
    assert result.moved.GetSize() == fixed.GetSize()
    assert result.moved.GetDirection() == fixed.GetDirection()
    np.testing.assert_allclose(sitk.GetArrayFromImage(result.moved).T, plain.moved.data, atol=1e-3)


def test_arrays_come_back_as_arrays(plain, paths):
    moving, fixed = (read_image(path) for path in paths)
    result = crossmorph.register((moving.data, moving.affine), (fixed.data.astype(np.float64), fixed.affine))
    assert isinstance(result.moved, np.ndarray)
    np.testing.assert_allclose(result.moved, plain.moved.data, atol=1e-4)


def test_what_is_saved_is_the_result(tmp_path, plain):
    written = plain.save(tmp_path / "moved.nii.gz", transform=tmp_path / "t.h5", ants_prefix=tmp_path / "P_")
    names = ["P_0GenericAffine.mat", "P_1InverseWarp.nii.gz", "P_1Warp.json", "P_1Warp.nii.gz"]
    names += ["moved.nii.gz", "t.h5", "t.json"]
    assert sorted(path.name for path in written) == sorted(path.name for path in tmp_path.iterdir()) == names
    np.testing.assert_allclose(read_image(tmp_path / "moved.nii.gz").data, plain.moved.data, atol=1e-4)
    record = read_record(tmp_path / "t.json")
    assert "antsApplyTransforms -d 2 -i " in record.ants
    assert record.measures["mutual_information_final"] == plain.measures.mutual_information_final


def test_it_begins_where_a_matrix_or_a_file_says(paths, tmp_path):
    moving, fixed = (read_image(path) for path in paths)
    shift = np.eye(3)
    shift[:2, 2] = 500, -200
    far = Image(moving.data, shift @ moving.affine)
    result = crossmorph.register(far, fixed, init=shift)
    near = crossmorph.register(moving, fixed, init="none")
    np.testing.assert_allclose(result.moved.data, near.moved.data, atol=1e-3)
    transform = sitk.AffineTransform(2)
    transform.SetTranslation((-500, 200))  # LPS
    sitk.WriteTransform(transform, str(tmp_path / "shift.tfm"))
    again = crossmorph.register(far, fixed, init=str(tmp_path / "shift.tfm"))
    np.testing.assert_array_equal(again.moved.data, result.moved.data)
    with pytest.raises(InputError, match="--init nowhere: no such file; expected affine, centers, none or"):
        crossmorph.register(moving, fixed, init="nowhere")


@pytest.mark.parametrize(
    ("source", "error", "reason"),
    [
        (7, TypeError, "moving image: received int, expected a path"),
        ((np.zeros((4, 4)), np.eye(5)), InputError, r"moving image: received an array of shape \(4, 4\)"),
        ((np.eye(4), np.zeros((3, 3))), InputError, "moving image: its affine is singular"),
        ((np.full((4, 4), np.nan), np.eye(3)), InputError, "moving image: 16 of 16 voxels are NaN"),
        (nibabel.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)), InputError, "moving image: every voxel is 1"),
    ],
)
def test_what_cannot_be_used_is_named(source, error, reason):
    with pytest.raises(error, match=reason):
        as_image(source, "moving image")


def test_labels_of_other_forms_keep_their_numbers(tmp_path):
    labels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    write_image(tmp_path / "labels.nii.gz", Image(labels, np.eye(4)))
    for source in (nibabel.load(tmp_path / "labels.nii.gz"), sitk.GetImageFromArray(labels.T), (labels, np.eye(4))):
        np.testing.assert_array_equal(as_image(source, "labels", labels=True).data, labels)

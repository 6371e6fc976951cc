"""Registration in a program: every form of image comes in, and goes out in the same form, at the same place."""

import base64
import copy
import inspect
import io
import re
from dataclasses import replace

import nibabel
import numpy as np
import PIL.Image
import pytest
import SimpleITK as sitk
from typer.main import get_command

import crossmorph
from crossmorph.cli.main import app as cli
from crossmorph.datasets.pairs import read_pairs
from crossmorph.errors import InputError
from crossmorph.images.conversion import as_exact_image, as_image
from crossmorph.images.image import Image
from crossmorph.images.io import read_image, write_image
from crossmorph.provenance.record import read_record
from crossmorph.registration.settings import Settings
from crossmorph.workflows.batch import register_batch
from crossmorph.workflows.register import check_settings, find_model


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


def test_what_a_result_shows_of_itself(plain, paths):
    lines = repr(plain).splitlines()
    assert lines[0].startswith(f"{paths[0].name} to {paths[1].name}, registered with any-2d in ")
    assert f"{plain.measures.mutual_information_final:.3g} after" in lines[1]
    assert lines[2:] == [f"  {len(plain.checks)} of {len(plain.checks)} checks passed"]
    assert max(len(line) for line in lines) < 120
    failed = plain.checks[0]._replace(level="failed", message="a < b")
    worse = replace(plain, assessment=plain.assessment._replace(checks=(failed, *plain.checks[1:])))
    assert repr(worse).endswith(f"checks passed; failed: {failed.name}")

    page = worse._repr_html_()
    assert f"<tr><td>failed</td><td>{failed.name}</td><td>a &lt; b</td></tr>" in page
    picture = base64.b64decode(re.search(r'src="data:image/png;base64,([^"]+)"', page)[1])
    assert PIL.Image.open(io.BytesIO(picture)).size[0] > 300
    for thing in (plain.moved, plain.transform):
        assert len(repr(thing)) < 100


def test_the_moved_image_goes_on_to_other_libraries(plain, paths, tmp_path):
    np.testing.assert_array_equal(np.asarray(plain.moved), plain.moved.data)
    plain.moved.save(tmp_path / "m.nii.gz")
    np.testing.assert_array_equal(read_image(tmp_path / "m.nii.gz").data, plain.moved.data)
    for other in (plain.moved.to_nibabel(), plain.moved.to_sitk()):
        again = plain.transform.apply(other)
        np.testing.assert_array_equal(again.data, plain.transform.apply(plain.moved).data)


def test_a_result_and_its_transform_take_every_form_of_image_alike(plain, paths):
    array = read_image(paths[0])
    forms = [paths[0], str(paths[0]), nibabel.load(paths[0]), sitk.ReadImage(str(paths[0])), (array.data, array.affine)]
    for form in [*forms, array]:
        for moved in (plain.apply(form), plain.transform.apply(form)):
            np.testing.assert_allclose(moved.data, plain.moved.data, atol=1e-3)
    labels = (np.digitize(array.data, [50, 100]).astype(np.uint32) * 2**30 + 1, array.affine)
    for moved in (plain.apply(labels), plain.transform.apply(labels), plain.apply(labels, "genericlabel")):
        assert moved.data.dtype == np.uint32
        assert set(np.unique(moved.data)) <= {0, 1, 2**30 + 1, 2**31 + 1}
    assert plain.transform.apply(labels, "linear").data.dtype == np.float32


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


ONE = np.eye(3)
WRONG = {
    **{f"refine {value!r}": ({"refine": value}, f"refine {value!r}: expected auto, on, off or seconds above 0")
       for value in ("yes", "10", "", -1.0, 0.0, np.nan, np.inf)},
    **{f"device {value}": ({"device": value}, f"device {value}: not available here .*; expected auto, cpu, cuda or mps")
       for value in ("gpu", "cpu:x", "", "meta")},
    **{f"smoothness {value!r}": ({"smoothness": value}, f"smoothness {value!r}: expected 0 .detailed. to 1")
       for value in (2.5, -0.1)},
    "another dimension": ({"init": np.eye(4)}, "init .*: expected an invertible matrix of 3 x 3 finite numbers"),
    "not finite": ({"init": ONE * np.nan}, "init .*: expected an invertible matrix of 3 x 3 finite numbers"),
    "singular": ({"init": ONE * 0}, "init .*: expected an invertible matrix of 3 x 3 finite numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_settings_that_cannot_be_used_are_refused_in_one_line(name, paths):
    settings, reason = WRONG[name]
    with pytest.raises(InputError, match=reason) as caught:
        crossmorph.register(*paths, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("smoothness", ["a", True])
def test_a_smoothness_of_another_type_is_refused_too(smoothness):
    with pytest.raises(InputError, match=r"smoothness .*: expected 0 .detailed. to 1"):
        check_settings(Settings(smoothness=smoothness))
    check_settings(Settings(smoothness=1))  # a whole number is a number


def test_a_loaded_model_stays_on_its_device():
    model = crossmorph.load_model("any-2d", device="cpu")
    away = model._replace(hierarchy=copy.deepcopy(model.hierarchy).to("meta"))
    with pytest.raises(InputError, match="device cpu: the model is on meta; expected auto or meta"):
        find_model(away, 2, "cpu")
    for device in ("auto", "cpu"):
        assert find_model(model, 2, device) == (model, None)


def test_the_device_has_one_default():
    for function in (crossmorph.register, crossmorph.load_model, crossmorph.register_files, register_batch):
        assert inspect.signature(function).parameters["device"].default == "auto"
    commands = get_command(cli).commands.values()
    defaults = [option.default for command in commands for option in command.params if option.name == "device"]
    assert len(defaults) >= 3
    assert set(defaults) == {"auto"}


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
        np.testing.assert_array_equal(as_exact_image(source, "labels").data, labels)

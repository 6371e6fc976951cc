"""Registration from files to files: other tools reproduce what is written, and a failure writes nothing."""

import json
import shlex
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from examples import check
from numpy import ndarray

from crossmorph.datasets.pairs import Pair, read_pairs
from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import read_image, write_image
from crossmorph.quality.assessment import Assessment, Check
from crossmorph.quality.checks import assess
from crossmorph.registration.settings import Settings
from crossmorph.transforms.grid import Grid, onto_grid
from crossmorph.transforms.warp import Warp, resample
from crossmorph.transforms.warp_files import read_transform
from crossmorph.workflows import register
from crossmorph.workflows import register_files as module
from crossmorph.workflows.outputs import LabelFiles, Outputs, ants_call
from crossmorph.workflows.register_files import Done, register_files

PAGE = np.diag([-1.0, -1.0, 1.0])


class Kind(NamedTuple):
    """How the two files of a pair are stored: shape, in-plane affine, and number of axes; PNG where there are none."""

    moving: tuple[tuple[int, int], ndarray]
    fixed: tuple[tuple[int, int], ndarray]
    axes: int
    suffix: str = ".nii.gz"


def placed(matrix: object, shape: tuple[int, int]) -> tuple[tuple[int, int], ndarray]:
    """A grid about the phantom's centre."""
    affine = np.eye(3)
    affine[:2, :2] = matrix
    affine[:2, 2] = [0.0, -17.0] - affine[:2, :2] @ ((np.array(shape) - 1) / 2)
    return shape, affine


def turn(degrees: float) -> ndarray:
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


KINDS = {
    "axial": Kind(placed(1.5 * np.eye(2), (128, 128)), placed(1.5 * np.eye(2), (128, 128)), 2),
    "slice of a volume": Kind(placed(1.5 * np.eye(2), (120, 128)), placed(1.2 * np.eye(2), (150, 160)), 3),
    "flipped": Kind(placed(np.diag([-1.5, 1.5]), (128, 130)), placed(np.diag([-1.4, -1.6]), (130, 120)), 3),
    "rotated": Kind(placed(1.5 * turn(12), (128, 128)), placed(turn(-9) @ np.diag([-1.6, 1.4]), (120, 140)), 3),
    "anisotropic": Kind(placed(np.diag([0.9, 2.0]), (200, 101)), placed(np.diag([2.2, 1.1]), (87, 171)), 2),
    "png": Kind(placed(-1.5 * np.eye(2), (128, 120)), placed(-1.5 * np.eye(2), (126, 128)), 0, ".png"),
}


def save(path: Path, data: ndarray, affine: ndarray, axes: int) -> None:
    """Write by nibabel, or as the grey levels of a PNG."""
    if axes == 0:
        write_image(path, Image(data, PAGE, physical=False))
        return
    full = np.eye(4)
    full[:2, :2], full[:2, 3], full[2, 3] = affine[:2, :2], affine[:2, 2], 21.0
    nifti = nibabel.Nifti1Image(data.reshape(data.shape + (1,) * (axes - 2)), full)
    nifti.set_qform(full, 1)
    nifti.set_sform(full, 1)
    nifti.header["descrip"] = b"kept"
    nibabel.save(nifti, path)


@pytest.fixture(scope="module")
def pair(phantom) -> Pair:
    return read_pairs(phantom / "test" / "pairs.csv")[0]


class Files(NamedTuple):
    """A written pair and where its outputs are to go."""

    moving: Path
    fixed: Path
    labels: Path
    outputs: Outputs


def written(folder: Path, pair: Pair, kind: Kind) -> Files:
    files = [folder / f"{name}{kind.suffix}" for name in ("moving", "fixed", "labels")]
    images = (read_image(pair.moving), read_image(pair.fixed), read_image(pair.moving_labels, labels=True))
    for path, image, (shape, affine) in zip(files, images, (kind.moving, kind.fixed, kind.moving), strict=True):
        if path.stem.startswith("labels"):
            data = resample(image, Warp(np.zeros((2, *shape)), affine), "nearest").data.astype(np.uint8)
        else:
            data = onto_grid(image, Grid(affine, shape)).data
            data = np.round(data / data.max() * 255).astype(np.uint8) if kind.axes == 0 else data
        save(path, data, affine, kind.axes)
    targets = {name: folder / f"out_{name}{kind.suffix}" for name in ("moved", "translated")}
    targets |= {"transform": folder / "out.h5", "inverse": folder / "out_inverse.nii.gz"}
    return Files(*files, Outputs(**targets, labels=(LabelFiles(files[2], folder / f"out_labels{kind.suffix}"),)))


def itk(path: Path, pixel: int = sitk.sitkFloat32) -> sitk.Image:
    """What SimpleITK makes of a 2-D file: a volume of one slice becomes that slice."""
    image = sitk.ReadImage(str(path), pixel)
    return image[:, :, 0] if image.GetDimension() == 3 else image


def itk_transform(path: Path) -> sitk.Transform:
    if path.suffix == ".h5":
        return sitk.ReadTransform(str(path))
    return sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))


def as_itk(moving: Path, fixed: Path, transform: Path, labels: bool = False) -> ndarray:
    """What SimpleITK makes of our transform, ``(x, y)``."""
    how = sitk.sitkNearestNeighbor if labels else sitk.sitkLinear
    return sitk.GetArrayFromImage(sitk.Resample(itk(moving), itk(fixed), itk_transform(transform), how, 0.0)).T


@pytest.mark.parametrize("name", KINDS)
def test_simpleitk_reproduces_every_output(tmp_path, pair, name):
    kind = KINDS[name]
    files = written(tmp_path, pair, kind)
    outputs = files.outputs
    done = register_files(files.moving, files.fixed, outputs)
    assert done.passed
    assert all(path.stat().st_size > 0 for _, path in outputs.files())

    moved, moving = read_image(outputs.moved), read_image(files.moving)
    assert moved.shape == kind.fixed[0]
    np.testing.assert_allclose(moved.affine, read_image(files.fixed).affine, atol=1e-4)
    tolerance = 1e-3 * np.ptp(moving.data) + (0.5 if kind.axes == 0 else 0)  # PNG holds whole numbers
    other = outputs._replace(transform=tmp_path / "again.nii.gz", inverse=tmp_path / "again.h5")
    register_files(files.moving, files.fixed, other)
    for path in (outputs.transform, other.transform):
        np.testing.assert_allclose(as_itk(files.moving, files.fixed, path), moved.data, atol=tolerance)

    exact = as_itk(files.labels, files.fixed, outputs.transform, labels=True)
    ours = read_image(outputs.labels[0].target, labels=True)
    assert set(np.unique(ours.data)) == {0, 1, 2, 3}
    assert np.array_equal(ours.data, exact)
    np.testing.assert_allclose(ours.affine, moved.affine, atol=1e-4)

    fixed = read_image(files.fixed)
    back = resample(fixed, read_transform(outputs.inverse)).data
    assert np.corrcoef(back.ravel(), as_itk(files.fixed, files.moving, outputs.inverse).ravel())[0, 1] > 0.999
    for path in (outputs.inverse, other.inverse):
        theirs = as_itk(files.fixed, files.moving, path)
        np.testing.assert_allclose(theirs, back, atol=1e-3 * np.ptp(fixed.data))

    translated = read_image(outputs.translated)
    assert translated.shape == moving.shape
    np.testing.assert_allclose(translated.affine, moving.affine, atol=1e-4)


def test_outputs_carry_the_fixed_images_header(tmp_path, pair):
    files = written(tmp_path, pair, KINDS["rotated"])
    register_files(files.moving, files.fixed, files.outputs)
    fixed = nibabel.load(files.fixed)
    for path in (files.outputs.moved, files.outputs.labels[0].target):
        output = nibabel.load(path)
        assert output.shape == fixed.shape == (120, 140, 1)
        assert output.header["descrip"] == b"kept"
        np.testing.assert_allclose(output.affine, fixed.affine, atol=1e-4)
    assert nibabel.load(files.outputs.translated).shape == (128, 128, 1)
    assert nibabel.load(files.outputs.labels[0].target).get_data_dtype() == np.uint8


def test_doubtful_geometry_is_said(tmp_path, pair):
    files = written(tmp_path, pair, KINDS["rotated"])
    nifti = nibabel.load(files.moving)
    nifti.set_qform(nifti.affine, 0)
    nifti.set_sform(nifti.affine, 0)
    nibabel.save(nifti, tmp_path / "placeless.nii")
    outputs = files.outputs._replace(labels=())
    assert register_files(files.moving, files.fixed, outputs).cautions == ()
    done = register_files(tmp_path / "placeless.nii", files.fixed, outputs, keep_failed=True)
    (said,) = done.as_dict()["cautions"]
    assert said.startswith(f"{tmp_path / 'placeless.nii'}: Neither qform nor sform says")
    assert f"  caution: {said}" in done.as_text().splitlines()


def test_a_slice_stored_across_comes_back_as_it_was_stored(tmp_path, pair):
    turned = np.array([[-1.5, 0, 0, 90], [0, 0, 1.5, 7], [0, 1.5, 0, -90], [0, 0, 0, 1]])  # (X, 1, Z), coronal
    files = written(tmp_path, pair, KINDS["axial"])
    for path in files[:3]:
        voxels = np.asarray(nibabel.load(path).dataobj)
        nifti = nibabel.Nifti1Image(voxels.reshape(voxels.shape[0], 1, voxels.shape[1]), turned[:, [0, 2, 1, 3]])
        nifti.set_qform(nifti.affine, 1)
        nibabel.save(nifti, path)
    done = register_files(files.moving, files.fixed, files.outputs, keep_failed=True)
    for path, like in ((files.outputs.moved, files.fixed), (files.outputs.translated, files.moving)):
        ours, theirs = nibabel.load(path), nibabel.load(like)
        assert ours.shape == theirs.shape
        assert ours.shape[1] == 1
        np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-4)
    assert nibabel.load(files.outputs.labels[0].target).shape == nibabel.load(files.fixed).shape
    assert (done.ants, done.passed) == (None, True)
    assert f"cannot read slices stored (X, 1, Z), here {files.moving}, {files.fixed}" in done.ants_caution


def test_centres_work_from_file_to_file(tmp_path, pair):
    files = written(tmp_path, pair, KINDS["axial"])
    far = read_image(files.moving)
    far.affine[:2, 2] += [400.0, -300.0]
    write_image(files.moving, far)
    with pytest.raises(InputError, match=rf"{files.moving} to {files.fixed}: .* covers 0%"):
        register_files(files.moving, files.fixed, files.outputs._replace(labels=()), settings=Settings("none"))
    register_files(files.moving, files.fixed, files.outputs._replace(labels=()), settings=Settings("centers"))
    moved = read_image(files.outputs.moved).data
    theirs = as_itk(files.moving, files.fixed, files.outputs.transform)
    np.testing.assert_allclose(theirs, moved, atol=1e-3 * np.ptp(far.data))
    back = as_itk(files.outputs.moved, files.moving, files.outputs.inverse)
    assert np.corrcoef(back.ravel(), far.data.ravel())[0, 1] > 0.95


def test_the_account_of_what_was_done(tmp_path, pair):
    folder = tmp_path / "with space"
    folder.mkdir()
    files = written(folder, pair, KINDS["axial"])
    files = files._replace(outputs=files.outputs._replace(report=folder / "out.pdf"))
    done = register_files(files.moving, files.fixed, files.outputs)
    told = done.as_dict()
    assert told["inputs"] == {"moving": str(files.moving), "fixed": str(files.fixed), "model": "any-2d"}
    kinds = ["moved", "transform", "inverse", "translated", "report", "labels", "record", "record"]
    assert [output["kind"] for output in told["outputs"]] == kinds
    assert all(Path(output["path"]).exists() for output in told["outputs"])
    assert 0 < told["seconds"] < 60
    assert told["measures"]["mutual_information_final"] > told["measures"]["mutual_information_before"]
    assert told["measures"]["unit"] == "mm"
    assert {check["level"] for check in told["checks"]} <= {"passed", "warning"}
    o = files.outputs
    words = ["antsApplyTransforms", "-d", "2", "-i", files.moving, "-r", files.fixed, "-o", o.moved, "-t", o.transform]
    assert shlex.split(told["ants"]) == [*map(str, words), "-n", "Linear"]
    assert told["ants_caution"] is None
    text = done.as_text()
    assert text.count("\n  wrote   ") == 8
    assert f" in {done.seconds:.2f} s (coarse {done.stages['coarse']:.2f} s, fine " in text
    compared = Check("folding", "passed", 0.0, 0.0, "The field does not fold.")
    text = done._replace(checks=(compared, check("swap consistency", "passed", "No limit known."))).as_text(True)
    assert "\n  passed   folding: The field does not fold.\n  no limit swap consistency: No limit known.\n" in text
    assert "\n  1 of 2 checks passed, 1 without a known limit\n" in text
    waited = done.as_text(waited=done.seconds + 4).splitlines()[0]
    assert f" in {done.seconds + 4:.2f} s (coarse " in waited
    assert waited.endswith(", reading, checks, writing 4.00 s)")
    assert told["ants"] in text
    assert "caution" not in text


def test_ants_is_offered_with_a_caution_for_slices_of_volumes_and_not_without_a_transform(tmp_path, pair):
    files = written(tmp_path, pair, KINDS["flipped"])
    done = register_files(files.moving, files.fixed, files.outputs)
    assert f"(X, Y, 1), here {files.moving}, {files.fixed}" in done.ants_caution
    assert done.ants_caution in done.as_text()
    alone = register_files(files.moving, files.fixed, Outputs(files.outputs.moved))
    assert alone.ants is alone.ants_caution is None
    assert "antsApply" not in alone.as_text()


def test_ants_reproduces_the_moved_image(tmp_path, pair):
    ants = pytest.importorskip("ants")
    files = written(tmp_path, pair, KINDS["anisotropic"])
    done = register_files(files.moving, files.fixed, files.outputs)
    words = shlex.split(done.ants)
    arguments = {flag: words[words.index(flag) + 1] for flag in ("-i", "-r", "-t", "-o")}
    moving, fixed = (ants.image_read(arguments[flag]) for flag in ("-i", "-r"))
    theirs = ants.apply_transforms(fixed, moving, [arguments["-t"]], interpolator="linear").numpy()
    np.testing.assert_allclose(theirs, read_image(arguments["-o"]).data, atol=1e-3 * np.ptp(moving.numpy()))


def test_ants_reproduces_the_moved_image_by_what_is_written_for_it_alone(tmp_path, pair):
    ants = pytest.importorskip("ants")
    files = written(tmp_path, pair, KINDS["rotated"]._replace(axes=2))
    done = register_files(files.moving, files.fixed, Outputs(files.outputs.moved, ants_prefix=tmp_path / "A"))
    assert f"  the same with ANTs: {done.ants}" in done.as_text()
    words = shlex.split(done.ants)
    transforms = [after for word, after in pairwise(words) if word == "-t"]
    assert transforms == [str(tmp_path / "A1Warp.nii.gz"), str(tmp_path / "A0GenericAffine.mat")]
    moving, fixed = (ants.image_read(str(path)) for path in (files.moving, files.fixed))
    theirs = ants.apply_transforms(fixed, moving, transforms, interpolator="linear").numpy()
    np.testing.assert_allclose(theirs, read_image(files.outputs.moved).data, atol=1e-3 * np.ptp(moving.numpy()))


VOLUME = Image(np.zeros((4, 5, 6), np.float32), np.eye(4))
FOR_ANTS = {  # moving, fixed, moved image: what stands for the fixed image, or why there is no call
    ("m.nii.gz", "f.mha", "o.nii.gz"): "f.mha",
    ("m.nii.gz", "dicom", "o.nii.gz"): "o.nii.gz",
    ("m.nii.gz", "f.mnc", "o.mha"): "o.mha",
    ("m.nii.gz", "f.tif", "o.tif"): "from f.tif: ITK takes the resolution",
    ("m.nii.gz", "dicom", "o.png"): "from dicom: ANTs reads no folders of DICOM",
    ("dicom", "f.nii", "o.nii"): "from dicom: ANTs reads no folders of DICOM files; convert it to NIfTI first",
    ("m.mnc", "f.nii", "o.nii"): "from m.mnc: ITK mirrors two axes of MINC",
    ("m.mnc.gz", "f.nii", "o.nii"): "from m.mnc.gz: ITK mirrors two axes of MINC",
    ("m.TIF", "f.nii", "o.nii"): "from m.TIF: ITK takes the resolution of a TIFF file for millimetres",
}


@pytest.mark.parametrize("names", FOR_ANTS, ids=str)
def test_ants_is_offered_where_it_sees_what_we_see(names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("dicom").mkdir()
    moving, fixed, moved = map(Path, names)
    call, caution = ants_call(moving, fixed, Outputs(moved, Path("t.h5")), {moving: VOLUME, fixed: VOLUME})
    expected = FOR_ANTS[names]
    if expected.startswith("from "):
        assert call is None
        assert f"antsApplyTransforms cannot make the same {expected}" in caution
    else:
        assert call == f"antsApplyTransforms -d 3 -i {moving} -r {expected} -o {moved} -t t.h5 -n Linear"
        assert caution is None


def test_pixels_are_called_pixels(tmp_path, pair):
    files = written(tmp_path, pair, KINDS["png"])
    told = register_files(files.moving, files.fixed, files.outputs).as_dict()
    assert told["measures"]["unit"] == "pixels"
    assert told["measures"]["working_spacing"] == 1  # 128 pixels on the longer side


def test_png_and_nifti_in_one_call(tmp_path, pair):
    """A PNG moved to a NIfTI image: the output is where the fixed image is, and in the format it is named by."""
    files = written(tmp_path, pair, KINDS["png"])
    near = read_image(files.fixed)
    fixed = tmp_path / "fixed.nii.gz"
    write_image(fixed, Image(near.data, near.affine))
    done = register_files(files.moving, fixed, Outputs(tmp_path / "moved.nii.gz"))
    assert done.measures.unit == "mm"
    assert np.array_equal(read_image(tmp_path / "moved.nii.gz").affine, near.affine)


def test_no_file_is_read_twice(tmp_path, pair, monkeypatch):
    files = written(tmp_path, pair, KINDS["axial"])
    reads: list[Path] = []

    def counted(path: Path, labels: bool = False) -> Image:
        reads.append(path)
        return read_image(path, labels)

    monkeypatch.setattr(module, "read_image", counted)
    twice = (*files.outputs.labels, LabelFiles(files.labels, tmp_path / "more.nii.gz"))
    register_files(files.moving, files.fixed, files.outputs._replace(labels=twice))
    assert reads == [files.moving, files.fixed, files.labels]
    assert read_image(tmp_path / "more.nii.gz", labels=True).data.max() == 3


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def bad_labels(files: Files) -> Outputs:
    volume = files.labels.with_name("volume.nii.gz")
    write_image(volume, Image(np.arange(60, dtype=np.int32).reshape(3, 4, 5), np.eye(4)))
    return files.outputs._replace(labels=(LabelFiles(volume, files.labels.with_name("out_volume.nii.gz")),))


def taken(files: Files) -> Path:
    """A transform whose record would replace another program's file, which is there before anything is compared."""
    files.moving.with_name("taken.json").write_text("{}")
    return files.moving.with_name("taken.h5")


REFUSED: dict[str, tuple[Callable[[Files], Outputs], str]] = {
    "output is moving": (lambda f: f.outputs._replace(moved=f.moving), r"also the input .*moving\.nii\.gz"),
    "output is fixed": (lambda f: f.outputs._replace(translated=f.fixed), r"also the input .*fixed\.nii\.gz"),
    "by another path": (
        lambda f: f.outputs._replace(moved=f.fixed.parent / ".." / f.fixed.parent.name / f.fixed.name),
        r"also the input .*fixed\.nii\.gz",
    ),
    "labels onto themselves": (
        lambda f: f.outputs._replace(labels=(LabelFiles(f.labels, f.labels),)),
        r"also the input .*labels\.nii\.gz",
    ),
    "two outputs": (lambda f: f.outputs._replace(inverse=f.outputs.transform), r"out\.h5: wanted as inverse, but is"),
    "two label maps": (lambda f: f.outputs._replace(labels=f.outputs.labels * 2), "wanted as labels, but is"),
    "picture as image": (
        lambda f: f.outputs._replace(moved=f.moving.with_name("m.jpg")),
        r"m\.jpg: unknown image format",
    ),
    "transform as text": (
        lambda f: f.outputs._replace(inverse=f.moving.with_name("i.txt")),
        r"i\.txt: unknown transform format",
    ),
    "report as text": (lambda f: f.outputs._replace(report=f.moving.with_name("r.txt")), r"r\.txt: unknown report"),
    "record over what is none": (lambda f: f.outputs._replace(transform=taken(f)), r"taken\.json: the record of the"),
    "no such folder": (
        lambda f: f.outputs._replace(inverse=f.moving.parent / "no" / "i.h5"),
        "the folder .*no does not",
    ),
    "labels of a volume": (bad_labels, r"volume\.nii\.gz: labels are 3-D, shape \(3, 4, 5\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_impossible_outputs_are_refused_before_the_work(tmp_path, pair, monkeypatch, name):
    make, message = REFUSED[name]
    files = written(tmp_path, pair, KINDS["axial"])
    outputs = make(files)
    before = contents(tmp_path)
    monkeypatch.setattr(register, "register_images", lambda *_: pytest.fail("went to work"))
    with pytest.raises(InputError, match=message):
        register_files(files.moving, files.fixed, outputs)
    assert contents(tmp_path) == before


def test_a_missing_input_is_said_before_anything_else(tmp_path, pair):
    files = written(tmp_path, pair, KINDS["axial"])
    absent = tmp_path / "absent.nii.gz"
    with pytest.raises(InputError, match=r"absent\.nii\.gz: cannot be read"):
        register_files(absent, files.fixed, Outputs(tmp_path / "m.nii"), model="nonsense")


def test_a_symbolic_link_to_an_input_is_that_input(tmp_path, pair):
    files = written(tmp_path, pair, KINDS["axial"])
    link = tmp_path / "link.nii.gz"
    link.symlink_to(files.moving)
    with pytest.raises(InputError, match="is also the input"):
        register_files(files.moving, files.fixed, Outputs(link))


BROKEN = [
    "workflows.register.register_images",
    "workflows.register.assess",
    "workflows.result_transforms.write_transform",
    "reports.figure.write_picture",
]


@pytest.mark.parametrize("broken", [*BROKEN, "workflows.result.make_record"])
def test_a_failure_on_the_way_leaves_old_files_and_no_new_ones(tmp_path, pair, monkeypatch, broken):
    files = written(tmp_path, pair, KINDS["axial"])
    files = files._replace(outputs=files.outputs._replace(report=tmp_path / "out.pdf"))
    files.outputs.moved.write_bytes(b"old")
    before = contents(tmp_path)

    def fail(*_: object) -> None:
        raise InputError("on purpose")

    monkeypatch.setattr(f"crossmorph.{broken}", fail)
    with pytest.raises(InputError, match="on purpose"):
        register_files(files.moving, files.fixed, files.outputs)
    assert contents(tmp_path) == before


def failing(*images: object) -> Assessment:
    return assess(*images)._replace(checks=(check("mutual information"), check("folding", "warning")))


def test_a_registration_that_fails_its_checks_writes_only_what_is_to_be_kept(tmp_path, pair, monkeypatch):
    files = written(tmp_path, pair, KINDS["axial"])
    files.outputs.moved.write_bytes(b"old")
    before = contents(tmp_path)
    monkeypatch.setattr(register, "assess", failing)
    done = register_files(files.moving, files.fixed, files.outputs)
    assert contents(tmp_path) == before
    assert not done.passed
    assert not done.kept
    told = done.as_dict()
    assert (told["outputs"], told["ants"]) == ([], None)
    assert [each["name"] for each in told["checks"]] == ["mutual information", "folding"]
    fate = "nothing was written; --keep-failed would have kept the outputs"
    assert done.failure == f"{files.moving} to {files.fixed}: checks failed (mutual information); {fate}"
    assert done.as_text().endswith(f"\n{done.failure}")
    assert "wrote" not in done.as_text()

    kept = register_files(files.moving, files.fixed, files.outputs, keep_failed=True)
    assert all(path.stat().st_size > 3 for _, path in files.outputs.files())
    assert not kept.passed
    assert kept.kept
    assert kept.failure.endswith("checks failed (mutual information); the outputs were written all the same")
    assert kept.as_text().count("\n  wrote   ") == 7
    checks = json.loads((tmp_path / "out.json").read_text())["checks"]
    assert checks[0] == check("mutual information")._asdict()


def test_what_png_cannot_hold_is_said_under_the_wanted_name(tmp_path, pair):
    files = written(tmp_path, pair, KINDS["axial"])
    cold = read_image(files.moving)
    write_image(files.moving, Image(cold.data * 100 - 50, cold.affine))
    before = contents(tmp_path)
    with pytest.raises(
        InputError, match=rf"^{tmp_path}/moved\.png: PNG holds whole numbers from 0 to 65535, received -49"
    ):
        register_files(files.moving, files.fixed, Outputs(tmp_path / "moved.png"))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "meta"])
def test_unknown_devices_are_refused(tmp_path, pair, device):
    with pytest.raises(InputError, match=f"device {device}: not available here"):
        register_files(pair.moving, pair.fixed, Outputs(tmp_path / "moved.nii.gz"), device=device)
    assert not contents(tmp_path)


def test_threads_are_those_asked_for_and_change_nothing_to_see(tmp_path, pair):
    moved = []
    for threads in (1, 2):
        done = register_files(pair.moving, pair.fixed, Outputs(tmp_path / "moved.nii"), threads=threads)
        assert isinstance(done, Done)
        assert torch.get_num_threads() == threads
        moved.append(read_image(tmp_path / "moved.nii").data)
    np.testing.assert_allclose(*moved, atol=1e-4 * np.ptp(moved[0]))

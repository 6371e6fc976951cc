"""Transforms at work on files: one or several, forward and back, on images of every kind; and their commands."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import typer
from numpy import ndarray
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner, Result

from crossmorph.cli.transforms import add_commands
from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import read_image, write_image
from crossmorph.transforms.affine_files import fsl_coordinates, read_affine_transform, write_affine_transform
from crossmorph.transforms.composition import as_warp, inverted, move_points
from crossmorph.transforms.warp import Warp, followed_by, jacobian, resample, transform_points
from crossmorph.transforms.warp_files import read_transform, write_transform
from crossmorph.workflows.transform_files import (
    ImageFiles,
    apply_files,
    compose_files,
    convert_file,
    invert_file,
    jacobian_file,
)

TURN = Rotation.from_euler("xyz", [10, -20, 30], degrees=True).as_matrix()


def affine(columns: ndarray, position: tuple[float, ...]) -> ndarray:
    """An affine of either dimension."""
    full = np.eye(len(position) + 1)
    full[:-1, :-1], full[:-1, -1] = columns, position
    return full


FIXED, MOVING = affine(np.diag([1.5, 1.2, 2.0]), (-15, -14, -13)), affine(TURN * 1.3, (-16, -13, -15))
SHAPE, THERE = (20, 22, 14), (24, 22, 23)
SHIFT = affine(Rotation.from_euler("z", 8, degrees=True).as_matrix() * 1.04, (1.5, -2, 1))


def smooth(seed: int, shape: tuple[int, ...], sigma: float = 3) -> ndarray:
    """A random smooth field of range 1."""
    field = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma)
    return (field - field.mean()) / np.ptp(field)


def a_warp(seed: int = 0, size: float = 6, shape: tuple[int, ...] = SHAPE, grid: ndarray = FIXED) -> Warp:
    """A smooth warp of some millimetres."""
    return Warp(size * np.stack([smooth(seed + axis, shape) for axis in range(len(shape))]), grid)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images, labels and transforms of one pair."""
    picture = (100 + 100 * smooth(9, THERE, 1.5)).astype(np.float32)
    labels = np.digitize(picture, [90, 110]).astype(np.int16) * 300
    write_image(tmp_path / "moving.nii.gz", Image(picture, MOVING))
    write_image(tmp_path / "labels.nii.gz", Image(labels, MOVING))
    write_image(tmp_path / "fixed.nii.gz", Image(np.zeros(SHAPE, np.uint8), FIXED))
    write_transform(tmp_path / "warp.h5", a_warp())
    write_affine_transform(tmp_path / "affine.mat", SHIFT)
    return tmp_path


def test_images_and_labels_at_once_on_the_warps_own_grid(folder: Path) -> None:
    files = [ImageFiles(folder / f"{name}.nii.gz", folder / f"{name}_moved.nii.gz") for name in ("moving", "labels")]
    assert apply_files([folder / "warp.h5"], files[:1]) == []
    expected = resample(read_image(folder / "moving.nii.gz"), a_warp())
    moved = read_image(folder / "moving_moved.nii.gz")
    np.testing.assert_allclose(moved.data, expected.data, atol=1e-3)
    np.testing.assert_allclose(moved.affine, FIXED, atol=1e-5)

    for interpolation in ("nearest", "genericlabel"):
        apply_files([folder / "warp.h5"], files[1:], folder / "fixed.nii.gz", interpolation)
        written = nibabel.load(folder / "labels_moved.nii.gz")
        assert written.get_data_dtype() == np.int16
        labels = resample(read_image(folder / "labels.nii.gz", labels=True), a_warp(), interpolation)
        np.testing.assert_array_equal(np.asarray(written.dataobj), labels.data)
        assert set(np.unique(labels.data)) == {0, 300, 600}


def test_nearest_keeps_numbers_that_are_not_whole(folder: Path) -> None:
    target = folder / "out.nii.gz"
    apply_files([folder / "warp.h5"], [ImageFiles(folder / "moving.nii.gz", target)], None, "nearest")
    moved, source = read_image(target).data, read_image(folder / "moving.nii.gz").data
    assert np.isin(moved, np.append(source, 0)).all()


def test_several_transforms_act_in_the_order_of_ants(folder: Path) -> None:
    """A point goes through the first named first: an image moved by all is moved by the last and then by the first."""
    grid, source = folder / "fixed.nii.gz", ImageFiles(folder / "moving.nii.gz", folder / "out.nii.gz")
    apply_files([folder / "warp.h5", folder / "affine.mat"], [source], grid)
    expected = resample(read_image(source.source), followed_by(a_warp(), SHIFT)).data
    np.testing.assert_allclose(read_image(source.target).data, expected, atol=1e-3)

    apply_files([folder / "affine.mat", folder / "warp.h5"], [source], grid)
    indices = np.indices(SHAPE, np.float64)
    start = transform_points(FIXED, indices)
    points = move_points([SHIFT, a_warp()], start)
    expected = resample(read_image(source.source), Warp(points - start, FIXED)).data
    np.testing.assert_allclose(read_image(source.target).data, expected, atol=1e-3)


def test_series_are_moved_volume_by_volume(folder: Path) -> None:
    first = nibabel.load(folder / "moving.nii.gz")
    volumes = np.stack([np.asarray(first.dataobj) * factor for factor in (1, 2, 0)], -1)
    series = nibabel.Nifti1Image(volumes, first.affine, first.header)
    series.header.set_zooms((*first.header.get_zooms()[:3], 2.5))
    nibabel.save(series, folder / "series.nii.gz")
    apply_files([folder / "warp.h5"], [ImageFiles(folder / "series.nii.gz", folder / "out.nii.gz")])
    moved = nibabel.load(folder / "out.nii.gz")
    expected = resample(read_image(folder / "moving.nii.gz"), a_warp()).data
    assert moved.shape == (*SHAPE, 3)
    np.testing.assert_allclose(moved.header.get_zooms()[3], 2.5)
    np.testing.assert_allclose(
        np.asarray(moved.dataobj), np.stack([expected, 2 * expected, 0 * expected], -1), atol=1e-2
    )


def test_the_inverse_brings_points_and_images_back(folder: Path) -> None:
    chain = [a_warp(), SHIFT, a_warp(5)]
    rng = np.random.default_rng(0)
    points = transform_points(FIXED, rng.uniform(3, 10, (3, 200)))
    there = move_points(chain, points)
    assert np.linalg.norm(there - points, axis=0).mean() > 2
    np.testing.assert_allclose(move_points(inverted(chain), there), points, atol=1e-3)
    np.testing.assert_allclose(move_points(inverted(inverted(chain)), points), there, atol=1e-3)

    order = [folder / "warp.h5", folder / "affine.mat"]
    back = folder / "back.nii.gz"
    apply_files(order, [ImageFiles(folder / "fixed.nii.gz", back)], folder / "moving.nii.gz", inverse=True)
    write_image(folder / "picture.nii.gz", Image(smooth(3, SHAPE, 2).astype(np.float32), FIXED))
    apply_files(order, [ImageFiles(folder / "picture.nii.gz", back)], folder / "moving.nii.gz", inverse=True)
    undo = as_warp(inverted([a_warp(), SHIFT]), MOVING, THERE)
    expected = resample(read_image(folder / "picture.nii.gz"), undo).data
    np.testing.assert_allclose(read_image(back).data, expected, atol=1e-5)


def test_a_stretch_that_is_no_contraction_is_inverted() -> None:
    """Slopes of -0.8 to 2.6: the plain fixed point runs away where they are above 1."""
    x = np.linspace(-6, 6, 481)
    grid = affine(np.diag([x[1] - x[0], 1.0]), (-6, 0))
    field = np.zeros((2, 481, 4))
    field[0] = (0.85 * np.sin(x) + 0.9 * np.arctan(2 * x))[:, None]
    points = np.stack([np.linspace(-4, 4, 50), np.full(50, 1.3)])
    ends = points + np.stack([0.85 * np.sin(points[0]) + 0.9 * np.arctan(2 * points[0]), np.zeros(50)])
    np.testing.assert_allclose(move_points(inverted([Warp(field, grid)]), ends), points, atol=1e-2)


def test_folds_have_no_inverse(folder: Path) -> None:
    write_transform(folder / "fold.h5", a_warp(size=60))
    for run in (
        lambda: invert_file(folder / "fold.h5", folder / "out.h5"),
        lambda: apply_files(
            [folder / "fold.h5"],
            [ImageFiles(folder / "labels.nii.gz", folder / "out.nii.gz")],
            folder / "moving.nii.gz",
            inverse=True,
        ),
    ):
        with pytest.raises(InputError, match=r"cannot be inverted.* miss by up to .* mm; it folds .* at [1-9]"):
            run()
    assert not list(folder.glob("out*"))


def test_invert_writes_what_itk_undoes(folder: Path) -> None:
    write_transform(folder / "total.h5", followed_by(a_warp(), SHIFT))
    invert_file(folder / "total.h5", folder / "inverse.h5", folder / "moving.nii.gz")
    inverse = read_transform(folder / "inverse.h5")
    np.testing.assert_allclose(inverse.affine, MOVING, atol=1e-5)
    there, back = (sitk.ReadTransform(str(folder / f"{name}.h5")) for name in ("total", "inverse"))
    points = transform_points(MOVING, np.indices(THERE, np.float64)).reshape(3, -1) * [[-1], [-1], [1]]
    ends = np.array([back.TransformPoint(point.tolist()) for point in points.T[::7]])
    centre = (np.abs(ends - [0, 1, 0]) < [9, 8, 9]).all(1)
    assert centre.sum() > 100
    again = np.array([there.TransformPoint(point.tolist()) for point in ends[centre]])
    np.testing.assert_allclose(again, points.T[::7][centre], atol=1e-3)

    invert_file(folder / "affine.mat", folder / "inverse.mat")
    np.testing.assert_allclose(read_affine_transform(folder / "inverse.mat"), np.linalg.inv(SHIFT), atol=1e-9)
    invert_file(folder / "total.h5", folder / "own.nii.gz")
    np.testing.assert_allclose(read_transform(folder / "own.nii.gz").affine, FIXED, atol=1e-5)


def test_compose(folder: Path) -> None:
    compose_files([folder / "warp.h5", folder / "affine.mat"], folder / "both.h5")
    np.testing.assert_allclose(
        read_transform(folder / "both.h5").displacement, followed_by(a_warp(), SHIFT).displacement, atol=1e-9
    )
    compose_files([folder / "affine.mat", folder / "affine.mat"], folder / "twice.tfm")
    np.testing.assert_allclose(read_affine_transform(folder / "twice.tfm"), SHIFT @ SHIFT, atol=1e-9)
    compose_files([folder / "affine.mat", folder / "warp.h5"], folder / "both.nii.gz", folder / "moving.nii.gz")
    points = transform_points(MOVING, np.array([[[5.0]], [[6.0]], [[7.0]]]))
    ends = points[:, 0, 0] + read_transform(folder / "both.nii.gz").displacement[:, 5, 6, 7]
    np.testing.assert_allclose(ends, move_points([SHIFT, a_warp()], points)[:, 0, 0], atol=1e-4)


def test_jacobian_of_a_known_map(folder: Path) -> None:
    """x -> A x has the determinant of A everywhere, on an anisotropic oblique grid too; two layers are enough."""
    grid = affine(TURN * [1, 3, 0.5], (4, 5, 6))
    points = transform_points(grid, np.indices((2, 7, 5), np.float64))
    stretch = affine(np.array([[1.5, 0.2, 0], [0, 0.8, 0.1], [0.3, 0, 1.1]]), (9, 9, 9))
    warp = Warp(transform_points(stretch, points) - points, grid)
    expected = np.linalg.det(stretch[:3, :3])
    np.testing.assert_allclose(jacobian(warp), expected, rtol=1e-5)
    write_transform(folder / "stretch.h5", warp)
    jacobian_file(folder / "stretch.h5", folder / "log.nii.gz", log=True)
    written = nibabel.load(folder / "log.nii.gz")
    np.testing.assert_allclose(np.asarray(written.dataobj), np.log(expected), rtol=1e-4)
    np.testing.assert_allclose(written.affine, grid, atol=1e-5)


def test_jacobian_is_that_of_simpleitk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossmorph.functional.interpolation.SLAB_VOXELS", 1000)
    warp = a_warp(grid=affine(np.diag([-1.5, -1.2, 2.0]), (0, 0, 0)))  # their derivatives know no directions
    lps = warp.displacement * np.reshape([-1, -1, 1], (3, 1, 1, 1))
    field = sitk.GetImageFromArray(np.ascontiguousarray(lps.T), isVector=True)
    field.SetSpacing((1.5, 1.2, 2.0))
    theirs = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field)).T
    inner = (slice(1, -1),) * 3  # their differences at the ends are others
    np.testing.assert_allclose(jacobian(warp)[inner], theirs[inner], atol=1e-4)


@pytest.mark.parametrize("to", ["itk", "ants"])
def test_convert_between_itk_and_ants(to: str, folder: Path) -> None:
    convert_file(folder / "warp.h5", folder / "w.nii.gz", to)
    np.testing.assert_allclose(read_transform(folder / "w.nii.gz").displacement, a_warp().displacement, atol=1e-5)
    convert_file(folder / "affine.mat", folder / "a.txt", to)
    np.testing.assert_allclose(read_affine_transform(folder / "a.txt"), SHIFT, atol=1e-9)


def test_convert_to_fsl(folder: Path) -> None:
    """A warp of FSL is added to a voxel's FSL coordinates; from the moving image's follows where to look there."""
    moving, fixed = folder / "moving.nii.gz", folder / "fixed.nii.gz"
    convert_file(folder / "affine.mat", folder / "a_fsl.mat", "fsl", moving, fixed)
    ends = [read_image(moving), Image(np.zeros(SHAPE), FIXED)]
    np.testing.assert_allclose(read_affine_transform(folder / "a_fsl.mat", *ends), SHIFT, atol=1e-6)

    convert_file(folder / "warp.h5", folder / "fsl.nii.gz", "fsl", moving)
    written = nibabel.load(folder / "fsl.nii.gz")
    assert written.shape == (*SHAPE, 3)
    assert int(written.header["intent_code"]) == 2006
    voxel = np.array([3, 4, 5])
    here = np.array([(19 - 3) * 1.5, 4 * 1.2, 5 * 2.0]) + np.asarray(written.dataobj)[3, 4, 5]
    look = np.linalg.solve(MOVING, np.linalg.solve(fsl_coordinates(ends[0]), [*here, 1]))[:3]
    there = transform_points(FIXED, voxel[:, None].astype(float))[:, 0] + a_warp().displacement[:, 3, 4, 5]
    np.testing.assert_allclose(look, transform_points(np.linalg.inv(MOVING), there[:, None])[:, 0], atol=1e-4)


def test_convert_to_learn2reg_and_back(folder: Path) -> None:
    """Learn2Reg's evaluation samples the moving labels at ``identity + field``, in voxels, and reads no header."""
    images = folder / "moving.nii.gz", folder / "fixed.nii.gz"
    convert_file(folder / "warp.h5", folder / "disp_0001_0002.nii.gz", "learn2reg", images[0])
    field = nibabel.load(folder / "disp_0001_0002.nii.gz").get_fdata()
    assert field.shape == (*SHAPE, 3)
    identity = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    moving = read_image(images[0])
    theirs = map_coordinates(moving.data.astype(float), identity + field.transpose(3, 0, 1, 2), order=1)
    ours = resample(moving, a_warp()).data
    inside = ours != 0  # beyond its field of view both are 0, but scipy fades out within a voxel of it
    assert inside.mean() > 0.3
    np.testing.assert_allclose(theirs[inside & (theirs != 0)], ours[inside & (theirs != 0)], atol=1e-2)

    headless = nibabel.Nifti1Image(field.astype(np.float32), np.eye(4))
    nibabel.save(headless, folder / "theirs.nii.gz")
    convert_file(folder / "theirs.nii.gz", folder / "back.h5", "itk", *images, source="learn2reg")
    back = read_transform(folder / "back.h5")
    np.testing.assert_allclose(back.displacement, a_warp().displacement, atol=1e-4)
    np.testing.assert_allclose(back.affine, FIXED, atol=1e-5)

    convert_file(folder / "affine.mat", folder / "a.nii.gz", "learn2reg", *images)
    convert_file(folder / "a.nii.gz", folder / "a.h5", "itk", *images, source="learn2reg")
    points = transform_points(FIXED, np.array([[3.0, 8], [4, 9], [5, 7]]))
    np.testing.assert_allclose(
        move_points([read_transform(folder / "a.h5")], points), transform_points(SHIFT, points), atol=1e-4
    )


def test_convert_to_freesurfer(folder: Path) -> None:
    pytest.importorskip("nitransforms")
    images = folder / "moving.nii.gz", folder / "fixed.nii.gz"
    convert_file(folder / "affine.mat", folder / "a.lta", "freesurfer", *images)
    np.testing.assert_allclose(read_affine_transform(folder / "a.lta"), SHIFT, atol=1e-5)
    convert_file(folder / "a.lta", folder / "again.tfm", "itk")
    np.testing.assert_allclose(read_affine_transform(folder / "again.tfm"), SHIFT, atol=1e-5)


def test_fsl_warps_within_one_grid_are_those_of_nitransforms(folder: Path) -> None:
    pytest.importorskip("nitransforms")
    from nitransforms.nonlinear import DenseFieldTransform  # type: ignore[import-untyped]

    write_image(folder / "same.nii.gz", Image(smooth(1, SHAPE).astype(np.float32), FIXED))
    convert_file(folder / "warp.h5", folder / "fsl.nii.gz", "fsl", folder / "same.nii.gz")
    theirs = DenseFieldTransform.from_filename(str(folder / "fsl.nii.gz"), fmt="fsl")
    points = transform_points(FIXED, np.array([[3.0, 8], [4, 9], [5, 7]]))
    np.testing.assert_allclose(theirs.map(points.T).T, move_points([a_warp()], points), atol=1e-3)


def flat(path: Path) -> Path:
    """Write a 2-D image."""
    write_image(path, Image(np.arange(20.0).reshape(4, 5), np.eye(3)))
    return path


BAD = {
    "2-D image": (["apply", "warp.h5", "flat.png", "o.nii.gz"], "is 2-D; the transform is 3-D"),
    "2-D reference": (["apply", "warp.h5", "moving.nii.gz", "o.nii.gz", "-r", "flat.png"], "-r REFERENCE is 2-D"),
    "no grid": (["apply", "affine.mat", "moving.nii.gz", "o.nii.gz"], "no grid of its own"),
    "odd images": (["apply", "warp.h5", "a", "b", "c"], "got 3 image files, expected pairs"),
    "same file": (["apply", "warp.h5", "moving.nii.gz", "moving.nii.gz"], "named twice"),
    "onto the reference": (
        ["apply", "warp.h5", "moving.nii.gz", "fixed.nii.gz", "-r", "fixed.nii.gz"],
        "fixed.nii.gz: is named twice, or is an input too",
    ),
    "composed onto the reference": (["compose", "warp.h5", "fixed.nii.gz", "-r", "fixed.nii.gz"], "is an input too"),
    "inverted onto the reference": (["invert", "warp.h5", "fixed.nii.gz", "-r", "fixed.nii.gz"], "is an input too"),
    "converted onto the moving image": (
        ["convert", "warp.h5", "moving.nii.gz", "--to", "fsl", "--moving", "moving.nii.gz"],
        "is an input too",
    ),
    "missing": (["apply", "none.h5", "moving.nii.gz", "o.nii.gz"], "none.h5: cannot be read"),
    "image for transform": (["apply", "moving.nii.gz", "labels.nii.gz", "o.nii.gz"], "expected a warp"),
    "no folder": (["apply", "warp.h5", "moving.nii.gz", "no/o.nii.gz"], "no does not exist"),
    "bad format": (["apply", "warp.h5", "moving.nii.gz", "o.jpg"], "o.jpg: unknown image format"),
    "mixed": (["compose", "warp.h5", "plane.mat", "o.h5"], "plane.mat: is 2-D, but"),
    "one": (["compose", "o.h5"], "got one file"),
    "warp as affine": (["compose", "warp.h5", "affine.mat", "o.mat"], "unknown warp format"),
    "affine's jacobian": (["jacobian", "affine.mat", "o.nii.gz"], "is an affine map"),
    "log of folds": (["jacobian", "fold.h5", "o.nii.gz", "--log"], "folds at .* no logarithm"),
    "wrong program": (["convert", "warp.h5", "o.h5", "--to", "fsl"], "unknown fsl warp format"),
    "freesurfer alone": (["convert", "affine.mat", "o.lta", "--to", "freesurfer"], "expected --moving"),
    "freesurfer, one image": (
        ["convert", "affine.mat", "o.lta", "--to", "freesurfer", "--moving", "moving.nii.gz"],
        "expected a 3-D --fixed",
    ),
    "warp for freesurfer": (["convert", "warp.h5", "o.lta", "--to", "freesurfer"], "is a warp; expected an affine"),
    "name for freesurfer": (["convert", "affine.mat", "o.mat", "--to", "freesurfer"], "unknown freesurfer affine"),
    "learn2reg alone": (["convert", "warp.h5", "o.nii.gz", "--to", "learn2reg"], "expected --moving"),
    "from learn2reg alone": (
        ["convert", "moving.nii.gz", "o.h5", "--to", "itk", "--from", "learn2reg"],
        "expected --moving and --fixed",
    ),
    "from learn2reg, an image": (
        [
            *("convert", "labels.nii.gz", "o.h5", "--to", "itk", "--from", "learn2reg"),
            *("--moving", "moving.nii.gz", "--fixed", "fixed.nii.gz"),
        ],
        "a Learn2Reg field on the fixed image's grid",
    ),
    "fsl alone": (["convert", "warp.h5", "o.nii.gz", "--to", "fsl"], "expected --moving"),
}


def run(folder: Path, *words: str) -> Result:
    """A command in a folder."""
    app = typer.Typer()
    add_commands(app)
    return CliRunner().invoke(app, [str(folder / word) if "." in word or word == "a" else word for word in words])


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_and_nothing_is_left(case: str, folder: Path) -> None:
    words, reason = BAD[case]
    flat(folder / "flat.png")
    write_affine_transform(folder / "plane.mat", np.eye(3))
    write_transform(folder / "fold.h5", a_warp(size=60))
    before = sorted(folder.iterdir())
    result = run(folder, *words)
    assert isinstance(result.exception, InputError), result.output
    with pytest.raises(InputError, match=reason):
        raise result.exception
    assert sorted(folder.iterdir()) == before


def test_the_commands(folder: Path) -> None:
    result = run(folder, "apply", "warp.h5", "moving.nii.gz", "o1.nii.gz", "labels.nii.gz", "o2.nii.gz",
                 "-t", "affine.mat", "--interp", "nearest", "-r", "fixed.nii.gz")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [f"wrote {folder / name}" for name in ("o1.nii.gz", "o2.nii.gz")]
    assert read_image(folder / "o2.nii.gz", labels=True).shape == SHAPE
    for words in (
        ["compose", "warp.h5", "affine.mat", "both.h5"],
        ["invert", "both.h5", "back.h5", "-r", "moving.nii.gz"],
        ["apply", "both.h5", "fixed.nii.gz", "o3.nii.gz", "--inverse", "-r", "moving.nii.gz", "--interp", "nearest"],
        ["convert", "both.h5", "both.nii.gz", "--to", "ants"],
        ["jacobian", "both.h5", "j.nii.gz", "--log"],
    ):
        assert run(folder, *words).exit_code == 0
    assert read_image(folder / "o3.nii.gz", labels=True).shape == read_transform(folder / "back.h5").shape == THERE
    assert {"both.h5", "both.nii.gz", "j.nii.gz"} <= {path.name for path in folder.iterdir()}


def test_cautions_are_said_on_standard_error(folder: Path) -> None:
    far = affine(np.eye(3), (500, 500, 500))
    write_image(folder / "far.nii.gz", Image(np.zeros((4, 5, 6), np.uint8), far))
    result = run(folder, "apply", "warp.h5", "moving.nii.gz", "o.nii.gz", "-r", "far.nii.gz")
    assert result.exit_code == 0
    first, second = result.stderr.splitlines()
    assert "far.nii.gz: lies wholly beyond the warp's grid" in first
    assert "o.nii.gz: is empty" in second


def test_uncertain_geometry_is_said_on_standard_error(folder: Path) -> None:
    """A NIfTI file without position codes: where it lies is not known."""
    nowhere = nibabel.load(folder / "moving.nii.gz")
    nowhere.header["sform_code"] = nowhere.header["qform_code"] = 0
    nibabel.save(nibabel.Nifti1Image(nowhere.get_fdata(), None, nowhere.header), folder / "nowhere.nii.gz")
    result = run(folder, "apply", "warp.h5", "nowhere.nii.gz", "o.nii.gz")
    assert result.exit_code == 0
    assert "nowhere.nii.gz: " in result.stderr.splitlines()[0]

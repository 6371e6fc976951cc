"""Transforms of other programs: points go where those programs take them."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from numpy import ndarray
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import write_image
from crossmorph.transforms.affine_files import write_affine_transform, write_ants, write_fsl_affine
from crossmorph.transforms.composition import move_points
from crossmorph.transforms.transform_chain import read_chain
from crossmorph.transforms.warp import Warp, followed_by, transform_points
from crossmorph.transforms.warp_files import write_transform
from crossmorph.workflows.transform_files import convert_file

SHAPE, THERE = (20, 22, 14), (24, 22, 23)
FIXED, MOVING, SHIFT = np.diag([1.5, 1.2, 2.0, 1.0]), np.eye(4), np.eye(4)
FIXED[:3, 3] = -15, -14, -13
MOVING[:3, :3] = 1.3 * Rotation.from_euler("xyz", [10, -20, 30], degrees=True).as_matrix()
MOVING[:3, 3] = -16, -13, -15
SHIFT[:3, :3] = 1.04 * Rotation.from_euler("z", 8, degrees=True).as_matrix()
SHIFT[:3, 3] = 1.5, -2, 1
SCENE = Image(np.zeros(THERE, np.float32), MOVING), Image(np.zeros(SHAPE, np.float32), FIXED)
LPS = np.array([-1.0, -1.0, 1.0])[:, None]
VOXELS = np.stack(np.meshgrid([4, 9, 13], [5, 12], [4, 8], indexing="ij")).reshape(3, -1).astype(float)


def a_warp() -> Warp:
    """A smooth warp of some millimetres."""
    noise = np.random.default_rng(1).standard_normal((3, *SHAPE))
    return Warp(60 * np.stack([gaussian_filter(part, 3) for part in noise]), FIXED)


def moved_by(*paths: Path) -> ndarray:
    """Where the voxels of the fixed image go."""
    return move_points(read_chain(paths, *SCENE), transform_points(FIXED, VOXELS))


def moved_by_itk(transform: sitk.Transform) -> ndarray:
    """The same by SimpleITK."""
    points = LPS * transform_points(FIXED, VOXELS)
    return LPS * np.array([transform.TransformPoint(point) for point in points.T.tolist()]).T


def bspline() -> sitk.Transform:
    """A B-spline that reaches beyond the fixed image."""
    grid = sitk.GetImageFromArray(np.zeros(SHAPE[::-1], np.float32))
    grid.SetSpacing((1.5, 1.2, 2.0))
    grid.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    grid.SetOrigin((15, 14, -13))
    transform = sitk.BSplineTransformInitializer(grid, (3, 3, 3))
    count = len(transform.GetParameters())
    transform.SetParameters((4 * np.random.default_rng(0).standard_normal(count)).tolist())
    return transform


def affine() -> sitk.Transform:
    """A rotation and a shift."""
    return sitk.Euler3DTransform((1.0, 2.0, 3.0), 0.1, -0.05, 0.2, (1.0, -2.0, 0.5))


@pytest.mark.parametrize("suffix", [".tfm", ".txt", ".h5"])
def test_b_splines_of_itk(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    sitk.WriteTransform(bspline(), str(path))
    np.testing.assert_allclose(moved_by(path), moved_by_itk(bspline()), atol=1e-6)


@pytest.mark.parametrize("suffix", [".tfm", ".h5"])
def test_a_composite_as_elastix_writes_it(tmp_path: Path, suffix: str) -> None:
    """A B-spline that acts first, and an affine map after it; and the other way around."""
    for number, parts in enumerate(([affine(), bspline()], [bspline(), affine()])):
        composite = sitk.CompositeTransform(parts)
        path = tmp_path / f"{number}{suffix}"
        sitk.WriteTransform(composite, str(path))
        np.testing.assert_allclose(moved_by(path), moved_by_itk(composite), atol=1e-6)


def test_several_act_in_the_order_of_ants(tmp_path: Path) -> None:
    sitk.WriteTransform(bspline(), str(tmp_path / "b.tfm"))
    sitk.WriteTransform(affine(), str(tmp_path / "a.tfm"))
    expected = moved_by_itk(sitk.CompositeTransform([affine(), bspline()]))
    np.testing.assert_allclose(moved_by(tmp_path / "b.tfm", tmp_path / "a.tfm"), expected, atol=1e-6)
    with pytest.raises(InputError, match=r"b.tfm: begins with BSpline.*expected it as the first"):
        moved_by(tmp_path / "a.tfm", tmp_path / "b.tfm")


def test_none_is_the_identity() -> None:
    np.testing.assert_array_equal(moved_by(), transform_points(FIXED, VOXELS))


def test_what_ants_writes(tmp_path: Path) -> None:
    """A warp and an affine map, the former named first."""
    whole = followed_by(a_warp(), SHIFT)
    write_ants(tmp_path / "P", SHIFT, whole, Warp.identity(SCENE[0]))
    found = moved_by(tmp_path / "P1Warp.nii.gz", tmp_path / "P0GenericAffine.mat")
    np.testing.assert_allclose(found, move_points([whole], transform_points(FIXED, VOXELS)), atol=1e-4)


def test_warps_of_fnirt_are_those_that_convert_writes(tmp_path: Path) -> None:
    for name, image in zip(("moving", "fixed"), SCENE, strict=True):
        write_image(tmp_path / f"{name}.nii.gz", image)
    write_transform(tmp_path / "warp.h5", a_warp())
    convert_file(tmp_path / "warp.h5", tmp_path / "fsl.nii.gz", "fsl", tmp_path / "moving.nii.gz")
    expected = move_points([a_warp()], transform_points(FIXED, VOXELS))
    np.testing.assert_allclose(moved_by(tmp_path / "fsl.nii.gz"), expected, atol=1e-4)


def test_a_field_of_zeros_of_fnirt_is_no_identity(tmp_path: Path) -> None:
    """By hand: a voxel keeps its FSL coordinates, millimetres from a corner; the moving image has another corner."""
    nifti = nibabel.Nifti1Image(np.zeros((*SHAPE, 3), np.float32), FIXED)
    nifti.set_sform(FIXED, 1)
    nifti.set_qform(FIXED, 1)
    nifti.header.set_intent(2006, allow_unknown=True)
    nibabel.save(nifti, tmp_path / "f.nii.gz")
    moving = Image(np.zeros((30, 30, 30), np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
    (step,) = read_chain([tmp_path / "f.nii.gz"], moving, SCENE[1])
    # Voxel (3, 4, 5) of 20 x 1.5 mm, right-handed as the moving image: x counts from the other end in both.
    found = move_points([step], transform_points(FIXED, np.array([[3.0], [4.0], [5.0]])))
    np.testing.assert_allclose(found[:, 0], [2 * 29 - (19 - 3) * 1.5, 4 * 1.2, 5 * 2.0], atol=1e-4)


def test_affine_maps_of_all_programs(tmp_path: Path) -> None:
    expected = transform_points(SHIFT, transform_points(FIXED, VOXELS))
    for name in ("a.mat", "a.tfm", "a.txt", "a.h5"):
        write_affine_transform(tmp_path / name, SHIFT)
        np.testing.assert_allclose(moved_by(tmp_path / name), expected, atol=1e-6)
    write_fsl_affine(tmp_path / "flirt.mat", SHIFT, *SCENE)
    np.testing.assert_allclose(moved_by(tmp_path / "flirt.mat"), expected, atol=1e-6)


BAD = {
    "elastix": ("TransformParameters.0.txt", b'(Transform "EulerTransform")\n', "parameter file of elastix"),
    "words": ("a.txt", b"hello\n", "is not an ITK transform"),
    "truncated": ("a.h5", b"\x89HDF\r\n\x1a\n", "is not an ITK transform"),
    "missing": ("a.tfm", None, "cannot be read"),
    "empty": ("a.nii.gz", b"", "is empty"),
    "another kind": ("a.png", b"x", "unknown transform format, expected a name ending in .h5"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused(tmp_path: Path, case: str) -> None:
    name, content, words = BAD[case]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_chain([tmp_path / name], *SCENE)


@pytest.mark.parametrize(("intent", "shape", "words"), [
    (2007, (6, 6, 6, 3), "coefficients of fnirt"),
    (2006, (6, 6, 6), "expected a field of FSL"),
    (0, (6, 6, 6, 3), "expected a warp of shape"),
])  # fmt: skip
def test_other_nifti_files_are_refused(tmp_path: Path, intent: int, shape: tuple[int, ...], words: str) -> None:
    nifti = nibabel.Nifti1Image(np.zeros(shape, np.float32), np.eye(4))
    nifti.header.set_intent(intent, allow_unknown=True)
    nibabel.save(nifti, tmp_path / "f.nii.gz")
    with pytest.raises(InputError, match=words):
        read_chain([tmp_path / "f.nii.gz"], *SCENE)


def test_transforms_of_another_dimension_are_refused(tmp_path: Path) -> None:
    write_affine_transform(tmp_path / "a.mat", np.eye(3))
    with pytest.raises(InputError, match=r"a.mat: is a 2-D transform; the images are 3-D"):
        read_chain([tmp_path / "a.mat"], *SCENE)
    plane = sitk.BSplineTransform(2, 3)
    sitk.WriteTransform(plane, str(tmp_path / "b.tfm"))
    with pytest.raises(InputError, match=r"b.tfm: is a 2-D transform; the images are 3-D"):
        read_chain([tmp_path / "b.tfm"], *SCENE)

"""Other programs agree: what SimpleITK, ANTs and nitransforms make of our files, on grids of every kind."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from numpy import ndarray
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from crossmorph.images.image import Image
from crossmorph.images.io import read_image, write_image
from crossmorph.transforms.affine_files import write_affine_transform, write_ants
from crossmorph.transforms.composition import as_warp, inverted, move_points
from crossmorph.transforms.warp import Resampling, Warp, followed_by, nearest_affine, resample, resample_warp
from crossmorph.transforms.warp_files import write_transform

NEARNESS = 1e-3  # of the intensity range, and of a millimetre


def turn(*degrees: float) -> ndarray:
    """A rotation in the plane by one angle, or in space by three."""
    if len(degrees) == 1:
        return Rotation.from_euler("z", degrees[0], degrees=True).as_matrix()[:2, :2]
    return Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()


class Grid(NamedTuple):
    """A grid about the world's origin, or beside it: its shape and its columns."""

    shape: tuple[int, ...]
    columns: ndarray
    offset: tuple[float, ...] = (0.0, 0.0, 0.0)

    @property
    def affine(self) -> ndarray:
        """Voxel index to RAS millimetres."""
        dim = len(self.shape)
        full = np.eye(dim + 1)
        full[:dim, :dim] = self.columns
        full[:dim, dim] = np.array(self.offset[:dim]) - self.columns @ (np.array(self.shape) - 1) / 2
        return full


PLAIN = Grid((24, 26, 22), np.eye(3))
PAGE = np.diag([-1.0, -1.0])
# Name: grid of the moving image, of the fixed one, and the files' suffix.
CASES = {
    "RAS": (PLAIN, PLAIN, ".nii.gz"),
    "LPS": (Grid((24, 26, 22), np.diag([-1.0, -1.0, 1.0])), PLAIN, ".nii.gz"),
    "oblique": (
        Grid((24, 20, 26), turn(10, 20, -15), (1.3, -0.4, 2.2)),
        Grid((22, 24, 20), turn(-20, 5, 12) * 1.1),
        ".nii.gz",
    ),
    "anisotropic": (Grid((24, 20, 10), np.diag([1, 1.3, 2.6])), Grid((12, 26, 20), np.diag([2.1, 1, 1.2])), ".nii.gz"),
    "flipped": (
        Grid((24, 22, 20), np.array([[0, 0, 1.1], [-1, 0, 0], [0, -1, 0]])),
        Grid((20, 24, 22), np.diag([1, -1.2, -1.0])),
        ".nii.gz",
    ),
    "left-handed": (
        Grid((24, 22, 20), turn(5, -10, 8) @ np.diag([-1, 1, 1.2])),
        Grid((22, 24, 20), np.array([[0, 1.0, 0], [1.2, 0, 0], [0, 0, 1]])),
        ".nii.gz",
    ),
    "fields of view": (Grid((18, 30, 16), np.eye(3) * 1.4, (7, -4, 3)), Grid((30, 16, 24), np.eye(3) * 0.9), ".nii.gz"),
    "2-D": (
        Grid((40, 36), turn(25) @ np.diag([1.2, 0.8])),
        Grid((34, 44), turn(-10) @ np.diag([-1, 0.7])),
        ".nii.gz",
    ),
    "2-D oblique slice": (
        Grid((40, 36), np.array([[0.95, 0.1], [-0.15, 1.2]])),
        Grid((30, 34), np.array([[1.1, -0.2], [0.1, 0.9]])),
        ".nii.gz",
    ),
    "PNG": (Grid((40, 36), PAGE), Grid((36, 44), PAGE), ".png"),
}


class Case(NamedTuple):
    """A pair on disk with a warp and its inverse, and the affine part of the warp."""

    folder: Path
    suffix: str
    images: dict[str, Image]
    warps: dict[str, Warp]
    affine: ndarray

    def file(self, name: str) -> str:
        """Path of an image."""
        return str(self.folder / (name + self.suffix))


def smooth(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> ndarray:
    """A random smooth field in [0, 1]."""
    field = gaussian_filter(rng.standard_normal(shape), sigma)
    return (field - field.min()) / np.ptp(field)


def a_warp(rng: np.random.Generator, affine: ndarray, shape: tuple[int, ...]) -> tuple[Warp, ndarray]:
    """A warp of some millimetres and behind it a turn, a stretch, a shear and a shift."""
    dim = len(shape)
    matrix = np.eye(dim + 1)
    matrix[:dim, :dim] = turn(*[7.0, -5.0, 9.0][: 1 if dim == 2 else 3]) @ np.diag([1.05, 0.96, 1.03][:dim])
    matrix[0, 1] += 0.06
    matrix[:dim, dim] = [1.4, -0.9, 0.7][:dim]
    local = np.stack([4 * (smooth(rng, shape, 4) - 0.5) for _ in shape])
    return followed_by(Warp(local, affine), matrix), matrix


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Images, labels and transforms of a kind of grid, written by us."""
    moving, fixed, suffix = CASES[request.param]
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("case")
    images = {}
    for name, grid in (("moving", moving), ("fixed", fixed)):
        matrix = grid.affine
        if suffix == ".png":
            matrix[:2, 2] = 0
        write_image(folder / (name + suffix), Image(np.round(20 + 200 * smooth(rng, grid.shape, 1.5)), matrix))
        images[name] = read_image(folder / (name + suffix))
        labels = np.digitize(images[name].data, [80, 120, 160]).astype(np.int32)
        images[f"{name} labels"] = replace(images[name], data=labels)
        write_image(folder / f"{name} labels{suffix}", images[f"{name} labels"])
    warp, matrix = a_warp(rng, images["fixed"].affine, fixed.shape)
    back = as_warp(inverted([warp]), images["moving"].affine, moving.shape)
    for name, field in (("warp", warp), ("inverse", back)):
        write_transform(folder / f"{name}.h5", field)
        write_transform(folder / f"{name}.nii.gz", field)
    return Case(folder, suffix, images, {"warp": warp, "inverse": back}, matrix)


# Transform, image to move, grid.
WAYS = [("warp", "moving", "fixed"), ("inverse", "fixed", "moving")]


@pytest.mark.parametrize(("name", "source", "grid"), WAYS)
def test_simpleitk_moves_images_and_labels_as_we_do(case: Case, name: str, source: str, grid: str) -> None:
    transform = sitk.ReadTransform(str(case.folder / f"{name}.h5"))
    reference = sitk.ReadImage(case.file(grid))

    def theirs(image: str, interpolator: int, kind: int) -> ndarray:
        moving = sitk.ReadImage(case.file(image), kind)
        return sitk.GetArrayFromImage(sitk.Resample(moving, reference, transform, interpolator, 0.0)).T

    ours, labels = resample(case.images[source], case.warps[name]), case.images[f"{source} labels"]
    assert (ours.data > 0).mean() > 0.2
    tolerance = NEARNESS * np.ptp(case.images[source].data)
    np.testing.assert_allclose(ours.data, theirs(source, sitk.sitkLinear, sitk.sitkFloat32), atol=tolerance)
    whole = theirs(f"{source} labels", sitk.sitkNearestNeighbor, sitk.sitkInt32)
    np.testing.assert_array_equal(resample(labels, case.warps[name], "nearest").data, whole)
    whole = theirs(f"{source} labels", sitk.sitkLabelLinear, sitk.sitkInt32)
    np.testing.assert_array_equal(resample(labels, case.warps[name], "genericlabel").data, whole)


@pytest.mark.parametrize(("name", "source", "grid"), WAYS)
def test_ants_moves_images_and_labels_as_we_do(case: Case, name: str, source: str, grid: str) -> None:
    ants = pytest.importorskip("ants")
    transform, reference = [str(case.folder / f"{name}.nii.gz")], ants.image_read(case.file(grid))

    def theirs(image: str, interpolator: str) -> ndarray:
        return ants.apply_transforms(reference, ants.image_read(case.file(image)), transform, interpolator).numpy()

    ours, labels = resample(case.images[source], case.warps[name]), case.images[f"{source} labels"]
    tolerance = NEARNESS * np.ptp(case.images[source].data)
    np.testing.assert_allclose(ours.data, theirs(source, "linear"), atol=tolerance)
    kinds: dict[Resampling, str] = {"nearest": "nearestNeighbor", "genericlabel": "genericLabel"}
    for kind, name_there in kinds.items():
        whole = theirs(f"{source} labels", name_there)
        np.testing.assert_array_equal(resample(labels, case.warps[name], kind).data, whole)


def some_points(warp: Warp) -> ndarray:
    """Points well inside a warp's grid, RAS millimetres, ``(dim, n)``."""
    rng = np.random.default_rng(1)
    index = rng.uniform(0.1, 0.9, (warp.dim, 50)) * (np.reshape(warp.shape, (-1, 1)) - 1)
    return warp.affine[:-1, :-1] @ index + warp.affine[:-1, -1:]


def lps(points: ndarray) -> ndarray:
    """RAS points as LPS, or back."""
    return points * np.array([-1, -1, 1])[: len(points), None]


@pytest.mark.parametrize("name", ["warp", "inverse"])
def test_simpleitk_and_ants_move_points_as_we_do(case: Case, name: str) -> None:
    points = some_points(case.warps[name])
    ours = move_points([case.warps[name]], points)
    transform = sitk.ReadTransform(str(case.folder / f"{name}.h5"))
    theirs = np.array([transform.TransformPoint(point.tolist()) for point in lps(points).T]).T
    np.testing.assert_allclose(ours, lps(theirs), atol=NEARNESS)

    ants, pandas = pytest.importorskip("ants"), pytest.importorskip("pandas")
    frame = pandas.DataFrame(dict(zip("xyz", lps(points), strict=False)))
    moved = ants.apply_transforms_to_points(len(points), frame, [str(case.folder / f"{name}.nii.gz")])
    theirs = np.array([moved[axis] for axis in "xyz"[: len(points)]])
    np.testing.assert_allclose(ours, lps(theirs), atol=NEARNESS)


def test_points_come_back(case: Case) -> None:
    points = some_points(case.warps["warp"])
    again = move_points(inverted([case.warps["warp"]]), move_points([case.warps["warp"]], points))
    np.testing.assert_allclose(again, points, atol=NEARNESS)


def test_ants_takes_our_affine_and_warp_in_its_own_order(case: Case, tmp_path: Path) -> None:
    ants = pytest.importorskip("ants")
    files = write_ants(tmp_path / "P_", case.affine, case.warps["warp"], case.warps["inverse"])
    assert [file.name for file in files] == ["P_0GenericAffine.mat", "P_1Warp.nii.gz", "P_1InverseWarp.nii.gz"]
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(file.name for file in files)
    mat, forward, backward = map(str, files)
    fixed, moving = (ants.image_read(case.file(name)) for name in ("fixed", "moving"))

    theirs = ants.apply_transforms(fixed, moving, [forward, mat]).numpy()
    ours = resample(case.images["moving"], case.warps["warp"]).data
    np.testing.assert_allclose(ours, theirs, atol=NEARNESS * np.ptp(case.images["moving"].data))

    theirs = ants.apply_transforms(moving, fixed, [mat, backward], whichtoinvert=[True, False]).numpy()
    ours = resample(case.images["fixed"], case.warps["inverse"]).data
    # The inverse went through the fixed grid, and beyond it ITK's field is none: compared where both are inside.
    both = (theirs > 0) & (ours > 0)
    assert both.mean() > 0.2
    assert np.abs(ours - theirs)[both].mean() < 0.01 * np.ptp(case.images["fixed"].data)


def test_nitransforms_reads_affine_and_warp(case: Case, tmp_path: Path) -> None:
    pytest.importorskip("nitransforms")
    from nitransforms import linear, nonlinear  # type: ignore[import-untyped]

    warp = case.warps["warp"]
    if warp.dim == 2:
        pytest.skip("nitransforms is for volumes")
    write_affine_transform(tmp_path / "a.mat", case.affine)
    write_affine_transform(tmp_path / "a.tfm", case.affine)
    for name in ("a.mat", "a.tfm"):
        np.testing.assert_allclose(linear.load(tmp_path / name, fmt="itk").matrix.squeeze(), case.affine, atol=1e-5)
    read = nonlinear.DenseFieldTransform.from_filename(str(case.folder / "warp.nii.gz"), fmt="itk")
    index = np.stack([np.array(warp.shape) // 3, np.array(warp.shape) // 2]).T
    points = warp.affine[:3, :3] @ index + warp.affine[:3, 3:]
    np.testing.assert_allclose(read.map(points.T).T, move_points([warp], points), atol=NEARNESS)


def test_a_reoriented_volume_gives_the_same_in_millimetres() -> None:
    rng = np.random.default_rng(0)
    grid = Grid((14, 12, 10), turn(10, -5, 8) @ np.diag([1, 1.2, 1.5]))
    image = Image(smooth(rng, (20, 18, 16), 2).astype(np.float32), Grid((20, 18, 16), np.eye(3)).affine)
    warp, _ = a_warp(rng, grid.affine, grid.shape)
    for axes in ("LPS", "SRA", "AIL"):
        wanted = nibabel.orientations.axcodes2ornt(axes)

        def reoriented(data: ndarray, affine: ndarray, wanted: ndarray = wanted) -> nibabel.Nifti1Image:
            change = nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), wanted)
            return nibabel.Nifti1Image(data, affine).as_reoriented(change)

        turned = reoriented(image.data, image.affine)
        moving = Image(np.asarray(turned.dataobj), turned.affine)
        np.testing.assert_allclose(resample(moving, warp).data, resample(image, warp).data, atol=1e-6)

        fields = [reoriented(component, warp.affine) for component in warp.displacement]
        there = resample_warp(warp, fields[0].affine, fields[0].shape)
        expected = np.stack([np.asarray(field.dataobj) for field in fields])
        np.testing.assert_allclose(there.displacement, expected, atol=1e-9)


def test_the_affine_part_of_a_warp_is_found(case: Case) -> None:
    np.testing.assert_allclose(nearest_affine(case.warps["warp"])[:-1, :-1], case.affine[:-1, :-1], atol=0.1)

"""Warps in millimetres: hand arithmetic, grids, files and back, every refused file."""

import gzip
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from crossmorph.errors import InputError
from crossmorph.functional import interpolation
from crossmorph.images.image import Image
from crossmorph.transforms.warp import (
    Resampling,
    Warp,
    after_moving,
    displacement_at,
    fields_overlap,
    followed_by,
    from_voxel_displacement,
    resample,
    resample_warp,
    transform_points,
    voxel_displacement,
)
from crossmorph.transforms.warp_files import read_transform, write_transform


def affine(matrix: ndarray, position: list[float]) -> ndarray:
    """An affine of either dimension."""
    full = np.eye(len(position) + 1)
    full[:-1, :-1], full[:-1, -1] = matrix, position
    return full


def turn(degrees: float) -> ndarray:
    """A rotation in the plane."""
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def turn3(*degrees: float) -> ndarray:
    """A rotation in space."""
    return Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()


GRIDS = {
    "axial": ((40, 36), affine(np.eye(2), [-20, -18])),
    "rotated": ((34, 44), affine(turn(-10) @ np.diag([-1, 0.7]), [16, -15])),
    "oblique slice": ((30, 34), affine([[1.1, -0.2], [0.1, 0.9]], [-14, -16])),
    "page": ((36, 44), np.diag([-1.0, -1.0, 1.0])),
    "3d oblique": ((24, 16, 12), affine(turn3(-20, 5, 12) @ np.diag([-1.1, 1.2, 1.8]), [12, -12, -9])),
}


def smooth(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> ndarray:
    """A random smooth field in [0, 1]."""
    field = gaussian_filter(rng.standard_normal(shape), sigma)
    return (field - field.min()) / np.ptp(field)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("name", "tolerance"), [("warp.h5", 1e-12), ("warp.nii.gz", 1e-6), ("warp.nii", 1e-6)])
def test_transforms_round_trip(grid: str, name: str, tolerance: float, tmp_path: Path) -> None:
    shape, matrix = GRIDS[grid]
    rng = np.random.default_rng(0)
    warp = from_voxel_displacement(np.stack([8 * (smooth(rng, shape, 4) - 0.4) for _ in shape]), matrix)
    write_transform(tmp_path / name, warp)
    again = read_transform(tmp_path / name)
    np.testing.assert_allclose(again.displacement, warp.displacement, atol=tolerance)
    assert again.displacement.dtype == (np.float64 if name == "warp.h5" else np.float32)
    np.testing.assert_allclose(again.affine, warp.affine, atol=max(tolerance, 1e-6) if ".nii" in name else tolerance)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_known_translation_in_millimetres(tmp_path: Path) -> None:
    """The fixed voxel (4, 3) lies at RAS (-2, 6); 6 mm to the right and 4 mm back is the moving voxel (7, 1)."""
    grid = affine(np.diag([2.0, 2.0]), [-10, 0])
    data = np.zeros((10, 8), np.float32)
    data[7, 1] = 5
    warp = Warp(np.stack([np.full((10, 8), 6.0), np.full((10, 8), -4.0)]), grid)
    moved = resample(Image(data, grid), warp).data
    assert moved[4, 3] == 5
    assert moved.sum() == 5
    np.testing.assert_allclose(voxel_displacement(warp)[:, 0, 0], [3, -2])

    write_transform(tmp_path / "warp.nii.gz", warp)
    written = nibabel.load(tmp_path / "warp.nii.gz")
    assert written.shape == (10, 8, 1, 1, 2)
    assert (written.header["intent_code"], written.get_data_dtype()) == (1007, np.float32)
    assert written.header["qform_code"] == written.header["sform_code"] == 1
    np.testing.assert_allclose(written.get_qform(), written.get_sform(), atol=1e-6)
    np.testing.assert_array_equal(np.asarray(written.dataobj)[4, 3, 0, 0], [-6, 4])  # LPS

    write_transform(tmp_path / "warp.h5", warp)
    composite = sitk.CompositeTransform(sitk.ReadTransform(str(tmp_path / "warp.h5")))
    kinds = [composite.GetNthTransform(index).GetName() for index in range(composite.GetNumberOfTransforms())]
    assert kinds == ["AffineTransform", "DisplacementFieldTransform"]
    assert composite.TransformPoint((2.0, -6.0)) == (2.0 - 6, -6.0 + 4)


def test_a_flipped_grid_by_hand() -> None:
    grid = affine([[0.0, -3.0], [2.0, 0.0]], [0, 0])
    displacement = np.zeros((2, 4, 5))
    displacement[0], displacement[1] = 1, 10
    warp = from_voxel_displacement(displacement, grid)
    np.testing.assert_allclose(warp.displacement[:, 2, 2], [-30, 2])
    np.testing.assert_allclose(voxel_displacement(warp), displacement)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from([2, 3]))
def test_voxels_and_millimetres_are_inverse(seed: int, dim: int) -> None:
    rng = np.random.default_rng(seed)
    grid = affine(np.linalg.qr(rng.standard_normal((dim, dim)))[0] * rng.uniform(0.3, 4, dim), [0.0] * dim)
    displacement = rng.standard_normal((dim, *range(3, 3 + dim)))
    warp = from_voxel_displacement(displacement, grid)
    np.testing.assert_allclose(voxel_displacement(warp), displacement, atol=1e-12)
    lengths = np.linalg.norm(warp.displacement, axis=0)
    spacing = np.linalg.norm(grid[:-1, :-1], axis=0).reshape((dim,) + (1,) * dim)
    np.testing.assert_allclose(lengths, np.linalg.norm(displacement * spacing, axis=0))


def test_the_edge_is_held_for_half_a_voxel() -> None:
    image = Image(np.array([[1.0, 2.0, 3.0]] * 3, np.float32), np.eye(3))
    shifts = np.array([-0.6, -0.5, -0.4, 0.25, 2.4, 2.6])
    displacement = np.zeros((2, 1, 6))
    displacement[0], displacement[1, 0] = 1, shifts - np.arange(6)
    moved = resample(image, Warp(displacement, np.eye(3)))
    np.testing.assert_allclose(moved.data, [[0, 1, 1, 1.25, 3, 0]])


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8])
def test_types_of_moved_images(dtype: type) -> None:
    image = Image(np.arange(12, dtype=dtype).reshape(3, 4), np.eye(3), physical=False)
    still = Warp(np.zeros((2, 3, 4)), np.eye(3))
    moved = resample(image, still, "nearest")
    assert (moved.data.dtype, moved.physical, moved.header) == (dtype, False, None)
    np.testing.assert_array_equal(moved.data, image.data)
    assert resample(image, still).data.dtype == np.float32


def test_half_way_cases_go_up_as_in_itk() -> None:
    image = Image(np.arange(1, 6, dtype=np.int16)[:, None], np.eye(3))
    displacement = np.zeros((2, 5, 1))
    displacement[0, :, 0] = [-0.5, -0.5, 0.5, 0.49, 0.5]
    assert resample(image, Warp(displacement, np.eye(3)), "nearest").data[:, 0].tolist() == [1, 2, 4, 4, 0]


def test_generic_labels_by_hand() -> None:
    """At (.4, .4) the corners weigh .36, .24, .24, .16: two corners of one label outweigh the nearest."""
    labels = Image(np.array([[5, 7], [7, 9]], np.uint8), np.eye(3))
    here = Warp(np.array([[[0.4]], [[0.4]]]), np.eye(3))
    assert resample(labels, here, "genericlabel").data.tolist() == [[7]]
    assert resample(labels, here, "nearest").data.tolist() == [[5]]
    tie = Warp(np.array([[[0.0, 0.5]], [[0.5, -0.25]]]), np.eye(3))
    moved = resample(labels, tie, "genericlabel").data
    assert moved.tolist() == [[5, 7]]  # of equals the smaller; then weights 1/8 of 5, 1/2 of 7, 3/8 of 9
    assert moved.dtype == np.uint8
    line = Image(np.array([[3], [1], [1]]), np.eye(3))
    beyond = Warp(np.array([[[-0.4], [-0.4]], [[0.4], [0.0]]]), np.eye(3))
    assert resample(line, beyond, "genericlabel").data.tolist() == [[3], [1]]


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6), st.sampled_from([2, 3]))
def test_generic_labels_are_the_largest_of_all_labels_pictures(seed: int, dim: int) -> None:
    rng = np.random.default_rng(seed)
    labels = Image(rng.integers(-2, 3, tuple(range(4, 4 + dim))).astype(np.int32), np.eye(dim + 1))
    warp = Warp(rng.normal(0, 0.8, (dim, *labels.shape)), np.eye(dim + 1))
    names = np.unique(labels.data)
    pictures = [resample(Image((labels.data == name).astype(np.float32), labels.affine), warp).data for name in names]
    expected = np.where(np.sum(pictures, 0) > 0, names[np.argmax(pictures, 0)], 0)
    np.testing.assert_array_equal(resample(labels, warp, "genericlabel").data, expected)


def test_slabs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    shape, grid = GRIDS["3d oblique"]
    image = Image(smooth(rng, (20, 22, 14), 1).astype(np.float32), affine(turn3(10, 20, -15), [-10, -11, -8]))
    labels = Image(np.digitize(image.data, [0.3, 0.6]), image.affine)
    warp = Warp(4 * np.stack([smooth(rng, shape, 2) for _ in shape]).astype(np.float32), grid)
    finer = affine(grid[:3, :3] / 2, [5, -5, 3])

    def everything() -> list[ndarray]:
        other = followed_by(after_moving(resample_warp(warp, image.affine, image.shape), grid), image.affine)
        parallel = resample_warp(warp, finer, (30, 20, 20)).displacement
        modes: list[Resampling] = ["nearest", "genericlabel"]
        moved = [resample(image, warp).data, *(resample(labels, warp, mode).data for mode in modes)]
        return [*moved, other.displacement, parallel, np.array(fields_overlap(image, labels))]

    whole = everything()
    monkeypatch.setattr(interpolation, "SLAB_VOXELS", 100)
    for one, many in zip(whole, everything(), strict=True):
        np.testing.assert_allclose(many, one, rtol=1e-6, atol=1e-6)
        assert one.dtype == many.dtype


def test_memory_stays_below_a_slab(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a volume of 64^3 no step takes as much, besides its result, as one copy of the field in float64."""
    monkeypatch.setattr(interpolation, "SLAB_VOXELS", 2**13)
    shape, grid = (64, 64, 64), affine(turn3(5, 0, 0), [0, 0, 0])
    warp = Warp(np.zeros((3, *shape), np.float32), np.eye(4))
    image = Image(np.zeros(shape, np.float32), np.eye(4))
    for name, step in {
        "resample": lambda: resample(image, warp),
        "resample_warp": lambda: resample_warp(warp, grid, shape),
        "followed_by": lambda: followed_by(warp, grid),
        "after_moving": lambda: after_moving(warp, grid),
        "fields_overlap": lambda: fields_overlap(image, image),
    }.items():
        tracemalloc.start()
        kept = step()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        result = kept.displacement.nbytes if isinstance(kept, Warp) else getattr(kept, "data", np.zeros(0)).nbytes
        assert peak - result < 3 * 64**3 * 8 / 2, name


def test_types_of_fields_are_kept() -> None:
    shape, grid = GRIDS["rotated"]
    for kind in (np.float32, np.float64):
        warp = from_voxel_displacement(np.ones((2, *shape), kind), grid)
        made = [warp, resample_warp(warp, np.eye(3), (5, 6)), followed_by(warp, grid), after_moving(warp, np.eye(3))]
        assert {one.displacement.dtype for one in made} == {np.dtype(kind)}


def test_float32_fields_are_good_enough() -> None:
    """A field in float32 moves an image by less than a ten-thousandth of its range from where float64 does."""
    rng = np.random.default_rng(0)
    image = Image(rng.random((60, 60)).astype(np.float32), affine(turn(20) * 1.5, [100, -90]))
    points = affine(turn(20) * 1.5, [70, -80])
    warp = Warp(30 * np.stack([smooth(rng, (60, 60), 5) for _ in "xy"]), points)
    narrow = Warp(warp.displacement.astype(np.float32), points)
    np.testing.assert_allclose(resample(image, narrow).data, resample(image, warp).data, atol=1e-4)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from([2, 3]))
def test_parallel_grids_are_resampled_as_any(seed: int, dim: int) -> None:
    rng = np.random.default_rng(seed)
    old = affine(np.eye(dim)[rng.permutation(dim)] * rng.choice([-1, 1], dim) * rng.uniform(0.5, 2, dim), [0.3] * dim)
    new = affine(np.eye(dim)[rng.permutation(dim)] * rng.uniform(0.5, 2, dim), [-1.0] * dim)
    warp = Warp(rng.standard_normal((dim, *range(3, 3 + dim))), old)
    shape = tuple(range(5, 5 + dim))
    points = transform_points(new, np.indices(shape, np.float64))
    made = resample_warp(warp, new, shape).displacement
    np.testing.assert_allclose(made, displacement_at(warp, points), atol=1e-12)


def test_followed_by_and_after_moving_by_hand() -> None:
    grid, other = affine(np.diag([2.0, 3.0]), [-4, 5]), affine(turn(30), [1, 2])
    warp = Warp(np.random.default_rng(0).standard_normal((2, 4, 3)), grid)
    points = np.stack([2.0 * np.indices((4, 3))[0] - 4, 3.0 * np.indices((4, 3))[1] + 5])
    ends = points + warp.displacement
    then = np.einsum("ij,jkl->ikl", turn(30), ends) + np.reshape([1, 2], (2, 1, 1))
    np.testing.assert_allclose(points + followed_by(warp, other).displacement, then, atol=1e-12)
    moved = after_moving(warp, other)
    np.testing.assert_allclose(
        transform_points(other, np.indices((4, 3), float)) + moved.displacement, ends, atol=1e-12
    )


def test_dimensions_must_agree() -> None:
    with pytest.raises(InputError, match="a 3-D transform cannot be applied to a 2-D image"):
        resample(Image(np.zeros((3, 4)), np.eye(3)), Warp(np.zeros((3, 2, 2, 2)), np.eye(4)))
    with pytest.raises(ValueError, match="needs 2 components"):
        Warp(np.zeros((3, 4, 4)), np.eye(3))


def test_resample_warp_is_linear_in_millimetres_and_holds_the_edge() -> None:
    grid, finer = affine(np.diag([2.0, -2.0]), [-5, 7]), affine(turn(30) * 0.7, [-2, 1])
    x, y = np.meshgrid(*(np.arange(n) for n in (12, 10)), indexing="ij")
    x, y = 2.0 * x - 5, 7 - 2.0 * y
    warp = Warp(np.stack([0.1 * x + 0.2 * y + 3, -0.3 * y]), grid)
    fine = resample_warp(warp, finer, (6, 5))
    index = np.stack([*np.indices((6, 5)), np.ones((6, 5))])
    x, y, _ = np.einsum("ij,jkl->ikl", finer, index)
    np.testing.assert_allclose(fine.displacement, [0.1 * x + 0.2 * y + 3, -0.3 * y], atol=1e-12)
    np.testing.assert_array_equal(fine.affine, finer)
    np.testing.assert_allclose(resample_warp(warp, grid, (12, 10)).displacement, warp.displacement, atol=1e-12)

    far = resample_warp(warp, affine(np.eye(2), [1000, 1000]), (2, 2))
    np.testing.assert_allclose(far.displacement[:, 0, 0], warp.displacement[:, -1, 0])


def test_resampled_warp_moves_an_image_to_the_same_place() -> None:
    rng = np.random.default_rng(0)
    coarse, fine = affine(np.diag([2.0, 2.0]), [0, 0]), affine(np.eye(2), [4, 4])
    warp = Warp(6 * np.stack([smooth(rng, (30, 30), 5) for _ in "xy"]), coarse)
    image = Image(smooth(rng, (60, 60), 4).astype(np.float32), affine(np.eye(2), [0, 0]))
    at_coarse = resample(image, warp).data[2:22, 2:22]
    at_fine = resample(image, resample_warp(warp, fine, (39, 39))).data[::2, ::2]
    np.testing.assert_allclose(at_fine, at_coarse, atol=1e-6)


def test_fields_overlap_by_hand() -> None:
    def box(shape: tuple[int, int], x: float, spacing: float = 1.0) -> Image:
        return Image(np.zeros(shape), affine(np.diag([-spacing, spacing]), [x, 0]))

    fixed = box((10, 8), 0)
    assert fields_overlap(fixed, fixed) == 1
    assert fields_overlap(box((10, 8), -7), fixed) == pytest.approx(0.3)
    assert fields_overlap(box((10, 4), 0), fixed) == 0.5
    assert fields_overlap(box((5, 4), -0.5, 2), fixed) == 7 / 8  # reaches y = 7, exclusively
    assert fields_overlap(box((10, 8), 100), fixed) == 0


def test_an_affine_behind_the_field_is_folded_in(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    warp = Warp(rng.standard_normal((2, 6, 5)), affine(np.diag([1.5, 2.0]), [-3, 4]))
    write_transform(tmp_path / "warp.h5", warp)
    field = sitk.CompositeTransform(sitk.ReadTransform(str(tmp_path / "warp.h5"))).GetBackTransform()
    behind = sitk.AffineTransform([1.1, 0.2, -0.1, 0.9], [3.0, -2.0])
    sitk.WriteTransform(sitk.CompositeTransform([behind, field]), str(tmp_path / "both.h5"))
    read = read_transform(tmp_path / "both.h5")
    both = sitk.ReadTransform(str(tmp_path / "both.h5"))
    for index in ((0, 0), (3, 2), (5, 4)):
        point = (read.affine @ [*index, 1])[:2]
        expected = -np.array(both.TransformPoint((-point).tolist()))
        np.testing.assert_allclose(point + read.displacement[:, *index], expected, atol=1e-9)
    sitk.WriteTransform(sitk.CompositeTransform([field, behind]), str(tmp_path / "before.h5"))
    with pytest.raises(InputError, match="AffineTransform, expected a displacement field as the first"):
        read_transform(tmp_path / "before.h5")
    sitk.WriteTransform(field.Downcast(), str(tmp_path / "bare.h5"))
    np.testing.assert_allclose(read_transform(tmp_path / "bare.h5").displacement, warp.displacement)


def ants_points(points: ndarray, transform: Path) -> ndarray:
    """Where ANTs takes points."""
    ants, pandas = pytest.importorskip("ants"), pytest.importorskip("pandas")
    table = pandas.DataFrame(points, columns=list("xyz"))
    return ants.apply_transforms_to_points(3, table, [str(transform)]).to_numpy()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_large_field_is_compressed_and_means_the_same_as_itks_own_file(dtype: type, tmp_path: Path) -> None:
    """Composites of ITK's own, of either precision, move every point to exactly the same place."""
    shape, matrix = (32, 30, 28), affine(turn3(5, -10, 20), [3, -4, 5])
    rng = np.random.default_rng(0)
    warp = Warp(20 * np.stack([smooth(rng, shape, 5) for _ in shape]).astype(dtype), matrix)
    write_transform(tmp_path / "ours.h5", warp)
    first = (tmp_path / "ours.h5").read_bytes()
    assert len(first) < 0.9 * warp.displacement.nbytes
    write_transform(tmp_path / "again.h5", warp)
    assert (tmp_path / "again.h5").read_bytes() == first

    lps = np.ascontiguousarray((warp.displacement.astype(np.float64) * np.reshape([-1, -1, 1], (3, 1, 1, 1))).T)
    field = sitk.GetImageFromArray(lps, isVector=True)
    to_lps = np.diag([-1, -1, 1]) @ matrix[:3]
    field.SetDirection(to_lps[:, :3].ravel().tolist())
    field.SetOrigin(to_lps[:, 3].tolist())
    sitk.WriteTransform(
        sitk.CompositeTransform([sitk.AffineTransform(3), sitk.DisplacementFieldTransform(field)]),
        str(tmp_path / "itk.h5"),
    )
    ours, theirs = (sitk.ReadTransform(str(tmp_path / f"{name}.h5")) for name in ("ours", "itk"))
    for point in rng.uniform([-25, -20, 5], [0, 15, 30], (200, 3)).tolist():
        assert ours.TransformPoint(point) == theirs.TransformPoint(point)
    points = rng.uniform([-25, -20, 5], [0, 15, 30], (200, 3))
    ours_and_theirs = [ants_points(points, tmp_path / f"{name}.h5") for name in ("ours", "itk")]
    np.testing.assert_array_equal(*ours_and_theirs)
    assert np.abs(ours_and_theirs[0] - points).max() > 1
    again = read_transform(tmp_path / "ours.h5").displacement
    assert again.dtype == dtype
    np.testing.assert_allclose(again, warp.displacement, atol=1e-13)
    other = read_transform(tmp_path / "itk.h5")  # as files were before: float64, not compressed
    assert other.displacement.dtype == np.float64
    np.testing.assert_allclose(other.displacement, warp.displacement, atol=1e-12)


def save_warp(path: Path, data: ndarray, intent: int = 1007) -> Path:
    """A vector file by nibabel alone."""
    nifti = nibabel.Nifti1Image(data.astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
    nifti.set_qform(nifti.affine, 1)
    nifti.header.set_intent(intent, allow_unknown=True)
    nibabel.save(nifti, path)
    return path


@pytest.mark.parametrize("shape", [(4, 5, 1, 1, 2), (4, 5, 3, 1, 3)])
def test_intent_1006_is_ras(tmp_path: Path, shape: tuple[int, ...]) -> None:
    data = np.random.default_rng(0).standard_normal(shape)
    lps, ras = (read_transform(save_warp(tmp_path / f"{i}.nii", data, i)).displacement for i in (1007, 1006))
    sign = np.array([-1.0, -1.0, 1.0][: shape[-1]])
    np.testing.assert_allclose(np.moveaxis(ras, 0, -1) * sign, np.moveaxis(lps, 0, -1))
    np.testing.assert_allclose(ras[:, 1, 2].ravel(), np.moveaxis(data, -1, 0)[:, 1, 2].ravel(), rtol=1e-6)
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "1007.nii")))
    np.testing.assert_allclose(theirs.T[:2], -lps[:2], rtol=1e-6)


NOISE = Warp(np.random.default_rng(0).standard_normal((2, 30, 20)), np.eye(3))


def write_itk(path: Path, transform: sitk.Transform) -> None:
    """Write any ITK transform."""
    sitk.WriteTransform(transform, str(path))


def write_cut(path: Path, size: int) -> None:
    """Write a good transform and keep its beginning."""
    write_transform(path, NOISE)
    path.write_bytes(path.read_bytes()[:size])


def nan_field() -> sitk.Transform:
    """A displacement field of NaN."""
    return sitk.DisplacementFieldTransform(sitk.GetImageFromArray(np.full((4, 5, 2), np.nan), isVector=True))


BAD = {
    "missing": ("a.h5", lambda path: path.unlink(missing_ok=True), "No such file"),
    "text": ("a.h5", lambda path: path.write_text("no transform at all" * 100), "is not an ITK transform"),
    "truncated": ("a.h5", lambda path: write_cut(path, 6000), "is not an ITK transform, or is truncated"),
    "affine": ("a.h5", lambda path: write_itk(path, sitk.AffineTransform(2)), "holds AffineTransform, expected"),
    "nan": ("a.h5", lambda path: write_itk(path, nan_field()), "NaN or infinite"),
    "empty": ("a.h5", lambda path: path.touch(), "0 bytes"),
    "folder": ("a.h5", lambda path: path.mkdir(), "is a folder"),
    "missing warp": ("a.nii", lambda path: path.unlink(missing_ok=True), "No such file"),
    "truncated warp": ("a.nii.gz", lambda path: write_cut(path, 3000), "truncated"),
    "text warp": ("a.nii.gz", lambda path: path.write_bytes(gzip.compress(b"no warp" * 100)), "not a NIfTI file"),
    "image": ("a.nii.gz", lambda path: save_warp(path, np.ones((4, 5)), 0), r"shape \(4, 5\), expected a warp"),
    "no intent": ("a.nii", lambda path: save_warp(path, np.zeros((4, 5, 1, 1, 2)), 0), "intent 0, expected"),
    "components": ("a.nii", lambda path: save_warp(path, np.zeros((4, 5, 1, 1, 3))), r"shape \(4, 5, 1, 1, 3\)"),
    "series": ("a.nii", lambda path: save_warp(path, np.zeros((4, 5, 1, 2, 2))), r"shape \(4, 5, 1, 2, 2\)"),
    "nan warp": ("a.nii", lambda path: save_warp(path, np.full((4, 5, 1, 1, 2), np.nan)), "NaN or infinite"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_transforms_are_refused_in_one_line(tmp_path: Path, case: str) -> None:
    name, make, reason = BAD[case]
    make(tmp_path / name)
    with pytest.raises(InputError, match=reason) as caught:
        read_transform(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_transforms_that_cannot_be_written_leave_nothing(tmp_path: Path) -> None:
    warp = Warp(np.zeros((2, 4, 5)), np.eye(3))
    sheared = Warp(np.zeros((3, 4, 5, 6)), affine([[1, 0.5, 0], [0, 1, 0], [0, 0, 1]], [0, 0, 0]))
    for name, what, reason in (
        ("a.mat", warp, r"expected a name ending in \.h5"),
        ("missing/a.h5", warp, "missing does not exist"),
        ("a.h5", Warp(np.full((2, 4, 5), np.inf), np.eye(3)), "NaN or infinite"),
        ("a.nii.gz", sheared, "sheared grid .* write .h5"),
    ):
        with pytest.raises(InputError, match=reason):
            write_transform(tmp_path / name, what)
    with pytest.raises(InputError, match="unknown transform format"):
        read_transform(tmp_path / "a.tfm")
    assert not list(tmp_path.iterdir())
    write_transform(tmp_path / "sheared.h5", sheared)
    np.testing.assert_allclose(read_transform(tmp_path / "sheared.h5").affine, sheared.affine, atol=1e-12)

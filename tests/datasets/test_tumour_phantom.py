"""The simulated substitute for BraTS: mass effect by arithmetic, the true field by the images, and the written data."""

import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import scipy.ndimage

from crossmorph.datasets import tumour_phantom
from crossmorph.datasets.pairs import read_pairs
from crossmorph.errors import InputError
from crossmorph.simulation import lesions
from crossmorph.simulation.anatomy import slice_affine, tissue_slice
from crossmorph.transforms.warp import voxel_displacement
from crossmorph.transforms.warp_files import read_transform

LEVEL = 21.0


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def load(path: Path | None) -> np.ndarray:
    assert path is not None
    return nib.Nifti1Image.from_filename(path).get_fdata()


def tumour_at(x: float, y: float, radius: float = 15.0, push: float = 0.35) -> lesions.Tumour:
    centre = np.array([x, y])
    ripples = np.zeros((2, 2, len(lesions.RIPPLES)))
    return lesions.Tumour(centre, radius, push, ripples, 0.6, 1.8, tuple(lesions.LESIONS.values()))


def determinant(u: np.ndarray) -> np.ndarray:
    """Of p -> p + u(p), by central differences, without the image's edge."""
    (xx, xy), (yx, yy) = (np.gradient(component) for component in u)
    return ((1 + xx) * (1 + yy) - xy * yx)[1:-1, 1:-1]


# --- anatomy and tumours ---------------------------------------------------------------------------------------------


def test_slice_on_another_grid_is_the_same_place() -> None:
    fine = tissue_slice(LEVEL, tumour_phantom.SHAPE, tumour_phantom.SPACING)
    to_fine = np.linalg.inv(slice_affine(LEVEL, tumour_phantom.SHAPE, tumour_phantom.SPACING)) @ slice_affine(LEVEL)
    grid = np.stack([*np.indices((128, 128)), np.zeros((128, 128)), np.ones((128, 128))]).reshape(4, -1)
    seen = [scipy.ndimage.map_coordinates(part, (to_fine @ grid)[:2], order=1).reshape(128, 128) for part in fine]
    assert np.abs(seen - tissue_slice(LEVEL)).mean() < 0.02


def test_push_by_hand() -> None:
    """On the x axis, 9 voxels from the centre of a tumour of radius 15: w = 18, t = 1/4."""
    tumour = tumour_at(80, 60)
    before = lesions.pushed(np.array([[[89.0]], [[60.0]]]), tumour)
    assert before.ravel() == pytest.approx([80 + 9 * (1 - 0.35 * np.exp(-0.25)), 60])


def test_push_is_undone_and_does_not_fold() -> None:
    grid = np.indices((100, 90)).astype(float)
    tumour = tumour_at(50.3, 41.7)
    before = lesions.pushed(grid, tumour)
    np.testing.assert_allclose(lesions.unpushed(before, tumour), grid, atol=1e-9)
    volume = determinant(before - grid)
    assert volume.min() == pytest.approx(0.65**2, abs=0.01)
    e = 0.35 * np.exp(-0.5)  # t = 1/2: here the second factor is 1, and tissue is compressed along the circle alone
    assert volume[50 - 1 + 13, 41] == pytest.approx(1 - e, abs=0.02)


def test_tumours_lie_in_one_hemisphere_of_the_brain_and_apart() -> None:
    fractions = tissue_slice(LEVEL, tumour_phantom.SHAPE, tumour_phantom.SPACING)
    brain = scipy.ndimage.binary_fill_holes(fractions.sum(0) > 0.5)
    points = np.indices(brain.shape)
    for seed in range(20):
        first = lesions.draw_tumour(fractions, tumour_phantom.SPACING, rng(seed))
        second = lesions.draw_tumour(fractions, tumour_phantom.SPACING, rng(seed + 100), first)
        for tumour in (first, second):
            inside = np.linalg.norm(points - tumour.centre[:, None, None], axis=0) < tumour.radius
            assert brain[inside].all()
        assert np.linalg.norm(first.centre - second.centre) > first.radius + second.radius - 1


def test_tumour_takes_the_place_of_tissue_and_oedema_stays_out_of_fluid() -> None:
    fractions = np.zeros((6, 100, 100))
    fractions[0, :40], fractions[2, 40:] = 1, 1
    grown = lesions.grow(fractions, np.indices((100, 100)).astype(float), tumour_at(55, 50, 10), rng())
    np.testing.assert_allclose(grown.sum(0), 1)
    assert grown.min() >= 0
    parts = dict(zip(lesions.PARTS, grown, strict=True))
    assert parts["necrosis"][55, 50] > 0.9
    assert parts["solid"][55, 58] > 0.5
    assert parts["oedema"][69, 50] > 0.5
    assert parts["wm"][90, 50] == 1
    assert not parts["oedema"][:40].any()
    mask = lesions.tumour_mask(grown)
    assert [mask[55, 50], mask[55, 58], mask[69, 50], mask[90, 50]] == [1, 3, 2, 0]


def test_a_tumour_is_bright_in_t2_and_dark_in_t1() -> None:
    """As in BraTS: above all normal tissue but fluid, and below white matter; fluid is the brightest and darkest."""
    fractions = tissue_slice(LEVEL, tumour_phantom.SHAPE, tumour_phantom.SPACING)
    subject = tumour_phantom.draw_subject(
        fractions, lesions.draw_tumour(fractions, tumour_phantom.SPACING, rng(1)), rng(2)
    )
    mask, normal = lesions.tumour_mask(subject.fractions), subject.fractions > 0.95
    t1, t2 = (tumour_phantom.acquire(subject, modality, rng(3)) for modality in ("t1", "t2"))
    for image, sign in ((t2, 1), (t1, -1)):
        levels = [sign * image[where].mean() for where in (normal[2], mask == 2, mask == 3, normal[0])]
        assert levels == sorted(levels)
    assert t1[normal[2]].mean() == pytest.approx(1, abs=0.1)
    assert t2[normal[0]].mean() == pytest.approx(1, abs=0.1)
    assert not t1[subject.fractions.sum(0) < 0.5].any()


@pytest.mark.parametrize(("in_moving", "in_fixed"), [(True, True), (True, False), (False, True)])
def test_field_joins_the_same_points_of_the_template(in_moving: bool, in_fixed: bool) -> None:
    """The equation itself, with the moving subject's deformation between voxels by splines of its own."""
    fractions = tissue_slice(LEVEL, tumour_phantom.SHAPE, tumour_phantom.SPACING)
    moving = tumour_phantom.draw_subject(fractions, tumour_at(60, 80) if in_moving else None, rng(4))
    fixed = tumour_phantom.draw_subject(fractions, tumour_at(115, 95) if in_fixed else None, rng(5))
    u = tumour_phantom.correspondence(moving, fixed)
    grid = np.indices(tumour_phantom.SHAPE)
    q = grid + u
    found = q + [scipy.ndimage.map_coordinates(component, q, order=3, mode="nearest") for component in moving.u]
    wanted = grid + fixed.u
    found = lesions.pushed(found, moving.tumour) if moving.tumour else found
    wanted = lesions.pushed(wanted, fixed.tumour) if fixed.tumour else wanted
    inside = fixed.tissue.sum(0) > 0.5
    assert np.abs(found - wanted)[:, inside].max() < 2e-3
    assert determinant(u).min() > 0
    # The tissue follows the field next to the tumour_phantom, too: 0.01 of it differs, without the mass effect in it
    # 0.1.
    moved = np.stack([scipy.ndimage.map_coordinates(part, q, order=1) for part in moving.tissue])
    for tumour in filter(None, (moving.tumour, fixed.tumour)):
        near = np.linalg.norm(wanted - tumour.centre[:, None, None], axis=0) < 1.5 * tumour.radius
        assert np.mean(np.abs(moved - fixed.tissue)[:, near & inside]) < 0.03


# --- data set --------------------------------------------------------------------------------------------------------


def digests(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tumours") / "dataset"
    lists = tumour_phantom.prepare_tumours(folder, seed=5, train=6, test=8, validation=1)
    assert list(lists) == ["train", "validation", "test"]
    assert all(path == folder / split / "pairs.csv" for split, path in lists.items())
    return folder


def test_every_pair_has_what_is_known_of_it(dataset: Path) -> None:
    for split, count in (("validation", 1), ("test", 8)):
        pairs = read_pairs(dataset / split / "pairs.csv")
        assert len(pairs) == count
        assert all(None not in (p.moving_labels, p.fixed_labels, p.moving_same, p.field) for p in pairs)
    train = read_pairs(dataset / "train" / "pairs.csv")
    assert {p.moving.name for p in train} == {f"{index:04d}_moving_t2.nii.gz" for index in range(6)}
    assert all(p.moving_labels and p.fixed_labels and not p.moving_same and not p.field for p in train)
    levels = {p: nib.Nifti1Image.from_filename(p).affine[2, 3] for pair in train for p in (pair.moving, pair.fixed)}
    assert all(abs(levels[pair.moving] - levels[pair.fixed]) <= 3 for pair in train)


def test_same_arguments_same_bytes_and_numbers_do_not_matter(dataset: Path, tmp_path: Path) -> None:
    tumour_phantom.prepare_tumours(tmp_path / "again", seed=5, train=1, test=2, validation=1)
    again, whole = digests(tmp_path / "again"), digests(dataset)
    images = [name for name in again if name.endswith(".nii.gz")]
    assert len(images) > 20
    assert all(again[name] == whole[name] for name in images)
    assert len(set(whole.values())) == len(whole)


def test_two_tumours_of_a_pair_lie_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tumour_phantom, "PLACES", {("moving", "fixed"): 1.0})
    for index in range(8):
        one, other = (subject.tumour for subject in tumour_phantom.draw_subjects("test", index, LEVEL, 0))
        assert one is not None
        assert other is not None
        assert np.linalg.norm(one.centre - other.centre) > one.radius + other.radius - 1


def test_splits_share_no_level() -> None:
    levels = [set(tumour_phantom.levels_of(split)) for split in ("train", "validation", "test")]
    assert all(levels)
    assert sum(map(len, levels)) == len(set.union(*levels))


def surroundings(image: Path) -> np.ndarray:
    """10 mm around the tumour in an image."""
    mask = image.parent / (image.name.rpartition("_")[0] + "_tumour.nii.gz")
    return (
        scipy.ndimage.binary_dilation(load(mask) > 0, iterations=9)
        if mask.exists()
        else np.zeros(tumour_phantom.SHAPE, bool)
    )


def test_true_field_carries_labels_and_image_over(dataset: Path) -> None:
    for pair in read_pairs(dataset / "test" / "pairs.csv"):
        assert pair.field is not None
        where = np.indices(tumour_phantom.SHAPE) + voxel_displacement(read_transform(pair.field))
        labels, moved = (
            scipy.ndimage.map_coordinates(load(path), where, order=order)
            for path, order in ((pair.moving_labels, 0), (pair.moving_same, 1))
        )
        expected, fixed = load(pair.fixed_labels), load(pair.fixed)
        assert set(np.unique(expected)) == {0, 1, 2, 3}
        assert np.mean(labels == expected) > 0.96
        ill = scipy.ndimage.map_coordinates(surroundings(pair.moving), where, order=0) | surroundings(pair.fixed)
        well = (expected > 0) & ~ill
        assert np.corrcoef(moved[well], fixed[well])[0, 1] > 0.8


def test_masks_lie_beside_the_images_of_tumours_only(dataset: Path) -> None:
    """Of the places a tumour can be in, all occur among the pairs; where there is none there is no file."""
    seen = set()
    for index in range(8):
        found = [(dataset / "test" / f"{index:04d}_{role}_tumour.nii.gz").exists() for role in ("moving", "fixed")]
        seen.add(tuple(found))
    assert {(True, False), (False, True)} <= seen
    for path in dataset.rglob("*_tumour.nii.gz"):
        mask = load(path)
        assert {3.0} <= set(np.unique(mask)) <= {0.0, 1.0, 2.0, 3.0}
        brain = load(Path(str(path).replace("_tumour", "_labels"))) > 0
        assert brain[mask > 0].all()


def test_brains_fill_the_frame_and_stay_in_it(dataset: Path) -> None:
    for path in dataset.rglob("*_t[12].nii.gz"):
        brain = load(path) > 0
        assert brain.shape == (176, 176)
        assert brain.sum() == brain[2:-2, 2:-2].sum()
        assert np.ptp(np.flatnonzero(brain.any(0))) > 100
        assert 0.2 < brain.mean() < 0.7


def test_numbers_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="test = 0"):
        tumour_phantom.prepare_tumours(tmp_path / "new", test=0)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="not an empty folder"):
        tumour_phantom.prepare_tumours(tmp_path)

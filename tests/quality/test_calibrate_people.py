"""Pairs of people and of scans for calibration: true fields are true, views are cut, structures tell people apart."""

import math
from pathlib import Path

import numpy as np
import pytest
from people_scene import draw_people

from crossmorph.datasets.anatomies import prepare_anatomies
from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import write_image
from crossmorph.quality.calibration import pairs, people_pairs, scan_pairs
from crossmorph.quality.calibration.other_objects import MADE, replaced
from crossmorph.quality.calibration.people_pairs import draw_people as draw_pair
from crossmorph.quality.calibration.scan_pairs import draw_scan
from crossmorph.quality.calibration.simulated_pair import CANNOT_BE_REGISTERED, Setting, structure_distance
from crossmorph.simulation.deformation import affine_of
from crossmorph.transforms.warp import Warp, resample

KNOWN = [kind for kind in people_pairs.KINDS if kind not in CANNOT_BE_REGISTERED and kind != "two people"]


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    """Four drawn people, and scans of one of them."""
    folder = tmp_path_factory.mktemp("people")
    prepare_anatomies([folder / "maps"], folder / "set", splits=draw_people(folder / "maps"))
    (folder / "scans" / "train").mkdir(parents=True)
    axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in (60, 70, 50)), indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    data = np.where(radius < 0.8, 0.3 + 0.5 * np.sin(9 * axes[0]) ** 2 + 0.2 * axes[1], 0).astype(np.float32)
    write_image(folder / "scans" / "train" / "ann.nii.gz", Image(data, np.diag([3.0, 2.5, 4.0, 1.0])))
    return folder


def setting(people: Path, dim: int, split: str = "train") -> Setting:
    shape, spacing = ((128, 128), 1.5) if dim == 2 else ((24, 28, 24), 2.5)
    return Setting(shape, spacing, split, people / "set", people / "scans")


def only(monkeypatch, module, kind: str) -> None:
    monkeypatch.setattr(module, "KINDS", {kind: 1.0})


@pytest.mark.parametrize("dim", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KNOWN)
def test_the_true_field_of_a_person_moves_tissue_onto_tissue(people, kind, dim, monkeypatch):
    """Both images with one table of signals, without noise, lesions, slices and bias: they agree where both see."""
    only(monkeypatch, people_pairs, kind)
    monkeypatch.setattr(people_pairs, "LESIONS", 0.0)
    monkeypatch.setattr(people_pairs, "SHOW", {"brains": 1.0})
    plain = people_pairs.SynthesisSpec

    def quiet(**choices):
        choices |= {"noise": (0.0, 0.0), "bias": (0.0, 0.0), "gamma": 0.0, "coarse": 0.0}
        choices["people"] = choices["people"].model_copy(update={"texture": 0.0, "lesions": 0.0, "margin": (4.0, 4.0)})
        return plain(**choices | {"moving": ("t1",), "fixed": ("t1",)})

    monkeypatch.setattr(people_pairs, "SynthesisSpec", quiet)
    monkeypatch.setattr(people_pairs, "random_table", lambda _, contrast, __, f=people_pairs.random_table: f(
        np.random.default_rng(0), contrast, 0.0))  # fmt: skip
    drawn = draw_pair(setting(people, dim), np.random.default_rng(3))
    moved = resample(drawn.moving, Warp(drawn.truth, drawn.fixed.affine)).data
    where = drawn.tissue & (moved > 0.05)
    assert where.sum() > 0.4 * drawn.tissue.sum() > 0
    assert np.median(np.abs(moved - drawn.fixed.data)[where]) < 0.05
    assert np.corrcoef(moved[where], drawn.fixed.data[where])[0, 1] > 0.6


def test_a_pair_depends_on_its_numbers_alone(people):
    one, again, other = (pairs.draw(setting(people, 2), 0, number) for number in (4, 4, 5))
    assert one.kind == again.kind
    assert np.array_equal(one.moving.data, again.moving.data)
    assert np.array_equal(one.fixed.data, again.fixed.data)
    assert one.fixed.shape != other.fixed.shape or not np.array_equal(one.fixed.data, other.fixed.data)


def test_two_people_have_labels_and_no_true_field(people, monkeypatch):
    only(monkeypatch, people_pairs, "two people")
    monkeypatch.setattr(people_pairs, "_people", lambda *_, two: (0, 1) if two else (0, 0))
    drawn = draw_pair(setting(people, 3), np.random.default_rng(0))
    assert drawn.truth is None
    moving, fixed = drawn.labels
    assert (moving.shape, fixed.shape) == (drawn.moving.shape, drawn.fixed.shape)
    still = resample(Image(moving, drawn.moving.affine), Warp.identity(drawn.fixed), "nearest").data
    assert 1 < structure_distance(still, fixed, drawn.fixed.affine) < 60
    assert structure_distance(fixed, fixed, drawn.fixed.affine) == 0


def test_the_distance_of_structures_by_hand():
    """Three cubes of 5 mm a side; two are moved by 3 and one by 4 voxels of 2 mm: the median is 6 mm."""
    fixed = np.zeros((40, 40, 40), np.uint8)
    moved = fixed.copy()
    for code, (place, step) in enumerate(((4, 3), (16, 3), (28, 4)), start=1):
        fixed[place : place + 4, 10:14, 10:14] = code
        moved[place : place + 4, 10 + step : 14 + step, 10:14] = code
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    assert structure_distance(moved, fixed, affine) == pytest.approx(6.0)
    moved[moved == 3] = 0
    assert structure_distance(moved, fixed, affine) == math.inf


def test_partial_views_are_cut(people, monkeypatch):
    only(monkeypatch, people_pairs, "partial view")
    seen = [draw_pair(setting(people, 2), np.random.default_rng(number)) for number in range(8)]
    assert all(drawn.truth.shape[1:] == drawn.fixed.shape == drawn.tissue.shape for drawn in seen)
    assert any(drawn.moving.shape != drawn.fixed.shape for drawn in seen)


def test_slabs_of_other_levels_overlap_in_the_world_and_share_nothing(people, monkeypatch):
    only(monkeypatch, people_pairs, "other level")
    monkeypatch.setattr(people_pairs, "SHOW", {"heads": 1.0})
    drawn = draw_pair(setting(people, 3), np.random.default_rng(0))
    assert drawn.truth is None
    assert drawn.moving.shape[:2] == drawn.fixed.shape[:2]
    assert drawn.moving.shape[2] == drawn.fixed.shape[2] < 50
    assert drawn.moving.affine[2, 3] == drawn.fixed.affine[2, 3]


def test_an_affine_displacement_gives_its_matrix():
    matrix = np.array([[1.1, 0.2, -3.0], [-0.1, 0.9, 2.0], [0, 0, 1]])
    places = np.indices((5, 7)).reshape(2, -1)
    displacement = (matrix[:2, :2] @ places + matrix[:2, 2:] - places).reshape(2, 5, 7)
    assert affine_of(displacement) == pytest.approx(matrix)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_true_field_of_a_scan_moves_it_onto_itself(people, dim, monkeypatch):
    only(monkeypatch, scan_pairs, "scan")
    monkeypatch.setattr(scan_pairs, "CURVED", 0.0)
    monkeypatch.setattr(scan_pairs, "NOISE", (0.0, 0.0))
    drawn = draw_scan(setting(people, dim), np.random.default_rng(1))
    moved = resample(drawn.moving, Warp(drawn.truth, drawn.fixed.affine)).data
    where = drawn.tissue & (moved > 0)
    assert where.sum() > 0.5 * drawn.tissue.sum() > 0
    assert np.abs(moved - drawn.fixed.data)[where].mean() < 0.05


def test_a_curve_changes_one_image_and_leaves_air_dark(people, monkeypatch):
    monkeypatch.setattr(scan_pairs, "CURVED", 1.0)
    image = np.linspace(0, 1, 50)
    for seed in range(5):
        curved = scan_pairs._curved(np.random.default_rng(seed), image, image)
        assert sorted(np.array_equal(each, image) for each in curved) == [False, True]
        assert all(each[0] == 0 for each in curved)


def test_a_split_without_scans_is_refused(people):
    with pytest.raises(InputError, match=r"scans/test: no scans; expected a folder with subfolders train, valid"):
        draw_scan(setting(people, 3, "test"), np.random.default_rng(0))


@pytest.mark.parametrize("kind", [*MADE, "two objects"])
def test_other_objects_replace_images_and_are_not_constant(kind):
    images = [np.zeros((20, 24, 18)), np.zeros((22, 20, 20))]
    for seed in range(4):
        made = replaced(np.random.default_rng(seed), kind, images)
        assert [each.shape for each in made] == [each.shape for each in images]
        assert any(np.ptp(each) > 0.1 for each in made)
    assert replaced(np.random.default_rng(0), "smooth", images)[0] is images[0]

"""The phantom in 3-D: files, true fields read by SimpleITK, and what the splits share."""

import hashlib
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import map_coordinates

from crossmorph.datasets import phantom_3d
from crossmorph.datasets.pairs import read_pairs
from crossmorph.datasets.phantom_3d import prepare_volumes, volume_difficulty
from crossmorph.errors import InputError
from crossmorph.simulation.anatomy import CENTRE
from crossmorph.simulation.deformation import MIN_JACOBIAN, SMOOTH, random_deformation, true_field
from crossmorph.simulation.mri import CONTRASTS

SPACING = 6.0
SHAPE = (32, 37, 32)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("volumes") / "dataset"
    lists = prepare_volumes(folder, seed=3, validation=1, test=2, contrasts=3, spacing=SPACING)
    assert lists == {split: folder / split / "pairs.csv" for split in ("validation", "test", "contrasts")}
    return folder


def nifti(path: Path | None) -> nib.Nifti1Image:
    assert path is not None
    return nib.Nifti1Image.from_filename(path)


def load(path: Path | None) -> np.ndarray:
    return nifti(path).get_fdata()


def digests(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean([2 * ((a == k) & (b == k)).sum() / ((a == k).sum() + (b == k).sum()) for k in (1, 2, 3)]))


def test_difficulty_is_that_of_slices_in_millimetres() -> None:
    slices, whole = SMOOTH, volume_difficulty(2.0)
    assert whole.shift * 2.0 == slices.shift * 1.5 == 9.0
    assert whole.elastic_sigma * 2.0 == slices.elastic_sigma * 1.5 == 18.0
    assert [2.0 * end for end in whole.elastic_amplitude] == [1.5 * end for end in slices.elastic_amplitude]
    assert (whole.rotation, whole.scale, whole.noise, whole.bias) == (10.0, 0.10, 0.03, 0.20)


def test_usual_grid_is_96_112_96_of_2_mm() -> None:
    assert tuple(round(length / 2.0) for length in phantom_3d.EXTENT) == (96, 112, 96)


def test_files_hold_what_their_names_say(dataset: Path) -> None:
    pair = read_pairs(dataset / "test" / "pairs.csv")[0]
    for path in (pair.moving, pair.fixed, pair.moving_same):
        image = nifti(path)
        assert image.shape == SHAPE
        assert image.header.get_zooms() == (SPACING,) * 3
        np.testing.assert_array_equal(image.get_sform(), image.get_qform())
        np.testing.assert_allclose(image.affine @ [15.5, 18, 15.5, 1], [*CENTRE, 1])
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    labels = nifti(pair.fixed_labels)
    assert labels.get_data_dtype() == np.uint8
    assert set(np.unique(labels.get_fdata())) == {0, 1, 2, 3}
    field = nifti(pair.field)
    assert (field.shape, field.header.get_intent()[0]) == ((*SHAPE, 1, 3), "vector")


def test_whole_brain_is_inside(dataset: Path) -> None:
    """About 1.9 litres with CSF, scaled by up to 10% along each axis, and none of it at the border."""
    for pair in read_pairs(dataset / "test" / "pairs.csv"):
        brain = load(pair.fixed_labels) > 0
        assert 1.2 < brain.sum() * (SPACING / 100) ** 3 < 2.5
        border = brain.copy()
        border[1:-1, 1:-1, 1:-1] = False
        assert border.sum() < 0.005 * brain.sum()


@pytest.mark.parametrize("split", ["validation", "test", "contrasts"])
def test_true_field_aligns_the_pair(dataset: Path, split: str) -> None:
    """Read by SimpleITK as any other warp: the labels overlap, and one contrast differs by noise and bias only."""
    for pair in read_pairs(dataset / split / "pairs.csv"):
        warp = sitk.DisplacementFieldTransform(sitk.ReadImage(str(pair.field), sitk.sitkVectorFloat64))
        fixed = sitk.ReadImage(str(pair.fixed))
        labels = sitk.Resample(sitk.ReadImage(str(pair.moving_labels)), fixed, warp, sitk.sitkNearestNeighbor)
        moved = sitk.Resample(sitk.ReadImage(str(pair.moving_same)), fixed, warp, sitk.sitkLinear)
        before = dice(load(pair.moving_labels), load(pair.fixed_labels))
        assert dice(sitk.GetArrayFromImage(labels).T, load(pair.fixed_labels)) > max(0.75, before + 0.2)
        error = sitk.GetArrayFromImage(moved) - sitk.GetArrayFromImage(fixed)
        assert 100 * np.mean(error**2) < 0.7


def test_true_field_solves_its_equation() -> None:
    """At 2,000 voxels away from the border, where the moving image's displacement is its cubic spline."""
    u_moving, u_fixed = (
        random_deformation(np.random.default_rng(seed), SHAPE, volume_difficulty(SPACING)) for seed in (0, 1)
    )
    u = true_field(u_moving, u_fixed)
    rng = np.random.default_rng(2)
    p = np.stack([rng.integers(8, size - 8, 2000) for size in SHAPE])
    at = (slice(None), *p)
    q = p + u[at]
    there = np.stack([map_coordinates(component, q, order=3, mode="mirror") for component in u_moving])
    np.testing.assert_allclose(q + there, p + u_fixed[at], atol=5e-3)


def test_deformations_keep_their_distance_from_folding(dataset: Path) -> None:
    for pair in read_pairs(dataset / "test" / "pairs.csv"):
        u = load(pair.field)[:, :, :, 0] * [-1, -1, 1] / SPACING
        jacobian = np.stack([np.stack(np.gradient(u[..., k]), axis=-1) for k in range(3)], axis=-2) + np.eye(3)
        assert np.linalg.det(jacobian).min() > MIN_JACOBIAN**2


def test_other_contrasts_are_of_the_test_anatomies(dataset: Path) -> None:
    tests, others = (read_pairs(dataset / split / "pairs.csv") for split in ("test", "contrasts"))
    assert [pair.name for pair in others] == [
        "contrasts-0000-t1-t2",
        "contrasts-0001-pd-t1",
        "contrasts-0002-t2-pd",
    ]
    for known, other in zip(tests, others, strict=False):
        for column in ("moving_labels", "fixed_labels", "field"):
            assert getattr(known, column).read_bytes() == getattr(other, column).read_bytes()
    labels, moving, same = (load(getattr(others[0], name)) for name in ("moving_labels", "moving", "moving_same"))
    assert moving[labels == 3].mean() > moving[labels == 1].mean()  # T1w: white matter is bright
    assert same[labels == 1].mean() > same[labels == 3].mean()  # T2w: CSF is


def test_every_contrast_is_in_a_list() -> None:
    assert len(phantom_3d.OTHER_CONTRASTS) == 9
    assert set(CONTRASTS) == {contrast for pair in phantom_3d.OTHER_CONTRASTS for contrast in pair}


def test_splits_share_no_image_and_the_seed_decides(dataset: Path, tmp_path: Path) -> None:
    images = {name: digest for name, digest in digests(dataset).items() if name.endswith(".nii.gz")}
    acquired = [digest for name, digest in images.items() if "labels" not in name and "field" not in name]
    assert len(set(acquired)) == len(acquired) == 3 * 6
    prepare_volumes(tmp_path / "fewer", seed=3, validation=1, test=1, contrasts=1, spacing=SPACING)
    fewer = {name: digest for name, digest in digests(tmp_path / "fewer").items() if name.endswith(".nii.gz")}
    assert fewer.items() <= images.items()
    prepare_volumes(tmp_path / "other", seed=4, validation=1, test=1, contrasts=1, spacing=SPACING)
    assert not set(digests(tmp_path / "other").values()) & set(images.values())


def test_description(dataset: Path) -> None:
    description = json.loads((dataset / "dataset.json").read_text())
    assert (description["seed"], description["spacing_mm"], description["shape"]) == (3, SPACING, list(SHAPE))
    assert {split: entry["count"] for split, entry in description["splits"].items()} == {
        "validation": 1,
        "test": 2,
        "contrasts": 3,
    }
    assert description["splits"]["test"]["elastic_sigma"] * SPACING == 18


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed": -1}, "seed = -1; expected at least 0"),
        ({"test": 0}, "test = 0; expected at least 1"),
        ({"contrasts": -2}, "contrasts = -2; expected at least 1"),
        ({"spacing": 0.5}, "spacing = 0.5 mm; expected 1 to 8 mm"),
        ({"spacing": float("nan")}, "spacing = nan mm; expected 1 to 8 mm"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepare_volumes(tmp_path / "dataset", **wrong)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_content_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        prepare_volumes(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]

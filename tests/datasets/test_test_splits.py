"""The extra test splits: contrasts, heads and far starts, as files and by their equations."""

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import scipy.ndimage
import SimpleITK as sitk
from typer.testing import CliRunner

from crossmorph.cli.main import app
from crossmorph.datasets import phantom, test_splits
from crossmorph.datasets.pairs import Pair, read_pairs
from crossmorph.datasets.sampling import generator
from crossmorph.errors import InputError
from crossmorph.functional.metrics import dice
from crossmorph.simulation import deformation, mri
from crossmorph.simulation.anatomy import split_levels

COUNTS: dict[test_splits.ExtraSplit, int] = {"contrasts": 2, "heads": 2, "far": 5}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extra") / "dataset"
    phantom.prepare_phantom(folder, seed=3, train=1, test=1, validation=1, extra=COUNTS)
    return folder


def load(path: Path | None) -> np.ndarray:
    assert path is not None
    return nib.Nifti1Image.from_filename(path).get_fdata()


def digests(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def mean_dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean(list(dice(a.astype(int), b.astype(int)).values())))


def moved(pair: Pair, image: str, interpolator: int) -> np.ndarray:
    """An image of a pair, resampled through the true field by SimpleITK."""
    warp = sitk.DisplacementFieldTransform(sitk.ReadImage(str(pair.field), sitk.sitkVectorFloat64))
    fixed = sitk.ReadImage(str(pair.fixed))
    return sitk.GetArrayFromImage(sitk.Resample(sitk.ReadImage(str(getattr(pair, image))), fixed, warp, interpolator)).T


# --- all -------------------------------------------------------------------------------------------------------------


def test_lists_are_returned_and_whole(dataset: Path, tmp_path: Path) -> None:
    lists = phantom.prepare_phantom(tmp_path / "data", train=1, test=1, validation=1, extra={"contrasts": 1, "far": 1})
    assert {"far", "contrasts-t2-t1", "contrasts-synthetic-a-t1", "contrasts-t2-t1-noise9"} < set(lists)
    assert "heads" not in lists
    assert len(lists) == 3 + 1 + len(test_splits.CONTRAST_LISTS) + len(test_splits.CONDITIONS)
    for path in lists.values():
        assert read_pairs(path)
    for split, count in COUNTS.items():
        for path in (dataset / split).glob("*.csv"):
            pairs = read_pairs(path)
            assert len(pairs) == count
            assert all(None not in vars(pair).values() for pair in pairs)


def test_same_seed_same_bytes_whatever_else_is_written(dataset: Path, tmp_path: Path) -> None:
    everything = digests(dataset)
    fewer: dict[test_splits.ExtraSplit, int] = {"far": 1, "contrasts": 1}
    phantom.prepare_phantom(tmp_path / "fewer", seed=3, train=1, test=1, validation=1, extra=fewer)
    phantom.prepare_phantom(tmp_path / "heads", seed=3, train=1, test=1, validation=1, extra={"heads": 1})
    again = {
        name: digest
        for folder in ("fewer", "heads")
        for name, digest in digests(tmp_path / folder).items()
        if name.endswith(".gz")
    }
    assert len(again) == (4 + 6 + 6) + 6 + 6 + 2 * (8 + 6 + 1) + 1
    assert again.items() <= everything.items()


def test_no_extra_means_no_trace(tmp_path: Path) -> None:
    phantom.prepare_phantom(tmp_path / "data", train=1, test=1, validation=1)
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"train", "validation", "test", "dataset.json"}
    assert set(json.loads((tmp_path / "data" / "dataset.json").read_text())["splits"]) == {
        "train",
        "validation",
        "test",
    }


def test_description(dataset: Path) -> None:
    splits = json.loads((dataset / "dataset.json").read_text())["splits"]
    assert {split: splits[split]["count"] for split in COUNTS} == COUNTS
    assert splits["far"] | {"shift": 32.0, "rotation": 45.0, "scale": [0.7, 1.4]} == splits["far"]
    assert "flair" in splits["contrasts"]["modalities"]
    assert min(splits["heads"]["levels_mm"]) > -15


def test_levels_are_the_test_levels() -> None:
    assert split_levels("contrasts") == split_levels("far") == split_levels("test")
    assert set(split_levels("heads")) < set(split_levels("test"))


@pytest.mark.parametrize(("split", "most_before"), [("contrasts", 0.6), ("heads", 0.6), ("far", 0.55)])
def test_true_field_aligns_the_pair(dataset: Path, split: str, most_before: float) -> None:
    name = "pairs-t2-t1.csv" if split == "contrasts" else "pairs.csv"
    for pair in read_pairs(dataset / split / name):
        labels, fixed_labels = moved(pair, "moving_labels", sitk.sitkNearestNeighbor), load(pair.fixed_labels)
        assert mean_dice(labels, fixed_labels) > 0.8
        still = test_splits.on_grid(
            test_splits.Slice(load(pair.moving_labels)[None], np.eye(4)), fixed_labels.shape
        ).fractions[0]
        assert mean_dice(still, fixed_labels) < most_before
        error = moved(pair, "moving_same", sitk.sitkLinear) - load(pair.fixed)
        assert 100 * np.mean(error**2) < 1


def test_command_line_asks_for_the_usual_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def prepare(*_: object, extra: object, **__: object) -> dict[str, Path]:
        asked.append(extra)
        return {}

    monkeypatch.setattr(phantom, "prepare_phantom", prepare)
    for words in ([], ["--extra", "far"], ["--extra", "heads,contrasts"]):
        CliRunner().invoke(app, ["prepare", "phantom", "-o", str(tmp_path / "data"), *words], catch_exceptions=False)
    assert asked == [{}, {"far": 96}, {"contrasts": 32, "heads": 32}]


def test_an_unknown_split_and_a_count_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="unknown extra split: received 'hands'; expected some of contrasts, heads, far"
    ):
        test_splits.default_pairs(["far", "hands"])
    assert test_splits.default_pairs(["far", "heads"]) == {"heads": 32, "far": 96}
    with pytest.raises(InputError, match="far = 0; expected at least 1"):
        phantom.prepare_phantom(tmp_path / "data", extra={"far": 0})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(10, 12), (4, 14), (8, 8)])
def test_another_grid_keeps_every_voxel_where_it_is(shape: tuple[int, int]) -> None:
    source = test_splits.Slice(np.random.default_rng(0).random((2, 8, 8)), phantom.slice_affine(9.0))
    target = test_splits.on_grid(source, shape)
    assert target.fractions.shape == (2, *shape)
    here = np.array([shape[0] // 2 - 1, shape[1] // 2 + 1, 0, 1])
    there = np.rint(np.linalg.solve(source.affine, target.affine @ here)).astype(int)
    np.testing.assert_array_equal(target.fractions[:, here[0], here[1]], source.fractions[:, there[0], there[1]])
    assert target.fractions.sum() <= source.fractions.sum()


# --- contrasts -------------------------------------------------------------------------------------------------------


def test_lists_pair_the_contrasts_they_name(dataset: Path) -> None:
    for moving, fixed in test_splits.CONTRAST_LISTS:
        for pair in read_pairs(dataset / "contrasts" / f"pairs-{moving}-{fixed}.csv"):
            assert pair.moving.name[4:] == f"_moving_{moving}.nii.gz"
            assert pair.fixed.name[4:] == f"_fixed_{fixed}.nii.gz"
            assert pair.moving_same is not None
            assert pair.moving_same.name[4:] == f"_moving_{fixed}.nii.gz"


@pytest.mark.parametrize("role", ["moving", "fixed"])
def test_tissues_have_the_signal_of_their_contrast(dataset: Path, role: str) -> None:
    """Least squares of each image on its deformed tissue fractions: the signals of the contrast, up to the bias."""
    level = nib.Nifti1Image.from_filename(dataset / "contrasts" / f"0000_{role}_labels.nii.gz").affine[2, 3]
    u = deformation.random_deformation(generator(3, "contrasts", 0, role), phantom.SHAPE)
    fractions = deformation.warp_fractions(phantom.tissue_slice(float(level)), u)
    brain = fractions.sum(0) > 0.9
    for contrast in mri.CONTRASTS:
        image = load(dataset / "contrasts" / f"0000_{role}_{contrast}.nii.gz")
        found = np.linalg.lstsq(fractions[:, brain].T, image[brain], rcond=None)[0]
        np.testing.assert_allclose(found, mri.contrast_signals(contrast), atol=0.1)


def test_noise_is_independent(dataset: Path) -> None:
    """Corners hold nothing but noise, and no two images of different contrast, role or pair share it."""
    paths = [
        path for contrast in mri.CONTRASTS for path in sorted((dataset / "contrasts").glob(f"*_{contrast}.nii.gz"))
    ]
    assert len(paths) == 2 * 2 * 8
    corners = [load(path)[np.ix_(np.r_[:10, -10:0], np.r_[:10, -10:0])].ravel() for path in paths]
    assert np.abs(np.corrcoef(corners) - np.eye(len(paths))).max() < 5 / np.sqrt(400)


def test_conditions_change_one_thing(dataset: Path) -> None:
    """Noise in the air is three times as strong, or gone; the bias doubles, seen in pure tissue without its noise."""

    def image(name: str) -> np.ndarray:
        return load(dataset / "contrasts" / f"0001_moving_{name}.nii.gz")

    air = np.ix_(np.r_[:10, -10:0], np.r_[:10, -10:0])
    assert image("t2-noise9")[air].mean() == pytest.approx(3 * image("t2")[air].mean(), rel=0.01)
    assert image("t2-noise0")[air].mean() < 1e-3
    np.testing.assert_allclose(image("t2-bias40")[air], image("t2")[air], atol=0.02)
    brain = image("t1-noise0") > 0.25
    change = (image("t1-bias40") - image("t1"))[brain] / image("t1-noise0")[brain]
    assert 0.07 < np.abs(change).max() < 0.16
    assert np.median(np.abs(change)) > 0.01


# --- heads -----------------------------------------------------------------------------------------------------------


def test_heads_lie_inside_and_bear_labels_in_the_brain_only(dataset: Path) -> None:
    for pair in read_pairs(dataset / "heads" / "pairs.csv"):
        for path, labels in ((pair.moving_same, pair.moving_labels), (pair.fixed, pair.fixed_labels)):
            image, brain = load(path), load(labels)
            assert image.shape == test_splits.HEAD_SHAPE
            bright = image > 1.3  # fat
            assert bright.sum() > 500
            assert not bright[brain > 0].any()
            reach_x, reach_y = np.nonzero(bright)
            inside_x, inside_y = np.nonzero(brain)
            assert reach_x.min() < inside_x.min() < inside_x.max() < reach_x.max()
            assert reach_y.min() < inside_y.min() < inside_y.max() < reach_y.max()
            image[3:-3, 3:-3] = 0
            assert image.max() < 0.2


# --- far -------------------------------------------------------------------------------------------------------------


def far_pair(seed: int, z_mm: float = 3.0) -> tuple[test_splits.Deformed, test_splits.Deformed]:
    brain = test_splits.Slice(phantom.tissue_slice(z_mm), phantom.slice_affine(z_mm))
    source = test_splits.on_grid(brain, test_splits.FAR.moving_shape)
    return test_splits.far_apart(source, phantom.SHAPE, np.random.default_rng(seed))


def affine_part(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least squares q - c = A (p - c) + t over the middle of the grid."""
    centred = np.indices(u.shape[1:]) - (np.array(u.shape[1:])[:, None, None] - 1) / 2
    middle = np.hypot(*centred) < 50
    design = np.vstack([centred[:, middle], np.ones(middle.sum())])
    solution, *_ = np.linalg.lstsq(design.T, (centred + u)[:, middle].T, rcond=None)
    return solution[:2].T, solution[2]


def test_starts_span_their_ranges() -> None:
    """Rotation, size and shift of the true field; elastic parts blur each a little."""
    fields = [deformation.true_field(*(deformed.u for deformed in far_pair(seed))) for seed in range(16)]
    parts = [affine_part(u) for u in fields]
    angles = np.rad2deg([np.arctan2(a[1, 0] - a[0, 1], a[0, 0] + a[1, 1]) for a, _ in parts])
    sizes = np.sqrt([np.linalg.det(a) for a, _ in parts])
    shifts = np.array([t for _, t in parts])
    assert 35 < np.abs(angles).max() < 50
    assert angles.min() < -20 < 20 < angles.max()
    assert 0.63 < sizes.min() < 0.8 < 1.25 < sizes.max() < 1.55
    assert 24 < np.abs(shifts).max() < 37


@pytest.mark.parametrize("seed", range(3))
def test_far_truth_solves_its_equation(seed: int) -> None:
    """moving(q) and fixed(p) show the same point of the slice; the moving deformation between voxels by its splines."""
    moving, fixed = (deformed.u for deformed in far_pair(seed))
    grid = np.indices(fixed.shape[1:])
    q = grid + deformation.true_field(moving, fixed)
    inside = ((q > 5) & (q < np.array(q.shape[1:])[:, None, None] - 6)).all(0)
    there = q + np.stack([scipy.ndimage.map_coordinates(component, q, order=3) for component in moving])
    assert inside.mean() > 0.3
    assert np.linalg.norm(there - grid - fixed, axis=0)[inside].max() < 2e-3


def test_both_anatomies_stay_inside_their_images(dataset: Path) -> None:
    for pair in read_pairs(dataset / "far" / "pairs.csv"):
        assert load(pair.moving).shape == test_splits.FAR.moving_shape
        assert load(pair.fixed).shape == phantom.SHAPE
        for path in (pair.moving_labels, pair.fixed_labels):
            labels = load(path)
            assert set(np.unique(labels)) == {0, 1, 2, 3}
            labels[1:-1, 1:-1] = 0
            assert not labels.any()

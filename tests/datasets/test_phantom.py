"""The phantom: anatomy against its source, and the written data set."""

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import scipy.ndimage
import SimpleITK as sitk

from crossmorph.datasets import phantom
from crossmorph.datasets.pairs import Pair, read_pairs
from crossmorph.datasets.sampling import training_pairs
from crossmorph.errors import InputError
from crossmorph.simulation import mri
from crossmorph.simulation.anatomy import LEVELS, split_levels

# --- anatomy ---------------------------------------------------------------------------------------------------------


def test_fractions_are_fractions() -> None:
    fractions = phantom.tissue_slice(12.0)
    assert fractions.shape == (3, 128, 128)
    assert fractions.min() >= 0
    assert fractions.sum(0).max() <= 1 + 1e-6
    assert set(np.unique(mri.tissue_labels(fractions))) == {0, 1, 2, 3}
    with pytest.raises(ValueError, match="read-only"):
        fractions[0] = 1


def test_slice_lies_where_its_affine_says() -> None:
    """The template's own grey matter, looked up at each voxel's millimetres, is the slice's."""
    from nilearn import datasets

    grey = datasets.load_mni152_gm_template(resolution=1)
    grid = np.stack([*np.indices(phantom.SHAPE), np.zeros(phantom.SHAPE), np.ones(phantom.SHAPE)]).reshape(4, -1)
    where = np.linalg.inv(grey.affine) @ phantom.slice_affine(21.0) @ grid
    expected = scipy.ndimage.map_coordinates(grey.get_fdata(), where[:3], order=1).reshape(phantom.SHAPE)
    assert np.abs(phantom.tissue_slice(21.0)[1] - expected).mean() < 0.01


def test_brain_is_centred_and_symmetric() -> None:
    """The template is symmetric about x = 0, the middle of the slice."""
    fractions = phantom.tissue_slice(12.0)
    assert np.abs(fractions - fractions[:, ::-1]).mean() < 2e-3


def test_field_of_view_is_centred_on_the_brain() -> None:
    levels = [phantom.tissue_slice(z).sum(0) > 0.5 for z in (-30.0, -15.0, 0.0, 15.0, 30.0)]
    for occupied in (np.flatnonzero(np.any(levels, axis=(0, 2))), np.flatnonzero(np.any(levels, axis=(0, 1)))):
        assert abs(occupied[0] - (127 - occupied[-1])) <= 1


def test_ventricles_are_fluid_amid_white_matter() -> None:
    """At z = 21 mm the bodies of the lateral ventricles lie beside the midline, the corona radiata outside them."""
    labels = mri.tissue_labels(phantom.tissue_slice(21.0))
    to_voxel = np.linalg.inv(phantom.slice_affine(21.0))
    ventricle, radiata = (np.rint(to_voxel @ (x, y, 21.0, 1.0))[:2].astype(int) for x, y in ((8.0, 5.0), (27.0, -15.0)))
    assert labels[tuple(ventricle)] == 1
    assert labels[tuple(radiata)] == 3


def test_no_brain_at_the_level_is_refused() -> None:
    with pytest.raises(InputError, match="z = 100"):
        phantom.tissue_slice(100.0)


# --- data set --------------------------------------------------------------------------------------------------------


def nifti(path: Path | None) -> nib.Nifti1Image:
    assert path is not None
    return nib.Nifti1Image.from_filename(path)


def load(path: Path | None) -> np.ndarray:
    return nifti(path).get_fdata()


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean([2 * ((a == k) & (b == k)).sum() / ((a == k).sum() + (b == k).sum()) for k in (1, 2, 3)]))


def digests(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def images(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in digests(folder).items() if name.endswith(".nii.gz")}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "dataset"
    phantom.prepare_phantom(folder, seed=3, rough=True, pd=True, train=4, test=2, validation=1)
    return folder


def test_result_names_the_lists_and_nothing_else_is_left(tmp_path: Path) -> None:
    lists = phantom.prepare_phantom(tmp_path / "new" / "dataset", train=1, test=1, validation=1)
    assert list(lists) == ["train", "validation", "test"]
    assert all(len(read_pairs(path)) == 1 for path in lists.values())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["dataset"]
    assert not list(tmp_path.rglob("*_pd.nii.gz"))


def test_without_noise_all_else_is_the_same(dataset: Path, tmp_path: Path) -> None:
    """Only the images differ, by noise: none is left outside the brain, where a magnitude without signal is 0."""
    phantom.prepare_phantom(tmp_path / "quiet", seed=3, train=1, test=2, validation=1, noise=0.0)
    noisy, quiet = (read_pairs(folder / "test" / "pairs.csv")[0] for folder in (dataset, tmp_path / "quiet"))
    assert np.array_equal(load(noisy.field), load(quiet.field))
    assert np.array_equal(load(noisy.moving_labels), load(quiet.moving_labels))
    difference = load(noisy.moving) - load(quiet.moving)
    brain = load(noisy.moving_labels) > 0
    assert difference[brain].std() == pytest.approx(0.03, rel=0.1)
    assert np.median(load(quiet.moving)[~brain]) == 0
    settings = json.loads((tmp_path / "quiet" / "dataset.json").read_text())["splits"]["test"]
    assert settings["noise"] == 0


def test_every_pair_has_what_is_known_of_it(dataset: Path) -> None:
    for split, count in (("validation", 1), ("test", 2), ("rough", 2)):
        pairs = read_pairs(dataset / split / "pairs.csv")
        assert len(pairs) == count
        assert all(None not in (p.moving_labels, p.fixed_labels, p.moving_same, p.field) for p in pairs)
    train = read_pairs(dataset / "train" / "pairs.csv")
    assert all(p.moving_labels and p.fixed_labels and not p.moving_same and not p.field for p in train)


def test_files_hold_what_their_names_say(dataset: Path) -> None:
    pair = read_pairs(dataset / "test" / "pairs.csv")[0]
    for path in (pair.moving, pair.fixed, pair.moving_same):
        image = nifti(path)
        assert image.shape == (128, 128)
        assert image.header.get_zooms() == (1.5, 1.5)
        np.testing.assert_array_equal(image.get_sform(), image.get_qform())
        assert 0 <= image.get_fdata().min() < 0.02
        assert 0.85 < image.get_fdata().max() < 1.3
    labels = nifti(pair.fixed_labels)
    assert labels.get_data_dtype() == np.uint8
    assert set(np.unique(labels.get_fdata())) == {0, 1, 2, 3}
    field = nifti(pair.field)
    assert (field.shape, field.header.get_intent()[0], field.get_data_dtype()) == (
        (128, 128, 1, 1, 2),
        "vector",
        np.float32,
    )
    np.testing.assert_array_equal(field.affine, nifti(pair.fixed).affine)


@pytest.mark.parametrize(("image", "brightest", "darkest"), [("moving", 1, 3), ("moving_same", 3, 1)])
def test_moving_images_are_one_anatomy_in_two_contrasts(
    dataset: Path, image: str, brightest: int, darkest: int
) -> None:
    for pair in read_pairs(dataset / "test" / "pairs.csv"):
        intensities, labels = load(getattr(pair, image)), load(pair.moving_labels)
        means = {k: intensities[labels == k].mean() for k in (1, 2, 3)}
        assert (max(means, key=means.__getitem__), min(means, key=means.__getitem__)) == (brightest, darkest)


@pytest.mark.parametrize("split", ["validation", "test", "rough"])
def test_true_field_aligns_the_pair(dataset: Path, split: str) -> None:
    """Read by SimpleITK as any other warp: the labels overlap, and the same modality differs by noise and bias only."""
    for pair in read_pairs(dataset / split / "pairs.csv"):
        warp = sitk.DisplacementFieldTransform(sitk.ReadImage(str(pair.field), sitk.sitkVectorFloat64))
        fixed, fixed_labels = (
            sitk.ReadImage(str(pair.fixed)),
            sitk.GetArrayFromImage(sitk.ReadImage(str(pair.fixed_labels))),
        )
        labels = sitk.Resample(sitk.ReadImage(str(pair.moving_labels)), fixed, warp, sitk.sitkNearestNeighbor)
        moved = sitk.Resample(sitk.ReadImage(str(pair.moving_same)), fixed, warp, sitk.sitkLinear)
        assert dice(sitk.GetArrayFromImage(labels), fixed_labels) > 0.85
        assert dice(load(pair.moving_labels), load(pair.fixed_labels)) < 0.6
        error = sitk.GetArrayFromImage(moved) - sitk.GetArrayFromImage(fixed)
        assert 100 * np.mean(error**2) < (1.5 if split == "rough" else 0.7)


def test_splits_share_no_level() -> None:
    levels = {split: set(split_levels(split)) for split in ("train", "validation", "test", "rough")}
    assert levels["rough"] == levels["test"]
    assert not (levels["train"] & levels["test"] | levels["train"] & levels["validation"])
    assert not levels["validation"] & levels["test"]
    assert len(set.union(*levels.values())) == len(LEVELS)
    assert (min(levels["test"]), max(levels["test"])) == pytest.approx((LEVELS[0], LEVELS[-1]), abs=7)


def level(path: Path) -> float:
    return float(nifti(path).affine[2, 3])


def test_images_lie_at_the_levels_of_their_split(dataset: Path) -> None:
    for split in ("train", "validation", "test", "rough"):
        for pair in read_pairs(dataset / split / "pairs.csv"):
            assert {level(pair.moving), level(pair.fixed)} <= set(split_levels(split))
            assert abs(level(pair.moving) - level(pair.fixed)) <= (3 if split == "train" else 0)


def test_training_partners() -> None:
    """Four different fixed images for each moving image, all within 3 mm; fewer where there are no more."""
    levels = list(np.tile(split_levels("train"), 3))
    stream = np.random.default_rng
    numbers = training_pairs(levels, stream)
    assert len(set(numbers)) == 4 * len(levels)
    assert max(abs(levels[moving] - levels[fixed]) for moving, fixed in numbers) == 3
    assert training_pairs([0.0, 20.0], stream) == [(0, 0), (1, 1)]
    assert training_pairs([0.0, 0.0, 0.0], stream, heads=[7, 8, 7]) == [(0, 0), (0, 2), (1, 1), (2, 0), (2, 2)]


def test_proton_density_has_a_list_of_its_own(dataset: Path) -> None:
    for split in ("train", "validation", "test", "rough"):
        pairs, pairs_pd = (read_pairs(dataset / split / name) for name in ("pairs.csv", "pairs-pd.csv"))
        assert [pair.moving.name for pair in pairs_pd] == [pair.moving.name.replace("_t2", "_pd") for pair in pairs]
        assert [{**vars(pair), "moving": None} for pair in pairs_pd] == [
            {**vars(pair), "moving": None} for pair in pairs
        ]


def test_same_seed_same_bytes_and_no_image_depends_on_the_others(dataset: Path, tmp_path: Path) -> None:
    everything = digests(dataset)
    phantom.prepare_phantom(tmp_path / "again", seed=3, rough=True, pd=True, train=4, test=2, validation=1)
    assert digests(tmp_path / "again") == everything
    phantom.prepare_phantom(tmp_path / "fewer", seed=3, train=2, test=1, validation=1)
    fewer = images(tmp_path / "fewer")
    assert len(fewer) == 2 * 4 + 2 * 6
    assert fewer.items() <= images(dataset).items()


@pytest.mark.parametrize(
    ("image", "values"),
    [
        ("train/0000_fixed_t1", (125, 2492, 1586, 176)),
        ("train/0000_moving_t2", (325, 1504, 1372, 179)),
        ("validation/0000_fixed_t1", (378, 3191, 2999, 3770)),
        ("validation/0000_moving_t1", (211, 3327, 3170, 2780)),
        ("test/0000_moving_t2", (147, 2680, 1531, 836)),
        ("rough/0000_fixed_t1", (453, 3269, 3503, 3270)),
    ],
)
def test_a_seed_gives_the_images_it_always_gave(dataset: Path, image: str, values: tuple[int, ...]) -> None:
    """Four voxels of the first version's images, in steps on disk; another processor may round the last one apart."""
    stored = nifti(dataset / f"{image}.nii.gz").dataobj.get_unscaled()
    np.testing.assert_allclose([stored[5, 7], stored[64, 40], stored[50, 64], stored[70, 90]], values, atol=2)


def test_another_seed_is_another_data_set(dataset: Path, tmp_path: Path) -> None:
    phantom.prepare_phantom(tmp_path / "other", seed=4, train=1, test=1, validation=1)
    assert not set(images(dataset).values()) & set(images(tmp_path / "other").values())


def test_no_two_images_are_the_same(dataset: Path) -> None:
    assert len(set(images(dataset).values())) == len(images(dataset)) > 0


def test_noise_is_independent(dataset: Path) -> None:
    """In the air beside the brain there is nothing but noise; between no two images is it correlated."""
    acquired = [
        load(path) for path in dataset.rglob("*.nii.gz") if path.name.endswith(("t1.nii.gz", "t2.nii.gz", "pd.nii.gz"))
    ]
    corners = [image[np.ix_(np.r_[:10, -10:0], np.r_[:10, -10:0])].ravel() for image in acquired]
    correlation = np.corrcoef(corners) - np.eye(len(corners))
    assert len(corners) == 3 * 4 + 4 * 5
    assert np.abs(correlation).max() < 5 / np.sqrt(400)


def test_description(dataset: Path) -> None:
    description = json.loads((dataset / "dataset.json").read_text())
    assert description["seed"] == 3
    assert description["labels"] == {"0": "background", "1": "csf", "2": "gm", "3": "wm"}
    assert {split: entry["count"] for split, entry in description["splits"].items()} == {
        "train": 4,
        "validation": 1,
        "test": 2,
        "rough": 2,
    }
    assert description["splits"]["rough"]["noise"] == 0.05
    assert set(description["versions"]) == {"nilearn", "numpy", "scipy"}


def test_a_folder_with_content_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for output in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(InputError, match="not an empty folder"):
            phantom.prepare_phantom(output, train=1, test=1, validation=1)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    phantom.prepare_phantom(Path(), train=1, test=1, validation=1)
    assert (tmp_path / "empty" / "test" / "pairs.csv").is_file()


def test_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, pairs: list[Pair]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(phantom, "write_pairs", full)
    with pytest.raises(InputError, match="dataset: No space left"):
        phantom.prepare_phantom(tmp_path / "dataset", train=1, test=1, validation=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("seed", "train", "test", "validation", "expected"),
    [(-1, 1, 1, 1, "seed = -1"), (0, 0, 1, 1, "train = 0"), (0, 1, -2, 1, "test = -2"), (0, 1, 1, 0, "validation = 0")],
)
def test_numbers_out_of_range_are_refused(
    tmp_path: Path, seed: int, train: int, test: int, validation: int, expected: str
) -> None:
    with pytest.raises(InputError, match=f"{expected}; expected at least"):
        phantom.prepare_phantom(tmp_path / "dataset", seed, train=train, test=test, validation=validation)

"""Data sets of BrainWeb: what is written, from volumes and from models, and what is refused before."""

import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import scipy.ndimage
from brainweb_tree import (
    SMALL,
    TISSUES,
    head_labels,
    use_small_grids,
    write,
    write_fuzzy,
    write_subjects,
    write_volumes,
)
from typer.testing import CliRunner

from crossmorph.cli.main import app
from crossmorph.datasets.brainweb import dataset, heads
from crossmorph.datasets.brainweb.files import Volume, find_files
from crossmorph.datasets.brainweb.heads import PHANTOM_TISSUES, SUBJECT_TISSUES, choose_brain, choose_heads, scan
from crossmorph.datasets.pairs import read_pairs
from crossmorph.errors import InputError
from crossmorph.simulation.anatomy import SHAPE, slice_affine

FEW = {"train": 3, "test": 2, "validation": 1}


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_small_grids(monkeypatch)
        yield


@pytest.fixture(scope="module")
def from_volumes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("volumes")
    write_volumes(folder / "site")
    dataset.prepare_brainweb(folder / "site", folder / "made", 3, noise=0, inu=0, pd=True, **FEW)
    return folder / "made"


def load(path: Path | None) -> np.ndarray:
    assert path is not None
    return np.asarray(nibabel.load(path).dataobj)


def described(folder: Path) -> dict:
    return json.loads((folder / "dataset.json").read_text())


# --- the data set ----------------------------------------------------------------------------------------------------


def test_the_layout_is_the_phantoms(from_volumes):
    counts = {split: len(read_pairs(from_volumes / split / "pairs.csv")) for split in ("train", "validation", "test")}
    assert (counts["validation"], counts["test"]) == (1, 2)
    assert 3 <= counts["train"] <= 9
    pair = read_pairs(from_volumes / "test" / "pairs.csv")[1]
    names = [path.name for path in (pair.moving, pair.fixed, pair.moving_labels, pair.fixed_labels, pair.moving_same)]
    assert names == [
        f"0001_{end}.nii.gz" for end in ("moving_t2", "fixed_t1", "moving_labels", "fixed_labels", "moving_t1")
    ]
    trained = read_pairs(from_volumes / "train" / "pairs.csv")[0]
    assert (trained.moving_same, trained.field) == (None, None)
    assert not list((from_volumes / "train").glob("*moving_t1*"))
    pd = read_pairs(from_volumes / "test" / "pairs-pd.csv")[1]
    assert (pd.moving.name, pd.fixed, pd.field) == ("0001_moving_pd.nii.gz", pair.fixed, pair.field)
    for path in (pair.moving, pair.fixed, pair.moving_labels):
        image = nibabel.load(path)
        assert image.shape == SHAPE
        assert image.header.get_zooms() == (1.5, 1.5)
        assert image.get_fdata().min() >= 0
    assert load(pair.moving).max() <= 1 >= load(pair.fixed).max()


def test_no_two_splits_share_a_level(from_volumes):
    splits = described(from_volumes)["splits"]
    levels = [set(splits[split]["levels_mm"]) for split in ("train", "validation", "test")]
    assert len(set.union(*levels)) == sum(len(some) for some in levels) >= 10
    planes = SMALL["phantom"].affine[2, 3] + 4 * np.arange(46)
    assert set.union(*levels) <= set(planes)
    for split, known in zip(("train", "validation", "test"), levels, strict=True):
        written = {float(nibabel.load(path).affine[2, 3]) for path in (from_volumes / split).glob("*_moving_t2*")}
        assert written <= known


def test_labels_are_all_classes_of_the_model_and_left_is_left(from_volumes):
    seen = set()
    for pair in read_pairs(from_volumes / "train" / "pairs.csv"):
        labels = load(pair.fixed_labels)
        seen |= set(np.unique(labels))
        if (labels == 8).sum() > 20:  # the ball of glia, 25 mm to the right before a shift of at most 9 mm
            affine = nibabel.load(pair.fixed_labels).affine
            assert (affine @ [*np.argwhere(labels == 8).mean(0), 0, 1])[0] > 5
    assert seen == set(range(10))
    assert described(from_volumes)["labels"]["9"] == "connective"


def test_the_true_field_takes_the_moving_head_to_the_fixed_one(from_volumes):
    for pair in read_pairs(from_volumes / "test" / "pairs.csv"):
        field = nibabel.load(pair.field)
        assert field.header.get_intent()[0] == "vector"
        u = np.moveaxis(field.get_fdata().reshape(*SHAPE, 2), -1, 0) * np.array([-1, -1])[:, None, None] / 1.5
        where = np.indices(SHAPE) + u
        moved = scipy.ndimage.map_coordinates(load(pair.moving_same), where, order=1)
        fixed = load(pair.fixed)
        before = np.mean((load(pair.moving_same) - fixed) ** 2)
        assert np.mean((moved - fixed) ** 2) < 0.15 * before
        labels = scipy.ndimage.map_coordinates(load(pair.moving_labels), where, order=0)
        assert (labels == load(pair.fixed_labels)).mean() > 0.93


def test_images_are_slices_of_the_volumes(from_volumes):
    """Where the label is deep inside its class, the image has the grey that the volume has there."""
    assert described(from_volumes)["simulated_from_the_model"] == []
    pair = read_pairs(from_volumes / "test" / "pairs.csv")[0]
    for path, labels, modality in (
        (pair.moving, pair.moving_labels, "t2"),
        (pair.moving_same, pair.moving_labels, "t1"),
        (pair.fixed, pair.fixed_labels, "t1"),
    ):
        deep = scipy.ndimage.binary_erosion(load(labels) == 3, iterations=6)
        grey = {"t2": 110, "t1": 180}[modality] / 255
        assert deep.sum() > 50
        np.testing.assert_allclose(load(path)[deep], grey, atol=0.05)  # its neighbours are 0.15 away


def test_the_same_arguments_give_the_same_bytes(from_volumes, tmp_path):
    site = from_volumes.parent / "site"
    dataset.prepare_brainweb(site, tmp_path / "again", 3, noise=0, inu=0, pd=True, **FEW)
    paths = sorted(path.relative_to(from_volumes) for path in from_volumes.rglob("*.*"))
    assert paths == sorted(path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*.*"))
    assert all((from_volumes / path).read_bytes() == (tmp_path / "again" / path).read_bytes() for path in paths)
    one = {"train": 1, "test": 1, "validation": 1}
    dataset.prepare_brainweb(site, tmp_path / "other", 4, noise=0, inu=0, **one)
    name = "test/0000_field.nii.gz"
    assert np.abs(load(from_volumes / name) - load(tmp_path / "other" / name)).max() > 1


def test_subjects_are_simulated_and_no_two_splits_share_one(tmp_path):
    write_subjects(tmp_path / "site", (4, 5, 38, 54), t1=True)
    dataset.prepare_brainweb(tmp_path / "site", tmp_path / "made", train=3, test=1, validation=1)
    found = described(tmp_path / "made")
    heads = [found["splits"][split]["heads"] for split in ("train", "validation", "test")]
    assert [len(some) for some in heads] == [2, 1, 1]
    assert sorted(name for some in heads for name in some) == ["subject04", "subject05", "subject38", "subject54"]
    assert (found["simulated_from_the_model"], found["labels"]["11"]) == (["t2"], "marrow")
    pair = read_pairs(tmp_path / "made" / "test" / "pairs.csv")[0]
    deep = scipy.ndimage.binary_erosion(load(pair.fixed_labels) == 3, iterations=6)
    np.testing.assert_allclose(load(pair.fixed)[deep], 180 / 255, atol=0.02)  # of the T1w volume
    deep = scipy.ndimage.binary_erosion(load(pair.moving_labels) == 3, iterations=6)
    assert 0.02 < load(pair.moving)[deep].std() < 0.06  # 3% noise, and the field


def test_lesions_have_their_label(tmp_path):
    write_fuzzy(tmp_path / "site", "msles2")
    one = {"train": 4, "test": 1, "validation": 1}
    dataset.prepare_brainweb(tmp_path / "site", tmp_path / "made", noise=0, inu=0, **one)
    assert described(tmp_path / "made")["labels"]["10"] == "MS lesion"
    assert described(tmp_path / "made")["simulated_from_the_model"] == ["t2", "t1"]
    maps = [load(path) for path in (tmp_path / "made").glob("*/*_labels.nii.gz")]
    assert set(np.unique(maps)) >= {1, 2, 3, 10}


# --- slices ----------------------------------------------------------------------------------------------------------


def test_crisp_and_fuzzy_models_give_one_slice(tmp_path):
    write_fuzzy(tmp_path / "fuzzy", suffix=".rawb.gz")
    write(tmp_path / "crisp" / "phantom_1.0mm_normal_crisp.mnc", head_labels(SMALL["phantom"]), SMALL["phantom"])
    slices, levels = [], []
    for name in ("fuzzy", "crisp"):
        files = find_files(tmp_path / name)
        head = heads.load_head(choose_heads(tmp_path, files, "normal", 3, 20, ("t2", "t1"))[0])
        levels.append(heads.brain_levels(head))
        slices.append(heads.slice_fractions(head, levels[-1][10]))
    assert levels[0] == levels[1]
    np.testing.assert_allclose(slices[0], slices[1], atol=1e-6)
    assert slices[0].shape == (9, *SHAPE)
    assert slices[0].sum(0).max() <= 1 + 1e-9
    # Against the labels themselves, looked up at each voxel's millimetres.
    grid = np.stack([*np.indices(SHAPE), np.zeros(SHAPE), np.ones(SHAPE)]).reshape(4, -1)
    where = np.linalg.solve(SMALL["phantom"].affine, slice_affine(levels[0][10]) @ grid)[:3]
    labels = scipy.ndimage.map_coordinates(head_labels(SMALL["phantom"]), where, order=0).reshape(SHAPE)
    for label in (1, 2, 3, 8):
        assert ((slices[0][label - 1] > 0.5) == (labels == label)).mean() > 0.96


def test_levels_are_a_millimetre_apart_and_show_enough_brain():
    """Half-millimetre planes are taken in twos: by hand, planes 2 to 7 of 9 are brain, of 120 x 100 mm."""
    labels = np.zeros((260, 220, 9), np.uint8)
    labels[:240, :200, 2:8] = 2
    affine = np.diag([0.5, 0.5, 0.5, 1.0])
    affine[:3, 3] = -60, -67, -72.25
    head = heads.LoadedHead(SUBJECT_TISSUES, (Volume(labels, affine),), {})
    assert heads.brain_levels(head) == [-71.0, -70.0, -69.0]
    fractions = heads.slice_fractions(head, -71.0)
    assert fractions[1, 64, 64] == pytest.approx(1)
    labels[:, :, 3] = 0  # half of the first slice
    assert heads.brain_levels(head) == [-70.0, -69.0]
    # A header's rounding does not make one of the two planes the nearer one.
    assert heads.slice_fractions(head, -71.0 + 1e-9)[1, 64, 64] == pytest.approx(0.5)
    assert heads.slice_fractions(head, -71.0 - 1e-9)[1, 64, 64] == pytest.approx(0.5)


def test_scans_have_the_sites_signals():
    """Each label alone in a voxel, without noise: T1w, T2w and PDw by hand, relative to fat, fluid and lesion."""
    fractions = np.eye(10)[:, :, None].repeat(10, 2)
    rng = np.random.default_rng(0)
    images = {m: scan(fractions, PHANTOM_TISSUES, m, 0, 0, rng)[:, 0] for m in ("t1", "t2", "pd")}
    # CSF, GM, WM, fat, muscle, skin, skull, glia, connective, lesion.
    # T1w of white matter: E1 = exp(-18 / 500) = .96464, .77 * .5 * .03536 / .16460 * exp(-10 / 61) = .07020; of fat
    # .11892. T2w of fluid: exp(-120 / 329) * .71007 = .49304, of white matter .77 * exp(-120 / 70) * .99828 = .13843.
    by_hand = {
        "t1": [0.1765, 0.4385, 0.5903, 1.0, 0.3947, 0.1765, 0, 0.4385, 0.5903, 0.4659],
        "t2": [1.0, 0.4019, 0.2808, 0.3652, 0.1533, 1.0, 0, 0.4019, 0.2808, 0.9155],
        "pd": [0.9880, 0.8539, 0.7216, 0.9386, 0.7135, 0.9880, 0, 0.8539, 0.7216, 1.0],
    }
    for modality, expected in by_hand.items():
        np.testing.assert_allclose(images[modality], expected, atol=1e-4)


def test_noise_and_field_are_as_large_as_they_say():
    fractions = np.zeros((9, 60, 60))
    fractions[2, 10:50, 10:50] = 1  # white matter, to which T1w's noise refers
    rng = np.random.default_rng(1)
    flat = scan(fractions, PHANTOM_TISSUES[:9], "t1", 9, 0, rng)[15:45, 15:45]
    assert flat.std() / flat.mean() == pytest.approx(0.09, rel=0.1)
    bent = scan(fractions, PHANTOM_TISSUES[:9], "t1", 0, 40, rng)[10:50, 10:50]
    white = scan(fractions, PHANTOM_TISSUES[:9], "t1", 0, 0, rng)[30, 30]
    assert (bent.min() / white, bent.max() / white) == pytest.approx((0.8, 1.2), abs=1e-3)


# --- which files -----------------------------------------------------------------------------------------------------


def site(folder: Path, names: str) -> dict[str, Path]:
    for name in names.split():
        (folder / name).touch()
    return find_files(folder)


T1, T2, CRISP = (
    "t1_icbm_normal_1mm_pn3_rf20.mnc",
    "t2_icbm_normal_1mm_pn3_rf20.rawb.gz",
    "phantom_1.0mm_normal_crisp.mnc",
)
FUZZY = " ".join(f"phantom_1.0mm_normal_{tissue}.mnc" for tissue in TISSUES.values() if tissue != "wml")
LACKING = {
    "T2": (f"{T1} {CRISP}", r"t2_icbm_normal_1mm_pn3_rf20 is missing .*beside t1_icbm_normal_1mm_pn3_rf20"),
    "noise level": (f"{T1} {T2} {CRISP}".replace("pn3", "pn9"), r"t2_icbm_normal_1mm_pn3_rf20 is missing .*pn9"),
    "model": (f"{T1} {T2}", r"phantom_1\.0mm_normal_crisp is missing"),
    "tissue": (FUZZY.replace("phantom_1.0mm_normal_skl.mnc", ""), r"phantom_1\.0mm_normal_skl is missing"),
    "subject's model": ("subject04_t1w_p4.mnc", r"subject04_crisp_v is missing"),
    "subject's T1w": (
        "subject04_crisp_v.mnc subject05_crisp_v.mnc subject06_crisp_v.mnc subject05_t1w_p4.mnc",
        r"subject04_t1w is missing .*beside that of subject05",
    ),
    "subjects": ("subject04_crisp_v.mnc subject05_crisp_v.mnc", r"2 subjects \(subject04, subject05\); expected at"),
    "all": ("notes.txt", r"holds no file of BrainWeb; expected, as \.mnc"),
    "choice": (f"{CRISP} subject04_crisp_v.mnc", r"holds files of normal, subjects; expected one of them to be chosen"),
}


@pytest.mark.parametrize("what", LACKING)
def test_what_is_missing_is_named_before_anything_is_read(tmp_path, what):
    names, reason = LACKING[what]
    folder = tmp_path / "site"
    folder.mkdir()
    site(folder, names)  # of no content: an error in reading would be another
    with pytest.raises(InputError, match=f"^{re.escape(str(folder))}: .*{reason}"):
        dataset.prepare_brainweb(folder, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_files_are_chosen(tmp_path):
    files = site(tmp_path, f"{T1} {T2} {CRISP} {T1.replace('pn3', 'pn0')} phantom_1.0mm_msles2_crisp.mnc")
    assert choose_heads(tmp_path, files, "normal", 3, 20, ("t2", "t1")) == [
        heads.Head("normal", "phantom", (tmp_path / CRISP,), {"t2": tmp_path / T2, "t1": tmp_path / T1})
    ]
    lesions = choose_heads(tmp_path, files, "msles2", 3, 20, ("t2", "t1"))[0]
    assert (lesions.model, lesions.images) == ((tmp_path / "phantom_1.0mm_msles2_crisp.mnc",), {})
    assert (len(lesions.tissues), lesions.tissues[-1].name) == (10, "MS lesion")
    files = site(tmp_path, FUZZY)
    assert len(choose_heads(tmp_path, files, "normal", 3, 20, ("t2", "t1"))[0].model) == 9
    assert choose_brain(tmp_path, ["subject04_crisp"]) == "subjects"


def test_a_file_is_refused_before_the_first_image(tmp_path, monkeypatch):
    write_volumes(tmp_path / "site")
    monkeypatch.setattr(dataset, "write_intensities", lambda *_: pytest.fail("an image was written"))
    path = tmp_path / "site" / "mri" / "t2_icbm_normal_1mm_pn0_rf0.rawb.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: is truncated"):
        dataset.prepare_brainweb(tmp_path / "site", tmp_path / "made", noise=0, inu=0)
    labels = head_labels(SMALL["phantom"])
    labels[:, :, 15:] = 0
    write(tmp_path / "flat" / "phantom_1.0mm_normal_crisp.rawb", labels, SMALL["phantom"])
    with pytest.raises(InputError, match=r"normal_crisp\.rawb: \d slices show enough of a brain; expected at least 10"):
        dataset.prepare_brainweb(tmp_path / "flat", tmp_path / "made")
    assert not (tmp_path / "made").exists()
    for wrong in ({"noise": 2}, {"inu": 30}, {"train": 0}, {"seed": -1}):
        with pytest.raises(InputError, match=f"^{next(iter(wrong))} = "):
            dataset.prepare_brainweb(tmp_path / "site", tmp_path / "made", **wrong)


def test_the_command(tmp_path):
    write_volumes(tmp_path / "site")
    words = ["prepare", "brainweb", str(tmp_path / "site"), "-o", str(tmp_path / "made"), "--noise", "0", "--inu", "0"]
    counts = ["--train", "1", "--test", "1", "--validation", "1", "--seed", "7"]
    done = CliRunner().invoke(app, [*words, *counts], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.output.split() == [
        word for split in ("train", "validation", "test") for word in ("wrote", f"{tmp_path}/made/{split}/pairs.csv")
    ]
    assert described(tmp_path / "made")["seed"] == 7
    with pytest.raises(InputError, match="brain = cat; expected one of normal, msles1"):
        CliRunner().invoke(app, [*words, "--brain", "cat"], catch_exceptions=False)

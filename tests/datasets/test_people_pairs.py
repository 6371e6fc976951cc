"""Pairs of people as files, and the commands that make them."""

import json

import numpy as np
import pytest
from people_scene import draw_people
from typer.testing import CliRunner

from crossmorph.cli.datasets import app
from crossmorph.datasets.anatomies import prepare_anatomies
from crossmorph.datasets.pairs import read_pairs
from crossmorph.datasets.people_pairs import pairs_spec, prepare_people
from crossmorph.errors import InputError
from crossmorph.functional.metrics import mean_dice
from crossmorph.images.io import read_image
from crossmorph.transforms.warp import Warp, resample


@pytest.fixture(scope="module")
def anatomies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    splits = draw_people(folder / "maps")
    prepare_anatomies([folder / "maps"], folder / "set", splits=splits)
    return folder / "set"


def unregistered_dice(pair) -> float:
    fixed = read_image(pair.fixed_labels, labels=True)
    still = Warp(np.zeros((3, *fixed.shape), np.float32), fixed.affine)
    moved = resample(read_image(pair.moving_labels, labels=True), still, "nearest")
    return mean_dice(moved.data, fixed.data)


def test_images_and_labels_are_of_one_grid_and_one_head(anatomies, tmp_path):
    path = prepare_people(anatomies, tmp_path / "pairs", pairs_spec(split="validation", spacing=4, pairs=1))
    (pair,) = read_pairs(path)
    described = json.loads((path.parent / "dataset.json").read_text())
    names = {name: int(code) for code, name in described["labels"].items()}
    t1, labels = read_image(pair.fixed), read_image(pair.fixed_labels, labels=True)
    assert t1.shape == labels.shape
    np.testing.assert_allclose(t1.affine, labels.affine)
    np.testing.assert_allclose(t1.spacing, 4, atol=1e-5)
    white, grey, ventricle = (
        t1.data[labels.data == names[name]].mean() for name in ("left white matter", "left cortex", "third ventricle")
    )
    assert ventricle < grey < white
    same = read_image(pair.moving_same)
    assert same.shape == read_image(pair.moving).shape
    assert not set(np.unique(labels.data)) & {names["skin"], names["outer csf"]}
    # Left is where x is smaller.
    left, right = (np.argwhere(labels.data == names[f"{side} cortex"])[:, 0].mean() for side in ("left", "right"))
    assert left < right


def test_aligned_people_lie_nearer_and_brains_lose_their_heads(anatomies, tmp_path):
    lists = {
        aligned: prepare_people(
            anatomies, tmp_path / f"{aligned}", pairs_spec(spacing=4, pairs=1, aligned=aligned, show="brains")
        )
        for aligned in (False, True)
    }
    dice = {aligned: unregistered_dice(read_pairs(path)[0]) for aligned, path in lists.items()}
    assert dice[True] > dice[False]
    (pair,) = read_pairs(lists[True])
    image = read_image(pair.fixed).data
    assert image[:, :, 0].max() < 0.35  # air and its noise


def test_the_same_arguments_give_the_same_bytes(anatomies, tmp_path):
    spec = pairs_spec(spacing=4, pairs=1, moving="flair", fixed="ct")
    first, second = (prepare_people(anatomies, tmp_path / name, spec).parent for name in ("one", "two"))
    files = sorted(path.name for path in first.iterdir())
    assert "0000_moving_flair.nii.gz" in files
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in files)


def test_nobody_to_pair_is_refused(anatomies, tmp_path):
    with pytest.raises(InputError, match="nobody to pair in the split validation"):
        prepare_people(anatomies, tmp_path / "pairs", pairs_spec(show="heads"))
    with pytest.raises(InputError, match="holds nobody of the split test"):
        prepare_people(anatomies, tmp_path / "pairs", pairs_spec(split="test"))


@pytest.mark.parametrize(("choice", "value"), [("spacing", 20), ("split", "all"), ("moving", "t3"), ("pairs", 0)])
def test_a_choice_that_is_none_is_refused_by_name(choice, value):
    with pytest.raises(InputError, match=rf"^{choice}: .*received {value!r}"):
        pairs_spec(**{choice: value})


def test_the_commands_make_the_set_and_the_pairs(tmp_path):
    splits = draw_people(tmp_path / "maps")
    (tmp_path / "maps" / "torn.nii.gz").write_bytes(b"torn")
    words = ["anatomies", tmp_path / "maps", "-o", tmp_path / "set", "--splits", splits]
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    assert "refused" in done.output
    assert "torn.nii.gz" in done.output
    assert "4 label maps (2 train, 2 validation, 0 test)" in done.output
    words = ["people", tmp_path / "set", "-o", tmp_path / "pairs", "--spacing", 4, "--show", "brains", "--pairs", 1]
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    assert len(read_pairs(tmp_path / "pairs" / "pairs.csv")) == 1

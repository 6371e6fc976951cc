"""Tasks of Learn2Reg as lists of pairs, with the files that a task has."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from crossmorph.cli.datasets import app
from crossmorph.datasets.learn2reg import prepare_learn2reg
from crossmorph.datasets.pairs import read_pairs
from crossmorph.errors import InputError
from crossmorph.evaluation.evaluate import evaluate
from crossmorph.images.image import Image
from crossmorph.images.io import write_image

IMAGES = (
    *("imagesTr/OASIS_0395_0000", "imagesTr/OASIS_0396_0000"),
    *("imagesTs/OASIS_0001_0000", "imagesTs/OASIS_0001_0001"),
)


def named(fixed: int, moving: int) -> dict[str, str]:
    return {"fixed": f"./{IMAGES[fixed]}.nii.gz", "moving": f"./{IMAGES[moving]}.nii.gz"}


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A task as the challenge lays it out: labels of the training images only."""
    rng = np.random.default_rng(0)
    for name in IMAGES:
        path = tmp_path / f"{name}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        write_image(path, Image(rng.random((6, 7, 8)).astype(np.float32), np.eye(4)))
        if "Tr" in name:
            labels = tmp_path / f"{name}.nii.gz".replace("images", "labels")
            labels.parent.mkdir(exist_ok=True)
            write_image(labels, Image(rng.integers(0, 3, (6, 7, 8)).astype(np.uint8), np.eye(4)))
    description = {
        "name": "OASIS",
        "tensorImageShape": {"0": [6, 7, 8]},
        "training": [{"image": named(0, 0)["fixed"], "label": "./labelsTr/OASIS_0395_0000.nii.gz"}],
        "registration_val": [named(0, 1), named(1, 0)],
        "registration_test": [named(2, 3), named(3, 2), named(0, 3)],
    }
    (tmp_path / "OASIS_dataset.json").write_text(json.dumps(description))
    return tmp_path


def test_pairs_with_labels_and_the_names_of_their_fields(task: Path) -> None:
    path = prepare_learn2reg(task)
    assert path == task / "pairs.csv"
    first, second = read_pairs(path)
    assert (first.name, second.name) == ("0395_0396", "0396_0395")
    assert first.moving == task / "imagesTr/OASIS_0396_0000.nii.gz"
    assert first.moving_labels == task / "labelsTr/OASIS_0396_0000.nii.gz"
    assert first.fixed_labels == task / "labelsTr/OASIS_0395_0000.nii.gz"
    rows = evaluate(path, ["none"], task / "rows.csv")
    assert all("dice" in row.scores for row in rows)

    tested = read_pairs(prepare_learn2reg(task / "OASIS_dataset.json", task / "test.csv", "test"))
    assert [pair.name for pair in tested] == ["0001_0001", "0001_0001_0001_0000", "0395_0001"]
    assert tested[0].fixed_labels is None


def test_lumirs_name_of_the_pairs(task: Path) -> None:
    (task / "OASIS_dataset.json").write_text(json.dumps({"validation": [named(1, 0)]}))
    (pair,) = read_pairs(prepare_learn2reg(task))
    assert pair.name == "0396_0395"


BAD = {
    "no pairs": (json.dumps({"validation": [{"image": "a"}]}), "names no pairs for validation"),
    "not a task": ("[]", "not a Learn2Reg task"),
    "no image": (json.dumps({"registration_val": [{"fixed": "imagesTr/a", "moving": "imagesTr/b"}]}), "does not exist"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_task_that_cannot_be_used(case: str, task: Path) -> None:
    content, reason = BAD[case]
    (task / "OASIS_dataset.json").write_text(content)
    with pytest.raises(InputError, match=reason):
        prepare_learn2reg(task)
    assert not (task / "pairs.csv").exists()


def test_the_command(task: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    done = CliRunner().invoke(app, ["learn2reg", str(task), "--split", "test"])
    assert done.exit_code == 0, done.output
    assert len(read_pairs(task / "pairs.csv")) == 3
    with pytest.raises(InputError, match="lies outside the folder of the list"):
        prepare_learn2reg(task, tmp_path_factory.mktemp("elsewhere") / "pairs.csv")
    (task / "OASIS_dataset.json").unlink()
    with pytest.raises(InputError, match="holds none; expected a Learn2Reg task"):
        prepare_learn2reg(task)

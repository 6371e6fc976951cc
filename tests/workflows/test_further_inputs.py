"""Masks, points and further images: from the command line to the record, and back by a replay."""

import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from small_model import draw, save_weights

import crossmorph as cm
from crossmorph.cli import main
from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import read_image, write_image
from crossmorph.workflows.replay import replay


class Given(NamedTuple):
    """A small pair, the words that register it by a small model, and where."""

    folder: Path
    words: list[str]

    def run(self, *more: object) -> int:
        """The exit code of `register`."""
        return code(*self.words, *more)


def code(*words: object) -> int:
    """The exit code of a command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["crossmorph", *map(str, words)])
        try:
            main.main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


@pytest.fixture
def given(tmp_path: Path) -> Given:
    for seed, name in enumerate(("moving", "fixed", "moving2", "fixed2")):
        draw(tmp_path / f"{name}.nii", seed)
    save_weights(tmp_path / "model", 0)
    masks = {"look": np.ones((16, 18)), "hole": np.zeros((16, 18))}
    masks["look"][:3] = 0
    masks["hole"][4:8, 5:9] = 1
    affine = np.diag([1.5, 1.5, 1.0])
    for name, mask in masks.items():
        write_image(tmp_path / f"{name}.nii", Image(mask.astype(np.uint8), affine))
    # LPS millimetres of voxels (5, 6), (11, 9) and of half a voxel aside.
    (tmp_path / "fixed.csv").write_text("x,y,z\n-7.5,-9,0\n-16.5,-13.5,0\n")
    (tmp_path / "moving.csv").write_text("x,y,z\n-9,-9,0\n-16.5,-13.5,0\n")
    output = ["-o", f"{tmp_path}/moved.nii", "-t", f"{tmp_path}/t.nii.gz"]
    words = ["register", f"{tmp_path}/moving.nii", f"{tmp_path}/fixed.nii", *output]
    return Given(tmp_path, [*words, "--model", f"{tmp_path}/model", "--keep-failed", "--init", "none"])


def record(given: Given) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((given.folder / "t.json").read_text())
    return found


EVERYTHING = {
    "--fixed-mask": "look",
    "--moving-mask": "look",
    "--ignore-fixed": "hole",
    "--ignore-moving": "hole",
    "--moving": "moving2",
    "--fixed": "fixed2",
}


def test_all_of_it_is_in_the_record_and_a_replay_gives_the_same(given: Given) -> None:
    words = [word for option, name in EVERYTHING.items() for word in (option, f"{given.folder}/{name}.nii")]
    points = ["--points", f"{given.folder}/moving.csv", f"{given.folder}/fixed.csv", "--points-accuracy", "0.4"]
    assert given.run(*words, *points, "--ignored", f"{given.folder}/ignored.nii") in (0, 3)  # 3: a check failed
    told = record(given)
    roles = [each["role"] for each in told["inputs"]]
    masks = ["moving_mask", "fixed_mask", "ignore_moving", "ignore_fixed"]
    assert roles[2:] == [*masks, "moving_2", "fixed_2", "moving_points", "fixed_points"]
    assert told["settings"]["refine"] == "on"  # a further image takes part in the refinement
    assert told["measures"]["points_final"] <= 0.4 < told["measures"]["points_initial"]
    assert told["measures"]["ignored"] == 16 * 1.5**2
    ignored = read_image(given.folder / "ignored.nii", labels=True).data
    assert np.array_equal(ignored, read_image(given.folder / "hole.nii", labels=True).data)
    assert replay(given.folder / "t.json").same


def test_each_of_them_changes_the_result(given: Given) -> None:
    def measures(*words: object) -> object:
        given.run(*words, "--refine", "on")
        return record(given)["measures"]

    plain = measures()
    for option, name in EVERYTHING.items():
        pair = ("--fixed", f"{given.folder}/fixed2.nii") if option == "--moving" else ()
        if option != "--fixed":
            assert measures(option, f"{given.folder}/{name}.nii", *pair) != plain, option


def test_sides_may_be_given_by_name_alone(given: Given) -> None:
    named = ["register", "--moving", given.words[1], "--fixed", given.words[2], *given.words[3:]]
    given.run()
    positional = (given.folder / "moved.nii").read_bytes()
    code(*named)
    assert (given.folder / "moved.nii").read_bytes() == positional


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--moving", "moving2.nii", "--moving", "moving2.nii", "--fixed", "fixed2.nii"],
            "3 moving and 2 fixed images",
        ),
        (["--ignore", "maybe"], "ignore 'maybe': expected none, auto"),
        (["--points-accuracy", "0"], "points accuracy 0.0: expected millimetres above 0"),
        (["--points", "moving.csv", "one.csv"], "received 2 of the moving and 1 of the fixed image"),
        (["--fixed-mask", "moving.csv"], "moving.csv"),
        (["--fixed-mask", "nowhere.nii"], "No such file|does not exist|no such file"),
        (["--stage", "rigid", "--points", "moving.csv", "fixed.csv"], "stage rigid: received --points"),
        (["--stage", "rigid", "--ignore", "auto"], "stage rigid: received --ignore auto"),
        (["--stage", "affine", "--moving", "moving2.nii", "--fixed", "fixed2.nii"], "received further images"),
        (
            ["--moving", "moving2.nii", "--fixed", "fixed2.nii", "--refine", "off"],
            "further images take part.*expected --refine",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(given: Given, words: list[str], message: str, capsys, monkeypatch) -> None:
    monkeypatch.chdir(given.folder)
    (given.folder / "one.csv").write_text("x,y,z\n-7.5,-9,0\n")
    call = [word for word in given.words if word not in ("--model", f"{given.folder}/model")]
    assert code(*(call if "--stage" in words else given.words), *words) == 2
    said = capsys.readouterr().err
    assert re.search(message, said), said
    assert not (given.folder / "moved.nii").exists()


def test_a_list_of_pairs_takes_none_of_them(given: Given, capsys) -> None:
    words = ["register", "--pairs", given.folder / "pairs.csv", "-o", given.folder / "out"]
    assert code(*words, "--fixed-mask", given.folder / "look.nii") == 2
    assert "expected no MOVING, FIXED, masks, points" in capsys.readouterr().err


def test_the_same_in_python_from_memory(given: Given) -> None:
    read = {name: read_image(given.folder / f"{name}.nii") for name in ("moving", "fixed", "moving2", "fixed2")}
    hole = read_image(given.folder / "hole.nii", labels=True)
    fixed = np.array([[7.5, 9.0], [16.5, 13.5]])
    result = cm.register(
        read["moving"],
        read["fixed"],
        model=str(given.folder / "model"),
        init="none",
        ignore_fixed=(hole.data, hole.affine),
        others=[(read["moving2"], read["fixed2"])],
        points=(fixed + np.array([[1.5, 0], [0, 0]]), fixed),
        points_accuracy=0.4,
    )
    words = [f"--ignore-fixed={given.folder}/hole.nii", f"--moving={given.folder}/moving2.nii"]
    points = ["--points", given.folder / "moving.csv", given.folder / "fixed.csv", "--points-accuracy", "0.4"]
    given.run(*words, f"--fixed={given.folder}/fixed2.nii", *points)
    assert np.allclose(result.moved.data, read_image(given.folder / "moved.nii").data, atol=1e-6)
    assert [check.level for check in result.checks if check.name == "points"] == ["passed"]
    with pytest.raises(InputError, match="received mask; expected some of moving_mask"):
        cm.register(read["moving"], read["fixed"], mask=hole)


def test_what_is_ignored_is_shown_as_it_is(given: Given) -> None:
    """The moved image and the translation show the lesion, although the networks do not see it."""
    image = read_image(given.folder / "moving.nii")
    hole = read_image(given.folder / "hole.nii", labels=True).data > 0
    write_image(given.folder / "moving.nii", Image(np.where(hole, 5.0, image.data).astype(np.float32), image.affine))
    given.run("--ignore-moving", given.folder / "hole.nii", "--translated", given.folder / "translated.nii")
    moved = read_image(given.folder / "moved.nii").data
    assert moved.max() > 4
    assert not code("apply", given.folder / "t.nii.gz", given.folder / "moving.nii", given.folder / "again.nii")
    assert np.allclose(moved, read_image(given.folder / "again.nii").data, atol=1e-5)


def test_the_report_shows_what_was_ignored_and_the_points(given: Given) -> None:
    points = ["--points", given.folder / "moving.csv", given.folder / "fixed.csv"]
    given.run("--ignore-fixed", given.folder / "hole.nii", *points, "--report", given.folder / "page.html")
    page = (given.folder / "page.html").read_text(encoding="utf-8")
    assert "ignored" in page
    assert "Ignored in the fixed image" in page
    assert "Corresponding points, of the result" in page

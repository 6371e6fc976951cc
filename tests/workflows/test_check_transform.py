"""Somebody else's transform checked: right ones pass, shifted ones do not, and whose file it is makes no difference."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import SimpleITK as sitk
import typer
from numpy import ndarray
from typer.testing import CliRunner, Result

from crossmorph.cli.checks import add_commands
from crossmorph.datasets.pairs import read_pairs
from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import read_image, write_image
from crossmorph.quality.calibration.pairs import draw
from crossmorph.quality.calibration.simulated_pair import Setting
from crossmorph.transforms.affine_files import write_affine_transform, write_ants, write_fsl_affine
from crossmorph.transforms.warp import Warp, followed_by
from crossmorph.transforms.warp_files import read_transform, write_transform
from crossmorph.workflows.check_transform import Checked, check_transform
from crossmorph.workflows.transform_files import convert_file


class Scene(NamedTuple):
    """A pair with its true field, as files, and the moving anatomy in the fixed image's contrast."""

    moving: Path
    fixed: Path
    truth: Path
    folder: Path
    same: Path

    def check(self, *transforms: Path, **options: object) -> Checked:
        return check_transform(self.moving, self.fixed, transforms, **options)


def shifted(dim: int, *millimetres: float) -> ndarray:
    matrix = np.eye(dim + 1)
    matrix[:dim, dim] = millimetres
    return matrix


def directed(dim: int, length: float) -> ndarray:
    return shifted(dim, *(length / np.sqrt(dim) * np.array([1, -1, 1])[:dim]))


@pytest.fixture(scope="module")
def slices(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    pair = read_pairs(phantom / "validation" / "pairs.csv")[0]
    assert pair.field
    assert pair.moving_same
    folder = tmp_path_factory.mktemp("given")
    for length in (3, 6, 12):
        write_affine_transform(folder / f"shift{length}.mat", directed(2, length))
    return Scene(pair.moving, pair.fixed, pair.field, folder, pair.moving_same)


def levels(checked: Checked) -> dict[str, str]:
    return {each.name: each.level for each in checked.found.checks}


def test_the_true_field_passes_and_the_further_it_is_moved_the_worse_it_gets(slices: Scene) -> None:
    right = slices.check(slices.truth)
    assert set(levels(right).values()) == {"passed"}
    assert right.passed
    assert right.found.measures.expected_error < 1.5
    for length, level in ((3, {"warning", "failed"}), (6, {"failed"}), (12, {"failed"})):
        wrong = slices.check(slices.folder / f"shift{length}.mat", slices.truth)
        assert levels(wrong)["expected error"] in level
        assert wrong.found.measures.expected_error == pytest.approx(length, abs=1)
        assert levels(wrong)["folding"] == "passed"


def test_of_two_transforms_the_nearer_is_better(slices: Scene) -> None:
    near, far = (slices.folder / f"shift{length}.mat" for length in (3, 6))
    whole = {path: path.with_suffix(".h5") for path in (near, far)}
    for path, length in ((near, 3), (far, 6)):
        write_transform(whole[path], followed_by(read_transform(slices.truth), directed(2, length)))
    found = slices.check(whole[near], against=whole[far])
    assert found.comparison.better == "first"
    assert found.comparison.difference == pytest.approx(3, abs=0.7)
    assert found.comparison.low > 0
    text = found.as_text()
    assert f"{whole[near]} is better than {whole[far]}" in text
    again = slices.check(whole[far], against=whole[near])
    assert again.comparison.better == "other"
    assert f"{whole[near]} is better than {whole[far]}" in again.as_text()


def test_no_transform_asks_whether_the_images_are_aligned(slices: Scene) -> None:
    """Two contrasts of one anatomy; then a pair that has to be registered."""
    aligned = check_transform(slices.moving, slices.same)
    assert set(levels(aligned).values()) == {"passed"}
    assert {"folding", "stretch", "mutual information", "stages"} <= set(aligned.found.left_out)
    assert not set(levels(aligned)) & set(aligned.found.left_out)
    assert "as their headers place them" in aligned.as_text()
    assert levels(slices.check())["expected error"] == "failed"


def kinds(folder: Path, truth: Warp) -> dict[str, list[Path]]:
    """The same transform in the files of all programs that have one for slices."""
    affine = np.array([[1.02, 0.03, 2.0], [-0.02, 0.99, -1.0], [0, 0, 1]])
    rest = followed_by(truth, np.linalg.inv(affine))
    write_ants(folder / "P", affine, truth, Warp.identity(truth))
    for name in ("whole.h5", "whole.nii.gz"):
        write_transform(folder / name, truth)
    write_transform(folder / "rest.h5", rest)
    for name in ("a.tfm", "a.txt"):
        write_affine_transform(folder / name, affine)
    parts = [sitk.ReadTransform(str(folder / name)) for name in ("a.tfm", "rest.h5")]
    composite = sitk.CompositeTransform(parts)
    composite.FlattenTransform()
    sitk.WriteTransform(composite, str(folder / "composite.h5"))
    return {
        "warp": [folder / "whole.nii.gz"],
        "ANTs": [folder / "P1Warp.nii.gz", folder / "P0GenericAffine.mat"],
        "composite": [folder / "composite.h5"],
        "ITK": [folder / "rest.h5", folder / "a.txt"],
    }


def assert_same(found: Checked, expected: Checked) -> None:
    assert levels(found) == levels(expected)
    ours, theirs = found.found.measures.as_dict(), expected.found.measures.as_dict()
    for name in ("expected_error", "remaining_displacement", "overlap", "mutual_information_final"):
        assert ours[name] == pytest.approx(theirs[name], abs=0.02, rel=0.02)


def test_every_kind_of_file_gives_the_same_result(slices: Scene, tmp_path: Path) -> None:
    files = kinds(tmp_path, read_transform(slices.truth))
    expected = slices.check(tmp_path / "whole.h5")
    for paths in files.values():
        assert_same(slices.check(*paths), expected)


def test_error_map_and_report_are_written_whether_or_not_a_check_fails(slices: Scene, tmp_path: Path) -> None:
    outputs = {"error_map_file": tmp_path / "e.nii.gz", "report": tmp_path / "r.html"}
    wrong = slices.check(slices.folder / "shift12.mat", slices.truth, **outputs)
    assert not wrong.passed
    error, fixed = read_image(tmp_path / "e.nii.gz"), read_image(slices.fixed)
    assert error.shape == fixed.shape
    np.testing.assert_allclose(error.affine, fixed.affine, atol=1e-4)
    tissue = fixed.scaled().data > 0.3
    assert np.median(error.data[tissue]) == pytest.approx(12, abs=1)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "checks failed: do not use this result as it is" in page
    assert "Displacement still wanted, median (mm)" in page
    assert all(path.name in page for path in (slices.truth, slices.folder / "shift12.mat"))


@pytest.mark.slow
def test_volumes_and_the_files_of_fsl(tmp_path: Path) -> None:
    pair = draw(Setting((48, 48, 48), 2.5, "train"), seed=77, number=3)
    assert pair.truth is not None
    turned = pair.moving.affine @ np.diag([1.0, 1.0, -1.0, 1.0])
    turned[2, 3] += 47 * 2.5
    moving = Image(pair.moving.data[:, :, ::-1].copy(), turned)
    files = [tmp_path / name for name in ("m.nii.gz", "f.nii.gz", "t.h5")]
    scene = Scene(*files, tmp_path, files[1])
    write_image(scene.moving, moving)
    write_image(scene.fixed, pair.fixed)
    truth = Warp(pair.truth, pair.fixed.affine)
    write_transform(scene.truth, truth)
    right = scene.check(scene.truth)
    assert right.passed
    convert_file(scene.truth, tmp_path / "fsl.nii.gz", "fsl", scene.moving)
    assert_same(scene.check(tmp_path / "fsl.nii.gz"), right)

    far = directed(3, 12)
    write_affine_transform(tmp_path / "far.mat", far)
    write_transform(tmp_path / "far.h5", followed_by(truth, far))
    wrong = scene.check(tmp_path / "far.h5", against=scene.truth)
    assert levels(wrong)["expected error"] == "failed"
    assert wrong.comparison.better == "other"
    write_fsl_affine(tmp_path / "flirt.mat", far, moving, pair.fixed)
    assert_same(scene.check(tmp_path / "flirt.mat"), scene.check(tmp_path / "far.mat"))


def run(*words: object) -> Result:
    app = typer.Typer()
    add_commands(app)
    return CliRunner().invoke(app, ["check", *map(str, words)])


def test_the_command_says_what_it_found(slices: Scene) -> None:
    good = run(slices.moving, slices.fixed, slices.truth, "--json")
    assert good.exit_code == 0
    found = json.loads(good.stdout)
    assert found["inputs"]["transforms"] == [str(slices.truth)]
    assert {each["level"] for each in found["checks"]} == {"passed"}
    assert found["measures"]["expected_error"] < 1.5
    assert found["against"] is None
    bad = run(slices.moving, slices.fixed, slices.folder / "shift12.mat", slices.truth, "--verbose")
    assert bad.exit_code == 3
    assert "failed  expected error: The expected error is 12" in bad.stdout
    assert "passed  folding: The transform does not fold." in bad.stdout
    assert "checks failed (expected error)" in bad.stderr


def bad_inputs(folder: Path, slices: Scene) -> dict[str, tuple[list[Path], dict[str, object], str]]:
    write_image(folder / "volume.nii.gz", Image(np.random.default_rng(0).random((20, 20, 20)), np.eye(4)))
    write_affine_transform(folder / "space.mat", np.eye(4))
    write_affine_transform(folder / "out.mat", shifted(2, 500, 0))
    (folder / "text.tfm").write_text("no transform\n")
    pair = [slices.moving, slices.fixed]
    return {
        "dimensions": ([folder / "volume.nii.gz", slices.fixed], {}, r"is 3-D, .* is 2-D, .*; expected the same"),
        "another dimension": ([*pair, folder / "space.mat"], {}, "is a 3-D transform; the images are 2-D"),
        "no transform": ([*pair, folder / "text.tfm"], {}, "text.tfm: is not an ITK transform"),
        "missing": ([*pair, folder / "none.h5"], {}, "none.h5: cannot be read"),
        "outside": ([*pair, folder / "out.mat"], {}, "by out.mat: the transform leads into the moving image at 0%"),
        "picture": (pair, {"report": folder / "r.png"}, "expected a name ending in .html"),
        "own input": ([*pair, folder / "out.mat"], {"error_map_file": slices.fixed}, "is also the input"),
        "other outside": ([*pair, slices.truth], {"against": folder / "out.mat"}, "leads into the moving image at 0%"),
    }  # fmt: skip


BAD = ["dimensions", "another dimension", "no transform", "missing", "outside", "picture", "own input", "other outside"]


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_error(slices: Scene, tmp_path: Path, case: str) -> None:
    (moving, fixed, *transforms), options, words = bad_inputs(tmp_path, slices)[case]
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match=words):
        check_transform(moving, fixed, transforms, **options)
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_model_without_calibration_has_no_error_map(
    slices: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("quality.checks", "quality.given_transform", "workflows.check_transform"):
        monkeypatch.setattr(f"crossmorph.{module}.calibration_of", lambda _: None)
    found = slices.check(slices.truth, against=slices.folder / "shift12.mat")
    assert levels(found)["not calibrated"] == "warning"
    assert found.comparison.better == "first"
    with pytest.raises(InputError, match="any-2d has no calibration"):
        slices.check(slices.truth, error_map_file=tmp_path / "e.nii.gz")

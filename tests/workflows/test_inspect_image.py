"""What is said of image files: each trouble is found where it is, and none where it is not."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nilearn import datasets
from numpy import ndarray
from small_model import save_weights

from crossmorph.cli import main
from crossmorph.datasets.test_splits import HEAD_SHAPE, Slice, on_grid
from crossmorph.images.image import Image
from crossmorph.images.io import write_image
from crossmorph.simulation.anatomy import SPACING, slice_affine, tissue_slice
from crossmorph.simulation.head_layers import surround
from crossmorph.simulation.mri import simulate
from crossmorph.workflows.guess_contrast import appearance, axial_plane
from crossmorph.workflows.inspect_image import Examined, examine

LEVELS = (-16.5, 13.5, 43.5)  # of the validation split


def brain(level: float, contrast: str, head: bool = False) -> ndarray:
    """A simulated slice."""
    rng = np.random.default_rng(0)
    fractions = tissue_slice(level)
    if head:
        room = on_grid(Slice(fractions, slice_affine(level)), HEAD_SHAPE)
        fractions = surround(room.fractions, SPACING, level, rng)
    return simulate(fractions, contrast, rng)


@pytest.fixture(scope="module")
def t2() -> ndarray:
    return brain(13.5, "t2")


def save(path: Path, data: ndarray, affine: ndarray | None = None, codes: tuple[int, int] = (1, 1)) -> Path:
    nifti = nibabel.Nifti1Image(data, np.diag([1.5, 1.5, 1.5, 1]) if affine is None else affine)
    nifti.set_qform(nifti.affine, codes[0])
    nifti.set_sform(nifti.affine, codes[1])
    nibabel.save(nifti, path)
    return path


def levels(examined: Examined) -> dict[str, str]:
    return {finding.name: finding.level for finding in examined.findings}


def test_a_good_slice(tmp_path, t2):
    examined = examine(save(tmp_path / "t2.nii.gz", t2))
    assert levels(examined) == {"skull": "ok", "contrast": "ok"}
    facts = examined.facts
    assert (facts["shape"], facts["spacing"], facts["unit"]) == ([128, 128], [1.5, 1.5], "mm")
    assert (facts["orientation"], facts["stored"], facts["volumes"]) == ("RA", "float32", 1)
    assert facts["field_of_view"] == [192, 192]
    expected = [t2.min(), *np.percentile(t2, (0.5, 50, 99.5)), t2.max()]
    np.testing.assert_allclose(list(facts["intensity"].values()), expected, rtol=1e-6)
    assert examined.plan == (
        "would use any-2d, and with this as the fixed image 128 x 128 voxels of 1.5 mm, about 0.4 GB of memory"
    )
    text = examined.as_text()
    assert "128 x 128 voxels of 1.5 x 1.5 mm, 192 x 192 mm, axes RA, float32" in text
    assert "  ok       Looks like T2w." in text


# --- what looks wrong ------------------------------------------------------------------------------------------------


def changed(t2: ndarray, value: float, where: Any) -> ndarray:
    data = t2.copy()
    data[where] = value
    return data


def turned(degrees: float) -> ndarray:
    angle = np.radians(degrees)
    affine = np.diag([1.5, 1.5, 1.5, 1])
    affine[:2, :2] = 1.5 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return affine


def volume(t2: ndarray) -> ndarray:
    return np.stack([t2] * 9, axis=2)


def disagreeing(path: Path, t2: ndarray) -> Path:
    nifti = nibabel.Nifti1Image(t2, np.diag([1.5, 1.5, 1.5, 1]))
    nifti.set_qform(np.diag([1.5, 1.5, 1.5, 1]), 1)
    shifted = np.diag([1.5, 1.5, 1.5, 1.0])
    shifted[0, 3] = 3.0
    nifti.set_sform(shifted, 1)
    nibabel.save(nifti, path)
    return path


Case = tuple[Callable[[Path, ndarray], Path], str, str, str]
CASES: dict[str, Case] = {
    "no orientation": (
        lambda path, t2: save(path, t2, codes=(0, 0)), "orientation", "problem", "Neither qform nor sform says",
    ),
    "two orientations": (disagreeing, "orientation", "problem", "The qform puts a corner 3 mm from where register"),
    "never set": (
        lambda path, t2: save(path, np.tile(t2, (4, 4)), np.eye(4)), "field of view", "problem",
        "is 512 x 512 mm, which is no head's; a spacing of exactly 1 mm looks like one that was never set",
    ),
    "small": (
        lambda path, t2: save(path, t2, np.diag([0.2, 0.2, 1, 1])), "field of view", "problem", "is 25.6 x 25.6 mm",
    ),
    "nan": (
        lambda path, t2: save(path, changed(t2, np.nan, (3, slice(5)))), "finite", "problem",
        "5 of 16384 voxels are NaN",
    ),
    "inf": (lambda path, t2: save(path, changed(t2, np.inf, (3, 3))), "finite", "problem", "1 of 16384 voxels"),
    "nothing": (lambda path, t2: save(path, t2 * 0 + 4), "constant", "problem", "Every voxel is 4"),
    "all nan": (lambda path, t2: save(path, t2 * np.nan), "constant", "problem", "No voxel is a number"),
    "outliers": (
        lambda path, t2: save(path, changed(t2, 900, (3, slice(7)))), "outliers", "note", "7 voxels are far above",
    ),
    "labels": (
        lambda path, t2: save(path, (t2 > 0.5).astype(np.uint8)), "labels", "note", "2 different whole numbers",
    ),
    "gap": (
        lambda path, t2: save(path, changed(t2, 0, (slice(None), slice(60, 63)))), "empty slices", "problem",
        "Empty slices along axis 1, between others that are not: 3.",
    ),
    "room": (
        lambda path, t2: save(path, np.pad(t2, ((0, 0), (0, 40)))), "empty slices", "note",
        "40 of 168 slices along axis 1 are empty; cropping",
    ),
    "series": (
        lambda path, t2: save(path, np.stack([volume(t2)] * 3, axis=3)), "series", "problem", "a series of 3 volumes",
    ),
    "thick": (
        lambda path, t2: save(path, volume(t2), np.diag([1.5, 1.5, 8, 1])), "thick", "note",
        "Voxels are 1.5 x 1.5 x 8 mm",
    ),
    "thin": (lambda path, t2: save(path, volume(t2)[..., :4]), "thin", "note", "One axis has 4 voxels"),
    "left-handed": (
        lambda path, t2: save(path, volume(t2), np.diag([-1.5, 1.5, 1.5, 1])), "handedness", "ok", "left-handed",
    ),
    "oblique": (lambda path, t2: save(path, volume(t2), turned(20)), "oblique", "ok", "lies 20 degrees from"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_looks_wrong_is_found_and_said(tmp_path, t2, name):
    make, finding, level, words = CASES[name]
    examined = examine(make(tmp_path / "image.nii.gz", t2))
    assert examined.readable
    assert levels(examined)[finding] == level
    assert words in " ".join(found.sentence for found in examined.findings if found.name == finding)
    beside = {"labels": {"empty slices"}, "all nan": {"finite"}}.get(name, set())
    assert set(levels(examined)) <= {finding, "skull", "contrast"} | beside
    ranks = [("problem", "note", "ok").index(found.level) for found in examined.findings]
    assert ranks == sorted(ranks)
    refused = name in ("nan", "inf", "nothing", "all nan", "series")
    assert refused == examined.plan.startswith("would refuse it")
    json.dumps(examined.as_dict(), allow_nan=False)


def test_a_picture_has_no_place(tmp_path, t2):
    write_image(tmp_path / "t2.png", Image(np.round(200 * t2 / t2.max()), np.diag([-1.0, -1.0, 1.0]), physical=False))
    examined = examine(tmp_path / "t2.png")
    assert levels(examined) == {"geometry": "note"}
    assert (examined.facts["orientation"], examined.facts["unit"]) == (None, "pixels")
    assert "128 x 128 voxels of 1 pixels" in examined.plan


def test_the_plan_names_the_model(tmp_path, t2):
    path = save(tmp_path / "t2.nii.gz", t2)
    save_weights(tmp_path / "model", 0)
    assert examine(path, str(tmp_path / "model")).plan.startswith(
        "would use small, and with this as the fixed image 128"
    )
    deep = save(tmp_path / "v.nii.gz", volume(t2))
    assert "it is 3-D, and model small registers 2-D images" in examine(deep, str(tmp_path / "model")).plan
    assert "no such model" in examine(path, "absent").plan
    wide = save(tmp_path / "wide.nii.gz", t2, np.diag([90.0, 90.0, 1, 1]))
    assert "expected at most 8388608 voxels" in examine(wide).plan


def test_text_json_and_exit_codes(tmp_path, t2, monkeypatch, capsys):
    good, bad = save(tmp_path / "good.nii.gz", t2), tmp_path / "bad.nii.gz"
    bad.write_bytes(b"torn")

    def call(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["crossmorph", "doctor", *map(str, words)])
        try:
            main.main()
        except SystemExit as end:
            return int(end.code or 0), capsys.readouterr().out
        return 0, capsys.readouterr().out

    code, out = call(good)
    assert (code, out.splitlines()[0]) == (0, str(good))
    code, out = call(bad, good, "--json")
    told = json.loads(out)
    assert (code, [each["readable"] for each in told]) == (2, [False, True])
    assert "is not a NIfTI file" in told[0]["findings"][0]["sentence"]
    assert told[0]["register"] == "would refuse it"
    assert call(tmp_path / "absent.nii")[0] == 2


# --- guesses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize(
    ("contrast", "names"),
    [
        ("t1", {"T1w", "T1w or FLAIR"}), ("t2", {"T2w"}), ("pd", {"PDw"}),
        ("flair", {"FLAIR", "T1w or FLAIR"}),
    ],
)  # fmt: skip
def test_simulated_slices_look_like_what_they_are(contrast, names, head):
    for level in LEVELS:
        seen = appearance(Image(brain(level, contrast, head), np.diag([1.5, 1.5, 1])))
        assert seen.skull is head
        assert seen.contrast in (names | {"unclear"} if head else names)


def test_a_real_template_looks_like_what_it_is():
    """nilearn's ICBM152 T1w brain, whichever way its axes lie."""
    template = datasets.load_mni152_template(resolution=2)
    data, affine = template.get_fdata(dtype=np.float32), template.affine
    for axes in ((0, 1, 2), (2, 0, 1)):
        order = np.eye(4)[:, [*axes, 3]]
        seen = appearance(Image(np.ascontiguousarray(data.transpose(axes)), affine @ order))
        assert seen.skull is False
        assert seen.contrast in ("T1w", "T1w or FLAIR")


def test_ct_and_nothing():
    rng = np.random.default_rng(0)
    hounsfield = np.full((64, 64), -1000.0)
    hounsfield[16:48, 16:48] = 40
    hounsfield[16:20, 16:48] = 900
    assert appearance(Image(hounsfield, np.diag([4.0, 4, 1]))) == (None, "CT")
    assert appearance(Image(rng.random((64, 64)), np.diag([0.1, 0.1, 1]))) == (None, "unclear")
    assert appearance(Image(rng.random((64, 64)), np.diag([3.0, 3, 1]))).contrast == "unclear"


def test_the_plane_lies_across_superior_through_the_middle():
    data = np.zeros((20, 30, 40), np.float32)
    data[:, 21, :] = np.arange(800).reshape(20, 40)
    affine = np.array([[0, 0, 2.0, 0], [3, 0, 0, 0], [0, -4, 0, 0], [0, 0, 0, 1]])
    plane, spacing = axial_plane(Image(data, affine))
    assert spacing == (3, 2)
    assert np.array_equal(plane, data[:, 21, :])

"""Repeating what a record tells of: the same bits, or a word about what is not the same."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import SimpleITK as sitk
from small_model import draw, save_weights

import crossmorph
from crossmorph.cli import main
from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import write_image
from crossmorph.registration.instance_optimization import refine
from crossmorph.registration.settings import Settings
from crossmorph.workflows import replay
from crossmorph.workflows.outputs import LabelFiles, Outputs
from crossmorph.workflows.register_files import register_files


class Given(NamedTuple):
    """A small pair, a model, and the record of its registration."""

    folder: Path
    moving: Path
    fixed: Path
    model: str
    record: Path

    def edit(self, change: Callable[[dict[str, Any]], object]) -> Path:
        told = json.loads(self.record.read_text())
        change(told)
        self.record.write_text(json.dumps(told))
        return self.record


def register(folder: Path, outputs: Outputs, settings: Settings) -> Given:
    """Draw a pair and a model, and register."""
    moving, fixed = folder / "moving.nii", folder / "fixed.nii"
    for seed, path in enumerate((moving, fixed)):
        draw(path, seed)
    save_weights(folder / "model", 0)
    register_files(moving, fixed, outputs, str(folder / "model"), settings, keep_failed=True)
    return Given(folder, moving, fixed, str(folder / "model"), outputs.records()[0].path)


@pytest.fixture
def given(tmp_path: Path) -> Given:
    return register(tmp_path, Outputs(tmp_path / "moved.nii.gz", tmp_path / "t.nii.gz"), Settings("none"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_kind_of_output_is_made_again_to_the_bit(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    labels = [tmp_path / "a" / "labels.nii", tmp_path / "b" / "labels.nii"]
    for step, path in enumerate(labels, 2):
        write_image(path, Image(np.arange(16 * 18, dtype=np.uint8).reshape(16, 18) % step, np.diag([1.5, 1.5, 1.0])))
    # Two maps, one of them twice, and names that are the same in two folders.
    targets = [tmp_path / "a" / "l.nii", tmp_path / "b" / "l.nii", tmp_path / "more.nii.gz"]
    moved = tuple(LabelFiles(*pair) for pair in zip([labels[1], labels[0], labels[1]], targets, strict=True))
    outputs = Outputs(
        tmp_path / "moved.mha",
        tmp_path / "t.nii.gz",
        tmp_path / "back.nii",
        tmp_path / "look.nrrd",
        labels=moved,
        ants_prefix=tmp_path / "A",
    )
    given = register(tmp_path, outputs, Settings(refine="on"))
    before = contents(tmp_path)
    repeated = replay.replay(given.record)
    assert contents(tmp_path) == before
    assert {output.path for output in repeated.outputs if not output.same} == set()
    assert [output.kind for output in repeated.outputs] == [kind for kind, _ in outputs.files() if kind != "record"]
    assert len(repeated.outputs) == 10
    assert repeated.same
    assert repeated.cautions == []
    assert "\n10 of 10 outputs of " in repeated.as_text()

    replay.replay(given.record, tmp_path / "again")
    assert len({path.name for path in (tmp_path / "again").iterdir()}) == 10 + 3
    assert (tmp_path / "again" / "moved.mha").read_bytes() == (tmp_path / "moved.mha").read_bytes()
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"again/moved\.mha: is there already; expected a folder \(-o\) without it"):
        replay.replay(given.record, tmp_path / "again")
    with pytest.raises(InputError, match=r"moved\.mha: is there already"):
        replay.replay(given.record, tmp_path)
    assert contents(tmp_path) == before


@pytest.fixture
def crossmorph_(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """The command line, in this process: exit code, output and errors."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["crossmorph", *map(str, words)])
        try:
            main.main()
        except SystemExit as end:
            return int(end.code or 0), *capsys.readouterr()
        return 0, *capsys.readouterr()

    return call


def test_other_bits_are_told_by_line_and_exit_code(given, crossmorph_):
    code, out, err = crossmorph_("replay", given.record)
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == ["same", "same", "2"]

    def change(told: dict[str, Any]) -> None:
        told["outputs"][1]["sha256"] = "0" * 64
        told["versions"]["numpy"] = "1.0"

    given.edit(change)
    code, out, err = crossmorph_("replay", given.record)
    assert code == 3
    assert [line.split()[0] for line in out.splitlines()] == ["same", "different", "1"]
    assert f"different  {given.folder / 't.nii.gz'} (transform)" in out
    assert err == f"crossmorph: caution: numpy is {np.__version__}, and was 1.0 when the record was written\n"
    code, out, _ = crossmorph_("replay", given.record, "--json")
    told = json.loads(out)
    assert (code, told["same"], [output["same"] for output in told["outputs"]]) == (3, False, [True, False])
    given.moving.write_bytes(given.fixed.read_bytes())
    code, out, err = crossmorph_("replay", given.record)
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_a_registration_limited_by_time_is_repeated_by_its_steps(tmp_path, monkeypatch):
    """Time for a few steps when it was made, and for any number now."""

    def hasty(*words: Any) -> Any:
        pairs, final, seconds, steps, where = words
        return refine(pairs, final, None, 3 if seconds == 0.5 else steps, where)

    monkeypatch.setattr("crossmorph.registration.register_images.refine", hasty)
    outputs = Outputs(tmp_path / "moved.nii.gz", tmp_path / "t.nii.gz")
    given = register(tmp_path, outputs, Settings("none", refine=0.5))
    asked: list[Settings] = []

    def noted(*words: Any, **further: Any) -> Any:
        asked.append(words[4])
        return register_files(*words, **further)

    monkeypatch.setattr(replay, "register_files", noted)
    assert replay.replay(given.record).same
    assert asked[0]._asdict() | {"refine": "on", "refine_steps": 3} == asked[0]._asdict()


def test_it_begins_where_it_began(tmp_path):
    """From a file, which is an input, and from a matrix in a program."""
    shift = sitk.AffineTransform(2)
    shift.SetTranslation((3, 0))
    sitk.WriteTransform(shift, str(tmp_path / "start.tfm"))
    outputs = Outputs(tmp_path / "moved.nii.gz", tmp_path / "t.nii.gz")
    given = register(tmp_path, outputs, Settings(str(tmp_path / "start.tfm")))
    assert replay.replay(given.record).same
    matrix = np.eye(3)
    matrix[0, 2] = -3  # RAS
    result = crossmorph.register(given.moving, given.fixed, model=given.model, init=matrix)
    result.save(tmp_path / "m.nii.gz", transform=tmp_path / "u.nii.gz")
    assert replay.replay(tmp_path / "u.json").same
    assert (tmp_path / "m.nii.gz").read_bytes() == (tmp_path / "moved.nii.gz").read_bytes()
    (tmp_path / "start.tfm").write_text("other")
    with pytest.raises(InputError, match=r"start\.tfm: the init input has changed since .*t\.json was written"):
        replay.replay(given.record)


def new_weights(given: Given) -> None:
    save_weights(Path(given.model), 1)


def no_weights(given: Given) -> None:
    for file in Path(given.model).iterdir():
        file.unlink()


REFUSED: dict[str, tuple[Callable[[Given], object], str]] = {
    "changed": (lambda given: draw(given.moving, 7), r"moving\.nii: the moving input has changed since"),
    "gone": (lambda given: given.fixed.unlink(), r"fixed\.nii: the fixed input of .*t\.json is not there any more"),
    "new weights": (new_weights, r"t\.json: was made by other weights than .*small\.json has now"),
    "no weights": (no_weights, r"t\.json: its weights are not there"),
    "in memory": (
        lambda given: given.edit(lambda told: told["inputs"][0].update(path=None, absolute=None)),
        "the moving image was in memory; expected a record of images in files",
    ),
    "one image": (
        lambda given: given.edit(lambda told: told["inputs"].pop(1)),
        "names no moving and fixed image among its inputs",
    ),
    "setting": (
        lambda given: given.edit(lambda told: told["settings"].update(magic=1)),
        "has the setting magic 1, which this version does not know",
    ),
    "setting's type": (
        lambda given: given.edit(lambda told: told["settings"].update(smoothness=["x"])),
        r"has the setting smoothness \['x'\], which",
    ),
    "start": (
        lambda given: given.edit(lambda told: told["settings"].update(init="/etc/passwd")),
        "has the initial affine '/etc/passwd'; expected affine, centers, none, a file among the inputs or",
    ),
    "singular start": (
        lambda given: given.edit(lambda told: told["settings"].update(init=[[0, 0, 0]] * 3)),
        "or an invertible matrix",
    ),
    "ragged start": (lambda given: given.edit(lambda told: told["settings"].update(init=[[1], [1, 2]])), "invertible"),
    "kind": (
        lambda given: given.edit(lambda told: told["outputs"][0].update(kind="magic")),
        "tells of an output magic .*, which this version does not know",
    ),
    "labels of nothing": (
        lambda given: given.edit(lambda told: told["outputs"][0].update(kind="labels", source="x")),
        "tells of an output labels",
    ),
    "format": (
        lambda given: given.edit(lambda told: told["outputs"][0].update(path="../moved.exe")),
        r"moved\.exe: unknown image format",
    ),
    "above": (lambda given: given.edit(lambda told: told["outputs"][0].update(path="x/..")), "is there already"),
    "device": (lambda given: given.edit(lambda told: told.update(device="abacus")), "device abacus: not available"),
    "nothing": (lambda given: given.record.unlink(), "cannot be read"),
}


def test_what_cannot_be_repeated_is_refused_and_nothing_is_written(given, monkeypatch):
    monkeypatch.setattr("crossmorph.workflows.register.register_images", lambda *_: pytest.fail("went to work"))
    for name, (spoil, reason) in REFUSED.items():
        kept = contents(given.folder)
        spoil(given)
        before = contents(given.folder)
        with pytest.raises(InputError, match=reason):
            replay.replay(given.record)
        assert contents(given.folder) == before, name
        for path, content in kept.items():
            (given.folder / path).write_bytes(content)


def test_paths_of_a_record_lead_nowhere_else(given):
    """Only the last part of a name counts where outputs go."""

    def lead_away(told: dict[str, Any]) -> None:
        for output in told["outputs"]:
            output.update(path=f"../../{Path(output['path']).name}", absolute=f"/{Path(output['path']).name}")

    given.edit(lead_away)
    around = set(given.folder.parent.iterdir())
    assert replay.replay(given.record, given.folder / "place").same
    assert set(given.folder.parent.iterdir()) == around
    assert {path.name for path in (given.folder / "place").iterdir()} == {"moved.nii.gz", "t.nii.gz", "t.json"}

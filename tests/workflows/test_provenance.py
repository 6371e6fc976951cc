"""Records beside transforms: every checksum is that of the file, nothing of anyone else's is replaced."""

import hashlib
import json
import math
import os
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from small_model import draw, save_weights

import crossmorph
from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import write_image
from crossmorph.networks.checkpoint import find_card, read_card
from crossmorph.provenance.record import digest, memory_source, read_record
from crossmorph.quality import checks
from crossmorph.quality.measures import measure
from crossmorph.registration.settings import Settings
from crossmorph.workflows import register
from crossmorph.workflows.outputs import LabelFiles, Outputs
from crossmorph.workflows.register_files import register_files


class Given(NamedTuple):
    """A small pair, labels and a model, and all outputs in a folder."""

    moving: Path
    fixed: Path
    labels: Path
    model: str
    outputs: Outputs


@pytest.fixture
def given(tmp_path: Path) -> Given:
    paths = [tmp_path / f"{name}.nii.gz" for name in ("moving", "fixed", "labels")]
    for seed, path in enumerate(paths[:2]):
        draw(path, seed)
    write_image(paths[2], Image(np.arange(16 * 18, dtype=np.uint8).reshape(16, 18) % 3, np.diag([1.5, 1.5, 1.0])))
    save_weights(tmp_path / "model", 0)
    outputs = Outputs(
        tmp_path / "moved.nii.gz",
        tmp_path / "warp.nii.gz",
        tmp_path / "back.h5",
        labels=(LabelFiles(paths[2], tmp_path / "l.nii"),),
        ants_prefix=tmp_path / "A",
    )
    return Given(*paths, str(tmp_path / "model"), outputs)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_record_holds_what_went_in_and_what_came_out(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    moving = Path("moving.nii.gz")
    settings = Settings("centers", refine="on")
    done = register_files(moving, given.fixed, given.outputs, given.model, settings, "cpu", 1, command="what I typed")
    texts = {path: path.read_text() for path in tmp_path.glob("*.json")}
    assert {path.name for path in texts} == {"warp.json", "back.json", "A1Warp.json"}
    assert len(set(texts.values())) == 1
    record = json.loads(next(iter(texts.values())))

    assert record["inputs"] == [
        {"role": role, "path": str(path), "absolute": str(path.absolute()), "sha256": sha256(path)}
        for role, path in (("moving", moving), ("fixed", given.fixed), ("labels", given.labels))
    ]
    card = read_card(find_card(given.model))
    assert record["weights"] == {"name": "small", "path": str(tmp_path / "model/small.json"), "sha256": card.sha256}
    assert sha256(tmp_path / "model/small.safetensors") == card.sha256
    ways = {output["path"]: output["direction"] for output in record["outputs"]}
    forth, back = (
        f"maps points of the {a} image to the {b} image" for a, b in (("fixed", "moving"), ("moving", "fixed"))
    )
    expected = {"moved.nii.gz": None, "warp.nii.gz": forth, "back.h5": back, "l.nii": None}
    expected |= {"A0GenericAffine.mat": forth, "A1Warp.nii.gz": forth, "A1InverseWarp.nii.gz": back}
    assert {Path(path).name: way for path, way in ways.items()} == expected
    assert all(output["sha256"] == sha256(Path(output["absolute"])) for output in record["outputs"])
    assert record["settings"]["init"] == "centers"
    assert record["settings"]["refine"] == "on"
    assert record["settings"]["refine_steps"] == done.measures.refine_steps > 0
    assert (record["device"], record["threads"], record["seed"]) == ("cpu", 1, None)
    assert (record["command"], record["folder"]) == ("what I typed", str(tmp_path))
    assert record["ants"] == done.ants
    assert record["measures"] == done.measures.as_dict()
    assert [each["name"] for each in record["checks"]] == [each.name for each in done.checks]
    assert timedelta(0) <= datetime.now(UTC) - datetime.fromisoformat(record["created"]) < timedelta(minutes=1)
    assert record["versions"]["nibabel"] == nibabel.__version__
    assert record["versions"].keys() >= {"crossmorph", "torch", "numpy", "SimpleITK", "Python", "platform"}
    told = [(output["kind"], Path(output["path"]).name) for output in done.as_dict()["outputs"]]
    assert told[-3:] == [("record", "warp.json"), ("record", "back.json"), ("record", "A1Warp.json")]


def test_settings_that_leave_a_choice_are_recorded_as_what_they_came_to(given):
    pair, model = (given.moving, given.fixed), crossmorph.load_model(given.model)
    networks = model.card.hierarchy
    low, high = networks.smoothness_range
    done = {"init": "none", "smoothness": networks.smoothness if low != high else None}
    done |= {"ignore": "none", "points_accuracy": 2.0}
    plain = crossmorph.register(*pair, model=model, init="none")
    assert plain.run.settings == {**done, "refine": "off", "refine_steps": None, "stage": "deformable"}
    refined = crossmorph.register(*pair, model=model, init="none", refine=30.0)
    assert refined.run.settings == {
        **done,
        "refine": 30.0,
        "refine_steps": refined.measures.refine_steps,
        "stage": "deformable",
    }
    assert refined.measures.refine_steps > 0


def test_without_a_transform_there_is_no_record(given, tmp_path):
    register_files(given.moving, given.fixed, Outputs(tmp_path / "moved.nii"), given.model)
    assert not list(tmp_path.glob("*.json"))


def test_transforms_of_one_stem_share_a_record(given, tmp_path):
    register_files(given.moving, given.fixed, Outputs(None, tmp_path / "t.h5", tmp_path / "t.nii.gz"), given.model)
    assert [output.kind for output in read_record(tmp_path / "t.json").outputs] == ["transform", "inverse"]


def no_record(path: Path) -> None:
    path.write_text('{"RepetitionTime": 2}')


def no_json(path: Path) -> None:
    path.write_bytes(b"\xff\x00")


def a_folder(path: Path) -> None:
    path.mkdir()
    (path / "x").touch()


@pytest.mark.parametrize("there", [no_record, no_json, a_folder])
def test_nothing_else_is_replaced_by_a_record(given, tmp_path, monkeypatch, there: Callable[[Path], None]):
    there(tmp_path / "warp.json")
    before = contents(tmp_path)
    monkeypatch.setattr(register, "register_images", lambda *_: pytest.fail("went to work"))
    with pytest.raises(InputError, match=r"warp\.json: the record of the transform goes there, but a file"):
        register_files(given.moving, given.fixed, given.outputs, given.model)
    assert contents(tmp_path) == before


def test_a_record_replaces_its_predecessor_and_no_output(given, tmp_path):
    outputs = Outputs(None, tmp_path / "warp.nii.gz")
    for words in ("first", "second"):
        register_files(given.moving, given.fixed, outputs, given.model, command=words)
        assert read_record(tmp_path / "warp.json").command == words
    (tmp_path / "small.json").write_bytes((tmp_path / "model" / "small.json").read_bytes())
    with pytest.raises(InputError, match=r"small\.json: the record of the transform goes there"):
        register_files(given.moving, given.fixed, Outputs(None, tmp_path / "small.h5"), given.model)


def test_a_record_is_put_in_place_after_what_it_is_of(given, monkeypatch):
    order: list[str] = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (order.append(Path(new).name), replace(old, new)))
    register_files(given.moving, given.fixed, given.outputs, given.model)
    seen = [name for name in order if not name.startswith(".")]
    assert seen[-3:] == ["warp.json", "back.json", "A1Warp.json"]
    assert len(seen) == 10


def test_an_affine_file_to_begin_with_is_an_input(given, tmp_path):
    start = tmp_path / "start.tfm"
    sitk.WriteTransform(sitk.AffineTransform(2), str(start))
    outputs = Outputs(None, tmp_path / "t.h5")
    register_files(given.moving, given.fixed, outputs, given.model, Settings(str(start)))
    record = read_record(tmp_path / "t.json")
    assert record.settings["init"] == str(start)
    assert (record.inputs[-1].role, record.inputs[-1].sha256) == ("init", sha256(start))
    affine = start.rename(tmp_path / "P0GenericAffine.mat")
    with pytest.raises(InputError, match=r"P0GenericAffine\.mat: wanted as ants, but is also the input"):
        register_files(
            given.moving, given.fixed, Outputs(None, ants_prefix=tmp_path / "P"), given.model, Settings(str(affine))
        )


def test_numbers_that_are_none_are_null(given, tmp_path, monkeypatch):
    odd = {"residual": math.nan, "log_jacobian": math.inf}
    monkeypatch.setattr(checks, "measure", lambda *images: measure(*images)._replace(**odd))
    register_files(given.moving, given.fixed, Outputs(None, tmp_path / "t.h5"), given.model, keep_failed=True)

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    told = json.loads((tmp_path / "t.json").read_text(), parse_constant=refuse)
    assert told["measures"]["residual"] is told["measures"]["log_jacobian"] is None
    assert read_record(tmp_path / "t.json").measures["residual"] is None


# --- checksums -------------------------------------------------------------------------------------------------------


def test_the_digest_of_a_folder_is_that_of_sha256sum(tmp_path):
    folder = tmp_path / "series"
    folder.mkdir()
    for name in ("b", "a", "B"):
        (folder / name).write_text(name)
    words = f"cd {folder} && LC_ALL=C sha256sum * | sha256sum"
    theirs = subprocess.run(["sh", "-c", words], capture_output=True, text=True, check=True).stdout.split()[0]
    assert digest(folder) == theirs
    (folder / "a").write_text("other")
    assert digest(folder) != theirs


def test_voxels_beside_a_header_count(tmp_path):
    path = tmp_path / "v.mhd"
    found = set()
    for seed in range(2):
        data = np.random.default_rng(seed).random((18, 16)).astype(np.float32)
        sitk.WriteImage(sitk.GetImageFromArray(data), str(path))
        found.add(digest(path))
    for label in (2**24, 2**24 + 1):  # which float32 does not tell apart, and no image of one intensity either
        sitk.WriteImage(sitk.GetImageFromArray(np.full((18, 16), label, np.int32)), str(path))
        found.add(digest(path))
    assert len(found) == 4


def test_images_in_memory_count_by_voxels_and_place():
    data = np.random.default_rng(0).random((4, 5)).astype(np.float32)
    one = memory_source("moving", Image(data, np.eye(3)))
    assert one.sha256 == memory_source("moving", Image(np.asfortranarray(data), np.eye(3))).sha256
    assert one.sha256 == hashlib.sha256(data.tobytes() + np.eye(3).tobytes()).hexdigest()
    assert one.sha256 != memory_source("moving", Image(data, np.diag([1.0, 2.0, 1.0]))).sha256
    assert one.path is one.absolute is None


# --- in a program ----------------------------------------------------------------------------------------------------


def test_what_a_program_saves_has_a_record(given, tmp_path):
    model = crossmorph.load_model(given.model)
    result = crossmorph.register(given.moving, nibabel.load(given.fixed), model=model, init=np.eye(3))
    result.save(tmp_path / "m.nii.gz", transform=tmp_path / "t.h5")
    record = read_record(tmp_path / "t.json")
    assert record.command == "crossmorph.register, in Python"
    assert [source.role for source in record.inputs] == ["moving", "fixed"]
    assert record.inputs[0].sha256 == sha256(given.moving)
    assert record.inputs[1].path is None
    assert record.weights == (record.weights.model_copy(update={"name": "small", "path": None}))
    assert record.settings["init"] == np.eye(3).tolist()
    assert record.ants is None
    assert [output.sha256 for output in record.outputs] == [sha256(tmp_path / "m.nii.gz"), sha256(tmp_path / "t.h5")]
    with pytest.raises(InputError, match=r"moving\.nii\.gz: wanted as moved, but is also the input"):
        result.save(given.moving)


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> str:
    """The text of a record."""
    folder = tmp_path_factory.mktemp("written")
    for seed, name in enumerate("mf"):
        draw(folder / f"{name}.nii", seed)
    save_weights(folder / "model", 0)
    register_files(folder / "m.nii", folder / "f.nii", Outputs(None, folder / "t.nii.gz"), str(folder / "model"))
    return (folder / "t.json").read_text()


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "other format": (lambda told: told.update(format="crossmorph provenance 9"), "format: Input should be"),
    "no inputs": (lambda told: told.pop("inputs"), "inputs: Field required"),
    "threads": (lambda told: told.update(threads=10**9), "threads: Input should be less than or equal to 1024"),
    "text for a number": (lambda told: told["measures"].update(folds_percent=[1]), "measures: folds_percent: "),
}


@pytest.mark.parametrize("name", BROKEN)
def test_records_are_checked(written, tmp_path, name):
    change, reason = BROKEN[name]
    told = json.loads(written)
    change(told)
    (tmp_path / "t.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match=f"not a record that crossmorph wrote beside a transform .{reason}"):
        read_record(tmp_path / "t.json")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_what_is_no_record_is_refused(tmp_path, content):
    (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(InputError, match=r"t\.json: (is empty|not a record)"):
        read_record(tmp_path / "t.json")

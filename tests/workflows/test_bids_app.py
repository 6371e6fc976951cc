"""A BIDS App: a data set in, derivatives with valid names out, one person or all at a time."""

import csv
import json
import re
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import bids
import pytest
from bidsschematools.schema import load_schema
from html_scene import Parsed
from small_model import draw, save_weights

from crossmorph.cli import bids_app as command_line
from crossmorph.errors import InputError
from crossmorph.registration.settings import Settings
from crossmorph.workflows import batch
from crossmorph.workflows.batch import Entry, Task
from crossmorph.workflows.bids_app import Done, register_participants, summarise_group

IMAGES = (
    "sub-01/anat/sub-01_T1w", "sub-01/anat/sub-01_T2w", "sub-01/anat/sub-01_FLAIR",
    "sub-02/ses-a/anat/sub-02_ses-a_T1w", "sub-02/ses-a/anat/sub-02_ses-a_acq-high_desc-x_T2w",
    "sub-02/ses-b/anat/sub-02_ses-b_run-1_T2w", "sub-02/ses-b/anat/sub-02_ses-b_run-2_T2w",
    "sub-03/anat/sub-03_T1w",
    "sub-04/anat/sub-04_run-1_T1w", "sub-04/anat/sub-04_run-2_T1w", "sub-04/anat/sub-04_T2w",
)  # fmt: skip


class Data(NamedTuple):
    """A data set, a model, and the folder of derivatives."""

    bids: Path
    model: Path
    output: Path

    def run(self, *participants: str, moving: str = "T2w", fixed: str = "T1w", **options: Any) -> Done:
        options = {"settings": Settings(init="none"), **options}
        people = self.bids, self.output, moving, fixed, participants
        return register_participants(*people, model=str(self.model), **options)

    def made(self) -> set[str]:
        """The derivatives, without what validators ignore."""
        found = (path.relative_to(self.output) for path in self.output.glob("sub-*/**/*") if path.is_file())
        return {path.as_posix() for path in found if "figures" not in path.parts and path.name != ".lock"}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    def in_this_process(tasks: list[Task], jobs: int) -> Generator[Entry, None, None]:
        yield from (batch.register_pair(task) for task in tasks)

    monkeypatch.setattr(batch, "_by_processes", in_this_process)
    save_weights(tmp_path / "model", 0)
    root = tmp_path / "data"
    for seed, name in enumerate(IMAGES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        draw(root / f"{name}.nii.gz", seed)
    (root / "dataset_description.json").write_text('{"Name": "few", "BIDSVersion": "1.10.0"}')
    (root / "sub-01" / "anat" / "sub-01_T2w.json").write_text('{"SkullStripped": true}')
    return Data(root, tmp_path / "model", root / "derivatives" / "crossmorph")


def with_sidecars(*names: str) -> set[str]:
    return {*names, *(re.sub(r"\.(nii\.gz|h5)$", ".json", name) for name in names)}


def test_derivatives_lie_where_the_standard_has_them(data: Data) -> None:
    done = data.run("01", "sub-02")
    assert [entry.status for entry in done.entries] == ["done"] * 4
    one = "sub-01/anat/sub-01_"
    b1, b2 = (f"sub-02/ses-b/anat/sub-02_ses-b_run-{run}_" for run in (1, 2))
    a = "sub-02/ses-a/anat/sub-02_ses-a_acq-high_"
    assert data.made() == with_sidecars(
        f"{one}space-T1w_T2w.nii.gz",
        f"{one}from-T2w_to-T1w_mode-image_xfm.h5", f"{one}from-T1w_to-T2w_mode-image_xfm.h5",
        f"{a}space-T1w_desc-x_T2w.nii.gz",
        f"{a}from-T2w_to-T1w_mode-image_desc-x_xfm.h5", f"{a}from-T1w_to-T2w_mode-image_desc-x_xfm.h5",
        f"{b1}space-aT1w_T2w.nii.gz",
        f"{b1}from-bT2w_to-aT1w_mode-image_xfm.h5", f"{b1}from-aT1w_to-bT2w_mode-image_xfm.h5",
        f"{b2}space-aT1w_T2w.nii.gz",
        f"{b2}from-bT2w_to-aT1w_mode-image_xfm.h5", f"{b2}from-aT1w_to-bT2w_mode-image_xfm.h5",
    )  # fmt: skip


def test_pybids_finds_them(data: Data) -> None:
    data.run("02")
    data.run("01")
    summarise_group(data.output)
    layout = bids.BIDSLayout(data.bids, derivatives=data.output)
    assert list(layout.derivatives) == ["crossmorph"]
    ours = {"scope": "derivatives", "subject": "01"}
    (moved,) = layout.get(**ours, suffix="T2w", space="T1w", extension=".nii.gz")
    assert moved.get_entities()["datatype"] == "anat"
    told = moved.get_metadata()
    assert told["Sources"] == ["bids:raw:sub-01/anat/sub-01_T2w.nii.gz", "bids:raw:sub-01/anat/sub-01_T1w.nii.gz"]
    assert told["SpatialReference"] == "bids:raw:sub-01/anat/sub-01_T1w.nii.gz"
    assert told["SkullStripped"] is True
    (other,) = layout.get(scope="derivatives", subject="02", acquisition="high", suffix="T2w", extension=".nii.gz")
    assert other.get_metadata()["SkullStripped"] is False
    for ends in ({"from": "T2w", "to": "T1w"}, {"from": "T1w", "to": "T2w"}):
        (found,) = layout.get(**ours, suffix="xfm", mode="image", extension=".h5", **ends)
        assert found.get_metadata()["GeneratedBy"][0]["Name"] == "crossmorph"
    description = json.loads((data.output / "dataset_description.json").read_text())
    assert description["DatasetLinks"] == {"raw": data.bids.as_uri()}


def test_images_have_names_of_the_schema(data: Data) -> None:
    """Entities in the schema's order, a space that its label format allows; transforms are not in the schema yet."""
    data.run("01", "02")
    schema = load_schema()
    order = [schema.objects.entities[name].name for name in schema.rules.entities]
    rule = schema.rules.files.deriv.imaging.anat_nonparametric_volumetric
    checked = 0
    for path in data.made():
        *parts, last = Path(path).name.split("_")
        suffix, _, _ = last.partition(".")
        entities = dict(part.split("-") for part in parts)
        if suffix == "T2w":
            assert [key for key in order if key in entities] == list(entities)
            known = {schema.objects.entities[name].name for name in rule.entities}
            assert set(entities) <= known
            assert suffix in rule.suffixes
            checked += 1
        assert all(re.fullmatch(r"[0-9a-zA-Z+]+", value) for value in entities.values())
    assert checked == 8


def test_what_is_done_is_skipped_and_the_group_level_collects(data: Data) -> None:
    data.run("01")
    done = data.run("01", "02")
    assert [entry.status for entry in done.entries] == ["skipped", "done", "done", "done"]
    assert [page.name for page in done.pages] == ["sub-01.html", "sub-02.html"]
    rows = table(summarise_group(data.output, "what I typed")[0])
    assert [row["participant_id"] for row in rows] == ["sub-01", "sub-02", "sub-02", "sub-02"]
    assert rows[0]["name"] == "sub-01_from-T2w_to-T1w"
    entry = done.entries[0]
    assert entry.mutual_information_final is not None
    assert float(rows[0]["mutual_information_final"]) == pytest.approx(entry.mutual_information_final, rel=1e-5)
    described = json.loads((data.output / "registrations.json").read_text())
    assert list(described) == list(rows[0])
    page = Parsed((data.output / "index.html").read_text("utf-8"))
    assert sum(tag == "img" for tag, _ in page.tags) == 4
    links = [str(attributes["href"]) for tag, attributes in page.tags if tag == "a" and "sub-" in str(attributes)]
    assert all((data.output / link).exists() for link in links)
    assert len(links) == 8  # folder and numbers of each
    ignored = (data.output / ".bidsignore").read_text().splitlines()
    assert {"*.html", "registrations.*", "sub-*/figures"} <= set(ignored)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_who_lacks_an_image_is_told(data: Data) -> None:
    done = data.run(sessions=["a"])
    assert [entry.name for entry in done.entries] == ["sub-02_ses-a_acq-high_from-T2w_to-T1w_desc-x"]
    missing = {each.name: each.reason for each in data.run().missing}
    assert missing.keys() == {"sub-03", "sub-04"}
    assert missing["sub-03"] == "no T2w"
    assert missing["sub-04"].startswith("2 images may be the fixed one (sub-04_run-1_T1w.nii.gz, sub-04_run-2")
    done = data.run("04", fixed="run-2_T1w")
    assert (done.missing, [entry.status for entry in done.entries]) == ([], ["done"])
    with pytest.raises(InputError, match=r"no pair of PDw and T1w in 1 participants \(sub-01: no PDw\)"):
        data.run("01", moving="PDw")


def test_a_failure_is_told_and_the_others_go_on(data: Data) -> None:
    (data.bids / f"{IMAGES[1]}.nii.gz").write_bytes(b"torn")
    done = data.run("01", "02")
    assert [entry.status for entry in done.entries] == ["failed", "done", "done", "done"]
    row = table(summarise_group(data.output)[0])[0]
    assert (row["level"], row["seconds"], row["folds_percent"]) == ("failed", "n/a", "n/a")
    assert "sub-01_T2w.nii.gz" in row["error"]
    assert not any(name.startswith("sub-01") for name in data.made())
    assert "Not registered." in Parsed((data.output / "sub-01.html").read_text("utf-8")).text


def other_program(data: Data) -> None:
    data.output.mkdir(parents=True)
    (data.output / "dataset_description.json").write_text('{"GeneratedBy": [{"Name": "fMRIPrep"}]}')


def two_formats(data: Data) -> None:
    draw(data.bids / f"{IMAGES[1]}.nii", 1)


REFUSED: dict[str, tuple[Callable[[Data], object], dict[str, Any], str]] = {
    "no such person": (lambda _: None, {"moving": "T2w"}, "no sub-09 in .*, which has 4 people"),
    "another program": (other_program, {}, "has the derivatives of another program"),
    "two formats": (two_formats, {}, "the same BIDS name"),
    "not a suffix": (lambda _: None, {"moving": "sub_T2w!"}, "--moving sub_T2w!: expected a BIDS suffix"),
    "no CPU": (lambda _: None, {"cpus": 0}, "received 0 CPUs"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused(data: Data, name: str) -> None:
    change, options, message = REFUSED[name]
    change(data)
    before = set(data.bids.rglob("*"))
    with pytest.raises(InputError, match=message):
        data.run("09" if "person" in name else "01", **options)
    assert set(data.bids.rglob("*")) == before


def test_folders_that_are_no_data_set_are_refused(data: Data, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no folders sub-\*; expected a BIDS data set"):
        data._replace(bids=tmp_path).run()
    with pytest.raises(InputError, match="is the data set"):
        data._replace(output=data.bids).run()
    with pytest.raises(InputError, match="no registrations"):
        summarise_group(tmp_path)


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        ("in out group", "in out group"),
        ("in out participant --participant-label 01 02 --n-cpus 2",
         "in out participant --participant-label 01 --participant-label 02 --n-cpus 2"),
        ("--session_label a in", "--session_label a --session_label in"),
    ],
)  # fmt: skip
def test_a_label_option_takes_several_values(typed: str, given: str) -> None:
    assert command_line.repeated(typed.split()) == given.split()


def test_the_command_line(data: Data, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def typed(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["crossmorph-bids", str(data.bids), str(data.output), *words])
        with pytest.raises(SystemExit) as ended:
            command_line.main()
        return int(ended.value.code or 0)

    words = ["participant", "--moving", "T2w", "--fixed", "T1w", "--model", str(data.model), "--init", "none"]
    words += ["--stage", "deformable"]
    assert typed(*words, "--participant-label", "01", "03") == 0
    out = capsys.readouterr().out
    assert "left out sub-03: no T2w\n1 registered, 0 finished before, 0 failed\n" in out
    record = json.loads((data.output / "sub-01/anat/sub-01_from-T2w_to-T1w_mode-image_xfm.json").read_text())
    assert record["command"].startswith("crossmorph-bids ")
    assert typed("group") == 0
    assert f"wrote {data.output / 'registrations.tsv'}" in capsys.readouterr().out
    (data.bids / f"{IMAGES[0]}.nii.gz").write_bytes(b"torn")
    assert typed(*words, "--participant-label", "01") == 3
    assert typed("participant") == 2
    assert "expected --moving SUFFIX and --fixed SUFFIX" in capsys.readouterr().err

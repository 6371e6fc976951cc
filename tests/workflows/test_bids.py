"""Names of derivatives, and the files that go with them."""

import json
from importlib import metadata
from pathlib import Path

import pytest

from crossmorph.datasets.pairs import read_pairs
from crossmorph.errors import InputError
from crossmorph.provenance.record import read_record
from crossmorph.workflows.bids import bids_name, bids_outputs
from crossmorph.workflows.register_files import register_files


@pytest.mark.parametrize(
    ("moving", "fixed", "moved", "transform"),
    [
        (
            "sub-01_T2w.nii.gz", "sub-01_T1w.nii.gz",
            "sub-01_space-T1w_T2w.nii.gz", "sub-01_from-T2w_to-T1w_mode-image_xfm.h5",
        ),
        (
            "sub-01_T2w.mha", "sub-02_T2w.nii",
            "sub-01_space-02T2w_T2w.nii.gz", "sub-01_from-01T2w_to-02T2w_mode-image_xfm.h5",
        ),
        (
            "sub-1_ses-a_run-2_FLAIR.nii", "sub-1_ses-b_T1w.nii",
            "sub-1_ses-a_run-2_space-bT1w_FLAIR.nii.gz", "sub-1_ses-a_run-2_from-aFLAIR_to-bT1w_mode-image_xfm.h5",
        ),
    ],
)  # fmt: skip
def test_names(tmp_path, moving, fixed, moved, transform):
    outputs = bids_outputs(Path(moving), Path(fixed), tmp_path)
    assert (outputs.moved.name, outputs.transform.name) == (moved, transform)
    forth, back = (path.name.split("_mode")[0].split("_from-")[1].split("_to-") for path in outputs[1:3])
    assert forth == back[::-1]


@pytest.mark.parametrize(
    ("moving", "fixed", "reason"),
    [
        ("T2.nii.gz", "sub-1_T1w.nii", "T2.nii.gz: not a BIDS name"),
        ("sub-1_T1w.nii", "sub-1_T1w.nii.gz", "expected names that tell them apart"),
        ("sub-1_T1w.jpg", "sub-1_T2w.nii", "sub-1_T1w.jpg: unknown image format"),
    ],
)
def test_other_names_are_refused(tmp_path, moving, fixed, reason):
    with pytest.raises(InputError, match=reason):
        bids_outputs(Path(moving), Path(fixed), tmp_path)


def test_entities_in_order():
    assert bids_name(Path("a/sub-01_acq-fast_T2w.nii.gz")) == ({"sub": "01", "acq": "fast"}, "T2w")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path, phantom):
    pair = read_pairs(phantom / "test" / "pairs.csv")[0]
    (tmp_path / "file").touch()
    outputs = bids_outputs(Path("sub-1_T2w.nii"), Path("sub-1_T1w.nii"), tmp_path / "file")
    with pytest.raises(InputError, match=r"file: the folder cannot be made \(File exists\)"):
        register_files(pair.moving, pair.fixed, outputs)


def test_sidecars_say_where_files_come_from(tmp_path, phantom):
    pair = read_pairs(phantom / "test" / "pairs.csv")[0]
    moving, fixed = tmp_path / "sub-1_T2w.nii.gz", tmp_path / "sub-1_T1w.nii.gz"
    moving.write_bytes(pair.moving.read_bytes())
    fixed.write_bytes(pair.fixed.read_bytes())
    folder = tmp_path / "derivatives" / "out"
    outputs = bids_outputs(moving, fixed, folder)
    with pytest.raises(InputError, match="no such model"):
        register_files(moving, fixed, outputs, "none")
    assert not folder.parent.exists()
    register_files(moving, fixed, outputs)
    assert sorted(path.name for path in folder.iterdir()) == [
        "sub-1_from-T1w_to-T2w_mode-image_xfm.h5", "sub-1_from-T1w_to-T2w_mode-image_xfm.json",
        "sub-1_from-T2w_to-T1w_mode-image_xfm.h5", "sub-1_from-T2w_to-T1w_mode-image_xfm.json",
        "sub-1_space-T1w_T2w.json", "sub-1_space-T1w_T2w.nii.gz",
    ]  # fmt: skip
    told = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
    back = told["sub-1_from-T1w_to-T2w_mode-image_xfm.json"]
    assert back["SpatialReference"] == str(moving)
    assert told["sub-1_space-T1w_T2w.json"]["SpatialReference"] == str(fixed)
    assert back["Sources"] == [str(moving), str(fixed)]
    assert back["GeneratedBy"] == [{"Name": "crossmorph", "Version": metadata.version("crossmorph")}]
    assert back["measures"]["folds_percent"] == 0
    record = read_record(outputs.sidecars[0].path)
    assert [Path(output.path) for output in record.outputs] == list(outputs[:3])

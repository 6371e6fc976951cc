"""Models in the forms of others: their own tools read them, and what they do is what the command line does."""

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from project import command
from small_model import draw, save_weights
from typer.testing import CliRunner

from crossmorph.cli.main import app
from crossmorph.errors import InputError
from crossmorph.networks.checkpoint import load_model, read_card
from crossmorph.workflows.export_model import export_model


def test_a_repository_of_hugging_face_has_the_metadata_of_a_card(tmp_path: Path) -> None:
    export_model("any-2d", tmp_path / "shipped", "huggingface")
    text = (tmp_path / "shipped" / "README.md").read_text("utf-8")
    _, front, body = re.split(r"^---$", text, maxsplit=2, flags=re.MULTILINE)
    facts = yaml.safe_load(front)
    assert (facts["library_name"], facts["pipeline_tag"]) == ("crossmorph", "image-to-image")
    # Half of the training and the calibration were on data under CC BY-SA, so that no one identifier fits the folder.
    assert (facts["license"], facts["license_link"]) == ("other", "LICENSE.md")
    licence = (tmp_path / "shipped" / "LICENSE.md").read_text("utf-8")
    assert all(words in licence for words in ("Apache License 2.0", "Louis Collins", "CC BY-SA 3.0"))
    card = read_card(tmp_path / "shipped" / "any-2d.json")
    assert card.sha256 in body
    assert f"Dice, fine stage: {card.scores['dice_final']:.4f}" in body
    assert "models pull" not in body
    # The folder is a model by itself.
    assert load_model(str(tmp_path / "shipped"), "cpu").card == card


def test_weights_of_others_get_no_licence_from_here(tmp_path: Path) -> None:
    save_weights(tmp_path / "model", 1)
    done = CliRunner().invoke(app, ["models", "export", str(tmp_path / "model"), "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "license" not in text
    assert "crossmorph models pull small.json" in text
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", "small.json", "small.safetensors"}


def test_other_forms_and_folders_in_use_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "model", 1)
    with pytest.raises(InputError, match="expected huggingface or monai"):
        export_model(str(tmp_path / "model"), tmp_path / "out", "onnx")
    with pytest.raises(InputError, match="not an empty folder"):
        export_model(str(tmp_path / "model"), tmp_path / "model", "monai")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")
def test_monai_reads_the_bundle_and_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = pytest.importorskip("monai.bundle")
    save_weights(tmp_path / "model", 1)
    root = tmp_path / "bundle"
    export_model(str(tmp_path / "model"), root, "monai")
    for name, seed in (("moving", 1), ("fixed", 2)):
        draw(tmp_path / f"{name}.nii.gz", seed)
    workflow = bundle.create_workflow(
        config_file=str(root / "configs" / "inference.json"),
        meta_file=str(root / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(root),
        moving=str(tmp_path / "moving.nii.gz"),
        fixed=str(tmp_path / "fixed.nii.gz"),
        output_dir=str(tmp_path / "eval"),
    )
    ours = load_model(str(tmp_path / "model"), "cpu").hierarchy.state_dict()
    theirs = workflow.network_def.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert workflow.description == "For tests."
    assert json.loads((root / "configs" / "metadata.json").read_text())["monai_version"]
    workflow.run()
    moved = nib.load(tmp_path / "eval" / "moving_moved.nii.gz").get_fdata()
    names = [tmp_path / f"{name}.nii.gz" for name in ("moving", "fixed", "moved")]
    done = command("register", *names[:2], "-o", names[2], "--model", root / "models", "--keep-failed", "--threads", 1)
    assert names[2].exists(), done.stderr
    np.testing.assert_allclose(np.squeeze(moved), np.squeeze(nib.load(names[2]).get_fdata()), atol=1e-5)

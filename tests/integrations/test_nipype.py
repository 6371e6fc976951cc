"""Registration as a node of a Nipype workflow."""

import json
import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

os.environ["NIPYPE_NO_ET"] = "1"  # or Nipype asks its site for news
from nipype.pipeline import engine

import crossmorph
from crossmorph.datasets.pairs import read_pairs
from crossmorph.integrations.nipype import Register


@pytest.fixture
def files(phantom: Path, tmp_path: Path) -> dict[str, str]:
    """A pair in a folder whose name a shell would split."""
    pair = read_pairs(phantom / "test" / "pairs.csv")[0]
    folder = tmp_path / "a pair"
    folder.mkdir()
    chosen = {"moving_image": pair.moving, "fixed_image": pair.fixed, "labels": pair.moving_labels}
    return {name: shutil.copy(path, folder) for name, path in chosen.items()}


def test_a_node_of_a_workflow_gives_what_register_gives(files: dict[str, str], tmp_path: Path) -> None:
    node = engine.Node(Register(**files, report="page.html"), name="register", base_dir=tmp_path / "work dir")
    workflow = engine.Workflow(name="flow", base_dir=tmp_path / "work dir")
    workflow.add_nodes([node])
    (done,) = workflow.run().nodes()
    outputs = done.result.outputs.get()
    assert {Path(path).parent for path in outputs.values()} == {tmp_path / "work dir" / "flow" / "register"}
    expected = crossmorph.register(files["moving_image"], files["fixed_image"])
    moved = nibabel.load(outputs["moved_image"]).get_fdata()
    np.testing.assert_allclose(moved, expected.moved.data, atol=1e-3 * np.ptp(expected.moved.data))
    labels = nibabel.load(outputs["moved_labels"]).get_fdata()
    assert (labels == expected.apply(files["labels"], "nearest").data).mean() > 0.999
    record = json.loads(Path(outputs["record"]).read_text())
    assert [each["name"] for each in record["checks"]] == [each.name for each in expected.checks]


def test_settings_reach_the_command_line(files: dict[str, str]) -> None:
    settings = {"model": "any-2d", "init": "none", "smoothness": 0.25, "refine": "off", "threads": 2}
    words = Register(**files, **settings).cmdline
    for name, value in settings.items():
        assert f"--{name} {value}" in words


def test_what_register_refuses_fails_with_its_reason(files: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not whole numbers, expected labels"):
        Register(**files | {"labels": files["moving_image"]}).run(cwd=tmp_path)

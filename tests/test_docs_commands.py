"""The commands in the documents: the command line takes every one, and those of the guides run, page by page."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import typer
from project import ROOT, command

from crossmorph.cli.main import app
from crossmorph.images.io import write_image
from crossmorph.workflows.demo import DemoPair, demo_pair

DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
GUIDES = sorted([DOCS / "index.md", DOCS / "tutorial.md", *(DOCS / "howto").glob("*.md")])
CODE = re.compile(r"^```python\n(?P<python>.*?)^```|^ {4,}(?:\.venv/bin/)?crossmorph (?P<words>[^\n]+)$", re.S | re.M)
ALLOWED_CODES = {0, 3}  # 3: the command ran, and the result failed its own checks


def code(page: Path) -> Iterator[tuple[str | None, str | None]]:
    """The Python snippets and the commands of a page, in its order; without comments at the end."""
    for found in CODE.finditer(page.read_text(encoding="utf-8")):
        yield found["python"], found["words"] and re.sub(r" +#.*", "", found["words"])


def filled(words: str) -> list[str]:
    """A command with something in its places: `[XFM]...` is one file, `a|b` is a."""
    words = words.replace("[OPTIONS]", "").replace("..]", "]")
    return [re.sub(r"[\[\]]|\.\.\.|\|.*", "", word) for word in shlex.split(words) if word != "..."]


GROUP: Any = typer.main.get_command(app)


def parse(words: list[str]) -> None:
    """Let the command line read a command, without running it."""
    group = GROUP
    while hasattr(group, "commands"):
        group, words = group.commands[words[0]], words[1:]
        for option in group.params:
            if option.name == "labels":
                option.nargs = 2  # as crossmorph.cli.main does
    group.make_context("crossmorph", words)


def test_the_command_line_takes_every_command_in_the_documents() -> None:
    lines = [words for page in PAGES for _, words in code(page) if words]
    assert len(lines) > 50
    for words in lines:
        try:
            parse(filled(words))
        except Exception as error:
            raise AssertionError(f"crossmorph {words}: {error}") from error
    with pytest.raises(Exception, match="No such option"):
        parse(filled("register MOVING FIXED -o OUT --modle any-2d"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file that the guides begin with."""
    folder = tmp_path_factory.mktemp("images")
    pair = demo_pair()
    for name, image in (("T2", pair.moving), ("T1", pair.fixed)):
        write_image(folder / f"{name}.nii.gz", image)
    for name, image in (("T2_labels", pair.moving_labels), ("T1_labels", pair.fixed_labels)):
        write_image(folder / f"{name}.nii.gz", image)
    _add_masks_and_points(folder, pair)
    volume = nib.load(folder / "T2.nii.gz")
    frames = np.stack([np.asarray(volume.dataobj, np.float32).reshape(*volume.shape[:2], 1)] * 3, axis=-1)
    nib.save(nib.Nifti1Image(frames * [1, 0.9, 1.1], volume.affine), folder / "series.nii.gz")
    done = command("register", "T2.nii.gz", "T1.nii.gz", "-o", "ants.nii.gz", "--ants-prefix", "ants", cwd=folder)
    assert done.returncode == 0, done.stderr
    (pairs,) = re.findall(r"^    (name,moving.*?)\n\n", (DOCS / "howto/many-pairs.md").read_text("utf-8"), re.S | re.M)
    (folder / "pairs.csv").write_text(pairs.replace("\n    ", "\n") + "\n", encoding="utf-8")
    return folder


def _add_masks_and_points(folder: Path, pair: DemoPair) -> None:
    """A lesion and a brain mask of the fixed image, points of both, and each image in the other's place."""
    brain = pair.fixed_labels.data > 0
    lesion = np.zeros_like(brain)
    lesion[50:60, 60:70] = True
    for name, mask in (("lesion", lesion), ("brain", brain)):
        write_image(folder / f"{name}.nii.gz", replace(pair.fixed_labels, data=mask.astype(np.uint8)))
    write_image(folder / "T1b.nii.gz", pair.moving)
    write_image(folder / "T2b.nii.gz", pair.fixed)
    for name in ("T2", "T1"):
        (folder / f"{name}_points.csv").write_text("x,y,z\n10,20,0\n-20,5,0\n", encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_the_commands_of_a_guide_run_one_after_the_other(page: Path, images: Path, tmp_path: Path) -> None:
    for file in images.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    snippets = list(code(page))
    assert snippets or page.stem == "index"
    for python, words in snippets:
        call = ["-c", python] if python else ["-m", "crossmorph", *shlex.split(words or "")]
        done = subprocess.run([sys.executable, *call], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode in (ALLOWED_CODES if words else {0}), f"{python or words}\n{done.stderr}"
        outputs = [word for word in shlex.split(words or "") if word.endswith((".nii.gz", ".h5", ".html"))]
        assert done.returncode == 3 or all((tmp_path / name).exists() for name in outputs), words

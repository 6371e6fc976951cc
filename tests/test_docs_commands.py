"""The commands in the documents: the command line takes every one, and those of the guides run, page by page."""

import re
import shlex
import shutil
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

from crossmorph.cli import bids_app
from crossmorph.cli.main import app
from crossmorph.datasets.pairs import read_pairs
from crossmorph.datasets.phantom import prepare_phantom
from crossmorph.datasets.phantom_3d import prepare_volumes
from crossmorph.images.io import write_image
from crossmorph.workflows.demo import DemoPair, demo_pair

DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
GUIDES = sorted([DOCS / "index.md", DOCS / "tutorial.md", *(DOCS / "howto").glob("*.md")])
CODE = re.compile(
    r"^```python\n(?P<python>.*?)^```|^ {4,}(?:\.venv/bin/)?(?P<program>crossmorph(?:-bids)?) (?P<words>[^\n]+)$",
    re.S | re.M,
)
ALLOWED_CODES = {0, 3}  # 3: the command ran, and the result failed its own checks


def code(page: Path) -> Iterator[tuple[str, str]]:
    """The Python snippets and the commands of a page, in its order, as program and words; without comments."""
    for found in CODE.finditer(page.read_text(encoding="utf-8")):
        if found["python"]:
            yield "python", found["python"]
        else:
            yield found["program"], re.sub(r" +#.*", "", found["words"])


def filled(words: str) -> list[str]:
    """A command with something in its places: `[XFM]...` is one file, `a|b` is a."""
    words = words.replace("[OPTIONS]", "").replace("..]", "]")
    return [re.sub(r"[\[\]]|\.\.\.|\|.*", "", word) for word in shlex.split(words) if word != "..."]


PROGRAMS: dict[str, Any] = {
    "crossmorph": typer.main.get_command(app),
    "crossmorph-bids": typer.main.get_command(bids_app.app),
}


def parse(words: list[str], program: str = "crossmorph") -> None:
    """Let the command line read a command, without running it."""
    group = PROGRAMS[program]
    while hasattr(group, "commands"):
        group, words = group.commands[words[0]], words[1:]
        for option in group.params:
            if option.name == "labels":
                option.nargs = 2  # as crossmorph.cli.main does
    group.make_context("crossmorph", words)


def test_the_command_line_takes_every_command_in_the_documents() -> None:
    lines = [line for page in PAGES for line in code(page) if line[0] in PROGRAMS]
    assert len(lines) > 50
    for program, words in lines:
        try:
            parse(filled(words), program)
        except Exception as error:
            raise AssertionError(f"{program} {words}: {error}") from error
    with pytest.raises(Exception, match="No such option"):
        parse(filled("register MOVING FIXED -o OUT --modle any-2d"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file that the guides begin with."""
    folder = tmp_path_factory.mktemp("images")
    pair = demo_pair()
    for name, image in (("T2", pair.moving), ("T1", pair.fixed), ("date1", pair.moving), ("date2", pair.moving)):
        write_image(folder / f"{name}.nii.gz", image)
    for name, image in (("T2_labels", pair.moving_labels), ("T1_labels", pair.fixed_labels)):
        write_image(folder / f"{name}.nii.gz", image)
    session = folder / "bids" / "sub-01" / "anat"
    session.mkdir(parents=True)
    (folder / "bids" / "dataset_description.json").write_text('{"Name": "two slices", "BIDSVersion": "1.9.0"}')
    for name, image in (("T2w", pair.moving), ("T1w", pair.fixed)):
        write_image(session / f"sub-01_{name}.nii.gz", image)
    prepare_phantom(folder / "group", test=3, train=3, validation=1)
    for number, each in enumerate(read_pairs(folder / "group" / "test" / "pairs.csv"), start=1):
        shutil.copy(each.moving, folder / f"sub-{number:02}.nii.gz")
    shutil.rmtree(folder / "group")
    volumes(folder)
    add_masks_and_points(folder, pair)
    done = command("register", "T2.nii.gz", "T1.nii.gz", "-o", "ants.nii.gz", "--ants-prefix", "ants", cwd=folder)
    assert done.returncode == 0, done.stderr
    (pairs,) = re.findall(r"^    (name,moving.*?)\n\n", (DOCS / "howto/many-pairs.md").read_text("utf-8"), re.S | re.M)
    (folder / "pairs.csv").write_text(pairs.replace("\n    ", "\n") + "\n", encoding="utf-8")
    return folder


def volumes(folder: Path) -> None:
    """A series of three volumes and a T1w volume, small ones."""
    prepare_volumes(folder / "volumes", validation=1, test=1, contrasts=1, spacing=4.0)
    (pair,) = read_pairs(folder / "volumes" / "test" / "pairs.csv")
    shutil.copy(pair.fixed, folder / "T1_volume.nii.gz")
    volume = nib.load(pair.fixed)
    frames = np.stack([1 - np.asarray(volume.dataobj, np.float32)] * 3, axis=-1)
    nib.save(nib.Nifti1Image(frames * [1, 0.9, 1.1], volume.affine), folder / "series.nii.gz")
    shutil.rmtree(folder / "volumes")


def run(program: str, words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A snippet or a command in a process of its own."""
    if program == "python":
        call = ["-c", words]
    else:
        module = "crossmorph.cli.main" if program == "crossmorph" else "crossmorph.cli.bids_app"
        call = ["-c", f"from {module} import main; main()", *shlex.split(words)]
    return subprocess.run([sys.executable, *call], cwd=folder, capture_output=True, text=True, timeout=600)


def add_masks_and_points(folder: Path, pair: DemoPair) -> None:
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
    shutil.copytree(images, tmp_path, dirs_exist_ok=True)
    snippets = list(code(page))
    assert snippets or page.stem == "index"
    for program, words in snippets:
        done = run(program, words, tmp_path)
        assert done.returncode in (ALLOWED_CODES if program in PROGRAMS else {0}), f"{words}\n{done.stderr}"
        if program == "python" or done.returncode == 3:
            continue
        outputs = [word for word in shlex.split(words) if word.endswith((".nii.gz", ".h5", ".html"))]
        assert all((tmp_path / name).exists() for name in outputs), words

"""Tasks of Learn2Reg: the pairs that a task's ``NAME_dataset.json`` names, as a list of pairs.

A task is a folder with ``imagesTr``, ``labelsTr`` and the like (``imagesTs``, ``imagesVal``) and the JSON file, whose
``training_paired_images``, ``registration_val`` (of LUMIR ``validation``) and ``registration_test`` name pairs of
images. Labels lie at the image's path with ``labels`` in the place of ``images``. An image's name ends in the numbers
of its case and of its modality, ``OASIS_0395_0000.nii.gz``.
"""

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from crossmorph.datasets.pairs import Pair, write_pairs
from crossmorph.errors import InputError
from crossmorph.system.files import brief, read_json

Part = Literal["train", "validation", "test"]
NUMBERS = re.compile(r"_(\d{4})_(\d{4})\.nii\.gz$")


class Named(BaseModel):
    """A pair by the paths of its images, relative to the task."""

    fixed: str
    moving: str


class Task(BaseModel):
    """What is read of a task's JSON file."""

    training_paired_images: list[Named] = Field(default_factory=list)
    registration_val: list[Named] = Field(default_factory=list)
    validation: list[Named | dict[str, Any]] = Field(default_factory=list)
    registration_test: list[Named] = Field(default_factory=list)


def prepare_learn2reg(task: Path, output: Path | None = None, part: Part = "validation") -> Path:
    """Write the list of a task's pairs.

    Args:
        task: the task's folder, or its JSON file.
        output: the list, in the task's folder or one above it; None: ``pairs.csv`` in the task's folder.
        part: which of the task's pairs.

    Returns:
        The path of the list. A pair is named as Learn2Reg names its field: that of ``0395_0396`` is
        ``disp_0395_0396.nii.gz``.

    Raises:
        InputError: no such task, no such pairs, an image that does not exist, or a list that cannot be written.
    """
    description = _description(task)
    folder = description.parent
    found = read_json(description, Task, "a Learn2Reg task")
    named = {
        "train": found.training_paired_images,
        "validation": found.registration_val or [each for each in found.validation if isinstance(each, Named)],
        "test": found.registration_test,
    }[part]
    if not named:
        raise InputError(f"{description}: names no pairs for {part}; expected fixed and moving images")
    output = output or folder / "pairs.csv"
    write_pairs(output, [_pair(folder, each) for each in named])
    return output


def _description(task: Path) -> Path:
    """The task's JSON file."""
    if task.is_file():
        return task
    found = sorted(task.glob("*_dataset.json"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise InputError(f"{task}: holds {names}; expected a Learn2Reg task with one NAME_dataset.json")
    return found[0]


def _pair(folder: Path, named: Named) -> Pair:
    fixed, moving = folder / named.fixed, folder / named.moving
    for image in (fixed, moving):
        if not image.is_file():
            raise InputError(f"{brief(image)}: does not exist; expected the image that the task names")
    return Pair(_name(fixed, moving), moving, fixed, _labels(folder, named.moving), _labels(folder, named.fixed))


def _labels(folder: Path, image: str) -> Path | None:
    labels = folder / image.replace("images", "labels")
    return labels if labels.is_file() and labels != folder / image else None


def _name(fixed: Path, moving: Path) -> str:
    """The numbers of both cases, with those of the modalities unless they are the same, or 0 and 1."""
    cases = [NUMBERS.search(image.name) for image in (fixed, moving)]
    if not all(cases):
        return "-".join(image.name.removesuffix(".nii.gz") for image in (fixed, moving))
    (one, first), (other, second) = (case.groups() for case in cases if case)
    usual = first == second or (first, second) == ("0000", "0001")
    return f"{one}_{other}" if usual else f"{one}_{first}_{other}_{second}"

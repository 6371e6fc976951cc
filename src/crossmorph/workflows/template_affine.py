"""The affine (or rigid) part of a template: every image to a reference, as tasks that are not done twice."""

import hashlib
import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.images.io import read_image
from crossmorph.provenance.record import digest
from crossmorph.registration.linear import register_linear
from crossmorph.registration.settings import Freedom
from crossmorph.system.files import make_folder, write_whole
from crossmorph.system.processes import on_cluster, on_processes, sentence
from crossmorph.system.progress import progress_bar


class AffineTask(NamedTuple):
    """An image to bring to a reference, and the file of the result; all paths absolute.

    ``start``: where to begin, reference to image; None searches. ``freedom``: what the map may change.
    """

    name: str
    moving: Path
    fixed: Path
    start: tuple[tuple[float, ...], ...] | None
    freedom: Freedom
    result: Path
    threads: int | None


def affines(tasks: Sequence[AffineTask], jobs: int, scheduler: str | None) -> list[Float[ndarray, "n n"]]:
    """The affine maps from the reference to each image, in the order of the tasks.

    Raises:
        InputError: an image cannot be registered; it is named.
    """
    work = on_processes(register_affine, tasks, jobs) if scheduler is None else on_cluster(
        register_affine, tasks, scheduler
    )  # fmt: skip
    found = {}
    with progress_bar(True) as progress:
        bar = progress.add_task("affine", total=len(tasks))
        for task, result in work:
            if isinstance(result, Exception):
                raise InputError(f"{task.moving}: {sentence(result)}")
            found[task.name] = np.array(result)
            progress.update(bar, advance=1)
    return [found[task.name] for task in tasks]


def register_affine(task: AffineTask) -> list[list[float]]:
    """Register one image, unless that is done; runs in a process of its own."""
    key = _hash(task)
    if task.result.is_file():
        known = json.loads(task.result.read_bytes())
        if known["hash"] == key:
            return known["matrix"]
    if task.threads:
        torch.set_num_threads(task.threads)
    start = "affine" if task.start is None else np.array(task.start)
    matrix = register_linear(read_image(task.moving), read_image(task.fixed), task.freedom, start).matrix.tolist()
    make_folder(task.result.parent)
    write_whole(task.result, (json.dumps({"hash": key, "matrix": matrix}, indent=2) + "\n").encode())
    return matrix


def _hash(task: AffineTask) -> str:
    decisive = [digest(task.moving), digest(task.fixed), task.start, task.freedom, metadata.version("crossmorph")]
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()

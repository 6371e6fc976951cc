"""A template of a group: the average of images in the middle of the group, by rounds, none of which is done twice.

1. Every image is registered affinely to the first one (of two, each to the other), and then to the average of
   all. The middle space is that in which the maps have no mean
   (:func:`crossmorph.transforms.averages.centring_affine`), so that it does not depend on which image is the first.
2. In each round every image is registered to the template, from its affine map. The deformations (the maps without
   that) have a mean ``m``; the new template is the mean of the images by the maps ``w_k o m^-1``, whose deformations
   have the mean zero, sharpened. This is the scheme of Avants and Gee (NeuroImage 2004,
   doi:10.1016/j.neuroimage.2004.07.010) and of Joshi et al. (doi:10.1016/j.neuroimage.2004.07.068).

    OUT/template.nii.gz, OUT/template.json      the template, and how it came about
    OUT/NAME/transform.h5, inverse.h5           from the template to an image and back; moved.nii.gz
    OUT/rounds/1/                               of each round the template, the state and the registrations
    OUT/index.html, OUT/subjects.html           the progress, and the registrations of the last round
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import read_image, write_image
from crossmorph.provenance.record import digest, plain_settings
from crossmorph.registration.settings import DEFAULTS, Freedom, Settings
from crossmorph.reports.batch_page import PAGE, Line, load_result, write_batch_page
from crossmorph.reports.template_page import ShownRound, write_template_page
from crossmorph.system.files import make_folder, output_set, write_whole
from crossmorph.system.processes import claimed
from crossmorph.transforms.averages import centring_affine, mean_warp
from crossmorph.transforms.composition import Step, as_warp
from crossmorph.transforms.grid import Grid
from crossmorph.transforms.warp import Warp, followed_by, resample
from crossmorph.transforms.warp_files import read_transform, write_transform
from crossmorph.workflows.batch import RESULT, Entry, Task, check_how, register_tasks
from crossmorph.workflows.model_card import digests_of_weights
from crossmorph.workflows.outputs import Outputs
from crossmorph.workflows.template_affine import AffineTask, affines
from crossmorph.workflows.template_average import Average, average, foreground, group_grid, sharpened, sharpness
from crossmorph.workflows.template_group import (
    INVERSE,
    MEAN,
    MOVED,
    RECORD,
    ROUNDS,
    STATE,
    SUBJECTS,
    TEMPLATE,
    TRANSFORM,
    Group,
    How,
    State,
    check_images,
    names_of,
)

FORMAT = "crossmorph template 1"


class Template(NamedTuple):
    """A template: its file, the page, and the states of the rounds, the affine one first."""

    path: Path
    page: Path
    rounds: list[State]


def make_template(
    images: Sequence[str | Path],
    output: str | Path,
    rounds: int = 4,
    spacing: float | None = None,
    sharpening: float = 0.5,
    freedom: Freedom = "affine",
    model: str | None = None,
    settings: Settings = DEFAULTS,
    jobs: int = 1,
    scheduler: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    command: str = "crossmorph.workflows.template.make_template, in Python",
) -> Template:
    """Make the template of a group, or go on with one that was not finished.

    Args:
        images: files of one contrast, of two or three dimensions; a file's name without suffix names the image.
        output: the folder; made if need be.
        rounds: of deformable registration; 0 is the affine average.
        spacing: of the template, millimetres; None is the median of the images' voxel sizes.
        sharpening: how much of what a blur of one voxel takes off is added again.
        freedom: of the maps before the deformation: ``affine`` for people, ``rigid`` for dates of one person.
        model: as of :func:`crossmorph.workflows.batch.register_batch`.
        settings: how each image is registered to the template; ``init`` is the affine map of its own.
        jobs: as of :func:`crossmorph.workflows.batch.register_batch`.
        scheduler: likewise.
        device: likewise.
        threads: likewise.
        command: what was called.

    Raises:
        InputError: fewer than two images, images that cannot be used or registered, or settings that cannot be used.
    """
    if rounds < 0 or jobs < 1 or sharpening < 0 or (spacing is not None and spacing <= 0):
        raise InputError(
            f"received {rounds} rounds, {jobs} jobs, sharpening {sharpening:g}, spacing {spacing}; expected rounds and "
            "sharpening of at least 0, a job and a spacing above 0"
        )
    model, settings = check_how(model, settings, device if scheduler is None else None)
    if scheduler is None and threads is None:
        threads = max(1, (os.cpu_count() or 1) // jobs)
    how = How(rounds, spacing, sharpening, freedom, model, settings, jobs, scheduler, device, threads, command)
    paths = [Path(path).absolute() for path in images]
    names = names_of(paths)
    check_images(paths)
    folder = Path(output).absolute()
    with claimed(folder):
        group = Group(names, paths, [digest(path) for path in paths], folder)
        states = [_affine_round(group, how)]
        _write_pages(group, how, states)
        for _ in range(rounds):
            states.append(_round(group, how, states))
            _write_pages(group, how, states)
        _write_finals(group, how, states)
    return Template(folder / TEMPLATE, folder / PAGE, states)


# --- rounds ----------------------------------------------------------------------------------------------------------


def _affine_round(group: Group, how: How) -> State:
    """Round 0: the middle space, and the average by the affine maps."""
    folder = group.output / ROUNDS / "0"
    key = _key([group.digests, how.spacing, how.sharpening, how.freedom])
    if (known := _finished(folder, key)) is not None:
        return known
    matrices = _started(group, how, folder / "first")
    rough = folder / "first" / TEMPLATE
    write_image(rough, _affine_average(group, matrices, how).image)
    again = [
        AffineTask(name, image, rough, _plain(matrix), how.freedom, folder / "second" / f"{name}.json", how.threads)
        for name, image, matrix in zip(group.names, group.images, matrices, strict=True)
    ]
    matrices = _centred(affines(again, how.jobs, how.scheduler))
    found = _affine_average(group, matrices, how)
    return _keep(folder, key, how, found, matrices, 0.0, [])


def _started(group: Group, how: How, folder: Path) -> list[Float[ndarray, "n n"]]:
    """Maps from a first middle space to each image's."""

    def task(moving: int, fixed: int) -> AffineTask:
        result, images = folder / f"{group.names[moving]}.json", group.images
        return AffineTask(group.names[moving], images[moving], images[fixed], None, how.freedom, result, how.threads)

    if len(group.names) == 2:  # both ways, so that neither comes first
        forth, back = affines([task(1, 0), task(0, 1)], how.jobs, how.scheduler)
        return _centred([np.eye(len(forth)), np.linalg.inv(centring_affine([forth, np.linalg.inv(back)]))])
    found = affines([task(number, 0) for number in range(1, len(group.names))], how.jobs, how.scheduler)
    return _centred([np.eye(len(found[0])), *found])


def _centred(matrices: Sequence[Float[ndarray, "n n"]]) -> list[Float[ndarray, "n n"]]:
    middle = centring_affine(matrices)
    return [matrix @ middle for matrix in matrices]


def _plain(matrix: Float[ndarray, "n n"]) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, matrix.tolist()))


def _affine_average(group: Group, matrices: Sequence[Float[ndarray, "n n"]], how: How) -> Average:
    grids = [Grid(image.affine, image.shape) for image in map(read_image, group.images)]
    grid = group_grid(grids, matrices, how.spacing)
    steps: Iterator[list[Step]] = ([matrix] for matrix in matrices)
    return average(group.images, matrices, steps, grid)


def _round(group: Group, how: How, before: Sequence[State]) -> State:
    """A deformable round after those before it."""
    number, matrices = len(before), [np.array(matrix) for matrix in before[-1].matrices]
    folder = group.output / ROUNDS / str(number)
    key = _key([before[-1].key, digests_of_weights(how.model), plain_settings(how.settings)])
    if (known := _finished(folder, key)) is not None:
        return known
    failed = [entry.name for entry in _registered(group, how, number, before[-1])]
    target = read_image(folder.parent / str(number - 1) / TEMPLATE)
    grid = Grid(target.affine, target.shape)

    def warps() -> Iterator[Warp]:
        return (read_transform(folder / name / TRANSFORM) for name in group.names)

    deformations = (followed_by(*each) for each in zip(warps(), map(np.linalg.inv, matrices), strict=True))
    write_transform(folder / MEAN, mean_warp(deformations))
    mean = read_transform(folder / MEAN)
    centring = mean.inverse()
    steps: Iterator[list[Step]] = ([centring, warp] for warp in warps())
    found = average(group.images, matrices, steps, grid)
    removed = float(np.linalg.norm(mean.displacement, axis=0)[foreground(target)].mean())
    state = _keep(folder, key, how, found, matrices, removed, failed)
    _forget(group, number - 1)
    return state


def _registered(group: Group, how: How, number: int, before: State) -> list[Entry]:
    """Register every image to the template of the round before; the entries of which a check failed.

    Raises:
        InputError: an image cannot be registered; it is named.
    """
    folder = group.output / ROUNDS / str(number)
    target = folder.parent / str(number - 1) / TEMPLATE
    tasks = []
    for name, image, matrix in zip(group.names, group.images, before.matrices, strict=True):
        place = folder / name
        outputs = Outputs(place / MOVED, place / TRANSFORM, place / INVERSE)
        settings = how.settings._replace(init=np.array(matrix))
        tasks.append(
            Task(name, image, target, place, outputs, how.model, settings, how.device, how.threads, True, how.command)
        )
    entries = register_tasks(tasks, how.jobs, how.scheduler)
    for task, entry in zip(tasks, entries, strict=True):
        if entry.status == "failed" and ":failed" not in entry.checks:
            raise InputError(f"{task.moving}: cannot be registered to the template ({entry.error})")
    return [entry for entry in entries if entry.status == "failed"]


def _keep(
    folder: Path,
    key: str,
    how: How,
    found: Average,
    matrices: Sequence[Float[ndarray, "n n"]],
    removed: float,
    failed: list[str],
) -> State:
    """Write the template of a round and its state, the state last."""
    template = sharpened(found.image, how.sharpening)
    plain = [matrix.tolist() for matrix in matrices]
    state = State(key, plain, *sharpness(template), found.variation, removed, found.mean_deformation, failed)
    write_image(folder / TEMPLATE, template)
    write_whole(folder / STATE, (json.dumps(state._asdict(), indent=2) + "\n").encode())
    return state


def _finished(folder: Path, key: str) -> State | None:
    """The state of a round that is finished; else its folder is there afterwards."""
    try:
        state = State(**json.loads((folder / STATE).read_bytes()))
    except (OSError, ValueError, TypeError):
        state = None
    if state is not None and state.key == key and (folder / TEMPLATE).is_file():
        return state
    make_folder(folder)
    return None


def _forget(group: Group, number: int) -> None:
    """Remove the transforms of a round, which no later one needs."""
    for name in group.names:
        shutil.rmtree(group.output / ROUNDS / str(number) / name, ignore_errors=True)


def _key(decisive: list[Any]) -> str:
    text = json.dumps([*decisive, metadata.version("crossmorph")], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


# --- what is written -------------------------------------------------------------------------------------------------


def _write_finals(group: Group, how: How, states: Sequence[State]) -> None:
    """The template, and each image's transforms both ways, unless they are there."""
    last, number = states[-1], len(states) - 1
    folder = group.output / ROUNDS / str(number)
    files = [group.output / name / file for name in group.names for file in (TRANSFORM, INVERSE, MOVED)]
    record = group.output / RECORD
    known = load_result(record)
    if known.get("hash") == last.key and all(path.is_file() for path in (*files, group.output / TEMPLATE)):
        return
    record.unlink(missing_ok=True)
    if number:
        _registered(group, how, number, states[-2])
    template = read_image(folder / TEMPLATE)
    for name, image, matrix in zip(group.names, group.images, last.matrices, strict=True):
        make_folder(group.output / name)
        warp, back = _both_ways(folder, name, read_image(image), np.array(matrix), template)
        paths = [group.output / name / file for file in (TRANSFORM, INVERSE, MOVED)]
        with output_set(paths) as written:
            write_transform(paths[0], warp)
            write_transform(paths[1], back)
            write_image(paths[2], resample(read_image(image), warp))
            written.publish()
    with output_set([group.output / TEMPLATE, record]) as written:
        write_image(group.output / TEMPLATE, template)
        write_whole(record, _record(group, how, states))
        written.publish()


def _both_ways(
    folder: Path, name: str, image: Image, matrix: Float[ndarray, "n n"], template: Image
) -> tuple[Warp, Warp]:
    """From the template to an image, on the template's grid, and back, on the image's."""
    if not (folder / MEAN).is_file():
        steps: list[Step] = [matrix]
        back: list[Step] = [np.linalg.inv(matrix)]
    else:
        mean = read_transform(folder / MEAN)
        steps = [mean.inverse(), read_transform(folder / name / TRANSFORM)]
        back = [read_transform(folder / name / INVERSE), mean]
    warps = as_warp(steps, template.affine, template.shape), as_warp(back, image.affine, image.shape)
    forth, inverse = (Warp(warp.displacement.astype(np.float32), warp.affine) for warp in warps)
    return forth, inverse


def _record(group: Group, how: How, states: Sequence[State]) -> bytes:
    images = [
        {"name": name, "path": str(path), "sha256": sha256}
        for name, path, sha256 in zip(group.names, group.images, group.digests, strict=True)
    ]
    record = {
        "format": FORMAT,
        "hash": states[-1].key,
        "command": how.command,
        "version": metadata.version("crossmorph"),
        "images": images,
        "settings": {**plain_settings(how.settings), "sharpening": how.sharpening, "model": how.model},
        "rounds": [state._asdict() for state in states],
    }
    return (json.dumps(record, indent=2) + "\n").encode()


def _write_pages(group: Group, how: How, states: Sequence[State]) -> None:
    shown = [
        ShownRound(str(number) if number else "affine", group.output / ROUNDS / str(number) / TEMPLATE, state._asdict())
        for number, state in enumerate(states)
    ]
    title = f"Template of {len(group.names)} images"
    facts = {"command": how.command, "images": [str(path) for path in group.images]}
    number = len(states) - 1
    write_template_page(group.output / PAGE, title, shown, how.rounds, SUBJECTS if number else None, facts)
    if number:
        places = {name: f"{ROUNDS}/{number}/{name}" for name in group.names}
        lines = [
            Line(name, load_result(group.output / place / RESULT), _told(name, states[-1]), place)
            for name, place in places.items()
        ]
        write_batch_page(group.output / SUBJECTS, f"{title}: round {number}", lines, {"command": how.command})


def _told(name: str, state: State) -> str:
    return "a check failed; the image is part of the template all the same" if name in state.failed else ""

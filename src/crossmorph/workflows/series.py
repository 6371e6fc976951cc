"""The volumes of a 4-D series brought to one of them, to their mean or to another image: motion, and a still series."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy import ndimage

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import read_image, read_series, write_series
from crossmorph.images.nifti import NIFTI_SUFFIXES
from crossmorph.networks.checkpoint import DEFAULT_MODELS, load_model
from crossmorph.provenance.record import check_replaceable, file_source, plain_settings, record_path
from crossmorph.registration.linear import register_linear
from crossmorph.registration.register_images import register_images
from crossmorph.registration.settings import DEFAULTS, Settings
from crossmorph.system.environment import require_extra
from crossmorph.system.files import PICTURE_SUFFIXES, make_folder, output_set, suffix_of, write_whole
from crossmorph.system.processes import Outcome, on_processes, sentence
from crossmorph.system.progress import progress_bar
from crossmorph.transforms.affine_files import write_affine_transform
from crossmorph.transforms.grid import centre
from crossmorph.transforms.motion import PARAMETERS, framewise_displacement, motion_parameters
from crossmorph.transforms.warp import Warp, followed_by, resample
from crossmorph.transforms.warp_files import write_transform
from crossmorph.workflows.register import check_settings

Stage = Literal["rigid", "deformable"]
FORMAT = "crossmorph series 1"
CHUNK = 8  # volumes that a process is given at a time
DISPLACEMENT = "framewise_displacement"
BLUR = 1.0  # voxels, standard deviation of what the rigid stage compares: noise and interpolation then draw it less


class SeriesFiles(NamedTuple):
    """Files to write: the still series, the table of motion, its plot, and a folder of one transform per volume."""

    series: Path
    motion: Path | None = None
    plot: Path | None = None
    transforms: Path | None = None

    def single(self) -> list[Path]:
        """The files, with the record, which is written last; without what goes into the folder."""
        files = (self.series, self.motion, self.plot, record_path(self.series))
        return [path for path in files if path is not None]


class How(NamedTuple):
    """How volumes are registered: by a rigid map, and after that by a model if it is deformable."""

    stage: Stage
    model: str | None
    settings: Settings
    device: str
    threads: int | None


class Chunk(NamedTuple):
    """Volumes to bring to a reference, the number of the first, and where each begins, reference to volume."""

    first: int
    volumes: list[Image]
    starts: list[Float[ndarray, "4 4"]]
    reference: Image
    how: How


class Still(NamedTuple):
    """A volume that was registered.

    Attributes:
        matrix: reference to volume, rigid, RAS millimetres.
        warp: reference to volume, on the reference's grid; None where rigid.
        moved: the volume on the reference's grid.
    """

    matrix: Float[ndarray, "4 4"]
    warp: Warp | None
    moved: Image


class Motion(NamedTuple):
    """The motion in a series.

    Attributes:
        parameters: of each volume, millimetres and radians, see :mod:`crossmorph.transforms.motion`.
        displacement: framewise, millimetres; NaN for the first.
        seconds: wall seconds of the registration.
    """

    parameters: Float[ndarray, "volumes 6"]
    displacement: Float[ndarray, " volumes"]
    seconds: float


def register_series(
    source: Path,
    files: SeriesFiles,
    reference: str = "mean",
    stage: Stage = "rigid",
    model: str | None = None,
    settings: Settings = DEFAULTS,
    jobs: int = 1,
    device: str = "auto",
    threads: int | None = None,
    command: str = "crossmorph.workflows.series.register_series, in Python",
) -> Motion:
    """Register every volume of a series from where its header says it lies, and write what is wanted or nothing.

    Args:
        source: a NIfTI series ``(X, Y, Z, T)``.
        files: what to write; the still series is on the reference's grid, each volume sampled once.
        reference: ``mean`` (of the volumes after a first pass to the middle one), the number of a volume from 0, or the
            path of an image.
        stage: ``rigid``, or ``deformable`` after that.
        model: as of :func:`crossmorph.register`, for the deformable stage.
        settings: likewise; ``init`` is the rigid map.
        jobs: processes.
        device: for the deformable stage.
        threads: of the CPU for each process.
        command: what was called.

    Raises:
        InputError: not a series, a volume that cannot be registered, settings that cannot be used, or outputs that
            cannot be written.
    """
    began = time.perf_counter()
    how = _checked(source, files, stage, model, settings, jobs, device, threads)
    volumes = read_series(source)
    if len(volumes) < 2 or volumes[0].dim != 3:
        raise InputError(f"{source}: has shape {(*volumes[0].shape, len(volumes))}; expected volumes (X, Y, Z, T)")
    with output_set(files.single()) as written:
        starts = [np.eye(4)] * len(volumes)
        if reference == "mean":
            rough = how._replace(stage="rigid")
            first = _registered(source, volumes, starts, volumes[len(volumes) // 2], rough, jobs)
            still = Image(np.mean([each.moved.data for each in first], axis=0), volumes[0].affine)
            starts = [each.matrix for each in first]
        else:
            still = _reference(source, volumes, reference)
        found = _registered(source, volumes, starts, still, how, jobs)
        motion = _motion(found, still, began)
        _write(files, found, motion, volumes[0], still, source.name)
        write_whole(record_path(files.series), _record(source, reference, how, motion, command))
        written.publish()
    return motion


def _write(files: SeriesFiles, found: Sequence[Still], motion: Motion, first: Image, still: Image, title: str) -> None:
    """The still series, and what else is wanted; ``first`` is the first volume, ``still`` the reference."""
    header = first.header if still.header is None else still.header
    write_series(files.series, [replace(each.moved, header=header) for each in found], first.header)
    if files.motion is not None:
        write_whole(files.motion, _table(motion))
    if files.plot is not None:
        from crossmorph.reports.motion_plot import write_motion_plot

        write_motion_plot(files.plot, motion.parameters, motion.displacement, title)
    if files.transforms is not None:
        _write_transforms(files.transforms, found)


def _checked(
    source: Path,
    files: SeriesFiles,
    stage: Stage,
    model: str | None,
    settings: Settings,
    jobs: int,
    device: str,
    threads: int | None,
) -> How:
    if stage not in ("rigid", "deformable") or jobs < 1:
        raise InputError(f"received stage {stage!r}, {jobs} jobs; expected rigid or deformable, and at least one job")
    check_settings(settings, device)
    suffix_of(files.series, NIFTI_SUFFIXES, "series")
    if files.plot is not None:
        suffix_of(files.plot, PICTURE_SUFFIXES, "picture")
        require_extra("report")
    seen = {source.resolve()}
    for path in files.single():
        if path.resolve() in seen:
            raise InputError(f"{path}: is also the series or another output; expected another name")
        seen.add(path.resolve())
    check_replaceable(record_path(files.series), FORMAT)
    return How(stage, model, settings, device, threads)


def _reference(source: Path, volumes: Sequence[Image], reference: str) -> Image:
    if not reference.isdecimal():
        return read_image(reference)
    if int(reference) >= len(volumes):
        raise InputError(f"--reference {reference}: {source} has volumes 0 to {len(volumes) - 1}")
    return volumes[int(reference)]


def _registered(
    source: Path,
    volumes: Sequence[Image],
    starts: Sequence[Float[ndarray, "4 4"]],
    reference: Image,
    how: How,
    jobs: int,
) -> list[Still]:
    bare = [Image(volume.data, volume.affine) for volume in volumes]
    plain = Image(reference.data, reference.affine)
    chunks = [
        Chunk(first, bare[first : first + CHUNK], list(starts[first : first + CHUNK]), plain, how)
        for first in range(0, len(bare), CHUNK)
    ]
    found: dict[int, list[Still]] = {}
    with progress_bar(True) as progress:
        bar = progress.add_task("volumes", total=len(volumes))
        for chunk, result in on_processes(register_chunk, chunks, jobs) if jobs > 1 else _here(chunks):
            if isinstance(result, Exception):
                raise InputError(f"{source}: {sentence(result)}")
            found[chunk.first] = result
            progress.update(bar, advance=len(result))
    return [each for first in sorted(found) for each in found[first]]


def _here(chunks: Sequence[Chunk]) -> Iterator[Outcome[Chunk, list[Still]]]:
    for chunk in chunks:
        try:
            yield Outcome(chunk, register_chunk(chunk))
        except InputError as error:
            yield Outcome(chunk, error)


def register_chunk(chunk: Chunk) -> list[Still]:
    """Register some volumes; runs in a process of its own. Raises InputError that names the volume."""
    how, reference = chunk.how, chunk.reference
    if how.threads:
        torch.set_num_threads(how.threads)
    found, still = [], blurred(reference)
    for number, (volume, start) in enumerate(zip(chunk.volumes, chunk.starts, strict=True), chunk.first):
        try:
            matrix = register_linear(blurred(volume), still, "rigid", start).matrix
            warp = None
            if how.stage == "deformable":
                loaded = load_model(how.model or DEFAULT_MODELS[3], how.device)
                warp = register_images(volume, reference, loaded, how.settings._replace(init=matrix)).warp
        except InputError as error:
            raise InputError(f"volume {number}: {error}") from error
        by = followed_by(Warp.identity(reference), matrix) if warp is None else warp
        found.append(Still(matrix, warp, resample(volume, by)))
    return found


def blurred(image: Image) -> Image:
    """What the rigid stage compares."""
    return replace(image, data=ndimage.gaussian_filter(image.data.astype(np.float32), BLUR, mode="nearest"))


def _motion(found: Sequence[Still], reference: Image, began: float) -> Motion:
    middle = centre(reference)
    parameters = np.array([motion_parameters(each.matrix, middle) for each in found])
    return Motion(parameters, framewise_displacement(parameters), time.perf_counter() - began)


def _table(motion: Motion) -> bytes:
    lines = ["\t".join((*PARAMETERS, DISPLACEMENT))]
    for parameters, displacement in zip(motion.parameters, motion.displacement, strict=True):
        cells = [f"{value:.6f}" for value in parameters]
        lines.append("\t".join([*cells, "n/a" if np.isnan(displacement) else f"{displacement:.6f}"]))
    return ("\n".join(lines) + "\n").encode()


def _write_transforms(folder: Path, found: Sequence[Still]) -> None:
    make_folder(folder)
    for number, each in enumerate(found):
        if each.warp is None:
            write_affine_transform(folder / f"volume-{number:04}.tfm", each.matrix)
        else:
            write_transform(folder / f"volume-{number:04}.h5", each.warp)


def _record(source: Path, reference: str, how: How, motion: Motion, command: str) -> bytes:
    inputs = [file_source("series", source).model_dump()]
    if reference != "mean" and not reference.isdecimal():
        inputs.append(file_source("reference", reference).model_dump())
    record: dict[str, Any] = {
        "format": FORMAT,
        "command": command,
        "version": metadata.version("crossmorph"),
        "inputs": inputs,
        "reference": reference,
        "stage": how.stage,
        "settings": plain_settings(how.settings) if how.stage == "deformable" else None,
        "columns": {
            "trans_x, trans_y, trans_z": "shift of the head since the reference, RAS, mm",
            "rot_x, rot_y, rot_z": "rotation about the middle of the reference's field of view, R_z R_y R_x, radians",
            DISPLACEMENT: "sum of the absolute changes since the volume before, rotations on a sphere of 50 mm, mm",
        },
        "largest_framewise_displacement": float(np.nanmax(motion.displacement)),
        "seconds": motion.seconds,
    }
    return (json.dumps(record, indent=2) + "\n").encode()

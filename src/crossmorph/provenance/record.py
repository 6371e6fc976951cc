"""How a transform came about: a JSON file beside it with the checksums of all that went in and came out.

Of files the checksum is the SHA-256 of the bytes, as `sha256sum` prints it. Of a folder (a DICOM series) it is that of
the lines which `sha256sum *` prints for its files, in order of their names' characters. A header whose voxels are in
another file counts with the voxels. An image that was in memory counts by its voxels and its affine.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy import ndarray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import read_content
from crossmorph.networks.checkpoint import Card, shipped_models
from crossmorph.registration.settings import Settings
from crossmorph.system.environment import versions
from crossmorph.system.files import read_json, readable

FORMAT: Literal["crossmorph provenance 2"] = "crossmorph provenance 2"
HEADERS = (".mhd", ".nhdr", ".hdr", ".img", ".hdr.gz", ".img.gz", ".dcm")  # part of the image is in another file
MOST_THREADS = 1024  # that a record can ask for
FORTH = "maps points of the fixed image to the moving image"
DIRECTIONS = {"transform": FORTH, "inverse": "maps points of the moving image to the fixed image"}


class Source(BaseModel):
    """An input: its part, its path as it was given and from the root, None for an image in memory, and its SHA-256."""

    model_config = ConfigDict(frozen=True)
    role: str
    path: str | None
    absolute: str | None
    sha256: str


class Weights(BaseModel):
    """A model: its name, the path of its card unless it ships, and the SHA-256 on that."""

    model_config = ConfigDict(frozen=True)
    name: str
    path: str | None
    sha256: str


class Written(BaseModel):
    """An output: what it is, its path as it was given and from the root, its SHA-256.

    ``direction``: which way it maps, of a transform; ``source``: what was moved, of labels.
    """

    model_config = ConfigDict(frozen=True)
    kind: str
    path: str
    absolute: str
    sha256: str
    direction: str | None
    source: str | None


class Made(NamedTuple):
    """An output that is written: its kind, the path it is to have, where it lies now, and which labels it was."""

    kind: str
    path: Path
    now: Path
    source: Path | None


class Outcome(NamedTuple):
    """The measures and checks of a registration, and how ANTs does the same."""

    measures: dict[str, Any]
    checks: list[dict[str, Any]]
    seconds: float
    ants: str | None
    ants_caution: str | None


class Run(NamedTuple):
    """All that decides a result: known before the work, and enough to do it again.

    ``settings`` are those of :class:`crossmorph.registration.settings.Settings`, with the name of a file or the
    rows of a matrix where the registration began with one. Once the work is done they are what was done: ``on`` or
    ``off`` for ``auto``, the steps that were taken, and the model's own smoothness where none was chosen.
    """

    command: str
    inputs: tuple[Source, ...]
    weights: Weights | None
    settings: dict[str, Any]
    device: str
    threads: int


class Record(BaseModel):
    """The JSON file beside a transform.

    Attributes:
        format: says what the file is.
        created: when the registration ended, UTC, ISO 8601.
        command: the command line, or which function of Python was called.
        folder: in which it was called.
        coordinates: of the points that the transforms map.
        inputs: what was read.
        weights: the model, None where no network was used.
        settings: see :class:`Run`.
        seed: None, as a registration draws nothing at random.
        device: the torch device.
        threads: of the CPU.
        outputs: what was written.
        ants: the `antsApplyTransforms` call that makes the same moved image, None without one.
        ants_caution: what is to be known before using it.
        measures: of the registration, by name, lengths in ``unit``; None is NaN.
        checks: the measures against their limits.
        seconds: of the registration alone.
        versions: of the programs and the machine.
    """

    model_config = ConfigDict(frozen=True)
    format: Literal["crossmorph provenance 2"] = FORMAT
    created: str
    command: str
    folder: str
    coordinates: str
    inputs: tuple[Source, ...]
    weights: Weights | None
    settings: dict[str, Any]
    seed: int | None = None
    device: str
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)]
    outputs: tuple[Written, ...]
    ants: str | None
    ants_caution: str | None
    measures: dict[str, FiniteFloat | str | None]
    checks: tuple[dict[str, FiniteFloat | str | None], ...]
    seconds: float
    versions: dict[str, str]


def record_path(path: Path) -> Path:
    """Where the JSON file of an output lies: ``transform.json`` for ``transform.h5``, ``w.json`` for ``w.nii.gz``."""
    return path.with_name(path.name.removesuffix(".gz").rpartition(".")[0] + ".json")


def digest(path: Path) -> str:
    """SHA-256 of an input or output, see the module. Raises InputError where it cannot be read."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file())
        return hashlib.sha256("".join(f"{digest(file)}  {file.name}\n" for file in files).encode()).hexdigest()
    with readable(path), path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256")
    if path.name.lower().endswith(HEADERS):
        found.update(read_content(path).voxels.tobytes())
    return found.hexdigest()


def file_source(role: str, path: str | Path) -> Source:
    """An input that is a file or a folder."""
    path = Path(path)
    return Source(role=role, path=str(path), absolute=str(path.absolute()), sha256=digest(path))


def memory_source(role: str, content: Image | ndarray) -> Source:
    """An input that was in memory: an image, or points."""
    parts = (content.data, content.affine.astype(np.float64)) if isinstance(content, Image) else (content,)
    found = hashlib.sha256()
    for part in parts:
        found.update(part.tobytes())
    return Source(role=role, path=None, absolute=None, sha256=found.hexdigest())


def weights_of(card: Card, path: Path | None) -> Weights:
    """A model by its card and where that lies, None where it is not known."""
    ships = path in shipped_models().values()
    return Weights(name=card.name, path=None if ships or path is None else str(path.absolute()), sha256=card.sha256)


def plain_settings(settings: Settings) -> dict[str, Any]:
    """Settings as JSON holds them."""
    init = settings.init
    return {**settings._asdict(), "init": init.tolist() if isinstance(init, ndarray) else init}


def plain_run(run: Run) -> dict[str, Any]:
    """What decided a result and by which versions, as a report shows it; the same for the same run."""
    inputs = [source.model_dump(exclude={"path"}) for source in run.inputs]
    return {
        **run._asdict(),
        "inputs": inputs,
        "weights": run.weights and run.weights.model_dump(),
        "versions": versions(),
    }


def make_record(run: Run, outcome: Outcome, outputs: Iterable[Made]) -> Record:
    """The record of a finished run.

    Args:
        run: what decided the result.
        outcome: what it says of itself.
        outputs: all but the records.
    """
    written = [
        Written(
            kind=made.kind,
            path=str(made.path),
            absolute=str(made.path.absolute()),
            sha256=digest(made.now),
            direction=_direction(made.kind, made.path),
            source=made.source and str(made.source),
        )
        for made in outputs
    ]
    return Record(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        folder=str(Path.cwd()),
        coordinates="RAS millimetres; the files hold the same in ITK's LPS"
        if outcome.measures["unit"] == "mm"
        else "pixels",
        outputs=tuple(written),
        versions=versions(),
        measures=_finite(outcome.measures),
        checks=tuple(map(_finite, outcome.checks)),
        seconds=outcome.seconds,
        ants=outcome.ants,
        ants_caution=outcome.ants_caution,
        **run._asdict(),
    )


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Values as JSON holds them: None for what is no finite number."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }


def _direction(kind: str, path: Path) -> str | None:
    if kind == "ants":
        return DIRECTIONS["inverse" if path.name.endswith("InverseWarp.nii.gz") else "transform"]
    return DIRECTIONS.get(kind)


def record_text(record: Record, more: dict[str, Any]) -> bytes:
    """The JSON of a record, after what else is to stand in the file."""
    return (json.dumps({**more, **record.model_dump(mode="json")}, indent=2, allow_nan=False) + "\n").encode()


def read_record(path: Path) -> Record:
    """Read and check a record. Raises InputError naming what is wrong."""
    return read_json(path, Record, "a record that crossmorph wrote beside a transform")


def check_replaceable(path: Path, form: str = FORMAT) -> None:
    """Refuse to write a record over a file that is none: nobody named it.

    Args:
        path: where the record goes.
        form: what the record says of its ``format``.

    Raises:
        InputError: another file has the name.
    """
    if not path.exists():
        return
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or found.get("format") != form:
        raise InputError(
            f"{path}: the record of the transform goes there, but a file that is no such record has the name; expected "
            "another name for the transform"
        )

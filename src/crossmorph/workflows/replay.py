"""Repeat a recorded registration, from the same inputs by the same weights, and compare the outputs bit by bit."""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crossmorph.errors import InputError
from crossmorph.networks.checkpoint import find_card, read_card
from crossmorph.provenance.record import Record, Source, Weights, digest, read_record
from crossmorph.registration.settings import NAMED_INITS, Init, Settings
from crossmorph.system.environment import versions
from crossmorph.system.files import make_folder
from crossmorph.workflows.further_inputs import from_roles
from crossmorph.workflows.outputs import KINDS, LabelFiles, Outputs
from crossmorph.workflows.register_files import register_files

TYPES: dict[str, tuple[type, ...]] = {
    "refine": (str, float),
    "stage": (str,),
    "ignore": (str,),
}  # of settings that are no numbers
SHAPES = ((3, 3), (4, 4))  # of matrices, in two dimensions and three
ANTS_NAME = re.compile(r"(0GenericAffine\.mat|1Warp\.nii\.gz|1InverseWarp\.nii\.gz)$")


class Compared(NamedTuple):
    """An output: what it is, where it was, and whether its bits came out the same."""

    kind: str
    path: str
    same: bool


class Replayed(NamedTuple):
    """What repeating gave: every output compared, and what may explain a difference."""

    record: Path
    outputs: list[Compared]
    cautions: list[str]

    @property
    def same(self) -> bool:
        """Whether every output came out the same."""
        return all(output.same for output in self.outputs)

    def as_dict(self) -> dict[str, Any]:
        """The object of `--json`."""
        outputs = [output._asdict() for output in self.outputs]
        return {"record": str(self.record), "same": self.same, "outputs": outputs, "cautions": self.cautions}

    def as_text(self) -> str:
        """What `replay` prints."""
        lines = [f"{'same' if each.same else 'different':<11}{each.path} ({each.kind})" for each in self.outputs]
        same = sum(output.same for output in self.outputs)
        return "\n".join(
            [*lines, f"{same} of {len(self.outputs)} outputs of {self.record} came out the same, bit by bit"]
        )


def replay(path: Path, folder: Path | None = None) -> Replayed:
    """Register again as a record says, into a folder of its own, and compare every output with its checksum.

    A refinement that was limited by time is repeated by the steps that it took. The threads are those of the record,
    for the whole process.

    Args:
        path: the record, a JSON file that `register` wrote beside a transform.
        folder: where to keep what is made; made if need be, and nothing in it is replaced. None: nothing is kept.

    Raises:
        InputError: not a record, inputs that are not there any more, have changed or were in memory, other weights, or
            a folder that cannot be written to.
    """
    record = read_record(path)
    inputs = {source.role: _found(path, source) for source in record.inputs}
    labels = {str(source.path): _found(path, source) for source in record.inputs if source.role == "labels"}
    if not {"moving", "fixed"} <= set(inputs):
        raise InputError(f"{path}: names no moving and fixed image among its inputs")
    card = None if record.weights is None else _card(path, record.weights)
    settings = _settings(path, record, inputs)
    with _place(folder) as place:
        outputs, targets = _outputs(path, record, place, labels)
        for target in (*targets, *(sidecar.path for sidecar in outputs.records())):
            if target.exists():
                raise InputError(f"{target}: is there already; expected a folder (-o) without it")
        how = (None if card is None else str(card), settings, record.device, record.threads, True, record.command)
        register_files(inputs["moving"], inputs["fixed"], outputs, *how, further=from_roles(inputs))
        pairs = zip(record.outputs, targets, strict=True)
        compared = [Compared(was.kind, was.path, digest(now) == was.sha256) for was, now in pairs]
    return Replayed(path, compared, _differences(record))


def _found(path: Path, source: Source) -> Path:
    """Where an input lies, once it is known to be the same."""
    if source.path is None or source.absolute is None:
        raise InputError(f"{path}: the {source.role} image was in memory; expected a record of images in files")
    file = Path(source.absolute) if Path(source.absolute).exists() else Path(source.path)
    if not file.exists():
        raise InputError(f"{source.absolute}: the {source.role} input of {path} is not there any more")
    found = digest(file)
    if found != source.sha256:
        raise InputError(
            f"{file}: the {source.role} input has changed since {path} was written (SHA-256 {found[:12]}.., expected "
            f"{source.sha256[:12]}..)"
        )
    return file


def _card(path: Path, weights: Weights) -> Path:
    """The card of the same weights today."""
    name = weights.path or weights.name
    try:
        card = find_card(name)
        found = read_card(card).sha256
    except InputError as error:
        raise InputError(f"{path}: its weights are not there ({error})") from error
    if found != weights.sha256:
        raise InputError(
            f"{path}: was made by other weights than {name} has now (SHA-256 {found[:12]}.., expected "
            f"{weights.sha256[:12]}..)"
        )
    return card


def _settings(path: Path, record: Record, inputs: dict[str, Path]) -> Settings:
    """The settings of the run, with steps in the place of seconds."""
    values = dict(record.settings)
    init = values.pop("init", None)
    for name, value in values.items():
        if name not in Settings._fields or not isinstance(value, TYPES.get(name, (int, float, type(None)))):
            raise InputError(f"{path}: has the setting {name} {value!r}, which this version does not know")
    settings = Settings(_init(path, init, inputs), **values)
    steps = record.measures.get("refine_steps")
    if not isinstance(settings.refine, str) and isinstance(steps, int | float):
        settings = settings._replace(refine="on", refine_steps=round(steps))
    return settings


def _init(path: Path, init: object, inputs: dict[str, Path]) -> Init:
    if "init" in inputs:
        return str(inputs["init"])
    if isinstance(init, str) and init in NAMED_INITS:
        return init
    try:
        matrix = np.array(init, np.float64)
    except (TypeError, ValueError):
        matrix = np.zeros(0)
    if matrix.shape not in SHAPES or not np.isfinite(matrix).all() or np.linalg.det(matrix) == 0:
        expected = f"{', '.join(NAMED_INITS)}, a file among the inputs or an invertible matrix"
        raise InputError(f"{path}: has the initial affine {init!r}; expected {expected}")
    return matrix


@contextlib.contextmanager
def _place(folder: Path | None) -> Iterator[Path]:
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="crossmorph-") as temporary:
            yield Path(temporary)
        return
    make_folder(folder)
    yield folder


def _outputs(path: Path, record: Record, place: Path, labels: dict[str, Path]) -> tuple[Outputs, list[Path]]:
    """The outputs of a record in another folder, and where each of them will lie, in the record's order."""
    named: dict[str, Path] = {}
    moved_labels, targets = [], []
    for number, was in enumerate(record.outputs):
        target = place / Path(was.path).name
        if target in targets:  # of two folders
            target = place / f"{number}-{target.name}"
        targets.append(target)
        if was.kind == "labels" and was.source in labels:
            moved_labels.append(LabelFiles(labels[was.source], target))
        elif was.kind == "ants":
            named["ants_prefix"] = target.with_name(ANTS_NAME.sub("", target.name))
        elif was.kind in KINDS and was.kind != "labels":
            named[was.kind] = target
        else:
            raise InputError(f"{path}: tells of an output {was.kind} {was.path}, which this version does not know")
    return Outputs(**named, labels=tuple(moved_labels)), targets  # type: ignore[arg-type]


def _differences(record: Record) -> list[str]:
    """What is not as it was: versions and the machine."""
    now = versions()
    return [
        f"{name} is {now.get(name, 'not known')}, and was {was} when the record was written"
        for name, was in record.versions.items()
        if now.get(name) != was
    ]

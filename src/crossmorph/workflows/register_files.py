"""`register` from files to files: nothing is written until everything is computed, and then all of it appears."""

import shlex
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from crossmorph.errors import InputError
from crossmorph.images.image import Image, in_stored_type
from crossmorph.images.io import IMAGE_SUFFIXES, read_image, write_image
from crossmorph.images.png_tiff import GREY_SUFFIXES
from crossmorph.networks.checkpoint import DEFAULT_MODELS, Model, find_card, load_model
from crossmorph.provenance.record import (
    Made,
    Outcome,
    Run,
    check_replaceable,
    file_source,
    make_record,
    plain_run,
    plain_settings,
    record_text,
    recorded_transforms,
    weights_of,
)
from crossmorph.quality.checks import Flag, judge
from crossmorph.quality.consistency import Evidence, gather
from crossmorph.quality.error_map import doubt
from crossmorph.quality.error_model import calibration_of
from crossmorph.quality.measures import measure
from crossmorph.registration.initialization import NAMED_STARTS, read_start
from crossmorph.registration.register_images import DEFAULTS, Registered, Settings, register_images
from crossmorph.system.files import PICTURE_SUFFIXES, atomic_output, suffix_of
from crossmorph.transforms.affine_files import ants_names, write_ants_files
from crossmorph.transforms.warp import resample
from crossmorph.transforms.warp_files import TRANSFORM_SUFFIXES, write_transform

SUFFIXES = {
    "moved": ("image", IMAGE_SUFFIXES),
    "transform": ("transform", TRANSFORM_SUFFIXES),
    "inverse": ("transform", TRANSFORM_SUFFIXES),
    "translated": ("image", IMAGE_SUFFIXES),
    "labels": ("image", IMAGE_SUFFIXES),
    "uncertainty": ("image", IMAGE_SUFFIXES),
    "report": ("report", (".html", *PICTURE_SUFFIXES)),
}
NOT_KEPT = "nothing was written; --keep-failed would have kept the outputs"


class LabelFiles(NamedTuple):
    """A label map to move, and where to."""

    source: Path
    target: Path


class Sidecar(NamedTuple):
    """A JSON file for the record of a run, and what else is to stand in it."""

    path: Path
    content: dict[str, Any]


class Outputs(NamedTuple):
    """Files to write; None: not wanted. Where there are no ``sidecars``, the record goes beside each transform."""

    moved: Path | None
    transform: Path | None = None
    inverse: Path | None = None
    translated: Path | None = None
    labels: tuple[LabelFiles, ...] = ()
    report: Path | None = None
    ants_prefix: Path | None = None
    sidecars: tuple[Sidecar, ...] = ()
    uncertainty: Path | None = None

    def files(self) -> Iterator[tuple[str, Path]]:
        """Every wanted file with what it is."""
        for name in ("moved", "transform", "inverse", "translated", "uncertainty", "report"):
            path = getattr(self, name)
            if path is not None:
                yield name, path
        for files in self.labels:
            yield "labels", files.target
        if self.ants_prefix is not None:
            for path in ants_names(self.ants_prefix):
                yield "ants", path
        for sidecar in self.records():
            yield "record", sidecar.path

    def records(self) -> tuple[Sidecar, ...]:
        """The JSON files that the record goes to."""
        paths = recorded_transforms(self.transform, self.inverse, self.ants_prefix)
        return self.sidecars or tuple(Sidecar(path, {}) for path in paths)


class Judged(NamedTuple):
    """A registered pair, what it says of itself, and what its report is called."""

    moving: Image
    fixed: Image
    registered: Registered
    quality: dict[str, float]
    flags: list[Flag]
    evidence: Evidence | None
    title: str


class Done(NamedTuple):
    """What `register` did.

    ``unit`` is that of the lengths in ``quality``; ``ants`` the `antsApplyTransforms` call that makes the same moved
    image, None without a transform; ``ants_caution`` what is to be known before using it. ``kept`` is false where the
    registration failed and nothing was written.
    """

    moving: Path
    fixed: Path
    model: str
    outputs: Outputs
    seconds: float
    quality: dict[str, float]
    unit: str
    flags: list[Flag]
    ants: str | None
    ants_caution: str | None
    kept: bool = True

    @property
    def failed(self) -> bool:
        """Whether the registration did not pass its own checks."""
        return bool(failures(self.flags))

    @property
    def verdict(self) -> str:
        """Which checks failed and what became of the outputs; empty where none did."""
        if not self.failed:
            return ""
        names = ", ".join(failures(self.flags))
        fate = "the outputs were written all the same" if self.kept else NOT_KEPT
        return f"{self.moving} to {self.fixed} failed its own checks ({names}): {fate}"

    def as_dict(self) -> dict[str, Any]:
        """The object of `--json`."""
        return {
            "inputs": {"moving": str(self.moving), "fixed": str(self.fixed), "model": self.model},
            "outputs": [{"kind": kind, "path": str(path)} for kind, path in self._written()],
            "seconds": self.seconds,
            "quality": self.quality,
            "unit": self.unit,
            "flags": [flag._asdict() for flag in self.flags],
            "ants": self.ants,
            "ants_caution": self.ants_caution,
        }

    def as_text(self) -> str:
        """What `register` prints."""
        lines = [f"registered {self.moving} to {self.fixed} with {self.model} in {self.seconds:.2f} s"]
        lines += [f"  {flag.level:<8}{flag.sentence}" for flag in self.flags]
        lines += [f"  wrote   {path} ({kind})" for kind, path in self._written()]
        if self.ants:
            lines.append(f"  the same with ANTs: {self.ants}")
        if self.ants_caution:
            lines.append(f"  caution: {self.ants_caution}")
        if self.failed:
            lines.append(self.verdict)
        return "\n".join(lines)

    def outcome(self) -> Outcome:
        """What the record says of it."""
        flags = [flag._asdict() for flag in self.flags]
        return Outcome(self.quality, self.unit, flags, self.seconds, self.ants, self.ants_caution)

    def _written(self) -> list[tuple[str, Path]]:
        return list(self.outputs.files()) if self.kept else []


class _NotKeptError(Exception):
    """Lets go of claimed outputs."""


def failures(flags: list[Flag]) -> list[str]:
    """Names of the checks that failed."""
    return [flag.name for flag in flags if flag.level == "failed"]


def register_files(
    moving: Path,
    fixed: Path,
    outputs: Outputs,
    model: str | None = None,
    settings: Settings = DEFAULTS,
    device: str = "auto",
    threads: int | None = None,
    keep_failed: bool = False,
    command: str = "crossmorph.register_files, in Python",
) -> Done:
    """Register two files and write what is wanted, all of it or nothing.

    Args:
        moving: an image of two or three dimensions, see :func:`crossmorph.read_image`.
        fixed: the image to move it to.
        outputs: what to write, and where; folders must exist.
        model: a shipped model's name, or a folder that `train` wrote; None is the shipped one of the images' dimension.
        settings: how to register, see :class:`crossmorph.registration.register_images.Settings`.
        device: a torch device, or ``auto``: CUDA where there is one, else the CPU.
        threads: of the CPU, for the whole process; None leaves them as they are.
        keep_failed: whether to write the outputs of a registration that did not pass its own checks.
        command: what was called, for the record beside the transforms.

    Raises:
        InputError: an input that cannot be used, or an output that cannot be written. No output file is left then.
    """
    read = _read(moving, fixed, outputs, settings)
    images = read.images
    named = model or DEFAULT_MODELS[images[fixed].dim]
    loaded = load_model(named, _device(device))
    if threads:
        torch.set_num_threads(threads)
    run = _run(command, read.inputs if outputs.records() else [], loaded, named, settings)
    if isinstance(settings.start, str):
        settings = settings._replace(start=read_start(settings.start, images[moving], images[fixed]))
    unit = "mm" if images[fixed].physical else "pixels"
    with suppress(_NotKeptError), claimed(outputs) as targets:
        began = time.perf_counter()
        registered = _register(moving, fixed, images, loaded, settings)
        seconds = time.perf_counter() - began
        evidence = gather(registered)
        quality = measure(registered, images[moving], evidence)
        flags = judge(quality, unit, registered.fallbacks)
        kept = keep_failed or not failures(flags)
        ants, caution = ants_call(moving, fixed, outputs, images) if kept else (None, None)
        done = Done(moving, fixed, loaded.card.name, outputs, seconds, quality, unit, flags, ants, caution, kept)
        if not kept:
            raise _NotKeptError
        title = f"{moving.name} to {fixed.name}"
        judged = Judged(images[moving], images[fixed], registered, quality, flags, evidence, title)
        write_outputs(outputs, targets, judged, run, read.labels)
        write_records(outputs, targets, run, done.outcome())
    return done


class _Read(NamedTuple):
    """Images and labels by their paths, and every file that was read with its part."""

    images: dict[Path, Image]
    labels: dict[Path, Image]
    inputs: list[tuple[str, Path]]


def _read(moving: Path, fixed: Path, outputs: Outputs, settings: Settings) -> _Read:
    """The images and labels, once it is known that they go together and that no output is one of the inputs."""
    images = {path: read_image(path) for path in (moving, fixed)}
    if images[moving].dim != images[fixed].dim:
        each = (f"{path} is {image.dim}-D, shape {image.shape}" for path, image in images.items())
        raise InputError(f"{', and '.join(each)}; expected the same")
    labels = {path: read_image(path, labels=True) for path in dict.fromkeys(files.source for files in outputs.labels)}
    for path, image in labels.items():
        if image.dim != images[moving].dim:
            raise InputError(f"{path}: labels are {image.dim}-D, shape {image.shape}; the moving image is not")
    inputs = [("moving", moving), ("fixed", fixed), *(("labels", path) for path in labels)]
    if isinstance(settings.start, str) and settings.start not in NAMED_STARTS and Path(settings.start).exists():
        inputs.append(("init", Path(settings.start)))
    check_targets([path for _, path in inputs], outputs)
    return _Read(images, labels, inputs)


def _run(command: str, inputs: list[tuple[str, Path]], model: Model, named: str, settings: Settings) -> Run:
    """What decides the result, for its record."""
    return Run(
        command=command,
        inputs=tuple(file_source(role, path) for role, path in inputs),
        weights=weights_of(model.card, find_card(named)),
        settings=plain_settings(settings),
        device=str(next(model.hierarchy.parameters()).device),
        threads=torch.get_num_threads(),
    )


def _register(moving: Path, fixed: Path, images: dict[Path, Image], model: Model, settings: Settings) -> Registered:
    try:
        return register_images(images[moving], images[fixed], model, settings)
    except InputError as error:
        raise InputError(f"{moving} to {fixed}: {error}") from error


@contextmanager
def claimed(outputs: Outputs) -> Iterator[dict[Path, Path]]:
    """Temporary files for all outputs by their names, put in place together where the block ends well.

    Claimed before the work: an unwritable target costs no time, a failure leaves none.
    """
    with ExitStack() as stack:
        # What is claimed first appears last: where a record is seen, so are the files that it is of.
        paths = [path for _, path in outputs.files()][::-1]
        yield {path: stack.enter_context(atomic_output(path)) for path in paths}


def write_outputs(
    outputs: Outputs, targets: dict[Path, Path], judged: Judged, run: Run, labels: dict[Path, Image]
) -> None:
    """Write everything but the records to the claimed files, under whose wanted names errors speak."""
    moving, fixed, done = judged.moving, judged.fixed, judged.registered

    def on_fixed(image: Image) -> Image:
        return Image(image.data, fixed.affine, fixed.physical, fixed.header)

    with _by_wanted_names(targets):
        if outputs.moved:
            write_image(targets[outputs.moved], on_fixed(in_stored_type(resample(moving, done.warp), moving)))
        if outputs.transform:
            write_transform(targets[outputs.transform], done.warp)
        if outputs.inverse:
            write_transform(targets[outputs.inverse], done.inverse)
        if outputs.translated:
            write_image(targets[outputs.translated], _storable(done.translated, outputs.translated))
        for files in outputs.labels:
            source = labels[files.source]
            moved = resample(source, done.warp, "nearest")
            write_image(targets[files.target], on_fixed(in_stored_type(moved, source)))
        if outputs.ants_prefix:
            names = [targets[path] for path in ants_names(outputs.ants_prefix)]
            write_ants_files(names, done.start, done.warp, done.inverse)
        if outputs.uncertainty:
            write_image(targets[outputs.uncertainty], doubt(done, moving, fixed, judged.evidence))
        if outputs.report:
            _write_report(targets[outputs.report], judged, run)


def _write_report(path: Path, judged: Judged, run: Run) -> None:
    """A page or a picture, as the name says."""
    # Imported where it is needed: matplotlib and Jinja2 take half a second.
    from crossmorph.reports.figure import write_picture
    from crossmorph.reports.registration_page import content_of, write_html

    moving, fixed, done = judged.moving, judged.fixed, judged.registered
    if path.suffix.lower() != ".html":
        write_picture(path, moving, fixed, done.warp, done.translated, judged.title)
        return
    content = content_of(moving, fixed, done, judged.quality, judged.flags, judged.title)
    known = calibration_of(done.model) is not None
    expected = doubt(done, moving, fixed, judged.evidence) if known else None
    write_html(path, content._replace(doubt=expected, provenance=plain_run(run)))


def write_records(outputs: Outputs, targets: dict[Path, Path], run: Run, outcome: Outcome) -> None:
    """Write the record of a run to the claimed files; all others are written by now."""
    if not outputs.records():
        return
    sources = {files.target: files.source for files in outputs.labels}
    files = [Made(kind, path, targets[path], sources.get(path)) for kind, path in outputs.files() if kind != "record"]
    record = make_record(run, outcome, files)
    for sidecar in outputs.records():
        targets[sidecar.path].write_bytes(record_text(record, sidecar.content))


@contextmanager
def _by_wanted_names(targets: dict[Path, Path]) -> Iterator[None]:
    """Let errors speak of the files wanted, not of those written to."""
    try:
        yield
    except InputError as error:
        message = str(error)
        for wanted, temporary in targets.items():
            message = message.replace(str(temporary), str(wanted))
        raise InputError(message) from error


def _storable(translated: Image, path: Path) -> Image:
    """The translation, which strays a little beyond [0, 1], as a format of grey levels can hold it."""
    if path.suffix.lower() not in GREY_SUFFIXES:
        return translated
    return Image(translated.data.clip(0, 1), translated.affine, translated.physical)


def check_targets(inputs: list[Path], outputs: Outputs) -> None:
    """No output may be an input or another output, and every name must end in a format. Raises InputError."""
    seen = {path.resolve(): f"the input {path}" for path in inputs}
    for kind, path in outputs.files():
        if kind in SUFFIXES:
            what, suffixes = SUFFIXES[kind]
            suffix_of(path, suffixes, what)
        if path.resolve() in seen:
            raise InputError(f"{path}: wanted as {kind}, but is also {seen[path.resolve()]}; expected another name")
        seen[path.resolve()] = f"wanted as {kind}"
    for sidecar in outputs.records():
        check_replaceable(sidecar.path)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: not available here ({str(error).splitlines()[0]})") from error
    return device


def ants_call(moving: Path, fixed: Path, outputs: Outputs, images: dict[Path, Image]) -> tuple[str | None, str | None]:
    """The `antsApplyTransforms` call that makes the same moved image from the written transform, and a caution."""
    if outputs.transform is None or outputs.moved is None:
        return None, None
    files = {"-i": moving, "-r": fixed, "-o": outputs.moved, "-t": outputs.transform}
    dim = images[fixed].dim
    named = [str(word) for pair in files.items() for word in pair]
    words = ["antsApplyTransforms", "-d", str(dim), *named, "-n", "Linear"]
    # ITK's own 2-D reader, see crossmorph.images.nifti.
    slices = [
        str(path)
        for path, image in images.items()
        if dim == 2 and image.header and len(image.header.get_data_shape()) > 2
    ]
    caution = (
        f"-d 2 ignores the axis directions of files stored (X, Y, 1), here {', '.join(slices)}" if slices else None
    )
    return shlex.join(words), caution

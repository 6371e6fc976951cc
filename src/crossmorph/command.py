"""`register` from files to files: nothing is written until everything is computed, and then all of it appears."""

import shlex
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from crossmorph.affine_files import ants_names, write_ants_files
from crossmorph.checkpoint import Model, default_model, load_model
from crossmorph.errors import InputError
from crossmorph.files import atomic_output, suffix_of
from crossmorph.image import GREY_SUFFIXES, IMAGE_SUFFIXES, Image, in_stored_type, read_image, write_image
from crossmorph.pipeline import DEFAULTS, Registered, Settings, register_images
from crossmorph.quality import Flag, judge, measure
from crossmorph.report import PICTURE_SUFFIXES, write_picture
from crossmorph.start import read_start
from crossmorph.transform import TRANSFORM_SUFFIXES, resample, write_transform

SUFFIXES = {
    "moved": ("image", IMAGE_SUFFIXES),
    "transform": ("transform", TRANSFORM_SUFFIXES),
    "inverse": ("transform", TRANSFORM_SUFFIXES),
    "translated": ("image", IMAGE_SUFFIXES),
    "labels": ("image", IMAGE_SUFFIXES),
    "report": ("picture", PICTURE_SUFFIXES),
}


class LabelFiles(NamedTuple):
    """A label map to move, and where to."""

    source: Path
    target: Path


class Outputs(NamedTuple):
    """Files to write; None: not wanted."""

    moved: Path | None
    transform: Path | None = None
    inverse: Path | None = None
    translated: Path | None = None
    labels: tuple[LabelFiles, ...] = ()
    report: Path | None = None
    ants_prefix: Path | None = None

    def files(self) -> Iterator[tuple[str, Path]]:
        """Every wanted file with what it is."""
        for name in ("moved", "transform", "inverse", "translated", "report"):
            path = getattr(self, name)
            if path is not None:
                yield name, path
        for files in self.labels:
            yield "labels", files.target
        if self.ants_prefix is not None:
            for path in ants_names(self.ants_prefix):
                yield "ants", path


class Done(NamedTuple):
    """What `register` did.

    ``unit`` is that of the lengths in ``quality``; ``ants`` the `antsApplyTransforms` call that makes the same moved
    image, None without a transform; ``ants_caution`` what is to be known before using it.
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

    @property
    def failed(self) -> bool:
        """Whether the registration did not pass its own checks."""
        return any(flag.level == "failed" for flag in self.flags)

    def as_dict(self) -> dict[str, Any]:
        """The object of `--json`."""
        return {
            "inputs": {"moving": str(self.moving), "fixed": str(self.fixed), "model": self.model},
            "outputs": [{"kind": kind, "path": str(path)} for kind, path in self.outputs.files()],
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
        lines += [f"  wrote   {path} ({kind})" for kind, path in self.outputs.files()]
        if self.ants:
            lines.append(f"  the same with ANTs: {self.ants}")
        if self.ants_caution:
            lines.append(f"  caution: {self.ants_caution}")
        return "\n".join(lines)


def register_files(
    moving: Path,
    fixed: Path,
    outputs: Outputs,
    model: str | None = None,
    settings: Settings = DEFAULTS,
    device: str = "auto",
    threads: int | None = None,
) -> Done:
    """Register two files and write what is wanted, all of it or nothing.

    Args:
        moving: an image of two or three dimensions, see :func:`crossmorph.read_image`.
        fixed: the image to move it to.
        outputs: what to write, and where; folders must exist.
        model: a shipped model's name, or a folder that `train` wrote; None is the shipped one of the images' dimension.
        settings: how to register, see :class:`crossmorph.pipeline.Settings`.
        device: a torch device, or ``auto``: CUDA where there is one, else the CPU.
        threads: of the CPU, for the whole process; None leaves them as they are.

    Raises:
        InputError: an input that cannot be used, or an output that cannot be written. No output file is left then.
    """
    images = {path: read_image(path) for path in (moving, fixed)}
    if images[moving].dim != images[fixed].dim:
        each = (f"{path} is {image.dim}-D, shape {image.shape}" for path, image in images.items())
        raise InputError(f"{', and '.join(each)}; expected the same")
    labels = {path: read_image(path, labels=True) for path in dict.fromkeys(files.source for files in outputs.labels)}
    for path, image in labels.items():
        if image.dim != images[moving].dim:
            raise InputError(f"{path}: labels are {image.dim}-D, shape {image.shape}; the moving image is not")
    _check_targets([moving, fixed, *labels], outputs)
    loaded = load_model(model or default_model(images[fixed].dim), _device(device))
    if threads:
        torch.set_num_threads(threads)
    if isinstance(settings.start, str):
        settings = settings._replace(start=read_start(settings.start, images[moving], images[fixed]))
    with claimed(outputs) as targets:
        began = time.perf_counter()
        done = _register(moving, fixed, images, loaded, settings)
        seconds = time.perf_counter() - began
        quality = measure(done, images[moving])
        title = f"{moving.name} to {fixed.name}"
        write_outputs(outputs, targets, images[moving], images[fixed], done, title, labels)
    unit = "mm" if images[fixed].physical else "pixels"
    ants, caution = _ants(moving, fixed, outputs, images)
    return Done(moving, fixed, loaded.card.name, outputs, seconds, quality, unit, judge(quality, unit), ants, caution)


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
        yield {path: stack.enter_context(atomic_output(path)) for _, path in outputs.files()}


def write_outputs(
    outputs: Outputs,
    targets: dict[Path, Path],
    moving: Image,
    fixed: Image,
    done: Registered,
    title: str,
    labels: dict[Path, Image],
) -> None:
    """Write everything to the claimed files, under whose wanted names errors speak."""

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
        if outputs.report:
            write_picture(targets[outputs.report], moving, fixed, done.warp, done.translated, title)


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


def _check_targets(inputs: list[Path], outputs: Outputs) -> None:
    """No output may be an input or another output, and every name must end in a format."""
    seen = {path.resolve(): f"the input {path}" for path in inputs}
    for kind, path in outputs.files():
        if kind in SUFFIXES:
            what, suffixes = SUFFIXES[kind]
            suffix_of(path, suffixes, what)
        if path.resolve() in seen:
            raise InputError(f"{path}: wanted as {kind}, but is also {seen[path.resolve()]}; expected another name")
        seen[path.resolve()] = f"wanted as {kind}"


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: not available here ({str(error).splitlines()[0]})") from error
    return device


def _ants(moving: Path, fixed: Path, outputs: Outputs, images: dict[Path, Image]) -> tuple[str | None, str | None]:
    """The `antsApplyTransforms` call that makes the same moved image from the written transform, and a caution."""
    if outputs.transform is None or outputs.moved is None:
        return None, None
    files = {"-i": moving, "-r": fixed, "-o": outputs.moved, "-t": outputs.transform}
    dim = images[fixed].dim
    named = [str(word) for pair in files.items() for word in pair]
    words = ["antsApplyTransforms", "-d", str(dim), *named, "-n", "Linear"]
    # ITK's own 2-D reader, see crossmorph.nifti.
    slices = [
        str(path)
        for path, image in images.items()
        if dim == 2 and image.header and len(image.header.get_data_shape()) > 2
    ]
    caution = (
        f"-d 2 ignores the axis directions of files stored (X, Y, 1), here {', '.join(slices)}" if slices else None
    )
    return shlex.join(words), caution

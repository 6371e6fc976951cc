"""`register` from files to files: nothing is written until everything is computed, and then all of it appears."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch

from crossmorph import DEFAULT_MODEL
from crossmorph.checkpoint import load_model
from crossmorph.errors import InputError
from crossmorph.files import atomic_output
from crossmorph.image import Image, read_image, write_image
from crossmorph.quality import Flag, judge, measure
from crossmorph.register import Registered, Start, register_images
from crossmorph.report import write_picture
from crossmorph.transform import resample, write_transform


class LabelFiles(NamedTuple):
    """A label map to move, and where to."""

    source: Path
    target: Path


class Outputs(NamedTuple):
    """Files to write; None: not wanted."""

    moved: Path
    transform: Path | None = None
    inverse: Path | None = None
    translated: Path | None = None
    labels: tuple[LabelFiles, ...] = ()
    report: Path | None = None

    def files(self) -> Iterator[tuple[str, Path]]:
        """Every wanted file with what it is."""
        for name in ("moved", "transform", "inverse", "translated", "report"):
            path = getattr(self, name)
            if path is not None:
                yield name, path
        for files in self.labels:
            yield "labels", files.target


class Done(NamedTuple):
    """What `register` did."""

    moving: Path
    fixed: Path
    model: str
    outputs: Outputs
    seconds: float
    quality: dict[str, float]
    flags: list[Flag]
    ants: str | None

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
            "flags": [flag._asdict() for flag in self.flags],
            "ants": self.ants,
        }

    def as_text(self) -> str:
        """What `register` prints."""
        lines = [f"registered {self.moving} to {self.fixed} with {self.model} in {self.seconds:.2f} s"]
        lines += [f"  {flag.level:<8}{flag.sentence}" for flag in self.flags]
        lines += [f"  wrote   {path} ({kind})" for kind, path in self.outputs.files()]
        if self.ants:
            lines.append(f"  the same with ANTs: {self.ants}")
        return "\n".join(lines)


def register_files(
    moving: Path,
    fixed: Path,
    outputs: Outputs,
    model: str = DEFAULT_MODEL,
    start: Start = "none",
    device: str = "auto",
    threads: int | None = None,
) -> Done:
    """Register two files and write what is wanted, all of it or nothing.

    Args:
        moving: 2-D NIfTI or greyscale PNG.
        fixed: the image to move it to.
        outputs: what to write, and where; folders must exist.
        model: a shipped model's name, or a folder that `train` wrote.
        start: see :func:`crossmorph.register.register_images`.
        device: a torch device, or ``auto``: CUDA where there is one, else the CPU.
        threads: of the CPU; None leaves torch's choice.

    Raises:
        InputError: an input that cannot be used, or an output that cannot be written. No output file is left then.
    """
    _check_targets([moving, fixed, *(files.source for files in outputs.labels)], outputs)
    if threads:
        torch.set_num_threads(threads)
    images = {path: read_image(path) for path in (moving, fixed)}
    labels = [(files, read_image(files.source, labels=True)) for files in outputs.labels]
    loaded = load_model(model, _device(device))
    with ExitStack() as stack:
        # Claimed before the work and renamed at its end: an unwritable target costs no time, and a failure leaves none.
        targets = {path: stack.enter_context(atomic_output(path)) for _, path in outputs.files()}
        began = time.perf_counter()
        done = register_images(images[moving], images[fixed], loaded, start)
        seconds = time.perf_counter() - began
        staged = outputs._replace(
            **{name: targets[path] for name, path in outputs.files() if name != "labels"},
            labels=tuple(LabelFiles(files.source, targets[files.target]) for files in outputs.labels),
        )
        _write(staged, images[moving], images[fixed], done, [image for _, image in labels], f"{moving.name} to {fixed.name}")
    quality = measure(done)
    return Done(
        moving, fixed, loaded.card.name, outputs, seconds, quality, judge(quality), _ants_line(moving, fixed, outputs)
    )


def _write(
    staged: Outputs, moving: Image, fixed: Image, done: Registered, labels: list[Image], title: str
) -> None:
    header = fixed.header
    moved = resample(moving, done.warp)
    write_image(staged.moved, Image(moved.data, fixed.affine, fixed.physical, header))
    if staged.transform:
        write_transform(staged.transform, done.warp)
    if staged.inverse:
        write_transform(staged.inverse, done.inverse)
    if staged.translated:
        write_image(staged.translated, done.translated)
    for files, image in zip(staged.labels, labels, strict=True):
        moved_labels = resample(image, done.warp, "nearest")
        write_image(files.target, Image(moved_labels.data, fixed.affine, fixed.physical, header))
    if staged.report:
        write_picture(staged.report, moving, fixed, done.warp, done.translated, title)


def _check_targets(inputs: list[Path], outputs: Outputs) -> None:
    """No output may be an input or another output."""
    seen = {path.resolve(): f"the input {path}" for path in inputs}
    for kind, path in outputs.files():
        if path.resolve() in seen:
            raise InputError(f"{path}: wanted as {kind}, but is also {seen[path.resolve()]}; expected another name")
        seen[path.resolve()] = kind


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: not available here ({str(error).splitlines()[0]})") from error
    return device


def _ants_line(moving: Path, fixed: Path, outputs: Outputs) -> str | None:
    """The `antsApplyTransforms` call that makes the same moved image from the written transform."""
    if outputs.transform is None:
        return None
    return f"antsApplyTransforms -d 2 -i {moving} -r {fixed} -o {outputs.moved} -t {outputs.transform} -n Linear"

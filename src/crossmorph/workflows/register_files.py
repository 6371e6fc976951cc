"""`register` from files to files: read, register, save. Nothing is written until everything is computed."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import read_image
from crossmorph.provenance.record import file_source
from crossmorph.quality.assessment import Check, LinearMeasures, Measures, failures, level_text
from crossmorph.registration.evidence import Evidence
from crossmorph.registration.settings import DEFAULTS, NAMED_INITS, Settings
from crossmorph.system.files import make_folder, output_set
from crossmorph.workflows.further_inputs import NO_MORE, FurtherInputs, read_further
from crossmorph.workflows.outputs import Outputs, check_outputs
from crossmorph.workflows.register import (
    check_networks,
    check_settings,
    find_init,
    find_model,
    read_init,
    register_read,
    run_of,
)

NOT_KEPT = "nothing was written; --keep-failed would have kept the outputs"


class Done(NamedTuple):
    """What `register` did.

    Attributes:
        moving: the moving image.
        fixed: the fixed image.
        model: name of the weights, None for a linear stage.
        outputs: what was wanted.
        seconds: of the registration alone.
        measures: its measures.
        checks: its checks.
        ants: the `antsApplyTransforms` call that makes the same moved image, None without a transform.
        ants_caution: what is to be known before using it.
        kept: false where a check failed and nothing was written.
        stages: seconds of each stage of the registration.
        cautions: what is uncertain about the geometry of the images, one sentence with the file's name each.
    """

    moving: Path
    fixed: Path
    model: str | None
    outputs: Outputs
    seconds: float
    measures: Measures | LinearMeasures
    checks: tuple[Check, ...]
    ants: str | None
    ants_caution: str | None
    kept: bool = True
    stages: Mapping[str, float] = MappingProxyType({})
    cautions: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not failures(self.checks)

    @property
    def failure(self) -> str:
        """Which checks failed and what became of the outputs; empty where none did."""
        if self.passed:
            return ""
        names = ", ".join(failures(self.checks))
        fate = "the outputs were written all the same" if self.kept else NOT_KEPT
        return f"{self.moving} to {self.fixed}: checks failed ({names}); {fate}"

    def as_dict(self) -> dict[str, Any]:
        """The object of `--json`."""
        return {
            "inputs": {"moving": str(self.moving), "fixed": str(self.fixed), "model": self.model},
            "outputs": [{"kind": kind, "path": str(path)} for kind, path in self._written()],
            "seconds": self.seconds,
            "measures": self.measures.as_dict(),
            "checks": [check._asdict() for check in self.checks],
            "ants": self.ants,
            "ants_caution": self.ants_caution,
            "cautions": list(self.cautions),
        }

    def as_text(self, verbose: bool = False, waited: float | None = None) -> str:
        """What `register` prints: the checks that did not pass, or with ``verbose`` all, and what was written.

        Args:
            verbose: tell the checks that passed, too.
            waited: seconds from the command's start, to be told instead of those of the registration alone.
        """
        told = {**self.stages, "reading, checks, writing": waited - self.seconds} if waited else self.stages
        spent = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in told.items())
        how = f"with {self.model}" if self.model else "without networks"
        lines = [
            f"registered {self.moving} to {self.fixed} {how} in {waited or self.seconds:.2f} s"
            + (f" ({spent})" if spent else "")
        ]
        shown = [check for check in self.checks if verbose or check.level != "passed"]
        levels = [level_text(check) for check in self.checks]
        lines += [f"  {level_text(check):<9}{check.name}: {check.message}" for check in shown]
        unlimited = f", {levels.count('no limit')} without a known limit" if "no limit" in levels else ""
        lines.append(f"  {levels.count('passed')} of {len(self.checks)} checks passed{unlimited}")
        lines += [f"  wrote   {path} ({kind})" for kind, path in self._written()]
        if self.ants:
            lines.append(f"  the same with ANTs: {self.ants}")
        if self.ants_caution:
            lines.append(f"  caution: {self.ants_caution}")
        lines += [f"  caution: {caution}" for caution in self.cautions]
        if not self.passed:
            lines.append(self.failure)
        return "\n".join(lines)

    def _written(self) -> list[tuple[str, Path]]:
        return list(self.outputs.files()) if self.kept else []


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
    further: FurtherInputs = NO_MORE,
) -> Done:
    """Register two files and write what is wanted, all of it or nothing.

    Args:
        moving: an image of two or three dimensions, see :func:`crossmorph.read_image`.
        fixed: the image to move it to.
        outputs: what to write, and where; folders must exist.
        model: a shipped model's name, or a folder that `train` wrote; None is the shipped one of the images' dimension.
        settings: how to register, see :class:`crossmorph.registration.settings.Settings`.
        device: a torch device, or ``auto``: CUDA where there is one, else the CPU.
        threads: of the CPU, for the whole process; None leaves them as they are.
        keep_failed: whether to write the outputs of a registration of which a check failed.
        command: what was called, for the record beside the transforms.
        further: what is given beside the two images, all of it in files.

    Raises:
        InputError: an input that cannot be used, or an output that cannot be written. No output file is left then.
    """
    check_settings(settings, device)
    check_networks(settings, model, further)
    outputs = outputs._replace(linear=settings.freedom is not None)
    read = _read(moving, fixed, outputs, settings, further)
    loaded, card = (None, None) if settings.freedom else find_model(model, read.fixed.dim, device)
    if threads:
        torch.set_num_threads(threads)
    run = run_of(command, [file_source(role, path) for role, path in read.inputs], loaded, card, settings)
    settings = settings._replace(init=read_init(settings.init, read.moving, read.fixed, settings.stage))
    if outputs.folder is not None:
        make_folder(outputs.folder)
    with output_set(outputs.claimed()) as written:
        try:
            result = register_read(read.moving, read.fixed, loaded, settings, run, read.evidence)
        except InputError as error:
            raise InputError(f"{moving} to {fixed}: {error}") from error
        kept = keep_failed or result.passed
        if kept:
            result.write(outputs, written, read.labels)
            written.publish()
    ants = result.ants_call(outputs) if kept else (None, None)
    name = loaded and loaded.card.name
    found = result.seconds, result.measures, result.checks, *ants, kept, result.registered.seconds
    return Done(moving, fixed, name, outputs, *found, _cautions(moving, fixed, read))


def _cautions(moving: Path, fixed: Path, read: "_Read") -> tuple[str, ...]:
    """What is uncertain about the geometry of the images, once each."""
    images = ((moving, read.moving), (fixed, read.fixed), *read.labels.items())
    return tuple(dict.fromkeys(f"{path}: {caution}" for path, image in images for caution in image.cautions))


class _Read(NamedTuple):
    """Images with their masks, labels by their paths, every file that was read with its part, and what else it said."""

    moving: Image
    fixed: Image
    labels: dict[Path, Image]
    inputs: list[tuple[str, Path]]
    evidence: Evidence


def _read(moving: Path, fixed: Path, outputs: Outputs, settings: Settings, further: FurtherInputs) -> _Read:
    """The images and labels, once it is known that they go together and that no output is one of the inputs."""
    images = {path: read_image(path) for path in (moving, fixed)}
    if images[moving].dim != images[fixed].dim:
        each = (f"{path} is {image.dim}-D, shape {image.shape}" for path, image in images.items())
        raise InputError(f"{', and '.join(each)}; expected the same")
    labels = {path: read_image(path, labels=True) for path in dict.fromkeys(files.source for files in outputs.labels)}
    for path, image in labels.items():
        if image.dim != images[moving].dim:
            raise InputError(f"{path}: labels are {image.dim}-D, shape {image.shape}; the moving image is not")
    inputs = [("moving", moving), ("fixed", fixed), *(("labels", path) for path in labels), *further.files()]
    if isinstance(settings.init, str) and settings.init not in NAMED_INITS:
        inputs.append(("init", find_init(settings.init)))
    check_outputs([path for _, path in inputs], outputs, images[fixed].dim)
    evident = read_further(images[moving], images[fixed], further, settings.points_accuracy)
    return _Read(evident.moving, evident.fixed, labels, inputs, evident.evidence)

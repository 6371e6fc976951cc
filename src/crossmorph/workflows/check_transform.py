"""`check`: the checks, the error map and the report of a transform that any program made, or of two images as they lie.

:mod:`crossmorph.quality.given_transform` says how; nothing is registered for its result.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import read_image, write_image
from crossmorph.networks.checkpoint import Model
from crossmorph.provenance.record import Run, file_source, plain_run
from crossmorph.quality.assessment import failures
from crossmorph.quality.comparison import Comparison, compare
from crossmorph.quality.error_map import error_map
from crossmorph.quality.error_model import calibration_of
from crossmorph.quality.given_transform import HOW, Examined, examine_transform
from crossmorph.system.files import output_set, suffix_of, write_whole
from crossmorph.transforms.grid import Grid, onto_grid
from crossmorph.transforms.transform_chain import read_chain
from crossmorph.transforms.warp import Warp, jacobian, resample
from crossmorph.workflows.outputs import Outputs, check_outputs
from crossmorph.workflows.register import find_model, run_of


class Checked(NamedTuple):
    """What `check` found.

    Attributes:
        moving: the moving image.
        fixed: the fixed image.
        transforms: files of the transform, in the order of ``antsApplyTransforms -t``; none where the images were
            checked as their headers place them.
        model: name of the weights.
        outputs: what was written.
        seconds: wall seconds of the checks.
        found: measures and checks of the transform.
        against: file of the other transform, or None.
        other: measures and checks of that one.
        comparison: of the two.
    """

    moving: Path
    fixed: Path
    transforms: tuple[Path, ...]
    model: str
    outputs: Outputs
    seconds: float
    found: Examined
    against: Path | None
    other: Examined | None
    comparison: Comparison | None

    @property
    def passed(self) -> bool:
        """Whether no check of the transform failed; those of the other one do not count."""
        return not failures(self.found.checks)

    @property
    def failure(self) -> str:
        """Which checks failed; empty where none did."""
        return "" if self.passed else f"{self.title}: checks failed ({', '.join(failures(self.found.checks))})"

    @property
    def title(self) -> str:
        """What was checked."""
        return _title(self.moving, self.fixed, self.transforms)

    def as_dict(self) -> dict[str, Any]:
        """The object of `--json`."""
        inputs = {"moving": str(self.moving), "fixed": str(self.fixed), "transforms": list(map(str, self.transforms))}
        against = None
        if self.other is not None and self.comparison is not None:
            found = {**self.comparison._asdict(), "reliable": self._reliable()}
            against = {"transform": str(self.against), **_plain(self.other), **found}
        return {
            "inputs": {**inputs, "model": self.model},
            "outputs": [{"kind": kind, "path": str(path)} for kind, path in self.outputs.files()],
            "seconds": self.seconds,
            **_plain(self.found),
            "against": against,
        }

    def as_text(self, verbose: bool = False) -> str:
        """What `check` prints: the checks that did not pass, or with ``verbose`` all, and the comparison."""
        checks = self.found.checks
        lines = [f"checked {self.title} with {self.model} in {self.seconds:.2f} s"]
        shown = [check for check in checks if verbose or check.level != "passed"]
        lines += [f"  {check.level:<8}{check.name}: {check.message}" for check in shown]
        passed = sum(check.level == "passed" for check in checks)
        lines.append(f"  {passed} of {len(checks)} checks passed; left out: {', '.join(self.found.left_out)}")
        if self.comparison is not None:
            lines.append(f"  {self._compared(self.comparison)}")
        lines += [f"  wrote   {path} ({kind})" for kind, path in self.outputs.files()]
        return "\n".join(lines)

    def _compared(self, comparison: Comparison) -> str:
        names = [", ".join(map(str, self.transforms)) or "no transform", str(self.against)]
        ends = [comparison.low, comparison.high]
        if comparison.difference < 0:
            names, ends = names[::-1], [-end for end in ends[::-1]]
        near, far = names
        better = "neither transform is better as far as can be told"
        if comparison.better != "neither":
            better = f"{near} is better than {far}"
        found = (
            f"{better}: from {far}, crossmorph's own registration moves the image by {abs(comparison.difference):.2g} "
            f"{self.found.measures.unit} more than from {near} (mean over the foreground, 95% interval {ends[0]:.2g} "
            f"to {ends[1]:.2g})"
        )
        return found if self._reliable() else f"{found}; it does not pass its checks, so that this is a hint only"

    def _reliable(self) -> bool:
        """Whether the registrations behind a comparison pass their own checks."""
        both = (*self.found.checks, *(self.other.checks if self.other else ()))
        return all(check.level == "passed" for check in both if check.name == "own registration")


def check_transform(
    moving: Path,
    fixed: Path,
    transforms: Sequence[Path] = (),
    error_map_file: Path | None = None,
    report: Path | None = None,
    against: Path | None = None,
    model: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    command: str = "crossmorph.workflows.check_transform, in Python",
) -> Checked:
    """Check a transform of any program between two images, and write error map and report, whatever the checks say.

    Args:
        moving: an image of two or three dimensions, see :func:`crossmorph.read_image`.
        fixed: the image that it was moved to.
        transforms: files, see :func:`crossmorph.transforms.transform_chain.read_chain`; none: as the headers say.
        error_map_file: where the expected error of every voxel goes.
        report: where the page goes, ``.html``.
        against: one other transform to compare with.
        model: a shipped model's name, or a folder that `train` wrote; None is the shipped one of the images' dimension.
        device: a torch device, or ``auto``.
        threads: of the CPU, for the whole process; None leaves them as they are.
        command: what was called, for the report.

    Raises:
        InputError: files that cannot be used or written, images and transforms of different dimensions, a transform
            that leads outside the moving image, or a model without calibration where an error map is wanted. No output
            file is left then.
    """
    images = _images(moving, fixed)
    others = [] if against is None else [against]
    inputs = [("moving", moving), ("fixed", fixed), *(("transform", path) for path in transforms)]
    inputs += [("against", path) for path in others]
    outputs = Outputs(error_map=error_map_file, report=report)
    check_outputs([path for _, path in inputs], outputs, images[1].dim)
    if report is not None:
        suffix_of(report, (".html",), "report")
    chains = [read_chain(paths, *images) for paths in (transforms, *([path] for path in others))]
    loaded, card = find_model(model, images[1].dim, device)
    if error_map_file and calibration_of(loaded) is None:
        raise InputError(
            f"model {loaded.card.name} has no calibration, so that the error is not known; expected a model that has "
            "one (crossmorph calibrate)"
        )
    if threads:
        torch.set_num_threads(threads)
    run = run_of(command, [file_source(role, path) for role, path in inputs], loaded, card, HOW)
    title = _title(moving, fixed, transforms)
    with output_set(outputs.claimed()) as written:
        began = time.perf_counter()
        found, *rest = [_examined(title, *images, chain, loaded) for chain in chains]
        seconds = time.perf_counter() - began
        _write(outputs, *images, found, title, run)
        written.publish()
    other = rest[0] if rest else None
    comparison = other and compare(found.remaining, other.remaining, found.foreground)
    name = loaded.card.name
    return Checked(moving, fixed, tuple(transforms), name, outputs, seconds, found, against, other, comparison)


def _images(moving: Path, fixed: Path) -> tuple[Image, Image]:
    """Both images. Raises InputError where one cannot be used, or they differ in dimension."""
    images = read_image(moving), read_image(fixed)
    if images[0].dim != images[1].dim:
        each = (f"{path} is {i.dim}-D, shape {i.shape}" for path, i in zip((moving, fixed), images, strict=True))
        raise InputError(f"{', and '.join(each)}; expected the same")
    return images


def _title(moving: Path, fixed: Path, transforms: Sequence[Path]) -> str:
    by = ", ".join(path.name for path in transforms)
    return f"{moving.name} to {fixed.name} {f'by {by}' if by else 'as their headers place them'}"


def _examined(title: str, moving: Image, fixed: Image, chain: list[Any], model: Model) -> Examined:
    try:
        return examine_transform(moving, fixed, chain, model)
    except InputError as error:
        raise InputError(f"{title}: {error}") from error


def _plain(found: Examined) -> dict[str, Any]:
    """Measures and checks as JSON holds them."""
    checks = [check._asdict() for check in found.checks]
    return {"measures": found.measures.as_dict(), "checks": checks, "left_out": list(found.left_out)}


def _write(outputs: Outputs, moving: Image, fixed: Image, found: Examined, title: str, run: Run) -> None:
    expected = None if found.error is None else error_map(found.error, found.own.grid, fixed)
    measures = found.measures
    if not (measures.training_distance or 0) < 1:  # the page shows no estimate for images unlike the training images
        measures = measures._replace(expected_error=None, own_expected_error=None)
    if outputs.error_map and expected is not None:
        write_image(outputs.error_map, expected)
    if outputs.report is None:
        return
    # Imported where it is needed: Jinja2 takes its time.
    from crossmorph.reports.registration_page import Content, Stage, page

    stages = {"as given": Warp.identity(fixed), "transformed": found.warp}
    with np.errstate(invalid="ignore", divide="ignore"):
        logarithm = np.log(jacobian(found.warp))
    content = Content(
        title=title,
        fixed=fixed,
        stages=[Stage(name, resample(moving, warp)) for name, warp in stages.items()],
        translated=onto_grid(found.own.translated, Grid(fixed.affine, fixed.shape)),
        warp=found.warp,
        jacobian=Image(logarithm, fixed.affine, fixed.physical),
        error_map=expected if measures.own_expected_error is not None else None,
        checks=found.checks,
        measures=measures,
        provenance=plain_run(run),
    )
    write_whole(outputs.report, page(content).encode())

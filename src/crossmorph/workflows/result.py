"""The result of a registration: what came out, its measures and checks, and its files."""

import base64
import html
import tempfile
from dataclasses import dataclass, replace
from datetime import datetime
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.images.image import Image, ImageLike, in_stored_type
from crossmorph.images.io import write_image
from crossmorph.images.png_tiff import GREY_SUFFIXES
from crossmorph.provenance.record import Made, Outcome, Run, make_record, plain_run, record_text
from crossmorph.quality.assessment import Assessment, Check, LinearAssessment, LinearMeasures, Measures, failures
from crossmorph.quality.error_map import error_map
from crossmorph.registration.linear import RegisteredLinear
from crossmorph.registration.register_images import Registered
from crossmorph.system.files import OutputSet, output_set, write_whole
from crossmorph.transforms.warp import Interpolation, Resampling, Warp, nearest_affine, resample
from crossmorph.workflows.outputs import KINDS, Outputs, ants_call, check_outputs
from crossmorph.workflows.result_transforms import Named, write_transforms


@dataclass(frozen=True, eq=False)
class Result:
    """A registered pair.

    Attributes:
        moved: the moving image on the fixed image's grid, in the form in which the fixed image was given: a nibabel or
            SimpleITK image, an array, and for a path or an :class:`Image` an :class:`Image`, which has ``save``,
            ``to_nibabel`` and ``to_sitk``.
        translated: the moving image in the fixed image's modality (about 0 to 1), in the form of the moving image.
        moving: the moving image as it was read.
        fixed: the fixed image as it was read.
        registered: all fields and stages, see :class:`crossmorph.registration.register_images.Registered`; of a linear
            stage :class:`crossmorph.registration.linear.RegisteredLinear`.
        assessment: measures, checks and maps, see :class:`crossmorph.quality.assessment.Assessment` and
            :class:`crossmorph.quality.linear_checks.LinearAssessment`.
        run: what decided the result, for the record beside a transform.
        start: the moving image as a given warp laid it, where the registration went on from one.
    """

    moved: Any
    translated: Any
    moving: Image
    fixed: Image
    registered: Registered | RegisteredLinear
    assessment: Assessment | LinearAssessment
    run: Run
    start: Image | None = None

    @property
    def transform(self) -> Warp:
        """The field, ``moved(x) = moving(x + d(x))`` in RAS millimetres, on the fixed image's grid."""
        return self.registered.warp

    @property
    def matrix(self) -> Float[ndarray, "n n"] | None:
        """The transform of a linear stage, fixed to moving space in RAS millimetres; None of a deformable one."""
        return self.registered.matrix if isinstance(self.registered, RegisteredLinear) else None

    @property
    def inverse(self) -> Warp:
        """The inverse of the transform, on the moving image's grid."""
        return self.registered.inverse

    @property
    def measures(self) -> Measures | LinearMeasures:
        """Measures of the registration."""
        return self.assessment.measures

    @property
    def checks(self) -> tuple[Check, ...]:
        """The measures against their limits."""
        return self.assessment.checks

    @property
    def passed(self) -> bool:
        """Whether no check failed; warnings may remain."""
        return not failures(self.checks)

    @property
    def seconds(self) -> float:
        """Wall seconds of the registration alone."""
        return sum(self.registered.seconds.values())

    def error_map(self) -> Image:
        """The expected error of every voxel of the fixed image, millimetres (pixels where it has none).

        Raises:
            InputError: the model has no calibration.
        """
        if isinstance(self.registered, RegisteredLinear):
            raise InputError(f"stage {self.registered.freedom}: the error is not known; expected a deformable one")
        if self.assessment.error is None:
            raise InputError(
                f"model {self.registered.model.card.name} has no calibration, so that the error is not known; expected "
                "a model that has one (crossmorph calibrate)"
            )
        return error_map(self.assessment.error, self.registered.grid, self.fixed)

    def save(self, moved: str | Path | None = None, **outputs: str | Path) -> list[Path]:
        """Write what is named, all of it or nothing, and beside transforms their record.

        Args:
            moved: where the moved image goes; its suffix chooses the format.
            outputs: paths for ``transform``, ``inverse``, ``translated``, ``error_map``, ``report``, ``ants_prefix``,
                ``header_only``, ``fsl`` and ``ignored``, as of :class:`Outputs`.

        Returns:
            The files.

        Raises:
            InputError: nothing or something unknown is named, formats are unknown, a name is also an input's, or files
                cannot be written.
        """
        named = {name: Path(path) for name, path in {"moved": moved, **outputs}.items() if path is not None}
        known = (*(kind for kind in KINDS if kind != "labels"), "ants_prefix")
        if not named or set(named) - set(known):
            raise InputError(f"save: received {', '.join(named) or 'nothing'}; expected some of {', '.join(known)}")
        files = Outputs(**named, linear=self.matrix is not None)  # type: ignore[arg-type]
        check_outputs([Path(source.path) for source in self.run.inputs if source.path], files, self.fixed.dim)
        with output_set(files.claimed()) as written:
            self.write(files, written, {})
            written.publish()
        return [path for _, path in files.files()]

    @property
    def ignored(self) -> Image:
        """What was ignored in the fixed image, 0 and 1, on its grid."""
        ignored = np.zeros(self.fixed.shape, bool) if self.fixed.ignored is None else self.fixed.ignored
        return Image(ignored.astype(np.uint8), self.fixed.affine, self.fixed.physical, self.fixed.header)

    def write(self, outputs: Outputs, written: OutputSet, labels: dict[Path, Image]) -> None:
        """Write everything into a set of outputs, which the caller publishes.

        Args:
            outputs: what to write.
            written: the set of exactly these files.
            labels: the label maps by their paths.
        """
        if outputs.moved:
            write_image(outputs.moved, self._moved_in_stored_type(self.moving, "linear"))
        named = zip(self._paths, ("moving", "fixed"), (self.moving, self.fixed), strict=True)
        images = [Named(Path(path).name if path else role, image) for path, role, image in named]
        registered = self.registered
        if self.start is not None and isinstance(registered, Registered):
            registered = registered._replace(initial_affine=nearest_affine(registered.warp))
        write_transforms(outputs, registered, *images)
        if outputs.translated:
            write_image(outputs.translated, _storable(self.registered.translated, outputs.translated))
        for files in outputs.labels:
            write_image(files.target, self._moved_in_stored_type(labels[files.source], "nearest"))
        if outputs.header_only:
            assert self.matrix is not None
            placed = in_stored_type(self.moving, self.moving)
            write_image(outputs.header_only, replace(placed, affine=np.linalg.inv(self.matrix) @ self.moving.affine))
        if outputs.error_map:
            write_image(outputs.error_map, self.error_map())
        if outputs.ignored:
            write_image(outputs.ignored, self.ignored)
        if outputs.report:
            self._write_report(outputs.report, outputs, labels)
        self._write_records(outputs, written)

    def apply(self, image: ImageLike, interpolation: Interpolation = "auto") -> Image:
        """Move another image of the moving space, or its labels, onto the fixed image's grid.

        Arguments and errors as of :meth:`crossmorph.transforms.warp.Warp.apply`.
        """
        return replace(self.transform.apply(image, interpolation), header=self.fixed.header)

    def __repr__(self) -> str:
        return "\n  ".join(self._summary())

    def _repr_html_(self) -> str:
        """A table, and a picture where matplotlib is installed, for notebooks."""
        title, numbers, checks = map(html.escape, self._summary())
        rows = [
            f"<tr><td>{check.level}</td><td>{html.escape(check.name)}</td><td>{html.escape(check.message)}</td></tr>"
            for check in self.checks
            if check.level != "passed"
        ]
        picture = ""
        if util.find_spec("matplotlib"):
            with tempfile.TemporaryDirectory(prefix="crossmorph-") as folder:
                path = Path(folder, "picture.png")
                self._draw(path)
                content = base64.b64encode(path.read_bytes()).decode()
            picture = f'<img alt="{title}" style="max-width: 100%" src="data:image/png;base64,{content}">'
        table = f"<table>{''.join(rows)}</table>" if rows else ""
        return f"<div><p><b>{title}</b><br>{numbers}<br>{checks}</p>{table}{picture}</div>"

    def _summary(self) -> tuple[str, str, str]:
        """What was registered, the measures that matter most, and the checks that did not pass."""
        found = self.measures
        before, after = found.mutual_information_before, found.mutual_information_final
        expected = found.as_dict().get("expected_error")
        error = "" if expected is None else f"expected error {expected:.2g} {found.unit}, "
        passed = sum(check.level == "passed" for check in self.checks)
        named = {
            level: ", ".join(check.name for check in self.checks if check.level == level)
            for level in ("warning", "failed")
        }
        return (
            f"{self.title}, registered {self._how} in {self.seconds:.2f} s",
            f"mutual information {before:.3g} before, {after:.3g} after; {error}folds {found.folds_percent:.2g}%",
            f"{passed} of {len(self.checks)} checks passed"
            + "".join(f"; {level}: {names}" for level, names in named.items() if names),
        )

    def _moved_in_stored_type(self, image: Image, interpolation: Resampling) -> Image:
        moved = in_stored_type(resample(image, self.transform, interpolation), image)
        return Image(moved.data, self.fixed.affine, self.fixed.physical, self.fixed.header)

    @property
    def _paths(self) -> tuple[str | None, str | None]:
        """Of the moving and the fixed image; None for images in memory."""
        moving, fixed = self.run.inputs[:2]
        return moving.path, fixed.path

    @property
    def _how(self) -> str:
        if isinstance(self.registered, RegisteredLinear):
            return f"by a {self.registered.freedom} map"
        return f"with {self.registered.model.card.name}"

    @property
    def title(self) -> str:
        """What was registered to what, by the names of the files."""
        moving, fixed = self._paths
        return f"{Path(moving).name} to {Path(fixed).name}" if moving and fixed else "moving to fixed"

    def _write_report(self, path: Path, outputs: Outputs, labels: dict[Path, Image]) -> None:
        """A page or a picture, as the name says."""
        # Imported where it is needed: Jinja2 takes a moment, matplotlib half a second.
        from crossmorph.reports.registration_page import content_of, linear_content, page

        if path.suffix.lower() != ".html":
            self._draw(path)
            return
        given, found = (self.start or self.moving, self.fixed), self.measures
        if isinstance(self.registered, RegisteredLinear):
            assert isinstance(found, LinearMeasures)
            content = linear_content(*given, self.registered, found, self.checks, self.title)
        else:
            assert isinstance(found, Measures)
            content = content_of(*given, self.registered, found, self.checks, self.title)
        expected = None if self.assessment.error is None else self.error_map()
        ants, caution = self.ants_call(outputs)
        content = content._replace(
            error_map=expected,
            provenance=plain_run(self.run),
            labels=self._marked(labels),
            date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            ants=ants,
            ants_caution=caution,
        )
        write_whole(path, page(content).encode())

    def _marked(self, labels: dict[Path, Image]) -> dict[str, Image]:
        """What a page can lay over the fixed image: the moved labels, where was looked, and what was ignored."""
        marked = {source.name: resample(image, self.transform, "nearest") for source, image in labels.items()}
        for name, mask in (("fixed mask", self.fixed.mask), ("ignored", self.fixed.ignored)):
            if mask is not None:
                marked[name] = replace(self.fixed, data=mask.astype(np.int32))
        return marked

    def _draw(self, path: Path) -> None:
        from crossmorph.reports.figure import write_picture

        write_picture(path, self.moving, self.fixed, self.transform, self.registered.translated, self.title)

    def _write_records(self, outputs: Outputs, written: OutputSet) -> None:
        """The record of the run; all other files are written by now."""
        if not outputs.records():
            return
        sources = {files.target: files.source for files in outputs.labels}
        files = [
            Made(kind, path, written.temporary[path], sources.get(path))
            for kind, path in outputs.files()
            if kind != "record"
        ]
        record = make_record(self.run, self._outcome(outputs), files)
        for sidecar in outputs.records():
            write_whole(sidecar.path, record_text(record, sidecar.content))

    def _outcome(self, outputs: Outputs) -> Outcome:
        checks = [check._asdict() for check in self.checks]
        return Outcome(self.measures.as_dict(), checks, self.seconds, *self.ants_call(outputs))

    def ants_call(self, outputs: Outputs) -> tuple[str | None, str | None]:
        """The `antsApplyTransforms` call that makes the same moved image from the written transform, and a caution.

        Both None where no transform or no moved image is written, or where the images were in memory.
        """
        moving, fixed = self._paths
        if moving is None or fixed is None:
            return None, None
        images = {Path(moving): self.moving, Path(fixed): self.fixed}
        return ants_call(Path(moving), Path(fixed), outputs, images)


def _storable(translated: Image, path: Path) -> Image:
    """The translation, which strays a little beyond [0, 1], as a format of grey levels can hold it."""
    if path.suffix.lower() not in GREY_SUFFIXES:
        return translated
    return Image(translated.data.clip(0, 1), translated.affine, translated.physical)

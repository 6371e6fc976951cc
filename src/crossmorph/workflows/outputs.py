"""The files that a registration writes: what is wanted, which names are refused, the same by ANTs."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import IMAGE_SUFFIXES
from crossmorph.images.nifti import NIFTI_SUFFIXES
from crossmorph.provenance.record import check_replaceable, record_path
from crossmorph.system.environment import require_extra
from crossmorph.system.files import PICTURE_SUFFIXES, suffix_of
from crossmorph.transforms.affine_files import AFFINE_SUFFIXES, ants_names
from crossmorph.transforms.warp_files import TRANSFORM_SUFFIXES

WITH_PLACE = (*NIFTI_SUFFIXES, ".mha", ".nrrd")  # images whose header says where they lie
# What can be written, in the order of writing, and the formats of each.
KINDS = {
    "moved": ("image", IMAGE_SUFFIXES),
    "transform": ("transform", TRANSFORM_SUFFIXES),
    "inverse": ("transform", TRANSFORM_SUFFIXES),
    "translated": ("image", IMAGE_SUFFIXES),
    "error_map": ("image", IMAGE_SUFFIXES),
    "report": ("report", (".html", *PICTURE_SUFFIXES)),
    "labels": ("image", IMAGE_SUFFIXES),
    "header_only": ("image", WITH_PLACE),
    "fsl": ("FSL matrix", (".mat", ".txt")),
    "ignored": ("image", IMAGE_SUFFIXES),
}
LINEAR_SUFFIXES = tuple(dict.fromkeys((*AFFINE_SUFFIXES, ".lta", *TRANSFORM_SUFFIXES)))  # of a linear transform
LINEAR_ONLY = {"header_only": "--header-only", "fsl": "--fsl-matrix"}
MINC, TIFF = "ITK mirrors two axes of MINC files", "ITK takes the resolution of a TIFF file for millimetres"
NOT_AS_ANTS = {".mnc": MINC, ".mnc.gz": MINC, ".tif": TIFF, ".tiff": TIFF}


class LabelFiles(NamedTuple):
    """A label map to move, and where to."""

    source: Path
    target: Path


class Sidecar(NamedTuple):
    """A JSON file for the record of a run, and what else is to stand in it."""

    path: Path
    content: dict[str, Any]


class Outputs(NamedTuple):
    """Files to write; None: not wanted. Where there are no ``sidecars``, the record goes beside each transform.

    A ``folder`` is made before the work; the others must be there. ``header_only`` is the moving image with its new
    place in the header, ``fsl`` flirt's matrix; both need a ``linear`` transform, which then is written as one.
    ``ignored`` is what was ignored in the fixed image, 0 and 1.
    """

    moved: Path | None = None
    transform: Path | None = None
    inverse: Path | None = None
    translated: Path | None = None
    error_map: Path | None = None
    report: Path | None = None
    labels: tuple[LabelFiles, ...] = ()
    ants_prefix: Path | None = None
    sidecars: tuple[Sidecar, ...] = ()
    folder: Path | None = None
    header_only: Path | None = None
    fsl: Path | None = None
    linear: bool = False
    ignored: Path | None = None

    def files(self) -> Iterator[tuple[str, Path]]:
        """Every wanted file with what it is."""
        for kind in KINDS:
            if kind != "labels" and (path := getattr(self, kind)) is not None:
                yield kind, path
        for files in self.labels:
            yield "labels", files.target
        if self.ants_prefix is not None:
            for path in self._ants():
                yield "ants", path
        for sidecar in self.records():
            yield "record", sidecar.path

    def records(self) -> tuple[Sidecar, ...]:
        """The JSON files that the record goes to."""
        # What `--ants-prefix` writes has one, beside its warp.
        named = self._ants()
        beside = (self.transform, self.inverse, self.fsl, named[min(1, len(named) - 1)] if named else None)
        paths = dict.fromkeys(record_path(path) for path in beside if path)
        return self.sidecars or tuple(Sidecar(path, {}) for path in paths)

    def _ants(self) -> tuple[Path, ...]:
        """What ANTs would write: of a linear transform the matrix alone."""
        names = ants_names(self.ants_prefix) if self.ants_prefix is not None else ()
        return names[:1] if self.linear else names

    def claimed(self) -> list[Path]:
        """Every file, in the order in which they appear: where a record is seen, so are the files that it is of."""
        return [path for _, path in self.files()]


def check_outputs(inputs: Sequence[Path], outputs: Outputs, dim: int) -> None:
    """No output may be an input or another output, and every name must end in a format that can be written.

    Raises InputError, also where a format is not for images of ``dim`` dimensions.
    """
    seen = {path.resolve(): f"the input {path}" for path in inputs}
    for kind, path in outputs.files():
        if kind in KINDS:
            what, suffixes = KINDS[kind]
            if what == "transform" and outputs.linear:
                suffixes = LINEAR_SUFFIXES
            if kind in LINEAR_ONLY and not outputs.linear:
                raise InputError(
                    f"{LINEAR_ONLY[kind]} {path}: a deformable transform is no matrix; expected --stage rigid, "
                    "similarity or affine"
                )
            suffix_of(path, suffixes, what)
            if dim != 3 and (kind == "fsl" or path.suffix == ".lta"):
                raise InputError(f"{path}: is for 3-D images alone; the images are {dim}-D")
        if path.resolve() in seen:
            raise InputError(f"{path}: wanted as {kind}, but is also {seen[path.resolve()]}; expected another name")
        seen[path.resolve()] = f"wanted as {kind}"
    for sidecar in outputs.records():
        check_replaceable(sidecar.path)
    if outputs.report is not None:
        require_extra("report")


def ants_call(moving: Path, fixed: Path, outputs: Outputs, images: dict[Path, Image]) -> tuple[str | None, str | None]:
    """The `antsApplyTransforms` call that makes the same moved image from the written transform, and a caution.

    No call without a written transform and moved image, or where ANTs does not read an image as it is read here: the
    caution then says why. In the place of such a fixed image stands the moved one, which lies on the same grid.
    """
    if outputs.transform is not None:
        transforms = [outputs.transform]
    elif outputs.ants_prefix is not None:
        affine, warp, _ = ants_names(outputs.ants_prefix)
        transforms = [affine] if outputs.linear else [warp, affine]
    else:
        return None, None
    if outputs.moved is None:
        return None, None
    if transforms[0].suffix == ".lta":
        return None, "antsApplyTransforms reads no .lta; write the transform as .mat for it"
    reference = fixed
    if _not_as_ants(fixed) and outputs.moved.name.lower().endswith(WITH_PLACE):
        reference = outputs.moved
    for path in (moving, reference):
        if reason := _not_as_ants(path):
            return None, f"antsApplyTransforms cannot make the same from {path}: {reason}; convert it to NIfTI first"
    dim = images[fixed].dim
    files = [("-i", moving), ("-r", reference), ("-o", outputs.moved), *(("-t", path) for path in transforms)]
    named = [str(word) for pair in files for word in pair]
    words = ["antsApplyTransforms", "-d", str(dim), *named, "-n", "Linear"]
    # ITK's own 2-D reader, see crossmorph.images.nifti.
    shapes = {
        path: image.header.get_data_shape()
        for path, image in images.items()
        if dim == 2 and image.header and len(image.header.get_data_shape()) > 2
    }
    turned = [str(path) for path, shape in shapes.items() if shape[2] > 1]
    if turned:
        return None, f"antsApplyTransforms -d 2 cannot read slices stored (X, 1, Z), here {', '.join(turned)}"
    named_shapes = ", ".join(map(str, shapes))
    caution = f"-d 2 ignores the axis directions of files stored (X, Y, 1), here {named_shapes}" if shapes else None
    return shlex.join(words), caution


def _not_as_ants(path: Path) -> str | None:
    """Why ANTs, which reads by ITK, does not see an image where it is seen here."""
    if path.is_dir():
        return "ANTs reads no folders of DICOM files"
    return next((reason for suffix, reason in NOT_AS_ANTS.items() if path.name.lower().endswith(suffix)), None)

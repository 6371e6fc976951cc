"""Registration in a program: images in whatever form they are at hand, results in the same form."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import nibabel
import numpy as np
import SimpleITK as sitk
import torch
from jaxtyping import Float, Shaped
from nibabel.spatialimages import SpatialImage
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.functional.spatial import Interpolation
from crossmorph.images.image import Content, Image
from crossmorph.images.io import checked_image, read_image
from crossmorph.images.orientation import spatial_affine
from crossmorph.networks.checkpoint import DEFAULT_MODELS, Model, find_card, load_model
from crossmorph.provenance.record import Outcome, Run, file_source, memory_source, plain_settings, weights_of
from crossmorph.quality.checks import Flag, judge
from crossmorph.quality.measures import measure
from crossmorph.registration.initialization import NAMED_STARTS, read_start
from crossmorph.registration.register_images import Registered, Settings, register_images
from crossmorph.transforms.warp import Warp, resample
from crossmorph.workflows.register_files import (
    Judged,
    Outputs,
    ants_call,
    check_targets,
    claimed,
    write_outputs,
    write_records,
)

Array = tuple[Shaped[ndarray, "*space"], Float[ndarray, "n n"]]
Source = str | Path | SpatialImage | sitk.Image | Array | Image


@dataclass(frozen=True, eq=False)
class Result:
    """A registered pair.

    Attributes:
        moved: the moving image on the fixed image's grid, in the form in which the fixed image was given: a nibabel or
            SimpleITK image, an array, and for a path or an :class:`Image` an :class:`Image`.
        translated: the moving image in the fixed image's modality (about 0 to 1), in the form of the moving image.
        transform: the field, ``moved(x) = moving(x + d(x))`` in RAS millimetres, on the fixed image's grid.
        inverse: its inverse, on the moving image's grid.
        quality: numbers by name, see :func:`crossmorph.quality.measures.measure`.
        flags: what they mean.
        moving: the moving image as it was read.
        fixed: the fixed image as it was read.
        registered: all else, see :class:`crossmorph.registration.register_images.Registered`.
        run: what decided the result, for the record beside a transform.
    """

    moved: Any
    translated: Any
    transform: Warp
    inverse: Warp
    quality: dict[str, float]
    flags: list[Flag]
    moving: Image
    fixed: Image
    registered: Registered
    run: Run

    @property
    def failed(self) -> bool:
        """Whether the registration did not pass its own checks."""
        return any(flag.level == "failed" for flag in self.flags)

    def apply(self, image: Source, interpolation: Interpolation = "linear") -> Image:
        """Move another image of the moving space, or with ``nearest`` its labels, onto the fixed image's grid.

        Raises:
            InputError: the image cannot be used, or has another dimension.
        """
        moved = resample(as_image(image, "image", labels=interpolation == "nearest"), self.transform, interpolation)
        return replace(moved, header=self.fixed.header)

    def save(self, moved: str | Path, **outputs: str | Path) -> list[Path]:
        """Write the moved image and what else is named, all of it or nothing, and beside transforms their record.

        Args:
            moved: where the moved image goes; its suffix chooses the format.
            outputs: paths for ``transform``, ``inverse``, ``translated``, ``uncertainty``,
                ``report`` and ``ants_prefix``, as of
                :class:`crossmorph.workflows.register_files.Outputs`.

        Returns:
            The files.

        Raises:
            InputError: unknown formats, a name that is also an input's, or files that cannot be written.
        """
        files = Outputs(Path(moved), **{name: Path(path) for name, path in outputs.items()})  # type: ignore[arg-type]
        check_targets([Path(source.path) for source in self.run.inputs if source.path], files)
        with claimed(files) as targets:
            judged = Judged(self.moving, self.fixed, self.registered, self.quality, self.flags, None, "moving to fixed")
            write_outputs(files, targets, judged, self.run, {})
            write_records(files, targets, self.run, self._outcome(files))
        return [path for _, path in files.files()]

    def _outcome(self, files: Outputs) -> Outcome:
        unit = "mm" if self.fixed.physical else "pixels"
        moving, fixed = (source.path for source in self.run.inputs[:2])
        ants: tuple[str | None, str | None] = (None, None)
        if moving and fixed:
            images = {Path(moving): self.moving, Path(fixed): self.fixed}
            ants = ants_call(Path(moving), Path(fixed), files, images)
        flags = [flag._asdict() for flag in self.flags]
        return Outcome(self.quality, unit, flags, sum(self.registered.seconds.values()), *ants)


def register(
    moving: Source,
    fixed: Source,
    *,
    model: str | Model | None = None,
    init: str | Float[ndarray, "n n"] = "affine",
    smoothness: float | None = None,
    refine: float | Literal["auto", "off"] | None = None,
    device: str = "cpu",
) -> Result:
    """Register two images of different modality.

    Args:
        moving: the image to move: a path, a nibabel or SimpleITK image, ``(array, affine)`` with the array's voxel
            indices to RAS millimetres, or an :class:`Image`; of two or three dimensions.
        fixed: the image to move it to; its form is the form of the result.
        model: a shipped model's name, a folder that ``train`` wrote, or what ``load_model`` gave; None is the shipped
            one of the fixed image's dimension.
        init: ``affine``, ``centers``, ``none``, the path of an affine transform, or a matrix, fixed space to moving
            space in RAS millimetres.
        smoothness: of the field, from 0 (detailed) to 1 (stiff); None is the model's own.
        refine: seconds to optimise the field of this pair, ``auto`` until it stops gaining, or ``off``; None is
            ``auto`` for volumes and ``off`` for slices.
        device: a torch device.

    Raises:
        InputError: an image, a model or a setting cannot be used.
    """
    ours, theirs = as_image(moving, "moving image"), as_image(fixed, "fixed image")
    named = model or DEFAULT_MODELS[theirs.dim]
    loaded = named if isinstance(named, Model) else load_model(named, torch.device(device))
    start = init if isinstance(init, ndarray) else read_start(init, ours, theirs)
    seconds = None if isinstance(refine, str) else refine
    settings = Settings(start, smoothness, None if refine is None else refine != "off", seconds)
    images = {"moving": (moving, ours), "fixed": (fixed, theirs)}
    run = _run(images, init, loaded, None if isinstance(named, Model) else find_card(named), settings)
    registered = register_images(ours, theirs, loaded, settings)
    quality = measure(registered, ours)
    return Result(
        moved=_in_form_of(replace(resample(ours, registered.warp), header=theirs.header), fixed),
        translated=_in_form_of(registered.translated, moving),
        transform=registered.warp,
        inverse=registered.inverse,
        quality=quality,
        flags=judge(quality, "mm" if theirs.physical else "pixels", registered.fallbacks),
        moving=ours,
        fixed=theirs,
        registered=registered,
        run=run,
    )


def _run(
    images: dict[str, tuple[Source, Image]],
    init: str | ndarray,
    model: Model,
    card: Path | None,
    settings: Settings,
) -> Run:
    """What decides the result, for its record."""
    inputs = [
        file_source(role, source) if isinstance(source, (str, Path)) else memory_source(role, image)
        for role, (source, image) in images.items()
    ]
    if isinstance(init, str):
        settings = settings._replace(start=init)
        inputs += [] if init in NAMED_STARTS else [file_source("init", init)]
    device = str(next(model.hierarchy.parameters()).device)
    weights = weights_of(model.card, card)
    return Run(
        "crossmorph.register, in Python",
        tuple(inputs),
        weights,
        plain_settings(settings),
        device,
        torch.get_num_threads(),
    )


def as_image(source: object, role: str, labels: bool = False) -> Image:
    """An image of any form as ours.

    Images of other libraries pass through a file, so that one rule gives the geometry: what ITK reads.

    Args:
        source: see :func:`register`.
        role: what to call it in errors.
        labels: whether to read whole numbers.

    Raises:
        InputError: the image cannot be used.
        TypeError: it is of no known form.
    """
    if isinstance(source, Image):
        return source
    if isinstance(source, (str, Path)):
        return read_image(source, labels)
    if isinstance(source, tuple):
        voxels, affine = source
        return _from_array(voxels, affine, role, labels)
    if not isinstance(source, (SpatialImage, sitk.Image)):
        raise TypeError(
            f"{role}: received {type(source).__name__}, expected a path, an image of nibabel or SimpleITK, or an "
            "array with its affine"
        )
    with tempfile.TemporaryDirectory(prefix="crossmorph-") as folder:
        if isinstance(source, SpatialImage):
            path = Path(folder, "image.nii")
            nibabel.save(nibabel.Nifti1Image.from_image(source), path)
        else:
            path = Path(folder, "image.mha")
            sitk.WriteImage(source, str(path))
        try:
            return read_image(path, labels)
        except InputError as error:
            raise InputError(str(error).replace(str(path), role)) from error


def _from_array(voxels: ndarray, affine: ndarray, role: str, labels: bool) -> Image:
    size = voxels.ndim + 1
    if voxels.ndim not in (2, 3) or affine.shape != (size, size):
        raise InputError(
            f"{role}: received an array of shape {voxels.shape} with an affine of shape {affine.shape}; expected two "
            "or three axes and an affine of one more"
        )
    place = spatial_affine(Path(role), np.asarray(affine, np.float64), voxels.ndim)
    return checked_image(Path(role), Content(voxels, place, voxels.dtype), labels)


def _in_form_of(image: Image, source: Source) -> Any:
    """An image on the source's grid, in the source's form."""
    if isinstance(source, SpatialImage):
        return nibabel.Nifti1Image(image.data.reshape(source.shape), source.affine)
    if isinstance(source, sitk.Image):
        made = sitk.GetImageFromArray(image.data.reshape(source.GetSize()).T)
        made.CopyInformation(source)
        return made
    return image.data if isinstance(source, tuple) else image

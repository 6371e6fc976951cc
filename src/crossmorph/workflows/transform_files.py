"""Transforms at work, from files to files: images moved by them; composed, inverted, converted; their Jacobian."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.images.image import Image, in_stored_type
from crossmorph.images.io import IMAGE_SUFFIXES, read_series, write_image, write_series
from crossmorph.images.nifti import NIFTI_SUFFIXES
from crossmorph.system.files import output_set, suffix_of
from crossmorph.transforms.affine_files import (
    AFFINE_SUFFIXES,
    read_step,
    write_affine_transform,
    write_fsl_affine,
    write_lta,
)
from crossmorph.transforms.composition import Step, as_warp, dim_of, inverted
from crossmorph.transforms.relative_files import read_learn2reg, write_fsl_warp, write_learn2reg
from crossmorph.transforms.warp import (
    Interpolation,
    Resampling,
    Warp,
    fields_overlap,
    interpolation_for,
    jacobian,
    resample,
)
from crossmorph.transforms.warp_files import TRANSFORM_SUFFIXES, write_transform

Program = Literal["itk", "ants", "fsl", "freesurfer", "learn2reg"]
PROGRAM_SUFFIXES: dict[Program, dict[str, tuple[str, ...]]] = {
    "itk": {"warp": TRANSFORM_SUFFIXES, "affine": AFFINE_SUFFIXES},
    "ants": {"warp": (*NIFTI_SUFFIXES, ".h5"), "affine": (".mat", ".txt", ".h5")},
    "fsl": {"warp": NIFTI_SUFFIXES, "affine": (".mat",)},
    "freesurfer": {"affine": (".lta",)},
    "learn2reg": {"warp": NIFTI_SUFFIXES, "affine": NIFTI_SUFFIXES},
}
UNASKED = "evidently holds labels, so it is moved by --interp nearest; --interp linear would mix them"


class ImageFiles(NamedTuple):
    """An image to move, and where to."""

    source: Path
    target: Path


def apply_files(
    transforms: Sequence[Path],
    images: Sequence[ImageFiles],
    reference: Path | None = None,
    interpolation: Interpolation = "auto",
    inverse: bool = False,
) -> list[str]:
    """Move images through transforms, sampling each once, and write all of them or none.

    Args:
        transforms: files of warps and affine maps, in the order in which a point of the fixed space goes through them,
            as of ``antsApplyTransforms -t``: the last moves the images first.
        images: what to move, and where to; a series ``(X, Y, Z, T)`` volume by volume. ``linear`` writes float32, the
            others keep every number and the type of integers.
        reference: image whose grid the results get; None: the grid of the first transform, if it is a warp.
        interpolation: see :func:`crossmorph.transforms.warp.resample`; ``auto`` is ``nearest`` for images that
            evidently hold labels, which a sentence of caution says, and ``linear`` for all others.
        inverse: go the other way, from the moving space's images to the fixed space's; the reference is then the moving
            image.

    Returns:
        Sentences of caution: an image whose geometry is uncertain, a reference beyond the transform's grid, labels that
        were moved as such unasked, an image of which nothing is left.

    Raises:
        InputError: a file that cannot be used or written, images and transforms of different dimensions, no grid, or an
            inverse that cannot be found. No output is left then.
    """
    inputs = [*transforms, *(files.source for files in images), *_given(reference)]
    check_targets(inputs, [files.target for files in images])
    grid = None if reference is None else _read_grid(reference)
    first = read_series(images[0].source, exact=True)
    moving, fixed = (grid, first[0]) if inverse else (first[0], grid)
    steps = read_steps(transforms, moving, fixed, inverse)
    cautions = [*_beyond(steps[0], grid, reference), *_uncertain(reference, grid)]
    warp = _on_grid(steps, grid, "-r REFERENCE")
    with output_set([files.target for files in images]) as written:
        for files in images:
            series = first if files is images[0] else read_series(files.source, exact=True)
            if series[0].dim != warp.dim:
                raise InputError(f"{files.source}: is {series[0].dim}-D; the transform is {warp.dim}-D")
            cautions += _uncertain(files.source, series[0])
            by = interpolation_for(series) if interpolation == "auto" else interpolation
            if by == "nearest" and interpolation == "auto":
                cautions.append(f"{files.source}: {UNASKED}")
            moved = [_move(image, warp, by, grid) for image in series]
            if any(image.data.any() for image in series) and not any(image.data.any() for image in moved):
                cautions.append(f"{files.target}: is empty, since the transform leads beyond {files.source}")
            write_series(files.target, moved, series[0].header)
        written.publish()
    return cautions


def compose_files(transforms: Sequence[Path], output: Path, reference: Path | None = None) -> None:
    """Write several transforms as one: an affine map where all are, else a warp.

    Args:
        transforms: in the order of :func:`apply_files`.
        output: ``.h5``, ``.nii.gz`` for a warp; ``.mat``, ``.tfm``, ``.txt``, ``.h5`` for an affine map.
        reference: image whose grid the warp gets; None: the grid of the first transform, if it is a warp.

    Raises:
        InputError: files that cannot be used or written, or no grid.
    """
    check_targets([*transforms, *_given(reference)], [output])
    _write_steps(output, read_steps(transforms), reference)


def invert_file(transform: Path, output: Path, reference: Path | None = None) -> None:
    """Write the inverse of a transform, found to a ten-thousandth of a voxel at every voxel of its grid.

    Args:
        transform: a warp or an affine map.
        output: as of :func:`compose_files`.
        reference: image whose grid the inverse of a warp gets, as a rule the moving image; None: the warp's own grid.

    Raises:
        InputError: files that cannot be used or written, or a warp that folds or cannot be inverted.
    """
    check_targets([transform, *_given(reference)], [output])
    (step,) = read_steps([transform])
    own = step if isinstance(step, Warp) and reference is None else None
    _write_steps(output, inverted([step]), reference, own)


def convert_file(
    transform: Path,
    output: Path,
    to: Program,
    moving: Path | None = None,
    fixed: Path | None = None,
    source: Literal["learn2reg"] | None = None,
) -> None:
    """Write a transform for another program.

    Args:
        transform: a warp or an affine map, also of FSL (affine) or FreeSurfer.
        output: a name that the program takes: for a warp ``.h5`` or ``.nii.gz``, for FSL ``.nii.gz`` (a relative warp
            for ``applywarp``); for an affine map ``.mat``, for ITK also ``.tfm``, ``.txt``, ``.h5``, for FreeSurfer
            ``.lta``; for Learn2Reg ``.nii.gz``.
        to: the program.
        moving: the moving image, which FSL's and Learn2Reg's coordinates depend on, and which an ``.lta`` describes.
        fixed: the fixed image, for affine maps of FSL, FreeSurfer and Learn2Reg, and for fields of Learn2Reg.
        source: ``learn2reg`` where the transform is a field of Learn2Reg, which no file says of itself.

    Raises:
        InputError: files that cannot be used or written, FSL, FreeSurfer or Learn2Reg without the images or in 2-D, or
            a warp for FreeSurfer.
    """
    check_targets([transform, *_given(moving, fixed)], [output])
    ours, theirs = (None if path is None else _read_grid(path) for path in (moving, fixed))
    step = _field_step(transform, ours, theirs) if source else read_steps([transform], ours, theirs)[0]
    kind = "warp" if isinstance(step, Warp) else "affine"
    if kind not in PROGRAM_SUFFIXES[to]:
        raise InputError(f"{transform}: is a warp; expected an affine map for {to}")
    suffix_of(output, PROGRAM_SUFFIXES[to][kind], f"{to} {kind}")
    if to in ("itk", "ants"):
        _write_steps(output, [step], None)
        return
    if ours is None or ours.dim != 3 or dim_of(step) != 3:
        raise InputError(f"{output}: a transform for {to} is 3-D and depends on the moving image; expected --moving")
    if to == "learn2reg":
        write_learn2reg(output, _on_grid([step], theirs, "--fixed"), ours)
    elif isinstance(step, Warp):
        write_fsl_warp(output, step, ours)
    elif theirs is None or theirs.dim != 3:
        raise InputError(f"{output}: an affine map for {to} depends on the fixed image too; expected a 3-D --fixed")
    elif isinstance(step, ndarray):
        assert moving is not None
        assert fixed is not None
        if to == "fsl":
            write_fsl_affine(output, step, ours, theirs)
        else:
            write_lta(output, step, (moving.name, ours), (fixed.name, theirs))


def _field_step(path: Path, moving: Image | None, fixed: Image | None) -> Warp:
    """A field of Learn2Reg as a warp."""
    if moving is None or fixed is None or moving.dim != 3 or fixed.dim != 3:
        raise InputError(f"{path}: a field of Learn2Reg holds voxels of two volumes; expected --moving and --fixed")
    suffix_of(path, NIFTI_SUFFIXES, "Learn2Reg field")
    return read_learn2reg(path, moving, fixed)


def jacobian_file(transform: Path, output: Path, log: bool = False) -> None:
    """Write the Jacobian determinant of a warp as an image on its grid.

    Args:
        transform: a warp.
        output: an image file.
        log: the natural logarithm, in which growth and shrinkage weigh the same.

    Raises:
        InputError: files that cannot be used or written, an affine map, or the logarithm where the warp folds.
    """
    check_targets([transform], [output])
    suffix_of(output, IMAGE_SUFFIXES, "image")
    (step,) = read_steps([transform])
    if not isinstance(step, Warp):
        raise InputError(
            f"{transform}: is an affine map, its Jacobian is {np.linalg.det(np.array(step)):.6g} everywhere"
        )
    determinant = jacobian(step)
    if log:
        folds = int((determinant <= 0).sum())
        if folds:
            raise InputError(
                f"{transform}: folds at {folds} of {determinant.size} voxels, where the Jacobian is not positive and"
                " has no logarithm; write it without --log to see where"
            )
        determinant = np.log(determinant)
    write_image(output, Image(determinant, step.affine))


def read_steps(
    paths: Sequence[Path], moving: Image | None = None, fixed: Image | None = None, inverse: bool = False
) -> list[Step]:
    """Transforms of one dimension from their files, in order, or what undoes them.

    Raises:
        InputError: as of :func:`crossmorph.transforms.affine_files.read_step`, or different dimensions.
    """
    steps: list[Step] = [read_step(path, moving, fixed) for path in paths]
    for path, step in zip(paths, steps, strict=True):
        if dim_of(step) != dim_of(steps[0]):
            raise InputError(f"{path}: is {dim_of(step)}-D, but {paths[0]} is {dim_of(steps[0])}-D")
    return inverted(steps) if inverse else steps


def check_targets(inputs: Sequence[Path], targets: Sequence[Path]) -> None:
    """Refuse an output that is an input or another output."""
    seen = {path.resolve() for path in inputs}
    for path in targets:
        if path.resolve() in seen:
            raise InputError(f"{path}: is named twice, or is an input too; expected another name for this output")
        seen.add(path.resolve())


def _given(*paths: Path | None) -> list[Path]:
    return [path for path in paths if path is not None]


def _on_grid(steps: list[Step], grid: Image | Warp | None, option: str) -> Warp:
    """The steps as a warp on a grid, or on that of the first of them."""
    chosen = grid or steps[0]
    if not isinstance(chosen, Image | Warp):
        raise InputError(f"the transform has no grid of its own, expected an image that has one: {option}")
    if chosen.dim != dim_of(steps[0]):
        raise InputError(f"{option} is {chosen.dim}-D, shape {chosen.shape}; the transform is {dim_of(steps[0])}-D")
    return as_warp(steps, chosen.affine, chosen.shape)


def _write_steps(output: Path, steps: list[Step], reference: Path | None, own: Warp | None = None) -> None:
    """Write a chain: affine where all of it is, else as a warp on the grid of a file, of a warp, or its own."""
    suffix_of(output, (*TRANSFORM_SUFFIXES, *AFFINE_SUFFIXES), "transform")
    matrices = [step for step in steps if isinstance(step, ndarray)]
    if len(matrices) == len(steps):
        total = np.eye(len(matrices[0]))
        for matrix in matrices:
            total = matrix @ total
        write_affine_transform(output, total)
        return
    suffix_of(output, TRANSFORM_SUFFIXES, "warp")
    grid = own if reference is None else _read_grid(reference)
    write_transform(output, _on_grid(steps, grid, "-r GRID"))


def _read_grid(path: Path) -> Image:
    """An image of which only the grid and header are wanted."""
    return read_series(path)[0]


def _move(image: Image, warp: Warp, interpolation: Resampling, grid: Image | None) -> Image:
    """A moved image as it is written: with the reference's header, labels in the type that they had."""
    moved = resample(image, warp, interpolation)
    if interpolation != "linear":
        moved = in_stored_type(moved, image)
    return moved if grid is None else replace(grid, data=moved.data, stored=moved.stored)


def _uncertain(path: Path | None, image: Image | None) -> list[str]:
    """What is uncertain about the geometry of an image."""
    return [] if image is None else [f"{path}: {caution}" for caution in image.cautions]


def _beyond(first: Step, grid: Image | None, reference: Path | None) -> list[str]:
    """A caution where the reference lies wholly beyond a warp's grid."""
    if grid is None or not isinstance(first, Warp) or first.dim != grid.dim:
        return []
    field = Image(np.broadcast_to(np.uint8(0), first.shape), first.affine)
    if fields_overlap(field, grid) > 0:
        return []
    return [f"{reference}: lies wholly beyond the warp's grid, where the displacement at its edge is held"]

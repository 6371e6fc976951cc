"""The transforms of a result in all wanted forms: fields of deformable ones, matrices of linear ones."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from crossmorph.images.image import Image
from crossmorph.images.nifti import NIFTI_SUFFIXES
from crossmorph.registration.linear import RegisteredLinear
from crossmorph.registration.register_images import Registered
from crossmorph.transforms.affine_files import (
    ants_names,
    write_affine_transform,
    write_ants,
    write_fsl_affine,
    write_lta,
)
from crossmorph.transforms.warp import Warp
from crossmorph.transforms.warp_files import write_transform
from crossmorph.workflows.outputs import Outputs


class Named(NamedTuple):
    """An image and the name of its file, or its part where it was in memory."""

    name: str
    image: Image


def write_transforms(outputs: Outputs, registered: Registered | RegisteredLinear, moving: Named, fixed: Named) -> None:
    """Write transform, inverse, FSL's matrix and ANTs' files, as far as they are wanted.

    Args:
        outputs: what to write.
        registered: the registered pair.
        moving: the moving image.
        fixed: the fixed image.
    """
    if isinstance(registered, RegisteredLinear):
        _write_linear(outputs, registered, moving, fixed)
        return
    for path, warp in ((outputs.transform, registered.warp), (outputs.inverse, registered.inverse)):
        if path:
            write_transform(path, warp)
    if outputs.ants_prefix:
        write_ants(outputs.ants_prefix, registered.initial_affine, registered.warp, registered.inverse)


def _write_linear(outputs: Outputs, registered: RegisteredLinear, moving: Named, fixed: Named) -> None:
    matrix, back = registered.matrix, np.linalg.inv(registered.matrix)
    if outputs.transform:
        _write_map(outputs.transform, matrix, registered.warp, moving, fixed)
    if outputs.inverse:
        _write_map(outputs.inverse, back, registered.inverse, fixed, moving)
    if outputs.fsl:
        write_fsl_affine(outputs.fsl, matrix, moving.image, fixed.image)
    if outputs.ants_prefix:
        write_affine_transform(ants_names(outputs.ants_prefix)[0], matrix)


def _write_map(path: Path, matrix: Float[ndarray, "n n"], warp: Warp, source: Named, target: Named) -> None:
    """A linear map in the form that the name asks for: NIfTI holds fields alone."""
    if path.suffix == ".lta":
        write_lta(path, matrix, source, target)
    elif path.name.lower().endswith(NIFTI_SUFFIXES):
        write_transform(path, warp)
    else:
        write_affine_transform(path, matrix)

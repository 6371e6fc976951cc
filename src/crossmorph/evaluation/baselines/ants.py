"""ANTs through antspyx: affine and SyN with their defaults, and SyN with more iterations.

``rigid``, ``affine`` and ``syn`` are ``ants.registration`` with ``type_of_transform`` ``"Rigid"``, ``"Affine"`` and
``"SyN"`` and nothing else set: mutual information (Mattes, 32 bins), in the linear stages of a fifth of the voxels,
from the images' centres of mass; SyN for up to 40, 20 and 0 iterations at 1/4, 1/2 and full resolution, so that it
never works at full resolution (Avants et al., Med. Image Anal. 2008, doi:10.1016/j.media.2007.06.004). ``syn-tuned``
uses all voxels in the affine stage, which then fails less often, and up to 100, 70, 50 and 20 iterations from 1/8 to
full resolution: chosen from ten settings by Dice on the validation pairs of the phantom, where none was better by more
than 0.2%.

The random seed is fixed, which makes results bit-identical on one thread only: on several, ANTs sums its metric in the
order in which the threads finish. ANTs has one number of threads per process, read from
``ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS`` at its first image; where that is not set, this module sets it to 1.
"""

import os
import tempfile
import time
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np
import SimpleITK as sitk

from crossmorph.errors import InputError
from crossmorph.evaluation.baselines.common import SEED, Timed, from_sitk, geometry, require
from crossmorph.images.image import Image

THREADS_VARIABLE = "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"

Kind = Literal["rigid", "affine", "syn", "syn-tuned"]
SETTINGS: dict[Kind, dict[str, Any]] = {
    "rigid": {"type_of_transform": "Rigid"},
    "affine": {"type_of_transform": "Affine"},
    "syn": {"type_of_transform": "SyN"},
    "syn-tuned": {"type_of_transform": "SyN", "aff_random_sampling_rate": 1.0, "reg_iterations": (100, 70, 50, 20)},
}


class Started(NamedTuple):
    """The antspyx module, and the number of threads that it was started with and keeps."""

    module: ModuleType
    threads: int


def register(moving: Image, fixed: Image, kind: Kind) -> Timed:
    """Register with antspyx.

    Args:
        moving: 2-D or 3-D, any intensities.
        fixed: of the same dimension, on its own grid.
        kind: a key of ``SETTINGS``, described in the module.

    Returns:
        One field on the fixed grid, affine included, in float64: applied to the moving image it gives ANTs' own
        ``warpedmovout``. The seconds hold what ``ants.registration`` does, so also ANTs' two moved images, the inverse,
        and the transforms written to temporary files, but not our conversions.

    Raises:
        InputError: antspyx is not installed.
        RuntimeError: ANTs failed.
    """
    ants = _start().module
    ours, theirs = _to_ants(ants, moving), _to_ants(ants, fixed)
    with tempfile.TemporaryDirectory(prefix="crossmorph-ants-") as folder:
        began = time.perf_counter()
        # The composite keeps the grid in double precision, which a NIfTI warp does not.
        result = ants.registration(
            theirs, ours, outprefix=str(Path(folder, "ants")), write_composite_transform=True, **SETTINGS[kind]
        )
        seconds = time.perf_counter() - began
        transform = sitk.ReadTransform(result["fwdtransforms"])
    return Timed(from_sitk(transform, fixed), seconds)


def start(threads: int) -> None:
    """Import antspyx, and set its number of threads for the process.

    Raises:
        InputError: antspyx is not installed, or it was started in this process with another number of threads.
    """
    os.environ[THREADS_VARIABLE] = str(threads)
    started = _start().threads
    if started != threads:
        raise InputError(
            f"ANTs was started in this process with {started} thread(s) and keeps them; received {threads}, expected "
            f"{started}"
        )


@cache
def _start() -> Started:
    threads = int(os.environ.setdefault(THREADS_VARIABLE, "1"))
    ants = require("ants", "antspyx")
    # on=True would refuse both transforms as not reproducible; on one thread the seed alone makes them reproducible.
    ants.config.set_ants_deterministic(on=False, seed_value=SEED)
    return Started(ants, threads)


def _to_ants(ants: ModuleType, image: Image) -> Any:
    origin, spacing, direction = geometry(image)
    return ants.from_numpy(image.data.astype(np.float32), origin, spacing, np.array(direction))

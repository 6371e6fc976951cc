"""greedy through picsl-greedy: affine with a random search, then a field, both by normalised mutual information.

The tool's manual is https://greedy.readthedocs.io. The affine stage aligns the image centres and tries
200 random rigid transforms of 10 degrees and 10 mm standard deviation; smoothing is 6 voxels of each update and 1 voxel
of the field.

Chosen by mean Dice on the first twelve validation pairs of the phantom from some twenty settings (smoothing of update
and field in voxels; iterations from 1/4 to full resolution): .826 for (6, 1); 100x100x50, .827 for (7, 1); 100x100x100,
.822 for (6, 1), .820 for (6, 2), .806 for (4, 1), .791 for (8, 1) and .770 for (2.5, .5) with 100x50x20. Other steps
than 1 are worse (-e 0.25: .632; 1.5 with (6, 1.5): .812; 2: .503), as are plain mutual information (.805) and a
stationary velocity (-sv, .654); a search of 1000 changes nothing. WNCC 4x4 rewards equal contrast: .265 on six pairs,
.570 with the moving image negated, where the affine stage alone has .663.
"""

import contextlib
import io
import os
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import SimpleITK as sitk

from crossmorph.evaluation.baselines.common import SEED, Timed, from_itk, require, to_sitk
from crossmorph.images.image import Image

AFFINE = "-m NMI -n 100x50x20 -ia-image-centers -search 200 10 10"
DEFORMABLE = "-m NMI -n 100x100x50 -s 6vox 1vox"


def register(moving: Image, fixed: Image, threads: int = 1) -> Timed:
    """Register with greedy.

    Args:
        moving: 2-D or 3-D, any intensities.
        fixed: of the same dimension, on its own grid.
        threads: of the CPU; the result is reproducible on one.

    Returns:
        One field on the fixed grid, affine included, in float64: applied to the moving image it gives greedy's own
        result. The seconds hold both stages, but no moved image.

    Raises:
        InputError: picsl-greedy is not installed.
        RuntimeError: greedy failed.
    """
    tool = getattr(load(), f"Greedy{fixed.dim}D")()
    images = {"fixed": to_sitk(fixed), "moving": to_sitk(moving)}
    with _quiet():
        began = time.perf_counter()
        _run(tool, f"-a -i fixed moving {AFFINE} -o affine", threads, **images, affine=None)
        # Without -wp 0 the warp is rounded to a tenth of a voxel.
        _run(tool, f"-i fixed moving -it affine {DEFORMABLE} -wp 0 -o warp", threads, warp=None)
        seconds = time.perf_counter() - began
        _run(tool, "-rf fixed -r warp affine -rc composed", threads, composed=None)
    return Timed(from_itk(sitk.GetArrayFromImage(tool["composed"]), fixed), seconds)


def load() -> ModuleType:
    """Import picsl-greedy.

    Raises:
        InputError: it is not installed.
    """
    return require("picsl_greedy", "picsl-greedy")


def _run(tool: Any, command: str, threads: int, **images: sitk.Image | None) -> None:
    silent = io.StringIO()
    tool.execute(f"-threads {threads} -seed {SEED} -V 0 {command}", out=silent, err=silent, **images)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the output that the affine stage's optimizer writes to standard output outside Python."""
    kept = os.dup(1)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)

"""What memory a registration takes, by the sizes of its images, and whether this machine has it."""

import math
from pathlib import Path

import psutil

from crossmorph.errors import InputError

# Peak of the process at rest, of a voxel of the working grid (the networks), and of one of either image (fields and
# copies in single precision). Measured: 0.41 GB at 128 x 128 and 0.77 GB at 1024 x 1024 (any-2d), 0.56 and 0.77 GB at
# 64 and 96 voxels a side (any-3d), 1.1 GB for 2 mm to 1 mm brains, 3.5 GB for two heads of 256 voxels of 1 mm a side,
# refined.
AT_REST, A_WORKING_VOXEL, AN_IMAGE_VOXEL = 0.4e9, 420, 80


def memory_needed(working: tuple[int, ...], *images: tuple[int, ...]) -> float:
    """Bytes at the peak, about; from the shapes of the working grid and of the images."""
    return AT_REST + A_WORKING_VOXEL * math.prod(working) + AN_IMAGE_VOXEL * sum(map(math.prod, images))


def check_memory(working: tuple[int, ...], *images: tuple[int, ...]) -> None:
    """Refuse what this machine cannot hold. Raises InputError with the number needed.

    What the process has taken by now, interpreter, weights and images, counts as there.
    """
    needed, there = memory_needed(working, *images), _there()
    if needed > there:
        shapes = " and ".join(str(shape) for shape in images)
        raise InputError(
            f"images of {shapes} voxels take about {needed / 1e9:.1f} GB to register, and {there / 1e9:.1f} GB are "
            "free; expected smaller ones, or a machine with more memory"
        )


def check_room(path: Path, voxels: int, content: int) -> None:
    """Refuse a file that cannot be read for want of memory, by what its header announces.

    Args:
        path: The file, for the error.
        voxels: How many it holds; each becomes a number of up to eight bytes beside what is stored.
        content: Bytes of header and voxels, unpacked.

    Raises:
        InputError: There is less memory, with the number needed.
    """
    needed = content + 8 * voxels
    free = psutil.virtual_memory().available
    if needed > free:
        raise InputError(
            f"{path}: {voxels} voxels take about {needed / 1e9:.1f} GB to read, and {free / 1e9:.1f} GB are free; "
            "expected a smaller image, or a machine with more memory"
        )


def _there() -> float:
    """Bytes that are free, and that the process has already."""
    return float(psutil.virtual_memory().available + psutil.Process().memory_info().rss)

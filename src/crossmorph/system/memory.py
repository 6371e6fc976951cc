"""The memory that a registration takes, by the sizes of its images, and whether this machine has it free."""

import math
from pathlib import Path

import psutil

from crossmorph.errors import InputError

# Peak of the process at rest, of a voxel of the working grid (the networks), and of one of either image (fields and
# copies in single precision). Measured: 0.41 GB at 128 x 128 and 0.77 GB at 1024 x 1024 (any-2d), 0.56 and 0.77 GB at
# 64 and 96 voxels a side (any-3d), 1.1 GB for 2 mm to 1 mm brains, 3.5 GB for two heads of 256 voxels of 1 mm a
# side, refined.
AT_REST, A_WORKING_VOXEL, AN_IMAGE_VOXEL = 0.4e9, 420, 80


def memory_needed(working: tuple[int, ...], *images: tuple[int, ...]) -> float:
    """Approximate peak memory in bytes, from the shapes of the working grid and of the images."""
    return AT_REST + A_WORKING_VOXEL * math.prod(working) + AN_IMAGE_VOXEL * sum(map(math.prod, images))


def check_memory(working: tuple[int, ...], *images: tuple[int, ...]) -> None:
    """Raise InputError, with the memory needed, where this machine has less than that.

    Memory that the process holds already, for interpreter, weights and images, counts as available.
    """
    needed, available = memory_needed(working, *images), _available()
    if needed > available:
        shapes = " and ".join(str(shape) for shape in images)
        raise InputError(
            f"out of memory: images of {shapes} voxels take about {needed / 1e9:.1f} GB to register, and "
            f"{available / 1e9:.1f} GB are free; crop or downsample the images"
        )


def check_room(path: Path, voxels: int, content: int) -> None:
    """Refuse a file whose header announces more voxels than the memory holds.

    Args:
        path: the file, for the error.
        voxels: number of its voxels; each becomes a number of up to eight bytes, besides the stored bytes.
        content: bytes of header and voxels, uncompressed.

    Raises:
        InputError: less memory is free; the message has the number of gigabytes needed.
    """
    needed = content + 8 * voxels
    free = psutil.virtual_memory().available
    if needed > free:
        raise InputError(
            f"{path}: out of memory: {voxels} voxels take about {needed / 1e9:.1f} GB to read, and "
            f"{free / 1e9:.1f} GB are free; crop or downsample the image"
        )


def _available() -> float:
    """Bytes that are free or that the process holds already."""
    return float(psutil.virtual_memory().available + psutil.Process().memory_info().rss)

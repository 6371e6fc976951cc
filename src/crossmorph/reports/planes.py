"""Images and planes of volumes as they are looked at: turned as a radiograph hangs, in grey levels, side by side."""

from typing import NamedTuple

import nibabel
import numpy as np
import PIL.Image
from jaxtyping import Float, UInt8
from numpy import ndarray

from crossmorph.images.image import Image, scale_intensity
from crossmorph.transforms.warp import Warp, resample

TILES = 8  # fields of a checkerboard along the longer side
SIDE = 160  # pixels along the longer side of a small picture at most


class Plane(NamedTuple):
    """What a row of panels shows: the fixed image and the warp, in 3-D one voxel thick along the axis ``cut``."""

    fixed: Image
    warp: Warp
    cut: int | None

    def flat(self, data: ndarray) -> ndarray:
        """Voxels without the axis that was cut."""
        return data if self.cut is None else np.take(data, 0, axis=self.cut)

    @property
    def axes(self) -> list[int]:
        """The two axes to be seen, across and down."""
        return [axis for axis in range(self.fixed.dim) if axis != self.cut]


def cut_plane(fixed: Image, warp: Warp, axis: int) -> Plane:
    """A plane across an axis, through the fixed image's centre of intensity."""
    profile = scale_intensity(fixed.data).data.sum(tuple(other for other in range(3) if other != axis))
    at = round(float(profile @ np.arange(len(profile)) / profile.sum()))
    offset = np.eye(4)
    offset[axis, 3] = at
    here: tuple[slice, ...] = tuple(slice(at, at + 1) if other == axis else slice(None) for other in range(3))
    affine = fixed.affine @ offset
    return Plane(Image(fixed.data[here], affine, fixed.physical), Warp(warp.displacement[:, *here], affine), axis)


def unit_intensity(image: Image) -> ndarray:
    """Intensities in [0, 1]; zeros where the image was moved out of view altogether."""
    if image.data.min() == image.data.max():
        return np.zeros(image.shape, np.float32)
    return scale_intensity(image.data).data


def checkerboard(first: ndarray, second: ndarray) -> ndarray:
    """Two pictures of one shape in turns: ``TILES`` fields along the longer side, the first picture at the origin."""
    side = max(1, max(first.shape) // TILES)
    odd = (np.indices(first.shape) // side).sum(0) % 2 == 1
    return np.where(odd, second, first)


def hang(image: Image | Warp, ends: str = "LPI") -> tuple[ndarray, ndarray]:
    """How to turn an image's axes (nibabel's orientation) to run left, posterior (and inferior), and their affine.

    ``ends``: where else the axes are to end, one letter for each of three.
    """
    dim = image.dim
    embedded = np.eye(4)
    embedded[:dim, :dim] = image.affine[:dim, :dim]
    codes = nibabel.orientations.axcodes2ornt((*ends[:dim], "S")[:3])
    turn = nibabel.orientations.ornt_transform(nibabel.io_orientation(embedded), codes)[:dim]
    return turn, image.affine @ nibabel.orientations.inv_ornt_aff(turn, image.shape)


def hung(image: Image) -> Image:
    """The image with its axes as :func:`hang` says."""
    turn, affine = hang(image)
    return Image(nibabel.apply_orientation(image.data, turn), affine, image.physical)


def hung_warp(warp: Warp) -> Warp:
    """The warp on the grid with its axes as :func:`hang` says."""
    turn, affine = hang(warp)
    by_voxel = nibabel.apply_orientation(np.moveaxis(warp.displacement, 0, -1), turn)
    return Warp(np.moveaxis(by_voxel, -1, 0), affine)


def panels_of(moving: Image, fixed: Image, warp: Warp) -> dict[str, UInt8[ndarray, "rows columns"]]:
    """Small pictures of a pair in grey levels: ``fixed``, ``moved`` and a ``checkerboard`` of both.

    Args:
        moving: the image that moved.
        fixed: the image it moved to; of a volume an axial plane through its centre of intensity is shown.
        warp: the transform, on the fixed image's grid.

    Raises:
        InputError: the fixed image is of one intensity.
    """
    fixed, warp = hung(fixed), hung_warp(warp)
    plane = Plane(fixed, warp, None) if fixed.dim == 2 else cut_plane(fixed, warp, 2)
    spacing = plane.fixed.spacing[plane.axes[0]], plane.fixed.spacing[plane.axes[1]]
    images = {"fixed": plane.fixed, "moved": resample(moving, plane.warp)}
    panels = {name: _small(plane.flat(unit_intensity(image)), spacing) for name, image in images.items()}
    return panels | {"checkerboard": checkerboard(panels["moved"], panels["fixed"])}


def _small(unit: Float[ndarray, "across down"], spacing: tuple[float, float]) -> UInt8[ndarray, "rows columns"]:
    """A plane of [0, 1] in square pixels, no finer than its voxels and no more than ``SIDE`` along either side."""
    sides = [size * along for size, along in zip(unit.shape, spacing, strict=True)]
    step = max(*sides, SIDE * min(spacing)) / SIDE
    across, down = (min(SIDE, max(1, round(side / step))) for side in sides)
    picture = PIL.Image.fromarray(np.rint(255 * unit.T).astype(np.uint8))
    return np.asarray(picture.resize((across, down), PIL.Image.Resampling.BILINEAR))

"""The error map: expected error of every voxel, on the fixed image's grid.

``e(p) = exp(f(p))``, ``f`` the network of :mod:`crossmorph.quality.error_network`, which is trained on simulated pairs
with true fields, some of them with a lesion in one image only. Its constant is such that the mean of ``e`` over the
voxels of other training pairs is the mean of their errors, both at most ``error_network.MOST`` voxels
(``crossmorph calibrate``).
"""

from jaxtyping import Float
from torch import Tensor

from crossmorph.images.image import Image
from crossmorph.transforms.grid import Grid, onto_grid


def error_map(error: Float[Tensor, "*space"], grid: Grid, fixed: Image) -> Image:
    """The expected error as an image on the fixed image's grid.

    Args:
        error: on the working grid, in its voxels, see :class:`crossmorph.quality.assessment.Assessment`.
        grid: the working grid, which covers the fixed image.
        fixed: the fixed image as it was given; its grid and header are the map's.

    Returns:
        Millimetres (pixels where the fixed image has none), float32; 0 outside the working grid.
    """
    on_grid = Image((grid.spacing * error).cpu().numpy(), grid.affine, fixed.physical)
    resampled = onto_grid(on_grid, Grid(fixed.affine, fixed.shape))
    return Image(resampled.data, fixed.affine, fixed.physical, fixed.header)

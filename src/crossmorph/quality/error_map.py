"""A map of doubt: how far the field is expected to be wrong, voxel by voxel.

``e(p) = exp(f(p))``, ``f`` the network of :mod:`crossmorph.quality.error_network`, which learned from simulated pairs
with true fields, some of them with a lesion in one image only; its constant is such that the mean of ``e`` over the
voxels of other training pairs is the mean of their errors, both counted as
``doubt_network.MOST`` voxels at most (``benchmarks/calibration.py``).
"""

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.quality.consistency import Evidence, gather
from crossmorph.quality.error_model import calibration_of, logarithms
from crossmorph.quality.error_network import foretell, gathered_maps
from crossmorph.quality.measures import measure_plain
from crossmorph.registration.register_images import Registered
from crossmorph.transforms.grid import Grid, onto_grid


def doubt(registered: Registered, moving: Image, fixed: Image, evidence: Evidence | None = None) -> Image:
    """The expected error on the fixed image's grid.

    Args:
        registered: what came out.
        moving: the moving image as it was given.
        fixed: the fixed image as it was given; its grid and header are the map's.
        evidence: what :func:`crossmorph.quality.consistency.gather` found, where it is known already; else it is
            gathered.

    Returns:
        Millimetres (pixels where the fixed image has none), float32, at most ``doubt_network.MOST`` voxels of the
        working grid; 0 outside that grid, which covers the fixed image.

    Raises:
        InputError: the model was not calibrated.
    """
    calibration = calibration_of(registered.model)
    if calibration is None:
        raise InputError(
            f"model {registered.model.card.name} was never calibrated, so that nothing is known of its errors; "
            "expected one that was (benchmarks/calibration.py)"
        )
    evidence = evidence or gather(registered)
    numbers = measure_plain(registered, moving, evidence)
    voxels = foretell(calibration.network, gathered_maps(registered.fixed, evidence), logarithms(numbers))
    on_grid = Image((numbers["working_spacing"] * voxels).cpu().numpy(), registered.grid.affine, fixed.physical)
    resampled = onto_grid(on_grid, Grid(fixed.affine, fixed.shape))
    return Image(resampled.data, fixed.affine, fixed.physical, fixed.header)

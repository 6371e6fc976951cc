"""A registration that goes on from a given warp: the moving image is registered from where the warp lays it.

The warp ``W`` and what is found after it, ``phi``, make one transform, ``x -> W(phi(x))``, by which the moving image is
sampled once.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from crossmorph.images.image import Image
from crossmorph.registration.register_images import Registered
from crossmorph.transforms.composition import Step, as_warp, inverted
from crossmorph.transforms.warp import nearest_affine, resample


def laid(moving: Image, fixed: Image, steps: Sequence[Step]) -> Image:
    """The moving image as a transform lays it, on its own grid, moved by the affine map nearest to the transform.

    Its masks are laid likewise.

    Args:
        moving: the moving image.
        fixed: the image that the transform leads from.
        steps: the transform, fixed to moving space, in the order of :mod:`crossmorph.transforms.composition`.
    """
    back = np.linalg.inv(nearest_affine(as_warp(steps, fixed.affine, fixed.shape)))
    warp = as_warp(steps, back @ moving.affine, moving.shape)

    def there(mask: Bool[ndarray, "*space"] | None) -> Bool[ndarray, "*space"] | None:
        return None if mask is None else resample(replace(moving, data=mask.astype(np.uint8)), warp, "nearest").data > 0

    return replace(resample(moving, warp), header=moving.header, mask=there(moving.mask), ignored=there(moving.ignored))


def continued(registered: Registered, moving: Image, fixed: Image, start: Image, steps: Sequence[Step]) -> Registered:
    """A registered pair of which the moving image was :func:`laid`, as one of the moving image itself.

    ``warp``, ``inverse`` and ``translated`` are of the whole transform; all else stays as of the laid image.

    Args:
        registered: the laid image, registered to the fixed image.
        moving: the moving image.
        fixed: the fixed image.
        start: the laid image.
        steps: the transform by which it was laid.

    Raises:
        InputError: the transform cannot be inverted, since it folds.
    """
    back = inverted(steps)
    added = Image(registered.translated.data - start.scaled().data, start.affine, start.physical)
    change = resample(added, as_warp(back, moving.affine, moving.shape))
    return registered._replace(
        warp=as_warp([registered.warp, *steps], fixed.affine, fixed.shape),
        inverse=as_warp([*back, registered.inverse], moving.affine, moving.shape),
        translated=replace(moving.scaled(), data=moving.scaled().data + change.data, header=moving.header),
    )

"""Registration as one step of a MONAI pipeline. Needs MONAI, which nothing else here does (``crossmorph[monai]``)."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.networks.checkpoint import Model
from crossmorph.transforms.warp import resample
from crossmorph.workflows.register import register

NAME = "filename_or_obj"


class Registerd(MapTransform):
    """Register one image of a dictionary to another, and move the label maps that belong to it.

    Images are ``MetaTensor`` of shape (1, *space) with affines in RAS millimetres, as MONAI's ``LoadImaged`` and
    ``EnsureChannelFirstd`` give them. The moving image and its labels come back on the fixed image's grid; the field
    is ``dictionary[transform]``, a :class:`crossmorph.transforms.warp.Warp`, and the checks
    ``dictionary[checks]``.

    Args:
        moving: key of the image that moves.
        fixed: key of the image it moves to, which stays as it is.
        labels: keys of label maps of the moving image, moved by the nearest voxel.
        model: weights, see :func:`crossmorph.register`.
        transform: key that the field is given.
        checks: key that the checks are given.
        settings: further arguments of :func:`crossmorph.register`, such as ``refine``.
    """

    def __init__(
        self,
        moving: Hashable,
        fixed: Hashable,
        labels: Sequence[Hashable] = (),
        model: str | Model | None = None,
        transform: Hashable = "transform",
        checks: Hashable = "checks",
        **settings: Any,
    ) -> None:
        super().__init__([moving, *labels])
        self.moving, self.fixed, self.labels = moving, fixed, tuple(labels)
        self.model, self.transform, self.checks, self.settings = model, transform, checks, settings

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The dictionary with the moved images; the one received stays as it is.

        Raises:
            InputError: a key is missing, or its value is no such image, or cannot be registered.
        """
        fixed = self._image(data, self.fixed)
        result = register(self._image(data, self.moving), fixed, model=self.model, **self.settings)
        like = data[self.fixed]
        moved = {self.moving: _tensor(result.moved[None], like, data[self.moving])}
        for key in self.labels:
            voxels, affine = self._image(data, key)
            labels = resample(Image(voxels, affine), result.transform, "nearest")
            moved[key] = _tensor(labels.data[None].astype(voxels.dtype), like, data[key])
        return {**data, **moved, self.transform: result.transform, self.checks: result.checks}

    def _image(self, data: Mapping[Hashable, Any], key: Hashable) -> tuple[ndarray, Float[ndarray, "n n"]]:
        image: Any = data.get(key)
        if not isinstance(image, MetaTensor) or len(image) != 1 or image.ndim not in (3, 4):
            received = f"{type(image).__name__} of shape {tuple(image.shape)}" if hasattr(image, "shape") else image
            raise InputError(f"{key}: received {received}; expected a MetaTensor of shape (1, X, Y) or (1, X, Y, Z)")
        axes = [*range(image.ndim - 1), -1]
        return image.detach().cpu().numpy()[0], image.affine.cpu().numpy().astype(np.float64)[np.ix_(axes, axes)]


def _tensor(data: ndarray, like: MetaTensor, own: MetaTensor) -> MetaTensor:
    """Voxels on the grid of an image, with the name of their own file, by which MONAI saves them."""
    meta = {key: value for key, value in like.meta.items() if key not in (NAME, "affine")}
    meta |= {NAME: own.meta[NAME]} if NAME in own.meta else {}
    return MetaTensor(torch.from_numpy(data), affine=like.affine.clone(), meta=meta)

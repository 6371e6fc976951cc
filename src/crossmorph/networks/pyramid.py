"""A registration network that correlates feature pyramids of the two images, coarse to fine.

It is used as :class:`crossmorph.networks.unet.UNetVelocity` is: ``(encode(fixed), moving) -> velocity`` at half the
resolution.
"""

import math
from itertools import product
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from crossmorph.functional import spatial
from crossmorph.networks.layers import activated, check_divisible, small_output

PRODUCT_VOXELS = 256  # up to which all products cost less than those that are needed, one after the other


class PyramidSpec(BaseModel):
    """Shape of a feature pyramid.

    ``features`` are the channels at 1/2, 1/4, ... of full resolution and ``hidden`` those of the estimator at the
    same level (0: this level only feeds the coarser ones); ``radius`` is the reach of the correlation in voxels of its
    level; ``control_spacing`` the distance of the B-spline control points in voxels of full resolution;
    ``conditioned`` networks take the wanted smoothness as an input.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["pyramid"] = "pyramid"
    features: tuple[PositiveInt, ...] = Field(default=(24, 32, 48, 48), min_length=1)
    hidden: tuple[NonNegativeInt, ...] = (32, 48, 64, 64)
    radius: tuple[PositiveInt, ...] = (2, 2, 3, 3)
    control_spacing: float = Field(default=8.0, gt=0)
    conditioned: bool = False

    @model_validator(mode="after")
    def _one_entry_a_level(self) -> "PyramidSpec":
        lengths = [len(widths) for widths in (self.features, self.hidden, self.radius)]
        if len(set(lengths)) > 1 or not self.hidden[-1]:
            raise ValueError(
                f"features, hidden and radius have {lengths} entries and hidden ends in {self.hidden[-1:]}; "
                "expected one entry a level in each, and an estimator at the coarsest"
            )
        return self


class Encoder(nn.Module):
    """Features of one image at 1/2, 1/4, ... of its resolution."""

    def __init__(self, spec: PyramidSpec, dim: int, channels_in: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        for width in spec.features:
            self.levels.append(nn.Sequential(activated(dim, channels_in, width, 2), activated(dim, width, width)))
            channels_in = width

    def forward(self, image: Float[Tensor, "batch channels *space"]) -> list[Tensor]:
        """One tensor a level, finest first."""
        features = []
        for level in self.levels:
            image = level(image)
            features.append(image)
        return features


@torch.no_grad()
def _begin_alike(fixed: Encoder, moving: Encoder) -> None:
    """The same first weights for both encoders, the moving image's last channels seen as the fixed image's are.

    Features of images of like contrast then correlate where they show the same place from the first iteration on;
    two encoders that begin apart learn for hundreds of iterations before their correlation says anything.
    """
    for source, target in zip(fixed.parameters(), moving.parameters(), strict=True):
        if source.shape == target.shape:
            target.copy_(source)
        else:
            target.zero_()
            target[:, -source.shape[1] :] = source


def local_correlation(
    fixed: Float[Tensor, "batch channels *space"], moving: Float[Tensor, "batch channels *space"], radius: int
) -> Float[Tensor, "batch offsets *space"]:
    """``c_o(p) = <f(p), m(p + o)> / sqrt(channels)`` for every offset ``|o_k| <= radius``; zero outside the image.

    Of a small image every voxel meets every other in one matrix product, of which the offsets are a view: a few calls
    instead of two an offset.
    """
    dim, space, reach = fixed.ndim - 2, fixed.shape[2:], 2 * radius + 1
    padded = F.pad(moving, [radius] * 2 * dim)
    if math.prod(space) <= PRODUCT_VOXELS:
        products = fixed.flatten(2).transpose(1, 2) @ padded.flatten(2)
        steps = [math.prod(padded.shape[axis + 3 :]) for axis in range(dim)]
        rows = [math.prod(space[axis + 1 :]) * products.shape[2] for axis in range(dim)]
        strides = (products.stride(0), *(row + step for row, step in zip(rows, steps, strict=True)), *steps)
        near = products.as_strided((len(products), *space, *[reach] * dim), strides)
        return near.flatten(1 + dim).movedim(-1, 1) / fixed.shape[1] ** 0.5
    scores = []
    for offset in product(range(reach), repeat=dim):
        shifted = padded
        for axis, start in enumerate(offset, start=2):
            shifted = shifted.narrow(axis, start, fixed.shape[axis])
        scores.append((fixed * shifted).sum(1))
    return torch.stack(scores, dim=1) / fixed.shape[1] ** 0.5


class Pyramid(nn.Module):
    """Coarse-to-fine registration by correlating the features of two encoders, one for each image.

    At each level, coarsest first, the moving features are warped by the flow so far and correlated with the fixed
    ones within ``radius``; a small network reads the correlation and adds to the stationary velocity (as PWC-Net does
    for optical flow, Sun et al., CVPR 2018, arXiv 1709.02371; here the sum stays one stationary velocity, so that the
    inverse is the flow of its negative). Velocities pass through a cubic B-spline with ``control_spacing``.
    """

    def __init__(self, spec: PyramidSpec, dim: int, channels_fixed: int, channels_moving: int) -> None:
        super().__init__()
        self.divisor = 2 ** len(spec.features)
        self.radius = spec.radius
        self.estimated = [level for level, hidden in enumerate(spec.hidden) if hidden]
        self.control_spacing = spec.control_spacing
        self.conditioned = spec.conditioned
        self.encode_fixed = Encoder(spec, dim, channels_fixed)
        self.encode_moving = Encoder(spec, dim, channels_moving)
        _begin_alike(self.encode_fixed, self.encode_moving)
        self.estimators = nn.ModuleList()
        for width, hidden, radius in zip(spec.features, spec.hidden, spec.radius, strict=True):
            if not hidden:
                self.estimators.append(nn.Identity())
                continue
            channels = (2 * radius + 1) ** dim + 2 * width + dim + spec.conditioned
            self.estimators.append(
                nn.Sequential(
                    activated(dim, channels, hidden),
                    activated(dim, hidden, hidden),
                    small_output(dim, hidden, dim, spread=1e-3),
                )
            )

    def encode(self, fixed: Float[Tensor, "batch cf *space"]) -> list[Tensor]:
        """Features of the fixed image, finest first.

        Raises:
            ValueError: a side is no multiple of ``divisor``, or the coarsest level would be a single voxel.
        """
        check_divisible(fixed, self.divisor)
        if math.prod(fixed.shape[2:]) == self.divisor ** (fixed.ndim - 2):
            raise ValueError(
                f"image of {tuple(fixed.shape[2:])} voxels, expected more: its coarsest level is a single one"
            )
        features: list[Tensor] = self.encode_fixed(fixed)
        return features

    def forward(
        self,
        fixed: list[Tensor],
        moving: Float[Tensor, "batch cm *space"],
        smoothness: Float[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch dim *half"]:
        """Velocity at half resolution, in its voxels.

        Args:
            fixed: what :meth:`encode` made of the fixed image.
            moving: the moving image, on the same grid.
            smoothness: input of conditioned networks, for each pair.

        Raises:
            ValueError: a conditioned network is given none.
        """
        if self.conditioned and smoothness is None:
            raise ValueError("this network is conditioned on the smoothness, received none")
        pyramid = list(zip(fixed, self.encode_moving(moving), strict=True))
        dim = moving.ndim - 2
        coarsest = self.estimated[-1]
        velocity = moving.new_zeros((len(moving), dim, *pyramid[coarsest][0].shape[2:]))
        for level in reversed(self.estimated):
            fixed_features, moved = pyramid[level]
            if level != coarsest:
                velocity = spatial.resize(velocity, tuple(fixed_features.shape[2:]))
                moved = spatial.warp(moved, spatial.integrate(velocity))
            scores = local_correlation(normalise(fixed_features), normalise(moved), self.radius[level])
            seen = [scores, fixed_features, moved, velocity]
            if smoothness is not None and self.conditioned:
                seen.append(smoothness.view(-1, 1, *[1] * dim).expand(-1, 1, *fixed_features.shape[2:]))
            estimate = self.estimators[level](torch.cat(seen, dim=1))
            spacing = self.control_spacing / 2 ** (level + 1)
            velocity = velocity + (spatial.bspline_smooth(estimate, spacing) if spacing > 1 else estimate)
        return spatial.resize(velocity, tuple(size // 2 for size in moving.shape[2:]))


def normalise(features: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels *space"]:
    """Each channel of each image to mean 0 and variance 1 over space, so that correlations compare across levels.

    Contiguous, whatever the layout of the features: correlating shifted copies is several times faster so.
    """
    # As instance_norm does, which takes three times as long.
    space = tuple(range(2, features.ndim))
    features = features.contiguous()
    features = features - features.mean(space, keepdim=True)
    return features * ((features * features).mean(space, keepdim=True) + 1e-4).rsqrt()

"""Networks: a VoxelMorph-style U-Net, and a feature pyramid with local correlation. 2-D or 3-D by one argument.

A network that registers is ``(encode(fixed), moving) -> velocity`` on the grid of half resolution, in that grid's
voxels; the hierarchy integrates it. What ``encode`` makes of a fixed image serves any number of looks. Inputs may have
several channels.
"""

import math
from itertools import product
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from crossmorph import spatial

PRODUCT_VOXELS = 256  # up to which all products cost less than those that are needed, one after the other
ONEDNN = torch.backends.mkldnn.is_available()
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}  # by dimension


class UNetSpec(BaseModel):
    """Widths of a U-Net. The defaults are those of VoxelMorph's second model (VM-2)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["unet"] = "unet"
    encoder: tuple[PositiveInt, ...] = Field(default=(16, 32, 32, 32), min_length=1)
    decoder: tuple[PositiveInt, ...] = (32, 32, 32, 32)
    final: tuple[PositiveInt, ...] = (32, 16, 16)

    @model_validator(mode="after")
    def _as_many_up_as_down(self) -> "UNetSpec":
        if len(self.decoder) != len(self.encoder):
            raise ValueError(
                f"{len(self.decoder)} decoder widths for {len(self.encoder)} encoder widths, expected as many"
            )
        return self


class PyramidSpec(BaseModel):
    """Shape of a feature pyramid.

    ``features`` are the channels at 1/2, 1/4, ... of full resolution and ``hidden`` those of the estimator at the
    same level (0: this level only feeds the coarser ones); ``radius`` is the reach of the correlation in voxels of its
    level; ``control_spacing`` the distance of the B-spline control points in voxels of full resolution;
    ``conditioned`` networks are told how smooth the field shall be.
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


def _convolved(layer: nn.Conv2d | nn.Conv3d, image: Float[Tensor, "batch channels *space"]) -> Tensor | None:
    """The convolution by oneDNN wherever nothing is learnt on a CPU; None elsewhere.

    Left alone, PyTorch makes matrix products of those of small images (up to 20,480 numbers), which add up in an order
    that depends on the number of threads; oneDNN does not, takes as long for slices, and a fifth less for volumes.
    """
    learning = torch.is_grad_enabled() and (layer.weight.requires_grad or image.requires_grad)
    if learning or not ONEDNN or image.device.type != "cpu" or image.dtype != torch.float32:
        return None
    assert isinstance(layer.padding, tuple)  # and no word, of those that PyTorch knows
    convolved: Tensor = torch.mkldnn_convolution(
        _channels_last(image), layer.weight, layer.bias, layer.padding, layer.stride, layer.dilation, layer.groups
    )
    return convolved


def _channels_last(image: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels *space"]:
    """The image with its channels beside each other in memory, as oneDNN wants it.

    One image is transposed as a matrix, which takes PyTorch a quarter of the time of changing the layout.
    """
    batch, channels, *space = image.shape
    if batch > 1 or channels == 1 or not image.is_contiguous():
        return image.contiguous(memory_format=CHANNELS_LAST[len(space)])
    return image.view(channels, -1).t().contiguous().view(1, *space, channels).movedim(-1, 1)


class PlaneConvolution(nn.Conv2d):
    """A 2-D convolution, by oneDNN where it can."""

    def forward(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out rows columns"]:
        """The convolution."""
        convolved = _convolved(self, image)
        return super().forward(image) if convolved is None else convolved


class VolumeConvolution(nn.Conv3d):
    """A 3-D convolution, by oneDNN where it can."""

    def forward(self, image: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch out *smaller"]:
        """The convolution."""
        convolved = _convolved(self, image)
        return super().forward(image) if convolved is None else convolved


CONVOLUTIONS: dict[int, type[PlaneConvolution] | type[VolumeConvolution]] = {2: PlaneConvolution, 3: VolumeConvolution}


def convolution(dim: int, channels_in: int, channels_out: int, stride: int = 1) -> nn.Module:
    """A 3-kernel convolution with zero padding."""
    return CONVOLUTIONS[dim](channels_in, channels_out, 3, stride, 1)


def activated(dim: int, channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    """A 3-kernel convolution and a leaky rectifier of slope 0.2."""
    return nn.Sequential(convolution(dim, channels_in, channels_out, stride), nn.LeakyReLU(0.2, inplace=True))


def small_output(dim: int, channels_in: int, channels_out: int, spread: float = 1e-5) -> nn.Module:
    """A last convolution with weights N(0, spread) and no bias, so that training starts near the identity."""
    layer = convolution(dim, channels_in, channels_out)
    nn.init.normal_(layer.weight, std=spread)  # type: ignore[arg-type]
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


class UNet(nn.Module):
    """U-Net of Balakrishnan et al. (IEEE TMI 2019, doi:10.1109/TMI.2019.2897538).

    One strided convolution a level on the way down, one convolution and a nearest-neighbour upsampling on the way up.
    ``(batch, channels_in, *space) -> (batch, channels_out, *space)``; every side of ``space`` a multiple of
    ``divisor``.
    """

    def __init__(self, spec: UNetSpec, dim: int, channels_in: int, channels_out: int, spread: float = 1e-5) -> None:
        super().__init__()
        self.divisor = 2 ** len(spec.encoder)
        skips = [channels_in]
        self.encoder = nn.ModuleList()
        for width in spec.encoder:
            self.encoder.append(activated(dim, skips[-1], width, stride=2))
            skips.append(width)
        self.decoder = nn.ModuleList()
        channels = skips.pop()
        for width in spec.decoder:
            self.decoder.append(activated(dim, channels, width))
            channels = width + skips.pop()
        self.final = nn.Sequential()
        for width in spec.final:
            self.final.append(activated(dim, channels, width))
            channels = width
        self.output = small_output(dim, channels, channels_out, spread)

    def forward(self, image: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch out *space"]:
        """The network's map of the image. Raises ValueError where a side is no multiple of ``divisor``."""
        check_divisible(image, self.divisor)
        # Laid out in memory as the features are, since joining two layouts takes far longer.
        image = image.clone(memory_format=CHANNELS_LAST[image.ndim - 2])
        skips = [image]
        for block in self.encoder:
            skips.append(block(skips[-1]))
        features = skips.pop()
        for block in self.decoder:
            skip = skips.pop()
            features = torch.cat([F.interpolate(block(features), size=skip.shape[2:]), skip], dim=1)
        return self.output(self.final(features))


class UNetVelocity(nn.Module):
    """A U-Net on the two images side by side, its flow halved: VoxelMorph's diffeomorphic registration network."""

    def __init__(self, spec: UNetSpec, dim: int, channels_fixed: int, channels_moving: int) -> None:
        super().__init__()
        self.unet = UNet(spec, dim, channels_fixed + channels_moving, dim)

    def encode(self, fixed: Float[Tensor, "batch cf *space"]) -> list[Tensor]:
        """The fixed image itself: a U-Net sees both images at once."""
        return [fixed]

    def forward(
        self,
        fixed: list[Tensor],
        moving: Float[Tensor, "batch cm *space"],
        smoothness: Float[Tensor, " batch"] | None = None,  # noqa: ARG002
    ) -> Float[Tensor, "batch dim *half"]:
        """Velocity at half resolution, in voxels of that grid; it knows one smoothness only."""
        flow = self.unet(torch.cat([*fixed, moving], dim=1))
        return spatial.resize(flow, tuple(size // 2 for size in flow.shape[2:]))


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
            smoothness: what conditioned networks are told, for each pair.

        Raises:
            ValueError: a conditioned network is told nothing.
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


def check_divisible(image: Tensor, divisor: int) -> None:
    """ValueError unless every side of the image is a multiple of ``divisor``."""
    shape = tuple(image.shape[2:])
    if any(size % divisor for size in shape):
        raise ValueError(f"image of {shape} voxels, expected every side to be a multiple of {divisor}")


def velocity_network(
    spec: UNetSpec | PyramidSpec, dim: int, channels_fixed: int, channels_moving: int
) -> UNetVelocity | Pyramid:
    """The registration network that a specification describes."""
    if isinstance(spec, UNetSpec):
        return UNetVelocity(spec, dim, channels_fixed, channels_moving)
    return Pyramid(spec, dim, channels_fixed, channels_moving)

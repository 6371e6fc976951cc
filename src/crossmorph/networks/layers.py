"""Convolutions of every network, 2-D or 3-D by one argument, in the layout of memory that a CPU is fastest with."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

ONEDNN = torch.backends.mkldnn.is_available()
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}  # by dimension


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


def check_divisible(image: Tensor, divisor: int) -> None:
    """ValueError unless every side of the image is a multiple of ``divisor``."""
    shape = tuple(image.shape[2:])
    if any(size % divisor for size in shape):
        raise ValueError(f"image of {shape} voxels, expected every side to be a multiple of {divisor}")

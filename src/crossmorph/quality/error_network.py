"""The error network: the expected error of a field, voxel by voxel, from the images and the consistency maps.

It is shown the fixed image, the moved image and its moved translation, the maps of
:mod:`crossmorph.quality.consistency`, and the measures of the pair as a whole. It is trained on simulated pairs with
their true errors, pairs that cannot be registered among them (``crossmorph calibrate``); after Eppenhof and Pluim
(J. Med. Imaging 2018, doi:10.1117/1.JMI.5.2.024003), whose network sees patches of CT.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crossmorph.functional import spatial
from crossmorph.networks.layers import activated
from crossmorph.networks.unet import UNet, UNetSpec

MOST = 6.0  # voxels: the largest expected error; the difference beyond it does not matter
STEM = 24
SPEC = UNetSpec(encoder=(32, 48, 48), decoder=(48, 32, 32), final=(24,))
DIVISOR = 16  # of every side that the network is shown
NEAR_NOTHING = 0.1  # voxels, added to the lengths of vectors before their logarithm
REACH, UNIT = 8.0, 4.0  # voxels: where the components of vectors are cut off, and what counts as 1
BEGIN = 0.3  # the output before anything is learned, log voxels


class ErrorNetwork(nn.Module):
    """``(maps, numbers) -> log(error / voxels)`` at half resolution; sides of the maps are multiples of ``DIVISOR``.

    A strided convolution and a small U-Net. The measures of the pair, standardised by ``mean`` and ``scale``, are
    constant channels of what the U-Net sees.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int, numbers: int) -> None:
        super().__init__()
        self.stem = activated(dim, 2 * dim + 7, STEM, stride=2)
        self.unet = UNet(SPEC, dim, STEM + numbers, 1, spread=1e-2)
        nn.init.constant_(self.unet.output.bias, BEGIN)  # type: ignore[arg-type]
        self.register_buffer("mean", torch.zeros(numbers))
        self.register_buffer("scale", torch.ones(numbers))

    def forward(
        self, maps: Float[Tensor, "batch maps *space"], numbers: Float[Tensor, "batch numbers"]
    ) -> Float[Tensor, "batch *half"]:
        """Logarithms of the expected error in voxels of the full resolution.

        Args:
            maps: those of :func:`crossmorph.quality.consistency.network_maps`.
            numbers: those of :func:`crossmorph.quality.measures.error_predictors`.
        """
        seen = self.stem(_channels(maps))
        dim = maps.ndim - 2
        repeated = ((numbers - self.mean) / self.scale).view(*numbers.shape, *[1] * dim).expand(-1, -1, *seen.shape[2:])
        expected: Tensor = self.unet(torch.cat([seen, repeated], dim=1))
        return expected[:, 0]


@torch.inference_mode()
def expected_error(
    network: ErrorNetwork,
    maps: Float[Tensor, "1 maps *space"],
    numbers: Float[Tensor, " numbers"],
) -> Float[Tensor, "*space"]:
    """Expected error of every voxel, in voxels, at most ``MOST``; arguments as of :class:`ErrorNetwork`."""
    maps = maps.to(network.mean)
    sizes = maps.shape[2:]
    more = [(0, -size % DIVISOR) for size in reversed(sizes)]
    padded = F.pad(maps, [side for pair in more for side in pair], mode="replicate")
    half = network(padded, numbers[None])[:, None]
    mode = "bilinear" if maps.ndim == 4 else "trilinear"
    full = F.interpolate(half, size=padded.shape[2:], mode=mode, align_corners=False)[0, 0]
    return full[tuple(slice(size) for size in sizes)].clamp_max(math.log(MOST)).exp()


def _channels(maps: Float[Tensor, "batch maps *space"]) -> Float[Tensor, "batch channels *space"]:
    """Images about zero, vectors bounded, and the logarithms of their lengths besides."""
    dim = maps.ndim - 2
    images, correlation, residual, *vectors = maps.split([3, 1, 1, dim, dim], dim=1)
    lengths = [spatial.length(vector) for vector in vectors]
    return torch.cat(
        [
            2 * images - 1,
            correlation,
            UNIT * residual,
            *(vector.clamp(-REACH, REACH) / UNIT for vector in vectors),
            *((length + NEAR_NOTHING).log() for length in lengths),
        ],
        dim=1,
    )

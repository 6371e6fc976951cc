"""A U-Net, and VoxelMorph's registration network made of it; 2-D or 3-D by one argument.

A network that registers is ``(encode(fixed), moving) -> velocity`` on the grid of half resolution, in that grid's
voxels; the hierarchy integrates it. What ``encode`` makes of a fixed image serves any number of passes. Inputs may have
several channels.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from torch import Tensor, nn

from crossmorph.functional import spatial
from crossmorph.networks.layers import CHANNELS_LAST, activated, check_divisible, small_output


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

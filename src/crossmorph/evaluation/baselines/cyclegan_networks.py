"""The networks of a CycleGAN: generators and discriminators of Zhu et al., ICCV 2017, arXiv 1703.10593."""

from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn


class CycleSpec(BaseModel):
    """Networks and training of a CycleGAN.

    Attributes:
        width: channels of the first layer of generators and discriminators.
        blocks: residual blocks of a generator.
        iterations: of batch 1; the authors train for 200 epochs.
        learning_rate: of the first half.
        cycle: weight of ``|G(F(y)) - y|`` in each direction.
        identity: weight of ``|G(y) - y|``, as a fraction of ``cycle``.
        pool: number of earlier translations that the discriminators are given again.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    width: PositiveInt = 64
    blocks: PositiveInt = 9
    iterations: PositiveInt = 79_200
    learning_rate: float = Field(default=2e-4, gt=0)
    cycle: float = 10.0
    identity: float = 0.5
    pool: PositiveInt = 50


class Residual(nn.Module):
    """``x + norm(conv(relu(norm(conv(x)))))``, mirrored at the border."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_mirrored(width, width, 3), nn.ReLU(inplace=True), *_mirrored(width, width, 3))

    def forward(self, image: Tensor) -> Tensor:
        """Same shape."""
        return image + self.body(image)


class CycleGan(nn.Module):
    """Both directions: ``forth`` makes fixed-modality images of moving ones, ``back`` the other way round.

    Generators map ``(batch, 1, *space)`` in [0, 1] to [0, 1]; sides are multiples of 4. ``judge_fixed`` and
    ``judge_moving`` are the discriminators.
    """

    def __init__(self, spec: CycleSpec) -> None:
        super().__init__()
        self.forth, self.back = (generator(spec) for _ in range(2))
        self.judge_fixed, self.judge_moving = (discriminator(spec) for _ in range(2))


def generator(spec: CycleSpec) -> nn.Sequential:
    """c7s1-k, d2k, d4k, residual blocks of 4k, u2k, uk, c7s1-1, in the authors' shorthand."""
    k = spec.width
    layers: list[nn.Module] = [*_mirrored(1, k, 7), nn.ReLU(inplace=True)]
    for width in (k, 2 * k):
        layers += [nn.Conv2d(width, 2 * width, 3, 2, 1), nn.InstanceNorm2d(2 * width), nn.ReLU(inplace=True)]
    layers += [Residual(4 * k) for _ in range(spec.blocks)]
    for width in (4 * k, 2 * k):
        up = nn.ConvTranspose2d(width, width // 2, 3, 2, 1, output_padding=1)
        layers += [up, nn.InstanceNorm2d(width // 2), nn.ReLU(inplace=True)]
    # The authors end in tanh on [-1, 1]; a sigmoid is the same on [0, 1].
    return _initialised(nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(k, 1, 7), nn.Sigmoid()))


def discriminator(spec: CycleSpec) -> nn.Sequential:
    """C64-C128-C256-C512 and one output a patch of 70 x 70, in the authors' shorthand."""
    k = spec.width
    layers: list[nn.Module] = [nn.Conv2d(1, k, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
    for width, stride in ((k, 2), (2 * k, 2), (4 * k, 1)):
        layers += [nn.Conv2d(width, 2 * width, 4, stride, 1), nn.InstanceNorm2d(2 * width)]
        layers += [nn.LeakyReLU(0.2, inplace=True)]
    return _initialised(nn.Sequential(*layers, nn.Conv2d(8 * k, 1, 4, 1, 1)))


def _mirrored(channels_in: int, channels_out: int, kernel: int) -> list[nn.Module]:
    pad = nn.ReflectionPad2d(kernel // 2)
    return [pad, nn.Conv2d(channels_in, channels_out, kernel), nn.InstanceNorm2d(channels_out)]


def _initialised(network: nn.Sequential) -> nn.Sequential:
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=0.02)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return network

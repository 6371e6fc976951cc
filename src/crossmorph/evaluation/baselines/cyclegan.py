"""CycleGAN: translation between two modalities from unpaired images, with our own training loop.

Zhu et al., ICCV 2017, arXiv 1703.10593: two generators (ResNet), two discriminators (70 x 70 PatchGAN), instance norm,
least-squares adversarial loss, cycle and identity terms, ADAM with beta1 0.5, a step that falls to zero over the second
half, and a pool of 50 earlier translations. The defaults of :class:`CycleSpec` are the authors'. What departs from them
here whatever the specification: images of one channel, at their own size instead of random crops of 256 x 256.
"""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from crossmorph.errors import InputError
from crossmorph.networks.checkpoint import load_tensors, save_tensors
from crossmorph.training.dataset import Dataset
from crossmorph.training.log import RunLog

CHECKPOINT, GENERATOR = "checkpoint.safetensors", "generator.safetensors"
LOG_EVERY, SAVE_EVERY = 50, 500  # iterations


class CycleSpec(BaseModel):
    """Networks and training of a CycleGAN.

    Attributes:
        width: channels of the first layer of generators and discriminators.
        blocks: residual blocks of a generator.
        iterations: of batch 1; the authors go over their images 200 times.
        learning_rate: of the first half.
        cycle: weight of ``|G(F(y)) - y|`` in each direction.
        identity: weight of ``|G(y) - y|``, in parts of ``cycle``.
        pool: earlier translations that the discriminators are shown again.
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

    Generators map ``(batch, 1, *space)`` in [0, 1] to [0, 1]; sides are multiples of 4.
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


class Pool:
    """The last translations of a generator; the discriminator sees one of them half of the time (Shrivastava 2017)."""

    def __init__(self, size: int, images: list[Tensor]) -> None:
        self.size = size
        self.images = images

    def exchange(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """Keep a translation, and give it or, when the pool is full, half of the time an earlier one in its place."""
        if len(self.images) < self.size:
            self.images.append(image)
            return image
        if rng.random() < 0.5:
            return image
        place = int(rng.integers(self.size))
        earlier, self.images[place] = self.images[place], image
        return earlier


def train_cyclegan(
    spec: CycleSpec,
    data: Dataset,
    folder: Path,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> Path:
    """Train, or go on from the folder's checkpoint.

    An iteration's images depend on the seed and its number alone, so an interrupted run gives the same weights.

    Args:
        spec: networks and training.
        data: 2-D images; which moving image belongs to which fixed one is not used.
        folder: takes checkpoint, log and, at the end, the generator that ``translate`` uses.
        seed: of weights and images.
        advance: called once an iteration.

    Returns:
        The path of the generator's weights.

    Raises:
        InputError: images of another dimension, or sides that are no multiples of 4.
    """
    shape = tuple(data.moving.shape[2:])
    if len(shape) != 2 or any(side % 4 for side in shape):
        raise InputError(f"CycleGAN: received images of {shape}; expected two axes, each a multiple of 4")
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    networks = CycleGan(spec)
    parts = (networks.forth, networks.back), (networks.judge_fixed, networks.judge_moving)
    optimizers = [
        torch.optim.Adam(itertools.chain(*(each.parameters() for each in part)), spec.learning_rate, betas=(0.5, 0.999))
        for part in parts
    ]
    pools = Pool(spec.pool, []), Pool(spec.pool, [])
    first = _restore(folder / CHECKPOINT, networks, optimizers, pools)
    with RunLog(folder, first) as log:
        for step in range(first, spec.iterations):
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = spec.learning_rate * min(1.0, 2 * (1 - step / spec.iterations))
            rng = np.random.default_rng([seed, step])
            moving, fixed = (_drawn(images, rng) for images in (data.moving, data.fixed))
            losses = _iterate(spec, networks, optimizers, pools, moving, fixed, rng)
            advance()
            done = step + 1
            if done % LOG_EVERY == 0 or done == spec.iterations:
                log.write(done, "cyclegan", losses)
            if done % SAVE_EVERY == 0:
                _save(folder / CHECKPOINT, done, networks, optimizers, pools)
    save_tensors(folder / GENERATOR, networks.forth.state_dict(), {"spec": spec.model_dump_json()})
    return folder / GENERATOR


def load_generator(path: Path) -> nn.Sequential:
    """The generator that :func:`train_cyclegan` wrote. Raises InputError where the file is none."""
    tensors, text = load_tensors(path)
    try:
        network = generator(CycleSpec.model_validate_json(text["spec"]))
        network.load_state_dict(tensors)
    except (KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: not the generator of a CycleGAN; expected what its training wrote") from error
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def translate(network: nn.Sequential, moving: Float[Tensor, "1 1 *space"]) -> Float[Tensor, "1 1 *space"]:
    """The moving image in the fixed modality, both in [0, 1]; sides are padded to a multiple of 4 and cut again."""
    height, width = moving.shape[2:]
    padded = F.pad(moving, (0, -width % 4, 0, -height % 4), mode="replicate")
    return network(padded)[..., :height, :width]


def _drawn(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Any one image, half of the time with left and right exchanged."""
    image = images[int(rng.integers(len(images)))][None]
    return image.flip(2) if rng.random() < 0.5 else image


def _iterate(
    spec: CycleSpec,
    networks: CycleGan,
    optimizers: list[torch.optim.Adam],
    pools: tuple[Pool, Pool],
    moving: Tensor,
    fixed: Tensor,
    rng: np.random.Generator,
) -> dict[str, float]:
    """One step of the generators, then one of the discriminators; the losses by name."""
    forth, back, judges = networks.forth, networks.back, (networks.judge_fixed, networks.judge_moving)
    for judge in judges:
        judge.requires_grad_(False)
    as_fixed, as_moving = forth(moving), back(fixed)
    fooled = sum(_squared(judge(fake), 1.0) for judge, fake in zip(judges, (as_fixed, as_moving), strict=True))
    cycle = F.l1_loss(back(as_fixed), moving) + F.l1_loss(forth(as_moving), fixed)
    same = F.l1_loss(forth(fixed), fixed) + F.l1_loss(back(moving), moving)
    _step(optimizers[0], fooled + spec.cycle * (cycle + spec.identity * same))
    judged = torch.zeros(())
    for judge, pool, real, fake in zip(judges, pools, (fixed, moving), (as_fixed, as_moving), strict=True):
        judge.requires_grad_(True)
        judged = judged + (_squared(judge(real), 1.0) + _squared(judge(pool.exchange(fake.detach(), rng)), 0.0)) / 2
    _step(optimizers[1], judged)
    values = {"fooled": fooled, "cycle": cycle, "identity": same, "judged": judged}
    return {name: float(torch.as_tensor(value).detach()) for name, value in values.items()}


def _squared(judged: Tensor, wanted: float) -> Tensor:
    return (judged - wanted).square().mean()


def _step(optimizer: torch.optim.Adam, loss: Tensor | int) -> None:
    optimizer.zero_grad()
    torch.as_tensor(loss).backward()
    optimizer.step()


def _save(
    path: Path, step: int, networks: CycleGan, optimizers: list[torch.optim.Adam], pools: tuple[Pool, Pool]
) -> None:
    tensors = {f"weights.{name}": tensor for name, tensor in networks.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"moments.{number}.{index}.{name}": tensor for name, tensor in state.items()}
    for number, pool in enumerate(pools):
        if pool.images:
            tensors[f"pool.{number}"] = torch.cat(pool.images)
    save_tensors(path, tensors, {"step": str(step)})


def _restore(path: Path, networks: CycleGan, optimizers: list[torch.optim.Adam], pools: tuple[Pool, Pool]) -> int:
    """Load a checkpoint, if there is one; the number of iterations it has behind it."""
    if not path.exists():
        return 0
    tensors, text = load_tensors(path)
    networks.load_state_dict({name: tensors[f"weights.{name}"] for name in networks.state_dict()})
    moments: list[dict[int, dict[str, Tensor]]] = [{}, {}]
    for key in (key for key in tensors if key.startswith("moments.")):
        number, index, name = key.removeprefix("moments.").split(".")
        moments[int(number)].setdefault(int(index), {})[name] = tensors[key]
    for optimizer, state in zip(optimizers, moments, strict=True):
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    for place, pool in enumerate(pools):
        if f"pool.{place}" in tensors:
            pool.images[:] = tensors[f"pool.{place}"].split(1)
    return int(text["step"])

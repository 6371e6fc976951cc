"""CycleGAN: translation between two modalities from unpaired images, with our own training loop.

Zhu et al., ICCV 2017, arXiv 1703.10593: two generators (ResNet), two discriminators (70 x 70 PatchGAN), instance norm,
least-squares adversarial loss, cycle and identity terms, ADAM with beta1 0.5, a step that falls to zero over the second
half, and a pool of 50 earlier translations. The defaults of :class:`CycleSpec` are the authors'. Two differences from
their method: images of one channel, at their own size instead of random crops of 256 x 256.
"""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crossmorph.errors import InputError
from crossmorph.evaluation.baselines.cyclegan_networks import CycleGan, CycleSpec, generator
from crossmorph.networks.checkpoint import load_tensors, save_tensors
from crossmorph.training.dataset import Dataset
from crossmorph.training.log import RunLog

CHECKPOINT, GENERATOR = "checkpoint.safetensors", "generator.safetensors"
LOG_EVERY, SAVE_EVERY = 50, 500  # iterations


class Pool:
    """The last translations of a generator; half of the time the discriminator is given one (Shrivastava 2017)."""

    def __init__(self, size: int, images: list[Tensor]) -> None:
        self.size = size
        self.images = images

    def exchange(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """Store a translation, and return it or, when the pool is full, half of the time an earlier one instead."""
        if len(self.images) < self.size:
            self.images.append(image)
            return image
        if rng.random() < 0.5:
            return image
        index = int(rng.integers(self.size))
        earlier, self.images[index] = self.images[index], image
        return earlier


def train_cyclegan(
    spec: CycleSpec,
    data: Dataset,
    folder: Path,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> Path:
    """Train, or continue from the folder's checkpoint.

    An iteration's images depend on the seed and its number alone, so an interrupted run gives the same weights.

    Args:
        spec: networks and training.
        data: 2-D images; the pairing of moving and fixed images is not used.
        folder: for the checkpoint, the log and, at the end, the generator that ``translate`` uses.
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
        raise InputError(f"{path}: not the generator of a CycleGAN; expected the file of its training") from error
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def translate(network: nn.Sequential, moving: Float[Tensor, "1 1 *space"]) -> Float[Tensor, "1 1 *space"]:
    """The moving image in the fixed modality, both in [0, 1]; sides are padded to a multiple of 4 and cropped."""
    height, width = moving.shape[2:]
    padded = F.pad(moving, (0, -width % 4, 0, -height % 4), mode="replicate")
    return network(padded)[..., :height, :width]


def _drawn(images: Tensor, rng: np.random.Generator) -> Tensor:
    """A random image, half of the time with left and right exchanged."""
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
    forth, back, discriminators = networks.forth, networks.back, (networks.judge_fixed, networks.judge_moving)
    for discriminator in discriminators:
        discriminator.requires_grad_(False)
    as_fixed, as_moving = forth(moving), back(fixed)
    fakes = as_fixed, as_moving
    fooled = sum(_squared(each(fake), 1.0) for each, fake in zip(discriminators, fakes, strict=True))
    cycle = F.l1_loss(back(as_fixed), moving) + F.l1_loss(forth(as_moving), fixed)
    same = F.l1_loss(forth(fixed), fixed) + F.l1_loss(back(moving), moving)
    _step(optimizers[0], fooled + spec.cycle * (cycle + spec.identity * same))
    judged = torch.zeros(())
    for each, pool, real, fake in zip(discriminators, pools, (fixed, moving), fakes, strict=True):
        each.requires_grad_(True)
        judged = judged + (_squared(each(real), 1.0) + _squared(each(pool.exchange(fake.detach(), rng)), 0.0)) / 2
    _step(optimizers[1], judged)
    values = {"fooled": fooled, "cycle": cycle, "identity": same, "judged": judged}
    return {name: float(torch.as_tensor(value).detach()) for name, value in values.items()}


def _squared(output: Tensor, target: float) -> Tensor:
    return (output - target).square().mean()


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
    """Load a checkpoint, if there is one; returns the number of its iterations."""
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
    for count, pool in enumerate(pools):
        if f"pool.{count}" in tensors:
            pool.images[:] = tensors[f"pool.{count}"].split(1)
    return int(text["step"])

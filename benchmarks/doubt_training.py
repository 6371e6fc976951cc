"""How the network of doubt learns: from registered pairs whose errors are known, and from those that have no answer."""

import math
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from calibration_trials import Trial
from jaxtyping import Float
from torch import Tensor, nn

from crossmorph.quality.error_model import FORETELLING, logarithms
from crossmorph.quality.error_network import MOST, DoubtNetwork

LEAST = 0.3  # voxels: smaller errors of a voxel are not told apart
PAIR_LEAST, PAIR_MOST = 0.5, 5.0  # the same for medians of pairs; the hopeless count as the largest
PAIR_WEIGHT = 2.0  # of the pair's error against that of its voxels
BATCH = 8
LEARNING_RATE = 2e-3
DECAY = 1e-2
WARM_UP = 100  # iterations
JITTER = 12  # voxels, of where larger maps are cut


def train(trials: Sequence[Trial], iterations: int, seed: int) -> DoubtNetwork:
    """A network that has seen the trials, turned over and about at random, for so many batches.

    Of each voxel's error the logarithm counts (Huber), in tissue; of each pair, that of its median, against the mean of
    what is foretold over the foreground, which is what :func:`crossmorph.quality.measures.mean_doubt` will take.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    dim = trials[0].wrong.ndim
    numbers = torch.stack([logarithms(row.numbers) for row in trials])
    medians = torch.tensor([pair_error(row) for row in trials]).log()
    size = min(min(row.wrong.shape) for row in trials)
    network = DoubtNetwork(dim, len(FORETELLING))
    network.mean.copy_(numbers.mean(0))
    network.scale.copy_(numbers.std(0).clamp_min(1e-3))
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=DECAY)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: _rate(i, iterations))
    began, lost = time.perf_counter(), 0.0
    for iteration in range(1, iterations + 1):
        chosen = rng.choice(len(trials), BATCH, replace=False)
        stacked = torch.stack([_turned(_cut(_layers(trials[index]), size, rng), dim, rng) for index in chosen])
        told = network(stacked[:, :-3], numbers[chosen])
        loss = _loss(told, stacked[:, -3:], medians[chosen])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        rate.step()
        lost += float(loss.detach())
        if iteration % 250 == 0:
            spent = time.perf_counter() - began
            print(f"iteration {iteration} of {iterations}, loss {lost / 250:.4f}, {spent:.0f} s", file=sys.stderr)
            lost = 0.0
    return network.eval().requires_grad_(False)


def pair_error(row: Trial) -> float:
    """The median error of a pair in voxels, within what is told apart."""
    return min(max(row.error / row.numbers["working_spacing"], PAIR_LEAST), PAIR_MOST)


def _rate(iteration: int, iterations: int) -> float:
    return min(1.0, (iteration + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * iteration / iterations))


def _loss(
    told: Float[Tensor, "batch *half"], known: Float[Tensor, "batch 3 *space"], medians: Float[Tensor, " batch"]
) -> Tensor:
    """Of logarithms; ``known`` are those of the errors, where they count, and the foreground."""
    pool = F.avg_pool2d if told.ndim == 3 else F.avg_pool3d
    weighted, weight, inside = pool(torch.stack([known[:, 0] * known[:, 1], known[:, 1], known[:, 2]], 1), 2).unbind(1)
    axes = tuple(range(1, told.ndim))
    each = F.huber_loss(told, weighted / weight.clamp_min(1e-3), reduction="none") * weight
    local = each.sum(axes) / weight.sum(axes).clamp_min(1)
    mean = (told * inside).sum(axes) / inside.sum(axes).clamp_min(1)
    # What lies beyond the ends of what is told apart is pulled back a little way only.
    off = mean.clamp(math.log(PAIR_LEAST) - 0.5, math.log(PAIR_MOST) + 0.5) - medians
    return local.mean() + PAIR_WEIGHT * (off * off).mean()


def _layers(row: Trial) -> Float[Tensor, "layers *space"]:
    """Maps, logarithm of the error, where it counts (everywhere in the foreground of the hopeless), foreground."""
    known = math.isfinite(row.error)
    wrong = row.wrong.float().clamp(LEAST, MOST).log()
    counts = row.tissue if known else row.foreground
    return torch.cat([row.maps.float(), torch.stack([wrong, counts.float(), row.foreground.float()])])


def _cut(layers: Float[Tensor, "layers *space"], size: int, rng: np.random.Generator) -> Tensor:
    """Larger maps to ``size`` voxels a side, about the middle of where the error counts, more or less."""
    for axis in range(1, layers.ndim):
        length = layers.shape[axis]
        if length == size:
            continue
        profile = layers[-2].movedim(axis - 1, -1).flatten(0, -2).sum(0)
        middle = (
            float((profile * torch.arange(length)).sum() / profile.sum().clamp_min(1)) + rng.uniform(-1, 1) * JITTER
        )
        layers = layers.narrow(axis, int(np.clip(round(middle - size / 2), 0, length - size)), size)
    return layers


def _turned(layers: Float[Tensor, "layers *space"], dim: int, rng: np.random.Generator) -> Tensor:
    """Mirrored and axes exchanged at random, the two vectors among the maps too."""
    order = rng.permutation(dim)
    mirrored = [axis for axis in range(dim) if rng.random() < 0.5]
    layers = layers.permute(0, *(1 + order)).flip([1 + axis for axis in mirrored])
    vectors = layers[5 : 5 + 2 * dim].unflatten(0, (2, dim))[:, torch.from_numpy(order)]
    sign = torch.ones(dim).index_fill(0, torch.tensor(mirrored, dtype=torch.long), -1).view(1, dim, *[1] * dim)
    return torch.cat([layers[:5], (vectors * sign).flatten(0, 1), layers[5 + 2 * dim :]])

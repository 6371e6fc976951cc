"""Training of the error network: from registered pairs with their true errors, and from those without any."""

import math
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crossmorph.errors import InputError
from crossmorph.quality.calibration.trials import Trial
from crossmorph.quality.error_model import PREDICTORS
from crossmorph.quality.error_network import MOST, ErrorNetwork
from crossmorph.quality.measures import error_predictors

LEAST = 0.3  # voxels: smaller errors of a voxel are not distinguished
PAIR_LEAST, PAIR_MOST = 0.5, 5.0  # the same for medians of pairs; pairs that cannot be registered count as the largest
PAIR_WEIGHT = 2.0  # of the pair's error against that of its voxels
BATCH = 8
LEARNING_RATE = 2e-3
DECAY = 1e-2
WARM_UP = 100  # iterations
SIDE = {2: 128, 3: 48}  # voxels of the square maps it is trained on
JITTER = 12  # voxels, of the position at which larger maps are cropped
PROGRESS = 250  # iterations between two lines of progress


def train(trials: Sequence[Trial], iterations: int, seed: int) -> ErrorNetwork:
    """A network trained on the trials, mirrored and with axes exchanged at random.

    The loss of a voxel in tissue is that of the logarithm of its error (Huber); the loss of a pair is that of the
    logarithm of its median error, against the mean of the network's output over the foreground, whose exponential is
    :func:`crossmorph.quality.measures.mean_error`.

    Args:
        trials: registered pairs.
        iterations: batches of ``BATCH`` pairs.
        seed: of weights and batches.

    Raises:
        InputError: fewer pairs than a batch.
    """
    if len(trials) < BATCH:
        raise InputError(f"{len(trials)} pairs to train the error network on; expected at least {BATCH} (--learn)")
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    dim = trials[0].errors.ndim
    numbers = torch.stack([error_predictors(trial.measures) for trial in trials])
    medians = torch.tensor([pair_error(trial) for trial in trials]).log()
    network = ErrorNetwork(dim, PREDICTORS)
    network.mean.copy_(numbers.mean(0))
    network.scale.copy_(numbers.std(0).clamp_min(1e-3))
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=DECAY)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: _rate(i, iterations))
    began, summed = time.perf_counter(), 0.0
    for iteration in range(1, iterations + 1):
        chosen = rng.choice(len(trials), BATCH, replace=False)
        stacked = torch.stack(
            [_augmented(_cropped(_layers(trials[index]), SIDE[dim], rng), dim, rng) for index in chosen]
        )
        predicted = network(stacked[:, :-3], numbers[chosen])
        loss = _loss(predicted, stacked[:, -3:], medians[chosen])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        rate.step()
        summed += float(loss.detach())
        if iteration % PROGRESS == 0:
            spent = time.perf_counter() - began
            mean = summed / PROGRESS
            print(
                f"error network: iteration {iteration} of {iterations}, loss {mean:.4f}, {spent:.0f} s", file=sys.stderr
            )
            summed = 0.0
    return network.eval().requires_grad_(False)


def pair_error(trial: Trial) -> float:
    """The median error of a pair in voxels, between ``PAIR_LEAST`` and ``PAIR_MOST``."""
    return min(max(trial.error / trial.measures.working_spacing, PAIR_LEAST), PAIR_MOST)


def _rate(iteration: int, iterations: int) -> float:
    return min(1.0, (iteration + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * iteration / iterations))


def _loss(
    predicted: Float[Tensor, "batch *half"], known: Float[Tensor, "batch 3 *space"], medians: Float[Tensor, " batch"]
) -> Tensor:
    """Of logarithms; ``known`` are those of the errors, where they count, and the foreground."""
    pool = F.avg_pool2d if predicted.ndim == 3 else F.avg_pool3d
    weighted, weight, inside = pool(torch.stack([known[:, 0] * known[:, 1], known[:, 1], known[:, 2]], 1), 2).unbind(1)
    axes = tuple(range(1, predicted.ndim))
    each = F.huber_loss(predicted, weighted / weight.clamp_min(1e-3), reduction="none") * weight
    local = each.sum(axes) / weight.sum(axes).clamp_min(1)
    mean = (predicted * inside).sum(axes) / inside.sum(axes).clamp_min(1)
    # Far beyond the ends of what is distinguished there is no gradient.
    off = mean.clamp(math.log(PAIR_LEAST) - 0.5, math.log(PAIR_MOST) + 0.5) - medians
    return local.mean() + PAIR_WEIGHT * (off * off).mean()


def _layers(trial: Trial) -> Float[Tensor, "layers *space"]:
    """Maps, logarithm of the error, where it counts (in the foreground of pairs without a true field), foreground."""
    known = math.isfinite(trial.error)
    errors = trial.errors.float().clamp(LEAST, MOST).log()
    counts = trial.tissue if known else trial.foreground
    return torch.cat([trial.maps.float(), torch.stack([errors, counts.float(), trial.foreground.float()])])


def _cropped(layers: Float[Tensor, "layers *space"], size: int, rng: np.random.Generator) -> Tensor:
    """Maps of ``size`` voxels a side: larger ones about the middle of the foreground, jittered, smaller ones padded."""
    for axis in range(1, layers.ndim):
        length = layers.shape[axis]
        if length <= size:
            padding = [0, 0] * (layers.ndim - 1 - axis) + [0, size - length]
            layers = F.pad(layers, padding)  # zeros: neither foreground nor an error that counts
            continue
        profile = layers[-1].movedim(axis - 1, -1).flatten(0, -2).sum(0)
        middle = (
            float((profile * torch.arange(length)).sum() / profile.sum().clamp_min(1)) + rng.uniform(-1, 1) * JITTER
        )
        layers = layers.narrow(axis, int(np.clip(round(middle - size / 2), 0, length - size)), size)
    return layers


def _augmented(layers: Float[Tensor, "layers *space"], dim: int, rng: np.random.Generator) -> Tensor:
    """Mirrored and axes exchanged at random, the two vectors among the maps too."""
    order = rng.permutation(dim)
    mirrored = [axis for axis in range(dim) if rng.random() < 0.5]
    layers = layers.permute(0, *(1 + order)).flip([1 + axis for axis in mirrored])
    vectors = layers[5 : 5 + 2 * dim].unflatten(0, (2, dim))[:, torch.from_numpy(order)]
    sign = torch.ones(dim).index_fill(0, torch.tensor(mirrored, dtype=torch.long), -1).view(1, dim, *[1] * dim)
    return torch.cat([layers[:5], (vectors * sign).flatten(0, 1), layers[5 + 2 * dim :]])

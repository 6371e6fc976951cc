"""Similarity of two images, one number a pair: mutual information, NCC, gradient orientation, squared error.

Every function takes ``(varying, constant)``, two tensors ``(batch, 1, *space)`` in [0, 1], and returns ``(batch,)``;
larger means more similar except for :func:`mse`. Gradients flow into ``varying``; ``constant`` is the image of the term
that no network changes. This module imports no other module of crossmorph.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

Similarity = Callable[[Tensor, Tensor], Tensor]
NEAR = 5  # voxels a side, over which foreground and residual are averaged
DARK = 0.5  # of the image's mean: below it lies the background
BINS = 32


def joint_histogram(
    varying: Float[Tensor, "batch 1 *space"],
    constant: Float[Tensor, "batch 1 *space"],
    bins: int = BINS,
    where: Bool[Tensor, "batch 1 *space"] | None = None,
) -> Float[Tensor, "batch bins_constant bins_varying"]:
    """Joint probabilities by Parzen windows of order 0 on ``constant`` and cubic B-splines on ``varying``.

    Mattes et al., IEEE TMI 2003, doi:10.1109/TMI.2003.809072. Values outside [0, 1] count as the nearer end (where
    their gradient is zero). Each voxel touches four bins, and the sum runs in one fixed order, so the
    bits do not depend on the number of threads (on the CPU). It runs in float64: a bin that holds most of a volume is
    too large for float32 to add single voxels to. Voxels outside ``where`` do not count.
    """
    batch = varying.shape[0]
    # Cubic splines reach one bin below and two above, hence the margin of 1 and 2 bins.
    position = 1 + varying.flatten(1).clamp(0, 1) * (bins - 3)
    first = position.detach().floor().clamp(max=bins - 3)
    t = position - first
    rest, square = 1 - t, t * t  # powers take several times as long
    splines = [rest * rest * rest, 3 * square * t - 6 * square + 4, 3 * (1 + t - square) * t + 1, square * t]
    weights = torch.stack(splines) / 6
    row = (constant.detach().flatten(1).clamp(0, 1) * bins).long().clamp(max=bins - 1)
    row = row + bins * torch.arange(batch, device=row.device)[:, None]
    index = row * bins + first.long() - 1
    index = torch.stack([index, index + 1, index + 2, index + 3])
    if where is not None:
        weights = weights * where.flatten(1) / where.flatten(1).sum(1, keepdim=True).clamp_min(1) * t.shape[1]
    counts = torch.zeros(batch * bins * bins, dtype=torch.float64, device=varying.device)
    counts = counts.index_add(0, index.flatten(), weights.flatten().double())
    return (counts / t.shape[1]).to(varying.dtype).view(batch, bins, bins)


def entropy(probabilities: Float[Tensor, "batch *bins"]) -> Float[Tensor, " batch"]:
    """``-sum p log p`` in nats; an empty bin counts nothing."""
    p = probabilities.flatten(1)
    return -(p * p.clamp_min(torch.finfo(p.dtype).tiny).log()).sum(1)


def mi(
    varying: Float[Tensor, "batch 1 *space"],
    constant: Float[Tensor, "batch 1 *space"],
    where: Bool[Tensor, "batch 1 *space"] | None = None,
) -> Float[Tensor, " batch"]:
    """Mutual information ``H(a) + H(b) - H(a, b)`` in nats, marginals taken from the joint histogram itself.

    Of all voxels, or of those of ``where`` alone; 0 where there are none.
    """
    joint = joint_histogram(varying, constant, where=where)
    return entropy(joint.sum(1)) + entropy(joint.sum(2)) - entropy(joint)


def nmi(varying: Float[Tensor, "batch 1 *space"], constant: Float[Tensor, "batch 1 *space"]) -> Float[Tensor, " batch"]:
    """Normalised mutual information ``(H(a) + H(b)) / H(a, b)``, from 1 to 2; 1 where both images are constant.

    Studholme et al., Pattern Recognition 1999, doi:10.1016/S0031-3203(98)00091-0.
    """
    joint = joint_histogram(varying, constant)
    # The cubic windows spread even a constant image over three bins, so the joint entropy is never 0.
    return (entropy(joint.sum(1)) + entropy(joint.sum(2))) / entropy(joint)


def box_sum(image: Float[Tensor, "batch channel *space"], window: int) -> Float[Tensor, "batch channel *space"]:
    """Sum over a centred cube of ``window`` (odd) voxels a side, nothing outside the image; axis by axis."""
    for axis in range(2, image.ndim):
        size = image.shape[axis]
        padding = [0, 0] * (image.ndim - 1 - axis) + [window // 2] * 2
        padded = F.pad(image, padding)
        image = torch.stack([padded.narrow(axis, offset, size) for offset in range(window)]).sum(0)
    return image


def local_correlation_map(
    varying: Float[Tensor, "batch 1 *space"], constant: Float[Tensor, "batch 1 *space"], window: int = 9
) -> Float[Tensor, "batch 1 *space"]:
    """Squared local correlation of every voxel, ``cross^2 / (var_I var_J + 1e-5)`` over a cube of ``window`` voxels.

    ``cross`` keeps its sign until it is squared: T1w and T2w correlate negatively, and that counts as similar. At the
    border a cube ends with the image (VoxelMorph counts zeros outside, which makes the borders of two constant images
    similar).
    """
    size = box_sum(torch.ones_like(varying[:1]), window)
    moments = [varying, constant, varying * varying, constant * constant, varying * constant]
    i, j, ii, jj, ij = box_sum(torch.cat(moments, dim=1), window).split(1, dim=1)
    cross = ij - i * j / size
    # Rounding can leave a variance a hair below zero where the window is constant.
    variances = (ii - i * i / size).clamp_min(0) * (jj - j * j / size).clamp_min(0)
    return cross * cross / (variances + 1e-5)


def ncc(
    varying: Float[Tensor, "batch 1 *space"], constant: Float[Tensor, "batch 1 *space"], window: int = 9
) -> Float[Tensor, " batch"]:
    """Mean squared local correlation, the mean of :func:`local_correlation_map` over the voxels.

    As in VoxelMorph (Balakrishnan et al., IEEE TMI 2019, doi:10.1109/TMI.2019.2897538).
    """
    return local_correlation_map(varying, constant, window).flatten(1).mean(1)


def windows_correlation(
    varying: Float[Tensor, "batch 1 *space"],
    constant: Float[Tensor, "batch 1 *space"],
    window: int = 9,
    step: int = 4,
    where: Bool[Tensor, "batch 1 *space"] | None = None,
) -> Float[Tensor, " batch"]:
    """Mean squared correlation over cubes of ``window`` voxels within the image, every ``step`` voxels along each axis.

    A fast approximation of :func:`ncc`. Only cubes count in which ``constant`` is brighter than half its mean, and that
    lie wholly in ``where``; 0 where there are none, or where the image is smaller than one.
    """
    if min(constant.shape[2:]) < window:
        return constant.new_zeros(len(constant))
    pool = F.avg_pool2d if constant.ndim == 4 else F.avg_pool3d
    moments = [varying, constant, varying * varying, constant * constant, varying * constant]
    i, j, ii, jj, ij = pool(torch.cat(moments, dim=1), window, step).flatten(2).unbind(1)
    cross = ij - i * j
    squared = cross * cross / ((ii - i * i).clamp_min(0) * (jj - j * j).clamp_min(0) + 1e-7)
    counted = j > constant.flatten(1).mean(1, keepdim=True) / 2
    if where is not None:
        counted = counted & (pool(where.to(constant), window, step).flatten(1) > 1 - 0.5 / window**3)
    return (squared * counted).sum(1) / counted.sum(1).clamp_min(1)


def gradient_directions(image: Float[Tensor, "batch 1 *space"], window: int = 7) -> Float[Tensor, "batch dim *space"]:
    """Unit vectors of the image gradient summed over a cube of ``window`` voxels; zero where there is no gradient."""
    axes = tuple(range(2, image.ndim))
    gradient = torch.cat(torch.gradient(image, dim=axes), dim=1)
    total = box_sum(gradient, window)
    return total / (total.square().sum(1, keepdim=True) + 1e-10).sqrt()


def lg(varying: Float[Tensor, "batch 1 *space"], constant: Float[Tensor, "batch 1 *space"]) -> Float[Tensor, " batch"]:
    """Local gradient orientation: the mean over voxels of ``|n(varying) . n(constant)|``, from 0 to 1.

    Deform-GAN, arXiv 2002.11430, with a neighbourhood of 7 voxels.
    """
    cosine = (gradient_directions(varying) * gradient_directions(constant)).sum(1)
    return cosine.abs().flatten(1).mean(1)


def mse(varying: Float[Tensor, "batch 1 *space"], constant: Float[Tensor, "batch 1 *space"]) -> Float[Tensor, " batch"]:
    """Mean squared difference: 0 for equal images, larger for less similar ones."""
    return (varying - constant).square().flatten(1).mean(1)


def overlap(
    varying: Float[Tensor, "batch channel *space"], constant: Float[Tensor, "batch channel *space"]
) -> Float[Tensor, " batch"]:
    """Overlap of tissue fractions, ``2 <a, b> / (|a|^2 + |b|^2)`` of each tissue and its mean over tissues; 1 if equal.

    Soft Dice with squares below (Milletari et al., V-Net, 3DV 2016, doi:10.1109/3DV.2016.79). A tissue that neither
    image shows counts nothing; 0 where neither shows any.
    """
    a, b = varying.flatten(2), constant.flatten(2)
    size = a.square().sum(2) + b.square().sum(2)
    shown = (size > 1e-3).to(size.dtype)
    return ((2 * (a * b).sum(2) / size.clamp_min(1e-3)) * shown).sum(1) / shown.sum(1).clamp_min(1)


SIMILARITIES: dict[str, Similarity] = {"mi": mi, "nmi": nmi, "ncc": ncc, "lg": lg}


def foreground(image: Float[Tensor, "batch 1 *space"]) -> Bool[Tensor, "batch 1 *space"]:
    """Where an image's local mean is above half of its mean; everywhere, where that is nowhere."""
    bright = local_mean(image) > DARK * image.mean()
    return bright if bright.any() else torch.ones_like(bright)


def local_mean(image: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel *space"]:
    """Mean over a centred cube of ``NEAR`` voxels a side, zeros outside the image."""
    return box_sum(image, NEAR) / NEAR ** (image.ndim - 2)

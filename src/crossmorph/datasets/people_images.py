"""Images of people from label maps: a signal for every kind of tissue, averaged over each voxel, under a texture."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from crossmorph.datasets.label_maps import Cohort, fractions
from crossmorph.simulation.drawing import smooth_noise
from crossmorph.simulation.tissue_signals import NAMES, Acquisition, random_signals, signals_of

MOTTLED = "soft tissue"  # fat and muscle under one label


def random_table(rng: np.random.Generator, contrast: Acquisition, uncertain: float) -> Float[Tensor, " names"]:
    """Signals by kind of tissue, air last, none far from its sequence's; or any, for ``random``."""
    signals = random_signals(rng) if contrast == "random" else signals_of(contrast)
    varied = signals * (1 + rng.uniform(-uncertain, uncertain, len(signals)))
    return torch.tensor([*varied, 0.0], dtype=torch.float32)


def tissue_signals(
    cohort: Cohort, codes: UInt8[Tensor, "*space parts"], signals: Float[Tensor, " names"]
) -> Float[Tensor, "2 *space"]:
    """Signals of all tissues, averaged over each voxel, and what of it comes from fat and muscle."""
    table = signals[cohort.signals]
    return fractions(torch.stack([table, table * (cohort.signals == NAMES.index(MOTTLED))]), codes)


def textured(rng: np.random.Generator, parts: Float[Tensor, "2 *space"], texture: float) -> Float[Tensor, "*space"]:
    """An image of :func:`tissue_signals` under a smooth texture, which is strong in fat and muscle."""
    image, soft = parts
    grain, mottle = (
        smooth_noise(rng, 1, tuple(image.shape), rng.uniform(low, high))[0] for low, high in ((0.8, 3.0), (1.2, 3.0))
    )
    image = image * (1 + rng.uniform(0, texture) * grain / grain.abs().max())
    return image + soft * rng.uniform(0.2, 0.8) * mottle / mottle.abs().max()

"""A model small enough to register in milliseconds, and images of its size."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from crossmorph.images.image import Image
from crossmorph.images.io import write_image
from crossmorph.networks.checkpoint import Card, save_model
from crossmorph.networks.hierarchy import Hierarchy, HierarchySpec
from crossmorph.networks.unet import UNetSpec

SMALL = UNetSpec(encoder=(2, 3), decoder=(3, 2), final=(2,))
SPEC = HierarchySpec(coarse=SMALL, translator=SMALL, fine=SMALL)


def save_weights(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    facts: dict[str, Any] = {"training": {}, "data": {}, "scores": {}, "environment": {}, "sha256": ""}
    card = Card(name="small", description="For tests.", hierarchy=SPEC, shape=(16, 16), spacing=1.5, **facts)
    save_model(folder, Hierarchy(SPEC), card)


def draw(path: Path, seed: int) -> None:
    """One smooth anatomy in all images, with noise of its own; odd seeds invert it."""
    anatomy = gaussian_filter(np.random.default_rng(99).random((16, 18)), 1.5)
    anatomy = (anatomy - anatomy.min()) / np.ptp(anatomy)
    noise = np.random.default_rng(seed).random((16, 18)) / 20
    data = ((1 - anatomy if seed % 2 else anatomy) + noise).astype(np.float32)
    write_image(path, Image(data, np.diag([1.5, 1.5, 1.0])))

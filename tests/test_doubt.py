"""Doubt: the map lies on the fixed grid, in its unit, and is high where an image lacks what another has."""

import math

import numpy as np
import pytest
import torch

from crossmorph.datasets.pairs import read_pairs
from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import read_image
from crossmorph.networks.checkpoint import Model, load_model
from crossmorph.quality.error_map import doubt
from crossmorph.quality.error_model import FORETELLING, LIMITS, Calibration
from crossmorph.quality.error_network import DoubtNetwork
from crossmorph.registration.register_images import register_images


def made(voxels: float) -> Calibration:
    """A calibration whose map says the same everywhere."""
    network = DoubtNetwork(2, len(FORETELLING)).eval().requires_grad_(False)
    network.unet.output.weight.zero_()
    network.unet.output.bias.fill_(math.log(voxels))
    pair = torch.zeros(len(FORETELLING) + 2)
    return Calibration(network, pair, torch.ones(1), torch.ones(1), torch.eye(1), dict.fromkeys(LIMITS, 1.0), {})


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model()


@pytest.fixture(scope="module")
def pair(phantom) -> tuple[Image, Image]:
    first = read_pairs(phantom / "validation" / "pairs.csv")[1]
    return read_image(first.moving), read_image(first.fixed)


def test_a_model_without_calibration_has_no_map(pair, model, monkeypatch):
    monkeypatch.setattr("crossmorph.quality.error_map.calibration_of", lambda _: None)
    with pytest.raises(InputError, match="model any-2d was never calibrated"):
        doubt(register_images(*pair, model), *pair)


def test_the_map_lies_on_the_fixed_image_in_its_unit(pair, model, monkeypatch):
    """A map that says 2 voxels everywhere: 3 mm of the model's 1.5 mm."""
    monkeypatch.setattr("crossmorph.quality.error_map.calibration_of", lambda _: made(2.0))
    moving, fixed = pair
    fine = Image(fixed.data[10:-10, 12:-4].copy(), fixed.affine, fixed.physical, fixed.header)
    found = doubt(register_images(moving, fine, model), moving, fine)
    assert found.shape == fine.shape
    assert np.array_equal(found.affine, fine.affine)
    assert found.header is fine.header
    np.testing.assert_allclose(found.data, 3.0, rtol=1e-4)


def test_doubt_is_high_in_a_lesion_without_counterpart(pair, model):
    """With the shipped calibration: more than around the same place without the lesion, and more than elsewhere."""
    moving, fixed = pair
    distance = np.linalg.norm(np.indices(fixed.shape) - np.array([[[50]], [[70]]]), axis=0)
    inside = distance < 7
    brain = fixed.data > 0.3 * fixed.data.max()
    assert brain[inside].mean() > 0.9
    sick = Image(np.where(inside, 0.05 * fixed.data.max(), fixed.data).astype(np.float32), fixed.affine)
    plain = doubt(register_images(moving, fixed, model), moving, fixed).data
    found = doubt(register_images(moving, sick, model), moving, sick).data
    assert found[inside].mean() > 1.3 * plain[inside].mean()
    assert found[inside].mean() > 1.3 * np.median(found[brain & ~inside])

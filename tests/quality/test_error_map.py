"""Error map: it lies on the fixed grid, in its unit, and is high where one image lacks what the other shows."""

import math

import numpy as np
import pytest
import torch

from crossmorph.datasets.pairs import read_pairs
from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import read_image
from crossmorph.networks.checkpoint import Model, load_model
from crossmorph.quality.checks import NOT_CALIBRATED, assess
from crossmorph.quality.error_map import error_map
from crossmorph.quality.error_model import LIMITS, PREDICTORS, Calibration
from crossmorph.quality.error_network import ErrorNetwork
from crossmorph.registration.register_images import register_images


def made(voxels: float) -> Calibration:
    """A calibration whose map is the same everywhere."""
    network = ErrorNetwork(2, PREDICTORS).eval().requires_grad_(False)
    network.unet.output.weight.zero_()
    network.unet.output.bias.fill_(math.log(voxels))
    pair = torch.zeros(PREDICTORS + 2)
    return Calibration(network, pair, torch.ones(1), torch.ones(1), torch.eye(1), dict.fromkeys(LIMITS, 1.0), {})


def mapped(moving: Image, fixed: Image, model: Model) -> Image:
    """The error map of a pair."""
    registered = register_images(moving, fixed, model)
    return error_map(assess(registered, moving, fixed).error, registered.grid, fixed)


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model()


@pytest.fixture(scope="module")
def pair(phantom) -> tuple[Image, Image]:
    first = read_pairs(phantom / "validation" / "pairs.csv")[1]
    return read_image(first.moving), read_image(first.fixed)


def test_a_model_without_calibration_has_no_map(pair, model, monkeypatch):
    from crossmorph.workflows.register import register

    monkeypatch.setattr("crossmorph.quality.checks.calibration_of", lambda _: None)
    assessment = assess(register_images(*pair, model), *pair)
    assert assessment.error is None
    assert assessment.measures.expected_error is None
    assert assessment.checks[0].name == NOT_CALIBRATED
    with pytest.raises(InputError, match="model any-2d has no calibration"):
        register(*pair, model=model).error_map()


def test_the_map_lies_on_the_fixed_image_in_its_unit(pair, model, monkeypatch):
    """A map of 2 voxels everywhere: 3 mm of the model's 1.5 mm."""
    monkeypatch.setattr("crossmorph.quality.checks.calibration_of", lambda _: made(2.0))
    moving, fixed = pair
    fine = Image(fixed.data[10:-10, 12:-4].copy(), fixed.affine, fixed.physical, fixed.header)
    found = mapped(moving, fine, model)
    assert found.shape == fine.shape
    assert np.array_equal(found.affine, fine.affine)
    assert found.header is fine.header
    np.testing.assert_allclose(found.data, 3.0, rtol=1e-4)


def test_the_error_is_high_in_a_lesion_without_counterpart(pair, model):
    """With the shipped calibration: more than around the same place without the lesion, and more than elsewhere."""
    moving, fixed = pair
    distance = np.linalg.norm(np.indices(fixed.shape) - np.array([[[50]], [[70]]]), axis=0)
    inside = distance < 7
    brain = fixed.data > 0.3 * fixed.data.max()
    assert brain[inside].mean() > 0.9
    lesioned = Image(np.where(inside, 0.05 * fixed.data.max(), fixed.data).astype(np.float32), fixed.affine)
    plain, found = (mapped(moving, image, model).data for image in (fixed, lesioned))
    assert found[inside].mean() > 1.3 * plain[inside].mean()
    assert found[inside].mean() > 1.3 * np.median(found[brain & ~inside])

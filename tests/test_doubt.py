"""Doubt: the map is the sum done by hand, lies on the fixed grid, and is high where an image lacks what another has."""

import math

import numpy as np
import pytest
import torch

from crossmorph.calibration import LIMITS, Calibration
from crossmorph.checkpoint import Model, load_model
from crossmorph.data.pairs import read_pairs
from crossmorph.doubt import MOST, doubt, expected_error, local_logarithms
from crossmorph.errors import InputError
from crossmorph.evidence import Evidence
from crossmorph.image import Image, read_image
from crossmorph.pipeline import register_images
from crossmorph.quality import FORETELLING, LEAST_NUMBER

SHAPE = (20, 24)


def made(weights: list[float]) -> Calibration:
    """A calibration whose expected error of a pair is 1 voxel, and whose map has these weights."""
    pair = torch.zeros(len(FORETELLING) + 1)
    ones = torch.ones(1), torch.ones(1), torch.eye(1)
    return Calibration(pair, torch.tensor(weights), *ones, dict.fromkeys(LIMITS, 1.0), {})


def evidence(**changed: float) -> Evidence:
    """Flat maps of a perfect pair, but for those named."""
    values = {"shifted": 0.0, "swapped": 0.0, "correlation": 1.0, "residual": 0.0} | changed
    maps = {name: torch.full(SHAPE, value) for name, value in values.items()}
    return Evidence(**maps, foreground=torch.ones(SHAPE, dtype=torch.bool), turned=0.5)


PAIR = torch.zeros(len(FORETELLING))


def test_each_map_has_its_own_weight():
    """Weight 1 alone: the map is what it weighs, and the floor."""
    expected = {"swapped": 0.5, "shifted": 0.7, "correlation": 0.3, "residual": 0.2}
    for place, (name, value) in enumerate(expected.items()):
        weights = [0.0] * 6
        weights[place] = 1
        error = expected_error(evidence(**{name: value}), PAIR, made(weights))
        torch.testing.assert_close(error, torch.full(SHAPE, value + LEAST_NUMBER))
    whole = expected_error(evidence(), PAIR, made([0, 0, 0, 0, 1, math.log(2)]))
    torch.testing.assert_close(whole, torch.full(SHAPE, 2 * (1 + LEAST_NUMBER)))


def test_the_largest_error_told_is_bounded():
    error = expected_error(evidence(swapped=50.0), PAIR, made([1, 0, 0, 0, 0, 0]))
    assert float(error.max()) == MOST


def test_a_spot_is_averaged_over_its_neighbourhood_and_no_further():
    one = evidence()
    one.swapped[10, 12] = 25.0
    maps = local_logarithms(one, 1.0)
    assert maps.shape == (*SHAPE, 5)
    assert float(maps[10, 12, 0].exp()) == pytest.approx(1 + LEAST_NUMBER, rel=1e-4)
    assert float(maps[10, 16, 0].exp()) == pytest.approx(LEAST_NUMBER, rel=1e-3)


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model()


@pytest.fixture(scope="module")
def pair(phantom) -> tuple[Image, Image]:
    first = read_pairs(phantom / "validation" / "pairs.csv")[1]
    return read_image(first.moving), read_image(first.fixed)


def test_a_model_without_calibration_has_no_map(pair, model, monkeypatch):
    monkeypatch.setattr("crossmorph.doubt.calibration_of", lambda _: None)
    with pytest.raises(InputError, match="model any-2d was never calibrated"):
        doubt(register_images(*pair, model), *pair)


def test_the_map_lies_on_the_fixed_image_in_its_unit(pair, model, monkeypatch):
    """A map that says 2 voxels everywhere: 3 mm of the model's 1.5 mm."""
    monkeypatch.setattr("crossmorph.doubt.calibration_of", lambda _: made([0, 0, 0, 0, 0, math.log(2)]))
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

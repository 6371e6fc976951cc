"""Calibration: the file says what was written, belongs to one set of weights, and its sums are those done by hand."""

import math

import pytest
import torch

from crossmorph.errors import InputError
from crossmorph.networks.checkpoint import load_model, load_tensors, save_tensors, shipped_models
from crossmorph.quality.error_model import (
    FORETELLING,
    LENGTHS,
    LIMITS,
    NETWORK,
    SUFFIX,
    Calibration,
    _shipped,
    calibration_of,
    foretold,
    logarithms,
    read_calibration,
    unfamiliarity,
    usual_features,
    write_calibration,
)
from crossmorph.quality.error_network import DoubtNetwork

MADE = Calibration(
    network=DoubtNetwork(2, len(FORETELLING)),
    error=torch.tensor([0.5, 0.25, math.log(2.0)]),
    feature_mean=torch.tensor([1.0, 2.0]),
    feature_scale=torch.tensor([0.5, 2.0]),
    feature_precision=torch.eye(2),
    limits=dict.fromkeys(LIMITS, 2.0),
    origin={"sha256": "ab", "date": "today"},
)


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / f"m{SUFFIX}"
    write_calibration(path, MADE)
    found = read_calibration(path)
    assert found.limits == MADE.limits
    assert found.origin == MADE.origin
    for name in ("error", "feature_mean", "feature_scale", "feature_precision"):
        assert torch.equal(getattr(found, name), getattr(MADE, name)), name
    weights = found.network.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in MADE.network.state_dict().items())
    assert not found.network.training


@pytest.mark.parametrize(
    "text",
    [
        {},
        {"limits": "[]", "origin": "{}"},
        {"limits": "{", "origin": "{}"},
        {"limits": '{"order": 1}', "origin": "{}"},
        {"limits": "{" + ", ".join(f'"{name}": Infinity' for name in LIMITS) + "}", "origin": "{}"},
    ],
)
def test_another_file_is_refused(tmp_path, text):
    path = tmp_path / f"m{SUFFIX}"
    write_calibration(path, MADE)
    tensors, _ = load_tensors(path)
    save_tensors(path, tensors, text)
    with pytest.raises(InputError, match="not a calibration"):
        read_calibration(path)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("feature_precision", torch.ones(2)),
        ("error", None),
        ("more", torch.ones(2)),
        (NETWORK + "stem.0.weight", None),
        (NETWORK + "stem.0.weight", torch.ones(24, 11, 3, 3, 3, 3)),
        (NETWORK + "mean", torch.ones(3)),
    ],
)
def test_tensors_of_other_names_or_shapes_are_refused(tmp_path, name, tensor):
    path = tmp_path / f"m{SUFFIX}"
    write_calibration(path, MADE)
    tensors, text = load_tensors(path)
    changed = {**tensors, name: tensor}
    save_tensors(path, {name: tensor for name, tensor in changed.items() if tensor is not None}, text)
    with pytest.raises(InputError, match="not a calibration"):
        read_calibration(path)


def test_errors_are_powers_of_what_foretells_them():
    """``2 * 9^0.5 * 16^0.25 = 12``."""
    assert foretold(MADE, torch.tensor([math.log(9.0)]), 16.0) == pytest.approx(12, rel=1e-5)


def test_what_foretells_does_not_depend_on_the_unit():
    numbers = dict.fromkeys((*FORETELLING, "working_spacing"), 0.6)
    lengths = {name: 10 * numbers[name] for name in (*LENGTHS, "working_spacing")}
    torch.testing.assert_close(logarithms(numbers | lengths), logarithms(numbers))


def test_distance_is_that_of_the_stranger_image():
    """Standardised: (0, 0) and (3, 4); ``sqrt(25 / 2)``."""
    features = torch.tensor([[1.0, 2.0], [2.5, 10.0]])
    assert unfamiliarity(MADE, features) == pytest.approx(math.sqrt(12.5), rel=1e-5)


def test_usual_images_are_at_a_distance_of_about_one():
    torch.manual_seed(0)
    features = torch.randn(400, 6) @ torch.randn(6, 6)
    mean, scale, precision = usual_features(features)
    made = MADE._replace(feature_mean=mean, feature_scale=scale, feature_precision=precision)
    distances = torch.tensor([unfamiliarity(made, features[[index]]) for index in range(400)])
    assert 0.6 < float(distances.median()) < 1.2
    assert unfamiliarity(made, features.mean(0, keepdim=True) + 10 * scale) > 3 * float(distances.median())


def test_a_calibration_of_other_weights_does_not_count(monkeypatch):
    model = load_model()
    right = MADE._replace(origin={"sha256": model.card.sha256})
    for found, expected in ((right, right), (MADE, None), (None, None)):
        monkeypatch.setattr("crossmorph.quality.error_model._shipped", lambda _, found=found: found)
        assert calibration_of(model) is expected


def test_shipped_weights_are_calibrated():
    for name in shipped_models():
        _shipped.cache_clear()
        assert calibration_of(load_model(name)) is not None, f"python benchmarks/calibration.py --model {name} --ship"

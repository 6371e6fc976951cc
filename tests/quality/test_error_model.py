"""Error model: the file holds what was written and belongs to one set of weights; its formulas by hand."""

import math
import shutil
from pathlib import Path

import pytest
import torch

from crossmorph.errors import InputError
from crossmorph.networks.checkpoint import load_model, load_tensors, save_tensors, shipped_models
from crossmorph.quality import measures
from crossmorph.quality.error_model import (
    LIMITS,
    NETWORK,
    PREDICTORS,
    SUFFIX,
    Calibration,
    calibration_of,
    calibration_path,
    feature_statistics,
    predicted_error,
    read_calibration,
    training_distance,
    write_calibration,
)
from crossmorph.quality.error_network import ErrorNetwork

MADE = Calibration(
    network=ErrorNetwork(2, PREDICTORS),
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
        {"limits": '{"swap_consistency": 1}', "origin": "{}"},
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


def test_the_file_has_a_network_for_as_many_predictors_as_there_are():
    assert len(measures.PREDICTORS) == PREDICTORS


def test_errors_are_powers_of_their_predictors():
    """``2 * 9^0.5 * 16^0.25 = 12``."""
    assert predicted_error(MADE, torch.tensor([math.log(9.0)]), 16.0) == pytest.approx(12, rel=1e-5)


def test_distance_is_that_of_the_image_further_away():
    """Standardised: (0, 0) and (3, 4); ``sqrt(25 / 2)``."""
    features = torch.tensor([[1.0, 2.0], [2.5, 10.0]])
    assert training_distance(MADE, features) == pytest.approx(math.sqrt(12.5), rel=1e-5)


def test_training_images_are_at_a_distance_of_about_one():
    torch.manual_seed(0)
    features = torch.randn(400, 6) @ torch.randn(6, 6)
    mean, scale, precision = feature_statistics(features)
    made = MADE._replace(feature_mean=mean, feature_scale=scale, feature_precision=precision)
    distances = torch.tensor([training_distance(made, features[[index]]) for index in range(400)])
    assert 0.6 < float(distances.median()) < 1.2
    assert training_distance(made, features.mean(0, keepdim=True) + 10 * scale) > 3 * float(distances.median())


def copied(folder: Path, sha256: str) -> str:
    """The shipped 2-D model as a user's own, under a name of its own, and a calibration of some weights beside it."""
    card = shipped_models()["any-2d"]
    text = card.read_text()
    folder.joinpath("own.json").write_text(text.replace('"name": "any-2d"', '"name": "own"'))
    shutil.copy(card.with_suffix(".safetensors"), folder / "own.safetensors")
    write_calibration(calibration_path(folder / "own.json"), MADE._replace(origin={"sha256": sha256}))
    return str(folder)


def test_the_calibration_beside_a_model_of_ones_own_is_found(tmp_path):
    model = load_model(copied(tmp_path, load_model().card.sha256))
    assert calibration_path(tmp_path / "own.json") == tmp_path / f"own{SUFFIX}"
    assert model.path == tmp_path / "own.json"
    assert calibration_of(model).limits == MADE.limits
    write_calibration(tmp_path / f"own{SUFFIX}", MADE._replace(origin={"sha256": model.card.sha256, "again": "yes"}))
    assert calibration_of(model).origin["again"] == "yes"
    (tmp_path / f"own{SUFFIX}").unlink()
    assert calibration_of(model) is None


def test_a_calibration_of_other_weights_does_not_count(tmp_path):
    assert calibration_of(load_model(copied(tmp_path, "ab"))) is None


def test_a_damaged_calibration_is_refused(tmp_path):
    model = load_model(copied(tmp_path, "ab"))
    (tmp_path / f"own{SUFFIX}").write_bytes(b"no")
    with pytest.raises(InputError, match="cannot read weights"):
        calibration_of(model)


def test_shipped_weights_are_calibrated_wherever_they_lie(tmp_path):
    for name, card in shipped_models().items():
        found = calibration_of(load_model(name))
        assert found is not None, f"crossmorph calibrate {name} --ship"
        for path in (card, card.with_suffix(".safetensors")):
            shutil.copy(path, tmp_path)
        assert calibration_of(load_model(str(tmp_path / card.name))) is found
        assert calibration_of(load_model(name)._replace(path=None)) is found

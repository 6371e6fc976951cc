"""What was measured of a model on simulated pairs whose truth is known: the file beside its weights, and what it says.

``NAME.quality.safetensors``, written by ``benchmarks/calibration.py``, belongs to one set of weights, whose SHA-256 it
holds. Lengths are in voxels of the working grid, so that it serves images without millimetres too.
"""

import json
import math
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from crossmorph.errors import InputError
from crossmorph.networks.checkpoint import Model, load_tensors, save_tensors
from crossmorph.quality.error_network import DoubtNetwork
from crossmorph.system.files import brief

SUFFIX = ".quality.safetensors"
SHAPES = {"error": 1, "feature_mean": 1, "feature_scale": 1, "feature_precision": 2}  # axes of the other tensors
LIMITS = ("order", "shift", "expected_error", "expected_error_failed", "unfamiliarity")
NETWORK = "network."  # begins the names of the network's tensors in the file
# What foretells the error of a pair: logarithms of these numbers.
LENGTHS = ("order_quartile", "order", "shift_quartile", "shift")
FORETELLING = (*LENGTHS, "correlation", "residual", "mi_final")
LEAST_NUMBER = 0.02  # so that the logarithm of a perfect number is finite
SHRINKAGE = 0.2  # of the correlations of features towards none: there are hardly more pairs than features


class Calibration(NamedTuple):
    """How numbers of a registration become an expected error and a distance, and what of them is too much.

    Attributes:
        network: what foretells the error of every voxel, see :mod:`crossmorph.quality.error_network`.
        error: weights of what foretells a pair's median error: the logarithms of ``FORETELLING``, that of the mean
            doubt, and a constant; the sum is the logarithm of the error, in voxels of the working grid.
        feature_mean: of :func:`crossmorph.quality.consistency.appearance` over training pairs.
        feature_scale: their standard deviations.
        feature_precision: the inverse of their correlations, shrunk.
        limits: the thresholds, by the names of ``LIMITS``; lengths in voxels.
        origin: how it came about: model, SHA-256 of its weights, seed, numbers of pairs, date.
    """

    network: DoubtNetwork
    error: Float[Tensor, " numbers"]
    feature_mean: Float[Tensor, " features"]
    feature_scale: Float[Tensor, " features"]
    feature_precision: Float[Tensor, "features features"]
    limits: dict[str, float]
    origin: dict[str, str]


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write the file, whole or not at all."""
    tensors = calibration._asdict()
    text = {name: json.dumps(tensors.pop(name)) for name in ("limits", "origin")}
    weights = tensors.pop("network").state_dict()
    save_tensors(path, tensors | {NETWORK + name: tensor for name, tensor in weights.items()}, text)


def read_calibration(path: Path) -> Calibration:
    """Read and check the file. Raises InputError where it is missing, damaged or another kind of file."""
    tensors, text = load_tensors(path)
    weights = {name.removeprefix(NETWORK): tensors.pop(name) for name in list(tensors) if name.startswith(NETWORK)}
    try:
        limits = {name: float(value) for name, value in json.loads(text["limits"]).items()}
        origin = {str(name): str(value) for name, value in json.loads(text["origin"]).items()}
        network = DoubtNetwork(weights["stem.0.weight"].ndim - 2, len(FORETELLING))
        network.load_state_dict(weights)
    except (KeyError, ValueError, AttributeError, TypeError, RuntimeError) as error:
        raise InputError(f"{path}: not a calibration ({type(error).__name__}: {brief(error)})") from error
    shapes = {name: tensor.ndim for name, tensor in tensors.items()}
    if set(limits) != set(LIMITS) or shapes != SHAPES or not all(map(math.isfinite, limits.values())):
        raise InputError(f"{path}: not a calibration; expected limits {', '.join(LIMITS)} and tensors {[*SHAPES]}")
    network.eval().requires_grad_(False)
    return Calibration(network=network, limits=limits, origin=origin, **tensors)


def calibration_of(model: Model) -> Calibration | None:
    """The calibration of these very weights, or None where there is none.

    Raises:
        InputError: the file is there, but damaged.
    """
    found = _shipped(model.card.name)
    return found if found and found.origin.get("sha256") == model.card.sha256 else None


def calibration_file(name: str) -> Path:
    """Where the calibration of a shipped model lies; other models have none there."""
    return Path(str(resources.files("crossmorph.networks") / "weights")) / f"{name}{SUFFIX}"


@lru_cache(maxsize=8)
def _shipped(name: str) -> Calibration | None:
    path = calibration_file(name)
    return read_calibration(path) if path.is_file() else None


def logarithms(numbers: dict[str, float]) -> Float[Tensor, " numbers"]:
    """Of the numbers that foretell the error, lengths in voxels of the working grid.

    Args:
        numbers: those of :func:`crossmorph.quality.measures.measure_plain`.
    """
    spacing = numbers["working_spacing"]
    values = [numbers[name] / (spacing if name in LENGTHS else 1) for name in FORETELLING]
    return torch.tensor([math.log(max(value, 0) + LEAST_NUMBER) for value in values])


def foretold(calibration: Calibration, numbers: Float[Tensor, " numbers"], doubt: float) -> float:
    """``exp(w . x + c)``: the median error of a pair in voxels, of :func:`logarithms` and the mean doubt (voxels)."""
    inputs = torch.cat([numbers, torch.tensor([math.log(doubt)])])
    return float((inputs @ calibration.error[:-1] + calibration.error[-1]).exp())


def unfamiliarity(calibration: Calibration, features: Float[Tensor, "images features"]) -> float:
    """Mahalanobis distance of the stranger of two images from those of training, a feature; 1 is usual.

    ``sqrt(z' C^-1 z / n)``, ``z`` the n standardised features and ``C`` their shrunk correlations over training pairs.
    """
    z = (features - calibration.feature_mean.to(features)) / calibration.feature_scale.to(features)
    square = torch.einsum("bi,ij,bj->b", z, calibration.feature_precision.to(features), z) / z.shape[1]
    return float(square.clamp_min(0).sqrt().max())


def usual_features(features: Float[Tensor, "images features"]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, standard deviation and inverse shrunk correlation of the features of many images."""
    mean, scale = features.mean(0), features.std(0).clamp_min(1e-6)
    z = (features - mean) / scale
    correlation = z.T @ z / len(z)
    shrunk = (1 - SHRINKAGE) * correlation + SHRINKAGE * torch.eye(len(correlation)).to(z)
    return mean, scale, torch.linalg.inv(shrunk)

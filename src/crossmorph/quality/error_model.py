"""The error model: the expected error of a pair from its measures, and the limits of the checks.

``NAME.quality.safetensors``, written by ``crossmorph calibrate`` from simulated pairs whose true error is known, lies
beside the weights whose SHA-256 it holds and is used for no others. Lengths are in voxels of the working grid, so that
it serves images without millimetres too.
"""

import json
import math
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from crossmorph.errors import InputError
from crossmorph.networks.checkpoint import Model, load_tensors, save_tensors, shipped_models
from crossmorph.quality.error_network import ErrorNetwork
from crossmorph.system.files import brief

SUFFIX = ".quality.safetensors"
SHAPES = {"error": 1, "feature_mean": 1, "feature_scale": 1, "feature_precision": 2}  # axes of the other tensors
LIMITS = ("swap_consistency", "shift_consistency", "expected_error", "expected_error_failed", "training_distance")
NETWORK = "network."  # begins the names of the network's tensors in the file
PREDICTORS = 7  # measures of a pair that the expected error is predicted from, see crossmorph.quality.measures
SHRINKAGE = 0.2  # of the correlations of features towards none: there are hardly more pairs than features


class Calibration(NamedTuple):
    """What predicts the error of a registration, and the limits of its checks.

    Attributes:
        network: predicts the error of every voxel, see :mod:`crossmorph.quality.error_network`.
        error: weights of the linear model of the logarithm of a pair's median error, in voxels of the working grid:
            of the measures' logarithms, of the logarithm of the network's mean, and a constant.
        feature_mean: of :func:`crossmorph.quality.consistency.encoder_features` over training pairs.
        feature_scale: their standard deviations.
        feature_precision: the inverse of their correlations, shrunk.
        limits: of the measures, by the names of ``LIMITS``; lengths in voxels.
        origin: model, SHA-256 of its weights, seed, numbers of pairs, date.
    """

    network: ErrorNetwork
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
        network = ErrorNetwork(weights["stem.0.weight"].ndim - 2, PREDICTORS)
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

    It lies beside the model's card; that of shipped weights also counts for a copy of them.

    Raises:
        InputError: the file is there, but damaged.
    """
    for card in (model.path, shipped_models().get(model.card.name)):
        found = card and _calibration_beside(card)
        if found and found.origin.get("sha256") == model.card.sha256:
            return found
    return None


def calibration_path(card: Path) -> Path:
    """Where the calibration of a model lies, given the path of its card, whether there is one or not."""
    return card.with_name(f"{card.stem}{SUFFIX}")


def _calibration_beside(card: Path) -> Calibration | None:
    path = calibration_path(card)
    return _read(path, path.stat().st_mtime_ns) if path.is_file() else None


@lru_cache(maxsize=8)
def _read(path: Path, stamp: int) -> Calibration:  # noqa: ARG001
    """The calibration of a file; the time stamp tells a changed file from one that was read."""
    return read_calibration(path)


def predicted_error(calibration: Calibration, predictors: Float[Tensor, " numbers"], mean_error: float) -> float:
    """``exp(w . x + c)``: the median error of a pair, voxels of the working grid.

    Args:
        calibration: of the model.
        predictors: :func:`crossmorph.quality.measures.error_predictors`.
        mean_error: geometric mean of the network's map over the foreground, voxels.
    """
    inputs = torch.cat([predictors, torch.tensor([math.log(mean_error)])])
    return float((inputs @ calibration.error[:-1] + calibration.error[-1]).exp())


def training_distance(calibration: Calibration, features: Float[Tensor, "images features"]) -> float:
    """Mahalanobis distance from the training images, of the one of two images that is further away, per feature.

    ``sqrt(z' C^-1 z / n)``, ``z`` the n standardised features and ``C`` their shrunk correlations over training pairs.
    """
    z = (features - calibration.feature_mean.to(features)) / calibration.feature_scale.to(features)
    square = torch.einsum("bi,ij,bj->b", z, calibration.feature_precision.to(features), z) / z.shape[1]
    return float(square.clamp_min(0).sqrt().max())


def feature_statistics(features: Float[Tensor, "images features"]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, standard deviation and inverse shrunk correlation of the features of many images."""
    mean, scale = features.mean(0), features.std(0).clamp_min(1e-6)
    z = (features - mean) / scale
    correlation = z.T @ z / len(z)
    shrunk = (1 - SHRINKAGE) * correlation + SHRINKAGE * torch.eye(len(correlation)).to(z)
    return mean, scale, torch.linalg.inv(shrunk)

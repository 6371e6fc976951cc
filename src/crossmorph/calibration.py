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

from crossmorph.checkpoint import Model, load_tensors, save_tensors
from crossmorph.errors import InputError

SUFFIX = ".quality.safetensors"
LIMITS = ("order", "shift", "expected_error", "expected_error_failed", "unfamiliarity")
SHRINKAGE = 0.2  # of the correlations of features towards none: there are hardly more pairs than features


class Calibration(NamedTuple):
    """How numbers of a registration become an expected error and a distance, and what of them is too much.

    Attributes:
        error: weights of the logarithms of the numbers that foretell a pair's median error, a constant last; the sum
            is the logarithm of the error, in voxels of the working grid.
        doubt: the same for the error of a voxel, see :mod:`crossmorph.doubt`.
        feature_mean: of :func:`crossmorph.evidence.appearance` over training pairs.
        feature_scale: their standard deviations.
        feature_precision: the inverse of their correlations, shrunk.
        limits: the thresholds, by the names of ``LIMITS``; lengths in voxels.
        origin: how it came about: model, SHA-256 of its weights, seed, numbers of pairs, date.
    """

    error: Float[Tensor, " numbers"]
    doubt: Float[Tensor, " maps"]
    feature_mean: Float[Tensor, " features"]
    feature_scale: Float[Tensor, " features"]
    feature_precision: Float[Tensor, "features features"]
    limits: dict[str, float]
    origin: dict[str, str]


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write the file, whole or not at all."""
    tensors = calibration._asdict()
    text = {name: json.dumps(tensors.pop(name)) for name in ("limits", "origin")}
    save_tensors(path, tensors, text)


def read_calibration(path: Path) -> Calibration:
    """Read and check the file. Raises InputError where it is missing, damaged or another kind of file."""
    tensors, text = load_tensors(path)
    names = [name for name in Calibration._fields if name not in ("limits", "origin")]
    try:
        limits = {name: float(value) for name, value in json.loads(text["limits"]).items()}
        origin = {str(name): str(value) for name, value in json.loads(text["origin"]).items()}
        shapes = [tensors[name].ndim for name in names]
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: not a calibration ({type(error).__name__}: {error})") from error
    if set(limits) != set(LIMITS) or shapes != [1, 1, 1, 1, 2] or not all(map(math.isfinite, limits.values())):
        raise InputError(f"{path}: not a calibration; expected limits {', '.join(LIMITS)} and tensors {names}")
    return Calibration(limits=limits, origin=origin, **{name: tensors[name] for name in names})


def calibration_of(model: Model) -> Calibration | None:
    """The calibration of these very weights, or None where there is none.

    Raises:
        InputError: the file is there, but damaged.
    """
    found = _shipped(model.card.name)
    return found if found and found.origin.get("sha256") == model.card.sha256 else None


@lru_cache(maxsize=8)
def _shipped(name: str) -> Calibration | None:
    path = Path(str(resources.files("crossmorph") / "weights")) / f"{name}{SUFFIX}"
    return read_calibration(path) if path.is_file() else None


def foretold(weights: Float[Tensor, " numbers"], logarithms: Float[Tensor, "... inputs"]) -> Float[Tensor, "..."]:
    """``exp(w . x + c)``: an error in voxels of the working grid, from the logarithms of what foretells it."""
    return (logarithms @ weights[:-1] + weights[-1]).exp()


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

"""The error model and the limits of the checks, from registered pairs that the error network was not trained on."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crossmorph.errors import InputError
from crossmorph.quality.calibration.network_training import pair_error
from crossmorph.quality.calibration.predictions import Prediction, pair_expected_error
from crossmorph.quality.calibration.simulated_pair import CANNOT_BE_REGISTERED
from crossmorph.quality.calibration.trials import MAX_ERROR
from crossmorph.quality.error_model import LIMITS, Calibration, feature_statistics, training_distance
from crossmorph.quality.error_network import ErrorNetwork
from crossmorph.quality.measures import error_predictors

ALARMS = 0.045  # of the good pairs may raise the check of the expected error
RARE = 0.998  # the limit of a single measure, as a quantile of the good pairs
CERTAIN = 0.998  # the same for the failure limit of the expected error
FAILED = 1.5  # times the limit of the expected error, at least, is its failure limit
RIDGE = 1e-3
FOLDS = 5  # of the pairs, for the limits
# Kinds of pairs unlike the training images.
UNUSUAL = (*CANNOT_BE_REGISTERED, "upside down", "noisy", "person upside down", "noisy person")


def fit(predictions: Sequence[Prediction], network: ErrorNetwork, origin: dict[str, str]) -> Calibration:
    """A calibration: the error model from all pairs, the limits by cross-validation.

    Args:
        predictions: of the network, for pairs that it was not trained on.
        network: the error network.
        origin: see :class:`crossmorph.quality.error_model.Calibration`.

    Raises:
        InputError: no pair is good.
    """
    limits = _limits(predictions, network, origin)
    if not all(map(math.isfinite, limits.values())):
        raise InputError(
            f"0 of {len(predictions)} pairs were registered within {MAX_ERROR:g} mm, so that limits cannot be set; "
            "expected more pairs (--validation) or a better model"
        )
    return _without_limits(predictions, network, origin)._replace(limits=limits)


def _without_limits(predictions: Sequence[Prediction], network: ErrorNetwork, origin: dict[str, str]) -> Calibration:
    inputs = [
        torch.cat([error_predictors(each.trial.measures), torch.tensor([math.log(each.mean_error)])])
        for each in predictions
    ]
    targets = torch.tensor([pair_error(each.trial) for each in predictions]).log()
    usual = [each.trial.features for each in predictions if each.trial.kind not in UNUSUAL]
    if not usual:
        raise InputError(f"{len(predictions)} pairs are too few to set limits; expected more (--validation)")
    error = _least_squares(torch.stack(inputs), targets)
    return Calibration(network, error, *feature_statistics(torch.cat(usual)), dict.fromkeys(LIMITS, math.inf), origin)


def _limits(predictions: Sequence[Prediction], network: ErrorNetwork, origin: dict[str, str]) -> dict[str, float]:
    """Of single measures by what is rare among good pairs, of the expected error by how many may exceed it.

    Pairs that the error model was fitted to look nearer and better predicted than others do, so each is measured by the
    model of the other folds. Infinite where there are too few good pairs.
    """
    spacing = predictions[0].trial.measures.working_spacing
    seen = []
    for fold in range(FOLDS):
        rest = [each for number, each in enumerate(predictions) if number % FOLDS != fold]
        others = _without_limits(rest, network, origin)
        seen += [(each, others) for each in predictions[fold::FOLDS] if not each.trial.bad]
    if not seen:
        return dict.fromkeys(LIMITS, math.inf)
    swap, shift, distance = (
        float(np.quantile(values, RARE))
        for values in (
            [each.trial.measures.swap_consistency for each, _ in seen],
            [each.trial.measures.shift_consistency for each, _ in seen],
            [training_distance(others, each.trial.features) for each, others in seen],
        )
    )
    limits = {"swap_consistency": swap / spacing, "shift_consistency": shift / spacing, "training_distance": distance}
    expected = np.array([pair_expected_error(each, others) for each, others in seen])
    limits["expected_error"] = float(np.quantile(expected, 1 - ALARMS))
    certain = float(np.quantile(expected, CERTAIN))
    return {**limits, "expected_error_failed": max(certain, FAILED * limits["expected_error"])}


def _least_squares(inputs: Float[Tensor, "pairs inputs"], targets: Float[Tensor, " pairs"]) -> Tensor:
    """Ridge regression with a constant that is not shrunk."""
    x, y = inputs.double(), targets.double()
    centred = x - x.mean(0)
    normal = centred.T @ centred / len(x) + RIDGE * torch.eye(x.shape[1])
    weights = torch.linalg.solve(normal, centred.T @ (y - y.mean()) / len(x))
    return torch.cat([weights, (y.mean() - x.mean(0) @ weights)[None]]).float()

"""What error network and calibration say of registered pairs whose true error is known."""

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crossmorph.quality.assessment import Level, Measures
from crossmorph.quality.calibration.trials import Trial
from crossmorph.quality.checks import calibrated_limits, check
from crossmorph.quality.error_model import Calibration, predicted_error
from crossmorph.quality.error_network import MOST, ErrorNetwork, expected_error
from crossmorph.quality.measures import error_predictors, mean_error, with_expected_error

SAMPLED = 60  # voxels of each pair for the tables of the error map, and as many of its lesion
ROUNDS = 4  # of balancing: the largest expected error makes the mean depend on the constant not quite linearly


class Prediction(NamedTuple):
    """A trial, and what the error network says of it.

    Attributes:
        trial: the trial.
        mean_error: of the network's map over the foreground, voxels of the working grid.
        voxels: of some voxels in tissue the true and the expected error (voxels of the working grid), and 1 if they lie
            in a lesion, else 0; none where there is no true field.
        seconds: CPU time of the registration, and of all that the checks need.
    """

    trial: Trial
    mean_error: float
    voxels: Float[Tensor, "sampled 3"]
    seconds: tuple[float, float]


def predict(trial: Trial, network: ErrorNetwork, rng: np.random.Generator) -> Prediction:
    """Apply the error network to a trial.

    Args:
        trial: the trial.
        network: the error network.
        rng: chooses the voxels.
    """
    maps, began = trial.maps[None].float(), time.process_time()
    expected = expected_error(network, maps, error_predictors(trial.measures))
    seconds = trial.seconds[0], trial.seconds[1] + time.process_time() - began
    known = trial.tissue if math.isfinite(trial.error) else torch.zeros_like(trial.tissue)
    sampled = []
    for in_lesion, where in enumerate((known & ~trial.lesion, known & trial.lesion)):
        places = torch.argwhere(where)
        chosen = places[torch.from_numpy(rng.permutation(len(places))[:SAMPLED])].unbind(1)
        values = torch.stack([trial.errors[chosen].float(), expected[chosen]], 1)
        sampled.append(torch.cat([values, torch.full((len(values), 1), float(in_lesion))], 1))
    return Prediction(trial, mean_error(expected, trial.foreground), torch.cat(sampled), seconds)


def balance(network: ErrorNetwork, trials: Sequence[Trial], seed: int) -> None:
    """Set the network's constant such that its mean over voxels is that of the errors, both ``MOST`` at most."""
    for _ in range(ROUNDS):
        rng = np.random.default_rng(seed)
        voxels = torch.cat([predict(trial, network, rng).voxels for trial in trials])
        true, expected, _ = voxels.clamp_max(MOST).mean(0)
        network.unet.output.bias += (true / expected).log()


def pair_expected_error(prediction: Prediction, calibration: Calibration) -> float:
    """The expected error of a pair, voxels of the working grid."""
    return predicted_error(calibration, error_predictors(prediction.trial.measures), prediction.mean_error)


def measures_of(prediction: Prediction, calibration: Calibration) -> Measures:
    """All measures of a pair."""
    trial = prediction.trial
    return with_expected_error(trial.measures, trial.features, prediction.mean_error, calibration)


def raised(prediction: Prediction, calibration: Calibration) -> dict[str, Level]:
    """The checks that a pair does not pass, with their levels."""
    measures = measures_of(prediction, calibration)
    checks = check(measures, calibrated_limits(calibration, measures.working_spacing))
    return {each.name: each.level for each in checks if each.level != "passed"}

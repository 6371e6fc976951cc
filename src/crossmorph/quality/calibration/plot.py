"""The plot of a calibration: expected against true errors, of pairs and of voxels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from crossmorph.quality.calibration.predictions import Prediction, pair_expected_error
from crossmorph.quality.calibration.trials import MAX_ERROR
from crossmorph.quality.error_model import Calibration
from crossmorph.quality.error_network import MOST
from crossmorph.system.files import atomic_output

SHARES = np.linspace(0, 1, 13)  # of the voxels, sorted by expected error: as many between each two
RIGHT, WRONG, GREY = "#0072B2", "#D55E00", "#999999"  # Okabe and Ito, for every eye


def draw_plot(path: Path, predictions: Sequence[Prediction], calibration: Calibration) -> None:
    """Write the plot of the pairs whose true field is known, errors in millimetres."""
    spacing = predictions[0].trial.measures.working_spacing
    known = [each for each in predictions if np.isfinite(each.trial.error)]
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    if known:
        expected = np.array([spacing * pair_expected_error(each, calibration) for each in known])
        true = np.array([each.trial.error for each in known])
        _pairs(left, expected, true, spacing * calibration.limits["expected_error"])
        voxels = torch.cat([each.voxels for each in known]).clamp_max(MOST).numpy() * spacing
        _voxels(right, voxels[:, 1], voxels[:, 0])
    with atomic_output(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _pairs(axes: Axes, expected: np.ndarray, true: np.ndarray, limit: float) -> None:
    right = (expected > limit) == (true > MAX_ERROR)
    axes.loglog(true[right], expected[right], ".", color=RIGHT, markersize=4, label="on the right side")
    axes.loglog(true[~right], expected[~right], "x", color=WRONG, markersize=5, label="on the wrong side")
    axes.axvline(MAX_ERROR, color=GREY, linewidth=1)
    axes.axhline(limit, color=GREY, linewidth=1, linestyle="--", label="limit of the check")
    axes.set(xlabel="true median error of the pair (mm)", ylabel="expected error (mm)", title="Pairs")
    for axis, places in ((axes.xaxis, (0.3, 1, 2, 5, 10, 30, 100)), (axes.yaxis, (0.5, 1, 2, 4, 8))):
        axis.set_major_locator(FixedLocator(places))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    axes.legend(loc="lower right", frameon=False)


def _voxels(axes: Axes, expected: np.ndarray, true: np.ndarray) -> None:
    place = np.searchsorted(np.quantile(expected, SHARES[1:-1]), expected)
    groups = [(expected[place == k], true[place == k]) for k in np.unique(place)]
    x = [group.mean() for group, _ in groups]
    low, middle, high = np.array([np.quantile(errors, (0.25, 0.5, 0.75)) for _, errors in groups]).T
    axes.fill_between(x, low, high, color=RIGHT, alpha=0.2, linewidth=0, label="half of the voxels")
    axes.plot(x, middle, color=RIGHT, linewidth=1, label="median")
    axes.plot(x, [errors.mean() for _, errors in groups], "o-", color=RIGHT, markersize=4, label="mean")
    axes.plot([0, max(x)], [0, max(x)], color=GREY, linewidth=1, linestyle="--")
    axes.set(xlabel="expected error (mm)", ylabel="true error (mm)", title="Voxels, as many in each group")
    axes.legend(loc="upper left", frameon=False)

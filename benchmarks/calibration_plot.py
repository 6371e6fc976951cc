"""The picture of `calibration`: each pair's expected error against its true one, and the same voxel by voxel."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from calibration_trials import TOO_FAR
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from crossmorph.quality.error_model import Calibration, foretold, logarithms
from crossmorph.quality.error_network import MOST

SHARES = np.linspace(0, 1, 13)  # of the voxels, sorted by doubt: as many between each two
FOUND, MISSED, GREY = "#0072B2", "#D55E00", "#999999"  # Okabe and Ito, for every eye


def draw(path: Path, rows: list[Any], calibration: Calibration) -> None:
    """Write the picture of the pairs whose truth is known, errors in millimetres."""
    spacing = rows[0].trial.numbers["working_spacing"]
    known = [row for row in rows if np.isfinite(row.trial.error)]
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    told = np.array([spacing * foretold(calibration, logarithms(row.trial.numbers), row.doubt) for row in known])
    true = np.array([row.trial.error for row in known])
    _pairs(left, told, true, spacing * calibration.limits["expected_error"])
    wrong, doubt, _ = torch.cat([row.voxels for row in known]).clamp_max(MOST).numpy().T * spacing
    _voxels(right, doubt, wrong)
    figure.savefig(path, dpi=120)


def _pairs(axes: Axes, told: np.ndarray, true: np.ndarray, limit: float) -> None:
    right = (told > limit) == (true > TOO_FAR)
    axes.loglog(true[right], told[right], ".", color=FOUND, markersize=4, label="on the right side")
    axes.loglog(true[~right], told[~right], "x", color=MISSED, markersize=5, label="on the wrong side")
    axes.axvline(TOO_FAR, color=GREY, linewidth=1)
    axes.axhline(limit, color=GREY, linewidth=1, linestyle="--", label="limit of the flag")
    axes.set(xlabel="true median error of the pair (mm)", ylabel="expected error (mm)", title="Pairs")
    for axis, places in ((axes.xaxis, (0.3, 1, 2, 5, 10, 30, 100)), (axes.yaxis, (0.5, 1, 2, 4, 8))):
        axis.set_major_locator(FixedLocator(places))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    axes.legend(loc="lower right", frameon=False)


def _voxels(axes: Axes, doubt: np.ndarray, wrong: np.ndarray) -> None:
    place = np.searchsorted(np.quantile(doubt, SHARES[1:-1]), doubt)
    groups = [(doubt[place == k], wrong[place == k]) for k in np.unique(place)]
    x = [group.mean() for group, _ in groups]
    low, middle, high = np.array([np.quantile(errors, (0.25, 0.5, 0.75)) for _, errors in groups]).T
    axes.fill_between(x, low, high, color=FOUND, alpha=0.2, linewidth=0, label="half of the voxels")
    axes.plot(x, middle, color=FOUND, linewidth=1, label="median")
    axes.plot(x, [errors.mean() for _, errors in groups], "o-", color=FOUND, markersize=4, label="mean")
    axes.plot([0, max(x)], [0, max(x)], color=GREY, linewidth=1, linestyle="--")
    axes.set(xlabel="doubt (mm)", ylabel="true error (mm)", title="Voxels, as many in each group")
    axes.legend(loc="upper left", frameon=False)

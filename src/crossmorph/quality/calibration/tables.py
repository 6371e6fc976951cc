"""Tables of a calibration: how many bad pairs the checks detect, by kind and by measure, and how right the error is."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch

from crossmorph.quality.calibration.predictions import Prediction, pair_expected_error, raised
from crossmorph.quality.error_model import Calibration
from crossmorph.quality.error_network import MOST

FALSE_ALARMS = (0.01, 0.02, 0.05, 0.1, 0.2)
BINS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, math.inf)  # mm


def tables(splits: Mapping[str, tuple[Sequence[Prediction], int]], calibration: Calibration) -> str:
    """Markdown of everything measured.

    Args:
        splits: the predictions of each split, and how many of its pairs were refused.
        calibration: of the model.
    """
    limits = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in calibration.limits.items())
    text = [f"Limits, in voxels of the working grid: {limits}"]
    for split, (predictions, refused) in splits.items():
        checks = [raised(each, calibration) for each in predictions]
        text += [
            f"## {split}, {len(predictions)} pairs, {refused} refused",
            detected(predictions, checks),
            by_kind(predictions, checks),
            by_check(predictions, checks),
            roc(predictions, calibration),
            error_map(predictions),
            time_spent(predictions),
        ]
    return "\n\n".join(text) + "\n"


def detected(predictions: Sequence[Prediction], checks: Sequence[Mapping[str, str]]) -> str:
    """How many bad and how many good pairs raise a check, with 95% intervals (Wilson).

    Args:
        predictions: of a split.
        checks: names and levels of the checks that each of them raises.
    """
    alarm = np.array([bool(each) for each in checks])
    failed = np.array(["failed" in each.values() for each in checks])
    error = np.array([each.trial.error for each in predictions])
    groups = {
        "true median error above 2 mm": np.isfinite(error) & (error > 2),
        "above 3 mm": np.isfinite(error) & (error > 3),
        "cannot be registered": ~np.isfinite(error),
        "good (2 mm at most)": error <= 2,
    }
    lines = ["| pairs | number | a check raised | 95% interval | of these failed |", "|---|---|---|---|---|"]
    for name, group in groups.items():
        hits, count = int(alarm[group].sum()), int(group.sum())
        low, high = wilson(hits, count)
        share = f"{hits / count:.1%} | {low:.1%} to {high:.1%}" if count else "- | -"
        lines.append(f"| {name} | {count} | {share} | {int(failed[group].sum())} |")
    return "\n".join(lines)


def by_kind(predictions: Sequence[Prediction], checks: Sequence[Mapping[str, str]]) -> str:
    """The same by kind of pair; arguments as of :func:`detected`."""
    lines = ["| kind | pairs | median error mm | bad | bad detected | good with a check raised |"]
    lines.append("|---" * 6 + "|")
    for kind in sorted({each.trial.kind for each in predictions}):
        of = [
            (each.trial, bool(alarm))
            for each, alarm in zip(predictions, checks, strict=True)
            if each.trial.kind == kind
        ]
        known = [trial.error for trial, _ in of if math.isfinite(trial.error)]
        bad = sum(trial.bad for trial, _ in of)
        hits = sum(trial.bad and alarm for trial, alarm in of)
        alarms = sum(alarm and not trial.bad for trial, alarm in of)
        middle = f"{np.median(known):.2f}" if known else "-"
        lines.append(f"| {kind} | {len(of)} | {middle} | {bad} | {hits} | {alarms} of {len(of) - bad} |")
    return "\n".join(lines)


def by_check(predictions: Sequence[Prediction], checks: Sequence[Mapping[str, str]]) -> str:
    """How often each check is raised; arguments as of :func:`detected`."""
    lines = ["| check | of bad pairs | of good pairs |", "|---|---|---|"]
    bad = [each.trial.bad for each in predictions]
    for name in sorted({name for each in checks for name in each}):
        alarms = [name in each for each in checks]
        shares = []
        for wanted in (True, False):
            of = [alarm for alarm, is_bad in zip(alarms, bad, strict=True) if is_bad == wanted]
            shares.append(f"{sum(of) / len(of):.1%}" if of else "-")
        lines.append(f"| {name} | {shares[0]} | {shares[1]} |")
    return "\n".join(lines)


def roc(predictions: Sequence[Prediction], calibration: Calibration) -> str:
    """Bad pairs detected at shares of false alarms, by one measure alone; and the area under the ROC curve."""
    bad = np.array([each.trial.bad for each in predictions])
    measures = [each.trial.measures for each in predictions]
    scores = {
        "expected error": [pair_expected_error(each, calibration) for each in predictions],
        "mean of the error network": [each.mean_error for each in predictions],
        "swap consistency": [each.swap_consistency for each in measures],
        "shift consistency": [each.shift_consistency for each in measures],
        "residual": [each.residual for each in measures],
        "- local correlation": [-each.local_correlation for each in measures],
        "- mutual information": [-each.mutual_information_final for each in measures],
        "log Jacobian": [each.log_jacobian for each in measures],
        "inverse consistency": [each.inverse_consistency for each in measures],
    }
    header = " | ".join(f"{share:.0%}" for share in FALSE_ALARMS)
    lines = [f"| detected at false alarms of | area under the ROC curve | {header} |"]
    lines.append("|---" * (2 + len(FALSE_ALARMS)) + "|")
    if bad.all() or not bad.any():
        return "\n".join(lines)
    for name, values in scores.items():
        score = np.array(values)
        limits = np.quantile(score[~bad], 1 - np.array(FALSE_ALARMS))
        area = np.mean(score[bad][:, None] > score[~bad]) + np.mean(score[bad][:, None] == score[~bad]) / 2
        lines.append(f"| {name} | {area:.3f} | " + " | ".join(f"{np.mean(score[bad] > t):.1%}" for t in limits) + " |")
    return "\n".join(lines)


def error_map(predictions: Sequence[Prediction]) -> str:
    """Expected against true errors, voxel by voxel, in lesions apart."""
    spacing = predictions[0].trial.measures.working_spacing
    true, expected, lesion = torch.cat([each.voxels for each in predictions]).clamp_max(MOST).numpy().T
    true, expected, lesion = spacing * true, spacing * expected, lesion > 0
    lines = [f"| expected error mm | voxels | mean expected error | mean error (at most {spacing * MOST:g} mm) "]
    lines[0] += "| median | in lesions |"
    lines.append("|---" * 6 + "|")
    for low, high in pairwise(BINS):
        inside = (expected >= low) & (expected < high)
        if not (inside & ~lesion).any():
            continue
        here, in_lesion = inside & ~lesion, inside & lesion
        of_lesion = f"{true[in_lesion].mean():.2f} ({in_lesion.sum()})" if in_lesion.any() else "-"
        values = f"{expected[here].mean():.2f} | {true[here].mean():.2f} | {np.median(true[here]):.2f}"
        lines.append(f"| {low:g} to {high:g} | {here.sum()} | {values} | {of_lesion} |")
    return "\n".join(lines)


def time_spent(predictions: Sequence[Prediction]) -> str:
    """A sentence."""
    registration, measures = np.median([each.seconds for each in predictions], axis=0)
    return (
        f"CPU time, median: {1000 * registration:.0f} ms to register, {1000 * measures:.0f} ms for the measures "
        f"({measures / registration:.2f} times as much)."
    )


def wilson(hits: int, count: int) -> tuple[float, float]:
    """95% interval of a share (Wilson, JASA 1927)."""
    if not count:
        return math.nan, math.nan
    z, share = 1.96, hits / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return middle - half, middle + half

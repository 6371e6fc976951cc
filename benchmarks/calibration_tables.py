"""The tables of `calibration`: how many bad pairs the flags find, by kind and by limit, and whether doubt is right."""

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from calibration_pairs import KINDS

from crossmorph.quality.error_model import Calibration, foretold, logarithms
from crossmorph.quality.error_network import MOST

Flags = Callable[[Any, Calibration], Mapping[str, str]]
FALSE_ALARMS = (0.01, 0.02, 0.05, 0.1, 0.2)
BINS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, math.inf)  # mm


def tables(trials: Mapping[Any, list[Any]], calibration: Calibration, flags: Flags) -> str:
    """Markdown of everything measured."""
    text = [
        "Limits, in voxels of the working grid: " + ", ".join(f"{k} {v:.3g}" for k, v in calibration.limits.items())
    ]
    for split, rows in trials.items():
        done = [row for row in rows if row is not None]
        text += [f"## {split}, {len(done)} pairs, {len(rows) - len(done)} refused", found(done, calibration, flags)]
        text += [by_kind(done, calibration, flags), single_flags(done, calibration, flags), roc(done, calibration)]
        text += [reliability(done), spent(done)]
    return "\n\n".join(text) + "\n"


def found(rows: list[Any], calibration: Calibration, flags: Flags) -> str:
    """The three figures that count, each with its 95% interval (Wilson)."""
    raised = np.array([bool(flags(row, calibration)) for row in rows])
    failed = np.array(["failed" in flags(row, calibration).values() for row in rows])
    error = np.array([row.trial.error for row in rows])
    groups = {
        "true median error above 2 mm": np.isfinite(error) & (error > 2),
        "above 3 mm": np.isfinite(error) & (error > 3),
        "cannot be registered": ~np.isfinite(error),
        "good (2 mm at most)": error <= 2,
    }
    lines = ["| pairs | number | flagged | 95% interval | of these failed |", "|---|---|---|---|---|"]
    for name, group in groups.items():
        hits, count = int(raised[group].sum()), int(group.sum())
        low, high = wilson(hits, count)
        share = f"{hits / count:.1%} | {low:.1%} to {high:.1%}" if count else "- | -"
        lines.append(f"| {name} | {count} | {share} | {int(failed[group].sum())} |")
    return "\n".join(lines)


def by_kind(rows: list[Any], calibration: Calibration, flags: Flags) -> str:
    lines = ["| kind | pairs | median error mm | bad | bad found | good flagged |", "|---|---|---|---|---|---|"]
    for kind in KINDS:
        of = [row for row in rows if row.trial.kind == kind]
        if not of:
            continue
        known = [row.trial.error for row in of if math.isfinite(row.trial.error)]
        raised = [bool(flags(row, calibration)) for row in of]
        bad = [row.trial.bad for row in of]
        hits = sum(a and b for a, b in zip(bad, raised, strict=True))
        alarms = sum(b and not a for a, b in zip(bad, raised, strict=True))
        middle = f"{np.median(known):.2f}" if known else "-"
        lines.append(f"| {kind} | {len(of)} | {middle} | {sum(bad)} | {hits} | {alarms} of {len(of) - sum(bad)} |")
    return "\n".join(lines)


def single_flags(rows: list[Any], calibration: Calibration, flags: Flags) -> str:
    """How often each flag is raised."""
    lines = ["| flag | of bad pairs | of good pairs |", "|---|---|---|"]
    raised = [flags(row, calibration) for row in rows]
    for name in sorted({name for names in raised for name in names}):
        shares = [
            np.mean(
                [float(name in names) for row, names in zip(rows, raised, strict=True) if row.trial.bad == bad]
                or [math.nan]
            )
            for bad in (True, False)
        ]
        lines.append(f"| {name} | {shares[0]:.1%} | {shares[1]:.1%} |")
    return "\n".join(lines)


def roc(rows: list[Any], calibration: Calibration) -> str:
    """Bad pairs found at shares of false alarms, by one number alone; and the area under the curve."""
    scores = {
        "expected error": [foretold(calibration, logarithms(row.trial.numbers), row.doubt) for row in rows],
        "mean doubt": [row.doubt for row in rows],
        **{name: [row.trial.numbers[name] for row in rows] for name in ("order", "shift", "residual")},
        **{f"- {name}": [-row.trial.numbers[name] for row in rows] for name in ("correlation", "mi_final")},
        "log Jacobian": [row.trial.numbers["log_jacobian"] for row in rows],
        "inverse": [row.trial.numbers["inverse_consistency"] for row in rows],
    }
    bad = np.array([row.trial.bad for row in rows])
    header = " | ".join(f"{share:.0%}" for share in FALSE_ALARMS)
    lines = [f"| found at false alarms of | area | {header} |", "|---" * (2 + len(FALSE_ALARMS)) + "|"]
    for name, values in scores.items():
        score = np.array(values)
        limits = np.quantile(score[~bad], 1 - np.array(FALSE_ALARMS))
        area = np.mean(score[bad][:, None] > score[~bad]) + np.mean(score[bad][:, None] == score[~bad]) / 2
        lines.append(f"| {name} | {area:.3f} | " + " | ".join(f"{np.mean(score[bad] > t):.1%}" for t in limits) + " |")
    return "\n".join(lines)


def reliability(rows: list[Any]) -> str:
    """Doubt foretold against errors measured, voxel by voxel, in lesions apart."""
    spacing = rows[0].trial.numbers["working_spacing"]
    true, told, lesion = torch.cat([row.voxels for row in rows]).clamp_max(MOST).numpy().T
    true, told, lesion = spacing * true, spacing * told, lesion > 0
    lines = [f"| doubt mm | voxels | mean doubt | mean error (at most {spacing * MOST:g} mm) | median | in lesions |"]
    lines.append("|---" * 6 + "|")
    for low, high in pairwise(BINS):
        inside = (told >= low) & (told < high)
        if not (inside & ~lesion).any():
            continue
        here, sick = inside & ~lesion, inside & lesion
        of_lesion = f"{true[sick].mean():.2f} ({sick.sum()})" if sick.any() else "-"
        values = f"{told[here].mean():.2f} | {true[here].mean():.2f} | {np.median(true[here]):.2f}"
        lines.append(f"| {low:g} to {high:g} | {here.sum()} | {values} | {of_lesion} |")
    return "\n".join(lines)


def spent(rows: list[Any]) -> str:
    seconds = np.median([row.seconds for row in rows], axis=0)
    return (
        f"CPU time, median: {1000 * seconds[0]:.0f} ms to register, {1000 * seconds[1]:.0f} ms for the numbers "
        f"({seconds[1] / seconds[0]:.2f} as much)."
    )


def wilson(hits: int, count: int) -> tuple[float, float]:
    """95% interval of a share (Wilson, JASA 1927)."""
    if not count:
        return math.nan, math.nan
    z, share = 1.96, hits / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return middle - half, middle + half

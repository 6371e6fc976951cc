"""Checks of a registration: its measures against their limits, a sentence each.

`docs/trust.md` says how the limits came about, and how well the checks find what is wrong.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from crossmorph.registration.register_images import Fallback

Level = Literal["ok", "warning", "failed"]
LEAST_AGREEMENT = 0.8  # of the mutual information of the images as they were given
MOST_FOLDS = 0.0  # percent of cells
LARGEST_STRETCH = 2.0  # |log-Jacobian|, 99th percentile: sizes changed by a factor of 7
LARGEST_INCONSISTENCY = 1.0  # voxels of the working grid
HALF_TURN = 1.0, 1.1  # times the mutual information, from where it is a warning and a failure
SMALL_OVERLAP = 0.6  # of the fixed field of view
UNCALIBRATED = "not calibrated"  # the flag in place of "expected error" where a model has no calibration


class Flag(NamedTuple):
    """A judgement on one number, with one sentence of what it means and what to try."""

    name: str
    level: Level
    sentence: str


def judge(quality: dict[str, float], unit: str = "mm", fallbacks: Sequence[Fallback] = ()) -> list[Flag]:
    """Flags of the numbers of :func:`measure`; what is not calibrated has the constants of this module for limits.

    Args:
        quality: the numbers.
        unit: of lengths, for the sentences.
        fallbacks: the stages that were not taken, to name them.

    Returns:
        One flag for each thing that was looked at, the same names in the same order for the same model.
    """
    return [
        _error(quality, unit),
        _agreement(quality),
        _orientation(quality),
        *_consistent(quality, unit),
        _familiar(quality),
        *_field(quality, unit),
        _overlap(quality),
        _stages(quality, fallbacks),
    ]


def _error(quality: dict[str, float], unit: str) -> Flag:
    if "expected_error" not in quality:
        return Flag(
            UNCALIBRATED,
            "warning",
            "This model was never calibrated, so nobody knows how far its results can be believed: look at them, or "
            "run benchmarks/calibration.py.",
        )
    error, limit = quality["expected_error"], quality["expected_error_limit"]
    said = f"On simulated pairs with such numbers the median error was about {error:.2g} {unit}"
    # Of images unlike those of training the number is a guess beyond what it was fitted to, and condemns nothing.
    familiar = not quality["unfamiliarity"] >= 1
    if not error < quality["expected_error_failed"] and familiar:
        advice = "; this is not aligned: check that both show the same anatomy, or begin by hand (--init FILE)."
        return Flag("expected error", "failed", said + advice)
    if not error < limit:
        remedy = "begin nearer (--init)" if "refine_steps" in quality else "try --refine auto, or begin nearer (--init)"
        advice = f" (limit {limit:.2g}): look before you use it; {remedy}."
        return Flag("expected error", "warning", said + advice)
    return Flag("expected error", "ok", f"{said} (limit {limit:.2g}).")


def _agreement(quality: dict[str, float]) -> Flag:
    # Here and below written so that NaN fails.
    worse = not quality["mi_final"] >= LEAST_AGREEMENT * quality["mi_before"]
    told = f"Mutual information went from {quality['mi_before']:.3f} to {quality['mi_final']:.3f} nats"
    advice = "; the images agree less than before: check that they show the same anatomy."
    return Flag("agreement", "failed" if worse else "ok", told + (advice if worse else "."))


def _orientation(quality: dict[str, float]) -> Flag:
    ratio, (doubtful, wrong) = quality["half_turn"], HALF_TURN
    told = f"Turned half around, the images would agree {ratio:.2f} times as much"
    if ratio < doubtful:
        return Flag("orientation", "ok", f"{told}.")
    level: Level = "warning" if ratio < wrong else "failed"
    return Flag("orientation", level, f"{told}: one of them may lie upside down; begin with it turned (--init FILE).")


def _consistent(quality: dict[str, float], unit: str) -> list[Flag]:
    flags = []
    said = {
        "order": "Registered in the other order, the answer differs by",
        "shift": "With the moving image a few voxels elsewhere, the answer differs by",
    }
    for name, sentence in said.items():
        limit = quality.get(f"{name}_limit", math.inf)
        told = f"{sentence} {quality[name]:.2f} {unit}"
        if not quality[name] < limit and limit < math.inf:
            told += f" (limit {limit:.2f}): it rests on little; begin nearer (--init), or use a smoother field."
            flags.append(Flag(name, "warning", told))
        else:
            flags.append(Flag(name, "ok", told + (f" (limit {limit:.2f})." if limit < math.inf else ".")))
    return flags


def _familiar(quality: dict[str, float]) -> Flag:
    distance = quality.get("unfamiliarity")
    if distance is None:
        return Flag("familiar", "ok", "How far the images are from those of training is not known for this model.")
    told = f"The images are {distance:.2f} times the limit away from those that the model learned from"
    if not distance < 1:
        return Flag("familiar", "warning", f"{told}: noisier or of another kind; train on your own scans.")
    return Flag("familiar", "ok", f"{told}.")


def _field(quality: dict[str, float], unit: str) -> list[Flag]:
    folds, stretch, loop = (quality[name] for name in ("folds_percent", "log_jacobian", "inverse_consistency"))
    limit = LARGEST_INCONSISTENCY * quality["working_spacing"]
    folded, stretched, apart = not folds <= MOST_FOLDS, not stretch <= LARGEST_STRETCH, not loop <= limit
    return [
        Flag(
            "folding",
            "warning" if folded else "ok",
            f"{folds:.3f}% of the cells fold"
            + ("; do not trust the field there, or raise --smoothness." if folded else "."),
        ),
        Flag(
            "stretch",
            "warning" if stretched else "ok",
            f"Sizes change by a factor of up to {math.exp(min(stretch, 20)):.1f}"
            + (
                f" (limit {math.exp(LARGEST_STRETCH):.1f}): more than anatomy does; try --smoothness 1."
                if stretched
                else "."
            ),
        ),
        Flag(
            "inverse",
            "warning" if apart else "ok",
            f"Forward and inverse disagree by {loop:.2f} {unit}"
            + (f" (expected below {limit:.2f}): carry no points back and forth; try --smoothness 1." if apart else "."),
        ),
    ]


def _overlap(quality: dict[str, float]) -> Flag:
    before, after = quality["overlap_before"], quality["overlap"]
    small = not before >= SMALL_OVERLAP
    told = f"As they were given, the moving image covers {before:.0%} of the fixed one, after the start {after:.0%}"
    return Flag(
        "overlap",
        "warning" if small else "ok",
        told + (": check that both show the same anatomy." if small else "."),
    )


def _stages(quality: dict[str, float], fallbacks: Sequence[Fallback]) -> Flag:
    count = int(quality["refused_stages"])
    if not count:
        return Flag("stages", "ok", "Every stage was taken.")
    why = {"agreement": "the images agreed less", "folds": "it folded"}
    named = [f"{each.stage} ({why[each.reason]}; the field is that of {each.kept})" for each in fallbacks]
    told = ", ".join(named) or str(count)
    return Flag("stages", "warning", f"Stages that made it worse were not taken: {told}; look before you use it.")

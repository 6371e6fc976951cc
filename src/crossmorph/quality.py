"""What a registration says of itself: numbers by name, and flags where one of them is out of bounds.

`docs/trust.md` says what each number means, how the limits came about, and how well the flags find what is wrong.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crossmorph import spatial
from crossmorph.calibration import Calibration, calibration_of, foretold, logarithms, unfamiliarity
from crossmorph.doubt_network import foretell, gathered_maps
from crossmorph.evidence import Evidence, appearance, foreground, gather
from crossmorph.grid import onto_grid
from crossmorph.image import Image, scale_intensity
from crossmorph.pipeline import Fallback, Registered
from crossmorph.similarity import mi
from crossmorph.transform import fields_overlap

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


def measure(registered: Registered, moving: Image, evidence: Evidence | None = None) -> dict[str, float]:
    """Numbers of a registration, on the working grid; lengths in the fixed image's unit: millimetres, or pixels (PNG).

    Args:
        registered: what came out.
        moving: the moving image as it was given.
        evidence: what :func:`crossmorph.evidence.gather` found, where it is known already; else it is gathered.

    Returns:
        Those of :func:`measure_plain`, and, where the model is calibrated:
        ``expected_error`` (of the median over the foreground), ``expected_error_limit`` and ``expected_error_failed``
        (from where it is a warning and a failure), ``unfamiliarity`` (distance of the images from those of training, 1
        is the limit), ``order_limit`` and ``shift_limit``.
    """
    evidence = evidence or gather(registered)
    numbers = measure_plain(registered, moving, evidence)
    calibration = calibration_of(registered.model)
    if calibration is None:
        return numbers
    doubt = foretell(calibration.network, gathered_maps(registered.fixed, evidence), logarithms(numbers))
    return numbers | calibrate(numbers, appearance(registered), mean_doubt(doubt, evidence.foreground), calibration)


def mean_doubt(doubt: Float[Tensor, "*space"], foreground: Bool[Tensor, "*space"]) -> float:
    """The geometric mean of a map of doubt over the foreground."""
    return math.exp(float(doubt[foreground.to(doubt.device)].double().log().mean()))


def measure_plain(registered: Registered, moving: Image, evidence: Evidence) -> dict[str, float]:
    """The numbers that need no calibration; arguments as of :func:`measure`.

    Returns:
        ``overlap_before`` and ``overlap`` (fraction of the fixed field of view that the moving image covers as it was
        given, and after the start); ``mi_before``, ``mi_start``, ``mi_coarse``, ``mi_fine``, ``mi_refined`` (where it
        was) and ``mi_final`` (mutual information as the images were given, after each stage, and of the result; nats);
        ``folds_percent`` and ``min_jacobian`` (strict); ``log_jacobian`` (99th percentile of ``|log det|``);
        ``inverse_consistency_median`` and ``inverse_consistency`` (median and 99th percentile of
        ``|phi(phi^-1(p)) - p|`` over the moving image's foreground); ``order`` and ``shift`` (median over the
        foreground of how far the field changes when the images change places, and when the moving image lies elsewhere,
        see :class:`crossmorph.evidence.Evidence`) with their ``order_quartile`` and ``shift_quartile``; ``correlation``
        (mean squared local correlation over the foreground); ``residual`` (median over the foreground of the local mean
        of ``|T o phi - F|``, images in [0, 1]); ``half_turn`` (mutual information that the coarse
        network reaches with the moving image turned half around, as a multiple of what it reached);
        ``refused_stages``; ``refine_steps`` where the field was refined; ``working_spacing``.
    """
    fixed, final = registered.fixed, registered.result.final
    corners = spatial.strict_jacobian(final.displacement)
    spacing = float(torch.linalg.vector_norm(torch.from_numpy(registered.grid.affine[:-1, 0])))
    # Where the moving image shows nothing, a field may do what it likes.
    loop = torch.linalg.vector_norm(spatial.compose(final.displacement, final.inverse), dim=1, keepdim=True)
    loop = loop[foreground(registered.moving)]
    stretch = spatial.jacobian_determinant(final.displacement).clamp_min(1e-6).log().abs()
    given = onto_grid(Image(scale_intensity(moving.data).data, moving.affine), registered.grid).data
    inside = evidence.foreground
    order, shift = (torch.linalg.vector_norm(map_[:, inside], dim=0) for map_ in (evidence.swapped, evidence.shifted))
    numbers = {
        "overlap_before": fields_overlap(moving, Image(fixed[0, 0].cpu().numpy(), registered.grid.affine)),
        "overlap": registered.overlap,
        "mi_before": float(mi(torch.from_numpy(given)[None, None].to(fixed), fixed)),
        **{f"mi_{stage}": value for stage, value in registered.agreement.items()},
        "mi_final": registered.agreement[next(reversed(registered.stages))],
        "folds_percent": 100 * float((corners.amin(1) <= 0).float().mean()),
        "min_jacobian": float(corners.min()),
        "log_jacobian": _percentile(stretch, 99),
        "inverse_consistency_median": spacing * _percentile(loop, 50),
        "inverse_consistency": spacing * _percentile(loop, 99),
        "order_quartile": spacing * _percentile(order, 25),
        "order": spacing * _percentile(order, 50),
        "shift_quartile": spacing * _percentile(shift, 25),
        "shift": spacing * _percentile(shift, 50),
        "correlation": float(evidence.correlation[inside].mean()),
        "residual": _percentile(evidence.residual[inside], 50),
        "half_turn": evidence.turned / max(registered.agreement["coarse"], 1e-6),
        "refused_stages": float(len(registered.fallbacks)),
        "working_spacing": spacing,
    }
    if registered.refinement is not None:
        numbers["refine_steps"] = float(registered.refinement.steps)
    return numbers


def calibrate(
    numbers: dict[str, float], features: Float[Tensor, "images features"], doubt: float, calibration: Calibration
) -> dict[str, float]:
    """What a calibration adds to the numbers of a pair; see :func:`measure`.

    Args:
        numbers: those of :func:`measure_plain`.
        features: :func:`crossmorph.evidence.appearance`.
        doubt: :func:`mean_doubt`.
        calibration: of the model.
    """
    spacing, limits = numbers["working_spacing"], calibration.limits
    return {
        "expected_error": spacing * foretold(calibration, logarithms(numbers), doubt),
        "expected_error_limit": spacing * limits["expected_error"],
        "expected_error_failed": spacing * limits["expected_error_failed"],
        "order_limit": spacing * limits["order"],
        "shift_limit": spacing * limits["shift"],
        "unfamiliarity": unfamiliarity(calibration, features) / limits["unfamiliarity"],
    }


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


def _percentile(values: Tensor, percent: int) -> float:
    """By sorting, since torch.quantile refuses more than 2^24 values; NaN where there are none."""
    flat = values.flatten()
    if not flat.numel():
        return math.nan
    return float(flat.kthvalue(1 + round((flat.numel() - 1) * percent / 100)).values)

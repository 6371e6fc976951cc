"""Measures of a registration: overlap, similarity, folds, consistency, expected error.

`docs/trust.md` says what each of them means.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crossmorph.functional import spatial
from crossmorph.functional.similarity import mi
from crossmorph.images.image import Image, scale_intensity
from crossmorph.quality.consistency import Evidence, appearance, foreground, gather
from crossmorph.quality.error_model import Calibration, calibration_of, foretold, logarithms, unfamiliarity
from crossmorph.quality.error_network import foretell, gathered_maps
from crossmorph.registration.register_images import Registered
from crossmorph.transforms.grid import onto_grid
from crossmorph.transforms.warp import fields_overlap


def measure(registered: Registered, moving: Image, evidence: Evidence | None = None) -> dict[str, float]:
    """Numbers of a registration, on the working grid; lengths in the fixed image's unit: millimetres, or pixels (PNG).

    Args:
        registered: what came out.
        moving: the moving image as it was given.
        evidence: what :func:`crossmorph.quality.consistency.gather` found, where it is known already; else it is
            gathered.

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
        see :class:`crossmorph.quality.consistency.Evidence`) with their ``order_quartile`` and ``shift_quartile``;
        ``correlation`` (mean squared local correlation over the foreground); ``residual`` (median over the foreground
        of the local mean of ``|T o phi - F|``, images in [0, 1]); ``half_turn`` (mutual information that the coarse
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
        features: :func:`crossmorph.quality.consistency.appearance`.
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


def _percentile(values: Tensor, percent: int) -> float:
    """By sorting, since torch.quantile refuses more than 2^24 values; NaN where there are none."""
    flat = values.flatten()
    if not flat.numel():
        return math.nan
    return float(flat.kthvalue(1 + round((flat.numel() - 1) * percent / 100)).values)

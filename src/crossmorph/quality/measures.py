"""Measures of a registration: overlap, similarity, folds, consistency, expected error.

`docs/trust.md` says what each of them means.
"""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crossmorph.functional import spatial
from crossmorph.functional.similarity import foreground
from crossmorph.images.image import Image
from crossmorph.quality.assessment import Consistency, Measures
from crossmorph.quality.error_model import Calibration, predicted_error, training_distance
from crossmorph.registration.pair_similarity import WHOLLY, Pair, pair_similarity, seen_on
from crossmorph.registration.register_images import Registered
from crossmorph.transforms.composition import move_points
from crossmorph.transforms.grid import onto_grid
from crossmorph.transforms.warp import fields_overlap

# The measures that the error is predicted from, see `error_predictors`; the lengths among them first.
LENGTHS = ("swap_consistency_quartile", "swap_consistency", "shift_consistency_quartile", "shift_consistency")
PREDICTORS = (*LENGTHS, "local_correlation", "residual", "mutual_information_final")
SMALLEST = 0.02  # added before the logarithm, so that of a measure of 0 it is finite


def measure(registered: Registered, moving: Image, fixed: Image, maps: Consistency) -> Measures:
    """The measures that need no calibration.

    Args:
        registered: the registered pair.
        moving: the moving image as it was given.
        fixed: the fixed image as it was given.
        maps: its consistency maps.
    """
    still, final, reached = registered.fixed, registered.result.final, registered.mutual_information
    corners = spatial.strict_jacobian(final.displacement)
    spacing = registered.grid.spacing
    # Where the moving image shows nothing, a field may do what it likes.
    loop = spatial.length(spatial.compose(final.displacement, final.inverse))
    loop = loop[foreground(registered.moving)]
    stretch = spatial.jacobian_determinant(final.displacement).clamp_min(1e-6).log().abs()
    given = torch.from_numpy(onto_grid(moving.scaled(), registered.grid).data)[None, None].to(still)
    seen, still_seen = (seen_on(image, registered.grid).to(still.device) for image in (moving, fixed))
    inside = maps.foreground
    swap, shift = (torch.linalg.vector_norm(map_[:, inside], dim=0) for map_ in (maps.swapped, maps.shifted))
    return Measures(
        unit=fixed.unit,
        overlap_before=fields_overlap(moving, fixed),
        overlap=registered.overlap,
        mutual_information_before=pair_similarity(Pair(given, still, seen.to(still), still_seen)).information,
        mutual_information_initial=reached["initial"],
        mutual_information_coarse=reached["coarse"],
        mutual_information_fine=reached["fine"],
        mutual_information_refined=reached.get("refined"),
        mutual_information_final=reached[next(reversed(registered.stages))],
        folds_percent=float(spatial.folds_percent(final.displacement)),
        min_jacobian=float(corners.min()),
        log_jacobian=_percentile(stretch, 99),
        inverse_consistency_median=spacing * _percentile(loop, 50),
        inverse_consistency=spacing * _percentile(loop, 99),
        swap_consistency_quartile=spacing * _percentile(swap, 25),
        swap_consistency=spacing * _percentile(swap, 50),
        shift_consistency_quartile=spacing * _percentile(shift, 25),
        shift_consistency=spacing * _percentile(shift, 50),
        local_correlation=float(maps.correlation[inside].mean()),
        residual=_percentile(maps.residual[inside], 50),
        rotation_ratio=maps.rotated / max(reached["coarse"], 1e-6),
        rejected_stages=sum(each.reason != "no gain" for each in registered.rejected),
        working_spacing=spacing,
        refine_steps=registered.refinement.steps if registered.refinement else None,
        mirror_ratio=None if maps.mirrored is None else maps.mirrored / max(reached["coarse"], 1e-6),
        translation_correlation=_translation_correlation(registered, inside),
        ignored=None if fixed.ignored is None else float(fixed.ignored.sum() * np.prod(fixed.spacing)),
        **_points(registered),
    )


def _points(registered: Registered) -> dict[str, float]:
    """How far corresponding points are from their partners, if there are any."""
    points = registered.points
    if points is None:
        return {}
    ends = [move_points([step], points.fixed) for step in (registered.initial_affine, registered.warp)]
    initial, final = (float(np.linalg.norm(end - points.moving, axis=0).max()) for end in ends)
    return {"points_initial": initial, "points_final": final, "points_accuracy": points.accuracy}


def _translation_correlation(registered: Registered, inside: Bool[Tensor, "*space"]) -> float:
    """Of the translation, moved by the final field, and the fixed image; 0 where either is constant."""
    base, slope = registered.translation
    seen = torch.cat([base + slope * registered.moving, registered.pair.moving_seen], dim=1)
    moved, within = spatial.warp(seen, registered.result.final.displacement, outside="zero")[0]
    where = inside & (within > WHOLLY) & registered.pair.fixed_seen[0, 0]
    values = torch.stack([moved[where], registered.fixed[0, 0][where]]).double()
    spread = values - values.mean(1, keepdim=True)
    product = spread @ spread.T
    return float(product[0, 1] / (product[0, 0] * product[1, 1]).sqrt().clamp_min(1e-9))


def error_predictors(measures: Measures) -> Float[Tensor, " numbers"]:
    """Logarithms of the measures that the error is predicted from, lengths in voxels of the working grid."""
    spacing = measures.working_spacing
    values = [getattr(measures, name) / (spacing if name in LENGTHS else 1) for name in PREDICTORS]
    return torch.tensor([math.log(max(value, 0) + SMALLEST) for value in values])


def mean_error(error: Float[Tensor, "*space"], inside: Bool[Tensor, "*space"]) -> float:
    """The geometric mean of a map of the expected error over the foreground."""
    return math.exp(float(error[inside.to(error.device)].double().log().mean()))


def with_expected_error(
    measures: Measures, features: Float[Tensor, "images features"], mean_error: float, calibration: Calibration
) -> Measures:
    """The measures with those that need a calibration.

    Args:
        measures: of the pair.
        features: :func:`crossmorph.quality.consistency.encoder_features`.
        mean_error: :func:`mean_error` of the network's map, voxels.
        calibration: of the model.
    """
    predicted = predicted_error(calibration, error_predictors(measures), mean_error)
    distance = training_distance(calibration, features) / calibration.limits["training_distance"]
    return measures._replace(expected_error=measures.working_spacing * predicted, training_distance=distance)


def _percentile(values: Tensor, percent: int) -> float:
    """By sorting, since torch.quantile refuses more than 2^24 values; NaN where there are none."""
    flat = values.flatten()
    if not flat.numel():
        return math.nan
    return float(flat.kthvalue(1 + round((flat.numel() - 1) * percent / 100)).values)

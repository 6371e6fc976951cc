"""Measures and checks of no registration in particular."""

import torch
from torch import Tensor

from crossmorph.quality.assessment import Check, Measures
from crossmorph.registration.pair_similarity import Pair


def measures(**changes: object) -> Measures:
    """Measures of a good registration in millimetres, or others by name."""
    good = Measures(
        unit="mm",
        overlap_before=0.9,
        overlap=1.0,
        mutual_information_before=0.5,
        mutual_information_initial=0.5,
        mutual_information_coarse=0.7,
        mutual_information_fine=0.75,
        mutual_information_refined=None,
        mutual_information_final=0.75,
        folds_percent=0.25,
        min_jacobian=-0.1,
        log_jacobian=0.4,
        inverse_consistency_median=0.1,
        inverse_consistency=0.4,
        swap_consistency_quartile=0.2,
        swap_consistency=0.4,
        shift_consistency_quartile=0.2,
        shift_consistency=0.4,
        local_correlation=0.6,
        residual=0.05,
        rotation_ratio=0.8,
        rejected_stages=0,
        working_spacing=1.5,
    )
    return good._replace(**changes)


def check(name: str, level: str = "failed", message: str = "The images agree less.") -> Check:
    """A check without numbers."""
    return Check(name, level, None, None, message)


def everywhere(moving: Tensor, fixed: Tensor) -> Pair:
    """Two images whose fields of view are their whole grid."""
    return Pair(moving, fixed, torch.ones_like(moving), torch.ones_like(fixed, dtype=torch.bool))

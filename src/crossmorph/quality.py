"""What a registration says of itself: numbers by name, and flags where one of them is out of bounds."""

from typing import Literal, NamedTuple

import torch

from crossmorph import spatial
from crossmorph.grid import onto_grid
from crossmorph.image import Image, scale_intensity
from crossmorph.pipeline import Registered
from crossmorph.similarity import mi
from crossmorph.transform import fields_overlap

Level = Literal["ok", "warning", "failed"]
MOST_FOLDS = 0.0  # percent of cells
LARGEST_INCONSISTENCY = 1.0  # voxels of the working grid
SMALL_OVERLAP = 0.6  # of the fixed field of view


class Flag(NamedTuple):
    """A judgement on one number, with one sentence of what it means and what to try."""

    name: str
    level: Level
    sentence: str


def measure(registered: Registered, moving: Image) -> dict[str, float]:
    """Numbers of a registration, all on the working grid.

    Args:
        registered: what came out.
        moving: the moving image as it was given.

    Returns:
        ``overlap_before`` and ``overlap`` (fraction of the fixed field of view that the moving image covers as it was
        given, and after the start); ``mi_before``, ``mi_start``,
        ``mi_coarse``, ``mi_final`` (mutual information of the images as they were given, after the start, and after the
        networks' fields, nats); ``folds_percent`` and ``min_jacobian`` (strict); ``inverse_consistency`` (99th
        percentile of ``|phi(phi^-1(p)) - p|`` over the grid) and ``working_spacing`` of that grid, both in the fixed
        image's unit: millimetres, or pixels where it has none (PNG); ``refine_steps`` where the field was refined.
    """
    placed, fixed, result = registered.moving, registered.fixed, registered.result
    coarse, final = (spatial.warp(placed, flow.displacement) for flow in (result.coarse, result.final))
    corners = spatial.strict_jacobian(result.final.displacement)
    spacing = float(torch.linalg.vector_norm(torch.from_numpy(registered.grid.affine[:-1, 0])))
    loop = spatial.compose(result.final.displacement, result.final.inverse)
    error = torch.linalg.vector_norm(loop, dim=1).flatten()
    given = onto_grid(Image(scale_intensity(moving.data).data, moving.affine), registered.grid).data
    numbers = {
        "overlap_before": fields_overlap(moving, Image(fixed[0, 0].cpu().numpy(), registered.grid.affine)),
        "overlap": registered.overlap,
        "mi_before": float(mi(torch.from_numpy(given)[None, None].to(fixed), fixed)),
        "mi_start": float(mi(placed, fixed)),
        "mi_coarse": float(mi(coarse, fixed)),
        "mi_final": float(mi(final, fixed)),
        "folds_percent": 100 * float((corners.amin(1) <= 0).float().mean()),
        "min_jacobian": float(corners.min()),
        "inverse_consistency": spacing * float(torch.quantile(error, 0.99)),
        "working_spacing": spacing,
    }
    if registered.refinement is not None:
        numbers["refine_steps"] = float(registered.refinement.steps)
    return numbers


def judge(quality: dict[str, float], unit: str = "mm") -> list[Flag]:
    """Flags of the numbers of :func:`measure`; the thresholds are the constants of this module.

    Args:
        quality: the numbers.
        unit: of lengths, for the sentences.
    """
    # Written so that NaN fails.
    worse = not quality["mi_final"] >= quality["mi_before"]
    flags = [
        Flag(
            "agreement",
            "failed" if worse else "ok",
            f"Mutual information went from {quality['mi_before']:.3f} to {quality['mi_final']:.3f} nats"
            + ("; the images agree less than before: check that they show the same anatomy." if worse else "."),
        ),
        Flag(
            "folding",
            "warning" if quality["folds_percent"] > MOST_FOLDS else "ok",
            f"{quality['folds_percent']:.3f}% of the cells fold"
            + ("; do not trust the field there." if quality["folds_percent"] > MOST_FOLDS else "."),
        ),
    ]
    limit = LARGEST_INCONSISTENCY * quality["working_spacing"]
    if quality["inverse_consistency"] > limit:
        error = f"{quality['inverse_consistency']:.2f} {unit}"
        sentence = f"Forward and inverse disagree by {error} (expected below {limit:.2f})."
        flags.append(Flag("inverse", "warning", sentence))
    if quality["overlap_before"] < SMALL_OVERLAP:
        sentence = f"As they were given, the moving image covers {quality['overlap_before']:.0%} of the fixed one"
        sentence += f", after the start {quality['overlap']:.0%}: check that both show the same anatomy."
        flags.append(Flag("overlap", "warning", sentence))
    return flags

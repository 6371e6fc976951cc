"""Scores of a hierarchy on the validation pairs, while it is trained."""

import torch
from lightning_fabric import Fabric
from torch import Tensor

from crossmorph.functional import spatial
from crossmorph.functional.metrics import mean_dice
from crossmorph.functional.similarity import mi, mse
from crossmorph.networks.hierarchy import Hierarchy, Stage, chain
from crossmorph.training.dataset import Dataset
from crossmorph.training.stage_loss import initial_displacement


@torch.inference_mode()
def validate(fabric: Fabric, hierarchy: Hierarchy, data: Dataset, stage: Stage) -> dict[str, float]:
    """Scores up to a stage: mutual information, mean Dice of the labels, and the error of the translation.

    Returns:
        ``mi_affine``, ``mi_coarse``, ``mi_final`` (nats) of the images moved by the stages up to this one;
        ``dice_affine``, ``dice_coarse``, ``dice_final`` (0-1) of their labels, where the pairs have some; from the
        translation stage on ``translation_mse``, the squared difference of the moved translation and the fixed image.
    """
    hierarchy.eval()
    scores: dict[str, list[float]] = {}
    for row in data.pairs:
        moving, fixed = (fabric.to_device(images[i : i + 1]) for images, i in zip(data[:2], row, strict=True))
        fields, found = _fields(hierarchy, stage, moving, fixed)
        for name, displacement in fields.items():
            found[f"mi_{name}"] = float(mi(spatial.warp(moving, displacement), fixed))
        if data.moving_labels is not None and data.fixed_labels is not None:
            labels = data.moving_labels[row[0] : row[0] + 1].float()
            truth = data.fixed_labels[row[1], 0].numpy()
            for name, displacement in fields.items():
                moved_labels = spatial.warp(labels, displacement.cpu(), "nearest", "zero")[0, 0].int().numpy()
                found[f"dice_{name}"] = mean_dice(moved_labels, truth)
        for name, value in found.items():
            scores.setdefault(name, []).append(value)
    hierarchy.train()
    return {name: sum(values) / len(values) for name, values in scores.items()}


def _fields(
    hierarchy: Hierarchy, stage: Stage, moving: Tensor, fixed: Tensor
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Displacements of the stages up to this one, and the error of the translation."""
    fields: dict[str, Tensor] = {}
    initial = torch.zeros_like(moving).expand(-1, hierarchy.spec.dim, *moving.shape[2:])
    if hierarchy.affine:
        initial = fields["affine"] = initial_displacement(hierarchy, moving, fixed)
        moving = spatial.warp(moving, initial, outside="zero")
    if stage == "affine":
        return fields, {}
    coarse = final = hierarchy.register_coarse(moving, fixed)
    fields["coarse"] = spatial.compose(initial, coarse.displacement)
    if stage == "coarse":
        return fields, {}
    translated = moving + hierarchy.translate(moving, fixed, coarse)
    if stage == "fine":
        final = chain(coarse, hierarchy.register_fine(moving, fixed, translated, coarse))
        fields["final"] = spatial.compose(initial, final.displacement)
    return fields, {"translation_mse": float(mse(spatial.warp(translated, final.displacement), fixed))}

"""Accuracy against smoothness: ``python benchmarks/smoothness.py``, on the validation pairs, one thread.

Registers every pair at several values of ``--smoothness`` and prints Dice, the error against the true field, folds and
the smallest Jacobian determinant: what the default is chosen by, and what a user trades.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from crossmorph import DEFAULT_MODELS, load_model, read_image, read_transform
from crossmorph.datasets.pairs import read_pairs
from crossmorph.functional import metrics
from crossmorph.registration.register_images import register_images
from crossmorph.registration.settings import Settings
from crossmorph.transforms.warp import resample, voxel_displacement

VALUES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODELS[2], metavar="NAME")
    parser.add_argument("--pairs", type=Path, default=Path("data/phantom/validation/pairs.csv"), metavar="CSV")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(options.model)
    print("| smoothness | Dice | endpoint error (mm) | folds (%) | smallest Jacobian |\n|---|---|---|---|---|")
    for value in VALUES:
        scores = []
        for pair in read_pairs(options.pairs):
            assert pair.moving_labels is not None
            assert pair.fixed_labels is not None
            assert pair.field is not None
            found = register_images(
                read_image(pair.moving), read_image(pair.fixed), model, Settings(smoothness=value)
            ).warp
            fixed = read_image(pair.fixed_labels, labels=True).data
            moved = resample(read_image(pair.moving_labels, labels=True), found, "nearest").data
            voxels = voxel_displacement(found)
            truth = read_transform(pair.field).displacement
            scores.append(
                [
                    metrics.mean_dice(moved, fixed),
                    metrics.endpoint_error_mm(found.displacement, truth, fixed > 0),
                    metrics.folds_percent(voxels),
                    metrics.min_jacobian(voxels),
                ]
            )
        dice, error, folds, _ = np.mean(scores, axis=0)
        print(f"| {value:g} | {100 * dice:.1f} | {error:.2f} | {folds:.3f} | {np.min(scores, axis=0)[3]:.2f} |")


if __name__ == "__main__":
    main()

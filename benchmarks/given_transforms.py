"""How well ``crossmorph check`` tells right transforms from wrong ones: ``python benchmarks/given_transforms.py``.

Of simulated pairs with a true field, transforms are checked that are the true field shifted by 0 to 24 mm, the true
field after a smooth deformation, and the affine map nearest to the true field. One thread. Two tables are printed: what
the checks say of transforms by their true median error over tissue, and how often the one of two transforms of a pair
that is called better is the better one. Pairs of kinds that cannot be registered are left out, as they have no truth.
"""

import argparse
from dataclasses import replace
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy import ndarray

from crossmorph import DEFAULT_MODELS, InputError, Warp, load_model
from crossmorph.networks.checkpoint import Model
from crossmorph.quality.assessment import failures
from crossmorph.quality.calibration.pairs import draw
from crossmorph.quality.calibration.simulated_pair import Setting, SimulatedPair
from crossmorph.quality.comparison import compare
from crossmorph.quality.given_transform import Examined, examine_transform
from crossmorph.simulation.anatomy import SPACING
from crossmorph.simulation.deformation import SMOOTH, random_deformation
from crossmorph.transforms.composition import Step, as_warp
from crossmorph.transforms.warp import followed_by, from_voxel_displacement, nearest_affine

SHIFTS = (0, 1, 2, 3, 6, 12, 24)  # mm
ENDS = (0, 0.5, 1, 2, 3, 5, 8, 15, 40)  # mm, of true errors
APART = (0, 0.3, 1, 2, 4, 40)  # mm, of differences of true errors


class Tried(NamedTuple):
    """A checked transform and its true median error, in millimetres."""

    error: float
    found: Examined


def transforms(pair: SimulatedPair, spacing: float, rng: np.random.Generator) -> list[list[Step]]:
    """Transforms of a pair, right and wrong."""
    assert pair.truth is not None
    whole, dim = Warp(pair.truth, pair.fixed.affine), pair.fixed.dim
    affine = nearest_affine(whole)
    # So that beyond its grid, the true field goes on as an affine map.
    truth: list[Step] = [followed_by(whole, np.linalg.inv(affine)), affine]
    given: list[list[Step]] = [[affine]]
    for length in SHIFTS:
        direction, matrix = rng.standard_normal(dim), np.eye(dim + 1)
        matrix[:dim, dim] = length * direction / np.linalg.norm(direction)
        given.append([matrix, *truth])
    low, high = SMOOTH.elastic_amplitude
    voxels = SPACING / spacing
    for strength in (0.5 * voxels, voxels):
        elastic = replace(SMOOTH, shift=0.0, rotation=0.0, scale=0.0, elastic_sigma=SMOOTH.elastic_sigma * voxels)
        elastic = replace(elastic, elastic_amplitude=(low * strength, high * strength))
        field: ndarray = random_deformation(rng, pair.fixed.shape, elastic).astype(np.float64)
        given.append([from_voxel_displacement(field, pair.fixed.affine), *truth])
    return given


def tried(pair: SimulatedPair, model: Model, rng: np.random.Generator) -> list[Tried]:
    """All transforms of a pair that do not lead outside the image."""
    found = []
    for steps in transforms(pair, model.card.spacing, rng):
        off = as_warp(steps, pair.fixed.affine, pair.fixed.shape).displacement - pair.truth
        try:
            examined = examine_transform(pair.moving, pair.fixed, steps, model)
        except InputError:
            continue
        found.append(Tried(float(np.median(np.linalg.norm(off, axis=0)[pair.tissue])), examined))
    return found


def print_errors(pairs: list[list[Tried]]) -> None:
    print("| true error mm | transforms | expected error mm, median | a check raised | failed |\n|---|---|---|---|---|")
    every = [each for pair in pairs for each in pair]
    for low, high in pairwise(ENDS):
        some = [each.found for each in every if low <= each.error < high]
        if some:
            expected = np.median([found.measures.expected_error for found in some])
            raised = np.mean([any(check.level != "passed" for check in found.checks) for found in some])
            failed = np.mean([bool(failures(found.checks)) for found in some])
            print(f"| {low:g} to {high:g} | {len(some)} | {expected:.2f} | {100 * raised:.0f}% | {100 * failed:.0f}% |")


def print_comparisons(pairs: list[list[Tried]]) -> None:
    print("| true errors differ by, mm | comparisons | right | wrong | neither |\n|---|---|---|---|---|")
    outcomes = []
    for pair in pairs:
        for first, other in combinations(pair, 2):
            called = compare(first.found.remaining, other.found.remaining, first.found.foreground).better
            truly = "first" if first.error < other.error else "other"
            outcomes.append((abs(first.error - other.error), "neither" if called == "neither" else called == truly))
    for low, high in pairwise(APART):
        some = [outcome for apart, outcome in outcomes if low <= apart < high]
        if some:
            shares = " | ".join(f"{100 * some.count(which) / len(some):.1f}%" for which in (True, False, "neither"))
            print(f"| {low:g} to {high:g} | {len(some)} | {shares} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODELS[2], metavar="NAME")
    parser.add_argument("--pairs", type=int, default=40, metavar="N")
    parser.add_argument("--seed", type=int, default=79, metavar="N")
    parser.add_argument("--split", default="test", choices=("train", "test"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, rng = load_model(options.model), np.random.default_rng(options.seed)
    setting, pairs, number = Setting(tuple(model.card.shape), model.card.spacing, options.split), [], 0
    while len(pairs) < options.pairs:
        pair = draw(setting, options.seed, number)
        number += 1
        if pair.truth is not None:
            pairs.append(tried(pair, model, rng))
    print_errors(pairs)
    print()
    print_comparisons(pairs)


if __name__ == "__main__":
    main()

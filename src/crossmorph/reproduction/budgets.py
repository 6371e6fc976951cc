"""Budgets: the number of images and pairs, and the iterations of every training."""

from typing import Literal, NamedTuple

from crossmorph.errors import InputError
from crossmorph.evaluation.baselines.cyclegan_networks import CycleSpec

# Weights of VoxelMorph's smoothness term, to a similarity of 0.15: the paper's, a quarter of it, four times as much.
SMOOTHNESS = (0.02, 0.005, 0.08)


class Counts(NamedTuple):
    """Training images of each modality, test pairs, and validation pairs."""

    train: int
    test: int
    validation: int


class Budget(NamedTuple):
    """The extent of a reproduction.

    Attributes:
        name: on the command line.
        brainweb: of the first data set; the paper has 396 and 96.
        brats: of the second; the paper has 1416 and 294.
        iterations: of each stage of the hierarchy and of VoxelMorph, by data set; the paper has 150,000. At the budget
            ``cpu`` the second, whose images have nearly twice as many pixels, gets fewer.
        learning_rate: of the first iteration. The paper names none; VoxelMorph's is 1e-4.
        schedule: ``constant``, or ``cosine`` down to zero, for short runs.
        smoothness: weights of VoxelMorph's smoothness term to choose from.
        cyclegan: networks and iterations of the CycleGAN.
        timed: number of pairs on which all methods are timed, in one process.
    """

    name: str
    brainweb: Counts
    brats: Counts
    iterations: dict[str, int]
    learning_rate: float
    schedule: Literal["constant", "cosine"]
    smoothness: tuple[float, ...]
    cyclegan: CycleSpec
    timed: int


BUDGETS = {
    budget.name: budget
    for budget in (
        Budget(
            "smoke", Counts(6, 3, 2), Counts(6, 3, 2), {"brainweb": 3, "brats": 3}, 1e-3, "cosine", SMOOTHNESS[:1],
            CycleSpec(width=4, blocks=1, iterations=3), timed=1,
        ),
        Budget(
            "cpu", Counts(396, 96, 24), Counts(1416, 294, 24), {"brainweb": 5_000, "brats": 4_000}, 1e-3,
            "cosine", SMOOTHNESS,
            CycleSpec(width=16, blocks=6, iterations=5_000), timed=20,
        ),
        Budget(
            "paper", Counts(396, 96, 24), Counts(1416, 294, 24), {"brainweb": 150_000, "brats": 150_000}, 1e-4,
            "constant", SMOOTHNESS,
            CycleSpec(), timed=20,
        ),
    )
}  # fmt: skip


def find_budget(name: str) -> Budget:
    """The budget of a name. Raises InputError where there is none."""
    if name not in BUDGETS:
        raise InputError(f"budget {name!r}: expected one of {', '.join(BUDGETS)}")
    return BUDGETS[name]

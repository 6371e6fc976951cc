"""What an evaluation can do where nobody chose: the methods that run here, and the scores that a list allows."""

from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from crossmorph.datasets.pairs import read_pairs
from crossmorph.errors import InputError
from crossmorph.evaluation.evaluate import chosen_model, ready
from crossmorph.networks.checkpoint import load_model

USUAL = ("none", "affine", "syn", "coarse", "crossmorph", "oracle")  # where no methods are named
# What a score needs of a pair, besides the images: columns of the list, by what they hold.
NEEDS = {
    "Dice and HD95": ("moving_labels", "fixed_labels"),
    "endpoint error": ("field",),
    "MSE, NCC, PSNR and SSIM": ("moving_same",),
}


class Choice(NamedTuple):
    """Methods that can run on a list, and why others of the usual ones cannot, by their names."""

    methods: tuple[str, ...]
    left_out: dict[str, str]


def usual_methods(pairs_csv: str | Path, threads: int = 1) -> Choice:
    """Those of the usual methods that the list and the installation allow.

    Args:
        pairs_csv: the list.
        threads: of the CPU, with which ANTs is started.

    Raises:
        InputError: the list cannot be used.
    """
    pairs, able, left_out = read_pairs(pairs_csv), [], {}
    loaded = cache(partial(load_model, chosen_model(pairs_csv, None)))
    for name in USUAL:
        try:
            ready(name, pairs_csv, pairs, loaded, threads)
            able.append(name)
        except InputError as error:
            left_out[name] = str(error)
    return Choice(tuple(able), left_out)


def scores_left_out(pairs_csv: str | Path) -> dict[str, str]:
    """Scores that some pairs of a list cannot have, and why. Raises InputError where the list cannot be used."""
    pairs, left_out = read_pairs(pairs_csv), {}
    for scores, columns in NEEDS.items():
        without = sum(any(getattr(pair, column) is None for column in columns) for pair in pairs)
        if without:
            left_out[scores] = f"{without} of {len(pairs)} pairs have no {' and '.join(columns)} in the list"
    return left_out

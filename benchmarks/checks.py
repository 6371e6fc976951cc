"""What the checks say of real or simulated pairs, and of pairs that cannot be registered.

    python benchmarks/checks.py PAIRS.csv... [--floor] [--output ROWS.csv]

Every pair of the lists is registered with the defaults of the shipped weights and checked. Where a list has labels,
the error of a pair is the median distance of the centroids of its structures. With ``--floor``, the moving image of
every pair is also replaced by what shows no anatomy in common, and by its mirror image. One thread.
"""

import argparse
import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from crossmorph import DEFAULT_MODELS, InputError, load_model
from crossmorph.datasets.pairs import Pair, read_pairs
from crossmorph.images.image import Image
from crossmorph.images.io import read_image
from crossmorph.quality.assessment import Measures
from crossmorph.quality.calibration.other_objects import MADE
from crossmorph.quality.calibration.simulated_pair import structure_distance
from crossmorph.quality.calibration.tables import wilson
from crossmorph.quality.checks import assess
from crossmorph.registration.register_images import register_images
from crossmorph.transforms.warp import resample

GOOD, BAD = 2.0, 3.0  # mm
Change = Callable[[Image, np.random.Generator], Image]


class Row(NamedTuple):
    """A pair: its list, name, what was done to the moving image, its error (mm), its measures and raised checks."""

    list: str
    name: str
    change: str
    error: float
    measures: Measures | None
    raised: dict[str, str]

    @property
    def failed(self) -> bool:
        """Whether a check failed, or the registration was refused."""
        return "failed" in self.raised.values()


def _made(kind: str) -> Change:
    return lambda image, rng: Image(MADE[kind](rng, image.shape), image.affine)


def _mirrored(image: Image, _: np.random.Generator) -> Image:
    """Left and right exchanged: the axis nearest to right is flipped, the header stays."""
    axis = int(np.abs(image.affine[0, :-1] / np.array(image.spacing)).argmax())
    return Image(np.ascontiguousarray(np.flip(image.data, axis)), image.affine)


FLOOR: dict[str, Change] = {**{kind: _made(kind) for kind in MADE}, "mirrored": _mirrored}


def checked(name: str, pair: Pair, change: str | None, number: int) -> Row:
    """Register and check one pair."""
    moving, fixed = read_image(pair.moving), read_image(pair.fixed)
    if change:
        moving = FLOOR[change](moving, np.random.default_rng(number))
    model = load_model(DEFAULT_MODELS[fixed.dim], "cpu")
    try:
        registered = register_images(moving, fixed, model)
    except InputError as error:
        return Row(name, pair.name, change or "", math.inf, None, {f"refused ({error})": "failed"})
    found = assess(registered, moving, fixed)
    error = math.nan
    if not change and pair.moving_labels and pair.fixed_labels:
        labels = [read_image(path, labels=True) for path in (pair.moving_labels, pair.fixed_labels)]
        moved = resample(labels[0], registered.warp, "nearest")
        error = structure_distance(moved.data.astype(np.uint8), labels[1].data.astype(np.uint8), fixed.affine)
    raised = {each.name: each.level for each in found.checks if each.level != "passed"}
    return Row(name, pair.name, change or "", error, found.measures, raised)


def table(rows: list[Row]) -> str:
    """Shares of the pairs that raise checks, with 95% intervals, by list and change."""
    lines = ["| pairs | number | error mm, median | any check raised | failed |", "|---|---|---|---|---|"]
    for key in dict.fromkeys((row.list, row.change) for row in rows):
        some = [row for row in rows if (row.list, row.change) == key]
        known = [row.error for row in some if math.isfinite(row.error)]
        middle = f"{np.median(known):.2f}" if known else "-"
        shares = [
            _share(sum(map(test, some)), len(some)) for test in (lambda row: bool(row.raised), lambda row: row.failed)
        ]
        lines.append(f"| {' '.join(filter(None, key))} | {len(some)} | {middle} | {' | '.join(shares)} |")
    return "\n".join(lines)


def _share(hits: int, count: int) -> str:
    low, high = wilson(hits, count)
    return f"{hits} ({low:.0%} to {high:.0%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("lists", nargs="+", type=Path)
    parser.add_argument("--floor", action="store_true")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for path in given.lists:
        for number, pair in enumerate(read_pairs(path)):
            for change in (None, *(FLOOR if given.floor else ())):
                rows.append(checked(path.parent.name, pair, change, number))
                row = rows[-1]
                print(f"{row.list} {row.name} {row.change} {row.error:.2f}: {row.raised or 'all passed'}", flush=True)
    print(table(rows))
    if given.output:
        with given.output.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["list", "pair", "change", "error_mm", "checks", *Measures._fields])
            for row in rows:
                raised = "; ".join(f"{name}: {level}" for name, level in row.raised.items())
                values = row.measures or [""] * len(Measures._fields)
                writer.writerow([row.list, row.name, row.change, f"{row.error:.4f}", raised, *values])


if __name__ == "__main__":
    main()

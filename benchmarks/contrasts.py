"""Dice beside tuned SyN for many contrasts, for whole heads and for far starts: ``python benchmarks/contrasts.py``.

Every list of pairs of the splits ``contrasts``, ``heads`` and ``far`` (simulated where they are not there yet), the
first 16 pairs of each, one thread. Writes one CSV a list (a row per pair and method) into ``results/contrasts`` and
prints one table.
"""

import argparse
from pathlib import Path

import numpy as np

from crossmorph import DEFAULT_MODELS
from crossmorph.datasets.phantom import prepare_phantom
from crossmorph.datasets.test_splits import default_pairs
from crossmorph.evaluation.evaluate import evaluate
from crossmorph.evaluation.results import Row

METHODS = ("none", "affine", "syn-tuned", "start", "crossmorph", "oracle")
SPLITS = ("contrasts", "heads", "far")
THREADS = 1


def main() -> None:
    options = read_options()
    if not options.data.exists():
        options.data.parent.mkdir(parents=True, exist_ok=True)
        prepare_phantom(options.data, extra=default_pairs(SPLITS))
    options.results.mkdir(parents=True, exist_ok=True)
    print(f"| pairs | {' | '.join(options.methods)} |\n|---|{'---|' * len(options.methods)}")
    for split in SPLITS:
        for pairs in sorted((options.data / split).glob("pairs*.csv")):
            name = "-".join([split, *pairs.stem.split("-")[1:]])
            output = options.results / f"{name}.csv"
            rows = evaluate(pairs, options.methods, output, options.model, THREADS, options.pairs)
            cells = [f"{100 * mean_dice(rows, method):.1f}" for method in options.methods]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


def mean_dice(rows: list[Row], method: str) -> float:
    return float(np.mean([row.scores["dice"] for row in rows if row.method == method and "dice" in row.scores]))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=16, metavar="N", help="the first N of a list (16)")
    parser.add_argument("--methods", type=lambda names: names.split(","), default=METHODS, metavar="A,B,..")
    parser.add_argument("--model", default=DEFAULT_MODELS[2], metavar="NAME", help=f"our weights ({DEFAULT_MODELS[2]})")
    parser.add_argument("--data", type=Path, default=Path("data/phantom-extra"), metavar="FOLDER")
    parser.add_argument("--results", type=Path, default=Path("results/contrasts"), metavar="FOLDER")
    return parser.parse_args()


if __name__ == "__main__":
    main()

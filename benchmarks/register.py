"""Accuracy and time beside the peers on the phantom's two test splits, in one run: ``make bench``.

Simulates the data and trains VoxelMorph (half an hour) where they are not there yet, and runs every method on the same
pairs, the first 48 of each split, on one thread. Writes ``results/phantom-test.csv`` and ``results/phantom-rough.csv``
(a row per pair and method) and ``results/accuracy-time.png`` and ``.pdf``, prints the tables of the slices, and
how many times as fast as each peer we are. ``--help`` lists what can be narrowed down.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from picture import draw_accuracy_time

from crossmorph import DEFAULT_MODELS
from crossmorph.datasets.phantom import prepare_phantom
from crossmorph.evaluation.baselines import voxelmorph
from crossmorph.evaluation.evaluate import METHODS, PEERS, evaluate
from crossmorph.evaluation.results import Summary, caption, markdown_table, summarise
from crossmorph.training.config import load_config
from crossmorph.training.train import train

SPLITS = ("test", "rough")
PAIRS = 48
THREADS = 1
CONFIG = Path(__file__).parents[1] / "configs" / "voxelmorph.yaml"


def main() -> None:
    options = read_options()
    if not options.data.exists():
        options.data.parent.mkdir(parents=True, exist_ok=True)
        prepare_phantom(options.data, rough=True)
    if "voxelmorph" in options.methods and not voxelmorph.RUN.exists():
        train(load_config(CONFIG, [f"output={voxelmorph.RUN}"]))
    options.results.mkdir(parents=True, exist_ok=True)
    summaries = {}
    for split in SPLITS:
        pairs = options.data / split / "pairs.csv"
        output = options.results / f"phantom-{split}.csv"
        rows = evaluate(pairs, options.methods, output, options.model, THREADS, options.pairs)
        summaries[split] = summarise(rows)
        below = caption(pairs, rows, options.model, THREADS)
        count = len({row.pair for row in rows})
        print(f"\n{split}, the first {count} pairs\n\n{markdown_table(summaries[split], below)}\n")
        print_speed(summaries[split])
    for suffix in (".png", ".pdf"):
        draw_accuracy_time(options.results / f"accuracy-time{suffix}", summaries)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=PAIRS, metavar="N", help=f"the first N of a split ({PAIRS})")
    parser.add_argument("--methods", type=lambda names: names.split(","), default=METHODS, metavar="A,B,..")
    parser.add_argument("--model", default=DEFAULT_MODELS[2], metavar="NAME", help=f"our weights ({DEFAULT_MODELS[2]})")
    parser.add_argument("--data", type=Path, default=Path("data/phantom"), metavar="FOLDER")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER")
    return parser.parse_args()


def print_speed(summaries: Sequence[Summary]) -> None:
    seconds = {summary.method: summary.scores["seconds"].median for summary in summaries if "seconds" in summary.scores}
    if "crossmorph" in seconds:
        for peer in [name for name in PEERS if name in seconds]:
            print(f"crossmorph takes 1/{seconds[peer] / seconds['crossmorph']:.1f} of the time of {peer}")


if __name__ == "__main__":
    main()

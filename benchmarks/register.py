"""Accuracy and time beside ANTs on the phantom's two test splits, in one run: ``make bench``.

Simulates the data where it is not there yet, writes ``results/phantom-test.csv`` and ``results/phantom-rough.csv`` (a
row per pair and method), prints the tables that the README shows, and how many times as fast as ANTs' SyN we are.
"""

from pathlib import Path

from crossmorph import DEFAULT_MODEL
from crossmorph.data.phantom import prepare_phantom
from crossmorph.evaluation import evaluate
from crossmorph.results import caption, markdown_table, summarise

DATA = Path("data/phantom")
RESULTS = Path("results")
METHODS = ("none", "affine", "syn", "syn-tuned", "coarse", "crossmorph", "oracle")
THREADS = 1


def main() -> None:
    if not DATA.exists():
        DATA.parent.mkdir(exist_ok=True)
        prepare_phantom(DATA, rough=True)
    RESULTS.mkdir(exist_ok=True)
    for split in ("test", "rough"):
        pairs = DATA / split / "pairs.csv"
        rows = evaluate(pairs, METHODS, RESULTS / f"phantom-{split}.csv", threads=THREADS)
        summaries = summarise(rows)
        seconds = {
            summary.method: summary.scores["seconds"].median for summary in summaries if "seconds" in summary.scores
        }
        print(f"\n{split}\n\n{markdown_table(summaries, caption(pairs, rows, DEFAULT_MODEL, THREADS))}\n")
        for peer in ("syn", "syn-tuned"):
            print(f"crossmorph is {seconds[peer] / seconds['crossmorph']:.1f} times as fast as {peer}")


if __name__ == "__main__":
    main()

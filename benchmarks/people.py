"""Every method on real people's anatomy, beside its peers: ``make bench-real DATA=FOLDER``.

    python benchmarks/people.py FOLDER [--methods A,B,..] [--sets A,B,..] [--pairs N] [--results FOLDER]

Each folder in FOLDER that holds a ``pairs.csv`` with labels is a set (``benchmarks/people_sets.py`` makes them). Every
method runs once on every pair in a process of its own, on one thread: seconds are those of the registration alone, of
images in memory, in a process that has registered nothing yet; the peak memory is the process', so that ``none`` shows
what Python and the images take. ``start``, ``coarse``, ``crossmorph`` and ``crossmorph-refined`` are our stages one
after the other: initial affine, coarse network, fine network (``--refine off``), refinement (the default).

Writes ``SET.csv`` after each row, ``people.md`` (a table for each set) and ``people.html`` (worst pairs first, with
pictures, which are kept in ``SET.pictures``). A run that is started again measures only what is missing; rows with an
error are measured again.
"""

import argparse
import csv
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from crossmorph import DEFAULT_MODELS, InputError, load_model
from crossmorph.datasets.pairs import Pair, read_pairs
from crossmorph.evaluation.evaluate import load_case, runner, score
from crossmorph.evaluation.results import Row, caption, markdown_rows, read_rows, statistic
from crossmorph.reports.evaluation_page import Study, draw_pictures, origin, page
from crossmorph.system.files import atomic_output

METHODS = (
    *("none", "affine", "syn", "syn-tuned", "elastix", "greedy"),
    *("start", "coarse", "crossmorph", "crossmorph-refined"),
)
SCORES = ("dice", "hd95_mm", "folds_percent", "min_jacobian", "seconds", "cpu_seconds", "peak_mib", "threads")
HEADINGS = {
    "none": "unregistered",
    "affine": "ANTs affine",
    "syn": "ANTs SyN, default",
    "syn-tuned": "ANTs SyN, tuned",
    "start": "crossmorph, initial affine",
    "coarse": "crossmorph, coarse network",
    "crossmorph": "crossmorph, fine network (`--refine off`)",
    "crossmorph-refined": "**crossmorph**",
}
COMPARED = (("crossmorph-refined", "syn-tuned"), ("crossmorph", "syn"), ("crossmorph-refined", "affine"))
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "1")
MODEL = DEFAULT_MODELS[3]


def main() -> None:
    options = read_options()
    if options.one:
        print(json.dumps(measure(Path(options.data), *options.one)))
        return
    options.results.mkdir(parents=True, exist_ok=True)
    sets = {path.parent.name: path for path in sorted(options.data.glob("*/pairs.csv"))}
    missing = [name for name in options.sets or () if name not in sets]
    if missing or not sets:
        raise InputError(f"{options.data}: sets {missing or 'none'} are missing; expected folders with a pairs.csv")
    for name in options.sets or sets:
        measure_set(name, sets[name], options)
    studies = [study_of(name, path, options.results) for name, path in sets.items()]
    write_results(options.results, [study for study in studies if study.rows], sets)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="FOLDER")
    parser.add_argument("--methods", type=lambda names: names.split(","), default=METHODS, metavar="A,B,..")
    parser.add_argument("--sets", type=lambda names: names.split(","), metavar="A,B,..", help="default: all")
    parser.add_argument("--pairs", type=int, metavar="N", help="the first N of each set; default: all")
    parser.add_argument("--results", type=Path, default=Path("results/people"), metavar="FOLDER")
    parser.add_argument("--one", nargs=2, metavar=("PAIR", "METHOD"), help=argparse.SUPPRESS)
    return parser.parse_args()


# --- measurement -----------------------------------------------------------------------------------------------------


def measure_set(name: str, pairs_csv: Path, options: argparse.Namespace) -> None:
    """Measure what the set's CSV does not have yet, pair by pair; the CSV is whole after each row."""
    output, pictures = options.results / f"{name}.csv", options.results / f"{name}.pictures"
    pictures.mkdir(exist_ok=True)
    rows = {(row.pair, row.method): row for row in (read_rows(output) if output.exists() else ()) if not row.error}
    for pair in read_pairs(pairs_csv)[: options.pairs]:
        for method in options.methods:
            if (pair.name, method) not in rows:
                rows[pair.name, method] = row = in_process(pairs_csv, pair, method, pictures)
                write_whole(output, list(rows.values()))
                shown = " ".join(f"{key}={value:.4g}" for key, value in row.scores.items())
                print(name, pair.name, method, shown or row.error, flush=True)


def in_process(pairs_csv: Path, pair: Pair, method: str, pictures: Path) -> Row:
    """The row of one pair and method, measured by a process of its own, whose pictures are kept in a file."""
    command = [sys.executable, __file__, str(pairs_csv), "--one", pair.name, method]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | ONE_THREAD)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"]
        return Row(pair.name, method, {}, lines[-1])
    found = json.loads(done.stdout.splitlines()[-1])
    (pictures / f"{pair.name}.{method}.json").write_text(json.dumps(found.pop("pictures")), encoding="utf-8")
    return Row(pair.name, method, found)


def measure(pairs_csv: Path, name: str, method: str) -> dict[str, object]:
    """Register one pair by one method: its scores, seconds and memory, and small pictures of it."""
    (pair,) = (pair for pair in read_pairs(pairs_csv) if pair.name == name)
    case = load_case(pair)
    run = runner(method, partial(load_model, MODEL), threads=1)
    began = time.process_time()
    outcome = run(case)
    used = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    scores = score(case, outcome) | {"cpu_seconds": used, "peak_mib": peak, "threads": 1}
    return {name: scores[name] for name in SCORES if name in scores} | {"pictures": draw_pictures(case, outcome.warp)}


def write_whole(path: Path, rows: Sequence[Row]) -> None:
    with atomic_output(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["pair", "method", *SCORES, "error"])
        for row in rows:
            cells = [f"{row.scores[name]:.6g}" if name in row.scores else "" for name in SCORES]
            writer.writerow([row.pair, row.method, *cells, row.error])


# --- tables and page -------------------------------------------------------------------------------------------------


def study_of(name: str, pairs_csv: Path, results: Path) -> Study:
    """The rows of a set in the order of its pairs and of the methods, with the pictures that were kept."""
    path, pictures = results / f"{name}.csv", {}
    place = {pair.name: number for number, pair in enumerate(read_pairs(pairs_csv))}
    rows = [row for row in (read_rows(path) if path.exists() else ()) if row.pair in place]
    rows.sort(key=lambda row: (place[row.pair], METHODS.index(row.method)))
    for row in rows:
        kept = results / f"{name}.pictures" / f"{row.pair}.{row.method}.json"
        if kept.exists():
            pictures[row.method, row.pair] = json.loads(kept.read_text(encoding="utf-8"))
    methods = [method for method in METHODS[::-1] if any(row.method == method for row in rows)]
    return Study(name, rows, methods, pictures)


def write_results(results: Path, studies: Sequence[Study], sets: dict[str, Path]) -> None:
    """Write the tables as Markdown and the page, and print the tables."""
    parts = []
    for study in studies:
        below = caption(sets[study.title], study.rows, MODEL, 1)
        parts.append("\n\n".join([f"## {study.title}", table_of(study.rows), *differences(study.rows), below]))
    text = "\n\n".join(parts) + "\n"
    (results / "people.md").write_text(text, encoding="utf-8")
    methods = {row.method for study in studies for row in study.rows}
    provenance = {"command": "make bench-real DATA=FOLDER", **origin([*methods], MODEL, 1)}
    html = page("Methods on people", studies, parts, [], provenance)
    (results / "people.html").write_text(html, encoding="utf-8")
    print(text)


def table_of(rows: Sequence[Row]) -> str:
    """A row for each method: means, of seconds and memory medians, over the pairs that it has."""
    table = [["", "pairs", "Dice % [95% interval]", "HD95 mm", "folds %", "s", "CPU s", "peak MiB", "threads"]]
    for method in METHODS:
        known = [row.scores for row in rows if row.method == method and not row.error]
        failed = sum(row.method == method and bool(row.error) for row in rows)
        if known:
            values = {name: statistic(np.array([row.get(name, math.nan) for row in known])) for name in SCORES}
            dice = values["dice"]
            table.append(
                [
                    HEADINGS.get(method, method),
                    f"{len(known)}" + (f" ({failed} failed)" if failed else ""),
                    f"{100 * dice.mean:.1f}" + interval(100 * dice.low, 100 * dice.high),
                    f"{values['hd95_mm'].mean:.2f}",
                    f"{values['folds_percent'].mean:.3f}",
                    *("-" if method == "none" else f"{values[name].median:.1f}" for name in ("seconds", "cpu_seconds")),
                    f"{values['peak_mib'].median:.0f}",
                    "1",
                ]
            )
    return markdown_rows(table)


def interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f" [{low:.1f}, {high:.1f}]"


def differences(rows: Sequence[Row]) -> list[str]:
    """Ours from its peers, pair by pair: mean difference of Dice, its interval and range, and the ratio of times."""
    found = {(row.method, row.pair): row.scores for row in rows if not row.error}
    lines = []
    for ours, peer in COMPARED:
        pairs = [pair for method, pair in found if method == ours and (peer, pair) in found]
        if pairs:
            gains = np.array([100 * (found[ours, pair]["dice"] - found[peer, pair]["dice"]) for pair in pairs])
            gain = statistic(gains)
            ratios = [
                np.median([found[peer, pair][name] / found[ours, pair][name] for pair in pairs])
                for name in ("seconds", "cpu_seconds")
            ]
            lines.append(
                f"{ours} - {peer}: {gain.mean:+.1f} points of Dice{interval(gain.low, gain.high)}, by pair "
                f"{gains.min():+.1f} to {gains.max():+.1f} ({len(pairs)} pairs); {peer} takes {ratios[0]:.1f} times as "
                f"long ({ratios[1]:.1f} times the CPU seconds)."
            )
    return lines


if __name__ == "__main__":
    main()

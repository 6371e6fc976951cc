"""One image of each side or two: ``python benchmarks/several_images.py --anatomies FOLDER -o FILE``.

Pairs of different test people (``crossmorph prepare anatomies``), brains at 2 mm, with simulated T1w and T2w images,
whose noise differs in the moving person's two images and is the same in the fixed person's. They are registered by one
contrast, T1w to T1w and T2w to T2w, across contrasts, T2w to T1w, and by both contrasts at once. Dice over all labels,
and the differences of two images to one with 95% bootstrap intervals over the pairs. Rows that are in the file already
are not measured again. One thread.
"""

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
import torch

from crossmorph import load_model, read_image
from crossmorph.datasets.pairs import Pair, read_pairs
from crossmorph.datasets.people_pairs import pairs_spec, prepare_people
from crossmorph.functional import metrics
from crossmorph.registration.evidence import Evidence
from crossmorph.registration.register_images import register_images
from crossmorph.transforms.warp import resample, voxel_displacement

WAYS = ("T1w", "T2w", "T2w to T1w")
BOTH = "T1w and T2w"
COLUMNS = ("pair", "way", "dice", "folds_percent")
RESAMPLES = 5000  # of the bootstrap


def measure(cross: Pair, back: Pair, way: str) -> dict[str, object]:
    """The row of a pair of people in one way, of lists from T2w to T1w and from T1w to T2w."""
    assert cross.moving_same is not None
    files = {
        "T1w": (cross.moving_same, cross.fixed),
        "T2w": (cross.moving, back.fixed),
        "T2w to T1w": (cross.moving, cross.fixed),
    }
    pair, second = (tuple(map(read_image, files[each])) for each in ("T1w" if way == BOTH else way, "T2w"))
    others = ((second[0], second[1]),) if way == BOTH else ()
    found = register_images(pair[0], pair[1], load_model("any-3d"), evidence=Evidence(others))
    assert cross.moving_labels is not None
    assert cross.fixed_labels is not None
    moved = resample(read_image(cross.moving_labels, labels=True), found.warp, "nearest")
    dice = metrics.mean_dice(moved.data, read_image(cross.fixed_labels, labels=True).data)
    folds = metrics.folds_percent(voxel_displacement(found.warp))
    return dict(zip(COLUMNS, (cross.name, way, dice, folds), strict=True))


def summary(rows: list[dict[str, str]]) -> str:
    """Means, and what two images add to one."""
    scores = {way: {row["pair"]: float(row["dice"]) for row in rows if row["way"] == way} for way in (*WAYS, BOTH)}
    lines = ["| registered by | Dice | both less this, points |", "|---|---|---|"]
    rng = np.random.default_rng(0)
    for way, of_pairs in scores.items():
        gain = 100 * np.array([scores[BOTH][pair] - dice for pair, dice in of_pairs.items()])
        low, high = np.quantile(rng.choice(gain, (RESAMPLES, len(gain))).mean(1), (0.025, 0.975))
        added = "" if way == BOTH else f"{gain.mean():+.1f} ({low:+.1f} to {high:+.1f})"
        lines.append(f"| {way} | {np.mean([*of_pairs.values()]):.3f} | {added} |")
    folds = max(float(row["folds_percent"]) for row in rows)
    return "\n".join([*lines, f"{len(scores[BOTH])} pairs; folds at most {folds:g}% of the cells"])


def main() -> None:
    """Measure what is missing in the table, and print its summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anatomies", type=Path, required=True, help="folder that crossmorph prepare anatomies wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, help="table to write or to go on with, .csv")
    parser.add_argument("--pairs", type=int, default=10)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, str]] = list(csv.DictReader(chosen.output.open())) if chosen.output.exists() else []
    done = {(row["pair"], row["way"]) for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        lists = []
        for moving, fixed in (("t2", "t1"), ("t1", "t2")):
            spec = pairs_spec(split="test", pairs=chosen.pairs, show="brains", moving=moving, fixed=fixed)
            lists.append(read_pairs(prepare_people(chosen.anatomies, Path(folder, moving), spec)))
        for cross, back in zip(*lists, strict=True):
            for way in (*WAYS, BOTH):
                if (cross.name, way) in done:
                    continue
                row = measure(cross, back, way)
                rows.append({name: str(value) for name, value in row.items()})
                with chosen.output.open("w", newline="") as stream:
                    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
                    writer.writeheader()
                    writer.writerows(rows)
    print(summary(rows))


if __name__ == "__main__":
    main()

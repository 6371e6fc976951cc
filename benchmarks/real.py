"""Real brains of other modality, beside ANTs: ``python benchmarks/real.py --mni FOLDER --colin FOLDER``.

The MNI152 T2w head (2 mm) and nilearn's ICBM152 T1w brain (1 mm), one to the other and back, and Colin27's T1w brain
and head (1 mm) to the MNI152 T2w head and back. No true field is known, so each is scored by a pair of T1w images: of
the MNI152 head by its T1w image, which no method sees. Correlation and mean squared error (of images scaled to [0, 1])
are taken inside the fixed image's brain mask. Every method runs once on every pair in a process of its own, on one
thread, which tells its seconds and CPU seconds (of the registration alone) and its peak memory. Writes ``real.csv`` and
a picture of three planes for each, prints a table.

``--mni`` holds ``MNI152_T1_2mm.nii.gz``, ``MNI152_T2_2mm.nii.gz`` and ``brain_mask_dilated_2mm.nii.gz``; ``--colin``
holds ``ch2.nii.gz`` and ``ch2bet.nii.gz`` (Debian's package mricron-data, in /usr/share/mricron/templates).
"""

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np

from crossmorph import Image, load_model, read_image
from crossmorph.evaluation.evaluate import Case, runner
from crossmorph.functional import metrics
from crossmorph.images.image import scale_intensity
from crossmorph.reports.figure import write_picture
from crossmorph.transforms.warp import resample, voxel_displacement

METHODS = "none,affine,syn,crossmorph,crossmorph-refined"
PAIRS = (
    *(("mni", "icbm"), ("icbm", "mni")),
    *(("colin-brain", "mni"), ("colin-head", "mni"), ("mni", "colin-brain"), ("mni", "colin-head")),
)
COLUMNS = ("pair", "method", "ncc", "mse_percent", "folds_percent", "seconds", "cpu_seconds", "peak_mib")


class Scan(NamedTuple):
    """What is registered, the T1w image on the same grid that it is scored by, and where the brain is (as fixed)."""

    seen: Path
    t1: Path
    brain: Path | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mni", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--colin", type=Path, metavar="FOLDER", help="default: the first two pairs only")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--pairs", type=lambda names: names.split(","), metavar="A,B,..", help="as mni-colin-head")
    parser.add_argument("--model", default="any-3d", metavar="NAME", help="weights for volumes")
    parser.add_argument("--results", type=Path, default=Path("results/real"), metavar="FOLDER")
    parser.add_argument("--one", nargs=3, metavar=("MOVING", "FIXED", "METHOD"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    if arguments.one:
        print(json.dumps(score(arguments, *arguments.one)))
        return
    rows = []
    for moving, fixed in chosen(arguments):
        for method in arguments.methods.split(","):
            command = [sys.executable, *sys.argv, "--one", moving, fixed, method]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            row = {"pair": f"{moving} to {fixed}", "method": method, **json.loads(printed.splitlines()[-1])}
            rows.append(row)
            print(
                "| " + " | ".join(f"{row[name]:.4g}" if name in COLUMNS[2:] else row[name] for name in COLUMNS) + " |"
            )
            sys.stdout.flush()
    with (arguments.results / "real.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def chosen(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """The pairs that were asked for, or those that the folders allow."""
    allowed = PAIRS if arguments.colin else PAIRS[:2]
    return [pair for pair in allowed if not arguments.pairs or "-".join(pair) in arguments.pairs]


def scans(mni: Path, colin: Path | None, folder: Path) -> dict[str, Scan]:
    """All scans by name; nilearn's are written into the folder."""
    from nilearn import datasets

    brain, mask = folder / "icbm.nii.gz", folder / "icbm_mask.nii.gz"
    nibabel.save(datasets.load_mni152_template(resolution=1), brain)
    nibabel.save(datasets.load_mni152_brain_mask(resolution=1), mask)
    found = {
        "mni": Scan(mni / "MNI152_T2_2mm.nii.gz", mni / "MNI152_T1_2mm.nii.gz", mni / "brain_mask_dilated_2mm.nii.gz"),
        "icbm": Scan(brain, brain, mask),
    }
    if colin is not None:
        stripped, head = colin / "ch2bet.nii.gz", colin / "ch2.nii.gz"  # above 0 is the brain
        found |= {"colin-brain": Scan(stripped, stripped, stripped), "colin-head": Scan(head, head, stripped)}
    return found


def score(arguments: argparse.Namespace, moving: str, fixed: str, method: str) -> dict[str, float]:
    """Register one pair by one method, draw it, and say how well its T1w images then agree."""
    with tempfile.TemporaryDirectory(prefix="crossmorph-real-") as folder:
        found = scans(arguments.mni, arguments.colin, Path(folder))
        source, target = found[moving], found[fixed]
        case = Case(read_image(source.seen), read_image(target.seen))
        moving_t1, fixed_t1 = read_image(source.t1), read_image(target.t1)
        assert target.brain is not None
        brain = read_image(target.brain, labels=True).data > 0
    run = runner(method, partial(load_model, arguments.model), threads=1)
    began = time.process_time()
    outcome = run(case)
    used = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    moved, still = (scale_intensity(image.data).data for image in (resample(moving_t1, outcome.warp), fixed_t1))
    picture = arguments.results / f"{moving}-{fixed}-{method}.png"
    scaled = Image(scale_intensity(moving_t1.data).data, moving_t1.affine)
    write_picture(picture, moving_t1, fixed_t1, outcome.warp, scaled, f"{moving} to {fixed}, {method} (T1w)")
    return {
        "ncc": metrics.ncc(moved, still, brain),
        "mse_percent": float(100 * np.mean((moved - still)[brain] ** 2)),
        "folds_percent": metrics.folds_percent(voxel_displacement(outcome.warp)),
        "seconds": outcome.seconds or 0.0,
        "cpu_seconds": used,
        "peak_mib": peak,
    }


if __name__ == "__main__":
    main()

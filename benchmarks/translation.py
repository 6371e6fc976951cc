"""How well real images are translated: ``python benchmarks/translation.py --mni FOLDER --patient FOLDER``.

The T2w and T1w head of MNI152, and T1w, T2w and FLAIR of a patient with multiple sclerosis, each in one space, so that
what a translated image should look like is known: the fixed image itself. Beside it stands the best that any function
of the intensity alone can reach, which knows that truth: the mean of the fixed image over the voxels of each of 64
ranges of the moving image's intensity. Both are compared with the fixed image, scaled to [0, 1], in the brain:
correlation, PSNR, and SSIM over the box around the brain with nothing outside the mask. As both images lie in one
space, the mean displacement in the brain is an error too.

``--mni`` holds ``MNI152_T1_2mm.nii.gz``, ``MNI152_T2_2mm.nii.gz`` and ``brain_mask_dilated_2mm.nii.gz``; ``--patient``
the files of one patient of Lesjak et al. (2016) in MNI space, whose names begin with ``T1_``, ``T2_`` and ``FLAIR_``.
Writes ``translation.csv``, prints a table.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy import ndarray
from scipy import ndimage

from crossmorph import Image, read_image, register
from crossmorph.evaluation.results import markdown_rows
from crossmorph.functional import metrics
from crossmorph.registration.settings import Refine

RANGES = 64  # of intensity
COLUMNS = ("pair", "method", "correlation", "psnr", "ssim", "displacement_mm")


class Pair(NamedTuple):
    """Images of one head on one grid, and where its brain is."""

    name: str
    moving: Image
    fixed: Image
    brain: ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mni", type=Path, metavar="FOLDER")
    parser.add_argument("--patient", type=Path, metavar="FOLDER")
    parser.add_argument("--results", type=Path, default=Path("results/translation"), metavar="FOLDER")
    options = parser.parse_args()
    if not options.mni and not options.patient:
        parser.error("expected --mni or --patient")
    torch.set_num_threads(1)
    rows = []
    for pair in (*heads(options.mni), *patients(options.patient)):
        truth = pair.fixed.scaled().data
        images = {
            "moving image": (pair.moving.scaled().data, None),
            "function of intensity": (by_intensity(pair.moving.data, truth, pair.brain), None),
            "crossmorph, `--refine off`": translated(pair, "off"),
            "crossmorph": translated(pair, "auto"),
        }
        for method, (image, moved) in images.items():
            found = (f"{score:.3f}" for score in scores(image, truth, pair.brain))
            rows.append([pair.name, method, *found, "-" if moved is None else f"{moved:.2f}"])
            print(*rows[-1], flush=True)
    options.results.mkdir(parents=True, exist_ok=True)
    with (options.results / "translation.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([COLUMNS, *rows])
    print(f"\n{markdown_rows([COLUMNS, *rows])}\n\none thread; wrote {options.results / 'translation.csv'}")


def heads(folder: Path | None) -> Iterator[Pair]:
    """T2w to T1w of MNI152 and back."""
    if folder:
        t1, t2 = (read_image(folder / f"MNI152_{name}_2mm.nii.gz") for name in ("T1", "T2"))
        brain = read_image(folder / "brain_mask_dilated_2mm.nii.gz").data > 0
        yield Pair("MNI152 head, T2w to T1w", t2, t1, brain)
        yield Pair("MNI152 head, T1w to T2w", t1, t2, brain)


def patients(folder: Path | None) -> Iterator[Pair]:
    """T2w and FLAIR to T1w of a patient and back; the images show nothing but the brain."""
    if folder:
        images = {name: read_image(next(folder.glob(f"{name}_*.nii.gz"))) for name in ("T1", "T2", "FLAIR")}
        brain = np.all([image.data > 0 for image in images.values()], axis=0)
        for moving, fixed in (("T2", "T1"), ("FLAIR", "T1"), ("T1", "T2"), ("T1", "FLAIR"), ("T2", "FLAIR")):
            yield Pair(f"patient, {moving} to {fixed}", images[moving], images[fixed], brain)


def translated(pair: Pair, refine: Refine) -> tuple[ndarray, float]:
    """The translated image, and the mean displacement in the brain, mm."""
    result = register(pair.moving, pair.fixed, refine=refine)
    displacement = np.linalg.norm(result.registered.warp.displacement, axis=0)
    return np.asarray(result.translated.data), float(displacement[pair.brain].mean())


def by_intensity(moving: ndarray, truth: ndarray, inside: ndarray) -> ndarray:
    """The function of the moving image's intensity with the least squared error to the truth, in steps."""
    edges = np.quantile(moving[inside], np.linspace(0, 1, RANGES + 1)[1:-1])
    ranges = np.searchsorted(edges, moving)
    sums = np.bincount(ranges[inside], truth[inside], RANGES)
    counts = np.bincount(ranges[inside], minlength=RANGES)
    return np.asarray((sums / np.maximum(counts, 1))[ranges])


def scores(image: ndarray, truth: ndarray, inside: ndarray) -> tuple[float, float, float]:
    """Correlation, PSNR and SSIM in the brain."""
    (box,) = ndimage.find_objects(inside.astype(int))
    shown, true = (np.where(inside, values, 0)[box] for values in (image, truth))
    return metrics.ncc(image, truth, inside), metrics.psnr(image[inside], truth[inside]), metrics.ssim(shown, true)


if __name__ == "__main__":
    main()

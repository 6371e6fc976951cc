"""Slices of pairs of people: ``python benchmarks/people_slices.py VOLUMES -o FOLDER``.

VOLUMES is a set of aligned volumes with labels, such as

    crossmorph prepare people ANATOMIES -o VOLUMES --split test --aligned --spacing 1.5 --pairs 8

The moving volume is resampled on the fixed one's grid, and axial, coronal and sagittal slices are cut from both at the
same places of the fixed brain (``PLACES``). FOLDER then holds 2-D images with their labels and a ``pairs.csv`` for
``crossmorph evaluate``. A slice of another person at the same place shows other folds of the cortex and, in part, other
structures: no method can reach the Dice of volumes.
"""

import argparse
from pathlib import Path

import numpy as np

from crossmorph.datasets.pairs import Pair, read_pairs, write_pairs
from crossmorph.datasets.writing import new_dataset
from crossmorph.errors import InputError
from crossmorph.evaluation.evaluate import load_case
from crossmorph.images.image import Image
from crossmorph.images.io import write_image
from crossmorph.transforms.warp import Warp, resample

# Parts of the brain's extent along the axis, from right, posterior, inferior; axis by axis of images in RAS.
PLACES = {"sagittal": (0, (0.35,)), "coronal": (1, (0.35, 0.5, 0.65)), "axial": (2, (0.4, 0.55, 0.7))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volumes", type=Path, metavar="VOLUMES")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    options = parser.parse_args()
    with new_dataset(options.output) as folder:
        pairs = [slice_ for pair in read_pairs(options.volumes / "pairs.csv") for slice_ in slices_of(pair, folder)]
        write_pairs(folder / "pairs.csv", pairs)
    print(options.output / "pairs.csv")


def slices_of(pair: Pair, folder: Path) -> list[Pair]:
    """Write the slices of one pair of volumes, and name their files."""
    case = load_case(pair)
    if case.moving_labels is None or case.fixed_labels is None:
        raise InputError(f"{pair.name}: has no labels; expected moving_labels and fixed_labels")
    here = Warp.identity(case.fixed)
    volumes = {
        "moving": resample(case.moving, here),
        "fixed": case.fixed,
        "moving_labels": resample(case.moving_labels, here, "nearest"),
        "fixed_labels": case.fixed_labels,
    }
    brain = np.argwhere(case.fixed_labels.data > 0)
    first, last = brain.min(0), brain.max(0)
    found = []
    for plane, (axis, parts) in PLACES.items():
        for part in parts:
            place = round(first[axis] + part * (last[axis] - first[axis]))
            name = f"{pair.name}-{plane}-{place:03d}"
            files = {role: folder / f"{name}_{role}.nii.gz" for role in volumes}
            for role, volume in volumes.items():
                write_image(files[role], cut(volume, axis, place))
            found.append(Pair(name=name, **files))
    return found


def cut(volume: Image, axis: int, place: int) -> Image:
    """One slice as a 2-D image of its own."""
    sides = [side for other, side in enumerate(volume.spacing) if other != axis]
    return Image(np.ascontiguousarray(volume.data.take(place, axis)), np.diag([*sides, 1.0]), volume.physical)


if __name__ == "__main__":
    main()

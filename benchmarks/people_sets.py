"""Sets of test people for ``benchmarks/people.py``.

    python benchmarks/people_sets.py ANATOMIES -o FOLDER [--labels FOLDER --t1 FOLDER --splits CSV]

ANATOMIES is made by ``crossmorph prepare anatomies`` (docs/people.md says of which public maps and splits). Images
simulated on label maps, T2w registered to T1w, of different people in their positions in the scanner:

- ``brains-1mm``, ``brains-2mm``: skull-stripped brains of the split ``test``, maps of IXI;
- ``heads-1mm``, ``heads-2mm``: whole heads of the split ``validation``, maps of SynthSeg, whose test split is empty.

With ``--labels``, ``--t1`` (``IXI*_DLMUSE.nii.gz`` and ``IXI*_T1.nii.gz`` on the same grids) and ``--splits``, real
T1w heads of the people of the split ``test``:

- ``real-t1``: each to the next person's;
- ``real-t1-curve``: the same, the moving image under a contrast curve: inverted for every second pair, else a random
  one that rises and falls.
"""

import argparse
import csv
import shutil
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from crossmorph.datasets.pairs import Pair, write_pairs
from crossmorph.datasets.people_pairs import pairs_spec, prepare_people
from crossmorph.datasets.writing import new_dataset
from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import read_image, write_image

SIMULATED = {
    "brains-1mm": {"split": "test", "show": "brains", "spacing": 1.0, "pairs": 8},
    "heads-1mm": {"split": "validation", "show": "heads", "spacing": 1.0, "pairs": 6},
    "brains-2mm": {"split": "test", "show": "brains", "spacing": 2.0, "pairs": 8},
    "heads-2mm": {"split": "validation", "show": "heads", "spacing": 2.0, "pairs": 6},
}
KNOTS = 6  # of a random curve, over the range of intensities
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("anatomies", type=Path, metavar="ANATOMIES")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--labels", type=Path, metavar="FOLDER")
    parser.add_argument("--t1", type=Path, metavar="FOLDER")
    parser.add_argument("--splits", type=Path, metavar="CSV")
    options = parser.parse_args()
    if options.labels and options.t1 and options.splits:
        for name in ("real-t1", "real-t1-curve"):
            if not (options.output / name).exists():
                print(prepare_scans(options, options.output / name, curved=name.endswith("curve")), flush=True)
    for name, choices in SIMULATED.items():
        if not (options.output / name).exists():
            print(prepare_people(options.anatomies, options.output / name, pairs_spec(**choices)), flush=True)


def prepare_scans(options: argparse.Namespace, output: Path, curved: bool) -> Path:
    """Write pairs of real T1w heads with the labels of each; ``curved``: the moving ones under a contrast curve."""
    people = test_people(options.splits)
    scans = {path.name.split("-")[0]: path for path in sorted(options.t1.glob("*_T1.nii.gz"))}
    found = [person for person in people if person in scans]
    if len(found) < 2:
        raise InputError(f"{options.t1}: has T1w scans of {len(found)} test people; expected at least 2")
    with new_dataset(output) as folder:
        pairs = []
        for index, (moving, fixed) in enumerate(zip(found, [*found[1:], found[0]], strict=True)):
            files = {}
            for role, person in (("moving", moving), ("fixed", fixed)):
                (labels,) = options.labels.glob(f"{person}-*_DLMUSE.nii.gz")
                files[f"{role}_labels"] = folder / f"{index:04d}_{role}_labels.nii.gz"
                files[role] = folder / f"{index:04d}_{role}.nii.gz"
                shutil.copyfile(labels, files[f"{role}_labels"])
                shutil.copyfile(scans[person], files[role])
            if curved:
                scan = read_image(scans[moving])
                write_image(files["moving"], Image(under_curve(scan.data, index), scan.affine))
            pairs.append(Pair(name=f"{moving}-{fixed}", **files))
        write_pairs(folder / "pairs.csv", pairs)
    return output / "pairs.csv"


def test_people(splits: Path) -> list[str]:
    with splits.open(encoding="utf-8", newline="") as stream:
        return sorted(row["person"] for row in csv.DictReader(stream) if row["split"] == "test")


def under_curve(data: ndarray, index: int) -> Float[ndarray, "x y z"]:
    """The image with other intensities for its tissues; air, below a twentieth of the range, stays dark."""
    high = np.percentile(data, 99.5)
    unit = np.clip(data / high, 0, 1)
    rng = np.random.default_rng([SEED, index])
    heights = np.linspace(1, 0.1, KNOTS) if index % 2 == 0 else rng.uniform(0.1, 1, KNOTS)
    curved = np.interp(unit, np.linspace(0.05, 1, KNOTS), heights) * np.clip(unit / 0.05, 0, 1)
    return (high * curved).astype(np.float32)


if __name__ == "__main__":
    main()

"""``crossmorph longitudinal`` on real dates: ``python benchmarks/dates.py OPEN_MS -o FOLDER [--exchanged PATIENT]``.

OPEN_MS is a copy of the open MS data set of Lesjak et al. (Neuroinformatics 2016): the FLAIR scans of two dates of each
patient. Over the points of the authors' brain mask: the mean distance of the map from the first date to the second to
the authors' one (an affine map for each date, to a common space), by the rigid maps and with the deformation; the
change of volume as median and percentiles 1 and 99; with ``--exchanged`` the largest ``|log J_12 + log J_21|`` of the
dates given both ways, which is 0 where nothing depends on their order. What is finished in FOLDER is not made again.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from numpy import ndarray
from rigid import itk_matrix

from crossmorph import read_image
from crossmorph.transforms.warp import displacement_at, transform_points
from crossmorph.transforms.warp_files import read_transform
from crossmorph.workflows.longitudinal import JACOBIAN, volume_changes
from crossmorph.workflows.template import Template, make_template
from crossmorph.workflows.template_group import INVERSE, TRANSFORM, names_of

COLUMNS = ("patient", "rigid_mm", "deformed_mm", "volume_median", "volume_p1", "volume_p99", "asymmetry")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="OPEN_MS")
    parser.add_argument("--exchanged", nargs="*", default=[], metavar="PATIENT", help="patients to do both ways")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    with (options.output / "dates.csv").open("w", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(COLUMNS)
        for patient in sorted(options.folder.glob("patient*")):
            row = (patient.name, *scores(patient, options.output, patient.name in options.exchanged))
            rows.writerow(row)
            print(f"| {' | '.join(row)} |", flush=True)


def scores(patient: Path, output: Path, exchanged: bool) -> list[str]:
    images = [patient / f"study{date}_FLAIR.nii.gz" for date in (1, 2)]
    made = changed(images, output / f"{patient.name}-12")
    mask = read_image(patient / "brainmask.nii.gz", labels=True)
    brain = transform_points(mask.affine, np.argwhere(mask.data > 0)[::197].T.astype(np.float64))
    here, there = (
        transform_points(itk_matrix(patient / f"study{date}_FLAIR_to_common_space.txt"), brain) for date in (1, 2)
    )
    first, second = map(np.array, made.rounds[-1].matrices)
    folders = [made.path.parent / name for name in names_of(images)]
    middle = here + displacement_at(read_transform(folders[0] / INVERSE), here)
    ends = (
        transform_points(second @ np.linalg.inv(first), here),
        middle + displacement_at(read_transform(folders[1] / TRANSFORM), middle),
    )
    distances = [float(np.linalg.norm(end - there, axis=0).mean()) for end in ends]
    volume = at(folders[1] / JACOBIAN, middle)
    numbers = [*distances, *np.percentile(volume, (50, 1, 99))]
    if not exchanged:
        return [*(f"{number:.3f}" for number in numbers), ""]
    other = changed(images[::-1], output / f"{patient.name}-21")
    back = at(other.path.parent / names_of(images)[0] / JACOBIAN, middle)
    return [*(f"{number:.3f}" for number in numbers), f"{np.abs(np.log(volume) + np.log(back)).max():.1e}"]


def changed(images: list[Path], output: Path) -> Template:
    """The dates in their middle, with the maps of the change of volume."""
    made = make_template(images, output, 2, None, 0.0, "rigid", threads=1)
    volume_changes(made.path, names_of(images))
    return made


def at(path: Path, points: ndarray) -> ndarray:
    """The nearest voxels of a map."""
    image = read_image(path)
    voxels = np.rint(transform_points(np.linalg.inv(image.affine), points)).astype(int)
    last = np.array(image.shape)[:, None] - 1
    found: ndarray = image.data[tuple(voxels[:, ((voxels >= 0) & (voxels <= last)).all(0)])]
    return found


if __name__ == "__main__":
    main()

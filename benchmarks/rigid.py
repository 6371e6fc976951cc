"""How accurate rigid registration is, beside ANTs and SimpleITK: ``python benchmarks/rigid.py [FOLDER] -o ROWS.csv``.

Simulated: the brain of nilearn's tissue maps in two contrasts with noise and bias field, each image on a grid of its
own, one of them with thick slices in some pairs, apart by a known rigid motion; the error is the mean distance to it
over the brain. With FOLDER, a copy of the open MS data set of Lesjak et al. (Neuroinformatics 2016), patients in
``patientNN``: T1w and T2w to FLAIR, and the distance over the brain mask to the affine maps that its authors published,
which are good to about a millimetre. Each pair is registered as its headers lie and from elsewhere. One thread, all
methods one after the other, seconds of the processor: ``crossmorph.registration.linear``, ``ants.registration`` with
``"Rigid"``, and SimpleITK (``crossmorph.evaluation.baselines``).
"""

import argparse
import csv
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
import torch
from numpy import ndarray
from scipy.spatial.transform import Rotation
from torch.nn.functional import avg_pool3d

from crossmorph import Image, read_image
from crossmorph.evaluation.baselines import ants, simpleitk
from crossmorph.functional import spatial
from crossmorph.images.orientation import lps_to_ras
from crossmorph.registration.linear import register_linear
from crossmorph.simulation.anatomy import tissue_maps
from crossmorph.simulation.deformation import SMOOTH
from crossmorph.simulation.mri import Contrast, simulate
from crossmorph.transforms.grid import centre
from crossmorph.transforms.warp import Warp, displacement_at, transform_points

# Moving and fixed: contrast and millimetres of a voxel.
SIMULATED: tuple[tuple[Contrast, tuple[float, ...], Contrast, tuple[float, ...]], ...] = (
    ("t2", (1.2, 1.2, 1.2), "t1", (1.2, 1.2, 1.2)),
    ("flair", (0.9, 0.9, 3.0), "t1", (1.2, 1.2, 1.2)),
    ("t2", (0.9, 0.9, 4.0), "flair", (0.9, 0.9, 3.0)),
)
APART = ((5.0, 5.0), (30.0, 30.0))  # degrees and millimetres
COLUMNS = ("pair", "apart", "method", "error_mm", "seconds")
EXTENT = np.array((192.0, 230.0, 180.0))  # mm


class Case(NamedTuple):
    """Two images, the true map from fixed to moving space, and points of the brain in the fixed space."""

    name: str
    moving: Image
    fixed: Image
    truth: ndarray
    points: ndarray


def motion(rng: np.random.Generator, degrees: float, length: float, about: ndarray) -> ndarray:
    """A rotation about a random axis through a point, and a shift in a random direction."""
    axis, way = (direction / np.linalg.norm(direction) for direction in rng.standard_normal((2, 3)))
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.deg2rad(degrees) * axis).as_matrix()
    matrix[:3, 3] = about - matrix[:3, :3] @ about + length * way
    return matrix


def moved(image: Image, matrix: ndarray) -> Image:
    """The same voxels elsewhere in the world."""
    return replace(image, affine=matrix @ image.affine)


def simulated(contrast: Contrast, spacing: tuple[float, ...], rng: np.random.Generator) -> Image:
    """The brain on a grid turned by a few degrees, each voxel the mean of its own extent."""
    maps, affine = tissue_maps()
    shape = np.round(EXTENT / spacing).astype(int)
    turn = motion(rng, 4.0, 3.0, np.array((0.0, -17.0, 5.0)))
    grid = np.diag([*spacing, 1.0])
    grid[:3, 3] = np.array((0.0, -17.0, 5.0)) - (shape - 1) / 2 * spacing
    grid = turn @ grid
    parts = 2 * np.ceil(np.array(spacing)).astype(int) - 1  # of a voxel along each axis
    fine = grid.copy()
    fine[:3, :3] /= parts
    fine[:3, 3] -= fine[:3, :3] @ ((parts - 1) / 2)
    places = transform_points(np.linalg.inv(affine) @ fine, np.indices(shape * parts, np.float32))
    sampled = spatial.sample(torch.from_numpy(maps)[None], torch.from_numpy(places)[None].float(), outside="zero")
    fractions = avg_pool3d(sampled, tuple(parts.tolist()))[0].numpy()
    return Image(simulate(fractions, contrast, rng, SMOOTH), grid)


def simulated_cases(repeats: int) -> Iterator[Case]:
    maps, affine = tissue_maps()
    points = transform_points(affine, np.argwhere(maps.sum(0) > 0.5)[::199].T.astype(np.float64))
    for kind, (contrast, spacing, other, apart) in enumerate(SIMULATED):
        for number in range(repeats):
            rng = np.random.default_rng([17, kind, number])
            moving, fixed = simulated(contrast, spacing, rng), simulated(other, apart, rng)
            for degrees, length in APART:
                truth = motion(rng, degrees, length, centre(moving))
                sides = " to ".join("x".join(map(str, side)) for side in (spacing, apart))
                name = f"simulated, {contrast} to {other}, {sides} mm | {degrees:g} degrees, {length:g} mm"
                yield Case(name, moved(moving, truth), fixed, truth, points)


def itk_matrix(path: Path) -> ndarray:
    """A linear transform of ITK in RAS millimetres."""
    transform, matrix = sitk.ReadTransform(str(path)), np.eye(4)
    matrix[:3, 3] = transform.TransformPoint((0.0, 0.0, 0.0))
    matrix[:3, :3] = np.stack([transform.TransformPoint(row) for row in np.eye(3).tolist()], 1) - matrix[:3, 3:]
    return lps_to_ras(matrix) @ np.diag([-1.0, -1.0, 1.0, 1.0])


def real_cases(folder: Path) -> Iterator[Case]:
    rng = np.random.default_rng(3)
    for patient in sorted(folder.glob("patient*")):
        mask = read_image(patient / "brainmask.nii.gz", labels=True)
        brain = transform_points(mask.affine, np.argwhere(mask.data > 0)[::97].T.astype(np.float64))
        for path in sorted(patient.glob("*_intrastudy_to_FLAIR.txt")):
            study, contrast = path.name.split("_")[:2]
            source = patient / f"{study}_{contrast}.nii.gz"
            if not source.exists():
                continue
            moving, fixed = read_image(source), read_image(patient / f"{study}_FLAIR.nii.gz")
            points = transform_points(itk_matrix(patient / f"{study}_FLAIR_to_common_space.txt"), brain)
            truth = itk_matrix(path)
            name = f"{patient.name}, {study}, {contrast} to FLAIR"
            yield Case(f"{name} | headers", moving, fixed, truth, points)
            away = motion(rng, *APART[-1], centre(moving))
            name = f"{name} | {APART[-1][0]:g} degrees, {APART[-1][1]:g} mm away"
            yield Case(name, moved(moving, away), fixed, away @ truth, points)


def by_crossmorph(case: Case) -> tuple[ndarray, float]:
    began = time.perf_counter()
    matrix = register_linear(case.moving, case.fixed, "rigid").matrix
    return transform_points(matrix, case.points), time.perf_counter() - began


def by_ants(case: Case) -> tuple[ndarray, float]:
    found = ants.register(case.moving, case.fixed, "rigid")
    return ends(found.warp, case.points), found.seconds


def by_simpleitk(case: Case) -> tuple[ndarray, float]:
    found = simpleitk.register_rigid(case.moving, case.fixed)
    return ends(found.warp, case.points), found.seconds


def ends(warp: Warp, points: ndarray) -> ndarray:
    return points + displacement_at(warp, points)


METHODS: dict[str, Callable[[Case], tuple[ndarray, float]]] = {
    "crossmorph": by_crossmorph,
    "ANTs Rigid": by_ants,
    "SimpleITK": by_simpleitk,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", metavar="FOLDER")
    parser.add_argument("--repeats", type=int, default=1, metavar="N", help="simulated pairs of each kind")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME")
    parser.add_argument("-o", "--output", type=Path, default=Path("rigid.csv"), metavar="ROWS.csv")
    options = parser.parse_args()
    methods = {name: METHODS[name] for name in options.methods}
    torch.set_num_threads(1)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    heads = [f"{name}, {unit}" for name in methods for unit in ("mm", "s")]
    print(f"| pair | apart | {' | '.join(heads)} |\n|---|---|{'---|' * len(heads)}")
    totals: list[list[float]] = []
    with options.output.open("w", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(COLUMNS)
        for case in chain(simulated_cases(options.repeats), real_cases(options.folder) if options.folder else ()):
            scores = [scored(method, case) for method in methods.values()]
            for name, score in zip(methods, scores, strict=True):
                rows.writerow((*case.name.split(" | "), name, *(f"{number:.4f}" for number in score)))
            stream.flush()
            totals.append([number for score in scores for number in score])
            print(f"| {case.name} | {' | '.join(f'{number:.2f}' for number in totals[-1])} |", flush=True)
    worst = [max(column) if place % 2 == 0 else sum(column) for place, column in enumerate(zip(*totals, strict=True))]
    print(f"| worst error, all seconds | | {' | '.join(f'{number:.2f}' for number in worst)} |")


def scored(method: Callable[[Case], tuple[ndarray, float]], case: Case) -> tuple[float, float]:
    """The mean error in millimetres, and the seconds that the tool took of the processor, whatever else runs."""
    began = time.process_time(), time.perf_counter()
    found, seconds = method(case)
    part = (time.process_time() - began[0]) / (time.perf_counter() - began[1])
    error = np.linalg.norm(found - transform_points(case.truth, case.points), axis=0).mean()
    return float(error), seconds * part


if __name__ == "__main__":
    main()

"""How accurately the motion in a series is found, beside ANTs: ``python benchmarks/series.py [-o ROWS.csv]``.

A simulated echo-planar series: the brain of nilearn's tissue maps in T2w contrast, 64 x 64 x 36 voxels of 3.2 x 3.2 x
3.5 mm, each the mean of its extent, under a walk of the head; a sensitivity of the coil that stays where it is, a
drift, a region of grey matter that brightens by 3% in every other block of five volumes, and Rician noise. With
``--scan IMAGE`` a real scan takes the place of the brain; its noise is added to the simulated one. The motion is told
against the first volume and compared with the known one: the mean distance over the head between where the two maps
take a point, and the largest error of a shift and of an angle. ``crossmorph series`` with its defaults (to the mean of
the series), and ``ants.motion_correction`` with its own, to the same mean. One thread, one after the other, seconds of
the processor.
"""

import argparse
import csv
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import ants as antspyx
import numpy as np
import torch
from numpy import ndarray
from rigid import itk_matrix

from crossmorph import Image, read_image
from crossmorph.evaluation.baselines.common import geometry
from crossmorph.functional import spatial
from crossmorph.images.io import read_series, write_series
from crossmorph.simulation.anatomy import tissue_maps
from crossmorph.simulation.mri import bias_field, contrast_signals
from crossmorph.transforms.grid import Grid, centre
from crossmorph.transforms.motion import motion_matrix, motion_parameters
from crossmorph.transforms.warp import transform_points
from crossmorph.workflows.series import SeriesFiles, register_series

SPACING, SHAPE = np.array((3.2, 3.2, 3.5)), np.array((64, 64, 36))
PARTS = 2  # of a voxel along each axis, whose mean it is
STEP = (0.3, 0.3, 0.3, 0.005, 0.005, 0.005)  # of the walk: mm and radians, standard deviation
SENSITIVITY, DRIFT, ACTIVE = 0.4, 0.02, 0.03
COLUMNS = ("noise_percent", "method", "mean_mm", "worst_mm", "worst_shift_mm", "worst_angle_degrees", "seconds")


class Head(NamedTuple):
    """The signal of a head at points in RAS millimetres, that of its active part, and points in it."""

    signal: Callable[[ndarray], tuple[ndarray, ndarray]]
    grid: Grid
    points: ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", type=Path, metavar="IMAGE")
    parser.add_argument("--volumes", type=int, default=40, metavar="N")
    parser.add_argument("--noise", type=float, nargs="+", default=[2.0, 5.0], metavar="PERCENT")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME")
    parser.add_argument("--plot", type=Path, metavar="PICTURE", help="the plot of crossmorph, of the first noise")
    parser.add_argument("-o", "--output", type=Path, default=Path("series.csv"), metavar="ROWS.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    head = of_scan(read_image(options.scan)) if options.scan else of_tissues()
    known = walk(options.volumes, centre(head.grid))
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    with options.output.open("w", newline="") as stream, tempfile.TemporaryDirectory() as folder:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(COLUMNS)
        for noise in options.noise:
            source = Path(folder, "series.nii.gz")
            write_series(source, list(volumes(head, known, noise / 100)))
            for name in options.methods:
                began = time.process_time()
                found = METHODS[name](source, options.plot if noise == options.noise[0] else None)
                seconds = time.process_time() - began
                row = (
                    f"{noise:g}",
                    name,
                    *(f"{number:.4f}" for number in errors(found, known, head)),
                    f"{seconds:.1f}",
                )
                rows.writerow(row)
                stream.flush()
                print(f"| {' | '.join(row)} |", flush=True)


# --- the series ------------------------------------------------------------------------------------------------------


def walk(count: int, about: ndarray) -> list[ndarray]:
    """Where the head's points of the first volume are in each."""
    steps = np.random.default_rng(11).normal(size=(count, 6)) * STEP
    steps[0] = 0
    return [motion_matrix(each, about) for each in np.cumsum(steps, axis=0)]


def grid_about(middle: ndarray) -> Grid:
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = middle - SPACING * (SHAPE - 1) / 2
    return Grid(affine, tuple(SHAPE.tolist()))


def of_tissues() -> Head:
    maps, affine = tissue_maps()
    signals = contrast_signals("t2")

    def signal(points: ndarray) -> tuple[ndarray, ndarray]:
        fractions = sampled(maps, affine, points)
        return np.tensordot(signals, fractions, 1), signals[1] * fractions[1]

    inside = transform_points(affine, np.argwhere(maps.sum(0) > 0.5)[::199].T.astype(float))
    return Head(signal, grid_about(inside.mean(1)), inside)


def of_scan(image: Image) -> Head:
    """A scan, brightest at 1; its brightest third counts as grey matter."""
    scan = image.scaled()

    def signal(points: ndarray) -> tuple[ndarray, ndarray]:
        found = sampled(scan.data[None], scan.affine, points)[0]
        return found, found

    inside = transform_points(scan.affine, np.argwhere(scan.data > 0.2)[::997].T.astype(float))
    return Head(signal, grid_about(inside.mean(1)), inside)


def sampled(channels: ndarray, affine: ndarray, points: ndarray) -> ndarray:
    places = torch.from_numpy(transform_points(np.linalg.inv(affine), points)).float()[None]
    return spatial.sample(torch.from_numpy(channels).float()[None], places, outside="zero")[0].numpy()


def volumes(head: Head, known: list[ndarray], noise: float) -> Iterator[Image]:
    rng = np.random.default_rng(7)
    parts = np.concatenate([head.grid.affine[:3, :3] / PARTS, head.grid.affine[:3, 3:]], axis=1)
    parts[:, 3] -= parts[:, :3] @ np.full(3, (PARTS - 1) / 2)
    world = transform_points(np.vstack([parts, [0, 0, 0, 1]]), np.indices(SHAPE * PARTS).astype(float))
    place = np.linalg.norm(head.points.mean(1) + np.array((30.0, 20.0, 20.0)) - head.points.T, axis=1).argmin()
    sensitivity = None
    for number, matrix in enumerate(known):
        there = transform_points(np.linalg.inv(matrix), world)
        bright, active = head.signal(there)
        near = np.linalg.norm(there - head.points[:, place, None, None, None], axis=0) < 15
        clean = bright + ACTIVE * (number // 5 % 2) * near * active
        clean = clean.reshape(*np.stack([SHAPE, [PARTS] * 3], 1).ravel()).mean((1, 3, 5))
        if sensitivity is None:
            sensitivity = bias_field(clean > 0.1, rng, SENSITIVITY)
        clean *= sensitivity * (1 + DRIFT * number / len(known))
        real, imaginary = noise * rng.standard_normal((2, *SHAPE))
        yield Image((1000 * np.hypot(clean + real, imaginary)).astype(np.float32), head.grid.affine)


def errors(found: list[ndarray], known: list[ndarray], head: Head) -> tuple[float, float, float, float]:
    """Of the maps from the first volume to each: mean and worst distance, the worst shift and angle."""
    ours = [matrix @ np.linalg.inv(found[0]) for matrix in found]
    distances = [
        np.linalg.norm(transform_points(one, head.points) - transform_points(other, head.points), axis=0).mean()
        for one, other in zip(ours[1:], known[1:], strict=True)
    ]
    middle = centre(head.grid)
    both = [np.array([motion_parameters(matrix, middle) for matrix in some]) for some in (ours, known)]
    wrong = np.abs(both[0] - both[1]).max(0)
    return float(np.mean(distances)), max(distances), wrong[:3].max(), float(np.degrees(wrong[3:].max()))


# --- methods ---------------------------------------------------------------------------------------------------------


def by_crossmorph(source: Path, plot: Path | None) -> list[ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        found = register_series(source, SeriesFiles(Path(folder, "still.nii.gz"), plot=plot), threads=1)
    middle = centre(read_series(source)[0])
    return [motion_matrix(each, middle) for each in found.parameters]


def by_ants(source: Path, _: Path | None) -> list[ndarray]:
    series = read_series(source)
    origin, spacing, direction = geometry(series[0])
    mean = np.mean([each.data for each in series], axis=0)
    still = antspyx.from_numpy(mean, origin, spacing, np.array(direction))
    turned = np.eye(4)
    turned[:3, :3] = direction
    data = np.stack([each.data for each in series], -1)
    moving = antspyx.from_numpy(data, [*origin, 0.0], [*spacing, 1.0], turned)
    found = antspyx.motion_correction(moving, fixed=still)
    return [itk_matrix(Path(files[0])) for files in found["motion_parameters"]]


METHODS: dict[str, Callable[[Path, Path | None], list[ndarray]]] = {"crossmorph": by_crossmorph, "ANTs": by_ants}


if __name__ == "__main__":
    main()

"""What a pair of volumes costs by its size: ``python benchmarks/scale.py --model NAME_OR_FOLDER``.

Simulated brains of 64 to 256 voxels a side, each registered in a process of its own on one thread: CPU seconds of the
registration in memory (after a first, untimed one on the smallest), peak memory of the process, and how both grow with
the number of voxels (the slope of a straight line through their logarithms; 1 is linear). The model works at its own
spacing, so what grows is what is done on the images' own grids. Prints a table, writes ``scale.csv``, ``scale.png``.
"""

import argparse
import csv
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from crossmorph import Image, load_model, read_image, register_images, write_image
from crossmorph.simulation.anatomy import tissue_volume, volume_affine
from crossmorph.simulation.mri import simulate

EXTENT = 224.0  # mm along each axis, whatever the number of voxels
COLUMNS = ("side", "voxels", "seconds", "peak_mib")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="NAME", help="weights for volumes")
    parser.add_argument("--sides", default="64,96,128,192,256", help="voxels a side, comma-separated")
    parser.add_argument("--results", type=Path, default=Path("results/scale"), metavar="FOLDER")
    parser.add_argument("--one", nargs="+", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(*cost(arguments.one, arguments.model))
        return
    rows = []
    sides = [int(side) for side in arguments.sides.split(",")]
    with tempfile.TemporaryDirectory(prefix="crossmorph-scale-") as folder:
        first = write_pair(Path(folder), min(sides))
        for side in sides:
            files = first + (write_pair(Path(folder), side) if side != min(sides) else first)
            command = [sys.executable, __file__, "--model", arguments.model, "--one", *map(str, files)]
            seconds, peak = map(
                float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            )
            rows.append((side, side**3, seconds, peak))
            print(f"| {side} | {side**3:>10} | {seconds:8.2f} s | {peak:8.0f} MiB |", flush=True)
    arguments.results.mkdir(parents=True, exist_ok=True)
    with (arguments.results / "scale.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([COLUMNS, *rows])
    draw(arguments.results / "scale.png", np.array(rows))


def write_pair(folder: Path, side: int) -> list[Path]:
    """A moving T2w and a fixed T1w brain of so many voxels a side, turned by a tenth against each other."""
    shape, spacing = (side, side, side), EXTENT / side
    brain, affine = tissue_volume(shape, spacing), volume_affine(shape, spacing)
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    rng = np.random.default_rng(0)
    paths = [folder / f"{side}-{role}.nii" for role in ("moving", "fixed")]
    write_image(paths[0], Image(simulate(brain, "t2", rng), turned @ affine))
    write_image(paths[1], Image(simulate(brain, "t1", rng), affine))
    return paths


def cost(files: list[Path], model: str) -> tuple[float, float]:
    """CPU seconds of a registration in memory, after another one, and the process' peak memory (MiB)."""
    torch.set_num_threads(1)
    loaded = load_model(model)
    register_images(read_image(files[0]), read_image(files[1]), loaded)
    moving, fixed = read_image(files[2]), read_image(files[3])
    began = time.process_time()
    register_images(moving, fixed, loaded)
    return time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def draw(path: Path, rows: np.ndarray) -> None:
    """Seconds and memory against voxels, both axes logarithmic, with the slopes of the larger half."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    for panel, column, name in zip(panels, (2, 3), ("seconds", "peak memory (MiB)"), strict=True):
        larger = rows[len(rows) // 2 :]
        slope = np.polyfit(np.log(larger[:, 1]), np.log(larger[:, column]), 1)[0] if len(larger) > 1 else float("nan")
        panel.loglog(rows[:, 1], rows[:, column], "o-", color="#0072b2")
        panel.set_xlabel("voxels of each image")
        panel.set_ylabel(name)
        panel.set_title(f"slope {slope:.2f} over the larger half")
        print(f"{name}: slope {slope:.2f} over the larger half of the sizes")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()

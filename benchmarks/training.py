"""How long training takes to reach VoxelMorph's accuracy: ``python benchmarks/training.py``.

Trains VoxelMorph's U-Net (``configs/voxelmorph.yaml``) and our coarse network (``configs/default-2d.yaml``, its first
stage) one after the other, on one thread each, from random weights, on the same pairs by the same similarity. Prints
Dice on the validation pairs against wall time: VoxelMorph's at the end, and the first time that ours is above it.
"""

import argparse
import csv
import tempfile
import time
from pathlib import Path

from crossmorph.training.config import load_config
from crossmorph.training.train import train

CONFIGS = Path(__file__).parents[1] / "configs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=3000, metavar="N", help="of VoxelMorph; ours a third (3000)")
    iterations = parser.parse_args().iterations
    theirs = curve("voxelmorph", iterations)
    ours = curve("default-2d", iterations // 3)
    for name, points in (("VoxelMorph", theirs), ("crossmorph, coarse stage", ours)):
        print(f"\n{name}\n" + "\n".join(f"  {seconds:6.0f} s  Dice {dice:.3f}" for seconds, dice in points))
    seconds, goal = theirs[-1]
    reached = [point for point in ours if point[1] >= goal]
    if not reached:
        print(f"\nours did not reach VoxelMorph's {goal:.3f} in {ours[-1][0]:.0f} s")
        return
    print(f"\nVoxelMorph's final {goal:.3f} took it {seconds:.0f} s, us {reached[0][0]:.0f} s", end="")
    print(f": 1/{seconds / reached[0][0]:.1f} of its time")


def curve(config: str, iterations: int) -> list[tuple[float, float]]:
    """Seconds and validation Dice along a run of the coarse stage alone."""
    every = max(1, iterations // 30)
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "output": folder,
            "validate_every": every,
            "stages.coarse.iterations": iterations,
            "stages.translation.iterations": 0,
            "stages.fine.iterations": 0,
            "threads": 1,
        }
        run = load_config(CONFIGS / f"{config}.yaml", [f"{key}={value}" for key, value in settings.items()])
        began = time.perf_counter()
        train(run)
        seconds = time.perf_counter() - began
        rows = list(csv.DictReader(Path(folder, "metrics.csv").read_text().splitlines()))
    dice = {int(row["iteration"]): float(row["value"]) for row in rows if row["name"] == "dice_coarse"}
    return [(seconds * step / iterations, value) for step, value in sorted(dice.items())]


if __name__ == "__main__":
    main()

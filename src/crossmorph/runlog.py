"""What a run leaves to look at: numbers as CSV and for TensorBoard, progress on the terminal, the environment."""

import csv
import platform
from importlib import metadata
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from crossmorph.results import processor

COLUMNS = ["iteration", "stage", "name", "value"]
PACKAGES = ("crossmorph", "torch", "numpy", "lightning-fabric", "nibabel", "SimpleITK")


class RunLog:
    """Numbers of one run, in ``metrics.csv`` (a row each) and for TensorBoard; a restart replaces rows."""

    def __init__(self, folder: Path, iteration: int) -> None:
        """Continue the folder's log at an iteration counted over all stages, dropping what was logged beyond it."""
        path = folder / "metrics.csv"
        kept = []
        if path.exists():
            with path.open(newline="") as stream:
                # A killed run can leave a torn last line.
                whole = [row for row in csv.reader(stream) if len(row) == len(COLUMNS) and row[0].isdigit()]
                kept = [row for row in whole if int(row[0]) <= iteration]
        self._stream = path.open("w", newline="")
        self._rows = csv.writer(self._stream)
        self._rows.writerows([COLUMNS, *kept])
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=iteration + 1)

    def write(self, iteration: int, stage: str, values: dict[str, float]) -> None:
        """Log named numbers of a stage."""
        for name, value in values.items():
            self._rows.writerow([iteration, stage, name, f"{value:.6g}"])
            self._board.add_scalar(f"{stage}/{name}", value, iteration)
        self._stream.flush()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        """Finish both files."""
        self._stream.close()
        self._board.close()


def progress_bar(visible: bool) -> Progress:
    """A bar with time left on standard error; silent where that is not a terminal or not this process' task."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not (visible and console.is_terminal),
    )


def environment() -> dict[str, str]:
    """Versions and hardware, to be kept beside results."""
    versions = {package: metadata.version(package) for package in PACKAGES}
    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    return {
        **versions,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "hardware": hardware,
        "threads": str(torch.get_num_threads()),
    }

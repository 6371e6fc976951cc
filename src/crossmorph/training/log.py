"""The log of a training run: values as CSV and for TensorBoard."""

import csv
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

COLUMNS = ["iteration", "stage", "name", "value"]


class RunLog:
    """Values of one run, in ``metrics.csv`` (a row each) and for TensorBoard; a restart replaces rows."""

    def __init__(self, folder: Path, iteration: int) -> None:
        """Continue the folder's log at an iteration counted over all stages, dropping the rows of later iterations."""
        path = folder / "metrics.csv"
        kept = []
        if path.exists():
            with path.open(newline="") as stream:
                # A killed run can leave an incomplete last line.
                whole = [row for row in csv.reader(stream) if len(row) == len(COLUMNS) and row[0].isdigit()]
                kept = [row for row in whole if int(row[0]) <= iteration]
        self._stream = path.open("w", newline="")
        self._rows = csv.writer(self._stream)
        self._rows.writerows([COLUMNS, *kept])
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=iteration + 1)

    def write(self, iteration: int, stage: str, values: dict[str, float]) -> None:
        """Log values of a stage by their names."""
        for name, value in values.items():
            self._rows.writerow([iteration, stage, name, f"{value:.6g}"])
            self._board.add_scalar(f"{stage}/{name}", value, iteration)
        self._stream.flush()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        """Close both files."""
        self._stream.close()
        self._board.close()

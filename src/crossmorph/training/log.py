"""The log of a training run: values as CSV and for TensorBoard, and what each stage gained."""

import csv
from collections.abc import Collection
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from crossmorph.networks.hierarchy import Stage

METRICS = "metrics.csv"
COLUMNS = ["iteration", "stage", "name", "value"]


# What a stage improves, by the names of its scores on the validation pairs.
TELLING: dict[Stage, dict[str, str]] = {
    "affine": {"dice_affine": "Dice", "mi_affine": "mutual information"},
    "coarse": {"dice_coarse": "Dice", "mi_coarse": "mutual information"},
    "translation": {"translation_mse": "error of the translation (MSE)"},
    "fine": {"dice_final": "Dice", "mi_final": "mutual information"},
}


class RunLog:
    """Values of one run, in ``metrics.csv`` (a row each) and for TensorBoard; a restart replaces rows."""

    def __init__(self, folder: Path, iteration: int, later: Collection[str] = ()) -> None:
        """Continue the folder's log at an iteration, dropping the rows of what came later.

        Args:
            folder: of the run.
            iteration: counted over all stages.
            later: stages after that of the iteration; the next one begins with the same number.
        """
        path = folder / METRICS
        kept = [row for row in _rows(path) if int(row[0]) <= iteration and row[1] not in later]
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


def _rows(path: Path) -> list[list[str]]:
    """The rows of a log; a killed run can leave an incomplete last line."""
    if not path.exists():
        return []
    with path.open(newline="") as stream:
        return [row for row in csv.reader(stream) if len(row) == len(COLUMNS) and row[0].isdigit()]


def gains_table(folder: Path) -> str:
    """What each stage of a run gained: its scores on the validation pairs before and after it, as text.

    A stage has no "before" where an earlier version of the program began it.
    """
    rows = _rows(folder / METRICS)
    lines = [("validation", "score", "before", "after")]
    for stage, names in TELLING.items():
        ours = [row for row in rows if row[1] == stage]
        begins = min((int(row[0]) for row in ours if row[2] == "total"), default=0)
        for name, shown in names.items():
            scores = [(int(row[0]), float(row[3])) for row in ours if row[2] == name]
            if scores:
                first = f"{scores[0][1]:.4f}" if scores[0][0] < begins else "-"
                lines.append((stage, shown, first, f"{scores[-1][1]:.4f}"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        f"{stage:<{widths[0]}}  {shown:<{widths[1]}}  {before:>{widths[2]}}  {after:>{widths[3]}}"
        for stage, shown, before, after in lines
    )

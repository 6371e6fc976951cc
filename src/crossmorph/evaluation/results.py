"""Results of an evaluation: a table with a row per pair and method, and the statistics computed from it.

Means, intervals and printed tables are always computed from the rows; only the rows are stored.
"""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from crossmorph.errors import InputError
from crossmorph.system.environment import processor

# The scores of a row besides the Dice of each label, in the order of the file.
SCORES = ("dice", "hd95_mm", "mse_percent", "ncc", "epe_mm", "folds_percent", "min_jacobian", "psnr", "ssim", "seconds")
LABEL = "dice_"  # prefix of the column of one label
MOST_LABELS = 8  # that have a column each in a table
CONFIDENCE = 0.95


class Row(NamedTuple):
    """The result of one method on one pair.

    Attributes:
        pair: the pair's name.
        method: the method's name.
        scores: values by the name of their column, without unknown ones.
        error: the error, in one line, where the method failed on this pair.
    """

    pair: str
    method: str
    scores: dict[str, float]
    error: str = ""


class Statistic(NamedTuple):
    """One score of one method over the pairs that have it.

    Attributes:
        pairs: number of these pairs, n.
        mean: their mean.
        sd: their standard deviation (over n - 1); NaN for one pair, as is the interval.
        low: lower end of the 95% confidence interval of the mean, ``mean - t sd / sqrt(n)`` with Student's t of n - 1
            degrees of freedom, for independent pairs.
        high: its upper end.
        median: the median.
    """

    pairs: int
    mean: float
    sd: float
    low: float
    high: float
    median: float


class Summary(NamedTuple):
    """One method over all pairs: the number of pairs, that of its failures, and its scores over the others."""

    method: str
    pairs: int
    failed: int
    scores: dict[str, Statistic]


def write_rows(path: str | Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV: ``pair, method``, the scores, a ``dice_<label>`` for every label of any row, and ``error``."""
    columns = _score_columns(rows)
    with Path(path).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["pair", "method", *columns, "error"])
        for row in rows:
            cells = [f"{row.scores[name]:.6g}" if name in row.scores else "" for name in columns]
            writer.writerow([row.pair, row.method, *cells, row.error])


def read_rows(path: str | Path) -> list[Row]:
    """Read rows that :func:`write_rows` wrote.

    Raises:
        InputError: the file cannot be read, or is not such a table.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            table = list(csv.DictReader(stream, strict=True))
        return [_read_row(dict(cells)) for cells in table]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; expected a CSV of results") from None
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV of results ({error}); expected one written by evaluate") from None


def _read_row(cells: dict[str, str]) -> Row:
    pair, method, error = (cells.pop(name) for name in ("pair", "method", "error"))
    return Row(pair, method, {name: float(cell) for name, cell in cells.items() if cell}, error)


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """Statistics over the pairs for each method, in the order in which the methods first occur."""
    columns = _score_columns(rows)
    summaries = []
    for method in dict.fromkeys(row.method for row in rows):
        ours = [row for row in rows if row.method == method]
        known = {name: [row.scores[name] for row in ours if name in row.scores] for name in columns}
        scores = {name: statistic(np.array(values)) for name, values in known.items() if values}
        summaries.append(Summary(method, len(ours), sum(bool(row.error) for row in ours), scores))
    return summaries


def statistic(values: np.ndarray) -> Statistic:
    """The statistic of one score over pairs."""
    count, mean, median = len(values), float(values.mean()), float(np.median(values))
    if count < 2 or not np.isfinite(values).all():
        return Statistic(count, mean, math.nan, math.nan, math.nan, median)
    sd = float(values.std(ddof=1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * sd / math.sqrt(count)
    return Statistic(count, mean, sd, mean - half, mean + half, median)


def _score_columns(results: Sequence[Row] | Sequence[Summary]) -> list[str]:
    """All columns of scores in the order of the file: after the mean Dice, the Dice of each label of any result."""
    first, *others = SCORES
    return [first, *_label_columns(results), *others]


def _label_columns(results: Sequence[Row] | Sequence[Summary]) -> list[str]:
    labels = {name for result in results for name in result.scores if name.startswith(LABEL)}
    return sorted(labels, key=lambda name: int(name.removeprefix(LABEL)))


def caption(pairs_csv: str | Path, rows: Sequence[Row], model: str, threads: int) -> str:
    """The line below a table: data, pairs, threads, model, hardware, and the definition of the values."""
    pairs, labels = len({row.pair for row in rows}), len(_label_columns(rows))
    each = f" The Dice of each of the {labels} labels is in the CSV." if labels > MOST_LABELS else ""
    return (
        f"Data: {pairs_csv}, {pairs} pair{'s'[: pairs != 1]}. Model: {model}. Hardware: {processor()}, {threads} "
        f"thread{'s'[: threads != 1]}. Mean ± standard deviation over pairs, [95% t interval of the mean]; folds: mean "
        f"(median); seconds: median of one registration.{each}"
    )


def markdown_table(summaries: Sequence[Summary], caption: str = "") -> str:
    """A table with a row for each method and a column for each score; scores that no method has are omitted.

    So is the Dice of single labels where there are more than `MOST_LABELS`.

    Args:
        summaries: from :func:`summarise`.
        caption: the line below, from :func:`caption`.
    """
    columns = _score_columns(summaries) if len(_label_columns(summaries)) <= MOST_LABELS else SCORES
    names = [name for name in columns if any(name in summary.scores for summary in summaries)]
    failures = any(summary.failed for summary in summaries)
    table = [["method", *(["failed"] if failures else []), *(_heading(name) for name in names)]]
    for summary in summaries:
        cells = [_cell(name, summary.scores[name]) if name in summary.scores else "-" for name in names]
        table.append([summary.method, *([f"{summary.failed} of {summary.pairs}"] if failures else []), *cells])
    return "\n".join([markdown_rows(table), *(["", caption] if caption else [])])


def markdown_rows(table: Sequence[Sequence[str]]) -> str:
    """A Markdown table of cells; the first row is the heading, and all columns but the first are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(
        "| " + " | ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]) + " |"
        for cells in [table[0], rule, *table[1:]]
    )


def _heading(name: str) -> str:
    if name.startswith(LABEL):
        return f"Dice {name.removeprefix(LABEL)} %"
    headings = {
        "dice": "Dice %",
        "hd95_mm": "HD95 mm",
        "mse_percent": "MSE %",
        "ncc": "NCC",
        "epe_mm": "EPE mm",
        "folds_percent": "folds %",
        "min_jacobian": "min Jacobian",
        "psnr": "PSNR dB",
        "ssim": "SSIM",
        "seconds": "s",
    }
    return headings[name]


def _cell(name: str, statistic: Statistic) -> str:
    mean, sd = statistic.mean, statistic.sd
    if name == "seconds":
        return f"{statistic.median:.3f}"
    if name == "folds_percent":
        return f"{mean:.3f} ({statistic.median:.3f})"
    factor, digits = (100, 1) if name.startswith("dice") else (1, 2)
    if name in ("ncc", "ssim", "mse_percent"):
        digits = 3
    text = f"{factor * mean:.{digits}f}"
    if math.isnan(sd):
        return text
    text += f" ± {factor * sd:.{digits}f}"
    if name == "dice":
        text += f" [{factor * statistic.low:.{digits}f}, {factor * statistic.high:.{digits}f}]"
    return text

"""Tables 1 to 3, each with the paper's own values, confidence intervals and paired differences."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from crossmorph.evaluation.results import Row, Statistic, markdown_rows, statistic, summarise, write_rows
from crossmorph.reproduction.plan import PAPER_SMOOTHNESS, SIMILARITIES, Found
from crossmorph.reproduction.published import PUBLISHED
from crossmorph.system.environment import processor
from crossmorph.system.files import atomic_output, write_whole

Table = Literal["table1", "table2", "table3"]


class Difference(NamedTuple):
    """The difference of two methods over the same pairs.

    Attributes:
        statistic: of the differences, one pair each, first minus second.
        t: p-value of the paired t test.
        wilcoxon: p-value of Wilcoxon's signed-rank test.
    """

    statistic: Statistic
    t: float
    wilcoxon: float


class Column(NamedTuple):
    """A column of a table: a score, its heading, factor and digits; ``clean``: of the images without noise."""

    score: str
    heading: str
    factor: float
    digits: int
    clean: bool = False


TITLES: dict[Table, str] = {
    "table1": "Table 1: overlap of tissues, T2w to T1w",
    "table2": "Table 2: mono-modal error, T2w to T1w, subject to subject",
    "table3": "Table 3: translation, T2w to T1w",
}
DICE = Column("dice", "Avg. Dice %", 100, 2)
ERROR = Column("mse_percent", "MSE %", 1, 3)
MORE = (
    Column("hd95_mm", "HD95 mm", 1, 2),
    Column("epe_mm", "error mm", 1, 2),
    Column("folds_percent", "folds %", 1, 3),
)
COLUMNS: dict[Table, tuple[Column, ...]] = {
    "table1": (DICE, ERROR, *MORE),
    "table2": (ERROR, DICE, *MORE),
    "table3": (
        Column("psnr", "PSNR dB", 1, 2),
        Column("ssim", "SSIM", 1, 4),
        Column("psnr", "PSNR dB, no noise", 1, 2, clean=True),
        Column("ssim", "SSIM, no noise", 1, 4, clean=True),
    ),
}
SIGNS = {"dice": 1, "mse_percent": -1, "psnr": 1}  # 1 where higher is better, -1 where lower is


def write_table(table: Table, output: Path, found: Found) -> list[Path]:
    """Write the table as Markdown and CSV, and the rows that it is computed from; returns the paths in that order."""
    names = methods_of(table, found)
    markdown, summary, rows = (output / f"{table}{suffix}" for suffix in (".md", ".csv", "-rows.csv"))
    write_whole(markdown, as_markdown(table, found, names).encode())
    write_whole(summary, as_csv(table, found, names).encode())
    with atomic_output(rows) as temporary:
        kept = [name for name in found.rows if name.removesuffix("@clean") in names]
        write_rows(temporary, [row._replace(method=name) for name in kept for row in found.rows[name]])
    return [markdown, summary, rows]


def methods_of(table: Table, found: Found) -> list[str]:
    """The methods of a table, in its order."""
    if table == "table3":
        order = ["cyclegan", *(f"ours-{similarity}" for similarity in SIMILARITIES), "crossmorph", "noise-free"]
        return [name for name in order if name in found.rows]
    order = ["none", "affine", "syn", "syn-tuned"]
    for family in ("vm-{}", "ours-{}", "vm-{}-as-ours", "ours-{}-as-vm", "ours-{}-coarse", "vm-{}-long"):
        order += [family.format(similarity) for similarity in SIMILARITIES]
    return [name for name in (*order, "crossmorph", "oracle") if name in found.rows]


def label(name: str, smoothness: dict[str, float]) -> str:
    """The name of a method in a table, with the weight of smoothness where it is not the paper's."""
    fixed = {
        "none": "unregistered",
        "affine": "Affine (ANTs)",
        "syn": "SyN (ANTs, default)",
        "syn-tuned": "SyN (ANTs, tuned)",
        "crossmorph": "crossmorph, shipped weights",
        "oracle": "true field",
        "cyclegan": "CycleGAN",
        "noise-free": "ground truth without noise",
        "vm-nmi-long": "VM (NMI), three times as long",
    }
    if name in fixed:
        return fixed[name]
    family, similarity, *rest = name.split("-", 2)
    text = f"{'VM' if family == 'vm' else 'ours'} ({similarity.upper()})"
    if rest == ["coarse"]:
        text += ", coarse stage"
    if name in smoothness and smoothness[name] != PAPER_SMOOTHNESS:
        text += f", smoothness {smoothness[name]:g}"
    elif rest and rest != ["coarse"]:
        text += f", smoothness {PAPER_SMOOTHNESS:g}"
    return text


def difference(first: Sequence[Row], second: Sequence[Row], score: str) -> Difference:
    """First minus second, over the pairs that both were scored on."""
    other = {row.pair: row.scores[score] for row in second if score in row.scores}
    values = np.array(
        [row.scores[score] - other[row.pair] for row in first if score in row.scores and row.pair in other]
    )
    if len(values) < 2 or not values.any():
        return Difference(statistic(values), math.nan, math.nan)
    return Difference(
        statistic(values), float(stats.ttest_1samp(values, 0).pvalue), float(stats.wilcoxon(values).pvalue)
    )


def comparisons(table: Table, found: Found) -> list[tuple[str, str]]:
    """The methods that are compared pair by pair: the first of each two is expected to be better."""
    if table == "table3":
        named = [(f"ours-{similarity}", "cyclegan") for similarity in SIMILARITIES]
    else:
        named = [
            pair
            for similarity in SIMILARITIES
            for pair in (
                (f"ours-{similarity}", f"vm-{similarity}"),
                (f"ours-{similarity}", f"vm-{similarity}-as-ours"),
                (f"ours-{similarity}-as-vm", f"vm-{similarity}"),
                (f"ours-{similarity}", f"ours-{similarity}-coarse"),
            )
        ] + [("ours-nmi", "vm-nmi-long")]
    return [pair for pair in named if all(name in found.rows for name in pair)]


def as_markdown(table: Table, found: Found, names: Sequence[str]) -> str:
    """The table, its caption, and the paired differences."""
    columns = [column for column in COLUMNS[table] if _known(found, names, column)]
    published = PUBLISHED[table]
    head = ["method"]
    for column in columns:
        head.append(column.heading)
        if _in_paper(table, column):
            head.append("paper")
    timed = table != "table3"
    lines = [[*head, *(["s", "paper"] if timed else [])]]
    for name in names:
        cells = [label(name, found.smoothness)]
        for column in columns:
            cells.append(_cell(found, name, column))
            if _in_paper(table, column):
                cells.append(_number(published.get(name, {}).get(column.score), column.digits + 1))
        if timed:
            seconds = [row.scores["seconds"] for row in found.times if row.method == name and "seconds" in row.scores]
            cells.append(_number(float(np.median(seconds)) if seconds else None, 3))
            cells.append(_number(published.get(name, {}).get("seconds"), 3))
        lines.append(cells)
    parts = [f"## {TITLES[table]}", markdown_rows(lines), _caption(table, found), _differences(table, found)]
    return "\n\n".join(part for part in parts if part) + "\n"


def as_csv(table: Table, found: Found, names: Sequence[str]) -> str:
    """A row for each method and score: number of pairs, mean, sd, interval and median, and the paper's value."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["method", "score", "noise", "pairs", "mean", "sd", "low", "high", "median", "paper"])
    for name in names:
        for column in COLUMNS[table]:
            value = _statistic(found, name, column)
            if value is None:
                continue
            paper = None if column.clean else PUBLISHED[table].get(name, {}).get(column.score)
            numbers = [f"{part:.6g}" for part in value[1:]]
            shown = "" if paper is None else f"{paper / column.factor:.6g}"
            writer.writerow([name, column.score, "no" if column.clean else "yes", value.pairs, *numbers, shown])
    return stream.getvalue()


def _statistic(found: Found, name: str, column: Column) -> Statistic | None:
    rows = found.rows.get(f"{name}@clean" if column.clean else name, [])
    summaries = summarise(rows)
    return summaries[0].scores.get(column.score) if summaries else None


def _known(found: Found, names: Sequence[str], column: Column) -> bool:
    return any(_statistic(found, name, column) for name in names)


def _in_paper(table: Table, column: Column) -> bool:
    return not column.clean and any(column.score in numbers for numbers in PUBLISHED[table].values())


def _cell(found: Found, name: str, column: Column) -> str:
    value = _statistic(found, name, column)
    if value is None:
        return "-"
    text = f"{column.factor * value.mean:.{column.digits}f}"
    if column.score in SIGNS and not math.isnan(value.low):
        text += f" [{column.factor * value.low:.{column.digits}f}, {column.factor * value.high:.{column.digits}f}]"
    failed = sum(bool(row.error) for row in found.rows.get(name, []))
    return text + (f" ({failed} failed)" if failed else "")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _caption(table: Table, found: Found) -> str:
    """Data, budget, seed, hardware and the definition of the values, in one line."""
    data, budget = found.context.data, found.context.budget
    pairs = len({row.pair for rows in found.rows.values() for row in rows})
    spec = budget.cyclegan
    sentences = [
        f"Data: {data.description}, {'x'.join(map(str, data.shape))} at {data.spacing:g} mm, {pairs} test pairs.",
        f"Budget {budget.name}: {found.context.iterations} iterations a stage, batch 1, ADAM, first step "
        f"{budget.learning_rate:g} ({budget.schedule}).",
        f"Seed {found.context.seed}, {processor()}, one thread. Mean [95% t interval over pairs].",
    ]
    if table == "table3":
        sentences.append(f"CycleGAN: {spec.iterations} iterations, {spec.width} channels, {spec.blocks} blocks.")
    else:
        tried = ", ".join(f"{value:g}" for value in budget.smoothness)
        sentences += [
            f"Seconds: median of {min(budget.timed, pairs)} pairs, all methods in one process.",
            f"VM's weight of smoothness was chosen out of {tried} on the validation pairs; the paper's is "
            f"{PAPER_SMOOTHNESS:g}."
            if len(budget.smoothness) > 1
            else f"The weight of smoothness is the paper's, {PAPER_SMOOTHNESS:g}.",
        ]
    return " ".join(sentences)


def _differences(table: Table, found: Found) -> str:
    """The paired tests of the table's first column."""
    column = COLUMNS[table][0]
    lines = [["pair by pair", f"difference in {column.heading}", "95% interval", "better", "t test p", "Wilcoxon p"]]
    for first, second in comparisons(table, found):
        result = difference(found.rows[first], found.rows[second], column.score)
        value, low, high = (column.factor * part for part in (result.statistic.mean, *result.statistic[3:5]))
        better = first if value * SIGNS[column.score] > 0 else second
        best = "neither" if math.isnan(low) or low <= 0 <= high else label(better, found.smoothness)
        name = f"{label(first, found.smoothness)} minus {label(second, found.smoothness)}"
        tests = [f"{p:.1e}" if not math.isnan(p) else "-" for p in (result.t, result.wilcoxon)]
        digits = column.digits
        lines.append([name, f"{value:+.{digits}f}", f"[{low:+.{digits}f}, {high:+.{digits}f}]", best, *tests])
    return markdown_rows(lines) if len(lines) > 1 else ""

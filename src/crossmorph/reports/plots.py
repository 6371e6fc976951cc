"""Plots of an evaluation as a page draws them: a strip a method, a dot a pair."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator

from crossmorph.evaluation.results import Row, summarise
from crossmorph.system.files import brief

DOTS = 80  # of a method in a plot at most
# What a page plots: score, heading, factor, and whether methods may differ by orders of magnitude.
PLOTTED = (
    ("dice", "Dice %", 100, False),
    ("mse_percent", "MSE %", 1, True),
    ("epe_mm", "Endpoint error, mm", 1, True),
    ("seconds", "Seconds a pair", 1, True),
)
WIDE = 10.0  # times: where the largest value is so much the smallest, the axis is logarithmic
ZERO = 8.0  # per cent of a logarithmic axis, where it has a place for zero


class Strip(NamedTuple):
    """A method in a plot; places are per cent of the axis.

    Attributes:
        name: of the method, and on how many pairs it failed.
        dots: place, height in pixels about the middle, and what it is.
        box: lower and upper quartile.
        median: place of the median.
        value: the median, to read.
    """

    name: str
    dots: list[tuple[str, str, str]]
    box: tuple[str, str]
    median: str
    value: str


class Plot(NamedTuple):
    """One score of all methods, a strip each; ``ticks`` are places and numbers."""

    heading: str
    ticks: list[tuple[str, str]]
    strips: list[Strip]


def plots_of(rows: Sequence[Row], times: Sequence[Row] = ()) -> list[Plot]:
    """The plots of the scores that are known; ``times``: rows that hold seconds alone, measured apart."""
    failed = {summary.method: summary.failed for summary in summarise(rows)}  # the methods in their order
    plots = []
    for score, heading, factor, wide in PLOTTED:
        values = [(row, factor * row.scores[score]) for row in (*rows, *times) if score in row.scores]
        if values:
            plots.append(_plot(heading, values, wide, failed))
    return plots


def _plot(heading: str, values: list[tuple[Row, float]], wide: bool, failed: dict[str, int]) -> Plot:
    place, ticks = axis_of([value for _, value in values], wide)
    strips = []
    for method in failed:
        ours = sorted((value, row.pair) for row, value in values if row.method == method)
        if not ours:
            continue
        low, median, high = np.percentile([value for value, _ in ours], [25, 50, 75])
        # Where there are many, every so many of them, with the least and the greatest.
        some = np.unique(np.linspace(0, len(ours) - 1, min(len(ours), DOTS)).round().astype(int))
        dots = [
            (
                f"{place(ours[at][0]):.2f}",
                f"{14 * (index * 0.618 % 1 - 0.5):.1f}",
                f"{brief(ours[at][1])}: {ours[at][0]:.4g}",
            )
            for index, at in enumerate(some)
        ]
        box = f"{place(low):.2f}", f"{place(high) - place(low):.2f}"
        name = method + (f" ({failed[method]} failed)" if failed[method] else "")
        strips.append(Strip(name, dots, box, f"{place(median):.2f}", f"{median:.3g}"))
    return Plot(heading, [(f"{place(tick):.2f}", f"{tick:g}") for tick in ticks], strips)


def axis_of(values: Sequence[float], wide: bool) -> tuple[Callable[[float], float], list[float]]:
    """An axis for values: a function from a value to its place in per cent, and ticks.

    Args:
        values: finite numbers.
        wide: the axis is logarithmic where positive values differ ``WIDE`` times or more; what is not positive then
            lies at its beginning, whose tick is 0.
    """
    positive = [value for value in values if value > 0]
    if not (wide and positive and max(positive) >= WIDE * min(positive)):
        least, most = min(values), max(values)
        pad = 0.04 * (most - least) or 0.1 * abs(most) or 1.0
        first, width = least - pad, most - least + 2 * pad
        ticks = [float(tick) for tick in MaxNLocator(5).tick_values(least, most)]
        return (lambda value: 100 * (value - first) / width), [tick for tick in ticks if 0 <= tick - first <= width]
    begin = ZERO if len(positive) < len(values) else 0.0
    low, high = math.log(min(positive) / 1.1), math.log(max(positive) * 1.1)

    def place(value: float) -> float:
        return begin + (100 - begin) * (math.log(value) - low) / (high - low) if value > 0 else 0.0

    decades = range(math.floor(low / math.log(10)), math.ceil(high / math.log(10)) + 1)
    steps = (1, 3) if len(decades) > 3 else (1, 2, 5)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    return place, [*([0.0] if begin else []), *(tick for tick in ticks if low <= math.log(tick) <= high)]

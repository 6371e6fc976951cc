"""The picture of a benchmark: how accurate each method is, over the time that it takes."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox

from crossmorph.evaluation.evaluate import PEERS
from crossmorph.evaluation.results import Summary
from crossmorph.reports.figure import UNDATED
from crossmorph.system.files import atomic_output

NAMES = {
    "affine": "ANTs affine",
    "syn": "ANTs SyN",
    "syn-tuned": "ANTs SyN, tuned",
    "simpleitk": "SimpleITK",
    "dipy": "DIPY",
    "voxelmorph": "VoxelMorph",
    "start": "crossmorph, affine start",
    "coarse": "crossmorph, coarse",
    "crossmorph-refined": "crossmorph, refined",
    "oracle": "true field",
}
PANELS = {"test": "Smooth deformations", "rough": "Rough deformations"}
# Vermillion and blue of Okabe and Ito's palette, which colour-blind readers tell apart; the shapes differ for print.
OUR_STYLE = {"color": "#D55E00", "marker": "o", "markersize": 7}
PEER_STYLE = {"color": "#0072B2", "marker": "s", "markersize": 5.5}
# Where a name may stand, in points from its mark, the best place first.
PLACES = [
    (x * distance, y * distance)
    for distance in (8, 14, 22, 32, 44, 58)
    for x, y in ((1, 0), (-1, 0), (0.7, 1), (-0.7, 1), (0.7, -1), (-0.7, -1), (0, 1.2), (0, -1.2))
]
LEADER = 18  # points; a name farther away has a line to its mark


def draw_accuracy_time(path: str | Path, splits: Mapping[str, Sequence[Summary]]) -> None:
    """Draw mean Dice with its 95% interval over the median time, a panel a split; the true field is a line.

    Methods without a time or a Dice, such as no registration, are not drawn.

    Args:
        path: a file of a kind that matplotlib writes; it appears whole.
        splits: summaries of the methods, by the name of the split.
    """
    path = Path(path)
    figure = Figure(figsize=(5.2 * len(splits), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(splits), sharex=True, squeeze=False)[0]
    marks = [_draw_panel(axes, *split) for axes, split in zip(panels, splits.items(), strict=True)]
    panels[0].set_ylabel("Dice, mean over pairs and tissues (%)")
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # names may not move the axes that they are placed in
    for axes, placed in zip(panels, marks, strict=True):
        _place_names(axes, placed)
    with atomic_output(path) as temporary:
        figure.savefig(temporary, dpi=200, metadata=UNDATED.get(path.suffix))


def _draw_panel(axes: Axes, split: str, summaries: Sequence[Summary]) -> dict[str, tuple[float, float, float, float]]:
    """Draw all marks; returns seconds, Dice and the ends of the interval by the name to show."""
    axes.set_title(PANELS.get(split, split), fontsize=11)
    axes.set_xscale("log")
    axes.set_xlabel("time a pair on one thread, median (s, log scale)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.2, y=0.12)
    marks = {}
    for summary in summaries:
        if "dice" not in summary.scores:
            continue
        dice = summary.scores["dice"]
        mean, low, high = (100 * value for value in (dice.mean, dice.low, dice.high))
        name = NAMES.get(summary.method, summary.method)
        if summary.method == "oracle":
            axes.axhline(mean, color="black", linestyle="--", linewidth=1)
            axes.text(0.01, mean, name, fontsize=8.5, va="bottom", transform=axes.get_yaxis_transform())
        elif "seconds" in summary.scores:
            seconds = summary.scores["seconds"].median
            style = PEER_STYLE if summary.method in PEERS else OUR_STYLE
            # One pair has no interval.
            bars = [[mean - low], [high - mean]] if math.isfinite(low) else None
            axes.errorbar(seconds, mean, yerr=bars, capsize=2.5, elinewidth=1, linestyle="none", **style)
            marks[name] = (seconds, mean, low, high)
    axes.autoscale_view()  # a line that is already in view does not widen it by itself
    return marks


def _place_names(axes: Axes, marks: dict[str, tuple[float, float, float, float]]) -> None:
    """Write each name beside its mark, at the first place where it covers no other name, mark or interval."""
    size = 4 * axes.figure.dpi / 72
    taken = [text.get_window_extent() for text in axes.texts]
    lines = [line.get_window_extent() for line in axes.lines if line.get_linestyle() == "--"]
    taken += [line.padded(1) for line in lines]  # a box without height overlaps nothing
    for seconds, mean, *ends in marks.values():
        x, y = axes.transData.transform((seconds, mean))
        heights = [axes.transData.transform((seconds, end))[1] for end in ends if math.isfinite(end)]
        taken.append(Bbox.from_extents(x - size, min([y - size, *heights]), x + size, max([y + size, *heights])))
    for name, (seconds, mean, _, _) in marks.items():
        taken.append(_place_name(axes, name, (seconds, mean), taken))


def _place_name(axes: Axes, name: str, mark: tuple[float, float], taken: Sequence[Bbox]) -> Bbox:
    """Write one name; returns its box. Where no place is free it stands at the first."""
    written = axes.annotate(name, mark, PLACES[0], textcoords="offset points", fontsize=8.5)
    for place in PLACES:
        box = _move(written, place)
        inside = axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max)
        if inside and not any(box.overlaps(other) for other in taken):
            break
    else:
        place = PLACES[0]
        box = _move(written, place)
    if math.hypot(*place) > LEADER:
        line = {"arrowstyle": "-", "linewidth": 0.5, "color": "0.5", "shrinkA": 0, "shrinkB": 4}
        axes.annotate("", mark, place, textcoords="offset points", arrowprops=line)
    return box


def _move(written: Annotation, place: tuple[float, float]) -> Bbox:
    """Put words on the side of their mark that a place is on; returns their box."""
    x, y = place
    written.xyann = place
    written.set_horizontalalignment("left" if x > 0 else "right" if x < 0 else "center")
    written.set_verticalalignment("bottom" if y > 0 else "top" if y < 0 else "center")
    return written.get_window_extent()

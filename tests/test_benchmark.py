"""The benchmark: one run leaves tables and pictures; the picture is legible and says what the summaries say."""

import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from project import ROOT

from crossmorph.evaluation.results import Row, Summary, read_rows, summarise

sys.path.insert(0, str(ROOT / "benchmarks"))
import picture
import register

METHODS = {
    "none": (0.39, None),
    "affine": (0.57, 0.1),
    "syn": (0.79, 0.3),
    "syn-tuned": (0.83, 1.0),
    "elastix": (0.86, 5.0),
    "simpleitk": (0.855, 4.5),
    "greedy": (0.78, 0.5),
    "dipy": (0.77, 3.0),
    "coarse": (0.84, 0.013),
    "crossmorph": (0.86, 0.026),
    "of another day": (0.858, 0.025),
    "oracle": (0.91, None),
}


def summaries(pairs: int = 20) -> list[Summary]:
    spread = np.linspace(-0.05, 0.05, pairs) if pairs > 1 else [0.0]
    rows = [
        Row(f"{pair}", method, {"dice": dice + offset} | ({"seconds": seconds} if seconds else {}))
        for method, (dice, seconds) in METHODS.items()
        for pair, offset in enumerate(spread)
    ]
    return summarise(rows)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    figures: list[Figure] = []
    original = Figure.savefig

    def savefig(figure: Figure, *arguments, **options) -> None:
        figures.append(figure)
        original(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


def test_names_do_not_overlap_and_none_is_missing(tmp_path: Path, drawn: list[Figure]) -> None:
    picture.draw_accuracy_time(tmp_path / "picture.png", {"test": summaries(), "rough": summaries()})
    drawn[0].draw_without_rendering()  # for the resolution of the figure, not of the file
    for axes in drawn[0].axes:
        words = [text for text in axes.texts if text.get_text()]
        expected = {picture.NAMES.get(name, name) for name in METHODS if name != "none"}
        assert {text.get_text() for text in words} == expected
        boxes = [text.get_window_extent() for text in words]
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
        assert all(axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max) for box in boxes)
        marks = [
            axes.transData.transform(text.xy) for text in words if isinstance(text, Annotation)
        ]  # a name covers no mark, its own or another's
        assert not any(box.contains(*mark) for box in boxes for mark in marks)


@pytest.mark.parametrize("pairs", [20, 1])
def test_marks_are_median_seconds_and_mean_dice_with_its_interval(
    tmp_path: Path, drawn: list[Figure], pairs: int
) -> None:
    results = summaries(pairs)
    picture.draw_accuracy_time(tmp_path / "picture.pdf", {"test": results})
    (axes,) = drawn[0].axes
    assert axes.get_xscale() == "log"
    bars = {bar[0].get_xdata()[0]: bar for bar in axes.containers}
    for summary in results:
        if "seconds" in summary.scores:
            dice = summary.scores["dice"]
            mark, _, lines = bars[summary.scores["seconds"].median]
            assert mark.get_ydata()[0] == pytest.approx(100 * dice.mean)
            if pairs > 1:
                ends = lines[0].get_segments()[0][:, 1]
                assert ends == pytest.approx([100 * dice.low, 100 * dice.high])
            assert (mark.get_color() == picture.PEER_STYLE["color"]) == (summary.method in register.PEERS)
    ceiling = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in ceiling] == [pytest.approx(91)]


def test_the_same_picture_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.pdf", "other.pdf"):
        picture.draw_accuracy_time(tmp_path / name, {"test": summaries()})
    assert (tmp_path / "one.pdf").read_bytes() == (tmp_path / "other.pdf").read_bytes()


def test_one_run_leaves_tables_and_pictures(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("ants")
    methods = "none,affine,crossmorph,oracle"
    arguments = ["--pairs", "2", "--methods", methods, "--data", str(phantom), "--results", str(tmp_path / "results")]
    monkeypatch.setattr(sys, "argv", ["register.py", *arguments])
    register.main()
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == [
        "accuracy-time.pdf", "accuracy-time.png", "phantom-rough.csv", "phantom-test.csv",
    ]  # fmt: skip
    for split in register.SPLITS:
        rows = read_rows(tmp_path / "results" / f"phantom-{split}.csv")
        assert [row.method for row in rows] == 2 * methods.split(",")
        assert not any(row.error for row in rows)
    printed = capsys.readouterr().out
    assert printed.count("| method") == 2
    assert "rough, the first 2 pairs" in printed
    assert "of the time of affine" in printed

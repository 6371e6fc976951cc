"""The picture of the motion in a series."""

import numpy as np

from crossmorph.reports.motion_plot import motion_figure


def test_names_of_lines_cover_no_line() -> None:
    """Lines that fill their axes from end to end; the legend lies outside."""
    parameters = np.random.default_rng(0).uniform(-1, 1, (40, 6))
    figure = motion_figure(parameters, np.ones(40), "a series")
    figure.canvas.draw()
    for axis in figure.axes[:2]:
        legend = axis.get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == ["x", "y", "z"]
        assert legend.get_window_extent().x0 >= axis.get_window_extent().x1
        assert legend.get_window_extent().x1 <= figure.bbox.x1

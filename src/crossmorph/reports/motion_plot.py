"""The picture of the motion in a series."""

from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy import ndarray

from crossmorph.reports.figure import UNDATED
from crossmorph.system.files import PICTURE_SUFFIXES, atomic_output, suffix_of


def write_motion_plot(
    path: Path, parameters: Float[ndarray, "volumes 6"], displacement: Float[ndarray, " volumes"], title: str
) -> None:
    """Draw shifts, rotations and the framewise displacement of every volume.

    Args:
        path: ``.png``, ``.pdf`` or ``.svg``; appears whole.
        parameters: millimetres and radians, see :mod:`crossmorph.transforms.motion`.
        displacement: framewise, millimetres.
        title: a line above.

    Raises:
        InputError: another suffix, or a folder that cannot be written.
    """
    suffix = suffix_of(path, PICTURE_SUFFIXES, "picture")
    figure = motion_figure(parameters, displacement, title)
    with atomic_output(path) as temporary, matplotlib.rc_context({"svg.hashsalt": "crossmorph"}):
        figure.savefig(temporary, dpi=100, metadata=UNDATED.get(suffix))


def motion_figure(
    parameters: Float[ndarray, "volumes 6"], displacement: Float[ndarray, " volumes"], title: str
) -> Figure:
    """What :func:`write_motion_plot` writes; the names of the lines stand beside them, as nothing is free above."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    shift, turn, frame = figure.subplots(3, 1, sharex=True)
    volumes = np.arange(len(parameters))
    for axis, values, heading in (
        (shift, parameters[:, :3], "shift (mm)"),
        (turn, np.degrees(parameters[:, 3:]), "rotation (degrees)"),
    ):
        for name, line in zip("xyz", values.T, strict=True):
            axis.plot(volumes, line, label=name)
        axis.set_ylabel(heading)
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    frame.plot(volumes, displacement, color="black")
    frame.set_ylim(bottom=0)
    frame.set_ylabel("displacement (mm)")
    frame.set_xlabel("volume")
    figure.suptitle(title, parse_math=False)
    return figure

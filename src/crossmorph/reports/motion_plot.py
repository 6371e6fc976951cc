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
        axis.legend(loc="upper left", ncols=3, frameon=False)
    frame.plot(volumes, displacement, color="black")
    frame.set_ylim(bottom=0)
    frame.set_ylabel("displacement (mm)")
    frame.set_xlabel("volume")
    figure.suptitle(title, parse_math=False)
    with atomic_output(path) as temporary, matplotlib.rc_context({"svg.hashsalt": "crossmorph"}):
        figure.savefig(temporary, dpi=100, metadata=UNDATED.get(suffix))

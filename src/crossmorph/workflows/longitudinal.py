"""Dates of one person, registered in the middle between them, and the change of volume from one date to another.

The middle is a template of the dates (:mod:`crossmorph.workflows.template`) whose maps begin with rigid ones, so that
no date is interpolated more than another (Reuter et al., NeuroImage 2012, doi:10.1016/j.neuroimage.2012.02.084). At a
point of the middle, ``det D w_k / det D w_1`` is the volume at date ``k``, of that at the first date; with the dates
exchanged it is the inverse.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crossmorph.images.image import Image
from crossmorph.images.io import read_image, write_image
from crossmorph.system.files import output_set
from crossmorph.transforms.warp import jacobian, resample
from crossmorph.transforms.warp_files import read_transform
from crossmorph.workflows.template_average import foreground
from crossmorph.workflows.template_group import INVERSE, TRANSFORM

JACOBIAN, ON_FIRST = "jacobian.nii.gz", "jacobian_on_first.nii.gz"
LEAST = 1e-3  # of a Jacobian determinant that something is divided by
RANGE = (1, 99)  # percentiles that are told


class Date(NamedTuple):
    """The volume at a date, of that at the first one, over the foreground: median and percentiles 1 and 99."""

    name: str
    median: float
    low: float
    high: float


class Dates(NamedTuple):
    """The dates after the first one, and the files."""

    dates: list[Date]
    files: list[Path]


def volume_changes(template_path: Path, names: Sequence[str]) -> Dates:
    """Write the maps of the change of volume since the first date.

    Args:
        template_path: of the dates, made by :func:`crossmorph.workflows.template.make_template` from rigid maps; the
            maps of a date go beside its transforms there, on the template's grid and on that of the first date.
        names: of the dates, the first one first, see :func:`crossmorph.workflows.template_group.names_of`.
    """
    folder, template = template_path.parent, read_image(template_path)
    shown = foreground(template)
    first = jacobian(read_transform(folder / names[0] / TRANSFORM)).clip(LEAST)
    to_middle = read_transform(folder / names[0] / INVERSE)
    dates, files = [], [template_path]
    for name in names[1:]:
        volume = Image(jacobian(read_transform(folder / name / TRANSFORM)) / first, template.affine)
        paths = [folder / name / JACOBIAN, folder / name / ON_FIRST]
        with output_set(paths) as written:
            write_image(paths[0], volume)
            write_image(paths[1], resample(volume, to_middle))
            written.publish()
        low, high = np.percentile(volume.data[shown], RANGE)
        dates.append(Date(name, float(np.median(volume.data[shown])), float(low), float(high)))
        files += paths
    return Dates(dates, files)

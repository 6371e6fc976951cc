"""The page of a template's progress: a line and a picture for each round, one HTML file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from crossmorph.images.image import Image
from crossmorph.images.io import read_image
from crossmorph.reports.html import templates
from crossmorph.reports.layers import LOSSY, data_uri
from crossmorph.reports.numbers import number_text
from crossmorph.reports.planes import cut_plane, hung, unit_intensity
from crossmorph.system.files import write_whole
from crossmorph.transforms.warp import Warp

GAP = 4  # pixels between the planes of a picture
LARGER = 2  # pixels for each voxel
NUMBERS = {
    "entropy": "Entropy (bits)",
    "gradient": "Gradient (1/mm)",
    "variation": "Variation between images",
    "removed": "Mean deformation taken off (mm)",
    "mean_deformation": "Mean deformation left (mm)",
}


class ShownRound(NamedTuple):
    """A round: its name, the file of its template, and its numbers by the names in ``NUMBERS``, and ``failed``."""

    name: str
    template: Path
    numbers: dict[str, Any]


def write_template_page(
    path: Path, title: str, rounds: Sequence[ShownRound], wanted: int, subjects: str | None, facts: dict[str, Any]
) -> None:
    """Write the page; it appears whole.

    Args:
        path: the page.
        title: what the template is of.
        rounds: those finished, the affine one first.
        wanted: how many deformable rounds there shall be.
        subjects: the page of the last round's registrations, as seen from this one.
        facts: what made the template, to be shown.

    Raises:
        InputError: it cannot be written.
    """
    lines = [
        (
            each.name,
            [number_text(each.numbers[name]) for name in NUMBERS],
            each.numbers["failed"],
            _picture(each.template),
        )
        for each in rounds
    ]
    page = (
        templates()
        .get_template("template.html")
        .render(
            title=title, lines=lines, headings=list(NUMBERS.values()), wanted=wanted, subjects=subjects, facts=facts
        )
    )
    write_whole(path, page.encode())


def _picture(path: Path) -> str:
    """An axial, a coronal and a sagittal plane side by side; of a slice all of it."""
    image = hung(read_image(path))
    unit = Image(unit_intensity(image), image.affine)
    if image.dim == 2:
        panels = [unit.data]
    else:
        still = Warp.identity(unit)
        planes = [cut_plane(unit, still, axis) for axis in (2, 1, 0)]
        panels = [plane.flat(plane.fixed.data) for plane in planes]
    tall = max(panel.shape[1] for panel in panels)
    strips = [np.pad(panel, ((0, GAP), (0, tall - panel.shape[1]))) for panel in panels]
    grey = np.rint(255 * np.concatenate(strips)[:-GAP].T.clip(0, 1)).astype(np.uint8)
    picture = PIL.Image.fromarray(grey)
    larger = (picture.width * LARGER, picture.height * LARGER)
    return data_uri(picture.resize(larger, PIL.Image.Resampling.BILINEAR), LOSSY)

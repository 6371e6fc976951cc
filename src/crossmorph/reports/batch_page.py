"""The page of a batch: a line for each pair, the worst first, to look through and to mark; one HTML file.

It is made of what lies in the pairs' folders, so that a run that goes on makes it anew, and pictures are read one after
the other while it is written.
"""

import base64
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import PIL.Image

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import read_image
from crossmorph.quality.assessment import Check, Level
from crossmorph.reports.html import script_of, templates
from crossmorph.reports.layers import LOSSY, encoded
from crossmorph.reports.numbers import NO_ESTIMATE, estimate_applies, number_text, shown_checks
from crossmorph.reports.planes import panels_of
from crossmorph.system.files import atomic_output, write_whole
from crossmorph.transforms.warp import Warp

PAGE, THUMBNAIL = "index.html", "thumbnail.webp"
REVIEW = "crossmorph review 1"  # format of the file of marks
GAP = 4  # pixels between the panels of a thumbnail
SCRIPTS = ("batch.js",)
LEVELS: tuple[Level, ...] = ("failed", "warning", "passed")


class Line(NamedTuple):
    """A pair of the page.

    Attributes:
        name: of the pair.
        result: the content of its ``result.json``, empty where it has none.
        error: why it failed, empty where it did not.
        folder: where its files lie, as seen from the page; empty: beside the page, in one of its name.
    """

    name: str
    result: dict[str, Any]
    error: str
    folder: str = ""


class Row(NamedTuple):
    """A line as the template takes it; numbers are None where they are not known, and are sorted by.

    ``place`` is the folder as a path, ``folder`` the same as a link.
    """

    name: str
    place: str
    folder: str
    hash: str
    level: Level
    error: str
    checks: list[Check]
    expected: float | None
    expected_text: str
    before: float | None
    after: float | None
    folds: float | None
    seconds: float | None


def keep_thumbnail(folder: Path, moved: Path | None, moving: Path, fixed: Path) -> None:
    """Write the small picture of a pair into its folder, unless it is there: fixed, moved, checkerboard.

    Args:
        folder: of the pair.
        moved: the moved image; where it was not written, the picture has the moving image as it was given.
        moving: the moving image.
        fixed: the fixed image.

    An image that cannot be read or shown gives no picture.

    Raises:
        InputError: the folder cannot be written.
    """
    if (folder / THUMBNAIL).exists():
        return
    panels: list[np.ndarray] = []
    with suppress(InputError):
        still = read_image(fixed)
        shown = moved if moved and moved.exists() else moving
        panels = list(panels_of(read_image(shown), still, _nowhere(still)).values())
    if panels:
        gap = np.zeros((len(panels[0]), GAP), np.uint8)
        strip = np.hstack([part for panel in panels for part in (gap, panel)][1:])
        write_whole(folder / THUMBNAIL, encoded(PIL.Image.fromarray(strip), LOSSY))


def _nowhere(grid: Image) -> Warp:
    """No displacement, in no memory."""
    return Warp(np.broadcast_to(np.zeros((), np.float32), (grid.dim, *grid.shape)), grid.affine)


def write_batch_page(path: Path, title: str, lines: Sequence[Line], facts: dict[str, Any]) -> None:
    """Write the page; it appears whole.

    Args:
        path: the page, beside the pairs' folders.
        title: what was registered.
        lines: the pairs.
        facts: what made the results, to be shown: text, numbers, and lists and mappings of them.

    Raises:
        InputError: it cannot be written.
    """
    rows = sorted(map(_row, lines), key=_rank)
    counts = {level: sum(row.level == level for row in rows) for level in LEVELS}
    environment = templates()
    template = environment.get_template("batch.html")
    with atomic_output(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.writelines(
            template.generate(
                title=title,
                rows=rows,
                counts=counts,
                facts=facts,
                review=REVIEW,
                number_text=number_text,
                picture=lambda row: _picture(path.parent / row.place / THUMBNAIL) if row.hash else "",
                there=lambda row, name="": (path.parent / row.place / name).exists(),
                **script_of(environment, SCRIPTS),
            )
        )


def _picture(path: Path) -> str:
    """A thumbnail as the page holds it, empty where there is none."""
    if not path.is_file():
        return ""
    return "data:image/webp;base64," + base64.b64encode(path.read_bytes()).decode()


def _row(line: Line) -> Row:
    checks = [Check(**each) for each in line.result.get("checks", [])]
    measures = line.result.get("measures", {})
    shown = [check for check in shown_checks(checks) if check.level != "passed"]
    shown.sort(key=lambda check: LEVELS.index(check.level))
    applies = estimate_applies(checks)
    expected = measures.get("expected_error") if applies else None
    if expected is not None:
        text = f"{number_text(expected)} {measures['unit']}"
    else:
        text = NO_ESTIMATE if measures.get("expected_error") is not None else "not known" if measures else ""
    place = line.folder or line.name
    return Row(
        line.name,
        place,
        quote(place),
        str(line.result.get("hash", "")),
        _level(line, shown),
        line.error if not checks else "",
        shown,
        expected,
        text,
        measures.get("mutual_information_before"),
        measures.get("mutual_information_final"),
        measures.get("folds_percent"),
        line.result.get("seconds"),
    )


def _level(line: Line, shown: Sequence[Check]) -> Level:
    if line.error:
        return "failed"
    return shown[0].level if shown else "passed"


def _rank(row: Row) -> tuple[Any, ...]:
    """What was not registered first, then by checks, then by the expected error."""
    failed, warned = (sum(check.level == level for check in row.checks) for level in ("failed", "warning"))
    return not row.error, LEVELS.index(row.level), -failed, -warned, -(row.expected or 0), row.name


def load_result(path: Path) -> dict[str, Any]:
    """The content of a pair's ``result.json``, empty where there is none that can be read."""
    with suppress(OSError, ValueError):
        found = json.loads(path.read_bytes())
        return found if isinstance(found, dict) else {}
    return {}

"""Points in the markups files of Slicer (``.mrk.json``): point lists, lines, angles and curves.

The format is https://github.com/Slicer/Slicer, Modules/Loadable/Markups/Resources/Schema: a file holds markups, each of
a type with control points in the frame that its ``coordinateSystem`` names, LPS where it names none.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.system.files import brief, readable, write_whole

# Of planes and regions of interest the shape is more than their control points.
TYPES = ("Fiducial", "Line", "Angle", "Curve", "ClosedCurve")
SIGNS = {"LPS": np.array([-1.0, -1.0, 1.0]), "RAS": np.ones(3)}


class Markups(NamedTuple):
    """A markups file.

    ``document`` is the whole of it, ``places`` its control points with the signs that take them to RAS, and ``points``
    their coordinates, ``(dim, n)``, in RAS millimetres.
    """

    document: dict[str, Any]
    places: list[tuple[dict[str, Any], Float64[ndarray, "3"]]]
    points: Float64[ndarray, "dim n"]


def read_markups(path: Path, dim: int) -> Markups:
    """Read a markups file; control points whose position is not defined are left alone.

    Args:
        path: the file.
        dim: how many of the three coordinates count.

    Raises:
        InputError: not such a file, no points, planes or regions, units other than millimetres, or coordinates that
            are not finite numbers.
    """
    with readable(path):
        content = path.read_bytes()
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON ({brief(error)})") from error
    markups = document.get("markups") if isinstance(document, dict) else None
    if not isinstance(markups, list):
        raise InputError(f"{path}: has no list of markups, expected a markups file of Slicer")
    places = [place for markup in markups for place in _places(path, markup)]
    if not places:
        raise InputError(f"{path}: holds no points")
    points = np.array([_position(path, point) * signs for point, signs in places]).T
    return Markups(document, places, points[:dim])


def write_markups(path: Path, markups: Markups, points: Float64[ndarray, "dim n"]) -> None:
    """Write a markups file with other coordinates, RAS millimetres; the file appears whole or not at all.

    Measurements, such as the length of a line, are left out: they no longer hold, and Slicer makes them anew.
    """
    for (point, signs), moved in zip(markups.places, points.T, strict=True):
        point["position"][: len(moved)] = (moved * signs[: len(moved)]).tolist()
    for markup in markups.document["markups"]:
        markup.pop("measurements", None)
    write_whole(path, (json.dumps(markups.document, indent=4) + "\n").encode())


def _places(path: Path, markup: Any) -> list[tuple[dict[str, Any], ndarray]]:
    """The control points of a markup that have a position, and the signs of its frame."""
    kind = markup.get("type") if isinstance(markup, dict) else None
    if kind not in TYPES:
        raise InputError(f"{path}: holds a markup of type {brief(kind)}, expected {', '.join(TYPES)}")
    frame, units = markup.get("coordinateSystem", "LPS"), markup.get("coordinateUnits", "mm")
    if frame not in ("LPS", "RAS"):
        raise InputError(f"{path}: names the coordinate system {brief(frame)}, expected LPS or RAS")
    if (units[:1] if isinstance(units, list) else [units]) != ["mm"]:
        raise InputError(f"{path}: has coordinates in {brief(units)}, expected mm")
    points = markup.get("controlPoints", [])
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise InputError(f"{path}: its controlPoints are no list of points")
    return [(point, SIGNS[frame]) for point in points if point.get("positionStatus", "defined") == "defined"]


def _position(path: Path, point: dict[str, Any]) -> ndarray:
    position = point.get("position")
    if isinstance(position, list) and all(type(number) in (int, float) for number in position):
        numbers = np.array(position, np.float64)
        if numbers.shape == (3,) and np.isfinite(numbers).all():
            return numbers
    raise InputError(
        f"{path}: the control point {brief(point.get('label', ''))} has the position {brief(position)}, expected three "
        "finite numbers"
    )

"""Tables of points, in millimetres: reading and writing them.

* ANTs: CSV with the columns ``x``, ``y``, ``z`` (as ``x,y,z,t,label,comment``), LPS;
* Slicer: CSV with ``r``, ``a``, ``s`` or ``l``, ``p``, ``s``, each in its frame;
* Slicer: ``.fcsv``, in the frame that its ``# CoordinateSystem`` names;
* Slicer: ``.mrk.json``, see :mod:`crossmorph.workflows.slicer_markups`.
"""

import csv
import io
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.system.files import readable, suffix_of, write_whole

MARKUPS = ".mrk.json"
POINT_SUFFIXES = (".csv", ".fcsv", MARKUPS)
FRAMES = {"xyz": "LPS", "ras": "RAS", "lps": "LPS"}
FCSV_FRAMES = {"LPS": "LPS", "1": "LPS", "RAS": "RAS", "0": "RAS"}  # Slicer before 4.11 wrote numbers
FCSV_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"


class Table(NamedTuple):
    """A table of points.

    ``head`` are the lines before the points, as they stand; ``rows`` all cells; ``columns`` where the coordinates are;
    ``points`` the coordinates, ``(dim, n)``, in RAS millimetres; ``frame`` the file's own.
    """

    head: list[str]
    rows: list[list[str]]
    columns: list[int]
    points: Float64[ndarray, "dim n"]
    frame: str


def read_points(path: Path, dim: int) -> Table:
    """Read a table of points of two or three coordinates.

    Raises:
        InputError: not such a table, no points, no columns of coordinates, or cells that are not finite numbers.
    """
    suffix = suffix_of(path, (".csv", ".fcsv"), "point table")
    with readable(path):
        try:
            lines = path.read_text("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: is not text ({error.reason} at byte {error.start})") from error
    if suffix == ".fcsv":
        head = [line for line in lines if line.startswith("#")]
        body = [line for line in lines if not line.startswith("#")]
        names, frame = _fcsv_columns(head), _fcsv_frame(path, head)
        columns = _find(path, names, "xyz"[:dim])
    else:
        head, body = lines[:1], lines[1:]
        names = next(csv.reader(head), [])
        wanted = _wanted(path, names, dim)
        columns, frame = _find(path, names, wanted[:dim]), FRAMES[wanted]
    rows = [row for row in csv.reader(body) if row]
    if not rows:
        raise InputError(f"{path}: holds no points, expected a row for each below the header")
    numbers = np.array([_coordinates(path, row, columns) for row in rows]).T
    return Table(head, rows, columns, _swapped(numbers, frame), frame)


def write_points(path: Path, table: Table, points: Float64[ndarray, "dim n"]) -> None:
    """Write a table with other coordinates, RAS millimetres; the file appears whole or not at all."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for row, point in zip(table.rows, _swapped(points, table.frame).T, strict=True):
        cells = dict(zip(table.columns, point, strict=True))
        writer.writerow([f"{cells[index]:.6f}" if index in cells else cell for index, cell in enumerate(row)])
    write_whole(path, ("\n".join(table.head) + "\n" + stream.getvalue()).encode())


def _wanted(path: Path, names: list[str], dim: int) -> str:
    """Which three names the coordinates go by."""
    present = {name.strip().lower() for name in names}
    for wanted in FRAMES:
        if present.issuperset(wanted[:2]):
            return wanted
    raise InputError(
        f"{path}: has the columns {', '.join(names) or 'none'}; expected x,y{',z' * (dim == 3)} (ANTs, LPS mm)"
    )


def _find(path: Path, names: list[str], wanted: str) -> list[int]:
    lowered = [name.strip().lower() for name in names]
    missing = [name for name in wanted if name not in lowered]
    if missing:
        raise InputError(f"{path}: has no column {', '.join(missing)}, which a {len(wanted)}-D transform needs")
    return [lowered.index(name) for name in wanted]


def _fcsv_columns(head: list[str]) -> list[str]:
    found = (re.fullmatch(r"#\s*columns\s*=\s*(.*)", line) for line in head)
    return next((match[1] for match in found if match), FCSV_COLUMNS).split(",")


def _fcsv_frame(path: Path, head: list[str]) -> str:
    found = (re.fullmatch(r"#\s*CoordinateSystem\s*=\s*(\S+)\s*", line) for line in head)
    name = next((match[1] for match in found if match), "none")
    if name not in FCSV_FRAMES:
        raise InputError(f"{path}: names the coordinate system {name}, expected # CoordinateSystem = LPS or RAS")
    return FCSV_FRAMES[name]


def _coordinates(path: Path, row: list[str], columns: list[int]) -> list[float]:
    try:
        point = [float(row[column]) for column in columns]
    except (ValueError, IndexError):
        point = [np.nan]
    if not np.isfinite(point).all():
        raise InputError(f"{path}: the row '{','.join(row)}' has no finite numbers for coordinates")
    return point


def _swapped(points: ndarray, frame: str) -> ndarray:
    """RAS points in a frame, or back."""
    swapped: ndarray = np.array(points, np.float64)
    if frame == "LPS":
        swapped[:2] *= -1
    return swapped

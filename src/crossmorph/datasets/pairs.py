"""Lists of image pairs: a folder of images with a `pairs.csv` beside them.

The columns `moving` and `fixed` are required. Further data of a pair are in the optional columns:
`name`, `moving_labels`, `fixed_labels` (integer maps), `moving_same` (the moving anatomy in the fixed image's modality)
and `field` (the true warp on the fixed grid). Paths are relative to the list; an empty cell means "unknown".
"""

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from crossmorph.errors import InputError
from crossmorph.system.files import atomic_output, brief

REQUIRED = ("moving", "fixed")
OPTIONAL = ("moving_labels", "fixed_labels", "moving_same", "field")
COLUMNS = ("name", *REQUIRED, *OPTIONAL)
TISSUES = {"csf": "CSF", "gm": "grey matter", "wm": "white matter"}  # names of labels, spelled out


@dataclass(frozen=True)
class Pair:
    """One moving and one fixed image, and further data of them; `None` is "unknown"."""

    name: str
    moving: Path
    fixed: Path
    moving_labels: Path | None = None
    fixed_labels: Path | None = None
    moving_same: Path | None = None
    field: Path | None = None


def read_pairs(path: str | Path) -> list[Pair]:
    """Read a list of pairs.

    A row without a name is named after its moving file and its number in the list, counted from 1: `brain-3`.

    Args:
        path: The CSV file, UTF-8, with a header line. The files it names must lie in its folder or below.

    Returns:
        The pairs in the order of the rows, with every path joined to the folder of the list.

    Raises:
        InputError: If the list cannot be read, has no rows, lacks a column or has an unknown one, or if a row lacks an
            image, names a file that does not exist, leaves the folder of the list, or repeats the name of another row.
    """
    path = Path(path)
    header, *rows = _read_rows(path)
    _check_header(path, header)
    if not rows:
        raise InputError(f"{path}: no pairs; expected at least one row below the header")
    pairs = [_read_pair(path, number, header, row) for number, row in enumerate(rows, start=1)]
    _check_names(path, pairs)
    return pairs


def write_pairs(path: str | Path, pairs: Sequence[Pair]) -> None:
    """Write a list of pairs, with every path relative to the folder of the list.

    Args:
        path: The CSV file to write; it appears complete.
        pairs: At least one pair, of files in the folder of the list or below.

    Raises:
        InputError: If there is no pair, two have one name, a file lies outside the folder of the list, or the list
            cannot be written.
    """
    path = Path(path)
    if not pairs:
        raise InputError(f"{path}: no pairs to write; expected at least one")
    _check_names(path, pairs)
    rows = [
        [pair.name, *(_relative(path, number, column, getattr(pair, column)) for column in COLUMNS[1:])]
        for number, pair in enumerate(pairs, start=1)
    ]
    with atomic_output(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


def label_names(path: str | Path) -> dict[str, str]:
    """What the labels of a list's pairs are called, by their numbers.

    Args:
        path: the list; names are in the `dataset.json` beside it or one folder up, as `crossmorph prepare` writes it.

    Returns:
        Names by labels as text; empty where no such file has any.
    """
    for folder in (Path(path).absolute().parent, Path(path).absolute().parent.parent):
        try:
            names = json.loads((folder / "dataset.json").read_bytes())["labels"]
            return {str(label): TISSUES.get(name, name) for label, name in names.items() if isinstance(name, str)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # no description, or one of something else
    return {}


def _read_rows(path: Path) -> list[list[str]]:
    """The cells of all rows that are not blank, stripped; the header first."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; expected a CSV list of pairs") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; expected a CSV list of pairs") from None
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text, newline=""), strict=True)]
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV file ({error})") from None
    rows = [row for row in rows if any(row)]
    if not rows:
        raise InputError(f"{path}: empty; expected a header with the columns {', '.join(REQUIRED)}")
    return rows


def _check_header(path: Path, header: list[str]) -> None:
    known = f"expected {', '.join(REQUIRED)} and any of name, {', '.join(OPTIONAL)}"
    missing = [column for column in REQUIRED if column not in header]
    if missing:
        raise InputError(f"{path}: header lacks {', '.join(missing)}, received {brief(', '.join(header))}; {known}")
    unknown = [column for column in header if column not in COLUMNS]
    if unknown:
        raise InputError(f"{path}: unknown column {', '.join(map(repr, unknown))}; {known}")
    repeated = sorted({column for column in header if header.count(column) > 1})
    if repeated:
        raise InputError(f"{path}: column {', '.join(repeated)} occurs more than once; expected each once")


def _read_pair(path: Path, number: int, header: list[str], row: list[str]) -> Pair:
    if len(row) != len(header):
        raise InputError(f"{path}: row {number} has {len(row)} cells; expected {len(header)}, as the header")
    cells = dict(zip(header, row, strict=True))
    files: dict[str, Path | None] = {}
    for column in (*REQUIRED, *OPTIONAL):
        cell = cells.get(column, "")
        files[column] = _resolve(path, number, column, cell) if cell else None
    moving, fixed = files.pop("moving"), files.pop("fixed")
    if moving is None or fixed is None:
        raise InputError(f"{path}: row {number} has no {'fixed' if moving else 'moving'} image; expected a file name")
    name = cells.get("name") or f"{moving.name.removesuffix('.gz').rsplit('.', 1)[0]}-{number}"
    return Pair(name, moving, fixed, **files)


def _resolve(path: Path, number: int, column: str, cell: str) -> Path:
    """The file that a cell names. A symbolic link inside the folder may point outside it; a name may not."""
    where = f"{path}: row {number}, {column}: {cell!r}"
    if "\0" in cell or Path(cell).is_absolute() or ".." in Path(os.path.normpath(cell)).parts:
        raise InputError(f"{where} leaves the folder of the list; expected a path relative to it, in or below it")
    file = path.parent / cell
    if not os.path.exists(file):  # unlike Path.exists, also false for a name too long to be one
        raise InputError(f"{where} does not exist; expected a file in {path.parent}")
    if not file.is_file():
        raise InputError(f"{where} is a folder; expected a file")
    return file


def _relative(path: Path, number: int, column: str, file: Path | None) -> str:
    if file is None:
        return ""
    relative = os.path.relpath(file, path.parent)
    if ".." in Path(relative).parts:
        raise InputError(f"{path}: row {number}, {column}: {file} lies outside the folder of the list")
    return str(PurePosixPath(*Path(relative).parts))


def _check_names(path: Path, pairs: Iterable[Pair]) -> None:
    first: dict[str, int] = {}
    for number, pair in enumerate(pairs, start=1):
        if pair.name in first:
            raise InputError(f"{path}: rows {first[pair.name]} and {number} are both named {pair.name!r}")
        first[pair.name] = number

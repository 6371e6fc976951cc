"""What the numbers of a label map stand for: structures, their tissues, and the signals they give.

A table is a CSV file with the columns ``label``, ``structure``, ``tissue`` and ``signal``, and, where a structure is a
part of a larger one, ``part of``. Three come with the program: ``aseg`` (FreeSurfer's aseg, and the labels outside the
brain of SynthSeg's training maps), ``muse`` (MUSE and DLMUSE) and ``tissues`` (1 CSF, 2 grey matter, 3 white matter,
4 lesion). Structures of the two sides begin with ``left`` and ``right``; a structure that two tables share has one name
in both, and label 0 is air in all.
"""

import csv
import io
from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from crossmorph.errors import InputError
from crossmorph.simulation.tissue_signals import SIGNALS
from crossmorph.system.files import brief

Tissue = Literal["csf", "gm", "wm", "head"]
TISSUES: tuple[Tissue, ...] = get_args(Tissue)
BUILT_IN = ("tissues", "aseg", "muse")
COLUMNS = ("label", "structure", "tissue", "signal")
WHOLE = "part of"


class Structure(NamedTuple):
    """A structure.

    Attributes:
        name: lower case, ``left thalamus``.
        tissue: what the objectives take it for; ``head`` is everything outside the brain.
        signal: a name of :data:`crossmorph.simulation.tissue_signals.SIGNALS`.
        whole: the larger structure that it is a part of; empty where there is none.
    """

    name: str
    tissue: Tissue
    signal: str
    whole: str = ""


Table = dict[int, Structure]


class Known(NamedTuple):
    """A table and its name."""

    name: str
    table: Table


def read_table(path: Path) -> Table:
    """Read a table of labels.

    Raises:
        InputError: the file cannot be read, lacks a column, or a row has a label that is no whole number above 0 or
            occurs twice, no structure, or an unknown tissue or signal.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({brief(error)}); expected a CSV table of labels") from error
    return _parse(str(path), text)


@cache
def built_in_table(name: str) -> Table:
    """A table that comes with the program: one of :data:`BUILT_IN`."""
    file = resources.files("crossmorph.datasets").joinpath("labels", f"{name}.csv")
    return _parse(name, file.read_text(encoding="utf-8"))


def table_of(labels: Iterable[int], own: Table | None = None) -> Known:
    """The table that knows all labels of a map.

    Args:
        labels: the labels that occur, without 0.
        own: the only table to look at; None: those that come with the program, in their order.

    Raises:
        InputError: none knows all of them.
    """
    occurring = set(labels)
    tables = {"own table": own} if own is not None else {name: built_in_table(name) for name in BUILT_IN}
    for name, table in tables.items():
        if occurring <= table.keys():
            return Known(name, table)
    unknown = min((sorted(occurring - table.keys()) for table in tables.values()), key=len)
    raise InputError(
        f"label {', '.join(map(str, unknown[:5]))}{' ..' if len(unknown) > 5 else ''} is not in {' or '.join(tables)}; "
        "expected labels of one table"
    )


def _parse(name: str, text: str) -> Table:
    rows = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
    if missing:
        raise InputError(f"{name}: lacks the column {', '.join(missing)}; expected {', '.join(COLUMNS)}")
    table: Table = {}
    for number, row in enumerate(rows, start=2):
        label, structure = _row(f"{name}: line {number}", row)
        if label in table:
            raise InputError(f"{name}: line {number}: label {label} occurs a second time; expected each once")
        table[label] = structure
    if not table:
        raise InputError(f"{name}: has no rows; expected one a label")
    return table


def _row(where: str, row: dict[str, str]) -> tuple[int, Structure]:
    cells = {column: (row.get(column) or "").strip().lower() for column in (*COLUMNS, WHOLE)}
    label = cells["label"]
    if not label.isascii() or not label.isdigit() or int(label) == 0:
        raise InputError(f"{where}: label {brief(repr(label))}; expected a whole number above 0")
    if not cells["structure"]:
        raise InputError(f"{where}: no structure; expected a name")
    for tissue in TISSUES:
        if cells["tissue"] == tissue:
            break
    else:
        raise InputError(f"{where}: tissue {brief(repr(cells['tissue']))}; expected one of {', '.join(TISSUES)}")
    if cells["signal"] not in SIGNALS:
        raise InputError(f"{where}: signal {brief(repr(cells['signal']))}; expected one of {', '.join(SIGNALS)}")
    return int(label), Structure(cells["structure"], tissue, cells["signal"], cells[WHOLE])

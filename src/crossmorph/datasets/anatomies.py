"""Label maps of many people as one compact set: same axes, same codes for structures, a way to a common space, splits.

A set is a folder: ``anatomies.json`` names the structures (code 1 is the first), the people with their splits and
affine maps, and what was refused and why; beside it lies one label map of 8 bits a person, cropped to what is labelled,
axes right, anterior, superior.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import nibabel
import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from crossmorph.datasets.common_space import CENTRES, Spread, to_common
from crossmorph.datasets.label_tables import Structure, Table, read_table, table_of
from crossmorph.datasets.writing import new_dataset, write_labels
from crossmorph.errors import InputError
from crossmorph.images.io import READABLE_SUFFIXES, read_image
from crossmorph.system.files import brief
from crossmorph.system.progress import tracked

PersonSplit = Literal["train", "validation", "test"]
SPLITS: tuple[PersonSplit, ...] = get_args(PersonSplit)
INDEX = "anatomies.json"
# Of a pair of files one counts, and of a DICOM series the folder would.
MAPS = tuple(suffix for suffix in READABLE_SUFFIXES if suffix not in (".img", ".img.gz", ".dcm"))
LESIONS = "_lesions"  # ends the name of a mask of lesions, to be laid over the map NAME_tissues or NAME
FINEST = 1.0  # mm: finer maps are thinned out
COARSEST = 4.5  # mm: a gyrus would be lost
FEWEST = 16  # voxels along each axis
BRAINS = (0.3, 2.3)  # litres of grey and white matter, from an infant's to more than any
WHOLE_HEAD = 0.3  # litres outside the brain, from which a map counts as one of a whole head
SHOWN = 8  # voxels from which a structure counts as there
MOST_STRUCTURES = 255


class Person(NamedTuple):
    """A label map of the set.

    Attributes:
        name: of the map, and of its file without suffix.
        person: whom it shows; two maps may show one.
        split: the same for all maps of a person.
        kind: name of the table of its labels; maps of one kind are made alike.
        whole: whether the head around the brain is labelled.
        codes: of the structures that it has.
        to_common: RAS millimetres to those of the common space, ``(4, 4)``.
    """

    name: str
    person: str
    split: PersonSplit
    kind: str
    whole: bool
    codes: tuple[int, ...]
    to_common: Float[ndarray, "4 4"]


class Anatomies(NamedTuple):
    """A set of label maps: its folder, the structures in the order of their codes (from 1), and the people."""

    folder: Path
    structures: tuple[Structure, ...]
    people: tuple[Person, ...]


class Prepared(NamedTuple):
    """What became of the maps: the set, and each file that was refused with the reason."""

    anatomies: Anatomies
    refused: dict[str, str]


class LabelMap(NamedTuple):
    """Labels or codes on a grid whose axes are nearest to right, anterior, superior, and its affine to RAS mm."""

    labels: Int[ndarray, "x y z"] | UInt8[ndarray, "x y z"]
    affine: Float[ndarray, "4 4"]


def prepare_anatomies(
    sources: Sequence[Path], output: Path, table: Path | None = None, splits: Path | None = None, seed: int = 0
) -> Prepared:
    """Make a set of label maps.

    Args:
        sources: folders of label maps, at any depth: what :func:`crossmorph.images.io.read_image` takes, or
            FreeSurfer's ``.mgz``. ``NAME_lesions`` beside ``NAME_tissues`` or ``NAME`` is a mask of its lesions.
        output: the folder to make; it appears whole.
        table: what the labels mean (:func:`crossmorph.datasets.label_tables.read_table`); None: found out for each map.
        splits: CSV with the columns ``person`` and ``split``; a map belongs to the person that its file's name begins
            with, and maps of nobody in the list are refused. None: a person is what a name begins with up to the first
            ``_`` if that is ``sub-..``, else the whole name; eight of ten train, one validates, one tests, by a hash.
        seed: of the hash.

    Raises:
        InputError: a source is no folder, the table or the splits cannot be used, or no map is left.
    """
    own = read_table(table) if table else None
    assigned = _read_splits(splits) if splits else None
    codes: dict[str, int] = {}
    structures: list[Structure] = []
    people: dict[str, Person] = {}
    refused: dict[str, str] = {}
    with new_dataset(output) as folder:
        for path in tracked(list(_maps(sources)), "label maps"):
            name = _stem(path)
            try:
                if name in people:
                    raise InputError(f"a second map named {name}; expected each name once")
                person, split = _person(name, assigned, seed)
                found, used, kind = _read_map(path, own)
                for label in sorted(used):
                    if used[label].name not in codes:
                        structures.append(used[label])
                        codes[used[label].name] = len(structures)
                if len(structures) > MOST_STRUCTURES:
                    raise InputError(f"more than {MOST_STRUCTURES} structures in all; expected fewer, as 8 bits hold")
                coded = _coded(found, used, codes)
                people[name] = _described(coded, structures, Person(name, person, split, kind, False, (), np.eye(4)))
                write_labels(folder / f"{name}.nii.gz", coded.labels, coded.affine)
            except InputError as error:
                refused[str(path)] = str(error).removeprefix(f"{path}: ")
        if not people:
            first = next(iter(refused.items()), None)
            reason = f"; the first: {first[0]}: {first[1]}" if first else ""
            raise InputError(f"{', '.join(map(str, sources))}: no label map that can be used{reason}")
        anatomies = Anatomies(output, tuple(structures), tuple(people.values()))
        (folder / INDEX).write_text(_dump(anatomies, refused), encoding="utf-8")
    return Prepared(anatomies, refused)


def load_anatomies(folder: Path) -> Anatomies:
    """Read the index of a set.

    Raises:
        InputError: the folder holds none, or its index is damaged.
    """
    path = folder / INDEX
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        structures = tuple(Structure(**entry) for entry in document["structures"])
        people = tuple(_loaded(entry) for entry in document["people"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: cannot be read ({brief(error)}); expected a folder made by crossmorph prepare anatomies"
        ) from error
    return Anatomies(folder, structures, people)


def map_path(anatomies: Anatomies, person: Person) -> Path:
    """Where the label map of a person lies."""
    return anatomies.folder / f"{person.name}.nii.gz"


def load_map(anatomies: Anatomies, person: Person) -> LabelMap:
    """The label map of a person, as codes."""
    image = read_image(map_path(anatomies, person), labels=True)
    return LabelMap(image.data.astype(np.uint8), image.affine)


# --- files -----------------------------------------------------------------------------------------------------------


def _maps(sources: Sequence[Path]) -> Iterator[Path]:
    for source in sources:
        if not source.is_dir():
            raise InputError(f"{source}: is no folder; expected a folder of label maps")
        for path in sorted(source.rglob("*")):
            known = path.name.lower().endswith(MAPS)
            if known and path.is_file() and not _stem(path).endswith(LESIONS):
                yield path


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]


def _read_splits(path: Path) -> dict[str, PersonSplit]:
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({brief(error)}); expected a CSV list person,split") from error
    assigned: dict[str, PersonSplit] = {}
    for number, row in enumerate(rows, start=2):
        person, named = (row.get("person") or "").strip(), (row.get("split") or "").strip()
        split = next((split for split in SPLITS if split == named), None)
        if not person or split is None:
            raise InputError(f"{path}: line {number}: expected person,split, the split one of {', '.join(SPLITS)}")
        if assigned.setdefault(person, split) != split:
            raise InputError(f"{path}: line {number}: {person} stands in {assigned[person]} and {split}; expected one")
    return assigned


def _person(name: str, assigned: dict[str, PersonSplit] | None, seed: int) -> tuple[str, PersonSplit]:
    """Whom a map shows, and the split."""
    if assigned is not None:
        matching = [person for person in assigned if name.startswith(person) and not name[len(person) :][:1].isalnum()]
        if not matching:
            raise InputError("its name begins with no person of the list of splits; expected one")
        person = max(matching, key=len)
        return person, assigned[person]
    person = name.split("_")[0] if name.startswith("sub-") else name
    tenth = hashlib.sha256(f"{seed} {person}".encode()).digest()[0] * 10 // 256
    return person, "test" if tenth == 9 else "validation" if tenth == 8 else "train"


def _read_map(path: Path, own: Table | None) -> tuple[LabelMap, Table, str]:
    """The labels, right-anterior-superior, 1 mm or coarser, the part of the table they use, and the name of that."""
    image = read_image(path, labels=True)
    data, affine = image.data, image.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if data.ndim != 3 or min(data.shape) < FEWEST or spacing.max() > COARSEST:
        sizes = " x ".join(f"{size:g}" for size in spacing)
        raise InputError(
            f"{' x '.join(map(str, data.shape))} voxels of {sizes} mm; "
            f"expected three axes of {FEWEST} or more voxels of up to {COARSEST} mm"
        )
    labels = [int(label) for label in np.unique(data) if label]
    if not labels:
        raise InputError("is empty: every voxel is 0")
    name, table = table_of(labels, own)
    lesions = _lesions_beside(path)
    if lesions is not None:
        mask = read_image(lesions, labels=True).data
        if mask.shape != data.shape:
            raise InputError(f"{lesions.name} has another shape than it; expected the same grid")
        lesion = next((label for label, structure in table.items() if structure.signal == "lesion"), None)
        if lesion is None:
            raise InputError(f"{lesions.name} lies beside it, but its table has no structure of signal lesion")
        data = np.where((mask > 0) & (data > 0), lesion, data)
        labels = sorted({*labels, lesion})
    return _thinned(_canonical(data, affine)), {label: table[label] for label in labels}, name


def _lesions_beside(path: Path) -> Path | None:
    name = _stem(path)
    suffix = path.name[len(name) :]
    for stem in (name, name.rsplit("_", 1)[0]):
        beside = path.with_name(f"{stem}{LESIONS}{suffix}")
        if beside.is_file():
            return beside
    return None


def _canonical(data: ndarray, affine: ndarray) -> LabelMap:
    """Axes reordered and turned to lie nearest to right, anterior and superior."""
    orientation = nibabel.orientations.io_orientation(affine)
    turned = nibabel.orientations.apply_orientation(data, orientation)
    return LabelMap(turned, affine @ nibabel.orientations.inv_ornt_aff(orientation, data.shape))


def _thinned(found: LabelMap) -> LabelMap:
    """Every axis that is finer than 1 mm with the voxels nearest to a spacing of 1 mm only."""
    labels, affine = found
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    step = np.where(spacing < 0.95 * FINEST, FINEST / spacing, 1.0)
    chosen = [(np.arange(int(size / s)) + 0.5) * s - 0.5 for size, s in zip(labels.shape, step, strict=True)]
    labels = labels[np.ix_(*(np.rint(index).astype(int) for index in chosen))]
    scale = np.diag([*step, 1.0])
    scale[:3, 3] = (step - 1) / 2
    return LabelMap(labels, affine @ scale)


# --- people ----------------------------------------------------------------------------------------------------------


def _coded(found: LabelMap, used: Table, codes: dict[str, int]) -> LabelMap:
    """Codes in the place of labels, cropped to what is labelled."""
    lookup = np.zeros(max(used) + 1, np.uint8)
    for label, structure in used.items():
        lookup[label] = codes[structure.name]
    coded = lookup[found.labels]
    box = []
    for axis in range(3):
        shown = np.flatnonzero(coded.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(int(shown[0]), int(shown[-1]) + 1))
    corner = np.eye(4)
    corner[:3, 3] = [part.start for part in box]
    return LabelMap(np.ascontiguousarray(coded[tuple(box)]), found.affine @ corner)


def _described(coded: LabelMap, structures: Sequence[Structure], person: Person) -> Person:
    """The person with what the map shows; refused where it is no head."""
    counts = np.bincount(coded.labels.ravel(), minlength=len(structures) + 1)
    litre = 1e6 / abs(np.linalg.det(coded.affine[:3, :3]))
    tissues = np.array(["", *(structure.tissue for structure in structures)])
    brain = counts[np.isin(tissues, ("gm", "wm"))].sum() / litre
    if not BRAINS[0] <= brain <= BRAINS[1]:
        raise InputError(
            f"{brain:.2f} litres of grey and white matter; expected {BRAINS[0]} to {BRAINS[1]}: not a brain"
        )
    sums = _sums(coded, len(structures))
    centres: dict[str, ndarray] = {}
    for name in CENTRES:
        parts = [k for k, structure in enumerate(structures, start=1) if name in (structure.name, structure.whole)]
        if counts[parts].sum() >= SHOWN:
            centres[name] = sums[parts].sum(0) / counts[parts].sum()
    matrix = to_common(centres, _spread(coded, np.isin(tissues, ("gm", "wm"))))
    return person._replace(
        whole=bool(counts[tissues == "head"].sum() / litre >= WHOLE_HEAD),
        codes=tuple(int(code) for code in np.flatnonzero(counts >= SHOWN) if code),
        to_common=matrix,
    )


def _sums(coded: LabelMap, most: int) -> Float[ndarray, "codes 3"]:
    """Sum of the voxels' RAS millimetres of each code, from 0."""
    indices = np.stack(
        [
            np.bincount(coded.labels.ravel(), np.broadcast_to(index, coded.labels.shape).ravel(), most + 1)
            for index in np.ix_(*(np.arange(size, dtype=float) for size in coded.labels.shape))
        ]
    )
    counts = np.bincount(coded.labels.ravel(), minlength=most + 1)
    world: ndarray = indices.T @ coded.affine[:3, :3].T + counts[:, None] * coded.affine[:3, 3]
    return world


def _spread(coded: LabelMap, chosen: ndarray) -> Spread:
    """Of all voxels whose code is chosen."""
    world = nibabel.affines.apply_affine(coded.affine, np.argwhere(chosen[coded.labels]))
    return Spread(world.mean(0), world.std(0))


# --- index -----------------------------------------------------------------------------------------------------------


def _dump(anatomies: Anatomies, refused: dict[str, str]) -> str:
    people = [person._asdict() | {"to_common": person.to_common.round(6).tolist()} for person in anatomies.people]
    document = {
        "structures": [structure._asdict() for structure in anatomies.structures],
        "people": people,
        "refused": {Path(path).name: reason for path, reason in refused.items()},
    }
    return json.dumps(document, indent=1) + "\n"


def _loaded(entry: dict[str, Any]) -> Person:
    return Person(**{**entry, "codes": tuple(entry["codes"]), "to_common": np.array(entry["to_common"], float)})

"""The two data sets of the paper: the user's BrainWeb and BraTS, or simulated ones, which need no download."""

import hashlib
import json
from pathlib import Path

import numpy as np

from crossmorph.datasets.pairs import read_pairs
from crossmorph.datasets.phantom import prepare_phantom
from crossmorph.datasets.tumour_phantom import prepare_tumours
from crossmorph.errors import InputError
from crossmorph.images.io import read_image
from crossmorph.provenance.record import digest as file_digest
from crossmorph.reproduction.budgets import Budget, Counts
from crossmorph.reproduction.plan import ROLES, Data, Role

SPLITS = ("train", "validation", "test")
# The files of a pair that the paper's score needs.
SCORED_BY: dict[Role, tuple[str, ...]] = {
    "brainweb": ("moving_same", "moving_labels", "fixed_labels"),
    "brats": ("moving_same",),
}
# Of the simulated data sets.
DESCRIPTIONS: dict[Role, str] = {
    "brainweb": "stand-in for BrainWeb: simulated brain slices (crossmorph prepare phantom)",
    "brats": "stand-in for BraTS: simulated brain slices with tumours",
}


def simulated(role: Role, budget: Budget, cache: Path, seed: int) -> Data:
    """Simulate the data set of a role, unless the cache has it; the same arguments give the same bytes."""
    counts: Counts = getattr(budget, role)
    folder = cache / f"{role}-{'-'.join(map(str, counts))}-{seed}"
    if not folder.exists():
        make = prepare_phantom if role == "brainweb" else prepare_tumours
        make(folder, seed, train=counts.train, test=counts.test, validation=counts.validation)
    clean = None
    if role == "brainweb":
        quiet = cache / f"{role}-clean-{counts.test}-{seed}"
        if not quiet.exists():
            prepare_phantom(quiet, seed, train=1, test=counts.test, validation=1, noise=0.0)
        clean = quiet / "test" / "pairs.csv"
    return described(role, folder, DESCRIPTIONS[role], clean)


def given(role: Role, folder: Path) -> Data:
    """A data set that ``crossmorph prepare`` wrote from the user's files.

    Raises:
        InputError: it is the other one, a split is missing or cannot be read, images differ in shape, or files for
            scoring are missing.
    """
    try:
        name = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["name"]
    except (OSError, ValueError, KeyError, TypeError):
        name = folder.name
    if name in ROLES and name != role:
        raise InputError(f"{folder}: is {name}, by its dataset.json; expected that of `crossmorph prepare {role}`")
    return described(role, folder, f"{name} ({folder})", None)


def described(role: Role, folder: Path, description: str, clean: Path | None) -> Data:
    """Check every pair, so that errors show before any network is trained."""
    shapes: set[tuple[int, ...]] = set()
    spacings: set[float] = set()
    for split in SPLITS:
        pairs = read_pairs(folder / split / "pairs.csv")
        needed = () if split == "train" else SCORED_BY[role]
        for pair in pairs:
            missing = [column for column in needed if getattr(pair, column) is None]
            if missing:
                raise InputError(f"{folder / split / 'pairs.csv'}: {pair.name} lacks {missing[0]}, needed for scoring")
        for path in {path for pair in pairs for path in (pair.moving, pair.fixed)}:
            image = read_image(path)
            shapes.add(image.shape)
            spacings.update(np.round(image.spacing, 3).tolist())
    if len(shapes) > 1 or len(spacings) > 1 or any(side % 16 for shape in shapes for side in shape):
        raise InputError(
            f"{folder}: images of {', '.join(map(str, sorted(shapes)))} voxels of {sorted(spacings)} mm; expected one "
            "shape, its sides multiples of 16, and one isotropic spacing, as crossmorph prepare writes"
        )
    return Data(role, description, folder, shapes.pop(), spacings.pop(), digest(folder), clean)


def digest(folder: Path) -> str:
    """SHA-256 over the names and contents of all files of a data set."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(f"{path.relative_to(folder).as_posix()} {file_digest(path)}\n".encode())
    return total.hexdigest()

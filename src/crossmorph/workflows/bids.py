"""Names and sidecars of BIDS derivatives (https://bids-specification.readthedocs.io, Derivatives, 1.10).

From ``sub-01_T2w`` to ``sub-01_T1w``: the moved image is ``sub-01_space-T1w_T2w.nii.gz``, the transforms
``sub-01_from-T2w_to-T1w_mode-image_xfm.h5`` and back, where "from" is the moving image; each has a JSON file beside it,
with the record of the run (:mod:`crossmorph.provenance.record`).
"""

import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from crossmorph.errors import InputError
from crossmorph.images.io import READABLE_SUFFIXES
from crossmorph.provenance.record import record_path
from crossmorph.system.files import suffix_of
from crossmorph.workflows.outputs import Outputs, Sidecar

NAME = re.compile(r"(?P<entities>(?:[a-z]+-[A-Za-z0-9+]+_)*)(?P<suffix>[A-Za-z0-9]+)")
ANATOMY = ("sub", "ses")  # entities that say whose image it is
OF_A_GRID = ("space", "res", "den")  # entities that no longer hold on another grid
# Entities that stand behind `space` (rules/entities.yaml of the standard's schema).
BEHIND_SPACE = ("split", "recording", "chunk", "atlas", "seg", "scale", "label", "desc")


class BidsName(NamedTuple):
    """``entities`` as in ``sub-01_ses-2_``, and the suffix: ``T2w``."""

    entities: dict[str, str]
    suffix: str


def bids_name(path: Path) -> BidsName:
    """Entities and suffix of a file's name. Raises InputError where it is not a BIDS name."""
    ending = suffix_of(path, READABLE_SUFFIXES, "image")
    found = parsed(path.name[: -len(ending)])
    if found is None or not found.entities:
        raise InputError(f"{path}: not a BIDS name; expected one like sub-01_T2w.nii.gz with --bids")
    return found


def parsed(text: str) -> BidsName | None:
    """Entities, if any, and suffix; None where a text is no BIDS name."""
    found = NAME.fullmatch(text)
    if not found:
        return None
    parts = [part.split("-") for part in found["entities"].split("_") if part]
    return BidsName(dict(parts), found["suffix"])


def bids_outputs(moving: Path, fixed: Path, folder: Path, name: Callable[[Path], str] = str) -> Outputs:
    """The moved image and both transforms under the names of a derivative, in a folder, with a JSON file beside each.

    Another subject's or session's space is named with it: ``space-02T1w``. The folder is made before the work.

    Args:
        moving: the moving image.
        fixed: the fixed image.
        folder: for the files.
        name: what the JSON files call an image.

    Raises:
        InputError: an image has no BIDS name.
    """
    source, target = bids_name(moving), bids_name(fixed)
    there, here = target.suffix, source.suffix
    for key in ANATOMY:
        one, other = source.entities.get(key, ""), target.entities.get(key, "")
        if one != other:
            here, there = f"{one}{here}", f"{other}{there}"
    if here == there:
        raise InputError(f"{moving} and {fixed}: one subject, session and suffix; expected names that tell them apart")
    kept = {key: value for key, value in source.entities.items() if key not in OF_A_GRID}
    start = "".join(f"{key}-{value}_" for key, value in kept.items() if key not in BEHIND_SPACE)
    end = "".join(f"{key}-{value}_" for key, value in kept.items() if key in BEHIND_SPACE)
    moved = folder / f"{start}space-{there}_{end}{source.suffix}.nii.gz"
    transform = folder / f"{start}from-{here}_to-{there}_mode-image_{end}xfm.h5"
    inverse = folder / f"{start}from-{there}_to-{here}_mode-image_{end}xfm.h5"
    references = {moved: fixed, transform: fixed, inverse: moving}
    common = {"Sources": [name(moving), name(fixed)], "GeneratedBy": [generator()]}
    sidecars = [
        Sidecar(record_path(path), {**common, "SpatialReference": name(space)}) for path, space in references.items()
    ]
    return Outputs(moved, transform, inverse, sidecars=tuple(sidecars), folder=folder)


def generator() -> dict[str, Any]:
    """This program, as the standard's ``GeneratedBy`` has it."""
    return {"Name": "crossmorph", "Version": metadata.version("crossmorph")}

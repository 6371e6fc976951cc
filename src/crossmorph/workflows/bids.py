"""Names and sidecars of BIDS derivatives (https://bids-specification.readthedocs.io, Derivatives, 1.10).

From ``sub-01_T2w`` to ``sub-01_T1w``: the moved image is ``sub-01_space-T1w_T2w.nii.gz``, the transforms
``sub-01_from-T2w_to-T1w_mode-image_xfm.h5`` and back, where "from" is the moving image; each has a JSON file beside it,
with the record of the run (:mod:`crossmorph.provenance.record`).
"""

import re
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from crossmorph.errors import InputError
from crossmorph.images.io import READABLE_SUFFIXES
from crossmorph.provenance.record import record_path
from crossmorph.system.files import suffix_of
from crossmorph.workflows.outputs import Outputs, Sidecar

NAME = re.compile(r"(?P<entities>(?:[a-z]+-[A-Za-z0-9]+_)+)(?P<suffix>[A-Za-z0-9]+)")
ANATOMY = ("sub", "ses")  # entities that say whose image it is


class BidsName(NamedTuple):
    """``entities`` as in ``sub-01_ses-2_``, and the suffix: ``T2w``."""

    entities: dict[str, str]
    suffix: str


def bids_name(path: Path) -> BidsName:
    """Entities and suffix of a file's name. Raises InputError where it is not a BIDS name."""
    ending = suffix_of(path, READABLE_SUFFIXES, "image")
    found = NAME.fullmatch(path.name[: -len(ending)])
    if not found:
        raise InputError(f"{path}: not a BIDS name; expected one like sub-01_T2w.nii.gz with --bids")
    entities = dict(part.split("-") for part in found["entities"].rstrip("_").split("_"))
    return BidsName(entities, found["suffix"])


def bids_outputs(moving: Path, fixed: Path, folder: Path) -> Outputs:
    """The moved image and both transforms under the names of a derivative, in a folder, with a JSON file beside each.

    Another subject's or session's space is named with it: ``space-02T1w``. The folder is made before the work.

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
    start = "".join(f"{key}-{value}_" for key, value in source.entities.items() if key != "space")
    moved = folder / f"{start}space-{there}_{source.suffix}.nii.gz"
    transform = folder / f"{start}from-{here}_to-{there}_mode-image_xfm.h5"
    inverse = folder / f"{start}from-{there}_to-{here}_mode-image_xfm.h5"
    references = {moved: fixed, transform: fixed, inverse: moving}
    sidecars = [Sidecar(record_path(path), _keys(moving, fixed, space)) for path, space in references.items()]
    return Outputs(moved, transform, inverse, sidecars=tuple(sidecars), folder=folder)


def _keys(moving: Path, fixed: Path, reference: Path) -> dict[str, object]:
    """What the standard asks of a sidecar."""
    generator = {"Name": "crossmorph", "Version": metadata.version("crossmorph")}
    sources = [str(moving), str(fixed)]
    return {"Sources": sources, "SpatialReference": str(reference), "GeneratedBy": [generator]}

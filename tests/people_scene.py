"""Label maps of heads that the tests draw: nested ellipsoids and balls at the structures' places."""

from pathlib import Path

import nibabel
import numpy as np

from crossmorph.datasets.common_space import BRAIN_CENTRE, CENTRES
from crossmorph.datasets.label_tables import built_in_table

SPACING = 4.0  # mm
SHAPE = (48, 56, 52)
LABELS = {structure.name: label for label, structure in reversed(built_in_table("aseg").items())}


def draw_head(
    whole: bool = True, swell: float = 1.0, moved: tuple[float, float, float] = (0, 0, 0)
) -> tuple[np.ndarray, np.ndarray]:
    """A label map of FreeSurfer's and SynthSeg's labels, axes right, anterior, superior, and its affine.

    The head is ``swell`` times the average's size and its centre ``moved`` millimetres from where that has it.
    """
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    affine[:3, 3] = -SPACING * (np.array(SHAPE) - 1) / 2
    world = np.moveaxis(np.indices(SHAPE), 0, -1) * SPACING + affine[:3, 3]
    place = (world - moved) / swell
    labels = np.zeros(SHAPE, np.int32)
    left = place[..., 0] < 0

    def put(name: str, where: np.ndarray) -> None:
        labels[where] = LABELS[name]

    radius = np.linalg.norm((place - BRAIN_CENTRE) / (66, 84, 66), axis=-1)
    if whole:
        for name, bound in (("skin", 1.3), ("soft tissue", 1.26), ("bone", 1.18)):
            put(name, radius < bound)
    put("outer csf", radius < 1.08)
    for side, here in (("left", left), ("right", ~left)):
        put(f"{side} cortex", (radius < 1.0) & here)
        put(f"{side} white matter", (radius < 0.8) & here)
    for name, centre in CENTRES.items():
        if not name.endswith(("white matter", "cortex")) or "cerebell" in name:
            put(name, np.linalg.norm(place - centre, axis=-1) < (14 if "cerebell" in name else 8))
    return labels, affine


def save(path: Path, labels: np.ndarray, affine: np.ndarray) -> Path:
    """Write a label map."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(labels.astype(np.float32 if labels.dtype.kind == "f" else np.int16), affine).to_filename(path)
    return path


def draw_people(folder: Path) -> Path:
    """Four people, two of them brains without a head; returns the list of their splits: all train but the last two."""
    for k, name in enumerate(("ann", "bob", "cem", "dia")):
        save(folder / f"{name}.nii.gz", *draw_head(whole=k % 2 == 0, swell=1 + 0.04 * k, moved=(2 * k, -k, k)))
    splits = folder.parent / "splits.csv"
    splits.write_text("person,split\nann,train\nbob,train\ncem,validation\ndia,validation\n")
    return splits

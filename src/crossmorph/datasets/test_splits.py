"""Further test splits of the phantom: other contrasts, whole heads, and large initial misalignment.

Each is written by a function of the anatomies, the axial slices at hand, and `stream`, which gives an independent
random generator for each key. Every pair is one slice under two deformations, with the true field between them.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from crossmorph.datasets.pairs import Pair, write_pairs
from crossmorph.datasets.writing import write_field, write_intensities, write_labels
from crossmorph.errors import InputError
from crossmorph.simulation.deformation import SMOOTH, Difficulty, random_deformation, true_field, warp_fractions
from crossmorph.simulation.head_layers import surround
from crossmorph.simulation.mri import CONTRASTS, Contrast, simulate, tissue_labels
from crossmorph.system.progress import tracked

ExtraSplit = Literal["contrasts", "heads", "far"]
Stream = Callable[..., np.random.Generator]

_DEFAULT_PAIRS: dict[ExtraSplit, int] = {"contrasts": 32, "heads": 32, "far": 96}


class Slice(NamedTuple):
    """Tissue fractions (tissue, x, y) of an axial slice, and the affine of their voxels to RAS millimetres."""

    fractions: np.ndarray
    affine: np.ndarray


class Deformed(NamedTuple):
    """A slice under a deformation, and that displacement (2, x, y) in voxels."""

    slice: Slice
    u: np.ndarray


class Acquired(NamedTuple):
    """A way to acquire an anatomy: its name in the files, the contrast, and the noise and bias."""

    name: str
    contrast: Contrast
    difficulty: Difficulty = SMOOTH


@dataclass(frozen=True)
class Far:
    """How far apart the images of the split `far` are; the elastic part, noise and bias are those of `SMOOTH`.

    Attributes:
        shift: Largest shift from the fixed to the moving image along each axis, voxels: a quarter of the fixed image.
        rotation: Largest rotation about the centre, degrees.
        scale: Range of the moving anatomy's size relative to the fixed one's; its logarithm is uniform. The larger of
            the two has the size of the template.
        moving_shape: Grid of the moving image, around the same centre as the fixed one.
    """

    shift: float = 32.0
    rotation: float = 45.0
    scale: tuple[float, float] = (0.7, 1.4)
    moving_shape: tuple[int, int] = (192, 192)


FAR = Far()
HEAD_SHAPE = (192, 192)  # 288 mm: room for a head, 210 mm long, under any deformation of SMOOTH
CLEAR = 2  # voxels without tissue that every anatomy keeps from the edge of its image

# Moving and fixed contrast of the lists. Unseen contrasts are once the moving, once the fixed, and once both images.
CONTRAST_LISTS: tuple[tuple[Contrast, Contrast], ...] = (
    ("t2", "t1"),
    ("t1", "t2"),
    ("pd", "t1"),
    ("t2", "pd"),
    ("flair", "t1"),
    ("t2", "flair"),
    ("inverted", "t1"),
    ("synthetic-a", "t1"),
    ("t2", "synthetic-b"),
    ("synthetic-b", "synthetic-c"),
)
# T2w to T1w once more with one thing changed. The random numbers stay the same: bias and noise differ by a factor.
CONDITIONS = {
    "noise0": replace(SMOOTH, noise=0.0),
    "noise9": replace(SMOOTH, noise=0.09),
    "bias40": replace(SMOOTH, bias=0.4),
}


def default_pairs(names: Sequence[str]) -> dict[ExtraSplit, int]:
    """The default number of pairs of each extra split in a list of names.

    Raises:
        InputError: If a name is not that of a split.
    """
    unknown = [name for name in names if name not in _DEFAULT_PAIRS]
    if unknown:
        expected = ", ".join(_DEFAULT_PAIRS)
        raise InputError(f"unknown extra split: received {', '.join(map(repr, unknown))}; expected some of {expected}")
    return {split: count for split, count in _DEFAULT_PAIRS.items() if split in names}


def write_extra(split: ExtraSplit, folder: Path, slices: list[Slice], stream: Stream) -> list[Path]:
    """Write a split: the images, labels and true fields of one pair a slice, and the lists of pairs.

    Args:
        split: `contrasts`: every anatomy in every contrast, and a list `pairs-MOVING-FIXED.csv` for each of
            `CONTRAST_LISTS` and, as `pairs-t2-t1-NAME.csv`, of `CONDITIONS`. `heads` and `far`: T2w to T1w, in
            `pairs.csv`.
        folder: Where to; it exists.
        slices: The brain at the level of each pair.
        stream: A random generator for a key of numbers and words.

    Returns:
        The lists.
    """
    write = {"contrasts": _write_contrasts, "heads": _write_heads, "far": _write_far}[split]
    return write(folder, slices, stream)


def describe_extra(split: ExtraSplit) -> dict[str, object]:
    """The entries of `dataset.json` for a split, besides its count and levels."""
    if split == "contrasts":
        conditions = {name: asdict(difficulty) for name, difficulty in CONDITIONS.items()}
        return {**asdict(SMOOTH), "modalities": CONTRASTS, "conditions": conditions}
    if split == "heads":
        return {**asdict(SMOOTH), "shape": HEAD_SHAPE}
    return {**asdict(SMOOTH), **asdict(FAR)}


def on_grid(source: Slice, shape: Sequence[int]) -> Slice:
    """The slice on a grid of another shape around the same centre: background is added, or voxels are cut, evenly.

    Args:
        source: Its shape differs from the new one by an even number along each axis.
        shape: Of the new grid, voxels of the same size at the same places.
    """
    starts = [(old - new) // 2 for old, new in zip(source.fractions.shape[1:], shape, strict=True)]
    affine = source.affine.copy()
    affine[:3, 3] += affine[:3, :2] @ starts
    return Slice(_centre(source.fractions, shape), affine)


def _centre(data: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The centre of an array (channel, x, y), or zeros around it."""
    for axis, size in enumerate(shape, start=1):
        margin = (size - data.shape[axis]) // 2
        data = data.take(range(-margin, size - margin), axis) if margin < 0 else _pad(data, axis, margin)
    return data


def _pad(data: np.ndarray, axis: int, margin: int) -> np.ndarray:
    return np.pad(data, [(margin, margin) if k == axis else (0, 0) for k in range(data.ndim)])


# --- splits ----------------------------------------------------------------------------------------------------------


def _write_contrasts(folder: Path, slices: list[Slice], stream: Stream) -> list[Path]:
    plain = [Acquired(contrast, contrast) for contrast in CONTRASTS]
    varied = [
        Acquired(f"{contrast}-{name}", contrast, difficulty)
        for name, difficulty in CONDITIONS.items()
        for contrast in ("t2", "t1")
    ]
    for index, source in tracked(list(enumerate(slices)), "contrasts"):
        moving, fixed = (_deform(source, stream(index, role)) for role in ("moving", "fixed"))
        for role, deformed in (("moving", moving), ("fixed", fixed)):
            _write_anatomy(folder, index, role, deformed.slice, [*plain, *varied], stream)
        write_field(folder / f"{index:04d}_field.nii.gz", true_field(moving.u, fixed.u), source.affine)
    lists = [_write_list(folder, f"-{a}-{b}", len(slices), a, b) for a, b in CONTRAST_LISTS]
    return [*lists, *(_write_list(folder, f"-t2-t1-{x}", len(slices), f"t2-{x}", f"t1-{x}") for x in CONDITIONS)]


def _write_heads(folder: Path, slices: list[Slice], stream: Stream) -> list[Path]:
    for index, brain in tracked(list(enumerate(slices)), "heads"):
        room = on_grid(brain, HEAD_SHAPE)
        spacing, z_mm = float(room.affine[0, 0]), float(room.affine[2, 3])
        head = Slice(surround(room.fractions, spacing, z_mm, stream(index, "head")), room.affine)
        moving, fixed = (_deform(head, stream(index, role)) for role in ("moving", "fixed"))
        _write_pair(folder, index, moving.slice, fixed.slice, stream)
        write_field(folder / f"{index:04d}_field.nii.gz", true_field(moving.u, fixed.u), head.affine)
    return [_write_list(folder, "", len(slices), "t2", "t1")]


def _write_far(folder: Path, slices: list[Slice], stream: Stream) -> list[Path]:
    for index, brain in tracked(list(enumerate(slices)), "far"):
        shape = brain.fractions.shape[1:]
        moving, fixed = far_apart(on_grid(brain, FAR.moving_shape), shape, stream(index, "pair"))
        u = _centre(true_field(moving.u, fixed.u), shape)
        _write_pair(folder, index, moving.slice, on_grid(fixed.slice, shape), stream)
        write_field(folder / f"{index:04d}_field.nii.gz", u, brain.affine)
    return [_write_list(folder, "", len(slices), "t2", "t1")]


# --- deformations ----------------------------------------------------------------------------------------------------


def _deform(source: Slice, rng: np.random.Generator) -> Deformed:
    u = random_deformation(rng, source.fractions.shape[1:], SMOOTH)
    return Deformed(Slice(warp_fractions(source.fractions, u), source.affine), u)


def far_apart(source: Slice, fixed_shape: Sequence[int], rng: np.random.Generator) -> tuple[Deformed, Deformed]:
    """Draw the two deformations of a pair of the split `far`, both on the grid of the moving image.

    Relative to the fixed image's centre, p is mapped to q = s R p + t, with rotation, scale and shift in the ranges of
    `FAR`, apart from the elastic parts. Drawn again until both anatomies lie inside their images.

    Args:
        source: The slice on the moving image's grid.
        fixed_shape: The fixed image is this many voxels around the centre.
        rng: Source of randomness.

    Returns:
        The moving and the fixed image's deformation.
    """
    while True:
        angle = np.deg2rad(rng.uniform(-FAR.rotation, FAR.rotation))
        scale = np.exp(rng.uniform(*np.log(FAR.scale)))
        shift = rng.uniform(-FAR.shift, FAR.shift, 2)
        to_slice = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # the inverse rotation
        moving = _place(source, to_slice / min(scale, 1), shift, rng)
        fixed = _place(source, np.eye(2) * max(scale, 1), np.zeros(2), rng)
        if _is_clear(moving.slice.fractions) and _is_clear(_centre(fixed.slice.fractions, fixed_shape)):
            return moving, fixed


def _place(source: Slice, to_slice: np.ndarray, shift: np.ndarray, rng: np.random.Generator) -> Deformed:
    """Shift and then map a point of the image, from its centre, to the slice; the elastic part of `SMOOTH` on top."""
    shape = source.fractions.shape[1:]
    elastic = random_deformation(rng, shape, replace(SMOOTH, shift=0.0, rotation=0.0, scale=0.0))
    centred = np.indices(shape) - (np.array(shape)[:, None, None] - 1) / 2
    u = np.tensordot(to_slice, centred - shift[:, None, None], axes=1) - centred + elastic
    return Deformed(Slice(warp_fractions(source.fractions, u), source.affine), u)


def _is_clear(fractions: Float[np.ndarray, "tissue x y"]) -> bool:
    """Whether no tissue comes near the edge of the image."""
    occupied = fractions.sum(0) > 0.5
    occupied[CLEAR:-CLEAR, CLEAR:-CLEAR] = False
    return not occupied.any()


# --- files -----------------------------------------------------------------------------------------------------------


def _write_pair(folder: Path, index: int, moving: Slice, fixed: Slice, stream: Stream) -> None:
    t1 = Acquired("t1", "t1")
    _write_anatomy(folder, index, "moving", moving, [Acquired("t2", "t2"), t1], stream)
    _write_anatomy(folder, index, "fixed", fixed, [t1], stream)


def _write_anatomy(
    folder: Path, index: int, role: str, anatomy: Slice, acquisitions: list[Acquired], stream: Stream
) -> None:
    stem = f"{index:04d}_{role}"
    for name, contrast, difficulty in acquisitions:
        image = simulate(anatomy.fractions, contrast, stream(index, role, contrast), difficulty)
        write_intensities(folder / f"{stem}_{name}.nii.gz", image, anatomy.affine)
    write_labels(folder / f"{stem}_labels.nii.gz", tissue_labels(anatomy.fractions), anatomy.affine)


def _write_list(folder: Path, suffix: str, count: int, moving: str, fixed: str) -> Path:
    """Write the list of the pairs between two acquisitions, given by their names."""
    path = folder / f"pairs{suffix}.csv"
    stems = [folder / f"{index:04d}" for index in range(count)]
    pairs = [
        Pair(
            name=f"{folder.name}-{stem.name}",
            moving=Path(f"{stem}_moving_{moving}.nii.gz"),
            fixed=Path(f"{stem}_fixed_{fixed}.nii.gz"),
            moving_labels=Path(f"{stem}_moving_labels.nii.gz"),
            fixed_labels=Path(f"{stem}_fixed_labels.nii.gz"),
            moving_same=Path(f"{stem}_moving_{fixed}.nii.gz"),
            field=Path(f"{stem}_field.nii.gz"),
        )
        for stem in stems
    ]
    write_pairs(path, pairs)
    return path

"""Data sets of BrainWeb: slices of its simulated heads under random deformations that are known.

BrainWeb (https://brainweb.bic.mni.mcgill.ca) provides T1w, T2w and PDw volumes of one normal head, also with lesions
of multiple sclerosis, models of their tissues, and models of 20 more heads. A slice is an array (x, y) of 128 x 128
voxels of 1.5 mm, which holds a whole brain and a head but for some of its scalp, in the site's RAS millimetres. Where
there are volumes, the images of a pair are slices of them; where there is only a model they are simulated.
"""

import importlib.metadata
import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal, NamedTuple, cast

import numpy as np

from crossmorph.datasets.brainweb.files import find_files
from crossmorph.datasets.brainweb.heads import (
    BRAINS,
    INU,
    NOISE,
    Brain,
    Head,
    LabelledTissue,
    LoadedHead,
    brain_levels,
    choose_brain,
    choose_heads,
    load_head,
    scan,
    slice_fractions,
    slice_image,
)
from crossmorph.datasets.pairs import write_pairs
from crossmorph.datasets.sampling import generator, training_pairs
from crossmorph.datasets.writing import (
    check_numbers,
    new_dataset,
    slice_pair,
    write_field,
    write_intensities,
    write_labels,
)
from crossmorph.errors import InputError
from crossmorph.simulation.anatomy import SHAPE, SPACING, slice_affine
from crossmorph.simulation.deformation import SMOOTH, random_deformation, true_field, warp_fractions
from crossmorph.simulation.mri import Modality
from crossmorph.system.progress import tracked

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
MIN_LEVELS = 10  # of one head, so that each split has one


class Place(NamedTuple):
    """A slice: of which head, and its level in RAS mm."""

    head: int
    z_mm: float


class Scanner(NamedTuple):
    """What all images of a data set have in common: the seed, and noise and non-uniformity in percent."""

    seed: int
    noise: int
    inu: int
    modalities: tuple[Modality, ...]  # T2w and T1w, perhaps PDw


class Slice(NamedTuple):
    """A slice before it is deformed: its tissues, and the site's own images of it."""

    fractions: np.ndarray
    images: dict[Modality, np.ndarray]
    tissues: tuple[LabelledTissue, ...]
    affine: np.ndarray


def prepare_brainweb(
    source: Path,
    output: Path,
    seed: int = 0,
    train: int = 396,
    test: int = 96,
    validation: int = 24,
    brain: Brain | None = None,
    noise: int = 3,
    inu: int = 20,
    pd: bool = False,
) -> dict[str, Path]:
    """Write a data set of T2w (moving) and T1w (fixed) slices of BrainWeb, with labels and true fields.

    The folder is laid out as :func:`crossmorph.datasets.phantom.prepare_phantom` does: `train`, `validation` and
    `test`, each with its images and lists of pairs, and a `dataset.json`. Both images of a pair show one head, each
    under its own random shift, rotation, scaling and smooth deformation; in training up to 3 mm apart, else at one
    level, with the true field between them. Of one head, no two splits share a level; of several, no two share a head.
    The labels are the model's. The same arguments and files give the same bytes.

    Args:
        source: A folder with files from BrainWeb, at any depth; the names are in
            :func:`crossmorph.datasets.brainweb.files.find_files`.
        output: The folder to write; it must not exist, or be empty. It appears complete.
        seed: Seed of everything random, at least 0.
        train: Training images of each modality.
        test: Test pairs.
        validation: Validation pairs.
        brain: Whose files to use where the folder has those of several.
        noise: Percent, as in the volumes' names (`pn3`): which to use, or what to simulate.
        inu: Intensity non-uniformity, percent (`rf20`), likewise.
        pd: Also write a PDw image of every moving anatomy, and `pairs-pd.csv`: PDw to T1w.

    Returns:
        The path of each `pairs.csv` by name of the split.

    Raises:
        InputError: If a file is missing, present twice, incomplete, or not what its name says; if the output folder is
            not empty or cannot be written; or if a number is out of range. All files are read before any is written.
    """
    counts: dict[Split, int] = {"train": train, "validation": validation, "test": test}
    check_numbers(seed, counts.items())
    check_choice(brain, noise, inu)
    source, output = Path(source), Path(output)
    modalities: tuple[Modality, ...] = ("t2", "t1", "pd") if pd else ("t2", "t1")
    files = find_files(source)
    brain = brain or choose_brain(source, files)
    heads = choose_heads(source, files, brain, noise, inu, modalities)
    scanner = Scanner(seed, noise, inu, modalities)
    with new_dataset(output) as folder:
        levels = [brain_levels(load_head(head)) for head in tracked(heads, "heads to read")]
        split_of = _split_places(heads, levels, seed)
        places = {split: _ordered(split_of[split], counts[split], seed, split) for split in SPLITS}
        _write_images(folder, heads, places, scanner)
        for split in SPLITS:
            _write_lists(folder / split, split, places[split], scanner)
        description = _describe(source, heads, brain, split_of, counts, scanner)
        (folder / "dataset.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return {split: output / split / "pairs.csv" for split in SPLITS}


def check_choice(brain: str | None, noise: int, inu: int) -> Brain | None:
    """Check that BrainWeb has a head, noise and non-uniformity (percent). Returns the head, raises InputError."""
    for name, value, known in (("brain", brain, (None, *BRAINS)), ("noise", noise, NOISE), ("inu", inu, INU)):
        if value not in known:
            options = ", ".join(str(option) for option in known if option is not None)
            raise InputError(f"{name} = {value}; expected one of {options}, which BrainWeb has")
    return cast(Brain | None, brain)


# --- splits ----------------------------------------------------------------------------------------------------------


def _split_places(heads: list[Head], levels: list[list[float]], seed: int) -> dict[Split, list[Place]]:
    """The slices of each split: of one head every tenth for validation and two of ten for testing, as the phantom's.

    Of several heads, a tenth and a fifth of them, at least one, drawn at random.
    """
    fewest = MIN_LEVELS if len(levels) == 1 else 1
    for head, found in zip(heads, levels, strict=True):
        if len(found) < fewest:
            raise InputError(f"{head.model[0]}: {len(found)} slices show enough of a brain; expected at least {fewest}")
    if len(levels) == 1:
        roles: dict[int, Split] = {2: "test", 7: "test", 9: "validation"}
        places = [(roles.get(k % 10, "train"), Place(0, z_mm)) for k, z_mm in enumerate(levels[0])]
        return {split: [place for role, place in places if role == split] for split in SPLITS}
    order = [int(head) for head in generator(seed, "pair").permutation(len(levels))]
    first, second = max(1, len(order) // 10), max(1, len(order) // 10) + max(1, len(order) // 5)
    chosen: dict[Split, list[int]] = {
        "validation": order[:first],
        "test": order[first:second],
        "train": order[second:],
    }
    return {split: [Place(head, z) for head in sorted(chosen[split]) for z in levels[head]] for split in SPLITS}


def _ordered(places: list[Place], count: int, seed: int, split: Split) -> list[Place]:
    """The slice of each image: all slices of the split in random order, repeated."""
    order = generator(seed, split).permutation(len(places))
    return [places[order[index % len(order)]] for index in range(count)]


# --- files -----------------------------------------------------------------------------------------------------------


def _write_images(folder: Path, heads: list[Head], places: dict[Split, list[Place]], scanner: Scanner) -> None:
    """All images, head by head, so that one head at a time is in memory."""
    for split in SPLITS:
        (folder / split).mkdir()
    for number, head in enumerate(heads):
        loaded = load_head(head)
        ours = [(split, index, place) for split in SPLITS for index, place in enumerate(places[split])]
        for split, index, place in tracked([each for each in ours if each[2].head == number], head.name):
            _write_pair(folder / split, split, index, _slice(loaded, place.z_mm), scanner)


def _slice(head: LoadedHead, z_mm: float) -> Slice:
    images = {modality: slice_image(volume, z_mm) for modality, volume in head.images.items()}
    return Slice(slice_fractions(head, z_mm), images, head.tissues, slice_affine(z_mm))


def _write_pair(folder: Path, split: Split, index: int, source: Slice, scanner: Scanner) -> None:
    u_moving = _write_anatomy(folder, split, index, "moving", source, scanner)
    u_fixed = _write_anatomy(folder, split, index, "fixed", source, scanner)
    if split != "train":
        write_field(folder / f"{index:04d}_field.nii.gz", true_field(u_moving, u_fixed), source.affine)


def _write_anatomy(
    folder: Path, split: Split, index: int, role: Literal["moving", "fixed"], source: Slice, scanner: Scanner
) -> np.ndarray:
    """Write the images and labels of one deformed slice; returns its displacement."""
    u = random_deformation(generator(scanner.seed, split, index, role), SHAPE, SMOOTH)
    fractions, stem = warp_fractions(source.fractions, u), f"{index:04d}_{role}"
    for modality in scanner.modalities:
        # The moving anatomy as T1w is for evaluation only, so training has none.
        if (modality == "t1" and (role, split) == ("moving", "train")) or (modality != "t1" and role == "fixed"):
            continue
        if modality in source.images:
            image = warp_fractions(source.images[modality][None], u)[0]
        else:
            rng = generator(scanner.seed, split, index, role, modality)
            image = scan(fractions, source.tissues, modality, scanner.noise, scanner.inu, rng)
        write_intensities(folder / f"{stem}_{modality}.nii.gz", image, source.affine)
    background = 1 - fractions.sum(0, keepdims=True)
    labels = np.concatenate([background, fractions]).argmax(0).astype(np.uint8)
    write_labels(folder / f"{stem}_labels.nii.gz", labels, source.affine)
    return u


def _write_lists(folder: Path, split: Split, places: list[Place], scanner: Scanner) -> None:
    numbers = [(index, index) for index in range(len(places))]
    if split == "train":
        numbers = training_pairs(
            [place.z_mm for place in places],
            lambda moving: generator(scanner.seed, "train", moving, "partners"),
            [place.head for place in places],
        )
    for modality in scanner.modalities:
        if modality != "t1":
            name = "pairs.csv" if modality == "t2" else f"pairs-{modality}.csv"
            write_pairs(
                folder / name, [slice_pair(folder, split, moving, fixed, modality) for moving, fixed in numbers]
            )


def _describe(
    source: Path,
    heads: list[Head],
    brain: Brain,
    places: dict[Split, list[Place]],
    counts: dict[Split, int],
    scanner: Scanner,
) -> dict[str, object]:
    simulated = [modality for modality in scanner.modalities if modality not in heads[0].images]
    return {
        "name": "brainweb",
        "source": "BrainWeb, https://brainweb.bic.mni.mcgill.ca",
        "brain": brain,
        "files": [
            path.relative_to(source).as_posix() for head in heads for path in (*head.model, *head.images.values())
        ],
        "seed": scanner.seed,
        "modalities": scanner.modalities,
        "simulated_from_the_model": simulated,
        "noise_percent": scanner.noise,
        "inu_percent": scanner.inu,
        "shape": SHAPE,
        "spacing_mm": SPACING,
        "labels": {"0": "background", **{str(k): tissue.name for k, tissue in enumerate(heads[0].tissues, start=1)}},
        "deformation": {name: value for name, value in asdict(SMOOTH).items() if name not in ("noise", "bias")},
        "splits": {
            split: {
                "count": counts[split],
                "heads": sorted({heads[place.head].name for place in places[split]}),
                "levels_mm": sorted({place.z_mm for place in places[split]}),
            }
            for split in SPLITS
        },
        "versions": {package: importlib.metadata.version(package) for package in ("nibabel", "numpy", "scipy")},
    }

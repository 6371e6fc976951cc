"""A template of people beside ANTs': ``python benchmarks/template.py IMAGES... --others ... --labels ... -o FOLDER``.

IMAGES are of the group, ``--others`` of people who are not in it; LABELS has for every image ``NAME.nii.gz`` a label
map ``NAME*.nii.gz`` on its grid. Three templates are made on one grid, that of the affine average of
``crossmorph.workflows.template``, of the same images scaled to [0, 1]:

- ``crossmorph``: ``make_template`` with its defaults;
- ``ANTs affine``: the mean of the images, each registered to that affine average by ``ants.registration`` ("Affine");
- ``ANTs SyN``: ``ants.build_template`` with its defaults, as many iterations, from that affine average.

How sharp each is, is measured of the mean of the group's images by their transforms, without sharpening. Its labels are
the majority of the group's. Then each of the others is registered to every template, by ``crossmorph`` and by
``ants.registration`` ("SyN"), and Dice of its labels with the template's is the mean over structures. Writes
``templates.csv`` and ``others.csv``; a template, a registration and a row that are there already are not made again.
One thread, all one after the other; seconds are of the processor.
"""

import argparse
import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import ants as antspyx
import numpy as np
import torch
from numpy import ndarray

from crossmorph import Image, read_image
from crossmorph.evaluation.baselines import ants
from crossmorph.evaluation.baselines.common import geometry
from crossmorph.evaluation.results import statistic
from crossmorph.functional import metrics
from crossmorph.images.io import write_image
from crossmorph.networks.checkpoint import load_model
from crossmorph.registration.register_images import register_images
from crossmorph.transforms.warp import Warp, resample
from crossmorph.transforms.warp_files import read_transform, write_transform
from crossmorph.workflows.template import make_template
from crossmorph.workflows.template_average import foreground, sharpness
from crossmorph.workflows.template_group import ROUNDS, TEMPLATE, TRANSFORM, names_of

TEMPLATES = ("crossmorph", "ANTs affine", "ANTs SyN")
COLUMNS = ("template", "people", "entropy_bits", "gradient_per_mm", "variation")
OTHERS = ("template", "person", "registration", "dice", "seconds")


class Made(NamedTuple):
    """A template, and the transform from it to each image of the group."""

    template: Image
    warps: list[Warp]


class Work(NamedTuple):
    """The group's images, the folder of label maps, that of the results, and how many rounds."""

    images: list[Path]
    labels: Path
    output: Path
    rounds: int

    @property
    def middle(self) -> Image:
        """The affine average that all begin with."""
        return read_image(self.output / "crossmorph" / ROUNDS / "0" / TEMPLATE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGES")
    parser.add_argument("--others", type=Path, nargs="+", required=True, metavar="IMAGES")
    parser.add_argument("--labels", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=4, metavar="N")
    parser.add_argument("--templates", nargs="+", choices=TEMPLATES, default=list(TEMPLATES), metavar="NAME")
    parser.add_argument(
        "--registrations", nargs="+", choices=REGISTRATIONS, default=list(REGISTRATIONS), metavar="NAME"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ants.start(1)
    work = Work(options.images, options.labels, options.output, options.rounds)
    work.output.mkdir(parents=True, exist_ok=True)
    make_template(work.images, work.output / "crossmorph", 0, threads=1)  # what all begin with
    for name in options.templates:
        made = MAKERS[name](work)
        known = name if name == "ANTs affine" else f"{name}, rounds {work.rounds}"
        scored(work, known, made)
        labels = majority_labels(work, made.warps)
        for path in options.others:
            for registration in options.registrations:
                score_other(work, (known, path, registration), made.template, labels)
    table(work.output / "templates.csv", COLUMNS)
    summary(work.output / "others.csv")


# --- templates -------------------------------------------------------------------------------------------------------


def by_crossmorph(work: Work) -> Made:
    made = make_template(work.images, work.output / "crossmorph", work.rounds, threads=1)
    folders = [made.path.parent / name for name in names_of(work.images)]
    return Made(read_image(made.path), [read_transform(folder / TRANSFORM) for folder in folders])


def by_ants_affine(work: Work) -> Made:
    warps = registered_once(work, work.output / "affine", work.middle, by_affine)
    return Made(Image(moved_images(work.images, warps).mean(0), work.middle.affine), warps)


def by_ants_syn(work: Work) -> Made:
    path = work.output / "syn.nii.gz"
    if not path.exists():
        images = [in_ants(read_image(image).scaled()) for image in work.images]
        found = antspyx.build_template(in_ants(work.middle), images, iterations=work.rounds, type_of_transform="SyN")
        write_image(path, Image(found.numpy().astype(np.float32), work.middle.affine))
    template = read_image(path)
    return Made(template, registered_once(work, work.output / "syn", template, by_syn))


MAKERS: dict[str, Callable[[Work], Made]] = dict(
    zip(TEMPLATES, (by_crossmorph, by_ants_affine, by_ants_syn), strict=True)
)


def in_ants(image: Image) -> antspyx.ANTsImage:
    origin, spacing, direction = geometry(image)
    return antspyx.from_numpy(image.data.astype(np.float32), origin, spacing, np.array(direction))


def registered_once(work: Work, folder: Path, template: Image, register: Callable[[Image, Image], Warp]) -> list[Warp]:
    """The transforms from a template to the group's images; those whose files are there are read."""
    folder.mkdir(exist_ok=True)
    for name, image in zip(names_of(work.images), work.images, strict=True):
        if not (folder / f"{name}.h5").exists():
            write_transform(folder / f"{name}.h5", register(read_image(image).scaled(), template))
    return [read_transform(folder / f"{name}.h5") for name in names_of(work.images)]


def moved_images(images: Sequence[Path], warps: Sequence[Warp]) -> ndarray:
    return np.array([resample(read_image(path).scaled(), warp).data for path, warp in zip(images, warps, strict=True)])


def scored(work: Work, name: str, made: Made) -> None:
    """A row about the mean of the group's images by the transforms."""
    path = work.output / "templates.csv"
    if any(row["template"] == name for row in read_rows(path)):
        return
    moved = moved_images(work.images, made.warps)
    mean = Image(moved.mean(0), made.template.affine)
    numbers = (*sharpness(mean), float(moved.std(0)[foreground(mean)].mean()))
    add_row(path, COLUMNS, (name, len(work.images), *(f"{number:.5g}" for number in numbers)))


# --- people who are not in the group ---------------------------------------------------------------------------------


def label_map(work: Work, image: Path) -> Image:
    (path,) = work.labels.glob(f"{image.name.removesuffix('.nii.gz')}*.nii.gz")
    return read_image(path, labels=True)


def majority_labels(work: Work, warps: Sequence[Warp]) -> ndarray:
    """What most of the group's label maps have, moved onto the template."""
    both = zip(work.images, warps, strict=True)
    maps = [resample(label_map(work, image), warp, "nearest").data for image, warp in both]
    best, most = np.zeros(maps[0].shape, np.int32), np.zeros(maps[0].shape, np.int32)
    for label in np.unique(maps):
        votes = np.sum([each == label for each in maps], axis=0)
        best[votes > most] = label
        most = np.maximum(votes, most)
    return best


def by_affine(moving: Image, fixed: Image) -> Warp:
    return ants.register(moving, fixed, "affine").warp


def by_syn(moving: Image, fixed: Image) -> Warp:
    return ants.register(moving, fixed, "syn").warp


def by_model(moving: Image, fixed: Image) -> Warp:
    return register_images(moving, fixed, load_model("any-3d")).warp


REGISTRATIONS: dict[str, Callable[[Image, Image], Warp]] = {"crossmorph": by_model, "ANTs SyN": by_syn}


def score_other(work: Work, which: tuple[str, Path, str], template: Image, labels: ndarray) -> None:
    name, image, registration = which
    (person,) = names_of([image, Path("_.nii.gz")])[:1]
    path, key = work.output / "others.csv", (name, person, registration)
    if any(tuple(row[column] for column in OTHERS[:3]) == key for row in read_rows(path)):
        return
    began = processor_seconds()
    warp = REGISTRATIONS[registration](read_image(image).scaled(), template)
    seconds = processor_seconds() - began
    moved = resample(label_map(work, image), warp, "nearest").data
    add_row(path, OTHERS, (*key, f"{metrics.mean_dice(moved, labels):.5f}", f"{seconds:.2f}"))
    print(f"{name}, {person}, by {registration}: {metrics.mean_dice(moved, labels):.3f}", flush=True)


def processor_seconds() -> float:
    """Of this process and its children that have ended."""
    return sum(os.times()[:4])


# --- rows ------------------------------------------------------------------------------------------------------------


def read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def add_row(path: Path, columns: Sequence[str], row: Sequence[object]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([columns, row] if new else [row])


def table(path: Path, columns: Sequence[str]) -> None:
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in read_rows(path):
        print(f"| {' | '.join(row[column] for column in columns)} |")


def summary(path: Path) -> None:
    """Mean Dice on every template by every registration."""
    rows = read_rows(path)
    print("| template | registered by | people | Dice % [95% interval] |\n|---|---|---|---|")
    for registration in dict.fromkeys(row["registration"] for row in rows):
        for name in dict.fromkeys(row["template"] for row in rows):
            ours = [row for row in rows if (row["template"], row["registration"]) == (name, registration)]
            found = statistic(100 * np.array([float(row["dice"]) for row in ours]))
            print(f"| {name} | {registration} | {found.pairs} | {found.mean:.1f} [{found.low:.1f}, {found.high:.1f}] |")


if __name__ == "__main__":
    main()

"""`crossmorph demo`: one pair, before and after, in numbers and as a picture."""

import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from crossmorph.errors import InputError
from crossmorph.functional.metrics import dice, endpoint_error_mm, folds_percent, hd95_mm
from crossmorph.images.image import Image
from crossmorph.images.io import write_image
from crossmorph.simulation import anatomy, mri
from crossmorph.simulation.deformation import random_deformation, true_field, warp_fractions
from crossmorph.system.environment import require_extra
from crossmorph.transforms.warp import Warp, from_voxel_displacement, resample, resample_warp, voxel_displacement
from crossmorph.transforms.warp_files import read_transform
from crossmorph.workflows.outputs import LabelFiles, Outputs
from crossmorph.workflows.register_files import Done, register_files

LEVEL = anatomy.split_levels("test")[6]  # mm; a level that no training pair shows
SEED = 7
TISSUES = {1: "CSF", 2: "grey matter", 3: "white matter"}


class DemoPair(NamedTuple):
    """The two images and what is known of them."""

    moving: Image
    fixed: Image
    moving_labels: Image
    fixed_labels: Image
    truth: Warp


def demo_pair() -> DemoPair:
    """A real fixed image and a simulated moving one, with the field between them.

    Fixed: a slice of the ICBM152 2009a T1w average of 152 people that nilearn ships, 1 mm. Moving: a T2w slice that the
    simulator acquires from the tissue maps of the same template, 1.5 mm, under a random deformation drawn here.
    """
    require_extra("simulate")
    rng = np.random.default_rng(SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nilearn's notices about its own future defaults
        from nilearn.datasets import load_mni152_template

        template = load_mni152_template(resolution=1)
    index = round(float((np.linalg.inv(template.affine) @ [0, 0, LEVEL, 1])[2]))
    fixed = Image(np.asarray(template.dataobj)[:, :, index].astype(np.float32), _in_plane(template.affine))
    fractions = anatomy.tissue_slice(LEVEL)
    affine = _in_plane(anatomy.slice_affine(LEVEL))
    deformation = random_deformation(rng, fractions.shape[1:])
    deformed = warp_fractions(fractions, deformation)
    truth = from_voxel_displacement(true_field(deformation, np.zeros_like(deformation)), affine)
    labels = Image(mri.tissue_labels(fractions).astype(np.int32), affine)
    still = resample_warp(Warp(np.zeros_like(deformation), affine), fixed.affine, fixed.shape)
    return DemoPair(
        moving=Image(mri.simulate(deformed, "t2", rng), affine),
        fixed=fixed,
        moving_labels=Image(mri.tissue_labels(deformed).astype(np.int32), affine),
        fixed_labels=Image(resample(labels, still, "nearest").data, fixed.affine),
        truth=resample_warp(truth, fixed.affine, fixed.shape),
    )


def run_demo(output: Path) -> Done:
    """Make the pair, register it through files as a user would, print a table and leave a picture.

    Args:
        output: folder for all files; made if missing.

    Raises:
        InputError: the folder cannot be made or written to, or an extra is not installed.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output}: the folder cannot be made ({error.strerror})") from error
    pair = demo_pair()
    files = {name: output / f"{name}.nii.gz" for name in ("moving", "fixed", "moving_labels", "fixed_labels")}
    for name, path in files.items():
        write_image(path, getattr(pair, name))
    outputs = Outputs(
        moved=output / "moved.nii.gz",
        transform=output / "transform.h5",
        inverse=output / "inverse.h5",
        translated=output / "translated.nii.gz",
        labels=(LabelFiles(files["moving_labels"], output / "moved_labels.nii.gz"),),
        report=output / "report.html",
    )
    done = register_files(files["moving"], files["fixed"], outputs, keep_failed=True)
    _print(pair, done, output)
    return done


def _in_plane(affine: np.ndarray) -> np.ndarray:
    """The x and y part of an axial volume's affine."""
    rows = [0, 1, 3]
    plane: np.ndarray = np.asarray(affine, np.float64)[np.ix_(rows, rows)]
    return plane


class _Scores(NamedTuple):
    """One column of the table."""

    dice: dict[int, float]
    hd95_mm: float
    endpoint_error_mm: float
    folds_percent: float


def _score(pair: DemoPair, warp: Warp) -> _Scores:
    moved = resample(pair.moving_labels, warp, "nearest").data
    truth = pair.fixed_labels.data
    return _Scores(
        dice(moved, truth),
        float(np.mean(list(hd95_mm(moved, truth, pair.fixed.spacing).values()))),
        endpoint_error_mm(warp.displacement, pair.truth.displacement, truth > 0),
        folds_percent(voxel_displacement(warp)),
    )


def _print(pair: DemoPair, done: Done, output: Path) -> None:
    still = Warp.identity(pair.fixed)
    found = read_transform(output / "transform.h5")
    columns = [_score(pair, warp) for warp in (still, found, pair.truth)]
    table = Table("", "before", "after", "true field", title="T2w moved to T1w")
    for label, tissue in TISSUES.items():
        table.add_row(f"Dice {tissue}", *(f"{column.dice[label]:.3f}" for column in columns))
    table.add_row("Dice mean", *(f"{np.mean(list(column.dice.values())):.3f}" for column in columns))
    table.add_row("surface distance, 95th percentile (mm)", *(f"{column.hd95_mm:.2f}" for column in columns))
    table.add_row("endpoint error in the brain (mm)", *(f"{column.endpoint_error_mm:.2f}" for column in columns))
    table.add_row("folded cells (%)", *(f"{column.folds_percent:.3f}" for column in columns))
    table.add_row("seconds (first call)", "", f"{done.seconds:.2f}", "")
    console = Console()
    # As it was called, so that the next command works where this one did.
    program = sys.argv[0] if Path(sys.argv[0]).stem == "crossmorph" else "crossmorph"
    console.print(
        "Fixed: a real T1w slice (ICBM152 2009a, the average of 152 people). Moving: a T2w slice of the same level,\n"
        "simulated from the template's tissue maps and deformed by a known field, so that the error can be measured.",
        soft_wrap=True,
    )
    console.print(table)
    console.print(
        f"Look at   {output / 'report.html'}\n"
        f"Files     {output}/moved.nii.gz, translated.nii.gz, moved_labels.nii.gz, transform.h5, inverse.h5\n"
        f"Try next  {program} register YOUR_T2.nii.gz YOUR_T1.nii.gz -o moved.nii.gz -t transform.h5 --report r.html\n"
        f"          {program} doctor YOUR_T2.nii.gz\n"
        f"          {program} register --help",
        soft_wrap=True,
        highlight=False,
    )

"""The commands that work on more than two images. Heavy imports wait until a command needs them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from crossmorph.cli.options import (
    DeviceOption,
    FolderOption,
    ModelOption,
    RefineOption,
    SmoothnessOption,
    ThreadsOption,
    refine_of,
)
from crossmorph.cli.output import words


def add_commands(app: typer.Typer) -> None:
    """Give an application the commands of this module."""
    for command in (template, longitudinal, series):
        app.command()(command)


def template(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Images of one contrast.")],
    output: FolderOption,
    rounds: Annotated[int, typer.Option(min=0, metavar="N", help="Deformable rounds; 0: affine average.")] = 4,
    spacing: Annotated[
        float | None,
        typer.Option(metavar="MM", help="Voxel size of the template.", show_default="the images' median"),
    ] = None,
    sharpening: Annotated[float, typer.Option(min=0, metavar="NUMBER", help="Unsharp mask after each round.")] = 0.5,
    model: ModelOption = None,
    smoothness: SmoothnessOption = None,
    refine: RefineOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    jobs: Annotated[int, typer.Option(min=1, metavar="N", help="Processes.")] = 1,
    scheduler: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Dask cluster to use instead.")] = None,
) -> None:
    """Make the unbiased average of a group of images; what was finished before is not done again."""
    from crossmorph.registration.settings import Settings
    from crossmorph.workflows.template import make_template

    settings = Settings(smoothness=smoothness, refine=refine_of(refine))
    machine = jobs, scheduler, device, threads
    made = make_template(images, output, rounds, spacing, sharpening, "affine", model, settings, *machine, words())
    for number, state in enumerate(made.rounds):
        failed = f"; a check failed: {', '.join(state.failed)}" if state.failed else ""
        print(
            f"{f'round {number}' if number else 'affine':8} entropy {state.entropy:.3f} bits, gradient "
            f"{state.gradient:.4f} per mm, variation {state.variation:.4f}, mean deformation {state.removed:.3f} mm "
            f"taken off, {state.mean_deformation:.1e} mm left{failed}"
        )
    print(f"wrote {made.path}\nwrote {made.page}")


def longitudinal(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGES...", help="Images of one person, the first date first.")
    ],
    output: FolderOption,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Deformable rounds.")] = 2,
    model: ModelOption = None,
    smoothness: SmoothnessOption = None,
    refine: RefineOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    jobs: Annotated[int, typer.Option(min=1, metavar="N", help="Processes.")] = 1,
) -> None:
    """Register dates of one person in the middle between them; write the change of volume since the first date."""
    from crossmorph.registration.settings import Settings
    from crossmorph.workflows.longitudinal import volume_changes
    from crossmorph.workflows.template import make_template
    from crossmorph.workflows.template_group import names_of

    settings = Settings(smoothness=smoothness, refine=refine_of(refine))
    machine = jobs, None, device, threads
    made = make_template(images, output, rounds, None, 0.0, "rigid", model, settings, *machine, words())
    found = volume_changes(made.path, names_of(images))
    for date in found.dates:
        print(f"{date.name}: volume {date.median:.4f} of the first date's (median), {date.low:.3f} to {date.high:.3f}")
    for path in (*found.files, made.page):
        print(f"wrote {path}")


def series(
    source: Annotated[Path, typer.Argument(metavar="SERIES", help="NIfTI series of volumes (X, Y, Z, T).")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="PATH", help="The series without motion.")],
    motion: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Table of motion (.tsv), with columns as fMRIPrep's.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="PATH", help="Plot of the motion (.png, .pdf, .svg).")] = None,
    transforms: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder for the transform of every volume.")
    ] = None,
    reference: Annotated[
        str,
        typer.Option(metavar="mean|NUMBER|PATH", help="Mean of the series, a volume of it from 0, or an image."),
    ] = "mean",
    stage: Annotated[
        Literal["rigid", "deformable"],
        typer.Option(metavar="rigid|deformable", help="Last stage."),
    ] = "rigid",
    model: ModelOption = None,
    smoothness: SmoothnessOption = None,
    refine: RefineOption = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    jobs: Annotated[int, typer.Option(min=1, metavar="N", help="Processes.")] = 1,
) -> None:
    """Register every volume of a series to their mean, to one of them or to an image."""
    from crossmorph.registration.settings import Settings
    from crossmorph.workflows.series import SeriesFiles, register_series

    settings = Settings(smoothness=smoothness, refine=refine_of(refine))
    files = SeriesFiles(output, motion, plot, transforms)
    found = register_series(source, files, reference, stage, model, settings, jobs, device, threads, words())
    mean, most = float(found.displacement[1:].mean()), float(found.displacement[1:].max())
    print(f"{len(found.parameters)} volumes in {found.seconds:.1f} s")
    print(f"framewise displacement {mean:.3f} mm, up to {most:.3f} mm")
    for path in (*files.single(), *([transforms] if transforms else [])):
        print(f"wrote {path}")

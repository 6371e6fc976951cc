"""The commands that work on more than two images. Heavy imports wait until a command needs them."""

from pathlib import Path
from typing import Annotated

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
    app.command()(template)


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
    made = make_template(images, output, rounds, spacing, sharpening, model, settings, *machine, words())
    for number, state in enumerate(made.rounds):
        failed = f"; a check failed: {', '.join(state.failed)}" if state.failed else ""
        print(
            f"{f'round {number}' if number else 'affine':8} entropy {state.entropy:.3f} bits, gradient "
            f"{state.gradient:.4f} per mm, variation {state.variation:.4f}, mean deformation {state.removed:.3f} mm "
            f"taken off, {state.mean_deformation:.1e} mm left{failed}"
        )
    print(f"wrote {made.path}\nwrote {made.page}")

"""Options that several commands have, and the completion of their values. Imports nothing heavy."""

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crossmorph.networks.shipped import DEFAULT_MODELS, pulled_models, shipped_models

if TYPE_CHECKING:
    from crossmorph.registration.settings import Refine

BAD_INPUT, FAILED = 2, 3  # exit codes
STAGES = ("rigid", "similarity", "affine", "deformable")


def complete_model(incomplete: str) -> list[str]:
    """Names of shipped and pulled models that begin so; a shell completes names of folders by itself."""
    return [name for name in (*shipped_models(), *pulled_models()) if name.startswith(incomplete)]


def print_version(wanted: bool | None) -> None:
    """Print the version and end, where it is wanted."""
    if wanted:
        print(f"crossmorph {metadata.version('crossmorph')}")
        raise typer.Exit


def refine_of(text: str) -> "Refine":
    """`--refine` as a word, or as seconds."""
    try:
        return float(text)
    except ValueError:
        return text


def _complete_stage(incomplete: str) -> list[str]:
    return [name for name in STAGES if name.startswith(incomplete)]


ModelOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Shipped or pulled model, or folder that train wrote.",
        show_default=f"{DEFAULT_MODELS[2]} for slices, {DEFAULT_MODELS[3]} for volumes",
        autocompletion=complete_model,
    ),
]
ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help="Shipped or pulled model, or folder that train wrote.",
        show_default=DEFAULT_MODELS[2],
        autocompletion=complete_model,
    ),
]
MovingArgument = Annotated[Path, typer.Argument(metavar="MOVING", help="Image to move.")]
FixedArgument = Annotated[Path, typer.Argument(metavar="FIXED", help="Image to move it to.")]
InitOption = Annotated[
    str,
    typer.Option(
        metavar="affine|centers|none|FILE",
        help="Initial affine: estimated, centre on centre, as the headers say, or an affine transform's file.",
    ),
]
SmoothnessOption = Annotated[
    float | None,
    typer.Option(min=0, max=1, metavar="NUMBER", help="From detailed (0) to stiff (1).", show_default="the model's"),
]
RefineOption = Annotated[
    str,
    typer.Option(
        metavar="auto|on|off|SECONDS",
        help="Instance optimisation of this pair: to its end (on) or for so many seconds; auto: of volumes only.",
    ),
]
DeviceOption = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, metavar="N", help="CPU threads.", show_default="all")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
KeepFailedOption = Annotated[bool, typer.Option("--keep-failed", help="Write the outputs even if a check fails.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Print the checks that passed, too.")]
StageOption = Annotated[
    str,
    typer.Option(
        metavar="rigid|similarity|affine|deformable",
        help="Last stage. Of the first three, which use no network, the transform is a matrix.",
        autocompletion=_complete_stage,
    ),
]
HeaderOnlyOption = Annotated[
    bool,
    typer.Option(
        "--header-only",
        help="-o is the moving image with its new place in the header, not resampled; for linear stages.",
    ),
]
FslMatrixOption = Annotated[
    Path | None,
    typer.Option("--fsl-matrix", metavar="PATH", help="The transform as flirt's matrix, .mat; for linear stages."),
]
FolderOption = Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Folder to make.")]

"""The command line: each command is the face of one library function. Heavy imports wait until a command needs them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crossmorph.cli import checks, datasets, groups, models, register, reproduce, training, transforms
from crossmorph.cli.options import (
    print_version,
)
from crossmorph.cli.output import run

if TYPE_CHECKING:
    pass

app = typer.Typer(
    rich_markup_mode=None,
    help="Register medical images of different modality: coarse registration, translation, fine registration.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(
    version: Annotated[
        bool | None, typer.Option("--version", is_eager=True, callback=print_version, help="Print the version.")
    ] = None,
) -> None:
    """Options before any command."""


def main() -> None:
    """The command line."""
    command = typer.main.get_command(app)
    register_command = command.commands["register"]  # type: ignore[attr-defined]
    # `--labels IN OUT`, repeated: typer has no lists of pairs, its parser does.
    next(option for option in register_command.params if option.name == "labels").nargs = 2
    run(command)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Folder for all files.")] = Path(
        "demo"
    ),
) -> None:
    """Register a real T1w slice and a simulated T2w partner; print the numbers, draw the picture."""
    from crossmorph.workflows.demo import run_demo

    run_demo(output)


for module in (register, transforms, groups, checks, training, reproduce):
    module.add_commands(app)
app.add_typer(datasets.app, name="prepare")
app.add_typer(models.app, name="models")

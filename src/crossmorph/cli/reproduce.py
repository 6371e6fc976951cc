"""The command that rebuilds the paper's evaluation. Heavy imports wait until it is called."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from crossmorph.cli.options import FAILED


def add_commands(app: typer.Typer) -> None:
    """Give an application the command of this module."""
    app.command()(reproduce)


def reproduce(
    what: Annotated[str, typer.Argument(metavar="all|table1..3|fig2..5", help="Comma-separated, or all.")],
    budget: Annotated[
        str,
        typer.Option(metavar="smoke|cpu|paper", help="A minute; hours on two cores; the paper's 150,000 iterations."),
    ] = "cpu",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FOLDER",
            help="Folder for tables, figures and kept results.",
            show_default="reproduction/BUDGET",
        ),
    ] = None,
    brainweb: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="What prepare brainweb wrote.", show_default="a simulated stand-in"),
    ] = None,
    brats: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="What prepare brats wrote.", show_default="a simulated stand-in"),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, metavar="N", help="Processes, one thread each.")] = 1,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of data and training.")] = 0,
) -> None:
    """Rebuild the paper's tables and figures: train, register, score, draw. Finished experiments are not repeated."""
    from crossmorph.system.environment import EXTRAS, require_extra

    for extra in EXTRAS:
        require_extra(extra)
    from crossmorph.reproduction.budgets import find_budget
    from crossmorph.reproduction.run import find_items
    from crossmorph.reproduction.run import reproduce as run
    from crossmorph.reproduction.task_cache import FailedTasksError

    folder = output or Path("reproduction", budget)
    try:
        paths = run(find_items(what), folder, find_budget(budget), brainweb, brats, jobs, seed)
    except FailedTasksError as error:
        print(f"crossmorph: {error}", file=sys.stderr)
        raise SystemExit(FAILED) from error
    except KeyboardInterrupt:
        print("crossmorph: stopped; repeat the command to continue", file=sys.stderr)
        raise
    for path in paths:
        if path.suffix == ".md":
            print(path.read_text(encoding="utf-8"))
    for path in paths:
        print(f"wrote {path}")

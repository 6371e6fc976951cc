"""The commands that train a model and score methods. Heavy imports wait until a command needs them."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from crossmorph.cli.options import FAILED, ModelOption
from crossmorph.cli.output import fail, words


def add_commands(app: typer.Typer) -> None:
    """Give an application the commands of this module."""
    for command in (train, evaluate):
        app.command()(command)


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="Settings; see configs/.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key, as stages.coarse.iterations=9. Repeatable."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted run, or prolong it: with more iterations.")
    ] = False,
) -> None:
    """Train a hierarchy on unlabelled pairs; write weights and card into the run's folder."""
    from crossmorph.system.environment import require_extra

    require_extra("train")
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    from crossmorph.training.config import load_config
    from crossmorph.training.log import gains_table
    from crossmorph.training.train import TrainingDivergedError
    from crossmorph.training.train import train as run

    try:
        weights = run(load_config(config, set_), resume)
        next_step = f"next: crossmorph calibrate {weights.parent} sets the limits of its checks (see its --help)"
        rank_zero_only(print)(f"{gains_table(weights.parent)}\nwrote {weights}\n{next_step}")
    except TrainingDivergedError as error:
        fail(str(error), FAILED)


def evaluate(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS.csv", help="List of pairs of a data set.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="PATH", help="CSV with one row per pair and method.")
    ],
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Comma-separated names of methods.",
            show_default="none,affine,syn,coarse,crossmorph,oracle as far as the list and the installation allow",
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Page (.html) with the worst pairs, a table and plots.")
    ] = None,
    model: ModelOption = None,
    threads: Annotated[int, typer.Option(min=1, metavar="N", help="CPU threads of every method.")] = 1,
) -> None:
    """Score registration methods side by side on a list of pairs."""
    from crossmorph.system.progress import working

    with working("looking for methods that can run"):
        from crossmorph.evaluation.choice import scores_left_out, usual_methods
        from crossmorph.evaluation.evaluate import chosen_model
        from crossmorph.evaluation.evaluate import evaluate as run
        from crossmorph.evaluation.results import caption, markdown_table, summarise

        chosen = chosen_model(pairs, model)
        if methods is None:
            names, left_out = usual_methods(pairs, threads)
        else:
            names, left_out = tuple(name.strip() for name in methods.split(",")), {}
    for name, reason in (left_out | scores_left_out(pairs)).items():
        print(f"crossmorph: left out: {name} ({reason})", file=sys.stderr)
    if report is None:
        rows = run(pairs, names, output, model=chosen, threads=threads)
    else:
        from crossmorph.system.environment import require_extra

        require_extra("report")
        from crossmorph.reports.evaluation_page import evaluate_with_page

        rows = evaluate_with_page(pairs, names, output, report, chosen, threads, command=words())
    print(markdown_table(summarise(rows), caption(pairs, rows, chosen, threads)))
    for path in filter(None, (output, report)):
        print(f"wrote {path}")
    failed = sum(bool(row.error) for row in rows)
    if failed:
        fail(f"{failed} of {len(rows)} registrations failed; the column 'error' of {output} says why", FAILED)

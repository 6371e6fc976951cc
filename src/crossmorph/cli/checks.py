"""The commands by which a result is checked. Heavy imports wait until a command needs them."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

FAILED = 3

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def add_commands(app: typer.Typer) -> None:
    """Give an application the commands of this module."""
    for command in (verify, replay, doctor):
        app.command()(command)


def verify(
    moving: Annotated[Path, typer.Argument(help="Image to move.")],
    fixed: Annotated[Path, typer.Argument(help="Image to move it to.")],
    model: Annotated[str | None, typer.Option(help="Shipped name, or folder [default: the shipped one].")] = None,
    fields: Annotated[int, typer.Option(min=1, help="Known deformations to try.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the deformations and the noise.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads [default: all].")] = None,
    as_json: JsonOption = False,
) -> None:
    """Deform MOVING by known fields, register, and say how far off the result is and whether a flag would have told."""
    import torch

    from crossmorph.images.io import read_image
    from crossmorph.networks.checkpoint import DEFAULT_MODELS, load_model
    from crossmorph.quality.self_test import verify as run

    images = read_image(moving), read_image(fixed)
    if threads:
        torch.set_num_threads(threads)
    found = run(*images, load_model(model or DEFAULT_MODELS[images[1].dim]), fields=fields, seed=seed)
    print(json.dumps(found.as_dict(), indent=2) if as_json else found.as_text())


def replay(
    record: Annotated[Path, typer.Argument(metavar="RECORD.json", help="The file beside a transform.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for what is made anew [default: none is kept].")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Repeat the registration that a record tells of, and compare every output bit by bit."""
    from crossmorph.workflows.replay import replay as run

    repeated = run(record, output)
    for caution in repeated.cautions:
        print(f"crossmorph: caution: {caution}", file=sys.stderr)
    print(json.dumps(repeated.as_dict(), indent=2) if as_json else repeated.as_text())
    if not repeated.same:
        raise SystemExit(FAILED)


def doctor(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Files or DICOM folders.")],
    model: Annotated[
        str | None, typer.Option(help="What register would use [default: the shipped one of the image's dimension].")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is in images, what looks wrong with them, and what register would do."""
    from crossmorph.workflows.inspect_image import examine

    reports = [examine(path, model) for path in images]
    print(
        json.dumps([report.as_dict() for report in reports], indent=2)
        if as_json
        else "\n\n".join(report.as_text() for report in reports)
    )
    if not all(report.readable for report in reports):
        raise SystemExit(2)

"""The commands by which a result is checked. Heavy imports wait until a command needs them."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from crossmorph.cli.options import (
    BAD_INPUT,
    FAILED,
    DeviceOption,
    FixedArgument,
    JsonOption,
    ModelArgument,
    ModelOption,
    MovingArgument,
    ThreadsOption,
    VerboseOption,
)


def add_commands(app: typer.Typer) -> None:
    """Give an application the commands of this module."""
    for command in (check, verify, replay, doctor, calibrate):
        app.command()(command)


def check(
    moving: Annotated[Path, typer.Argument(metavar="MOVING", help="Image that was moved.")],
    fixed: Annotated[Path, typer.Argument(metavar="FIXED", help="Image that it was moved to.")],
    transforms: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[XFM]...", help="Transforms of any program, in antsApplyTransforms' order.", show_default="none"
        ),
    ] = None,
    error_map: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Expected error of every voxel, on the grid of the fixed image.")
    ] = None,
    report: Annotated[Path | None, typer.Option(metavar="PATH", help="Page (.html).")] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="XFM", help="Another transform: say which of the two is better.")
    ] = None,
    model: ModelOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Check a transform that any program made from MOVING to FIXED, or how well the two images are aligned as they are.

    Nothing is moved. Error map and report are written whether or not a check fails.
    """
    from crossmorph.system.progress import working
    from crossmorph.workflows.check_transform import check_transform

    words = shlex.join(["crossmorph", *sys.argv[1:]])
    how = (error_map, report, against, model, device, threads, words)
    with working("checking"):
        done = check_transform(moving, fixed, transforms or [], *how)
    print(json.dumps(done.as_dict(), indent=2) if as_json else done.as_text(verbose))
    if not done.passed:
        print(f"crossmorph: {done.failure}", file=sys.stderr)
        raise SystemExit(FAILED)


def verify(
    moving: MovingArgument,
    fixed: FixedArgument,
    model: ModelOption = None,
    fields: Annotated[int, typer.Option(min=1, metavar="N", help="Number of known displacement fields.")] = 5,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the fields and the noise.")] = 0,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Deform MOVING by known fields, register it, and report the error and whether a check would have found it."""
    import torch

    from crossmorph.images.io import read_image
    from crossmorph.networks.checkpoint import DEFAULT_MODELS, load_model
    from crossmorph.quality.self_test import heading
    from crossmorph.quality.self_test import verify as run
    from crossmorph.system.progress import working

    with working("verifying") as tell:
        images = read_image(moving), read_image(fixed)
        if threads:
            torch.set_num_threads(threads)
        loaded = load_model(model or DEFAULT_MODELS[images[1].dim])
        if as_json:
            found = run(*images, loaded, fields=fields, seed=seed)
        else:
            tell(heading(images[1].unit))
            found = run(*images, loaded, fields=fields, seed=seed, watch=lambda row: tell(row.as_text()))
    print(json.dumps(found.as_dict(), indent=2) if as_json else found.closing())


def replay(
    record: Annotated[Path, typer.Argument(metavar="RECORD.json", help="The file beside a transform.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FOLDER", help="Keep the new files in this folder.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Repeat a recorded registration, and compare every output bit by bit."""
    from crossmorph.system.progress import working
    from crossmorph.workflows.replay import replay as run

    with working("registering again"):
        repeated = run(record, output)
    for caution in repeated.cautions:
        print(f"crossmorph: caution: {caution}", file=sys.stderr)
    print(json.dumps(repeated.as_dict(), indent=2) if as_json else repeated.as_text())
    if not repeated.same:
        raise SystemExit(FAILED)


def doctor(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Files or DICOM folders.")],
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Describe images, report what looks wrong with them, and what register would do."""
    from crossmorph.system.progress import working
    from crossmorph.workflows.inspect_image import examine

    with working("reading"):
        reports = [examine(path, model) for path in images]
    print(
        json.dumps([report.as_dict() for report in reports], indent=2)
        if as_json
        else "\n\n".join(report.as_text() for report in reports)
    )
    if not all(report.readable for report in reports):
        raise SystemExit(BAD_INPUT)


def calibrate(
    model: ModelArgument = None,
    learn: Annotated[int, typer.Option(min=0, metavar="N", help="Pairs to train the error network on.")] = 600,
    iterations: Annotated[
        int, typer.Option(min=1, metavar="N", help="Iterations of its training, 8 pairs each.")
    ] = 2500,
    validation: Annotated[int, typer.Option(min=10, metavar="N", help="Further pairs, to set the limits.")] = 300,
    test: Annotated[int, typer.Option(min=1, metavar="N", help="Pairs to measure on.")] = 250,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the pairs and the training.")] = 5,
    anatomies: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Label maps of people (prepare anatomies), to draw pairs of too."),
    ] = None,
    scans: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Scans in subfolders train, validation, test, to draw pairs of too."),
    ] = None,
    network: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Use the error network of this calibration; train none.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keep registered pairs in this folder, and reuse them.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FOLDER",
            help="Folder for tables, rows and plot.",
            show_default="results/calibration/MODEL",
        ),
    ] = None,
    ship: Annotated[bool, typer.Option("--ship", help="Write the calibration beside the shipped weights.")] = False,
) -> None:
    """Calibrate MODEL on pairs of known error: set the limits of its checks, and print how well they detect errors.

    The calibration of your own weights is written beside them and used from then on. That of shipped weights goes into
    the output folder, unless --ship. With the default numbers of pairs this takes half an hour for slices, and hours
    for volumes.
    """
    import torch

    from crossmorph.networks.checkpoint import DEFAULT_MODELS, load_model
    from crossmorph.quality.calibration.calibrate import CalibrationSettings
    from crossmorph.quality.calibration.calibrate import calibrate as run

    # One thread and the CPU, so that the same numbers give the same calibration.
    torch.set_num_threads(1)
    loaded = load_model(model or DEFAULT_MODELS[2], "cpu")
    settings = CalibrationSettings(learn, iterations, validation, test, seed, anatomies, scans)
    folder = output or Path("results") / "calibration" / loaded.card.name
    done = run(loaded, folder, settings, network, pairs, ship)
    print(done.text)
    for path in done.files:
        print(f"wrote {path}")

"""The command line of the BIDS App. Heavy imports wait until they are needed."""

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from crossmorph.cli.options import (
    FAILED,
    DeviceOption,
    InitOption,
    KeepFailedOption,
    ModelOption,
    RefineOption,
    SmoothnessOption,
    StageOption,
    print_version,
    refine_of,
)
from crossmorph.cli.output import run, words
from crossmorph.errors import InputError

LISTS = ("--participant-label", "--participant_label", "--session-label", "--session_label")

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Level(StrEnum):
    """Levels of analysis of a BIDS App."""

    PARTICIPANT = "participant"
    GROUP = "group"


def main() -> None:
    """The command line."""
    command = typer.main.get_command(app)
    run(lambda: command(args=repeated(sys.argv[1:]), prog_name="crossmorph-bids"))


def repeated(arguments: Sequence[str]) -> list[str]:
    """Arguments with the option before each value: a BIDS App takes ``--participant-label 01 02``."""
    given: list[str] = []
    of: str | None = None
    for argument in arguments:
        if of is not None and not argument.startswith("-"):
            given += [of, argument]
        else:
            of = argument if argument in LISTS else None
            given += [] if of else [argument]
    return given


@app.command()
def bids(
    bids_dir: Annotated[Path, typer.Argument(metavar="BIDS_DIR", help="BIDS data set.")],
    output_dir: Annotated[Path, typer.Argument(metavar="OUTPUT_DIR", help="Folder of the derivatives.")],
    level: Annotated[
        Level, typer.Argument(metavar="participant|group", help="Register, or make table and page of all that is done.")
    ],
    moving: Annotated[
        str | None,
        typer.Option(metavar="SUFFIX", help="Images to move: a BIDS suffix, with entities if need be: acq-high_T2w."),
    ] = None,
    fixed: Annotated[str | None, typer.Option(metavar="SUFFIX", help="Images to move them to, likewise.")] = None,
    participant_label: Annotated[
        list[str] | None,
        typer.Option("--participant-label", "--participant_label", metavar="LABEL...", help="People; all, if none."),
    ] = None,
    session_label: Annotated[
        list[str] | None,
        typer.Option("--session-label", "--session_label", metavar="LABEL...", help="Sessions; all, if none."),
    ] = None,
    n_cpus: Annotated[
        int, typer.Option("--n-cpus", "--n_cpus", min=1, metavar="N", help="CPUs to use: processes, then threads.")
    ] = 1,
    reports: Annotated[bool, typer.Option("--reports", help="Write a page for each registration, too.")] = False,
    stage: StageOption = "rigid",
    model: ModelOption = None,
    init: InitOption = "affine",
    smoothness: SmoothnessOption = None,
    refine: RefineOption = "auto",
    device: DeviceOption = "auto",
    keep_failed: KeepFailedOption = False,
    version: Annotated[  # noqa: ARG001 (its callback prints it)
        bool | None, typer.Option("--version", is_eager=True, callback=print_version, help="Print the version.")
    ] = None,
) -> None:
    """Register the images of every person of a BIDS data set; write BIDS derivatives."""
    from crossmorph.registration.settings import Settings
    from crossmorph.workflows.bids_app import register_participants, summarise_group

    command = words("crossmorph-bids")
    if level is Level.GROUP:
        for path in summarise_group(output_dir, command):
            print(f"wrote {path}")
        return
    if moving is None or fixed is None:
        raise InputError("crossmorph-bids participant: expected --moving SUFFIX and --fixed SUFFIX: T2w and T1w")
    people = bids_dir, output_dir, moving, fixed, participant_label or (), session_label or (), n_cpus
    settings = Settings(init, smoothness, refine_of(refine), stage=stage)
    done = register_participants(*people, model, settings, device, keep_failed, reports, command)
    for each in done.missing:
        print(f"left out {each.name}: {each.reason}")
    counts = {status: sum(entry.status == status for entry in done.entries) for status in ("done", "skipped", "failed")}
    print("{done} registered, {skipped} finished before, {failed} failed".format(**counts))
    for entry in done.entries:
        if entry.status == "failed":
            print(f"  {entry.name}: {entry.error}")
    for path in done.pages:
        print(f"wrote {path}")
    if counts["failed"]:
        raise SystemExit(FAILED)

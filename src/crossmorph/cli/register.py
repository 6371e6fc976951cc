"""The commands `register` and `translate`. Heavy imports wait until a command needs them."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crossmorph.cli.options import (
    FAILED,
    DeviceOption,
    FslMatrixOption,
    HeaderOnlyOption,
    JsonOption,
    KeepFailedOption,
    ModelOption,
    RefineOption,
    SmoothnessOption,
    StageOption,
    ThreadsOption,
    VerboseOption,
    refine_of,
)
from crossmorph.cli.output import fail, words
from crossmorph.cli.register_options import (
    AccuracyOption,
    AntsPrefixOption,
    BeginOption,
    BidsOption,
    ErrorMapOption,
    FixedMaskOption,
    FurtherFixedOption,
    FurtherMovingOption,
    IgnoredOption,
    IgnoreFixedOption,
    IgnoreMovingOption,
    IgnoreOption,
    InverseOption,
    JobsOption,
    LabelsOption,
    MovedOption,
    MovingMaskOption,
    PairFixedArgument,
    PairMovingArgument,
    PairsOption,
    PointsOption,
    ProgressOption,
    ReportOption,
    SchedulerOption,
    TransformOption,
    TranslatedOption,
)
from crossmorph.errors import InputError

if TYPE_CHECKING:
    from crossmorph.registration.settings import Settings
    from crossmorph.workflows.register_files import Done


def add_commands(app: typer.Typer) -> None:
    """Give an application the commands of this module."""
    for command in (register, translate):
        app.command()(command)


def register(
    moving: PairMovingArgument = None,
    fixed: PairFixedArgument = None,
    output: MovedOption = None,
    transform: TransformOption = None,
    inverse: InverseOption = None,
    translated: TranslatedOption = None,
    labels: LabelsOption = None,
    report: ReportOption = None,
    error_map: ErrorMapOption = None,
    ants_prefix: AntsPrefixOption = None,
    fsl_matrix: FslMatrixOption = None,
    header_only: HeaderOnlyOption = False,
    stage: StageOption = "deformable",
    model: ModelOption = None,
    init: BeginOption = "affine",
    smoothness: SmoothnessOption = None,
    refine: RefineOption = "auto",
    fixed_mask: FixedMaskOption = None,
    moving_mask: MovingMaskOption = None,
    ignore_fixed: IgnoreFixedOption = None,
    ignore_moving: IgnoreMovingOption = None,
    ignore: IgnoreOption = "none",
    ignored: IgnoredOption = None,
    more_moving: FurtherMovingOption = None,
    more_fixed: FurtherFixedOption = None,
    points: PointsOption = None,
    points_accuracy: AccuracyOption = 2.0,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    pairs: PairsOption = None,
    bids: BidsOption = False,
    jobs: JobsOption = 1,
    scheduler: SchedulerOption = None,
    keep_failed: KeepFailedOption = False,
    verbose: VerboseOption = False,
    progress: ProgressOption = False,
) -> None:
    """Register MOVING to FIXED; write the moved image and, on request, the transforms. Or many pairs: --pairs."""
    movings, fixeds = _sides(moving, more_moving), _sides(fixed, more_fixed)
    if pairs is None:
        _check_sides(movings, fixeds)
    if output is None:
        raise InputError(f"register: no output given; expected -o {'FOLDER' if pairs or bids else 'MOVED'}")
    unused = {"--bids": bids, "--json": as_json, "--verbose": verbose, "--progress": progress} if pairs else {
        "--jobs": jobs > 1, "--scheduler": scheduler is not None,
    }  # fmt: skip
    if received := [option for option, given in unused.items() if given]:
        wanted = "one pair, MOVING and FIXED" if pairs else "--pairs PAIRS.csv"
        raise InputError(f"register: received {', '.join(received)}; that is for {wanted}")
    began = time.perf_counter()
    from crossmorph.registration.settings import Settings
    from crossmorph.system.progress import told, working

    with working("registering"):
        from crossmorph.workflows.further_inputs import NO_MORE, FurtherInputs
        from crossmorph.workflows.outputs import Outputs
        from crossmorph.workflows.register_files import register_files

    settings = Settings(
        init, smoothness, refine_of(refine), stage=stage, ignore=ignore, points_accuracy=points_accuracy
    )
    outputs = Outputs(output, transform, inverse, translated, error_map, report, tuple(labels or ()), ants_prefix)
    outputs = outputs._replace(fsl=fsl_matrix, ignored=ignored)
    if header_only:
        outputs = outputs._replace(moved=None, header_only=output)
    further = FurtherInputs(moving_mask, fixed_mask, ignore_moving, ignore_fixed, points=points)
    how = (model, settings, device, threads, keep_failed, words())
    if pairs is not None:
        if movings or fixeds or outputs != Outputs(output) or further != NO_MORE:
            raise InputError(
                "register: --pairs chooses its own files; expected no MOVING, FIXED, masks, points or single outputs"
            )
        _register_pairs(pairs, output, jobs, scheduler, *how)
        return
    if bids:
        from crossmorph.workflows.bids import bids_outputs

        if outputs != Outputs(output):
            raise InputError("register: --bids chooses its own files; expected no other outputs than -o")
        outputs = bids_outputs(movings[0], fixeds[0], output)
    further = further._replace(others=_others(movings, fixeds))
    with working("registering"), told(progress):
        done = register_files(movings[0], fixeds[0], outputs, *how, further=further)
    _print(done, as_json, verbose, time.perf_counter() - began)


def _sides(first: Path | None, further: list[Path] | None) -> list[Path]:
    """All images of one side."""
    return [*([] if first is None else [first]), *(further or ())]


def _check_sides(movings: list[Path], fixeds: list[Path]) -> None:
    """As many images of each side, or one of one side."""
    if not movings or not fixeds:
        received = "no images" if not movings and not fixeds else f"one image, {(movings + fixeds)[0]}"
        raise InputError(
            f"register: received {received}; expected MOVING and FIXED, or a list of pairs: --pairs PAIRS.csv"
        )
    if len(movings) != len(fixeds) and 1 not in (len(movings), len(fixeds)):
        raise InputError(
            f"register: received {len(movings)} moving and {len(fixeds)} fixed images; expected as many of each, or "
            "one of one side"
        )


def _others(movings: list[Path], fixeds: list[Path]) -> tuple[tuple[Path, Path], ...]:
    """The pairs after the first one; an image that is alone on its side goes with each of the other side."""
    count = max(len(movings), len(fixeds))
    sides = [side * count if len(side) == 1 else side for side in (movings, fixeds)]
    return tuple(zip(*sides, strict=True))[1:]


def _print(done: "Done", as_json: bool, verbose: bool, waited: float) -> None:
    print(json.dumps(done.as_dict(), indent=2) if as_json else done.as_text(verbose, waited))
    if not done.passed:
        fail(done.failure, FAILED)


def _register_pairs(
    pairs: Path,
    output: Path,
    jobs: int,
    scheduler: str | None,
    model: str | None,
    settings: "Settings",
    device: str,
    threads: int | None,
    keep_failed: bool,
    command: str,
) -> None:
    from crossmorph.workflows.batch import register_batch

    summary = register_batch(pairs, output, model, settings, jobs, scheduler, device, threads, keep_failed, command)
    print(f"{summary.done} registered, {summary.skipped} finished before, {summary.failed} failed", end="")
    print(f" ({summary.checks_failed} of them by a check)" if summary.failed else "")
    print(f"wrote {summary.path}\nwrote {summary.page}")
    if summary.failed:
        raise SystemExit(FAILED)


def translate(
    moving: Annotated[Path, typer.Argument(metavar="MOVING", help="Image to translate.")],
    fixed: Annotated[Path, typer.Argument(metavar="FIXED", help="Image whose modality it shall have.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="PATH", help="Translated image, on the grid of the moving image.")
    ],
    model: ModelOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    keep_failed: KeepFailedOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Translate MOVING into the modality of FIXED, on its own grid; the two are registered for that."""
    began = time.perf_counter()
    from crossmorph.system.progress import working

    with working("registering"):
        from crossmorph.workflows.outputs import Outputs
        from crossmorph.workflows.register_files import register_files

        outputs = Outputs(translated=output)
        done = register_files(moving, fixed, outputs, model, device=device, threads=threads, keep_failed=keep_failed)
    _print(done, as_json, verbose, time.perf_counter() - began)

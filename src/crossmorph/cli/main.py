"""The command line: each command is the face of one library function. Heavy imports wait until a command needs them."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crossmorph.cli import checks, datasets, groups, models, reproduce, training, transforms
from crossmorph.cli.options import (
    FAILED,
    DeviceOption,
    FslMatrixOption,
    HeaderOnlyOption,
    JsonOption,
    KeepFailedOption,
    ModelOption,
    StageOption,
    ThreadsOption,
    VerboseOption,
    print_version,
    refine_of,
)
from crossmorph.cli.output import fail, run, words
from crossmorph.errors import InputError

if TYPE_CHECKING:
    from crossmorph.registration.settings import Settings
    from crossmorph.workflows.outputs import LabelFiles
    from crossmorph.workflows.register_files import Done

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


def _label_files(value: tuple[str, str]) -> "LabelFiles":
    from crossmorph.workflows.outputs import LabelFiles

    return LabelFiles(Path(value[0]), Path(value[1]))


@app.command()
def register(
    moving: Annotated[
        Path | None,
        typer.Argument(metavar="MOVING", help="Image to move: NIfTI, MetaImage, NRRD, MINC, DICOM folder, PNG, TIFF."),
    ] = None,
    fixed: Annotated[Path | None, typer.Argument(metavar="FIXED", help="Image to move it to.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="Required. Moved image, on the grid of the fixed image; with --pairs or --bids, a folder.",
        ),
    ] = None,
    transform: Annotated[
        Path | None,
        typer.Option(
            "-t",
            "--transform",
            metavar="PATH",
            help="Transform for ITK, ANTs and 3D Slicer, .h5 or .nii.gz; of linear stages also .mat, .tfm, .txt, .lta.",
        ),
    ] = None,
    inverse: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Inverse transform, on the grid of the moving image.")
    ] = None,
    translated: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Translated image, on the grid of the moving image.")
    ] = None,
    labels: Annotated[
        list[Any] | None,
        typer.Option(
            metavar="IN OUT", parser=_label_files, help="Also move a label map, by nearest voxel. Repeatable."
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Page (.html) or picture (.png, .pdf, .svg).")
    ] = None,
    error_map: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Expected error of every voxel, on the grid of the fixed image."),
    ] = None,
    ants_prefix: Annotated[
        Path | None,
        typer.Option(
            metavar="P",
            help="The files that ANTs would write: P0GenericAffine.mat, P1Warp.nii.gz, P1InverseWarp.nii.gz.",
        ),
    ] = None,
    fsl_matrix: FslMatrixOption = None,
    header_only: HeaderOnlyOption = False,
    stage: StageOption = "deformable",
    model: ModelOption = None,
    init: Annotated[
        str,
        typer.Option(
            metavar="affine|centers|none|FILE",
            help="Where to begin: initial affine estimated, centre on centre, as the headers say; or the file of a "
            "transform to go on from, a matrix or a warp.",
        ),
    ] = "affine",
    smoothness: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="NUMBER",
            help="From detailed (0) to stiff (1).",
            show_default="the model's",
        ),
    ] = None,
    refine: Annotated[
        str,
        typer.Option(
            metavar="auto|on|off|SECONDS",
            help="Instance optimisation of this pair: to its end (on) or for so many seconds; auto: of volumes only.",
        ),
    ] = "auto",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Register every pair of a pairs.csv into folders of -o; finished pairs are skipped."
        ),
    ] = None,
    bids: Annotated[
        bool, typer.Option("--bids", help="-o is a folder for moved image, transforms and sidecars with BIDS names.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, metavar="N", help="Processes for --pairs.")] = 1,
    scheduler: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Dask cluster for --pairs.")] = None,
    keep_failed: KeepFailedOption = False,
    verbose: VerboseOption = False,
    progress: Annotated[
        bool, typer.Option("--progress", help="Print each stage on standard error as it begins, for other programs.")
    ] = False,
) -> None:
    """Register MOVING to FIXED; write the moved image and, on request, the transforms. Or many pairs: --pairs."""
    if pairs is None and (moving is None or fixed is None):
        received = "no images" if moving is None else f"one image, {moving}"
        raise InputError(
            f"register: received {received}; expected MOVING and FIXED, or a list of pairs: --pairs PAIRS.csv"
        )
    if output is None:
        raise InputError(f"register: no output given; expected -o {'FOLDER' if pairs or bids else 'MOVED'}")
    unused = {"--bids": bids, "--json": as_json, "--verbose": verbose, "--progress": progress} if pairs else {
        "--jobs": jobs > 1, "--scheduler": scheduler is not None,
    }  # fmt: skip
    if ignored := [option for option, given in unused.items() if given]:
        wanted = "one pair, MOVING and FIXED" if pairs else "--pairs PAIRS.csv"
        raise InputError(f"register: received {', '.join(ignored)}; that is for {wanted}")
    began = time.perf_counter()
    from crossmorph.registration.settings import Settings
    from crossmorph.system.progress import told, working

    with working("registering"):
        from crossmorph.workflows.outputs import Outputs
        from crossmorph.workflows.register_files import register_files

    settings = Settings(init, smoothness, refine_of(refine), stage=stage)
    outputs = Outputs(output, transform, inverse, translated, error_map, report, tuple(labels or ()), ants_prefix)
    outputs = outputs._replace(fsl=fsl_matrix)
    if header_only:
        outputs = outputs._replace(moved=None, header_only=output)
    how = (model, settings, device, threads, keep_failed, words())
    if pairs is not None:
        if moving or outputs != Outputs(output):
            raise InputError("register: --pairs chooses its own files; expected no MOVING, FIXED or single outputs")
        _register_pairs(pairs, output, jobs, scheduler, *how)
        return
    assert moving is not None
    assert fixed is not None
    if bids:
        from crossmorph.workflows.bids import bids_outputs

        if outputs != Outputs(output):
            raise InputError("register: --bids chooses its own files; expected no other outputs than -o")
        outputs = bids_outputs(moving, fixed, output)
    with working("registering"), told(progress):
        done = register_files(moving, fixed, outputs, *how)
    _print(done, as_json, verbose, time.perf_counter() - began)


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


@app.command()
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


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Folder for all files.")] = Path(
        "demo"
    ),
) -> None:
    """Register a real T1w slice and a simulated T2w partner; print the numbers, draw the picture."""
    from crossmorph.workflows.demo import run_demo

    run_demo(output)


for module in (transforms, groups, checks, training, reproduce):
    module.add_commands(app)
app.add_typer(datasets.app, name="prepare")
app.add_typer(models.app, name="models")

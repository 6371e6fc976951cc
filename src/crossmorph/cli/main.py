"""The command line: each command is the face of one library function. Heavy imports wait until a command needs them."""

import json
import os
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from crossmorph.cli import checks, datasets, reproduce, transforms
from crossmorph.errors import InputError

if TYPE_CHECKING:
    from crossmorph.registration.settings import Refine, Settings
    from crossmorph.workflows.outputs import LabelFiles
    from crossmorph.workflows.register_files import Done

# A waiting thread releases its core soon. Else a slice takes 9.5 s instead of 0.6 where another program has one of two
# cores, since each of a thousand small operations waits for a thread that has no core; if threads release it at once, a
# volume takes 5.8 s instead of 4.5 on an idle machine. GNU's OpenMP reads this when PyTorch starts.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

BAD_INPUT, FAILED = 2, 3
# What PyTorch says where memory is short, by CPU, by oneDNN, by CUDA.
NO_MEMORY = ("can't allocate memory", "could not create a primitive", "out of memory", "bad_alloc")
METHODS = "none,affine,syn,coarse,crossmorph,oracle"

KeepFailedOption = Annotated[bool, typer.Option("--keep-failed", help="Write the outputs even if a check fails.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Print the checks that passed, too.")]
ModelOption = Annotated[
    str | None,
    typer.Option(help="Shipped name, or folder that train wrote [default: the shipped one of the images' dimension]."),
]

app = typer.Typer(
    rich_markup_mode=None,
    help="Register medical images of different modality: coarse registration, translation, fine registration.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models_app = typer.Typer(rich_markup_mode=None, help="Weights that ship, and their cards.", no_args_is_help=True)
transforms.add_commands(app)
checks.add_commands(app)
reproduce.add_commands(app)
app.add_typer(datasets.app, name="prepare")
app.add_typer(models_app, name="models")


def _print_version(wanted: bool | None) -> None:
    if wanted:
        print(f"crossmorph {metadata.version('crossmorph')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool | None, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = None,
) -> None:
    """Options before any command."""


def main() -> None:
    """Run the command line; an error of the input is one line on standard error and exit code 2."""
    command = typer.main.get_command(app)
    register_command = command.commands["register"]  # type: ignore[attr-defined]
    # `--labels IN OUT`, repeated: typer has no lists of pairs, its parser does.
    next(option for option in register_command.params if option.name == "labels").nargs = 2
    try:
        command()
    except InputError as error:
        _fail(str(error), BAD_INPUT)
    except OSError as error:  # of a disk, standard output's included, that is full or cannot be written
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", BAD_INPUT)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY)):
            raise
        _fail("out of memory: crop or downsample the images", BAD_INPUT)


def _fail(message: str, code: int) -> NoReturn:
    print(f"crossmorph: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


def _label_files(value: tuple[str, str]) -> "LabelFiles":
    from crossmorph.workflows.outputs import LabelFiles

    return LabelFiles(Path(value[0]), Path(value[1]))


def _refine(text: str) -> "Refine":
    """`--refine` as a word, or as seconds."""
    try:
        return float(text)
    except ValueError:
        return text


@app.command()
def register(
    moving: Annotated[
        Path | None, typer.Argument(help="Image to move: NIfTI, MetaImage, NRRD, MINC, DICOM folder, PNG, TIFF.")
    ] = None,
    fixed: Annotated[Path | None, typer.Argument(help="Image to move it to.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Moved image, on the fixed image's grid; of --pairs, a folder."),
    ] = None,
    transform: Annotated[
        Path | None, typer.Option("-t", "--transform", help="Transform for ITK, ANTs, Slicer: .h5 or .nii.gz.")
    ] = None,
    inverse: Annotated[Path | None, typer.Option(help="Inverse transform, on the moving image's grid.")] = None,
    translated: Annotated[
        Path | None, typer.Option(help="Moving image in the fixed image's modality, on its own grid.")
    ] = None,
    labels: Annotated[
        list[Any] | None,
        typer.Option(metavar="IN OUT", parser=_label_files, help="Move a label map too, nearest voxel. Repeatable."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Report: page (.html) or picture (.png, .pdf, .svg).")] = None,
    error_map: Annotated[
        Path | None, typer.Option(help="Expected error of every voxel, on the fixed image's grid.")
    ] = None,
    ants_prefix: Annotated[
        Path | None,
        typer.Option(help="Write what ANTs would: P0GenericAffine.mat, P1Warp.nii.gz, P1InverseWarp.nii.gz."),
    ] = None,
    model: ModelOption = None,
    init: Annotated[
        str,
        typer.Option(
            metavar="affine|centers|none|FILE",
            help="Initial affine: found, centre on centre, as the headers say, or from an affine transform's file.",
        ),
    ] = "affine",
    smoothness: Annotated[
        float | None, typer.Option(min=0, max=1, help="From detailed (0) to stiff (1) [default: the model's].")
    ] = None,
    refine: Annotated[
        str,
        typer.Option(
            metavar="auto|on|off|SECONDS",
            help="Instance optimisation of this pair: until it stops gaining, or for so long; auto: for volumes only.",
        ),
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads [default: all].")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
    pairs: Annotated[
        Path | None,
        typer.Option(help="Register every pair of a pairs.csv into folders of -o; finished ones are skipped."),
    ] = None,
    bids: Annotated[
        bool, typer.Option("--bids", help="-o is a folder for moved image, transforms and sidecars of BIDS names.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Processes for --pairs.")] = 1,
    scheduler: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Dask cluster for --pairs.")] = None,
    keep_failed: KeepFailedOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Register MOVING to FIXED; write the moved image and, on request, the transforms. Or many pairs: --pairs."""
    if output is None:
        raise InputError("register: no output given; expected -o")
    if pairs is None and (moving is None or fixed is None):
        raise InputError("register: expected MOVING and FIXED, or --pairs")
    from crossmorph.registration.settings import Settings
    from crossmorph.workflows.outputs import Outputs
    from crossmorph.workflows.register_files import register_files

    settings = Settings(init, smoothness, _refine(refine))
    outputs = Outputs(output, transform, inverse, translated, error_map, report, tuple(labels or ()), ants_prefix)
    how = (model, settings, device, threads, keep_failed, _words())
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
    _print(register_files(moving, fixed, outputs, *how), as_json, verbose)


def _words() -> str:
    """The command line, as a shell takes it."""
    return shlex.join(["crossmorph", *sys.argv[1:]])


def _print(done: "Done", as_json: bool, verbose: bool) -> None:
    print(json.dumps(done.as_dict(), indent=2) if as_json else done.as_text(verbose))
    if not done.passed:
        _fail(done.failure, FAILED)


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
    moving: Annotated[Path, typer.Argument(help="Image to translate.")],
    fixed: Annotated[Path, typer.Argument(help="Image whose modality it shall have.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Translation, on the moving image's own grid.")],
    model: ModelOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads [default: all].")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
    keep_failed: KeepFailedOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Translate MOVING into the modality of FIXED, on its own grid; the two are registered for that."""
    from crossmorph.workflows.outputs import Outputs
    from crossmorph.workflows.register_files import register_files

    outputs = Outputs(translated=output)
    done = register_files(moving, fixed, outputs, model, device=device, threads=threads, keep_failed=keep_failed)
    _print(done, as_json, verbose)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML; see configs/.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override, as stages.coarse.iterations=9.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
) -> None:
    """Train a hierarchy on unlabelled pairs; write weights and card into the run's folder."""
    from crossmorph.system.environment import require_extra

    require_extra("train")
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    from crossmorph.training.config import load_config
    from crossmorph.training.train import TrainingDivergedError
    from crossmorph.training.train import train as run

    try:
        weights = run(load_config(config, set_), resume)
        rank_zero_only(print)(f"wrote {weights}")
    except TrainingDivergedError as error:
        _fail(str(error), FAILED)


@app.command()
def evaluate(
    pairs: Annotated[Path, typer.Argument(help="pairs.csv of a dataset.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="CSV, a row per pair and method.")],
    methods: Annotated[str, typer.Option(help="Comma-separated; docs/reference.md has all.")] = METHODS,
    report: Annotated[Path | None, typer.Option(help="Page (.html) with worst pairs, table and plots.")] = None,
    model: ModelOption = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of every method.")] = 1,
) -> None:
    """Score registration methods side by side on a list of pairs."""
    from crossmorph.evaluation.evaluate import chosen_model
    from crossmorph.evaluation.evaluate import evaluate as run
    from crossmorph.evaluation.results import caption, markdown_table, summarise

    chosen = chosen_model(pairs, model)
    names = methods.split(",")
    if report is None:
        rows = run(pairs, names, output, model=chosen, threads=threads)
    else:
        from crossmorph.system.environment import require_extra

        require_extra("report")
        from crossmorph.reports.evaluation_page import evaluate_with_page

        rows = evaluate_with_page(pairs, names, output, report, chosen, threads, command=_words())
    print(markdown_table(summarise(rows), caption(pairs, rows, chosen, threads)))
    for path in filter(None, (output, report)):
        print(f"wrote {path}")
    failed = sum(bool(row.error) for row in rows)
    if failed:
        _fail(f"{failed} of {len(rows)} registrations failed; the column 'error' of {output} says why", FAILED)


@models_app.command("list")
def list_models() -> None:
    """Names of the shipped models."""
    from crossmorph.networks.checkpoint import read_card, shipped_models

    for name, path in shipped_models().items():
        print(f"{name}  {read_card(path).description}")


@models_app.command("show")
def show_model(
    name: Annotated[str | None, typer.Argument(help="Shipped name, or folder [default: any-2d].")] = None,
) -> None:
    """The card of a model: what it is, where it came from, what it scored."""
    from crossmorph.networks.checkpoint import DEFAULT_MODELS, find_card, read_card

    print(read_card(find_card(name or DEFAULT_MODELS[2])).model_dump_json(indent=2))


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for all files.")] = Path("demo"),
) -> None:
    """Register a real T1w slice and a simulated T2w partner; print the numbers, draw the picture."""
    from crossmorph.workflows.demo import run_demo

    run_demo(output)

"""The command line: each command is the face of one library function. Heavy imports wait until a command needs them."""

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from crossmorph import DEFAULT_MODEL
from crossmorph.errors import InputError

if TYPE_CHECKING:
    from crossmorph.command import LabelFiles

BAD_INPUT, FAILED = 2, 3
METHODS = "none,affine,syn,coarse,crossmorph,oracle"

app = typer.Typer(
    help="Register medical images of different modality: coarse registration, translation, fine registration.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
prepare_app = typer.Typer(help="Make a dataset: images and a pairs.csv.", no_args_is_help=True)
models_app = typer.Typer(help="Weights that ship, and their cards.", no_args_is_help=True)
app.add_typer(prepare_app, name="prepare")
app.add_typer(models_app, name="models")


def main() -> None:
    """Run the command line; what the user can mend is one line on standard error and exit code 2."""
    command = typer.main.get_command(app)
    register_command = command.commands["register"]  # type: ignore[attr-defined]
    # `--labels IN OUT`, repeated: typer has no lists of pairs, its parser does.
    next(option for option in register_command.params if option.name == "labels").nargs = 2
    try:
        command()
    except InputError as error:
        _fail(str(error), BAD_INPUT)


def _fail(message: str, code: int) -> NoReturn:
    print(f"crossmorph: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


def _label_files(value: tuple[str, str]) -> "LabelFiles":
    from crossmorph.command import LabelFiles

    return LabelFiles(Path(value[0]), Path(value[1]))


def _seconds(refine: str) -> float | None:
    """The time that `--refine` allows; None where it names none."""
    if refine in ("off", "auto"):
        return None
    try:
        seconds = float(refine)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InputError(f"--refine {refine}: expected seconds above 0, auto or off")
    return seconds


@app.command()
def register(
    moving: Annotated[Path, typer.Argument(help="Image to move: 2-D NIfTI or greyscale PNG.")],
    fixed: Annotated[Path, typer.Argument(help="Image to move it to.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Moved image, on the fixed image's grid.")],
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
    report: Annotated[Path | None, typer.Option(help="Picture to look at: .png, .pdf or .svg.")] = None,
    model: Annotated[str, typer.Option(help="Name of a shipped model, or a folder that train wrote.")] = DEFAULT_MODEL,
    init: Annotated[
        Literal["affine", "centers", "none"],
        typer.Option(help="Begin affinely moved, with centre on centre, or where the headers say."),
    ] = "affine",
    smoothness: Annotated[
        float | None, typer.Option(min=0, max=1, help="From detailed (0) to stiff (1) [default: the model's].")
    ] = None,
    refine: Annotated[
        str, typer.Option(metavar="SECONDS|auto|off", help="Optimise for this pair, for so long or until no gain.")
    ] = "off",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads [default: all].")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Register MOVING to FIXED; write the moved image and, on request, the transforms."""
    from crossmorph.command import Outputs, register_files
    from crossmorph.register import Settings

    settings = Settings(init, smoothness, refine != "off", _seconds(refine))
    outputs = Outputs(output, transform, inverse, translated, tuple(labels or ()), report)
    done = register_files(moving, fixed, outputs, model, settings, device, threads)
    print(json.dumps(done.as_dict(), indent=2) if as_json else done.as_text())
    if done.failed:
        raise SystemExit(FAILED)


@prepare_app.command()
def phantom(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to make.")],
    seed: Annotated[int, typer.Option(min=0)] = 0,
    rough: Annotated[bool, typer.Option("--rough", help="Add a second, harder test split.")] = False,
    pd: Annotated[bool, typer.Option("--pd", help="Add PDw images and lists of PDw to T1w pairs.")] = False,
    extra: Annotated[str, typer.Option(help="More test splits, comma-separated: contrasts,heads,far.")] = "",
    train: Annotated[int, typer.Option(min=1, help="Training images a modality.")] = 396,
    test: Annotated[int, typer.Option(min=1, help="Test images a modality.")] = 96,
    validation: Annotated[int, typer.Option(min=1, help="Validation images a modality.")] = 24,
) -> None:
    """Simulate T2w and T1w brain slices with known deformations, from tissue maps that nilearn ships."""
    from crossmorph.data.extra import default_pairs
    from crossmorph.data.phantom import prepare_phantom

    added = default_pairs(extra.split(",") if extra else [])
    lists = prepare_phantom(output, seed, rough, pd, train=train, test=test, validation=validation, extra=added)
    for path in lists.values():
        print(f"wrote {path}")


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML; see configs/.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override, as stages.coarse.iterations=9.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
) -> None:
    """Train a hierarchy on unlabelled pairs; write weights and card into the run's folder."""
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    from crossmorph.config import load_config
    from crossmorph.training import TrainingDivergedError
    from crossmorph.training import train as run

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
    model: Annotated[str, typer.Option(help="Name of a shipped model, or a folder that train wrote.")] = DEFAULT_MODEL,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of every method.")] = 1,
) -> None:
    """Score registration methods side by side on a list of pairs."""
    from crossmorph.evaluation import evaluate as run
    from crossmorph.results import caption, markdown_table, summarise

    rows = run(pairs, methods.split(","), output, model=model, threads=threads)
    print(markdown_table(summarise(rows), caption(pairs, rows, model, threads)))
    print(f"wrote {output}")
    failed = sum(bool(row.error) for row in rows)
    if failed:
        _fail(f"{failed} of {len(rows)} registrations failed; the column 'error' of {output} says why", FAILED)


@models_app.command("list")
def list_models() -> None:
    """Names of the shipped models."""
    from crossmorph.checkpoint import read_card, shipped_models

    for name, path in shipped_models().items():
        print(f"{name}  {read_card(path).description}")


@models_app.command("show")
def show_model(name: Annotated[str, typer.Argument(help="Shipped name, or folder.")] = DEFAULT_MODEL) -> None:
    """The card of a model: what it is, where it came from, what it scored."""
    from crossmorph.checkpoint import find_card, read_card

    print(read_card(find_card(name)).model_dump_json(indent=2))


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for all files.")] = Path("demo"),
) -> None:
    """Register a real T1w slice and a simulated T2w partner; print the numbers, draw the picture."""
    from crossmorph.demo import run_demo

    run_demo(output)

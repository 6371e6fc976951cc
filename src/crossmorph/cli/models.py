"""The commands about models and their cards. Heavy imports wait until a command needs them."""

from pathlib import Path
from typing import Annotated

import typer

from crossmorph.cli.options import FolderOption, JsonOption, ModelArgument

app = typer.Typer(
    rich_markup_mode=None, help="Weights that ship or were pulled, and their cards.", no_args_is_help=True
)


@app.command("list")
def list_models() -> None:
    """Names of the shipped models, and of those that were pulled."""
    from crossmorph.networks.checkpoint import pulled_models, read_card, shipped_models

    for name, path in (shipped_models() | pulled_models()).items():
        print(f"{name}  {read_card(path).description}")


@app.command("show")
def show_model(name: ModelArgument = None, as_json: JsonOption = False) -> None:
    """The card of a model: what it is for, what it was trained on, what it scored, and its limits."""
    from crossmorph.networks.checkpoint import DEFAULT_MODELS, find_card, read_card

    path = find_card(name or DEFAULT_MODELS[2])
    if as_json:
        print(read_card(path).model_dump_json(indent=2))
        return
    from crossmorph.workflows.model_card import model_card

    print(model_card(path))


@app.command("pull")
def pull(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="URL or file of a card or weights, or a folder.")],
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="SHA-256 that the weights must have; required for http://.")
    ] = None,
) -> None:
    """Fetch the weights of others, check what they say, and keep them under the name on their card."""
    from crossmorph.system.progress import working
    from crossmorph.workflows.pull_model import pull_model

    with working("fetching"):
        pulled = pull_model(source, sha256)
    calibrated = "with calibration" if pulled.calibrated else "without calibration"
    print(f"{pulled.name}  {calibrated}, SHA-256 {pulled.sha256}\nwrote {pulled.card}\nuse it by --model {pulled.name}")


@app.command("export")
def export(
    output: FolderOption,
    name: ModelArgument = None,
    form: Annotated[str, typer.Option("--to", metavar="huggingface|monai", help="Form of the folder.")] = "huggingface",
) -> None:
    """Write a model with its card as a repository of Hugging Face or as a bundle of MONAI."""
    from crossmorph.networks.checkpoint import DEFAULT_MODELS
    from crossmorph.workflows.export_model import export_model

    for file in export_model(name or DEFAULT_MODELS[2], output, form):
        print(f"wrote {output / file}")


@app.command("onnx")
def onnx(
    name: ModelArgument = None,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="PATH", help="File to write, .onnx.")] = Path(
        "model.onnx"
    ),
) -> None:
    """A model for slices as one ONNX graph, from two images to the field; for browsers and other runtimes."""
    from crossmorph.networks.checkpoint import DEFAULT_MODELS, load_model
    from crossmorph.networks.onnx_export import export_onnx
    from crossmorph.system.files import suffix_of, write_whole
    from crossmorph.system.progress import working

    suffix_of(output, (".onnx",), "model")
    with working("exporting"):
        write_whole(output, export_onnx(load_model(name or DEFAULT_MODELS[2], "cpu")))
    print(f"wrote {output}")

"""The commands about models and their cards. Heavy imports wait until a command needs them."""

from pathlib import Path
from typing import Annotated

import typer

from crossmorph.cli.options import JsonOption, ModelArgument

app = typer.Typer(rich_markup_mode=None, help="Weights that ship, and their cards.", no_args_is_help=True)


@app.command("list")
def list_models() -> None:
    """Names of the shipped models."""
    from crossmorph.networks.checkpoint import read_card, shipped_models

    for name, path in shipped_models().items():
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


@app.command("onnx")
def export_model(
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

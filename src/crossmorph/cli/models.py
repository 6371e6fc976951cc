"""The commands about shipped weights. Heavy imports wait until a command needs them."""

import typer

from crossmorph.cli.options import ModelArgument

app = typer.Typer(rich_markup_mode=None, help="Weights that ship, and their cards.", no_args_is_help=True)


@app.command("list")
def list_models() -> None:
    """Names of the shipped models."""
    from crossmorph.networks.checkpoint import read_card, shipped_models

    for name, path in shipped_models().items():
        print(f"{name}  {read_card(path).description}")


@app.command("show")
def show_model(name: ModelArgument = None) -> None:
    """The card of a model: what it is, where it came from, what it scored."""
    from crossmorph.networks.checkpoint import DEFAULT_MODELS, find_card, read_card

    print(read_card(find_card(name or DEFAULT_MODELS[2])).model_dump_json(indent=2))

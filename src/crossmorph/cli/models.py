"""The commands about models and their cards. Heavy imports wait until a command needs them."""

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

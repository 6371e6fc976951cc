"""The tables of options in a page of the reference, from the commands themselves.

`python -m crossmorph.cli.option_tables docs/reference.md` rewrites the tables of a page.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from crossmorph.cli import bids_app
from crossmorph.cli.main import app
from crossmorph.errors import InputError

HEADING = "| option | default | meaning |\n|---|---|---|\n"


def commands(group: Any = None, name: str = "crossmorph") -> Iterator[tuple[str, Any]]:
    """Every command of a group, by default of all command lines, with its full name."""
    if group is None:
        yield "crossmorph-bids", typer.main.get_command(bids_app.app)
        group = typer.main.get_command(app)
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


def option_table(command: Any) -> str:
    """The options of a command as Markdown: names, default and help; empty where it has none."""
    options = [each for each in command.params if each.param_type_name == "option" and each.name != "help"]
    return HEADING + "".join(map(_row, options)) if options else ""


def _row(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in option.opts)
    if not option.is_flag:
        metavar = option.metavar.replace("|", "\\|")
        names = f"{names[:-1]} {metavar}`"
    return f"| {names} | {_default(option)} | {option.help} |\n"


def _default(option: Any) -> str:
    if option.required:
        return "required"
    if option.is_flag:
        return "off"
    if isinstance(option.show_default, str):
        return option.show_default
    return "-" if option.default in (None, "") else f"`{option.default}`"


def with_option_tables(page: str) -> str:
    """A page in which the table below the heading of every command is that of its options.

    Raises:
        InputError: a command has options, but no heading or no table to replace.
    """
    for name, command in commands():
        heading = f"### {name}\n"
        before, found, after = page.partition(heading)
        part, mark, rest = after.partition("\n### ")
        table = option_table(command)
        if table:
            old = re.search(re.escape(HEADING) + r"(\|.*\n)*", part)
            if not (found and old):
                raise InputError(f"{name}: expected its heading, and below it a table that begins with {HEADING!r}")
            part = part[: old.start()] + table + part[old.end() :]
        page = before + found + part + mark + rest
    return page


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_option_tables(path.read_text(encoding="utf-8")), encoding="utf-8")

"""Signs of life on a terminal: bars, the stage that a command is at, seconds. Nothing where there is no terminal."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_STAGES = logging.getLogger("crossmorph.stages")
T = TypeVar("T")


def progress_bar(visible: bool) -> Progress:
    """A progress bar with the time left, on standard error; hidden if that is no terminal or not ``visible``."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        redirect_stdout=False,  # what a command prints may go elsewhere than the bar
        disable=not (visible and console.is_terminal),
    )


def tracked(items: Sequence[T], text: str) -> Iterator[T]:
    """Go through items with a :func:`progress_bar`."""
    with progress_bar(True) as bar:
        yield from bar.track(items, description=text)


def stage(text: str) -> None:
    """Say which stage of the work begins: :func:`working` shows it, and Python's logging gets it (level INFO)."""
    _STAGES.info(text)


@contextlib.contextmanager
def working(text: str) -> Iterator[Callable[[str], None]]:
    """Show what goes on, its present :func:`stage` and its seconds, on standard error; gone when the block ends.

    Args:
        text: what goes on, as "registering".

    Yields:
        A function that prints a line on standard output meanwhile.
    """
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, redirect_stdout=False, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(text, total=None)

        def tell(line: str) -> None:
            # Both are one terminal, as a rule.
            progress.stop()
            print(line, flush=True)
            progress.start()

        with heard(lambda now: progress.update(task, description=f"{text}: {now}")):
            yield tell


@contextlib.contextmanager
def told(wanted: bool) -> Iterator[None]:
    """Print each :func:`stage` that begins within the block on standard error, for programs that run this one."""
    with heard(lambda now: print(f"stage: {now}", file=sys.stderr, flush=True)) if wanted else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def heard(tell: Callable[[str], None]) -> Iterator[None]:
    """Pass each :func:`stage` that begins within the block on to a function, which is called in that thread."""
    handler, level = logging.Handler(logging.INFO), _STAGES.level
    handler.emit = lambda record: tell(record.getMessage())  # type: ignore[method-assign]
    _STAGES.addHandler(handler)
    _STAGES.setLevel(logging.INFO)
    try:
        yield
    finally:
        _STAGES.removeHandler(handler)
        _STAGES.setLevel(level)

"""What commands print beside their results, and how they end."""

import shlex
import sys
from collections.abc import Callable
from typing import NoReturn

from crossmorph.cli.options import BAD_INPUT
from crossmorph.errors import InputError

# What PyTorch says where memory is short, by CPU, by oneDNN, by CUDA.
NO_MEMORY = ("can't allocate memory", "could not create a primitive", "out of memory", "bad_alloc")


def words(program: str = "crossmorph") -> str:
    """The command line, as a shell takes it."""
    return shlex.join([program, *sys.argv[1:]])


def fail(message: str, code: int) -> NoReturn:
    """End with one line on standard error."""
    print(f"crossmorph: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


def run(command: Callable[[], object]) -> None:
    """Run a command line; an error of the input is one line on standard error and exit code 2."""
    try:
        command()
    except InputError as error:
        fail(str(error), BAD_INPUT)
    except OSError as error:  # of a disk, standard output's included, that is full or cannot be written
        where = f"{error.filename}: " if error.filename else ""
        fail(f"{where}{error.strerror or error}", BAD_INPUT)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY)):
            raise
        fail("out of memory: crop or downsample the images", BAD_INPUT)

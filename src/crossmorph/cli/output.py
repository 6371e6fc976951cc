"""What commands print beside their results."""

import shlex
import sys
from typing import NoReturn


def words() -> str:
    """The command line, as a shell takes it."""
    return shlex.join(["crossmorph", *sys.argv[1:]])


def fail(message: str, code: int) -> NoReturn:
    """End with one line on standard error."""
    print(f"crossmorph: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)

"""Files of any kind: errors that name them, and outputs that appear whole or not at all."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from crossmorph.errors import InputError

# Deflate cannot pack more than 1032 bytes into one (https://zlib.net/zlib_tech.html), so a compressed file bounds its
# content.
DEFLATE_LIMIT = 1032

PICTURE_SUFFIXES = (".png", ".pdf", ".svg")
MOST_SHOWN = 200  # characters of what a file or a library says, in a message


def suffix_of(path: Path, suffixes: tuple[str, ...], kind: str) -> str:
    """The suffix that a file's name ends in, whatever its case.

    Args:
        path: the file; it need not exist.
        suffixes: those expected, in lower case.
        kind: of file, for the error: "image".

    Raises:
        InputError: the name ends in none of them.
    """
    for suffix in suffixes:
        if path.name.lower().endswith(suffix):
            return suffix
    raise InputError(f"{path}: unknown {kind} format, expected a name ending in {', '.join(suffixes)}")


def brief(text: object) -> str:
    """What a file or a library says, to be put into a message: one line, nothing unprintable, not too long."""
    line = " ".join(str(text)[: 4 * MOST_SHOWN].split())
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
    return line if len(line) <= MOST_SHOWN else line[:MOST_SHOWN] + ".."


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Refuse a file that is missing, a folder or empty; the system's errors in reading it become an ``InputError``."""
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder, expected a file")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: is empty (0 bytes)")
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


@contextlib.contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """Give a temporary sibling to write to, and put it in the place of ``path`` when the block ends well.

    Args:
        path: the file to make. The sibling has the same suffixes, which writers go by.

    Yields:
        The sibling's path; removed if the block raises.

    Raises:
        InputError: the folder is missing, ``path`` is a folder, or the file cannot be written there.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a file name")
    temporary = path.with_name(f".{uuid.uuid4().hex}{''.join(path.suffixes[-2:])}")
    try:
        # Claimed first: an unwritable folder shows here, by its own error, whatever library writes afterwards.
        temporary.touch(exist_ok=False)
        yield temporary
        # A rename may reach the disk before the content does: without this a power cut could leave an empty file.
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        # Where nothing can be written, the system refuses to remove even what is not there.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all. Raises InputError as :func:`atomic_output` does."""
    with atomic_output(path) as temporary:
        temporary.write_bytes(content)

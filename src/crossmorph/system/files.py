"""Files of any kind: errors that name them, and outputs that appear complete or not at all."""

import contextlib
import gzip
import os
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar, cast

from pydantic import BaseModel, ValidationError

from crossmorph.errors import InputError

# Deflate compresses at most 1032 bytes into one (https://zlib.net/zlib_tech.html), which bounds the content of a file.
DEFLATE_LIMIT = 1032

GZIP_MAGIC = b"\x1f\x8b"

PICTURE_SUFFIXES = (".png", ".pdf", ".svg")
# The temporary files of the sets of outputs that are being written, by the outputs' names.
_CLAIMED: ContextVar[Mapping[Path, Path]] = ContextVar("claimed", default={})  # noqa: B039 (never changed in place)
Form = TypeVar("Form", bound=BaseModel)
MOST_SHOWN = 200  # characters of a file's or a library's text, in a message


def suffix_of(path: Path, suffixes: tuple[str, ...], kind: str) -> str:
    """The suffix that a file's name ends in, whatever its case.

    Args:
        path: the file; it need not exist.
        suffixes: those expected, in lower case.
        kind: kind of file, for the error: "image".

    Raises:
        InputError: the name ends in none of them.
    """
    for suffix in suffixes:
        if path.name.lower().endswith(suffix):
            return suffix
    raise InputError(f"{path}: unknown {kind} format, expected a name ending in {', '.join(suffixes)}")


def brief(text: object) -> str:
    """A file's or a library's text for a message: one line, printable, and shortened."""
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


def read_json(path: Path, form: type[Form], what: str) -> Form:
    """A JSON file as a pydantic model.

    Args:
        path: the file.
        form: what it must hold.
        what: that, for the error: "a model card".

    Raises:
        InputError: the file cannot be read, or holds something else; the first entry that is wrong is named.
    """
    with readable(path):
        content = path.read_bytes()
    try:
        return form.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in first["loc"])
        raise InputError(f"{path}: not {what} ({where}{first['msg']})") from error


@contextlib.contextmanager
def unpacked(path: Path, name: Path | None = None) -> Iterator[tuple[BinaryIO, int]]:
    """The content of a file, unpacked where it is compressed by gzip, whatever its name says.

    Yields:
        A stream, and the most bytes that it can hold.

    Raises:
        InputError: the compressed content ends early or is damaged; it calls the file ``name`` where that is given.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        compressed = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        stream.seek(0)
        try:
            yield (
                (cast(BinaryIO, gzip.GzipFile(fileobj=stream)), DEFLATE_LIMIT * size) if compressed else (stream, size)
            )
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(f"{name or path}: is truncated or damaged ({error})") from error


@contextlib.contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """Give a temporary sibling to write to, and put it in the place of ``path`` when the block ends well.

    Within :func:`output_set` a path of the set is given its temporary file, which appears with the others. A symbolic
    link stays, and the file that it leads to is replaced.

    Args:
        path: the file to make. The sibling has the same suffixes, which writers go by.

    Yields:
        The sibling's path; removed if the block raises.

    Raises:
        InputError: the folder is missing, ``path`` is a folder or a device, or the file cannot be written there.
    """
    if (claimed := _CLAIMED.get().get(path)) is not None:
        with _naming(path):
            yield claimed
        return
    with _temporary(path) as temporary:
        yield temporary
        _publish(temporary, path)


@contextlib.contextmanager
def output_set(paths: Sequence[Path]) -> Iterator["OutputSet"]:
    """Files that appear together, or not at all.

    All are claimed before the block begins, so that a folder that cannot be written to shows before the work. Within
    the block they are written as ever, by their own names. They appear when :meth:`OutputSet.publish` is called, in the
    order of ``paths``; what was not published is removed when the block ends. Paths that a set around this one has are
    left to that.

    Raises:
        InputError: as of :func:`atomic_output`.
    """
    with contextlib.ExitStack() as stack:
        around = _CLAIMED.get()
        claimed = {path: stack.enter_context(_temporary(path)) for path in paths if path not in around}
        token = _CLAIMED.set({**around, **claimed})
        stack.callback(_CLAIMED.reset, token)
        yield OutputSet(claimed)


class OutputSet(NamedTuple):
    """The temporary files of a set of outputs by the outputs' names."""

    temporary: dict[Path, Path]

    def publish(self) -> None:
        """Put all files in place. Raises InputError where that fails."""
        for path, temporary in self.temporary.items():
            with _naming(path):
                _publish(temporary, path)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let the system's errors in writing become an ``InputError`` that names a file."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A new, empty file beside where ``path`` leads, removed when the block ends if it is there still."""
    target = _target(path)
    if not target.parent.is_dir():
        raise InputError(f"{path}: the folder {target.parent} does not exist")
    if target.is_dir():
        raise InputError(f"{path}: is a folder, expected a file name")
    if target.is_symlink() or (target.exists() and not target.is_file()):
        raise InputError(f"{path}: is a device, or a link that leads nowhere; expected a file name")
    temporary = target.with_name(f".{uuid.uuid4().hex}{''.join(path.suffixes[-2:])}")
    try:
        with _naming(path):
            # Claimed first: an unwritable folder shows here, by its own error, whatever library writes afterwards.
            temporary.touch(exist_ok=False)
            yield temporary
    finally:
        # Where nothing can be written, the system refuses to remove even what is not there.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _publish(temporary: Path, path: Path) -> None:
    # A rename may reach the disk before the content does: without this a power cut could leave an empty file.
    with temporary.open("rb+") as stream:
        os.fsync(stream.fileno())
    os.replace(temporary, _target(path))


def _target(path: Path) -> Path:
    """The file that a name leads to: that of a symbolic link, which would itself be replaced otherwise."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def make_folder(path: Path) -> None:
    """Make a folder and those that it lies in, where they are not there yet. Raises InputError where that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: the folder cannot be made ({error.strerror or error})") from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears complete or not at all. Raises InputError as :func:`atomic_output` does."""
    with atomic_output(path) as temporary:
        temporary.write_bytes(content)

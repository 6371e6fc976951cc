"""The lock of a folder, on Linux and macOS by `flock` and on Windows by a byte: one run has it, until that run ends."""

import subprocess
import sys
from pathlib import Path

import pytest

from crossmorph.errors import InputError
from crossmorph.system.processes import LOCK, claimed

# A module of the name of Windows's own, which locks bytes from where the file stands, and says so in its way.
MSVCRT = """
import fcntl, os
LK_NBLCK = 2
def locking(descriptor, mode, count):
    assert mode == LK_NBLCK and os.lseek(descriptor, 0, os.SEEK_CUR) > 1000
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, count, 0, os.SEEK_CUR)
    except BlockingIOError:
        raise PermissionError(13, "Permission denied") from None
"""
CLAIM = """
import concurrent.futures.process, pathlib, platform, sys  # before this system calls itself another
node = platform.node()
sys.path.insert(0, {stand_in!r})
sys.platform = {platform!r}
from crossmorph.system import processes
assert ("msvcrt" in vars(processes)) == (sys.platform == "win32") != ("fcntl" in vars(processes))
with processes.claimed(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def claiming(platform: str, folder: Path, stand_in: Path) -> subprocess.Popen[str]:
    (stand_in / "msvcrt.py").write_text(MSVCRT, encoding="utf-8")
    words = [sys.executable, "-c", CLAIM.format(platform=platform, stand_in=str(stand_in)), str(folder)]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize("platform", ["win32", sys.platform])
def test_one_process_has_the_folder_until_it_is_killed(platform: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with claiming(platform, folder, tmp_path) as first:
        assert first.stdout
        assert first.stdout.readline() == "held\n"
        with claiming(platform, folder, tmp_path) as second:
            out, error = second.communicate(timeout=60)
        assert (out, second.returncode) == ("", 1)
        assert f"process {first.pid} on " in error
        assert "is writing into it; expected a folder of its own" in error
        first.kill()
    with claiming(platform, folder, tmp_path) as third:
        out, error = third.communicate(timeout=60)
    assert (out, third.returncode) == ("held\n", 0), error
    assert (folder / LOCK).read_text() == ""


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match="expected a folder that can be written"),
        claimed(tmp_path / "file" / "folder"),
    ):
        pass

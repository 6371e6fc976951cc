"""Progress: to be seen on a terminal, and nothing anywhere else."""

import logging
import os
import pty
import re
import subprocess
import sys

import pytest

from crossmorph.system.progress import progress_bar, stage, told, tracked, working

SCRIPT = """
import time
from crossmorph.system.progress import stage, tracked, working
with working("registering") as tell:
    time.sleep(0.15)
    stage("fine")
    time.sleep(0.15)
    tell("a row")
    time.sleep(0.15)
for _ in tracked([1, 2, 3], "pairs"):
    pass
print("done")
"""


def on_a_terminal() -> tuple[str, str]:
    """What the script writes to standard output, a file, and to standard error, a terminal; without its colours."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    words = [sys.executable, "-c", SCRIPT]
    shown = b""
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=theirs, env=environment, text=True) as process:
        os.close(theirs)
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:  # the other end is closed
            pass
        out = process.communicate()[0]
    os.close(ours)
    return out, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def test_a_terminal_shows_stages_and_bars_and_output_stays_where_it_goes() -> None:
    out, shown = on_a_terminal()
    assert out == "a row\ndone\n"
    assert "registering " in shown
    assert "registering: fine" in shown
    assert "3/3" in shown
    assert "row" not in shown


def test_nothing_is_shown_elsewhere(capfd: pytest.CaptureFixture[str]) -> None:
    with working("registering") as tell:
        stage("fine")
        tell("a row")
    assert list(tracked([1, 2, 3], "pairs")) == [1, 2, 3]
    with progress_bar(True) as bar:
        bar.add_task("x", total=2)
    assert capfd.readouterr() == ("a row\n", "")


def test_stages_are_logged_and_nothing_listens_afterwards(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("crossmorph.stages")
    before = (list(logger.handlers), logger.level)
    with caplog.at_level(logging.INFO, logger="crossmorph.stages"):
        stage("coarse")
    with pytest.raises(ZeroDivisionError), working("registering"):
        raise ZeroDivisionError
    assert [record.getMessage() for record in caplog.records] == ["coarse"]
    assert (logger.handlers, logger.level) == before


def test_other_programs_are_told_the_stages_where_they_ask(capfd: pytest.CaptureFixture[str]) -> None:
    with told(False):
        stage("unheard")
    with told(True):
        stage("fine")
    assert capfd.readouterr() == ("", "stage: fine\n")

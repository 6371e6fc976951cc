"""ITK without output on the terminal, and what its exceptions say."""

import contextlib
import os
import threading
from collections.abc import Iterator

import SimpleITK as sitk

# What SimpleITK raises; the second where ITK's message quotes bytes of a damaged file.
ITK_ERRORS = (RuntimeError, UnicodeDecodeError)

_SILENCE = threading.RLock()


@contextlib.contextmanager
def silent_itk() -> Iterator[None]:
    """Run ITK without output on the terminal.

    MetaIO, HDF5 and libtiff write to the process's standard error themselves, past ITK's own switch, so the stream is
    redirected to the null device; by one thread at a time, since two would restore each other's stream.
    """
    with _SILENCE:
        shown = sitk.ProcessObject.GetGlobalWarningDisplay()
        sitk.ProcessObject.SetGlobalWarningDisplay(False)
        terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            os.close(nowhere)
            sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def reason_line(error: Exception) -> str:
    """The line of a SimpleITK exception with the reason, as long as it may be."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in reversed(lines) if "ERROR" in line), lines[-1])

"""The shipped model for slices as an ONNX file, made once for all tests that take it: that is a minute of work."""

from pathlib import Path

import pytest
from project import command


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Path:
    """The file that the command writes."""
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("onnx") / "any-2d.onnx"
    done = command("models", "onnx", "any-2d", "-o", path, timeout=1500)
    assert (done.returncode, done.stderr) == (0, "")
    return path

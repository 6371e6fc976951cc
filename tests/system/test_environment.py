"""What the installation holds, and one clear sentence where a part of it is missing."""

from importlib import util
from pathlib import Path

import pytest

from crossmorph.errors import InputError
from crossmorph.system.environment import EXTRAS, environment, require_extra
from crossmorph.workflows.outputs import Outputs, check_outputs


def without(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    found = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name in modules else found(name))


@pytest.mark.parametrize("extra", EXTRAS)
def test_what_is_missing_is_named_with_its_extra(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in EXTRAS[extra]:
        pytest.importorskip(module)
    require_extra(extra)
    without(monkeypatch, EXTRAS[extra][-1])
    with pytest.raises(InputError, match=rf'^{EXTRAS[extra][-1]} not installed; .*pip install "crossmorph\[{extra}\]"'):
        require_extra(extra)


def test_a_report_is_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "matplotlib")
    check_outputs([], Outputs(moved=Path("a.nii")), 2)
    with pytest.raises(InputError, match="matplotlib not installed"):
        check_outputs([], Outputs(moved=Path("a.nii"), report=Path("a.html")), 2)


def test_versions_and_hardware_are_told() -> None:
    found = environment()
    assert {"crossmorph", "torch", "numpy", "nibabel", "python", "hardware", "threads"} <= set(found)
    assert all(found.values())

"""elastix, greedy, SimpleITK and DIPY as peers: our field is the tool's own, known deformations are found."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy import ndarray
from scenes import error_mm, pair

from crossmorph.errors import InputError
from crossmorph.evaluation.baselines import common, dipy, elastix, greedy, simpleitk
from crossmorph.images.image import Image
from crossmorph.transforms.warp import Warp, resample

Own = Callable[[], ndarray]
FEW = "40"  # iterations a level of elastix, whose schedule for real images takes seconds


def install(name: str, monkeypatch: pytest.MonkeyPatch, moving: Image, fixed: Image) -> Own:
    """Spy on a tool; returns what gives its own moved image once it has run."""
    return {"elastix": elastix_own, "greedy": greedy_own, "simpleitk": simpleitk_own, "dipy": dipy_own}[name](
        monkeypatch, moving, fixed
    )


def elastix_own(monkeypatch: pytest.MonkeyPatch, moving: Image, fixed: Image) -> Own:
    pytest.importorskip("itk")
    loaded = elastix.load()
    made: list[Any] = []
    name = f"itkElastixRegistrationMethodIF{fixed.dim}IF{fixed.dim}"

    def new() -> Any:
        made.append(getattr(loaded.registration, name).New())
        return made[-1]

    spied = loaded._replace(registration=SimpleNamespace(**{name: SimpleNamespace(New=new)}))
    monkeypatch.setattr(elastix, "load", lambda: spied)
    for stage in ("AFFINE", "SPLINES"):
        short = getattr(elastix, stage) | {"MaximumNumberOfIterations": FEW, "NumberOfSpatialSamples": "1000"}
        monkeypatch.setattr(elastix, stage, short)
    return lambda: loaded.itk.array_from_image(made[0].GetOutput()).T


def greedy_own(monkeypatch: pytest.MonkeyPatch, moving: Image, fixed: Image) -> Own:
    name = f"Greedy{fixed.dim}D"
    made: list[Any] = []
    original = getattr(pytest.importorskip("picsl_greedy"), name)
    # A half of the small volumes holds too few voxels for a histogram, and the affine stage runs away.
    for stage, levels in (("AFFINE", "100x50x20"), ("DEFORMABLE", "100x100x50")):
        assert levels in getattr(greedy, stage)
        monkeypatch.setattr(greedy, stage, getattr(greedy, stage).replace(levels, "20"))

    def new() -> Any:
        made.append(original())
        return made[-1]

    monkeypatch.setattr(greedy, "load", lambda: SimpleNamespace(**{name: new}))

    def own() -> ndarray:
        made[0].execute("-V 0 -rf fixed -rm moving moved -r warp affine", moved=None)
        return sitk.GetArrayFromImage(made[0]["moved"]).T

    return own


def simpleitk_own(monkeypatch: pytest.MonkeyPatch, moving: Image, fixed: Image) -> Own:
    found: list[sitk.Transform] = []

    def spied(transform: sitk.Transform, image: Image) -> Warp:
        found.append(transform)
        return common.from_sitk(transform, image)

    monkeypatch.setattr(simpleitk, "from_sitk", spied)
    # A quarter of these small images holds too few voxels for a histogram.
    short = {"SCALES": (1,), "SHRINK": (1,), "SMOOTHING": (0.0,), "AFFINE_ITERATIONS": 30, "SPLINE_ITERATIONS": 5}
    for name, value in short.items():
        monkeypatch.setattr(simpleitk, name, value)
    ours, theirs = common.to_sitk(moving), common.to_sitk(fixed)
    return lambda: sitk.GetArrayFromImage(sitk.Resample(ours, theirs, found[0], sitk.sitkLinear)).T


def dipy_own(monkeypatch: pytest.MonkeyPatch, moving: Image, fixed: Image) -> Own:
    method = pytest.importorskip("dipy.align.imwarp").SymmetricDiffeomorphicRegistration
    found: list[Any] = []
    original = method.optimize
    monkeypatch.setattr(dipy, "SYN", {"level_iters": [5]})

    def optimize(self, *arguments, **options) -> Any:
        found.append(original(self, *arguments, **options))
        return found[-1]

    monkeypatch.setattr(method, "optimize", optimize)
    return lambda: found[0].transform(moving.data.astype(np.float64))


TOOLS = {"elastix": elastix, "greedy": greedy, "simpleitk": simpleitk, "dipy": dipy}


@pytest.mark.parametrize("name", TOOLS)
@pytest.mark.parametrize("which", ["2d", "3d"])
def test_a_known_deformation_is_found_and_gives_the_moved_image_of_the_tool(
    name: str, which: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    moving, fixed = pair(which, flip=True)
    own = install(name, monkeypatch, moving, fixed)
    found, seconds = TOOLS[name].register(moving, fixed)
    assert found.shape == fixed.shape
    np.testing.assert_array_equal(found.affine, fixed.affine)
    nowhere = Warp(np.zeros((fixed.dim, *fixed.shape)), fixed.affine)
    assert error_mm(found) < 0.25 * error_mm(nowhere)
    assert 0 < seconds < 60
    # At the outermost voxels of the moving image the tools have rules of their own.
    inner = np.zeros(moving.shape, np.float32)
    inner[(slice(1, -1),) * moving.dim] = 1
    inside = resample(Image(inner, moving.affine), found).data == 1
    assert inside.mean() > 0.4
    np.testing.assert_allclose(resample(moving, found).data[inside], own()[inside], atol=1e-3)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", TOOLS)
def test_one_thread_gives_the_same_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    moving, fixed = pair("2d")
    install(name, monkeypatch, moving, fixed)
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        one, other = (TOOLS[name].register(moving, fixed).warp.displacement for _ in range(2))
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    np.testing.assert_array_equal(one, other)


def test_what_greedy_writes_past_python_is_kept_quiet(capfd: pytest.CaptureFixture) -> None:
    with greedy._quiet():
        os.write(1, b"lost")
    os.write(1, b"kept")
    assert capfd.readouterr().out == "kept"


@pytest.mark.parametrize(
    ("peer", "module", "package"),
    [
        (elastix, "itk", "itk-elastix"),
        (elastix, "itk.itkElastixRegistrationMethodPython", "itk-elastix"),
        (greedy, "picsl_greedy", "picsl-greedy"),
        (dipy, "dipy.align.imwarp", "dipy"),
    ],
    ids=["itk", "elastix", "greedy", "dipy"],
)
def test_a_missing_package_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, peer: Any, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(peer, "load", getattr(peer.load, "__wrapped__", peer.load))
    with pytest.raises(InputError, match=rf'^{package} is not installed \(.*pip install "crossmorph\[baselines\]"$'):
        peer.register(*pair("2d"))

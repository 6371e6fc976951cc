"""The module of 3D Slicer, without Slicer: its logic with a stand-in, and what it writes and loads in ITK and VTK."""

import ast
import itertools
import json
import re
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import slicer_stand_in
import typer
from project import ROOT
from slicer_stand_in import VolumeNode, place, vtk_image, vtk_matrix

import crossmorph
from crossmorph.cli.main import app

EXTENSION = ROOT / "integrations" / "slicer"
OBLIQUE = np.array([[-1.9, 0.3, 0.2, 60], [0.3, 1.9, -0.3, -50], [-0.2, 0.3, 2.4, -40], [0, 0, 0, 1]])
# A program that answers as crossmorph does and keeps what it was asked.
PROGRAM = """#!{python}
import json, shutil, sys, time
import SimpleITK as sitk
words = sys.argv[1:]
json.dump(words, open("{asked}", "w"))
print("stage: initial affine, coarse", file=sys.stderr, flush=True)
if "--model" in words:
    print("crossmorph: no such model", file=sys.stderr)
    sys.exit(2)
if "slow" in words[words.index("--init") + 1]:
    time.sleep(60)
print("stage: checks", file=sys.stderr, flush=True)
output = dict(zip(words, words[1:]))
for option in ("--output", "--translated", "--error-map"):
    if option in output:
        shutil.copy(words[2], output[option])
sitk.WriteTransform(sitk.TranslationTransform(3, (1, 2, 3)), output["--transform"])
check = dict(value=1, limit=2)
print(json.dumps(dict(checks=[dict(check, name="folding", level="passed", message="Fine."),
                              dict(check, name="stretch", level="{level}", message="Much.")])))
sys.exit({code})
"""


@pytest.fixture
def slicer(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    for name, module in slicer_stand_in.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    return sys.modules["slicer"]


@pytest.fixture
def module(slicer: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    monkeypatch.setitem(sys.modules, slicer_stand_in.MODULE.stem, types.ModuleType("replaced"))
    return slicer_stand_in.load()


def script(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def program(folder: Path, level: str = "warning", code: int = 0) -> str:
    facts = {"python": sys.executable, "asked": folder / "asked.json", "level": level, "code": code}
    return script(folder / "crossmorph", PROGRAM.format(**facts))


def volume(name: str, seed: int = 0) -> VolumeNode:
    image = sitk.GetImageFromArray(np.random.default_rng(seed).random((5, 6, 7)).astype(np.float32))
    place(image, OBLIQUE)
    return VolumeNode(name, image)


def test_nodes_go_out_and_come_back_where_they_lie(module, slicer, tmp_path: Path) -> None:
    moving, fixed = volume("T2", 1), volume("T1", 2)
    told = []
    settings = module.Settings(smoothness=0.25, refine="off", translated=True, error_map=True)
    outcome = module.CrossmorphRegistrationLogic().register(
        moving, fixed, settings, program(tmp_path), progress=lambda percent, text: told.append((percent, text))
    )
    assert told == [(10, "initial affine, coarse"), (70, "checks"), (100, "loading")]
    words = json.loads((tmp_path / "asked.json").read_text())
    given = dict(itertools.pairwise(words))
    assert given["--smoothness"] == "0.25"
    assert given["--refine"] == "off"
    assert {"--json", "--progress", "--keep-failed"} <= set(words)
    assert "--model" not in words
    names = {what: node.GetName() for what, node in outcome.nodes.items()}
    assert names == {what: f"T2 {what}" for what in ("moved", "transform", "translated", "error map")}
    np.testing.assert_allclose(outcome.nodes["moved"].ijk_to_ras(), OBLIQUE, atol=1e-6)
    np.testing.assert_array_equal(*map(sitk.GetArrayFromImage, (outcome.nodes["moved"].image, fixed.image)))
    assert outcome.nodes["transform"].transform.TransformPoint((0.0, 0.0, 0.0)) == (1, 2, 3)
    assert outcome.passed
    # No node refers to a temporary file, and none of these is left.
    assert slicer.mrmlScene.removed == [node.GetStorageNode() for node in outcome.nodes.values()]
    assert not Path(words[1]).parent.exists()


def test_the_command_line_is_one_that_crossmorph_takes(module) -> None:
    settings = module.Settings("any-3d", "none", 0.5, "off", translated=True, error_map=True)
    outputs = module.CrossmorphRegistrationLogic.outputs(Path("folder"), settings)
    words = module.CrossmorphRegistrationLogic.arguments({"moving": "m.nrrd", "fixed": "f.nrrd"}, outputs, settings)
    register = typer.main.get_command(app).commands["register"]
    context = register.make_context("register", words[1:])
    taken = context.params
    assert (taken["model"], taken["init"], taken["smoothness"], taken["refine"]) == ("any-3d", "none", 0.5, "off")
    assert taken["output"] == Path("folder/moved.nrrd")
    assert taken["transform"] == Path("folder/transform.h5")
    assert taken["translated"] == Path("folder/translated.nrrd")
    assert taken["error_map"] == Path("folder/error.nrrd")
    assert taken["as_json"]
    assert taken["progress"]
    assert taken["keep_failed"]


def test_failed_checks_are_no_error_and_come_first(module, tmp_path: Path) -> None:
    logic = module.CrossmorphRegistrationLogic()
    outcome = logic.register(volume("a"), volume("b", 1), program=program(tmp_path, "failed", code=3))
    assert not outcome.passed
    lines = module.checks_text(outcome).splitlines()
    assert lines[0].startswith("CHECKS FAILED")
    assert lines[1:] == ["failed: stretch: Much.", "passed: folding: Fine."]


def test_what_cannot_be_registered_is_refused(module, tmp_path: Path) -> None:
    logic, one = module.CrossmorphRegistrationLogic(), volume("one")
    for moving, fixed in ((None, one), (one, one)):
        with pytest.raises(ValueError, match="expected two volumes"):
            logic.register(moving, fixed)
    flat = VolumeNode("flat", sitk.Image(5, 5, 1, sitk.sitkFloat32))
    with pytest.raises(ValueError, match=r"flat: has \(5, 5, 1\) voxels"):
        logic.register(one, flat)
    with pytest.raises(ValueError, match="no such program"):
        logic.register(one, volume("other", 1), program=str(tmp_path / "missing"))
    with pytest.raises(RuntimeError, match="crossmorph: no such model"):
        logic.register(one, volume("other", 1), module.Settings(model="x"), program(tmp_path))


def test_the_program_is_found_in_the_path_of_the_system(module, slicer, tmp_path: Path) -> None:
    path = program(tmp_path)
    slicer.util.environment["PATH"] = str(tmp_path)
    assert module.CrossmorphRegistrationLogic.program("") == path


def test_a_user_can_stop_it(module, tmp_path: Path) -> None:
    begin = time.monotonic()
    stages = []
    with pytest.raises(module.CancelledError):
        module.CrossmorphRegistrationLogic().register(
            volume("a"),
            volume("b", 1),
            module.Settings(init="slow"),
            program(tmp_path),
            progress=lambda *told: stages.append(told),
            cancelled=lambda: bool(stages),
        )
    assert time.monotonic() - begin < 30


def test_the_widget_registers_shows_and_remembers(module, slicer, tmp_path: Path) -> None:
    made = module.CrossmorphRegistrationWidget()
    made.setup()
    assert made.settings() == module.Settings()
    moving, fixed = volume("T2"), volume("T1", 1)
    made.moving.setCurrentNode(moving)
    made.fixed.setCurrentNode(fixed)
    made.program.currentPath = program(tmp_path)
    made.smoothness.currentText, made.translated.checked = "0.75", True
    made.apply.connections["clicked(bool)"](True)
    assert slicer.util.errors == []
    assert made.checks.plainText.splitlines()[:2] == ["Registered.", "warning: stretch: Much."]
    assert slicer.util.layers["background"] is fixed
    assert slicer.util.layers["foreground"].GetName() == "T2 moved"
    assert made.apply.enabled
    assert not made.cancel.enabled
    assert slicer.app.settings == {"crossmorph/program": made.program.currentPath}
    made.fixed.setCurrentNode(moving)
    made.on_apply()
    assert slicer.util.errors == ["expected two volumes, the moving and the fixed one"]
    assert made.apply.enabled


def test_the_files_of_the_extension_go_together() -> None:
    entry = json.loads((EXTENSION / "Crossmorph.json").read_text())
    assert {"$schema", "category", "scm_url"} <= set(entry)
    assert set(entry) <= {
        "$schema",
        "build_dependencies",
        "build_subdirectory",
        "category",
        "scm_revision",
        "scm_url",
        "tier",
    }
    (folder,) = re.findall(r"add_subdirectory\((\w+)\)", (EXTENSION / "CMakeLists.txt").read_text())
    cmake = (EXTENSION / folder / "CMakeLists.txt").read_text()
    (name,) = re.findall(r"set\(MODULE_NAME (\w+)\)", cmake)
    for file in re.findall(r"\S*\$\{MODULE_NAME\}\.\w+", cmake):
        assert (EXTENSION / folder / file.replace("${MODULE_NAME}", name)).is_file()
    source = (EXTENSION / folder / f"{name}.py").read_text()
    classes = {each.name for each in ast.parse(source, feature_version=(3, 9)).body if isinstance(each, ast.ClassDef)}
    assert {name, f"{name}Widget", f"{name}Logic", f"{name}Test"} <= classes


def blobs(shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(0)
    place = np.indices(shape, np.float32)
    total = np.zeros(shape, np.float32)
    for _ in range(30):
        middle = rng.uniform(0.15, 0.85, 3) * shape
        total += np.exp(-((place - middle.reshape(3, 1, 1, 1)) ** 2).sum(0) / (2 * rng.uniform(3, 6) ** 2))
    return total


@pytest.mark.slow
def test_vtk_and_itk_see_what_crossmorph_found(module, tmp_path: Path) -> None:
    vtk = pytest.importorskip("vtk")
    from vtk.util.numpy_support import vtk_to_numpy

    shape = (40, 48, 44)
    data = blobs(shape)
    fixed, moving = (
        VolumeNode(name, sitk.GetImageFromArray(np.ascontiguousarray(voxels.T)))
        for name, voxels in (("fixed", data), ("moving", 1 / (0.5 + data)))
    )
    turned = OBLIQUE.copy()
    turned[:3, 3] += (5, -4, 6)
    place(fixed.image, OBLIQUE)
    place(moving.image, turned)
    real = script(tmp_path / "crossmorph", f'#!/bin/sh\nexec {sys.executable} -m crossmorph "$@"\n')
    outcome = module.CrossmorphRegistrationLogic().register(moving, fixed, module.Settings(refine="off"), real)
    moved, transform = outcome.nodes["moved"], outcome.nodes["transform"]
    np.testing.assert_allclose(moved.ijk_to_ras(), OBLIQUE, atol=1e-5)

    # The field, at points in RAS millimetres: by VTK from the file, and as crossmorph has it in memory.
    expected = crossmorph.register(moving.image, fixed.image, refine="off")
    indices = np.random.default_rng(1).integers(4, 36, (200, 3))
    points = indices @ OBLIQUE[:3, :3].T + OBLIQUE[:3, 3]
    from_parent = transform.from_parent()
    by_vtk = np.array([from_parent.TransformPoint(point) for point in points])
    ours = points + expected.transform.displacement[:, *indices.T].T
    np.testing.assert_allclose(by_vtk, ours, atol=0.02)
    assert np.abs(by_vtk - points).max() > 4

    # The moving volume, resliced by VTK as Slicer shows it under the transform, is the moved volume.
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(vtk_image(sitk.GetArrayFromImage(moving.image)))
    to_moving = vtk.vtkGeneralTransform()
    to_moving.Concatenate(vtk_matrix(np.linalg.inv(turned)))
    to_moving.Concatenate(from_parent)
    to_moving.Concatenate(vtk_matrix(OBLIQUE))
    reslice.SetResliceTransform(to_moving)
    reslice.SetInterpolationModeToLinear()
    reslice.SetOutputExtent(0, shape[0] - 1, 0, shape[1] - 1, 0, shape[2] - 1)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.Update()
    resliced = vtk_to_numpy(reslice.GetOutput().GetPointData().GetScalars()).reshape(shape[::-1])
    inner = (slice(6, -6),) * 3
    np.testing.assert_allclose(resliced[inner], sitk.GetArrayFromImage(moved.image)[inner], atol=0.01)


@pytest.mark.slow
def test_the_test_of_the_module_passes(module, slicer, tmp_path: Path) -> None:
    pytest.importorskip("vtk")
    script(tmp_path / "crossmorph", f'#!/bin/sh\nexec {sys.executable} -m crossmorph "$@"\n')
    slicer.util.environment["PATH"] = f"{tmp_path}:{slicer.util.environment['PATH']}"
    module.CrossmorphRegistrationTest().runTest()

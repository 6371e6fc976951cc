"""A module of 3D Slicer that registers two volumes by the command line program crossmorph.

The volumes are written to a temporary folder, the program runs in a process and a Python of its own, and what it writes
is loaded: the moved volume and the transform, on request the translated volume and the expected error. Slicer's own
readers and writers turn its RAS millimetres into the LPS millimetres of the files and back.
"""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ctk
import qt
import slicer
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

FAILED = 3  # the program's exit code where a check failed
STAGE = re.compile(r"^stage: (.+)$")
STAGES = ("initial affine, coarse", "fine", "refinement", "checks")
SETTING = "crossmorph/program"
LEVELS = ("failed", "warning", "passed")


class Settings(NamedTuple):
    """How to register, see ``crossmorph register --help``; None is the program's own choice."""

    model: str = ""
    init: str = "affine"
    smoothness: float | None = None
    refine: str = "auto"
    translated: bool = False
    error_map: bool = False


class Outcome(NamedTuple):
    """The new nodes by what they are, the checks of the registration, and whether none of them failed."""

    nodes: dict[str, Any]
    checks: list[dict[str, Any]]
    passed: bool


class CancelledError(Exception):
    """The user stopped the registration."""


class CrossmorphRegistration(ScriptedLoadableModule):
    """What Slicer shows of the module in its menus."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "Registration between modalities (crossmorph)"
        parent.categories = ["Registration"]
        parent.dependencies = []
        parent.contributors = ["The crossmorph authors"]
        parent.helpText = (
            "Registers a moving volume to a fixed volume of another modality and shows checks of the result. Needs the "
            "program crossmorph (pip install crossmorph) in a Python of its own; its path is set below."
        )
        parent.acknowledgementText = "https://github.com/crossmorph/crossmorph"


class CrossmorphRegistrationLogic(ScriptedLoadableModuleLogic):
    """Volumes out to the program, and its results back in."""

    def register(
        self,
        moving: Any,
        fixed: Any,
        settings: Settings = Settings(),  # noqa: B008 (a tuple, which is never changed)
        program: str = "",
        progress: Callable[[int, str], None] = lambda *_: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Outcome:
        """Register a moving to a fixed volume node; the scene gets the new nodes.

        Args:
            moving: volume node to move; it may lie under transforms, which count.
            fixed: volume node to move it to.
            settings: how.
            program: path of crossmorph; empty: the one in the path of the system.
            progress: is told percent and the stage that begins.
            cancelled: asked meanwhile; the program is stopped when it answers yes.

        Returns:
            The nodes ``moved``, ``transform`` and those asked for, and the checks. The transform node takes points of
            the moving volume to the fixed one (to parent): apply it to whatever lies on the moving volume.

        Raises:
            ValueError: the nodes cannot be registered.
            RuntimeError: what the program says of input that it cannot use.
            CancelledError: the user stopped it.
        """
        self.check(moving, fixed)
        with tempfile.TemporaryDirectory(prefix="crossmorph-") as folder:
            files = {name: str(Path(folder, f"{name}.nrrd")) for name in ("moving", "fixed")}
            for node, path in ((moving, files["moving"]), (fixed, files["fixed"])):
                if not slicer.util.exportNode(node, path, {}, world=True):
                    raise ValueError(f"{node.GetName()}: cannot be written to {path}")
            outputs = self.outputs(Path(folder), settings)
            words = [self.program(program), *self.arguments(files, outputs, settings)]
            code, out, errors = self.run(words, progress, cancelled)
            if code not in (0, FAILED):
                raise RuntimeError(errors[-1] if errors else f"{words[0]} ended with code {code}")
            progress(100, "loading")
            return Outcome(self.load(outputs, moving.GetName()), json.loads(out)["checks"], code == 0)

    @staticmethod
    def check(moving: Any, fixed: Any) -> None:
        """Refuse nodes that cannot be registered. Raises ValueError."""
        if moving is None or fixed is None or moving.GetID() == fixed.GetID():
            raise ValueError("expected two volumes, the moving and the fixed one")
        for node in (moving, fixed):
            size = node.GetImageData().GetDimensions() if node.GetImageData() else (0, 0, 0)
            if min(size) < 2:
                raise ValueError(f"{node.GetName()}: has {size} voxels; expected two or more along each axis")

    @staticmethod
    def program(path: str) -> str:
        """The program at a path, or the one in the path of the system. Raises ValueError where there is none."""
        found = shutil.which(path or "crossmorph", path=slicer.util.startupEnvironment().get("PATH"))
        if found is None:
            named = path or "crossmorph"
            raise ValueError(f"{named}: no such program; expected the path of crossmorph (pip install crossmorph)")
        return found

    @staticmethod
    def outputs(folder: Path, settings: Settings) -> dict[str, str]:
        """The files to write, by what they are."""
        outputs = {"moved": "moved.nrrd", "transform": "transform.h5"}
        if settings.translated:
            outputs["translated"] = "translated.nrrd"
        if settings.error_map:
            outputs["error map"] = "error.nrrd"
        return {name: str(folder / file) for name, file in outputs.items()}

    @staticmethod
    def arguments(files: dict[str, str], outputs: dict[str, str], settings: Settings) -> list[str]:
        """The command line without the program."""
        words = ["register", files["moving"], files["fixed"], "--json", "--progress", "--keep-failed"]
        for name, path in outputs.items():
            words += [{"moved": "--output", "error map": "--error-map"}.get(name, f"--{name}"), path]
        words += ["--init", settings.init, "--refine", settings.refine]
        words += ["--model", settings.model] if settings.model else []
        return words + ([] if settings.smoothness is None else ["--smoothness", str(settings.smoothness)])

    @staticmethod
    def run(
        words: list[str], progress: Callable[[int, str], None], cancelled: Callable[[], bool]
    ) -> tuple[int, str, list[str]]:
        """Run a command while Slicer stays usable.

        Returns:
            Exit code, standard output, and the lines of standard error that tell no stage.
        """
        # Slicer's own environment has another Python and other libraries.
        how: dict[str, Any] = {"env": slicer.util.startupEnvironment(), "text": True, "encoding": "utf-8"}
        if os.name == "nt":
            how["creationflags"] = subprocess.CREATE_NO_WINDOW
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(words, **pipes, **how) as process:
            lines: queue.SimpleQueue[str] = queue.SimpleQueue()
            out: list[str] = []
            threads = [
                threading.Thread(target=lambda: [lines.put(line) for line in process.stderr], daemon=True),
                threading.Thread(target=lambda: out.append(process.stdout.read()), daemon=True),
            ]
            for thread in threads:
                thread.start()
            errors: list[str] = []
            while any(thread.is_alive() for thread in threads) or not lines.empty():
                slicer.app.processEvents()
                if cancelled():
                    process.kill()
                    raise CancelledError("stopped")
                while not lines.empty():
                    line = lines.get().strip()
                    stage = STAGE.match(line)
                    if stage is None:
                        errors.append(line)
                    else:
                        number = STAGES.index(stage[1]) if stage[1] in STAGES else 0
                        progress(10 + 80 * number // len(STAGES), stage[1])
                time.sleep(0.02)
            return process.wait(), "".join(out), [line for line in errors if line]

    @staticmethod
    def load(outputs: dict[str, str], name: str) -> dict[str, Any]:
        """The nodes of the files, named after the moving volume."""
        nodes = {}
        for what, path in outputs.items():
            if what == "transform":
                nodes[what] = slicer.util.loadTransform(path)
                nodes[what].SetName(f"{name} transform")
            else:
                nodes[what] = slicer.util.loadVolume(path, {"name": f"{name} {what}", "show": False})
            # Nothing is left at the path: the node's data is to be saved with the scene, wherever that is.
            storage = nodes[what].GetStorageNode()
            if storage is not None:
                slicer.mrmlScene.RemoveNode(storage)
        return nodes


class CrossmorphRegistrationWidget(ScriptedLoadableModuleWidget):
    """Choices, a button, progress and checks."""

    def setup(self) -> None:
        """Make the widgets and connect them; Slicer calls this once."""
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = CrossmorphRegistrationLogic()
        self._stop = False
        area = ctk.ctkCollapsibleButton()
        area.text = "Registration"
        self.layout.addWidget(area)
        form = qt.QFormLayout(area)
        self.moving, self.fixed = self._volumes("Volume to move."), self._volumes("Volume to move it to.")
        self.model = qt.QLineEdit()
        self.model.setToolTip("Shipped model, or folder that crossmorph train wrote; empty: the shipped one.")
        self.init = self._choice(["affine", "centers", "none"])
        self.smoothness = self._choice(["as the model", "0", "0.25", "0.5", "0.75", "1"])
        self.refine = self._choice(["auto", "on", "off"])
        self.translated, self.error_map = qt.QCheckBox(), qt.QCheckBox()
        self.program = ctk.ctkPathLineEdit()
        self.program.filters = ctk.ctkPathLineEdit.Files | ctk.ctkPathLineEdit.Executable
        self.program.currentPath = slicer.app.userSettings().value(SETTING, "")
        self.program.setToolTip("Path of crossmorph; empty: the one in the path of the system.")
        rows = {
            "Moving volume": self.moving, "Fixed volume": self.fixed, "Model": self.model, "Initial affine": self.init,
            "Smoothness": self.smoothness, "Refine": self.refine, "Translated volume": self.translated,
            "Expected error": self.error_map, "Program": self.program,
        }  # fmt: skip
        for label, widget in rows.items():
            form.addRow(label, widget)
        self.apply, self.cancel = qt.QPushButton("Register"), qt.QPushButton("Cancel")
        self.cancel.enabled = False
        self.bar, self.checks = qt.QProgressBar(), qt.QTextEdit()
        self.checks.readOnly = True
        for widget in (self.apply, self.cancel, self.bar, self.checks):
            form.addRow(widget)
        self.apply.connect("clicked(bool)", self.on_apply)
        self.cancel.connect("clicked(bool)", self.on_cancel)
        self.layout.addStretch(1)

    def settings(self) -> Settings:
        """What is chosen."""
        smoothness = self.smoothness.currentText
        return Settings(
            self.model.text.strip(),
            self.init.currentText,
            None if smoothness == "as the model" else float(smoothness),
            self.refine.currentText,
            self.translated.checked,
            self.error_map.checked,
        )

    def on_apply(self, _: bool = False) -> None:
        """Register; show the moved volume over the fixed one, and the checks. An error is shown in a window."""
        moving, fixed, program = self.moving.currentNode(), self.fixed.currentNode(), self.program.currentPath
        slicer.app.userSettings().setValue(SETTING, program)
        self._stop = False
        self._busy(True)
        try:
            outcome = self.logic.register(
                moving, fixed, self.settings(), program, progress=self._progress, cancelled=lambda: self._stop
            )
        except CancelledError:
            self.checks.plainText = "Stopped."
        except (ValueError, RuntimeError) as error:
            self.checks.plainText = ""
            slicer.util.errorDisplay(str(error))
        else:
            self.checks.plainText = checks_text(outcome)
            slicer.util.setSliceViewerLayers(background=fixed, foreground=outcome.nodes["moved"], foregroundOpacity=0.5)
        finally:
            self._busy(False)

    def on_cancel(self, _: bool = False) -> None:
        """Let the registration that runs stop."""
        self._stop = True

    def _busy(self, busy: bool) -> None:
        self.apply.enabled, self.cancel.enabled = not busy, busy
        self.bar.value = 0
        self.bar.format = "%p%"

    def _progress(self, percent: int, text: str) -> None:
        self.bar.value, self.bar.format = percent, text

    @staticmethod
    def _choice(words: list[str]) -> Any:
        box = qt.QComboBox()
        box.addItems(words)
        return box

    @staticmethod
    def _volumes(tip: str) -> Any:
        box = slicer.qMRMLNodeComboBox()
        box.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        box.addEnabled = box.removeEnabled = box.noneEnabled = False
        box.setMRMLScene(slicer.mrmlScene)
        box.setToolTip(tip)
        return box


def checks_text(outcome: Outcome) -> str:
    """The checks, those that did not pass first, one a line."""
    checks = sorted(outcome.checks, key=lambda check: LEVELS.index(check["level"]))
    first = "Registered." if outcome.passed else "CHECKS FAILED: do not use this result without looking at it."
    return "\n".join([first, *(f"{check['level']}: {check['name']}: {check['message']}" for check in checks)])


class CrossmorphRegistrationTest(ScriptedLoadableModuleTest):
    """Registers a volume of blobs to itself in another place, within Slicer; needs the program in the path."""

    def setUp(self) -> None:
        """Begin with an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """Slicer's own call."""
        self.setUp()
        self.test_a_shifted_volume_comes_back()

    def test_a_shifted_volume_comes_back(self) -> None:
        """The transform node takes the moving volume's centre to the fixed one's."""
        import numpy as np
        import vtk

        place = np.indices((48, 56, 48), np.float32) * 2.5
        rng = np.random.default_rng(0)
        blobs = [(rng.uniform(20, 100, 3), rng.uniform(6, 16)) for _ in range(24)]
        distances = (((place - middle.reshape(3, 1, 1, 1)) ** 2).sum(0) / (2 * size**2) for middle, size in blobs)
        data = sum(np.exp(-distance) for distance in distances)
        shift, nodes = np.array([6.0, -4.0, 5.0]), []
        for name, origin, voxels in (("fixed", np.zeros(3), data), ("moving", shift, 1 / (0.5 + data))):
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
            slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(voxels.T))
            matrix = vtk.vtkMatrix4x4()
            for axis in range(3):
                matrix.SetElement(axis, axis, 2.5)
                matrix.SetElement(axis, 3, origin[axis])
            node.SetIJKToRASMatrix(matrix)
            nodes.append(node)
        fixed, moving = nodes
        outcome = CrossmorphRegistrationLogic().register(moving, fixed)
        middle = np.array([60.0, 70.0, 60.0])
        to_world = vtk.vtkGeneralTransform()
        outcome.nodes["transform"].GetTransformToWorld(to_world)
        found = np.array(to_world.TransformPoint(middle + shift))
        self.assertLess(np.abs(found - middle).max(), 2.5)

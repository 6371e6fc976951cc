"""A small stand-in for what the module of 3D Slicer calls: volumes and transforms in files as Slicer has them, widgets.

Slicer reads and writes through ITK and turns RAS into LPS millimetres and back; a node here keeps what ITK read. A
widget knows only the properties and methods that Qt's, CTK's and Slicer's have.
"""

import os
import sys
import types
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy import ndarray
from project import ROOT

MODULE = ROOT / "integrations" / "slicer" / "CrossmorphRegistration" / "CrossmorphRegistration.py"
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # LPS to RAS


class Node:
    def __init__(self, name: str, storage: str | None = None) -> None:
        self.name, self.storage = name, storage

    def GetName(self) -> str:
        return self.name

    def SetName(self, name: str) -> None:
        self.name = name

    def GetID(self) -> str:
        return str(id(self))

    def GetStorageNode(self) -> str | None:
        return self.storage


class VolumeNode(Node):
    def __init__(self, name: str, image: sitk.Image, storage: str | None = None) -> None:
        super().__init__(name, storage)
        self.image = image

    def GetImageData(self) -> Any:
        return types.SimpleNamespace(GetDimensions=self.image.GetSize)

    def SetIJKToRASMatrix(self, matrix: Any) -> None:
        ras = np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])
        place(self.image, ras)

    def ijk_to_ras(self) -> ndarray:
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(self.image.GetDirection(), (3, 3)) @ np.diag(self.image.GetSpacing())
        affine[:3, 3] = self.image.GetOrigin()
        return FLIP @ affine


class TransformNode(Node):
    def __init__(self, transform: sitk.Transform, storage: str | None = None) -> None:
        super().__init__("transform", storage)
        self.transform = transform

    def from_parent(self) -> Any:
        """As VTK's, in RAS: what an ITK file holds is from the parent."""
        return vtk_transform(self.transform)

    def GetTransformToWorld(self, general: Any) -> None:
        inverse = self.from_parent()
        inverse.Inverse()
        general.DeepCopy(inverse)


def place(image: sitk.Image, ras: ndarray) -> None:
    affine = FLIP @ ras
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())


def vtk_transform(transform: sitk.Transform) -> Any:
    """A transform of ITK's as VTK's, of RAS points: displacement fields on turned grids, affine maps and composites."""
    import vtk

    general = vtk.vtkGeneralTransform()  # the part that is added last acts first, as in ITK
    parts = [transform.Downcast()]
    while parts:
        part = parts.pop(0)
        if isinstance(part, sitk.CompositeTransform):
            parts = [part.GetNthTransform(n).Downcast() for n in range(part.GetNumberOfTransforms())] + parts
        elif isinstance(part, sitk.DisplacementFieldTransform):
            field = part.GetDisplacementField()
            to_ras = VolumeNode("", field).ijk_to_ras()
            ras = sitk.GetArrayFromImage(field) @ FLIP[:3, :3]
            voxels = ras @ np.linalg.inv(to_ras[:3, :3]).T
            grid = vtk.vtkGridTransform()
            grid.SetDisplacementGridData(vtk_image(voxels))
            grid.SetInterpolationModeToLinear()
            general.Concatenate(vtk_matrix(to_ras))
            general.Concatenate(grid)
            general.Concatenate(vtk_matrix(np.linalg.inv(to_ras)))
        else:
            matrix = np.eye(4)
            origin = np.array(part.TransformPoint((0.0, 0.0, 0.0)))
            matrix[:3, :3] = np.stack([np.array(part.TransformPoint(unit)) - origin for unit in np.eye(3)], axis=1)
            matrix[:3, 3] = origin
            general.Concatenate(vtk_matrix(FLIP @ matrix @ FLIP))
    return general


def vtk_matrix(matrix: ndarray) -> Any:
    import vtk

    made = vtk.vtkMatrix4x4()
    made.DeepCopy(matrix.ravel().tolist())
    return made


def vtk_image(voxels: ndarray) -> Any:
    """``(z, y, x)`` or ``(z, y, x, 3)`` as an image of VTK of voxels of size 1."""
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    image = vtk.vtkImageData()
    image.SetDimensions(voxels.shape[2], voxels.shape[1], voxels.shape[0])
    flat = np.ascontiguousarray(voxels, np.float64).reshape(-1, *voxels.shape[3:])
    image.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True))
    return image


class Widget:
    """Of Qt, with the properties and methods that it has; it keeps what is connected to its signals."""

    has: tuple[str, ...] = ()
    start: Any = ""

    def __init__(self, text: Any = "") -> None:
        self.__dict__.update(dict.fromkeys(self.has, self.start), connections={}, words=text)

    def __setattr__(self, name: str, value: Any) -> None:
        assert name in self.has, f"{type(self).__name__} has no {name}"
        self.__dict__[name] = value

    def setToolTip(self, _: str) -> None:
        pass

    def connect(self, signal: str, slot: Any) -> None:
        self.connections[signal] = slot


class ComboBox(Widget):
    has = ("currentText",)

    def addItems(self, words: list[str]) -> None:
        self.currentText = words[0]


class NodeComboBox(Widget):
    has = ("nodeTypes", "addEnabled", "removeEnabled", "noneEnabled")

    def setMRMLScene(self, scene: Any) -> None:
        pass

    def setCurrentNode(self, node: Node | None) -> None:
        self.__dict__["node"] = node

    def currentNode(self) -> Node | None:
        return self.__dict__.get("node")


class Layout(Widget):
    def addRow(self, *widgets: Any) -> None:
        pass

    def addWidget(self, widget: Any) -> None:
        pass

    def addStretch(self, stretch: int) -> None:
        pass


def widget(name: str, *has: str, **attributes: Any) -> type:
    return type(name, (Widget,), {"has": has, **attributes})


class Util:
    """``slicer.util``."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.layers: dict[str, Any] = {}
        self.environment = dict(os.environ)

    def startupEnvironment(self) -> dict[str, str]:
        return self.environment

    def exportNode(self, node: VolumeNode, filename: str, properties: dict[str, Any], world: bool = False) -> bool:
        assert world
        sitk.WriteImage(node.image, filename)
        return True

    def loadVolume(self, filename: str, properties: dict[str, Any]) -> VolumeNode:
        assert set(properties) <= {"name", "show"}
        return VolumeNode(properties["name"], sitk.ReadImage(filename), filename)

    def loadTransform(self, filename: str) -> TransformNode:
        return TransformNode(sitk.ReadTransform(filename), filename)

    def updateVolumeFromArray(self, node: VolumeNode, array: ndarray) -> None:
        node.image = sitk.GetImageFromArray(array)

    def errorDisplay(self, text: str) -> None:
        self.errors.append(text)

    def setSliceViewerLayers(self, background: Node, foreground: Node, foregroundOpacity: float) -> None:
        self.layers = {"background": background, "foreground": foreground, "opacity": foregroundOpacity}


class Scene:
    """``slicer.mrmlScene``."""

    def __init__(self) -> None:
        self.removed: list[Any] = []

    def Clear(self) -> None:
        pass

    def RemoveNode(self, node: Any) -> None:
        self.removed.append(node)

    def AddNewNodeByClass(self, kind: str, name: str) -> VolumeNode:
        assert kind == "vtkMRMLScalarVolumeNode"
        return VolumeNode(name, sitk.Image(1, 1, 1, sitk.sitkFloat32))


def modules() -> dict[str, types.ModuleType]:
    """``slicer``, ``qt`` and ``ctk`` by the names by which the module imports them."""
    made = {name: types.ModuleType(name) for name in ("slicer", "slicer.ScriptedLoadableModule", "qt", "ctk")}
    slicer, base, qt, ctk = made.values()
    slicer.util, slicer.mrmlScene, slicer.qMRMLNodeComboBox = Util(), Scene(), NodeComboBox
    slicer.ScriptedLoadableModule = base
    stored: dict[str, Any] = {}
    settings = types.SimpleNamespace(value=stored.get, setValue=stored.__setitem__)
    slicer.app = types.SimpleNamespace(processEvents=lambda: None, userSettings=lambda: settings, settings=stored)
    qt.QFormLayout, qt.QComboBox = Layout, ComboBox
    qt.QLineEdit = widget("QLineEdit", "text")
    qt.QCheckBox = widget("QCheckBox", "checked", start=False)
    qt.QPushButton = widget("QPushButton", "enabled")
    qt.QProgressBar = widget("QProgressBar", "value", "format")
    qt.QTextEdit = widget("QTextEdit", "readOnly", "plainText")
    ctk.ctkCollapsibleButton = widget("ctkCollapsibleButton", "text")
    ctk.ctkPathLineEdit = widget("ctkPathLineEdit", "filters", "currentPath", Files=2, Executable=0x4000)
    base.ScriptedLoadableModule = type("ScriptedLoadableModule", (), {"__init__": lambda *_: None})
    base.ScriptedLoadableModuleLogic = type("ScriptedLoadableModuleLogic", (), {})

    def setup(self: Any) -> None:
        self.layout = Layout()

    base.ScriptedLoadableModuleWidget = type("ScriptedLoadableModuleWidget", (), {"setup": setup})
    import unittest

    base.ScriptedLoadableModuleTest = type("ScriptedLoadableModuleTest", (unittest.TestCase,), {})
    return made


def load(path: Path = MODULE) -> types.ModuleType:
    """The module, as Slicer loads it; what stands in for Slicer must be among ``sys.modules``."""
    spec = util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module

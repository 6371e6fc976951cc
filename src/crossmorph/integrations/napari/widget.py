"""napari's widget: two layers in; moved and translated image, warped grid and error map out, checks shown."""

from pathlib import Path
from typing import Any

from magicgui.widgets import ComboBox, Container, Label, LineEdit, PushButton, TextEdit
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.layers import Layer
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error, show_info
from qtpy.QtWidgets import QFileDialog
from superqt.utils import ensure_main_thread

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.integrations.napari.layers import image_of, result_layers
from crossmorph.quality.assessment import level_text
from crossmorph.registration.settings import NAMED_INITS
from crossmorph.reports.numbers import shown_checks
from crossmorph.system.progress import heard
from crossmorph.transforms.warp_files import TRANSFORM_SUFFIXES
from crossmorph.workflows.register import register
from crossmorph.workflows.result import Result

SMOOTHNESS = {"as the model": None, "0: detailed": 0.0, "0.25": 0.25, "0.5": 0.5, "0.75": 0.75, "1: stiff": 1.0}
ORDER = ("failed", "warning", "passed")


class RegisterWidget(Container):
    """Register one image layer to another, as ``crossmorph register`` does; the window stays usable meanwhile.

    Args:
        napari_viewer: the viewer, which gets the new layers.

    Attributes:
        result: of the last registration, None before.
    """

    def __init__(self, napari_viewer: ViewerModel) -> None:
        self._viewer = napari_viewer
        self.result: Result | None = None
        self.moving = ComboBox(label="moving", choices=self._image_layers, nullable=True, tooltip="Layer to move.")
        self.fixed = ComboBox(label="fixed", choices=self._image_layers, nullable=True, tooltip="Layer to move it to.")
        self.model = LineEdit(
            label="model", tooltip="Shipped model, or folder that train wrote; empty: the shipped one of the dimension."
        )
        self.model.native.setPlaceholderText("any-2d or any-3d")
        self.init = ComboBox(
            label="initial affine",
            choices=NAMED_INITS,
            tooltip="Estimated (affine), centre on centre, or as the layers lie (none).",
        )
        self.smoothness = ComboBox(label="smoothness", choices=list(SMOOTHNESS.items()))
        self.refine = ComboBox(
            label="refine", choices=("auto", "on", "off"), tooltip="Instance optimisation; auto: of volumes only."
        )
        self.start = PushButton(text="Register")
        self.state = Label(value="")
        self.checks = TextEdit(label="", tooltip="The checks, those that did not pass first.")
        self.checks.read_only = True
        self.save = PushButton(text="Save transform...", enabled=False)
        super().__init__(
            widgets=[
                self.moving, self.fixed, self.model, self.init, self.smoothness, self.refine, self.start, self.state,
                self.checks, self.save,
            ]
        )  # fmt: skip
        self.start.clicked.connect(self.run)
        self.save.clicked.connect(self._ask_where)

    def _image_layers(self, _: Any) -> list[ImageLayer]:
        """The choices; napari asks again when layers come and go."""
        return [layer for layer in self._viewer.layers if isinstance(layer, ImageLayer)]

    def run(self) -> None:
        """Register in a thread of its own; the layers come when it is done. An error is shown."""
        try:
            self._run()
        except InputError as error:
            self._failed(error)

    def _run(self) -> None:
        moving, fixed = self.moving.value, self.fixed.value
        if moving is None or fixed is None or moving is fixed:
            raise InputError("received fewer than two layers; expected two image layers, the moving and the fixed one")
        name = moving.name
        images = image_of(moving), image_of(fixed)
        self.start.enabled = False
        self.checks.value = ""
        connections = {
            "returned": lambda result: self._show(result, name),
            "errored": self._failed,
            "finished": lambda: setattr(self.start, "enabled", True),
        }
        create_worker(self._register, *images, self.settings(), _connect=connections)

    def settings(self) -> dict[str, Any]:
        """What is chosen, as :func:`crossmorph.register` takes it."""
        chosen = {"init": self.init.value, "smoothness": self.smoothness.value, "refine": self.refine.value}
        return {"model": self.model.value.strip() or None, **chosen}

    def _register(self, moving: Image, fixed: Image, settings: dict[str, Any]) -> Result:
        self._tell("registering")
        with heard(lambda stage: self._tell(f"registering: {stage}")):
            return register(moving, fixed, **settings)

    @ensure_main_thread
    def _tell(self, text: str) -> None:
        self.state.value = text

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, InputError):
            raise error
        self._tell("not registered")
        show_error(str(error))

    def _show(self, result: Result, moving: str) -> None:
        """The layers and the checks of a result, those that did not pass first."""
        self.result = result
        self.save.enabled = True
        checks = sorted(shown_checks(result.checks), key=lambda check: ORDER.index(check.level))
        self.checks.value = "\n".join(f"{level_text(check)}: {check.name}: {check.message}" for check in checks)
        passed = f"{sum(check.level == 'passed' for check in checks)} of {len(checks)} checks passed"
        self._tell(f"{'registered' if result.passed else 'checks failed'}, {result.seconds:.1f} s; {passed}")
        for data, what, kind in result_layers(result, moving):
            self._viewer.add_layer(Layer.create(data, what, kind))

    def _ask_where(self) -> None:
        kinds = " ".join(f"*{suffix}" for suffix in TRANSFORM_SUFFIXES)
        name, _ = QFileDialog.getSaveFileName(self.native, "Save transform", "transform.h5", f"Transforms ({kinds})")
        if name and self.result is not None:
            self.result.save(transform=name)
            show_info(f"wrote {Path(name).name} and its record")

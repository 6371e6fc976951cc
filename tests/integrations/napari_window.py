"""Register two files in a window of napari, by its plugin, and save a picture of the window: a program of its own."""

import sys
import time
from pathlib import Path

import napari
from qtpy.QtWidgets import QApplication

SECONDS = 150.0  # at most


def main(moving: str, fixed: str, picture: str) -> None:
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1300, 800)
    for name, path in (("moving", moving), ("fixed", fixed)):
        (layer,) = viewer.open(path, plugin="crossmorph")
        layer.name = name
    _, widget = viewer.window.add_plugin_dock_widget("crossmorph")
    widget.moving.value, widget.fixed.value = viewer.layers
    widget.start.clicked.emit(True)
    end = time.monotonic() + SECONDS
    while not widget.start.enabled and time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.02)
    if viewer.dims.ndim == 3:
        viewer.dims.set_point(0, viewer.layers["fixed"].extent.world[:, 0].mean())
    for _ in range(30):  # the drawing takes some rounds of events
        QApplication.processEvents()
        time.sleep(0.02)
    viewer.window.screenshot(picture, canvas_only=False, flash=False)
    for layer in viewer.layers:
        print(f"{layer.name}: {layer.data.shape} {layer.scale}")
    viewer.close()


if __name__ == "__main__":
    main(*(str(Path(name).resolve()) for name in sys.argv[1:]))

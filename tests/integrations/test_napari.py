"""The plugin of napari, with the real napari and no screen. Skipped where napari, or what Qt needs, is missing."""

import ctypes.util
import os
import shutil
import subprocess
import sys
import time
import warnings
from fnmatch import fnmatch
from importlib import resources
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import nibabel
import numpy as np
import PIL.Image
import pytest
import SimpleITK as sitk
import yaml

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of napari's own
    pytest.importorskip("napari", exc_type=ImportError)
    pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)
    from napari.components import ViewerModel
    from napari.layers import Image as ImageLayer
    from napari.layers import Labels, Layer
    from napari.utils.notifications import notification_manager
    from npe2 import PluginManifest
    from qtpy.QtWidgets import QApplication, QFileDialog
from scenes import oblique

import crossmorph
from crossmorph.datasets.pairs import Pair, read_pairs
from crossmorph.errors import InputError
from crossmorph.images.image import PAGE, Image
from crossmorph.images.io import READABLE_SUFFIXES, write_image
from crossmorph.images.png_tiff import GREY_SUFFIXES
from crossmorph.integrations.napari.layers import image_of, layer_of, warped_grid
from crossmorph.integrations.napari.reader import get_reader
from crossmorph.integrations.napari.widget import RegisterWidget
from crossmorph.transforms.warp import Warp

RNG = np.random.default_rng(0)
# What Qt needs in a window, beside EGL and GL: see docs/reference.md.
QT_LIBRARIES = ("xkbcommon-x11", "xcb-cursor", "xcb-icccm", "xcb-keysyms")
MANIFEST = resources.files("crossmorph.integrations.napari") / "napari.yaml"
SHAPE = (6, 7, 5)
# Voxel index to RAS millimetres: as the world lies, mirrored, axes exchanged (sagittal slices), turned.
AFFINES = {
    "straight": np.diag([2.0, 3.0, 4.0, 1.0]),
    "mirrored": np.array([[-2.0, 0, 0, 30], [0, -3, 0, 5], [0, 0, 4, -7], [0, 0, 0, 1]]),
    "sagittal": np.array([[0.0, 0, -4, 9], [2, 0, 0, -3], [0, -3, 0, 11], [0, 0, 0, 1]]),
    "oblique": oblique("3d"),
    "slice": np.diag([2.0, -3.0, 1.0]),
}


def drawn(name: str) -> Image:
    shape = SHAPE[: len(AFFINES[name]) - 1]
    return Image(RNG.random(shape).astype(np.float32), AFFINES[name])


def read(path: Path) -> Layer:
    (layer,) = get_reader(str(path))(str(path))
    return Layer.create(*layer)


@pytest.mark.parametrize("name", sorted(AFFINES))
def test_a_layer_lies_where_itk_sees_the_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "image.mha"
    write_image(path, drawn(name))
    layer, theirs = read(path), sitk.ReadImage(str(path))
    for index in np.ndindex(*layer.data.shape):
        place = np.array(layer.data_to_world(index))[::-1]  # x, y, z
        assert theirs.GetPixel(theirs.TransformPhysicalPointToIndex(place.tolist())) == layer.data[index]
    assert all(str(unit) in ("mm", "millimeter") for unit in layer.units)


@pytest.mark.parametrize("name", ["straight", "mirrored", "sagittal", "slice"])
def test_the_scale_is_the_size_of_a_voxel_and_nothing_is_turned(name: str) -> None:
    layer = Layer.create(*layer_of(drawn(name), "image"))
    sizes = {"straight": (4, 3, 2), "mirrored": (4, 3, 2), "sagittal": (3, 2, 4), "slice": (3, 2)}[name]
    np.testing.assert_allclose(layer.scale, sizes)
    np.testing.assert_array_equal(layer.affine.affine_matrix, np.eye(layer.ndim + 1))


@pytest.mark.parametrize("name", sorted(AFFINES))
def test_an_image_comes_back_from_its_layer(name: str) -> None:
    image = drawn(name)
    back = image_of(Layer.create(*layer_of(image, "image")))
    assert back.physical
    ours, theirs = image.to_sitk(), back.to_sitk()
    for index in np.ndindex(*image.shape):
        place = ours.TransformIndexToPhysicalPoint(index)
        assert theirs.GetPixel(theirs.TransformPhysicalPointToIndex(place)) == image.data[index]


def test_pixels_are_no_millimetres_and_micrometres_are() -> None:
    data = RNG.random((5, 6)).astype(np.float32)
    page = image_of(ImageLayer(data))
    assert not page.physical
    np.testing.assert_array_equal(page.affine, PAGE)
    np.testing.assert_array_equal(page.data, data.T)
    tiny = image_of(ImageLayer(data, scale=(500, 250), units=("um", "um")))
    np.testing.assert_allclose(tiny.spacing, (0.25, 0.5))
    unnamed = image_of(ImageLayer(data, scale=(2, 3)))
    assert unnamed.physical
    np.testing.assert_allclose(unnamed.spacing, (3, 2))


@pytest.mark.parametrize(
    ("layer", "received"),
    [
        (ImageLayer(np.zeros((4, 4, 3), np.uint8), rgb=True), "colours"),
        (ImageLayer([np.ones((8, 8)), np.ones((4, 4))], multiscale=True), "several resolutions"),
        (ImageLayer(np.zeros((2, 3, 4, 5))), "4 axes"),
        (ImageLayer(np.eye(4), units=("s", "s")), "axes in second"),
        (ImageLayer(np.ones((4, 4))), "every voxel is 1"),
    ],
)
def test_layers_that_cannot_be_registered_are_refused(layer: ImageLayer, received: str) -> None:
    with pytest.raises(InputError, match=received):
        image_of(layer)


def test_labels_and_series_are_read_as_such(tmp_path: Path) -> None:
    labels = np.zeros((8, 9, 7), np.uint8)
    labels[2:6, 3:7, 1:5] = 3
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), tmp_path / "labels.nii.gz")
    layer = read(tmp_path / "labels.nii.gz")
    assert isinstance(layer, Labels)
    assert layer.data.sum() == labels.sum()
    series = RNG.random((4, 5, 6, 3)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(series, np.diag([2.0, 2, 3, 1])), tmp_path / "series.nii.gz")
    layer = read(tmp_path / "series.nii.gz")
    assert layer.data.shape == (3, 6, 5, 4)
    np.testing.assert_array_equal(layer.scale, (1, 3, 2, 2))
    assert layer.axis_labels == ("t", "z", "y", "x")
    # Seen along z from below: x runs to the patient's left and y to the back.
    np.testing.assert_array_equal(layer.data[1], series[::-1, ::-1, :, 1].T)


def test_a_folder_is_read_where_it_holds_dicom(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    assert get_reader(str(tmp_path)) is None
    assert get_reader([str(tmp_path / "a.nii"), str(tmp_path / "b.nii")]) is None
    for number in range(3):
        slice_ = sitk.GetImageFromArray(RNG.integers(0, 99, (1, 5, 6), np.int16))
        slice_.SetOrigin((1, 2, 4.0 * number))
        for key, value in {"0008|0060": "MR", "0020|000e": "1.2.3", "0020|0032": f"1\\2\\{4 * number}"}.items():
            slice_.SetMetaData(key, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(tmp_path / f"{number}.dcm"))
        writer.Execute(slice_)
    layer = read(tmp_path)
    assert layer.data.shape == (3, 5, 6)
    np.testing.assert_allclose(layer.translate, (0, 2, 1))
    np.testing.assert_allclose(layer.scale, (4, 1, 1))


def test_the_manifest_is_valid_and_names_what_is_read() -> None:
    manifest = PluginManifest.from_file(str(MANIFEST))
    manifest.validate_imports()
    (reader,) = manifest.contributions.readers
    wanted = set(READABLE_SUFFIXES) - set(GREY_SUFFIXES)
    assert all(any(fnmatch(f"image{suffix}", pattern) for pattern in reader.filename_patterns) for suffix in wanted)
    assert {pattern.lstrip("*") for pattern in reader.filename_patterns} == wanted
    assert PluginManifest.from_distribution("crossmorph") == manifest
    assert set(yaml.safe_load(MANIFEST.read_text())["contributions"]) == {"commands", "readers", "widgets"}


def test_lines_of_the_grid_stand_where_the_moving_image_has_them() -> None:
    fixed = Image(np.zeros((48, 24), np.float32), np.diag([1.0, 1.0, 1.0]))
    moving = Image(np.zeros((10, 10), np.float32), np.diag([3.0, 5.0, 1.0]))
    still = warped_grid(Warp.identity(fixed), moving).data  # 48 mm in 24 parts: a line every 2 mm
    np.testing.assert_allclose(
        still, np.maximum(*np.meshgrid(*(1.0 - np.arange(n) % 2 for n in (48, 24)), indexing="ij"))
    )
    shift = np.zeros((2, 48, 24), np.float32)
    shift[0] = 0.25
    moved = warped_grid(Warp(shift, fixed.affine), moving).data
    np.testing.assert_allclose(moved[:, 1], np.where(np.arange(48) % 2 == 0, 0.75, 0.25))


def test_of_a_volume_an_axial_plane_shows_the_lines() -> None:
    turned = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # to y, z and x
    fixed = Image(np.zeros((4, 48, 8), np.float32), turned)
    lines = warped_grid(Warp.identity(fixed), Image(np.zeros((5, 5, 5), np.float32), np.eye(4))).data
    even = 1.0 - np.arange(8) % 2
    np.testing.assert_allclose(lines, np.broadcast_to(np.maximum(even[:4, None, None], even), fixed.shape))


def wait(widget, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not widget.start.enabled:
        assert time.monotonic() < end
        QApplication.processEvents()
        time.sleep(0.01)


@pytest.fixture
def opened(phantom: Path) -> tuple[ViewerModel, RegisterWidget, Pair]:
    """napari without its window, which needs OpenGL: two layers, of a pair, and the widget."""
    viewer = ViewerModel()
    pair = read_pairs(phantom / "test" / "pairs.csv")[0]
    for path in (pair.moving, pair.fixed):
        viewer.add_layer(read(path))
    widget = RegisterWidget(viewer)
    widget.moving.value, widget.fixed.value = viewer.layers
    return viewer, widget, pair


def test_two_layers_are_registered_as_their_files_are(opened, tmp_path: Path, monkeypatch) -> None:
    viewer, widget, pair = opened
    expected = crossmorph.register(pair.moving, pair.fixed)
    widget.run()
    wait(widget)
    moving, fixed = (layer.name for layer in list(viewer.layers)[:2])
    made = {layer.name: layer for layer in list(viewer.layers)[2:]}
    assert list(made) == [f"{moving} {what}" for what in ("translated", "moved", "expected error", "warped grid")]
    for what, layer in made.items():
        source = viewer.layers[moving if what.endswith("translated") else fixed]
        np.testing.assert_allclose(layer.extent.world, source.extent.world, atol=1e-3)
        np.testing.assert_allclose(layer.scale, source.scale)
    moved = image_of(made[f"{moving} moved"])
    there = crossmorph.resample(moved, Warp.identity(expected.moved)).data
    np.testing.assert_allclose(there, expected.moved.data, atol=2e-3 * np.ptp(expected.moved.data))
    error = crossmorph.resample(image_of(made[f"{moving} expected error"]), Warp.identity(expected.moved)).data
    shown = error > 0
    assert 0.2 < shown.mean() < 0.8  # nothing in the background
    np.testing.assert_allclose(error[shown], expected.error_map().data[shown], atol=0.02)
    assert widget.state.value.startswith("registered")
    for check in expected.checks:
        assert f": {check.name}: " in widget.checks.value
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "saved.h5"), ""))
    widget.save.clicked.emit(True)
    saved = crossmorph.read_transform(tmp_path / "saved.h5")
    np.testing.assert_allclose(saved.apply(pair.moving, "linear").data, moved.data, atol=2e-3 * np.ptp(moved.data))
    assert (tmp_path / "saved.json").exists()


def test_what_cannot_be_registered_is_said(opened) -> None:
    viewer, widget, _ = opened
    seen = []
    notification_manager.notification_ready.connect(lambda event: seen.append(event.message))
    widget.fixed.value = widget.moving.value
    widget.run()
    assert "expected two image layers" in seen[-1]
    assert widget.start.enabled
    widget.fixed.value = viewer.layers[1]
    widget.model.value = "no such model"
    widget.run()
    wait(widget)
    assert "no such model" in seen[-1]
    assert widget.state.value == "not registered"
    assert not widget.save.enabled


def test_settings_are_those_of_register(opened) -> None:
    _, widget, _ = opened
    assert widget.settings() == {"model": None, "init": "affine", "smoothness": None, "refine": "auto"}
    widget.model.value, widget.init.value, widget.smoothness.value, widget.refine.value = "any-2d", "none", 0.25, "off"
    assert widget.settings() == {"model": "any-2d", "init": "none", "smoothness": 0.25, "refine": "off"}


@pytest.mark.slow
def test_the_plugin_in_a_window_of_napari(phantom: Path, tmp_path: Path) -> None:
    if not shutil.which("xvfb-run") or not all(map(ctypes.util.find_library, QT_LIBRARIES)):
        pytest.skip("needs Xvfb and the libraries of Qt that docs/reference.md names")
    pair = read_pairs(phantom / "test" / "pairs.csv")[0]
    picture = tmp_path / "window.png"
    words = [sys.executable, str(Path(__file__).parent / "napari_window.py"), pair.moving, pair.fixed, picture]
    environment = {name: value for name, value in os.environ.items() if name != "QT_QPA_PLATFORM"}
    screen = ["xvfb-run", "-a", "-s", "-screen 0 1400x900x24"]
    done = subprocess.run([*screen, *words], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert [line.split(": ")[0] for line in done.stdout.splitlines()] == [
        "moving", "fixed", "moving translated", "moving moved", "moving expected error", "moving warped grid",
    ]  # fmt: skip
    with PIL.Image.open(picture) as window:
        middle = np.asarray(window.convert("RGB"), float)[200:600, 450:850]
    assert middle.std() > 20  # the images are drawn

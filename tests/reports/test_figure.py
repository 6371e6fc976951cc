"""The picture: whole files in three formats, and every image hung the same way however its axes are stored."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
import pytest
from matplotlib.figure import Figure
from numpy import ndarray
from scipy.ndimage import gaussian_filter

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.reports.figure import write_picture
from crossmorph.reports.planes import TILES
from crossmorph.transforms.warp import Warp

SHAPE = (40, 52)
# RAS: x grows to the patient's right, y to the front.
AFFINE = np.array([[2.0, 0.0, -40.0], [0.0, 2.5, -60.0], [0.0, 0.0, 1.0]])
MARK = (slice(5, 9), slice(40, 44))  # left and anterior


class Drawing(NamedTuple):
    """The arguments of a picture."""

    moving: Image
    fixed: Image
    warp: Warp
    translated: Image


@pytest.fixture
def drawing() -> Drawing:
    """A pair that is not symmetric in any way, with one dark mark in the fixed image."""
    rng = np.random.default_rng(0)
    texture = gaussian_filter(rng.random(SHAPE), 3)
    fixed = np.full(SHAPE, 1.0) + 0.01 * rng.random(SHAPE)
    fixed[MARK] = 0
    field = np.stack([3 * gaussian_filter(rng.standard_normal(SHAPE), 6) for _ in range(2)]) * 20
    moving = Image((texture * 100).astype(np.float32), AFFINE)
    translated = Image((texture / texture.max()).astype(np.float32), AFFINE)
    return Drawing(moving, Image(fixed.astype(np.float32), AFFINE), Warp(field, AFFINE), translated)


def stored(drawing: Drawing, flips: tuple[int, ...], swap: bool) -> Drawing:
    """The same pictures of the same world, with axes stored backwards or in the other order."""

    def affine(matrix: ndarray) -> ndarray:
        for axis in flips:
            turn = np.eye(3)
            turn[axis, axis], turn[axis, 2] = -1, SHAPE[axis] - 1
            matrix = matrix @ turn
        return matrix[:, [1, 0, 2]] if swap else matrix

    def voxels(data: ndarray) -> ndarray:
        data = np.flip(data, [data.ndim - 2 + axis for axis in flips])
        return np.ascontiguousarray(np.swapaxes(data, -1, -2) if swap else data)

    images = [Image(voxels(i.data), affine(i.affine)) for i in (drawing.moving, drawing.fixed, drawing.translated)]
    return Drawing(images[0], images[1], Warp(voxels(drawing.warp.displacement), affine(AFFINE)), images[2])


def pixels(path: Path, drawing: Drawing) -> ndarray:
    write_picture(path, *drawing, "a pair")
    with PIL.Image.open(path) as picture:
        return np.asarray(picture.convert("L")).astype(int)


@pytest.mark.parametrize(
    ("suffix", "begins"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml"), ("PNG", b"\x89PNG")]
)
def test_a_picture_is_written_whole(tmp_path, drawing, suffix, begins):
    path = tmp_path / f"look.{suffix}"
    write_picture(path, *drawing, "cost $5 to $9_x.nii")
    content = path.read_bytes()
    assert content.startswith(begins)
    assert content.rstrip().endswith({"pdf": b"%%EOF", "svg": b"</svg>"}.get(suffix, b"IEND\xaeB`\x82"))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_the_same_picture_is_the_same_bytes(tmp_path, drawing, suffix):
    first, second = tmp_path / f"1.{suffix}", tmp_path / f"2.{suffix}"
    for path in (first, second):
        write_picture(path, *drawing, "a pair")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(("flips", "swap"), [((0,), False), ((1,), False), ((0, 1), True), ((), True)])
def test_storage_does_not_show(tmp_path, drawing, flips, swap):
    reference = pixels(tmp_path / "ras.png", drawing)
    again = pixels(tmp_path / "other.png", stored(drawing, flips, swap))
    assert reference.shape == again.shape
    # A voxel on the border between two grey levels may round either way.
    assert np.mean(np.abs(reference - again) > 2) < 1e-3


def capture(monkeypatch: pytest.MonkeyPatch, path: Path, drawing: Drawing) -> Figure:
    seen = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: seen.append(self))
    write_picture(path, *drawing, "a pair")
    return seen[0]


@pytest.mark.parametrize(("flips", "swap"), [((), False), ((0,), False), ((), True)])
def test_left_is_on_the_right_and_front_is_up(tmp_path, monkeypatch, drawing, flips, swap):
    figure = capture(monkeypatch, tmp_path / "look.png", stored(drawing, flips, swap))
    axis = next(axis for axis in figure.axes if axis.get_title() == "fixed")
    figure.canvas.draw()
    page = np.asarray(figure.canvas.buffer_rgba())[..., 0]
    box = axis.get_window_extent()
    panel = page[round(len(page) - box.y1) + 2 : round(len(page) - box.y0) - 2, round(box.x0) + 2 : round(box.x1) - 2]
    down, across = (np.mean(where) for where in np.nonzero(panel < 100))
    assert down / panel.shape[0] == pytest.approx(1 - 42 / SHAPE[1], abs=0.02)
    assert across / panel.shape[1] == pytest.approx(1 - 7 / SHAPE[0], abs=0.02)
    # Millimetres across and down have one length on the page.
    assert panel.shape[0] / panel.shape[1] == pytest.approx(SHAPE[1] * 2.5 / (SHAPE[0] * 2.0), rel=0.03)


def test_a_png_is_drawn_as_it_is_seen(tmp_path, monkeypatch, drawing):
    page = np.diag([-1.0, -1.0, 1.0])
    images = [Image(i.data, page, physical=False) for i in (drawing.moving, drawing.fixed, drawing.translated)]
    png = Drawing(images[0], images[1], Warp(drawing.warp.displacement, page), images[2])
    figure = capture(monkeypatch, tmp_path / "look.png", png)
    titles = [axis.get_title() for axis in figure.axes]
    assert "warped grid, displacement in pixels" in titles
    shown = figure.axes[titles.index("fixed")].images[0].get_array()
    assert np.array_equal(np.argwhere(shown == 0), np.argwhere(png.fixed.data.T == 0))


def test_panels_show_what_they_say(tmp_path, monkeypatch, drawing):
    figure = capture(monkeypatch, tmp_path / "look.png", drawing)
    shown = {axis.get_title(): np.asarray(axis.images[0].get_array()) for axis in figure.axes if axis.get_title()}
    before, after = shown["checkerboard before"], shown["checkerboard after"]
    side = max(SHAPE) // TILES
    odd = np.indices(before.shape).__floordiv__(side).sum(0) % 2 == 1
    for board, name in ((before, "moving"), (after, "moved"), (shown["translated | fixed"], "translated, moved")):
        assert np.array_equal(board[odd], shown["fixed"][odd])
        assert np.array_equal(board[~odd], shown[name][~odd])
    length = np.linalg.norm(drawing.warp.displacement, axis=0)
    np.testing.assert_allclose(shown["warped grid, displacement in mm"], length[::-1, ::-1].T)


def test_an_image_moved_out_of_view_is_black(tmp_path, monkeypatch, drawing):
    away = drawing._replace(warp=Warp(np.full((2, *SHAPE), 1e4), AFFINE))
    figure = capture(monkeypatch, tmp_path / "look.png", away)
    shown = {axis.get_title(): np.asarray(axis.images[0].get_array()) for axis in figure.axes if axis.get_title()}
    assert not shown["moved"].any()


@pytest.mark.parametrize("name", ["look.jpg", "look", "look.nii.gz"])
def test_other_formats_are_refused(tmp_path, drawing, name):
    with pytest.raises(InputError, match=rf"{name}: unknown picture format, expected a name ending in \.png"):
        write_picture(tmp_path / name, *drawing, "a pair")
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path, drawing):
    with pytest.raises(InputError, match=r"the folder .*nowhere does not exist"):
        write_picture(tmp_path / "nowhere" / "look.png", *drawing, "a pair")

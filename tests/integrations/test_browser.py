"""The page that registers two slices, in Chromium: what it prepares, computes and shows, beside crossmorph itself."""

import base64
import functools
import http.server
import io
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from project import ROOT

import crossmorph
from crossmorph.datasets.pairs import read_pairs
from crossmorph.functional.similarity import foreground
from crossmorph.images.image import PAGE, scale_intensity
from crossmorph.images.io import read_image
from crossmorph.networks.checkpoint import load_model
from crossmorph.networks.onnx_export import Chain, Found
from crossmorph.transforms.grid import onto_grid, working_grid

PAGE_FOLDER = ROOT / "integrations" / "browser"
RUNTIME = PAGE_FOLDER / "node_modules" / "onnxruntime-web" / "dist"
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
WHOLE = 5e-4  # of images in [0, 1], nats, or voxels: the last digits of single precision, over the whole chain
SIZE = 200  # pixels of a side of the moving image

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(tmp_path_factory, exported: Path) -> Iterator[str]:
    """Of the page, built as `make browser` does, on a server of its own."""
    if not RUNTIME.is_dir():
        pytest.skip("onnxruntime-web is not there: make browser")
    folder = tmp_path_factory.mktemp("page")
    for path in [PAGE_FOLDER / "index.html", *PAGE_FOLDER.glob("*.js"), *(RUNTIME / name for name in FILES)]:
        shutil.copy(path, folder)
    shutil.copy(exported, folder / "model.onnx")
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Says nothing."""

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def files(tmp_path_factory, phantom: Path) -> tuple[Path, Path]:
    """A pair of the phantom as PNG files of two sizes."""
    folder = tmp_path_factory.mktemp("slices")
    pair = read_pairs(phantom / "test" / "pairs.csv")[1]
    made = []
    for name, path, size in (("moving", pair.moving, SIZE), ("fixed", pair.fixed, 128)):
        image = read_image(path)
        picture = PIL.Image.fromarray(np.rint(255 * scale_intensity(image.data[::-1, ::-1]).data.T).astype(np.uint8))
        made.append(folder / f"{name}.png")
        picture.resize((size, size), PIL.Image.Resampling.BICUBIC).save(made[-1])
    return made[0], made[1]


class Page:
    """The page in the browser."""

    def __init__(self, browser: Any, address: str) -> None:
        self.browser = browser
        browser.get(address)
        self.wait("Choose two images.")

    def wait(self, *beginnings: str, seconds: float = 120) -> str:
        end = time.monotonic() + seconds
        while not (text := self.browser.find_element("id", "state").text).startswith(beginnings):
            assert time.monotonic() < end, text
            time.sleep(0.1)
        return text

    def register(self, moving: Path, fixed: Path) -> str:
        for name, path in (("moving", moving), ("fixed", fixed)):
            self.browser.find_element("id", name).send_keys(str(path))
        self.browser.find_element("id", "start").click()
        return self.wait("Registered:", "FAILED:", "Not registered:")

    def array(self, name: str) -> np.ndarray:
        """What the page computed: an array of numbers."""
        return np.array(self.browser.execute_script(f"return Array.from(window.found.{name})"), np.float32)

    def canvas(self, name: str) -> np.ndarray:
        """What a canvas shows, grey levels of [0, 1], x first."""
        script = "return document.getElementById(arguments[0]).toDataURL('image/png').split(',')[1]"
        content = base64.b64decode(self.browser.execute_script(script, name))
        return np.asarray(PIL.Image.open(io.BytesIO(content)).convert("L"), np.float32).T / 255


def test_two_files_are_registered_as_crossmorph_registers_them(
    browser, address: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    page = Page(browser, address)
    assert not browser.find_element("id", "start").is_enabled()
    text = page.register(*files)
    assert text.startswith("Registered: mutual information"), text
    model = load_model("any-2d", "cpu")
    moving, fixed = (read_image(path) for path in files)

    # The images on the grid are those that crossmorph makes, but for the rounding of Gaussians.
    for name, image in (("moving", moving), ("fixed", fixed)):
        prepared = onto_grid(image.scaled(), working_grid(image, 1.5, 128, 16)).data
        np.testing.assert_allclose(page.array(f"images.{name}").reshape(128, 128), prepared, atol=2e-3)

    # The networks give what they give in PyTorch.
    given = [torch.from_numpy(page.array(f"images.{name}")).view(1, 1, 128, 128) for name in ("moving", "fixed")]
    with torch.inference_mode():
        expected = Chain(model.hierarchy)(*given, torch.tensor([0.25]))
    for name in ("displacement", "translated", "information"):
        ours = getattr(Found(*expected), name).numpy().ravel()
        np.testing.assert_allclose(page.array(name), ours, atol=WHOLE)

    # Each pixel looks where the registration of crossmorph looks, to a fraction of a pixel. It takes pixels of both
    # images to be of one size, so that it is given the moving image in the fixed image's. Axes of a page run backwards.
    alike = tmp_path / "moving.png"
    PIL.Image.open(files[0]).resize(fixed.shape, PIL.Image.Resampling.BICUBIC).save(alike)
    index = np.indices(fixed.shape)
    theirs = index - crossmorph.register(alike, files[1]).transform.displacement
    places = page.array("places").reshape(2, *fixed.shape[::-1]).swapaxes(1, 2)
    inside = foreground(torch.from_numpy(fixed.scaled().data)[None, None])[0, 0].numpy()
    apart = np.linalg.norm((places + 0.5) * fixed.shape[0] / SIZE - 0.5 - theirs, axis=0)[inside]
    assert np.median(apart) < 0.3
    assert np.percentile(apart, 95) < 1.5

    # What is shown is the moving image at these places.
    moved = crossmorph.resample(moving.scaled(), crossmorph.Warp(index - places, PAGE))
    np.testing.assert_allclose(page.canvas("moved"), moved.data, atol=0.01)
    board = page.canvas("checkerboard")
    for picture in (page.canvas("moved"), page.canvas("still")):
        assert 0.4 < (np.abs(board - picture) < 0.01).mean() < 1


def test_what_cannot_be_registered_is_said(browser, address: str, files: tuple[Path, Path], tmp_path: Path) -> None:
    PIL.Image.new("L", (64, 64), 7).save(tmp_path / "grey.png")
    (tmp_path / "text.png").write_text("no picture")
    for name, reason in (("grey.png", "one grey level"), ("text.png", "Not registered")):
        page = Page(browser, address)
        assert reason in page.register(tmp_path / name, files[1])
        assert "bad" in browser.find_element("id", "state").get_attribute("class")


def test_nothing_is_sent(browser, address: str, files: tuple[Path, Path]) -> None:
    page = Page(browser, address)
    page.register(*files)
    script = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    loaded = browser.execute_script(script)
    assert loaded
    assert all(name.startswith(address) for name in loaded)
    assert browser.get_log("browser") == []

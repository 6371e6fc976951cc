"""The page in a browser: what the user moves changes the pixels, in the dark and on a phone too, without an error."""

import base64
import io
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from examples import measures
from html_scene import SHAPE, scene
from numpy import ndarray

from crossmorph.evaluation.evaluate import METHODS
from crossmorph.evaluation.results import SCORES, Row
from crossmorph.images.image import Image
from crossmorph.quality.assessment import Limits
from crossmorph.quality.checks import check as make_checks
from crossmorph.reports.batch_page import Line, write_batch_page
from crossmorph.reports.evaluation_page import Study, tables_of
from crossmorph.reports.evaluation_page import page as evaluation_page
from crossmorph.reports.registration_page import Content, Stage
from crossmorph.reports.registration_page import page as page_of
from crossmorph.transforms.warp import Warp


class Page:
    """A page in the browser."""

    def __init__(self, browser: Any, path: Path) -> None:
        self.browser = browser
        self.drawn = 0
        browser.get(path.as_uri())
        self.settle()

    def run(self, script: str, *arguments: object) -> Any:
        return self.browser.execute_script(script, *arguments)

    def settle(self) -> None:
        """Wait until something was drawn since the last time."""
        end = time.monotonic() + 10
        while (now := int(self.run("return document.documentElement.dataset.drawn ?? 0"))) <= self.drawn:
            assert time.monotonic() < end, "the page does not draw"
            time.sleep(0.02)
        self.drawn = now

    def press(self, keys: str) -> None:
        for key in keys:
            self.browser.find_element("tag name", "body").send_keys(key)
            self.settle()

    def slide(self, selector: str, value: int) -> None:
        script = "const s = document.querySelector(arguments[0]); s.value = arguments[1];"
        self.run(script + "s.dispatchEvent(new Event('input'))", selector, value)
        self.settle()

    def pictures(self) -> list[str]:
        """What the planes show."""
        return self.run("return [...document.querySelectorAll('.film canvas')].map((canvas) => canvas.toDataURL())")

    def pixels(self, *places: tuple[float, float]) -> list[list[int]]:
        """Colours of the first plane at places in fractions of it."""
        return self.run(
            "const from = document.querySelector('.film canvas'), to = document.createElement('canvas');"
            "[to.width, to.height] = [from.width, from.height];"
            "const context = to.getContext('2d', {willReadFrequently: true});"
            "context.drawImage(from, 0, 0);"
            "return arguments[0].map(([x, y]) =>"
            " [...context.getImageData(Math.floor(x * to.width), Math.floor(y * to.height), 1, 1).data])",
            places,
        )

    def pixel(self, x: float, y: float) -> list[int]:
        return self.pixels((x, y))[0]

    def errors(self) -> list[Any]:
        return self.browser.get_log("browser")


@pytest.fixture
def volume_page(browser, tmp_path) -> Page:
    (tmp_path / "report.html").write_text(page_of(scene(3)))
    return Page(browser, tmp_path / "report.html")


def test_modes_stages_and_overlays_change_the_pixels(browser, tmp_path):
    content = scene(2)._replace(title="<script>document.title='run'</script>")
    (tmp_path / "report.html").write_text(page_of(content))
    page = Page(browser, tmp_path / "report.html")
    assert browser.title == "<script>document.title='run'</script> · crossmorph"
    seen = [page.pictures()[0]]
    for key in "bdgjjulec12t":
        page.press(key)
        seen.append(page.pictures()[0])
    assert all(before != after for before, after in itertools.pairwise(seen))
    page.press("gul")
    # Difference: blue where the fixed image is brighter, orange where the moving one is, nowhere a bare grey image.
    page.press("d")
    at = [1 - 4.5 / SHAPE[0], 1 - 17.5 / SHAPE[1]]
    red, _, blue, _ = page.pixel(*at)
    assert blue > red + 50
    places = itertools.product((0.15, 0.3, 0.45, 0.6), (0.4, 0.55, 0.7, 0.85))
    assert all(red > blue + 5 for red, _, blue, _ in page.pixels(*places))
    page.press("b")
    # In the mark of the fixed image.
    page.slide("#blend", 0)
    assert page.pixel(*at) == [255, 255, 255, 255]
    page.slide("#blend", 100)
    level = int(np.rint(content.translated.data[4, 17] * 255))
    assert page.pixel(*at)[0] == pytest.approx(level, abs=25)
    page.press("f")
    assert page.pixel(*at) == [255, 255, 255, 255]
    assert page.run("return document.querySelector('[name=stage]:checked').value") == "5"
    assert (
        page.run("return performance.getEntriesByType('resource').filter((r) => !r.name.startsWith('data:')).length")
        == 0
    )
    assert page.errors() == []


def test_sliders_clicks_and_keys_move_the_planes(browser, volume_page):
    page = volume_page
    page.press("x")
    before = page.pictures()
    page.slide("figure:nth-of-type(1) input", 0)
    after = page.pictures()
    assert after[0] != before[0]
    assert after[1:] == before[1:]
    assert page.run("return document.querySelector('figure output').textContent") == "I 30.0 mm"
    # A click takes the other planes to the mark, and switches the crosshair on.
    canvases = browser.find_elements("css selector", ".film canvas")
    page.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", canvases[0])
    box = canvases[0].size
    chain = pytest.importorskip("selenium.webdriver").ActionChains(browser)
    at = [(0.5 - 4.5 / SHAPE[0]) * box["width"], (0.5 - 17.5 / SHAPE[1]) * box["height"]]
    chain.move_to_element_with_offset(canvases[0], *map(int, at)).click().perform()
    page.settle()
    readout = page.run("return document.getElementById('readout').innerText")
    assert "4, 17, 0" in readout
    assert "L 6.0" in readout
    assert "A 10.5" in readout
    page_up, left = "\ue00e", "\ue012"
    slider = "return document.querySelector('figure input').value"
    assert page.run(slider) == "0"
    canvases[0].send_keys(page_up)
    page.settle()
    assert page.run(slider) == "1"  # towards the head is to the right
    canvases[0].send_keys(left)
    page.settle()
    assert "5, 17, 1" in page.run("return document.getElementById('readout').innerText")
    assert page.errors() == []


def discs(radius: float, labelled: float) -> Content:
    """A bright disc, a moving image that is black, and a label that is a disc too; of 64 pixels a side."""
    distance = np.hypot(*(np.indices((64, 64)) - 31.5))
    fixed, black, label = (
        Image(data.astype(np.float32), np.eye(3)) for data in (distance < radius, 0 * distance, distance < labelled)
    )
    still = Warp(np.zeros((2, 64, 64), np.float32), np.eye(3))
    stages = [Stage("fine", black)]
    return Content("a to b", fixed, stages, black, still, black, None, (), measures(), None, labels={"disc": label})


def coloured(picture: str) -> tuple[ndarray, ndarray]:
    """Distances from the middle (of 64) and angles of the pixels that are not grey."""
    levels = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))).convert("RGB"))
    down, across = (np.argwhere(np.ptp(levels.astype(int), axis=2) > 60).T + 0.5) * 64 / np.reshape(
        levels.shape[:2], (2, 1)
    ) - 32
    return np.hypot(across, down), np.arctan2(down, across)


def test_edges_and_labels_lie_where_the_images_have_them(browser, tmp_path):
    (tmp_path / "report.html").write_text(page_of(discs(14, 22)))
    page = Page(browser, tmp_path / "report.html")
    for keys, zoom, radius in (("e", 1, 14), ("bl", 1, 22), ("l", 1, None), ("e+", 1.5, 14), ("0bl", 1, 22)):
        page.press(keys)
        page.slide("#blend", 100)  # the moving image
        distances, angles = coloured(page.pictures()[0])
        if radius is None:
            assert not len(distances)
            continue
        np.testing.assert_allclose(distances, zoom * radius, atol=zoom)
        assert len(set((angles * 10).astype(int))) > 55  # all around
    assert page.errors() == []


def test_zoom_brightness_and_contrast(browser, tmp_path):
    content = scene(2)
    (tmp_path / "report.html").write_text(page_of(content))
    page = Page(browser, tmp_path / "report.html")
    page.press("b")
    page.slide("#blend", 0)
    whole = page.pictures()[0]
    dark = page.pixel(0.2, 0.8)[0]
    page.slide("#movingBrightness", 90)
    assert page.pictures()[0] == whole  # the fixed image is shown
    page.slide("#fixedBrightness", 60)
    assert page.pixel(0.2, 0.8)[0] == pytest.approx(dark + 25.5, abs=2)
    page.slide("#fixedContrast", 100)
    page.slide("#fixedBrightness", 50)
    assert page.pixel(0.2, 0.8)[0] == 0
    # The wheel with Ctrl enlarges about the pointer: what is under it stays.
    page.press("0")
    assert page.pictures()[0] == whole
    canvas = browser.find_element("css selector", ".film canvas")
    canvas.click()
    page.settle()
    page.press("x")
    at = [1 - 4.5 / SHAPE[0], 1 - 17.5 / SHAPE[1]]  # in the mark
    wheel = (
        "const [canvas, x, y, by] = arguments, box = canvas.getBoundingClientRect();"
        "canvas.dispatchEvent(new WheelEvent('wheel', {deltaY: by, clientX: box.left + x * box.width,"
        " clientY: box.top + y * box.height, ctrlKey: true, cancelable: true}))"
    )
    for _ in range(8):
        page.run(wheel, canvas, *at, -100)
        page.settle()
    assert page.run("return document.getElementById('zoom').textContent").startswith("4.0")
    around = [(at[0] + dx, at[1] + dy) for dx in (-0.1, 0.1) for dy in (-0.1, 0.1)]
    assert all(pixel[0] == 255 for pixel in page.pixels(*around))  # the mark fills it now
    canvas.send_keys("\ue014" * 20)  # the crosshair goes right, and what is seen with it
    page.settle()
    page.press("x")
    assert page.pixel(0.5, 0.5)[0] < 30
    page.press("0")
    assert page.pictures()[0] == whole
    page.press("w")
    assert page.run("return document.fullscreenElement.id") == "viewer"
    page.press("w")
    assert page.run("return document.fullscreenElement") is None
    assert page.errors() == []


def test_dark_and_narrow(browser, volume_page):
    page = volume_page
    shade = "return getComputedStyle(document.body).backgroundColor"
    shades = set()
    for scheme in ("dark", "light"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        shades.add(page.run(shade))
    assert shades == {"rgb(12, 15, 19)", "rgb(244, 245, 247)"}
    wide = page.run("return document.querySelector('.film canvas').clientWidth")
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        page.settle()
        assert page.run("return document.documentElement.scrollWidth") <= 360
        narrow = page.run("return [...document.querySelectorAll('.film')].map((f) => f.getBoundingClientRect().left)")
        assert len(set(narrow)) == 1  # below one another
        assert page.run("return document.querySelector('.film canvas').width") != wide
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert page.errors() == []


def test_the_table_of_all_methods_fits_a_wide_window(browser, tmp_path):
    scores = dict.fromkeys(SCORES, 0.123) | {"seconds": 12.345, "psnr": 25.01, "hd95_mm": 14.02}
    labels = {str(number): "grey matter" for number in range(1, 4)}
    scores |= {f"dice_{number}": 0.9 for number in labels}
    rng = np.random.default_rng(0)
    rows = [
        Row(f"p{n}", method, {name: value * rng.uniform(0.8, 1.1) for name, value in scores.items()})
        for method in METHODS
        for n in range(3)
    ]
    page = evaluation_page("all", [Study("", rows, METHODS, labels=labels)], tables_of(rows, labels, "x"), [], {})
    (tmp_path / "report.html").write_text(page)
    wide = {"width": 1440, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", wide)
    try:
        browser.get((tmp_path / "report.html").as_uri())
        found = browser.execute_script(
            "return [document.documentElement, ...document.querySelectorAll('.wide')]"
            ".map((box) => [box.scrollWidth, box.clientWidth])"
        )
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert len(found) == 3
    assert all(needed <= there for needed, there in found), found
    assert browser.get_log("browser") == []


def test_marks_of_a_batch_are_saved_and_loaded(browser, tmp_path):
    lines = []
    for name, error, mark in (("b", 0.7, "1"), ("a", 0.9, "2"), ("c 10", 0.8, "3"), ("c 9", None, "4")):
        known = measures(expected_error=error, training_distance=0.5, folds_percent=0.0)
        checks = [each._asdict() for each in make_checks(known, Limits(2.0, 3.0, 1.5, 1.5))]
        lines.append(Line(name, {"hash": mark, "measures": known.as_dict(), "checks": checks, "seconds": 1.0}, ""))
    lines[1] = Line("a", {}, "a.nii: damaged")
    write_batch_page(tmp_path / "index.html", "<i>four</i>", lines, {})
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})

    def order() -> list[str]:
        shown = "[...document.querySelectorAll('tbody tr')].filter((row) => !row.hidden).map((row) => row.dataset.pair)"
        return browser.execute_script(f"return {shown}")

    def click(selector: str) -> None:
        browser.execute_script("document.querySelector(arguments[0]).click()", selector)

    def status() -> str:
        return browser.find_element("id", "status").text

    address = (tmp_path / "index.html").as_uri()
    browser.get(address)
    assert order() == ["a", "c 9", "c 10", "b"]
    click("thead th:nth-child(1) button")
    assert order() == ["a", "b", "c 9", "c 10"]
    click("thead th:nth-child(5) button")
    assert order() == ["b", "c 10", "a", "c 9"]
    click("thead th:nth-child(5) button")
    assert order() == ["c 10", "b", "a", "c 9"]  # what has no number stays last
    click("tr[data-pair='b'] [value=accept]")
    click("tr[data-pair='a'] [value=accept]")
    click("tr[data-pair='a'] [value=reject]")
    browser.find_element("css selector", "tr[data-pair='c 9'] input").send_keys("look again")
    assert status().startswith("1 accepted, 1 rejected, 2 not marked, not saved")
    click("[name=shown][value=unmarked]")
    assert order() == ["c 10", "c 9"]
    click("#save")
    review = tmp_path / "review.json"
    end = time.monotonic() + 10
    while not review.exists():
        assert time.monotonic() < end, "nothing was saved"
        time.sleep(0.05)
    saved = json.loads(review.read_text())
    marks = {each["pair"]: (each["result"], each["mark"], each["note"]) for each in saved["marks"]}
    assert marks == {"b": ("1", "accept", ""), "a": ("", "reject", ""), "c 9": ("4", "", "look again")}
    assert (saved["format"], saved["batch"]) == ("crossmorph review 1", "<i>four</i>")

    # Loaded into the page of a later run, in which one pair was registered again.
    lines[0].result["hash"] = "5"
    write_batch_page(tmp_path / "index.html", "four", lines, {})
    browser.get(address)
    browser.find_element("id", "load").send_keys(str(review))
    end = time.monotonic() + 10
    while "loaded" not in status():
        assert time.monotonic() < end, status()
    assert status().startswith("0 accepted, 1 rejected, 3 not marked. 2 marks loaded; 1 left out")
    note = "return document.querySelector(\"tr[data-pair='c 9'] input\").value"
    assert browser.execute_script(note) == "look again"
    review.write_text("no marks")
    browser.find_element("id", "load").send_keys(str(review))
    while "no file of marks" not in status():
        assert time.monotonic() < end, status()
    assert browser.get_log("browser") == []

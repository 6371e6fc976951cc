"""The page of a batch as a file: the worst first, in plain words, with pictures; nothing in it can run or load."""

import base64
import hashlib
import io
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from examples import measures
from html_scene import Parsed

from crossmorph.images.image import Image
from crossmorph.images.io import write_image
from crossmorph.quality.assessment import Limits, Measures
from crossmorph.quality.checks import check as make_checks
from crossmorph.reports.batch_page import GAP, PAGE, THUMBNAIL, Line, keep_thumbnail, load_result, write_batch_page
from crossmorph.reports.numbers import NO_ESTIMATE

LIMITS = Limits(2.0, 3.0, 1.5, 1.5)
GOOD = measures(expected_error=0.5, training_distance=0.5, folds_percent=0.0)


def result_of(measured: Measures) -> dict[str, Any]:
    checks = [each._asdict() for each in make_checks(measured, LIMITS)]
    return {"hash": "h", "seconds": 1.25, "measures": measured.as_dict(), "checks": checks}


def line(name: str, error: str = "", **changes: object) -> Line:
    return Line(name, result_of(GOOD._replace(**changes)), error)


def page_of(folder: Path, *lines: Line) -> str:
    write_batch_page(folder / PAGE, "a batch", lines, {"command": "crossmorph register --pairs"})
    return (folder / PAGE).read_text("utf-8")


def names_in(parsed: Parsed) -> list[str | None]:
    return [attributes["data-pair"] for tag, attributes in parsed.tags if tag == "tr" and "data-pair" in attributes]


def test_the_worst_come_first_in_plain_words(tmp_path: Path) -> None:
    parsed = Parsed(
        page_of(
            tmp_path,
            line("good", expected_error=0.6),
            line("better"),
            line("folds", folds_percent=0.25),
            line("folds and stretches", folds_percent=0.25, log_jacobian=3.0),
            line("apart", "checks failed (expected error)", expected_error=4.0),
            line("apart, twice", "checks failed (..)", expected_error=4.0, mutual_information_final=0.1),
            Line("unread", {}, "b.nii.gz: damaged"),
        )
    )
    order = ["unread", "apart, twice", "apart", "folds and stretches", "folds", "good", "better"]
    assert names_in(parsed) == order
    words = " ".join(parsed.text.split())
    assert "3 of 7 pairs failed, 2 have warnings" in words
    assert "unread Failed no picture Not registered. b.nii.gz: damaged" in words
    assert "Warning: folding. The field folds in 0.250% of the grid's cells" in words
    assert "Failed: expected error. The expected error is 4 mm" in words
    assert re.search(r"better Passed no picture 0\.500 mm 0\.500 → 0\.750 0 1\.2 ", words)
    assert "All 1 pairs passed" in Parsed(page_of(tmp_path, line("a"))).text


def test_no_expected_error_of_unfamiliar_images(tmp_path: Path) -> None:
    text = page_of(tmp_path, line("odd", expected_error=2.345, training_distance=1.5), line("a", folds_percent=1.0))
    parsed = Parsed(text)
    assert NO_ESTIMATE in parsed.text
    assert "2.3" not in text
    assert "training images" in parsed.text
    assert names_in(parsed) == ["a", "odd"]  # one warning each, and an estimate that is not used for the order


def test_names_cannot_run_and_links_stay_in_the_folder(tmp_path: Path) -> None:
    nasty = '"><script>document.title="run"<b> javascript&%?#'
    (tmp_path / nasty).mkdir()
    (tmp_path / nasty / "result.json").write_text("{}")
    text = page_of(tmp_path, line(nasty), Line("gone", {}, nasty))
    parsed = Parsed(text)
    assert [tag for tag, _ in parsed.tags].count("script") == 2
    assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)
    links = [attributes["href"] for tag, attributes in parsed.tags if tag == "a"]
    quoted = "%22%3E%3Cscript%3Edocument.title%3D%22run%22%3Cb%3E%20javascript%26%25%3F%23"
    assert links == [f"{quoted}/", f"{quoted}/result.json"]  # none to what is not there
    for tag, attributes in parsed.tags:
        assert (attributes.get("src") or "data:").startswith("data:"), (tag, attributes)
    policy = next(attributes["content"] for tag, attributes in parsed.tags if "http-equiv" in attributes)
    digest = base64.b64encode(hashlib.sha256(parsed.scripts[1].encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


@pytest.mark.parametrize("dim", [2, 3])
def test_a_thumbnail_has_fixed_moved_and_both(tmp_path: Path, dim: int) -> None:
    shape, affine = (48, 32, 6)[:dim], np.diag([-1.0, -1.0, -1.0, 1.0])[-dim - 1 :, -dim - 1 :]
    for name, (here, level) in {
        "fixed": (slice(4, 12), 1),
        "moving": (slice(30, 38), 1),
        "moved": (slice(20, 28), 1),
    }.items():
        data = np.zeros(shape, np.float32)
        data[here, 8:16] = level
        write_image(tmp_path / f"{name}.nii", Image(data, affine))
    fixed, moving, moved = (tmp_path / f"{name}.nii" for name in ("fixed", "moving", "moved"))

    def bright() -> list[int]:
        """Columns of the middle row that are bright."""
        levels = np.asarray(PIL.Image.open(tmp_path / THUMBNAIL).convert("L"))
        assert levels.shape == (32, 3 * 48 + 2 * GAP)
        return [int(place) for place in np.flatnonzero(levels[12] > 128) if place < 2 * 48 + GAP]

    keep_thumbnail(tmp_path, moved, moving, fixed)
    assert bright() == [*range(4, 12), *range(48 + GAP + 20, 48 + GAP + 28)]
    before = (tmp_path / THUMBNAIL).stat().st_mtime_ns
    keep_thumbnail(tmp_path, moved, moving, fixed)
    assert (tmp_path / THUMBNAIL).stat().st_mtime_ns == before
    (tmp_path / THUMBNAIL).unlink()
    moved.unlink()  # a check failed, nothing was written
    keep_thumbnail(tmp_path, moved, moving, fixed)
    assert bright() == [*range(4, 12), *range(48 + GAP + 30, 48 + GAP + 38)]
    (tmp_path / THUMBNAIL).unlink()
    moving.write_bytes(b"damaged")
    keep_thumbnail(tmp_path, moved, moving, fixed)
    assert not (tmp_path / THUMBNAIL).exists()


def test_a_page_of_many_pairs_takes_little_memory(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (160, 480), np.uint8)
    picture = io.BytesIO()
    PIL.Image.fromarray(noise).save(picture, "WEBP", quality=80)
    lines = [line(f"pair {number:03d}") for number in range(300)]
    for each in lines:
        (tmp_path / each.name).mkdir()
        (tmp_path / each.name / THUMBNAIL).write_bytes(picture.getvalue())
    page_of(tmp_path, *lines[:1])  # templates are read once
    tracemalloc.start()
    write_batch_page(tmp_path / PAGE, "many", lines, {})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = (tmp_path / PAGE).stat().st_size
    assert size > 300 * 4 / 3 * len(picture.getvalue())
    assert peak < 0.3 * size


@pytest.mark.parametrize("content", [None, b"\xff", b"[1]", b"{"])
def test_a_result_that_cannot_be_read_is_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "result.json").write_bytes(content)
    assert load_result(tmp_path / "result.json") == {}

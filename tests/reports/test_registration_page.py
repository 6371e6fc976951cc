"""The page as a file: what its layers hold, what it says, and that nothing in it can run or load."""

import base64
import hashlib
import io
import math
import re
from typing import Any

import numpy as np
import PIL.Image
import pytest
from examples import check, measures
from html_scene import MARK, SHAPE, Parsed, header, scene
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray
from scipy import ndimage

import crossmorph
from crossmorph.images.image import Image
from crossmorph.quality.assessment import Limits, LinearMeasures, Measures, TransformMeasures
from crossmorph.quality.checks import check as make_checks
from crossmorph.reports import layers, registration_page
from crossmorph.reports.layers import average_to, lattice_within, mosaic
from crossmorph.reports.numbers import MEASURES, NO_ESTIMATE, anchor
from crossmorph.reports.registration_page import Content, Stage, content_of, page
from crossmorph.transforms.warp import Warp, resample
from crossmorph.workflows.demo import demo_pair


def unpacked(layer: dict[str, Any]) -> ndarray:
    """The levels of a layer, from its mosaic."""
    picture = PIL.Image.open(io.BytesIO(base64.b64decode(layer["source"].partition(",")[2])))
    across, down, count = (*layer["shape"], 1)[:3]
    sheet = np.asarray(picture.convert("L"))
    columns = math.ceil(math.sqrt(count))
    slices = [sheet[n // columns * down :, n % columns * across :][:down, :across].T for n in range(count)]
    return np.stack(slices, -1).reshape(layer["shape"])


def test_slices_lie_side_by_side():
    levels = np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5)
    sheet = mosaic(levels)
    assert sheet.shape == (2 * 3, 3 * 2)
    for number in range(5):
        tile = sheet[number // 3 * 3 :, number % 3 * 2 :][:3, :2]
        assert np.array_equal(tile, levels[..., number].T)
    assert not sheet[3:, 4:].any()
    assert np.array_equal(mosaic(levels[..., 0]), levels[..., 0].T)


def test_means_by_hand():
    np.testing.assert_allclose(average_to(np.array([1.0, 2.0, 4.0]), (2,)), [(1 + 2 / 2) / 1.5, (2 / 2 + 4) / 1.5])
    volume = np.random.default_rng(0).random((7, 6, 5))
    coarse = average_to(volume, (3, 6, 2))
    assert coarse.shape == (3, 6, 2)
    np.testing.assert_allclose(coarse.mean(), volume.mean())
    np.testing.assert_allclose(average_to(volume, (1, 6, 1))[0, :, 0], volume.mean((0, 2)))


@settings(deadline=None, max_examples=30)
@given(st.tuples(*[st.integers(1, 90)] * 3), st.tuples(*[st.floats(0.3, 6)] * 3), st.integers(1, 10**5))
def test_a_lattice_holds_no_more_than_it_may(shape, spacing, most):
    lattice = lattice_within(shape, spacing, most)
    assert math.prod(lattice) <= most
    assert all(1 <= fewer <= size for fewer, size in zip(lattice, shape, strict=True))


def test_thick_slices_stay_as_they_are():
    across, down, slices = lattice_within((400, 300, 20), (0.5, 0.5, 5.0), 200 * 150 * 20)
    assert 195 <= across <= 200
    assert 146 <= down <= 150
    assert slices == 20
    assert lattice_within((181, 217, 181), (1.0, 1.0, 1.0), 10**7) == (181, 217, 181)


@pytest.mark.parametrize("dim", [2, 3])
def test_however_stored_it_hangs_the_same(dim):
    plain = Parsed(page(scene(dim))).data
    fixed = unpacked(plain["pictures"][0])
    mark = np.zeros(SHAPE[:dim], bool)
    mark[MARK[:dim]] = True
    assert np.array_equal(fixed > 200, np.flip(mark))  # RAS to LPI: every axis runs the other way
    assert plain["labels"] == [["R", "L"], ["A", "P"], ["S", "I"]][:dim]
    for flips, order in [((0,), (0, 1, 2)), ((1,), (1, 0, 2)), ((0, 1), (2, 0, 1) if dim == 3 else (1, 0))]:
        other = Parsed(page(scene(dim, flips, order))).data
        assert [other[name] for name in ("labels", "shape", "start")] == [
            plain[name] for name in ("labels", "shape", "start")
        ]
        np.testing.assert_allclose(other["world"], plain["world"], atol=1e-9)
        for ours, theirs in zip(plain["pictures"] + plain["maps"], other["pictures"] + other["maps"], strict=True):
            assert np.array_equal(unpacked(ours), unpacked(theirs))
        assert other["field"] == plain["field"]


def test_a_voxel_is_named_as_in_the_file():
    content = scene(3, (0, 2), (1, 2, 0))
    data = Parsed(page(content)).data
    where = np.argwhere(unpacked(data["pictures"][0]) > 200)[0]
    found = np.array(data["voxel"]) @ [*where, 1]
    assert content.fixed.data[tuple(np.rint(found[:3]).astype(int))] == 1
    np.testing.assert_allclose(content.fixed.affine @ found, np.array(data["world"]) @ [*where, 1])


def test_stages_share_one_scale_and_the_translation_keeps_its_own():
    content = scene(2)
    data = Parsed(page(content)).data
    names = [layer["name"] for layer in data["pictures"]]
    assert names == ["fixed", "as given", "affine", "coarse", "fine", "translated"]
    means = [unpacked(layer).mean() for layer in data["pictures"]]
    assert means[1] < means[2] < means[3] < means[4]
    np.testing.assert_allclose(unpacked(data["pictures"][-1]), np.flip(content.translated.data) * 255, atol=0.51)


def test_the_field_runs_along_the_axes_of_the_view():
    content = scene(3, (1,), (2, 0, 1))
    field = Parsed(page(content)).data["field"]
    numbers = np.frombuffer(base64.b64decode(field["source"]), "<i2").reshape(3, -1) * field["scale"]
    plain = scene(3).warp.displacement
    for component, ras in zip(numbers, plain, strict=True):
        # Towards left, posterior, inferior, in millimetres; the first axis runs fastest.
        np.testing.assert_allclose(component.reshape(SHAPE, order="F"), -np.flip(ras), atol=field["scale"])


def test_a_fold_is_not_averaged_away(monkeypatch):
    monkeypatch.setattr(layers, "MAP_VOXELS", 500)
    content = scene(3)
    maps = Parsed(page(content)).data["maps"]
    assert math.prod(maps[0]["shape"]) <= 500
    assert maps[0]["low"] == -maps[0]["high"]
    folded = unpacked(maps[0]) == 0
    # The column of voxels (2, 3, :) that folds.
    x, y = (
        int((size - 0.5 - index) / size * coarse)
        for size, index, coarse in zip(SHAPE, (2, 3), folded.shape, strict=False)
    )
    assert folded[x, y].all()
    assert folded.sum() == folded.shape[2]
    assert (unpacked(maps[1]) > 0).all()


def test_a_map_is_read_back_from_its_levels():
    content = scene(2)
    layer = Parsed(page(content)).data["maps"][1]
    assert (layer["low"], layer["high"]) == (0, 3)
    levels = unpacked(layer)
    values = (levels.astype(float) - 2) / 253 * 3
    inside = levels > 1
    mark = np.zeros(SHAPE[:2], bool)
    mark[MARK[:2]] = True
    assert inside[np.flip(mark)].all()
    assert (levels[~ndimage.binary_dilation(np.flip(mark), iterations=6)] == 1).all()
    np.testing.assert_allclose(values[inside], np.flip(content.error_map.data)[inside], atol=3 / 253)


def test_letters_only_where_the_file_knows_the_patient():
    content = scene(2)
    fixed = content.fixed
    coronal = header(np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]), (*fixed.shape, 1))
    unknown = header(np.eye(4), fixed.shape, code=0)
    cases = {
        (("R", "L"), ("S", "I")): Image(fixed.data, fixed.affine, header=coronal),
        None: Image(fixed.data, fixed.affine, header=unknown),
        False: Image(fixed.data, fixed.affine, physical=False),
        (): Image(fixed.data, fixed.affine),
    }
    for expected, image in cases.items():
        labels = Parsed(page(content._replace(fixed=image))).data["labels"]
        assert labels == ([list(pair) for pair in expected] if expected else None)


def test_a_large_page_is_drawn_coarser(monkeypatch):
    rng = np.random.default_rng(0)
    shape, affine = (48, 48, 48), np.eye(4)
    noise = [Image(rng.random(shape).astype(np.float32), affine) for _ in range(4)]
    warp = Warp(np.zeros((3, *shape), np.float32), affine)
    content = Content(
        "a to b", noise[0], [Stage("fine", noise[1])], noise[2], warp, noise[3], None, (), measures(), None
    )
    monkeypatch.setattr(layers, "FIELD_NODES", 1000)
    monkeypatch.setattr(layers, "MAP_VOXELS", 1000)
    whole = page(content)
    budget = int(0.4 * len(whole))
    monkeypatch.setattr(registration_page, "BUDGET", budget)
    monkeypatch.setattr(layers, "LOSSLESS_BYTES", 100_000)
    less = page(content)
    assert 0.7 * budget < len(less) < budget
    assert "as the fixed image" in whole
    assert "a little loss" not in whole
    assert "a little loss" in less
    stored = "the fixed image has 1 \u00d7 1 \u00d7 1 mm"
    assert re.search(rf"Shown at (1\.\d+) \u00d7 \1 \u00d7 \1 mm a voxel; {stored}", less)
    data = Parsed(less).data
    assert np.prod(data["shape"]) < 48**3
    # Both cover the same field of view.
    np.testing.assert_allclose(np.multiply(data["shape"], data["spacing"]), 48)
    np.testing.assert_allclose(np.array(data["world"]) @ [*[(n - 1) / 2 for n in data["shape"]], 1], [23.5] * 3 + [1])


def test_what_the_page_says():
    parsed = Parsed(page(scene(3)))
    words = " ".join(parsed.text.split())
    assert "1 of 5 checks failed: do not use this result as it is" in words
    assert words.index("Failed: folding it folds.") < words.index("Warning: inverse consistency apart.")
    assert words.index("folding Failed it folds.") < words.index("swap consistency Passed 0.200 ≤ 1.500 fine.")
    assert "Overlap of the fields of view, after the initial affine The same once it is aligned. 0.910" in words
    assert "a right field hardly moves. 0.200 ≤ 1.500" in words
    assert re.search(r"Difference of translated and fixed image, median \(of 1\) [^0-9]* 1 [^0-9]* not a number", words)
    assert "sha256" in words
    assert "0" * 64 in words
    assert "Shown at 1 \u00d7 1.5 \u00d7 3 mm a voxel, as the fixed image" in words
    assert "Coarse 1.50 Fine 0.25 Registration Without reading, checking and writing. 1.75" in words
    assert "Moving image 28 \u00d7 24 \u00d7 10 voxels of 1 \u00d7 1.5 \u00d7 3 mm" in words
    assert "Date 2026-11-29 12:00 UTC The same with ANTs antsApplyTransforms -d 3" in words


@pytest.mark.parametrize(
    ("levels", "said"), [("passed passed", "All 2 checks passed"), ("passed warning", "1 of 2 checks warns")]
)
def test_the_verdict(levels, said):
    checks = [check("a", level, "b") for level in levels.split()]
    parsed = Parsed(page(scene(2)._replace(checks=checks, error_map=None, provenance=None)))
    assert said in parsed.text
    assert "Expected error, median" not in parsed.text
    assert "error" not in {attributes.get("id") for _, attributes in parsed.tags}
    assert "Provenance" not in parsed.text


def test_every_measure_is_shown_and_compared_where_a_check_compares_it():
    """What a page says of measures and checks is all there is to say, and its links lead somewhere."""
    assert set(MEASURES) == {*Measures._fields, *TransformMeasures._fields, *LinearMeasures._fields} - {"unit"}
    known = measures(mutual_information_refined=0.8, refine_steps=3, expected_error=1.23, training_distance=0.5,
                     mirror_ratio=0.9, translation_correlation=0.9,
                     points_initial=4.0, points_final=1.0, points_accuracy=2.0, ignored=80.0)  # fmt: skip
    checks = make_checks(known, Limits(2.0, 3.0, 1.5, 1.5))
    assert {each.name for each in checks} == {meaning.check for meaning in MEASURES.values()} - {""}
    parsed = Parsed(page(scene(2)._replace(measures=known, checks=checks)))
    ids = {attributes.get("id") for _, attributes in parsed.tags}
    links = [attributes["href"] for tag, attributes in parsed.tags if tag == "a"]
    assert set(links) >= {f"#{anchor(each.name)}" for each in checks}
    assert {link.removeprefix("#") for link in links} <= ids
    assert "1.230 ≤ 2" in " ".join(parsed.text.split())


@pytest.mark.parametrize(
    ("changes", "level"), [({"training_distance": 1.2}, "warning"), ({"training_distance": math.nan}, "warning")]
)
def test_no_expected_error_of_unfamiliar_images(changes, level):
    known = measures(expected_error=1.2345, **changes)
    checks = make_checks(known, Limits(1.0, 3.0, 1.5, 1.5))
    assert [each.level for each in checks if each.name in ("expected error", "training images")] == [level] * 2
    text = page(scene(2)._replace(measures=known, checks=checks))
    parsed = Parsed(text)
    assert "1.2" not in parsed.text.replace("1.20 of its limit", "").replace("1.200", "")
    assert parsed.text.count(NO_ESTIMATE) == 3  # in the verdict, the measures, the checks
    assert [layer["name"] for layer in parsed.data["maps"]] == ["jacobian"]
    assert "error" not in {attributes.get("id") for _, attributes in parsed.tags}
    assert f"of {len(checks) - 1} checks" in parsed.text
    familiar = measures(expected_error=1.2345, training_distance=0.9)
    checks = make_checks(familiar, Limits(1.0, 3.0, 1.5, 1.5))
    parsed = Parsed(page(scene(2)._replace(measures=familiar, checks=checks)))
    assert NO_ESTIMATE not in parsed.text
    assert "The expected error is 1.2 mm" in parsed.text
    assert [layer["name"] for layer in parsed.data["maps"]] == ["jacobian", "error"]


def test_labels_are_kept_whole_and_named(monkeypatch):
    content = scene(3, (1,), (2, 0, 1))
    (layer,) = Parsed(page(content)).data["segmentations"]
    assert layer["values"] == ["background", "7", "300"]
    shown = np.array([0, 7, 300])[unpacked(layer)]
    assert np.array_equal(np.flip(shown), scene(3).labels["labels.nii.gz"].data)
    monkeypatch.setattr(layers, "LABEL_VOXELS", 700)
    (layer,) = Parsed(page(content)).data["segmentations"]
    assert math.prod(layer["shape"]) <= 700
    assert set(unpacked(layer).flat) <= {0, 1, 2}


def test_labels_that_share_a_level_are_all_named():
    content = scene(2)
    many = np.zeros(SHAPE[:2], np.float32)
    many.flat[:300] = np.arange(300)  # background and 299 labels
    (layer,) = Parsed(page(content._replace(labels={"many": Image(many, content.fixed.affine)}))).data["segmentations"]
    assert layer["values"][:2] == ["background", "1, 256"]
    named = np.flip(unpacked(layer))
    assert layer["values"][named[tuple(np.argwhere(many == 299)[0])]] == "44, 299"


def test_nothing_is_loaded_and_all_is_labelled():
    parsed = Parsed(page(scene(3)))
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#")), (tag, attributes)
    assert "url(" not in page(scene(2))
    policy = next(attributes["content"] for tag, attributes in parsed.tags if "http-equiv" in attributes)
    digest = base64.b64encode(hashlib.sha256(parsed.scripts[1].encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    named = {attributes.get("for") for tag, attributes in parsed.tags if tag == "label"}
    for tag, attributes in parsed.tags:
        if tag == "input" and attributes["type"] == "range":
            assert attributes.get("aria-label") or attributes["id"] in named
        if tag == "canvas":
            assert attributes["aria-label"]


def test_names_cannot_run():
    nasty = '"><script>document.title="run"</script><img src=x onerror="document.title=1">'
    content = scene(2)
    content = content._replace(
        title=nasty,
        checks=[check(nasty, "failed", nasty)],
        stages=[Stage("</script>" + nasty, content.stages[0].moved)],
        measures=measures(unit=nasty),
        provenance={nasty: [nasty]},
    )
    parsed = Parsed(page(content))
    tags = [tag for tag, _ in parsed.tags]
    assert tags.count("script") == 2
    assert "img" not in tags
    assert parsed.data["pictures"][1]["name"] == "</script>" + nasty


def test_what_does_not_lie_on_the_fixed_grid_is_refused():
    content = scene(2)
    small = Image(np.ones((3, 3), np.float32), np.eye(3))
    with pytest.raises(
        ValueError, match=r"translated has shape \(3, 3\), expected that of the fixed image, \(28, 24\)"
    ):
        page(content._replace(translated=small))
    with pytest.raises(ValueError, match="error map has shape"):
        page(content._replace(error_map=small))
    with pytest.raises(ValueError, match="no stage to show"):
        page(content._replace(stages=[]))


def test_images_of_one_intensity_are_black():
    content = scene(2)
    away = Image(np.zeros(content.fixed.shape, np.float32), content.fixed.affine)
    data = Parsed(page(content._replace(stages=[Stage("as given", away)]))).data
    assert not unpacked(data["pictures"][1]).any()


def test_a_registered_pair_from_end_to_end():
    pair = demo_pair()
    result = crossmorph.register(pair.moving, pair.fixed)
    arguments = result.moving, result.fixed, result.registered, result.measures, result.checks
    content = content_of(*arguments, "moving to fixed")
    assert [stage.name for stage in content.stages][:3] == ["as given", "affine", "coarse"]
    np.testing.assert_allclose(content.stages[-1].moved.data, result.moved.data, atol=1e-4)
    nowhere = Warp(np.zeros_like(result.transform.displacement), result.fixed.affine)
    np.testing.assert_allclose(content.stages[0].moved.data, resample(result.moving, nowhere).data)
    difference = np.abs(content.stages[1].moved.data - content.stages[2].moved.data)
    assert difference.max() > 0.05 * result.moving.data.max()
    data = Parsed(page(content)).data
    assert len(data["pictures"]) == len(content.stages) + 2

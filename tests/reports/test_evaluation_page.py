"""The page of an evaluation: its numbers by hand, worst pairs first, nothing loaded, nothing run, below 5 MB."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from html_scene import Parsed
from numpy import ndarray

from crossmorph.cli import training
from crossmorph.datasets.pairs import Pair, label_names, write_pairs
from crossmorph.errors import InputError
from crossmorph.evaluation import evaluate
from crossmorph.evaluation.evaluate import METHODS, Case, Outcome, unregistered
from crossmorph.evaluation.results import Row, markdown_table, read_rows, summarise
from crossmorph.images.image import Image
from crossmorph.images.io import write_image
from crossmorph.reports import evaluation_page
from crossmorph.reports.evaluation_page import (
    DOTS,
    RANKED,
    WORST,
    Kept,
    Study,
    blocks_of,
    draw_pictures,
    evaluate_with_page,
    keep_worst,
    page,
    ranking,
    shrunk,
    tables_of,
    worst_rows,
)
from crossmorph.reports.planes import SIDE
from crossmorph.reports.plots import axis_of, plots_of
from crossmorph.reports.registration_page import BUDGET
from crossmorph.reproduction.page import command_of, write_page
from crossmorph.reproduction.tables import Found, write_table
from crossmorph.transforms.warp import Warp

DICE = {"a": (0.6, 0.7, 0.65, 0.5), "b": (0.8, 0.9, 0.95, 0.85)}


def rows_of(values: dict[str, tuple[float, ...]], score: str = "dice") -> list[Row]:
    return [Row(f"p{n}", name, {score: value}) for name, some in values.items() for n, value in enumerate(some)]


def shown(rows: list[Row], title: str = "two methods", pictures: dict | None = None) -> str:
    methods = list(dict.fromkeys(row.method for row in rows))
    table = markdown_table(summarise(rows), "Data: four pairs.")
    return page(title, [Study("", rows, methods, pictures or {})], [table], [], {"command": "crossmorph evaluate"})


def words(text: str) -> str:
    return " ".join(Parsed(text).text.split())


def picture(source: str) -> ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


def images(shape: tuple[int, ...], spacing: tuple[float, ...], moving: ndarray, fixed: ndarray) -> Case:
    """Axes towards the patient's right, back and feet: as a picture hangs."""
    affine = np.diag([*(-side for side in spacing), 1.0])
    return Case(Image(moving.astype(np.float32), affine), Image(fixed.astype(np.float32), affine))


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_the_table_has_the_numbers_and_the_caption() -> None:
    said = words(shown(rows_of(DICE)))
    assert "All 8 registrations ran" in said
    assert "a 61.2 ± 8.5 [47.7, 74.8]" in said  # mean .6125, deviation .0854, t(.975, 3) = 3.182
    assert "Data: four pairs." in said
    assert "command crossmorph evaluate" in said


def test_markdown_is_taken_apart() -> None:
    head, table, text = blocks_of("## Table 1\n\n| a | b |\n| - | -: |\n| x, y | - |\n\nMean\nof all.\n")
    assert (head.kind, head.text) == ("heading", "Table 1")
    assert table.cells == [["a", "b"], ["-", "-:"], ["x, y", "-"]]
    assert (text.kind, text.text) == ("text", "Mean\nof all.")


def test_failures_come_first_with_their_reasons() -> None:
    rows = [*rows_of(DICE), Row("p9", "b", {}, "ValueError: no")]
    said = words(shown(rows))
    assert "1 of 9 registrations failed method pair why b p9 ValueError: no" in said
    assert said.index("ValueError") < said.index("Worst pairs") < said.index("Tables") < said.index("Plots")
    assert "b (1 failed)" in said


def test_labels_have_the_names_of_the_data_set(tmp_path: Path) -> None:
    """A row for each label, in the order of their numbers; a name for each that has one."""
    scores = [{"dice": 0.5, "dice_10": 0.9, "dice_2": 0.4, "dice_3": 0.6}, {"dice": 0.7, "dice_10": 0.7, "dice_2": 0.2}]
    rows = [Row(f"p{n}", "a", one) for n, one in enumerate(scores)] + [Row("p0", "b", {"dice": 0.6, "dice_3": 0.8})]
    (tmp_path / "test").mkdir()
    described = {"name": "phantom", "labels": {"0": "background", "2": "gm", "10": "left | right"}}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    names = label_names(tmp_path / "test" / "pairs.csv")
    tables = tables_of(rows, names, "Four.")
    said = words(page("a", [Study("", rows, ["a"], labels=names)], tables, [], {}))
    assert "method Dice % a 60.0 ± 14.1 [-67.1, 187.1] b 60.0 Four." in said  # t(.975, 1) = 12.706
    assert (
        "Dice % of each label label a b grey matter 30.0 ± 14.1 - 3 60.0 80.0 left / right 80.0 ± 14.1 - Mean" in said
    )
    assert "p0 Dice % 50.0 Dice grey matter % 40.0 Dice 3 % 60.0 Dice left / right % 90.0" in said
    assert re.search(r"p1 Dice % 70\.0 Dice grey matter % 20\.0 Dice left / right % 70\.0", said)
    many = [Row("p", "a", {"dice": 0.5, **{f"dice_{n}": n / 100 for n in range(1, 60)}})]
    text = page("a", [Study("", many, ["a"])], tables_of(many, {}, ""), [], {})
    assert "p Dice % 50.0 Dice 1 % 1.0 Dice 2 % 2.0 Dice 3 % 3.0 The pairs" in words(text)


@pytest.mark.parametrize("content", [None, "no JSON", "[]", '{"labels": ["csf"]}', '{"name": "phantom"}'])
def test_labels_without_names_keep_their_numbers(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    if content:
        (tmp_path / "a" / "dataset.json").write_text(content)
    assert label_names(tmp_path / "a" / "b" / "pairs.csv") == {}


# --- worst pairs -----------------------------------------------------------------------------------------------------


def test_the_worst_pairs_of_each_method_come_worst_first() -> None:
    said = words(shown(rows_of(DICE)))
    assert re.search(r"p3 Dice % 50\.0 p0 Dice % 60\.0 p2 Dice % 65\.0 b p0 Dice % 80\.0 p3 Dice % 85\.0 p1", said)
    assert "pairs of the lowest Dice %" in said
    said = words(shown(rows_of(DICE, "mse_percent")))
    assert re.search(r"p1 MSE % 0\.700 p2 MSE % 0\.650 p0 MSE % 0\.600", said)
    assert "pairs of the highest MSE %" in said


def test_pairs_are_ranked_by_what_most_of_them_know() -> None:
    always = {"min_jacobian": 0.5}
    assert ranking([Row("p", "a", {**always, "dice": 0.5, "epe_mm": 1.0})]) == "dice"
    some = [Row("p", "a", {**always, "dice": 0.5, "epe_mm": 1.0}), Row("q", "a", {**always, "epe_mm": 1.0})]
    assert ranking(some) == "epe_mm"
    assert ranking([Row("p", "a", always)]) == "min_jacobian"


def test_pictures_are_kept_of_the_worst_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the order, those kept are those that the page will ask for."""
    drawn = []

    def draw(case: Case, _: Warp) -> dict[str, str]:
        drawn.append(case)
        return {"of": f"p{case.fixed.data.item():.0f}"}

    monkeypatch.setattr(evaluation_page, "draw_pictures", draw)
    kept: Kept = {}
    rng = np.random.default_rng(0)
    rows = [
        Row(f"p{n}", method, {score: float(rng.integers(20)) for score in RANKED if rng.random() < 0.8})
        for n in range(60)
        for method in "ab"
    ]
    for row in rows:
        mark = Image(np.full((1, 1), float(row.pair[1:])), np.eye(3))
        case = Case(mark, mark)
        keep_worst(kept, row, case, unregistered(case))
    assert len(drawn) < len(rows)
    for method in "ab":
        for score in RANKED:
            seen = kept[method, score]
            assert [pair.pair for pair in seen] == [row.pair for row in worst_rows(rows, method, score)]
            assert [pair.pictures["of"] for pair in seen] == [pair.pair for pair in seen]
            assert len(seen) == WORST


@pytest.mark.parametrize("dim", [2, 3])
def test_pictures_show_what_was_moved_in_square_pixels(dim: int) -> None:
    shape, spacing = (40, 20, 5)[:dim], (1.0, 2.0, 7.0)[:dim]
    fixed, moving = np.zeros(shape), np.zeros(shape)
    fixed[4:8, 2:4] = 1  # to the right and in front
    moving[30:34, 2:4] = 1
    case = images(shape, spacing, moving, fixed)
    displacement = np.zeros((dim, *shape), np.float32)
    displacement[0] = -26.0  # millimetres: 26 voxels along the first axis, which runs to the right
    pictures = {
        name: picture(source) for name, source in draw_pictures(case, Warp(displacement, case.fixed.affine)).items()
    }
    assert list(pictures) == ["fixed", "moved", "checkerboard"]
    for panel in pictures.values():
        assert panel.shape == (40, 40)
        assert panel[6, 6] == 255
        assert panel[20:].max() == 0
    still = picture(draw_pictures(case, unregistered(case).warp)["moved"])
    assert still[6, 6] == 0
    assert still[6, 32] == 255


def test_a_checkerboard_shows_both() -> None:
    case = images((64, 64), (1.0, 1.0), np.linspace(0, 1, 64 * 64).reshape(64, 64), np.eye(64))
    fixed, moved, both = map(picture, draw_pictures(case, unregistered(case).warp).values())
    assert np.array_equal(both[:8, :8], moved[:8, :8])
    assert np.array_equal(both[:8, 8:16], fixed[:8, 8:16])


def test_large_images_are_drawn_small_and_constant_ones_not_at_all() -> None:
    rng = np.random.default_rng(0)
    case = images((400, 200), (1.0, 1.0), rng.random((400, 200)), rng.random((400, 200)))
    assert {picture(one).shape for one in draw_pictures(case, unregistered(case).warp).values()} == {(SIDE // 2, SIDE)}
    blank = images((8, 8, 8), (1.0, 1.0, 1.0), np.zeros((8, 8, 8)), np.ones((8, 8, 8)))
    assert draw_pictures(blank, unregistered(blank).warp) == {}


# --- plots -----------------------------------------------------------------------------------------------------------


def test_places_on_an_axis() -> None:
    place, ticks = axis_of([10.0, 60.0], wide=True)
    assert [place(value) for value in (8.0, 35.0, 62.0)] == pytest.approx([0, 50, 100])
    assert ticks == [10, 20, 30, 40, 50, 60]
    place, ticks = axis_of([0.1, 10.0], wide=True)
    assert [place(value) for value in (0.1 / 1.1, 1.0, 11.0)] == pytest.approx([0, 50, 100])
    assert ticks == pytest.approx([0.1, 0.3, 1, 3, 10])
    place, ticks = axis_of([0.0, 0.1, 10.0], wide=True)
    assert (place(0.0), ticks[0]) == (0, 0)
    assert place(0.1) > 5
    assert place(10.0) < 100
    place, _ = axis_of([3.0, 3.0], wide=False)
    assert place(3.0) == pytest.approx(50)


def test_a_plot_of_many_pairs_keeps_the_extremes() -> None:
    values = np.random.default_rng(0).random(1000)
    (plot,) = plots_of(rows_of({"a": tuple(values)}))
    (strip,) = plot.strips
    assert len(strip.dots) == DOTS
    named = [what for _, _, what in strip.dots]
    assert named[0] == f"p{values.argmin()}: {100 * values.min():.4g}"
    assert named[-1] == f"p{values.argmax()}: {100 * values.max():.4g}"
    low, width = map(float, strip.box)
    pad = 0.04 * np.ptp(values)
    assert low == pytest.approx(
        100 * (np.percentile(values, 25) - values.min() + pad) / (np.ptp(values) + 2 * pad), abs=0.01
    )
    assert low < float(strip.median) < low + width


def test_times_measured_apart_are_plotted_in_the_order_of_the_rows() -> None:
    times = rows_of({"b": (0.1, 0.2), "a": (1.0, 2.0)}, "seconds")
    dice, seconds = plots_of(rows_of(DICE), times)
    assert dice.heading == "Dice %"
    assert [(strip.name, strip.value) for strip in seconds.strips] == [("a", "1.5"), ("b", "0.15")]


# --- the page --------------------------------------------------------------------------------------------------------


def test_names_cannot_run_and_nothing_is_loaded() -> None:
    nasty = '"><script>document.title="run"</script><img src=https://example.org/x onerror="document.title=1">'
    rows = [*rows_of(DICE), Row(nasty, nasty, {"dice": 0.1, "seconds": 1.0}), Row("p", nasty, {}, nasty)]
    methods = [nasty, "a"]
    study = Study(nasty, rows, methods, {(nasty, nasty): {nasty: "data:,"}})
    text = page(nasty, [study], [markdown_table(summarise(rows), nasty), f"# {nasty}"], [], {nasty: [nasty]})
    parsed = Parsed(text)
    assert "script" not in {tag for tag, _ in parsed.tags}
    assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)
    assert parsed.text.count('document.title="run"') > 10
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "srcset", "action", "data", "xlink:href"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
    policy = next(attributes["content"] for _, attributes in parsed.tags if "http-equiv" in attributes)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    plain = shown(rows_of(DICE))
    assert not re.search(r"https?://|url\(|@import", plain)


def test_the_largest_page_is_below_its_budget(tmp_path: Path) -> None:
    """Noise does not compress: every method there is, pairs of long names, and figures as large as ours."""
    rng = np.random.default_rng(0)
    noise = [Image(rng.random((500, 500)).astype(np.float32), np.eye(3)) for _ in range(2)]
    pictures = draw_pictures(Case(*noise), unregistered(Case(*noise)).warp)
    scores = ("dice", "mse_percent", "epe_mm", "seconds")
    rows = [
        Row(f"{n} {'x' * 50}", name, {score: rng.random() for score in scores}) for name in METHODS for n in range(100)
    ]
    study = Study("", rows, METHODS, {(row.method, row.pair): pictures for row in rows})
    assert len(page("all", [study], [], [], {}).encode()) < BUDGET
    figure = tmp_path / "fig2.png"
    PIL.Image.fromarray(rng.integers(0, 255, (800, 800, 3), np.uint8)).save(figure)
    halves = [study._replace(pictures={}, rows=[row._replace(method=f"{row.method}{n}") for row in rows for n in "ab"])]
    without = page("all", halves * 2, [], [], {})
    source = shrunk(figure)
    assert 1_000_000 < 4 * len(source) < BUDGET - len(without.encode())
    assert picture(source).shape[0] > 500


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    made = []
    for number in range(4):
        names = {}
        for part in ("moving", "fixed", "moving_same"):
            names[part] = tmp_path / f"{number}_{part}.nii.gz"
            write_image(names[part], Image(rng.random((24, 20)).astype(np.float32), np.eye(3)))
        made.append(Pair(f"pair {number} <b>", **names))
    write_pairs(tmp_path / "pairs.csv", made)
    return tmp_path / "pairs.csv"


def test_from_the_command_to_the_page(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def broken(case: Case) -> Outcome:
        calls.append(case)
        if len(calls) == 3:
            raise ValueError("out of luck")
        return unregistered(case)._replace(seconds=0.5)

    monkeypatch.setattr(evaluate, "runner", lambda name, *_: broken if name == "affine" else unregistered)
    output, report = pairs.with_name("results.csv"), pairs.with_name("results.html")
    with pytest.raises(SystemExit, match="3"):
        training.evaluate(pairs, output, "none,affine", report)
    printed = capsys.readouterr().out
    assert printed.endswith(f"wrote {output}\nwrote {report}\n")
    text = report.read_text("utf-8")
    said = words(text)
    assert "1 of 8 registrations failed method pair why affine pair 1 <b> ValueError: out of luck" in said
    for line in printed.splitlines():
        if line.startswith(("| none", "| affine")):
            assert " ".join(line.replace("|", " ").split()) in said
    rows = read_rows(output)
    worst = worst_rows(rows, "none", "mse_percent")
    alts = [attributes["alt"] for tag, attributes in Parsed(text).tags if tag == "img"]
    assert alts[:9] == [f"{what}, {row.pair}" for row in worst for what in ("fixed", "moved", "checkerboard")]
    assert len(alts) == 18
    assert f"list {pairs} " in said
    assert "threads 1" in said
    assert "seed of peers that draw at random 1" in said


def test_a_page_that_cannot_be_written_is_said_before_anything_runs(
    pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_page, "evaluate", lambda *_: pytest.fail("it ran"))
    output = pairs.with_name("results.csv")
    before = sorted(pairs.parent.iterdir())
    for name, message in (("report.txt", "unknown report format"), ("missing/r.html", "does not exist")):
        with pytest.raises(InputError, match=message):
            evaluate_with_page(pairs, ["none"], output, pairs.parent / name, "any-2d")
    same = pairs.with_name("same.html")
    with pytest.raises(InputError, match="is the list of pairs or the results"):
        evaluate_with_page(pairs, ["none"], same, same, "any-2d")
    assert sorted(pairs.parent.iterdir()) == before


def test_an_interruption_leaves_the_old_page(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(case: Case) -> Outcome:
        raise KeyboardInterrupt

    report = pairs.with_name("results.html")
    report.write_text("old")
    monkeypatch.setattr(evaluate, "runner", lambda *_: interrupted)
    before = sorted(pairs.parent.iterdir())
    with pytest.raises(KeyboardInterrupt):
        evaluate_with_page(pairs, ["none"], pairs.with_name("results.csv"), report, "any-2d")
    assert report.read_text() == "old"
    assert sorted(pairs.parent.iterdir()) == before


def test_a_reproduction_shows_its_tables_and_the_worst_pairs_of_ours(found: Found, tmp_path: Path) -> None:
    paths = write_table("table1", tmp_path, found)
    PIL.Image.new("RGB", (300, 200), "red").save(tmp_path / "fig2.png")
    command = command_of(["table1", "fig2"], Path("out put"), "cpu", {"brainweb": Path("bw")}, 0)
    assert command == "crossmorph reproduce table1,fig2 --budget cpu -o 'out put' --seed 0 --brainweb bw"
    report = write_page(tmp_path, [found], [*paths, tmp_path / "fig2.png"], command)
    text = report.read_text("utf-8")
    said = words(text)
    for line in (tmp_path / "table1.md").read_text().splitlines():
        if line.startswith("| ") and "--" not in line:
            assert " ".join(line.replace(" | ", " ").strip("| ").split()) in said
    assert re.search(r"Worst pairs: made up ours \(NMI\) pair-0 Dice % 70\.0 pair-1 Dice % 75\.0 pair-2", said)
    assert "VM (NMI), smoothness 0.08 pair-" not in said
    assert command in said
    (source,) = (attributes["src"] for tag, attributes in Parsed(text).tags if tag == "img")
    assert "Figure 2: registrations" in said
    assert PIL.Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).size == (300, 200)


def test_in_a_browser(browser, tmp_path: Path) -> None:
    """The keyboard changes the method, in the dark and on a phone, and nothing is loaded."""
    source = draw_pictures(case := images((9, 9), (1.0, 1.0), np.eye(9), np.eye(9)), unregistered(case).warp)
    rows = [*rows_of(DICE), *rows_of({"a": (0.1, 2.0)}, "seconds"), *rows_of(DICE, "mse_percent")]
    text = shown(rows, "x" * 200, {(row.method, row.pair): source for row in rows})
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    browser.get((tmp_path / "page.html").as_uri())
    panels = "return [...document.querySelectorAll('.panel')].map((panel) => panel.offsetHeight > 50)"
    assert browser.execute_script(panels) == [True, False]
    browser.find_element("css selector", "input[type=radio]").send_keys("\ue014")  # arrow to the right
    assert browser.execute_script(panels) == [False, True]
    loaded = "return performance.getEntriesByType('resource').filter((r) => !r.name.startsWith('data:')).length"
    assert browser.execute_script(loaded) == 0
    whole = "return [...document.querySelectorAll('.panel img')].every((image) => image.naturalWidth == 9)"
    assert browser.execute_script(whole)
    colours = (
        "return ['circle', '.median'].map((part) => { const style = getComputedStyle(document.querySelector(part));"
    )
    seen = set()
    for scheme in ("dark", "light"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        seen.add(tuple(browser.execute_script(f"{colours} return style.fill + style.stroke; }})")))
    assert len(seen) == 2
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert browser.get_log("browser") == []

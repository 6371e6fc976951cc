"""Results: rows survive their file, summaries are those of the rows, the table says what is in them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from crossmorph.errors import InputError
from crossmorph.evaluation.results import (
    MOST_LABELS,
    SCORES,
    Row,
    caption,
    markdown_table,
    read_rows,
    summarise,
    write_rows,
)
from crossmorph.system.environment import processor

ROWS = [
    Row("a", "none", {"dice": 0.25, "dice_10": 0.2, "dice_2": 0.3, "folds_percent": 0.0}),
    Row("a", "syn", {"dice": 0.5, "dice_10": 0.4, "dice_2": 0.6, "folds_percent": 1.0, "psnr": 20.0, "seconds": 9.0}),
    Row("b", "none", {}, "InputError: b.nii: is empty, 0 bytes"),
    Row("b", "syn", {"dice": 0.7, "dice_2": 0.7, "folds_percent": 0.0, "psnr": float("inf"), "seconds": 1.0}),
    Row("c", "syn", {"dice": 0.6, "folds_percent": 0.5, "psnr": 22.0, "seconds": 2.0}),
]


def test_rows_survive_their_file(tmp_path: Path) -> None:
    write_rows(tmp_path / "results.csv", ROWS)
    assert read_rows(tmp_path / "results.csv") == ROWS
    header, first, *_ = (tmp_path / "results.csv").read_text().splitlines()
    assert header == ",".join(["pair", "method", "dice", "dice_2", "dice_10", *SCORES[1:], "error"])
    assert first == "a,none,0.25,0.3,0.2,,,,,0,,,,,"


@given(
    name=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1),
    value=st.floats(-1e6, 1e6, allow_subnormal=False),
)
@settings(deadline=None, max_examples=25)
def test_any_name_and_number_survive(tmp_path_factory, name: str, value: float) -> None:
    path = tmp_path_factory.mktemp("rows") / "results.csv"
    write_rows(path, [Row(name, "syn", {"epe_mm": value}, name)])
    (row,) = read_rows(path)
    assert (row.pair, row.error) == (name, name)
    assert row.scores["epe_mm"] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(
    "content", ["moving,fixed\na,b\n", "pair,method,dice,error\na,none,high,\n", "pair,method,error\na,none,,1,2\n"]
)
def test_another_table_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=r"other\.csv: not a CSV of results"):
        read_rows(path)
    with pytest.raises(InputError, match=r"missing\.csv: No such file"):
        read_rows(tmp_path / "missing.csv")


def test_summaries_by_hand() -> None:
    none, syn = summarise(ROWS)
    assert (none.method, none.pairs, none.failed) == ("none", 2, 1)
    assert (syn.method, syn.pairs, syn.failed) == ("syn", 3, 0)
    dice = syn.scores["dice"]
    assert (dice.pairs, dice.mean, dice.median, dice.sd) == (3, *map(pytest.approx, (0.6, 0.6, 0.1)))
    assert syn.scores["seconds"].median == 2
    assert syn.scores["dice_10"].pairs == 1
    assert np.isnan(syn.scores["dice_10"].sd)
    assert np.isinf(syn.scores["psnr"].mean)
    assert "seconds" not in none.scores


def test_interval_is_that_of_scipy() -> None:
    values = np.random.default_rng(0).normal(0.7, 0.1, 24)
    (summary,) = summarise([Row(str(i), "syn", {"dice": value}) for i, value in enumerate(values)])
    found = summary.scores["dice"]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_table_by_hand() -> None:
    assert markdown_table(summarise(ROWS), "Below.").splitlines() == [
        "| method | failed |                   Dice % |   Dice 2 % | Dice 10 % |       folds % | PSNR dB |     s |",
        "| ------ | -----: | -----------------------: | ---------: | --------: | ------------: | ------: | ----: |",
        "| none   | 1 of 2 |                     25.0 |       30.0 |      20.0 | 0.000 (0.000) |       - |     - |",
        "| syn    | 0 of 3 | 60.0 ± 10.0 [35.2, 84.8] | 65.0 ± 7.1 |      40.0 | 0.500 (0.500) |     inf | 2.000 |",
        "",
        "Below.",
    ]


def test_a_table_without_failures_does_not_speak_of_them() -> None:
    table = markdown_table(summarise(ROWS[1:2]))
    assert "failed" not in table
    assert "\n\n" not in table


def test_columns_of_the_table_stand_in_the_order_of_the_file() -> None:
    rows = [Row("a", "none", {"seconds": 1.0, "dice_2": 0.5}), Row("a", "syn", {"psnr": 9.0, "dice_1": 0.5})]
    heading = markdown_table(summarise(rows)).splitlines()[0]
    assert [cell.strip() for cell in heading.split("|")[1:-1]] == ["method", "Dice 1 %", "Dice 2 %", "PSNR dB", "s"]


@pytest.mark.parametrize(("labels", "shown"), [(MOST_LABELS, MOST_LABELS), (MOST_LABELS + 1, 0)])
def test_single_labels_have_columns_while_they_are_few(labels: int, shown: int) -> None:
    rows = [Row("a", "syn", {"dice": 0.5, **{f"dice_{number}": 0.5 for number in range(labels)}})]
    below = caption("pairs.csv", rows, "any-3d", 1)
    heading = markdown_table(summarise(rows), below).splitlines()[0]
    assert heading.count("Dice") == 1 + shown
    assert (f"each of the {labels} labels is in the CSV" in below) is (shown == 0)


def test_every_score_has_a_heading() -> None:
    table = markdown_table(summarise([Row("a", "syn", dict.fromkeys(SCORES, 1.0))]))
    assert table.splitlines()[0].count("|") == len(SCORES) + 2


def test_caption_names_data_pairs_threads_model_and_hardware() -> None:
    line = caption("data/pairs.csv", ROWS, "any-2d", 1)
    assert "\n" not in line
    for part in ("data/pairs.csv, 3 pairs.", "any-2d", "1 thread.", processor(), "95%"):
        assert part in line
    assert "1 pair." in caption("data/pairs.csv", ROWS[:2], "any-2d", 2)
    assert "2 threads." in caption("data/pairs.csv", ROWS[:2], "any-2d", 2)

"""Tables: every number by hand, the paper's beside it, and what a paired comparison says."""

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest
from made_up_tables import rows
from scipy import stats

from crossmorph.errors import InputError
from crossmorph.evaluation.results import Row, read_rows
from crossmorph.reproduction.budgets import BUDGETS, find_budget
from crossmorph.reproduction.plan import Found
from crossmorph.reproduction.published import PUBLISHED
from crossmorph.reproduction.tables import as_csv, as_markdown, difference, label, methods_of, write_table


def line(markdown: str, beginning: str) -> list[str]:
    (one,) = [
        text for text in markdown.splitlines() if text.removeprefix("| ").split("  ")[0].split(" |")[0] == beginning
    ]
    return [cell.strip() for cell in one.strip("|").split("|")]


def test_a_row_holds_our_number_and_the_papers(found: Found) -> None:
    markdown = as_markdown("table1", found, methods_of("table1", found))
    half = stats.t.ppf(0.975, 2) * 0.05 / math.sqrt(3)
    ours = line(markdown, "ours (NMI)")
    assert ours == [
        "ours (NMI)",
        f"75.00 [{100 * (0.75 - half):.2f}, {100 * (0.75 + half):.2f}]",
        "70.569",
        "0.040",
        "0.059",
    ]
    assert line(markdown, "unregistered")[1:] == ["40.00 [15.16, 64.84]", "-", "-", "-"]
    assert line(markdown, "VM (NMI), smoothness 0.08")[2] == "67.075"


def test_the_caption_says_where_the_numbers_come_from(found: Found) -> None:
    markdown = as_markdown("table1", found, methods_of("table1", found))
    for words in (
        "made up, 128x128 at 1.5 mm, 3 test pairs",
        "Budget cpu",
        "5000 iterations a stage",
        "Seed 0",
        "one thread",
    ):
        assert words in markdown


def test_methods_that_were_not_run_have_no_row(found: Found) -> None:
    assert methods_of("table1", found) == ["none", "vm-nmi", "ours-nmi"]
    assert "SyN" not in as_markdown("table1", found, methods_of("table1", found))


def test_differences_are_taken_pair_by_pair() -> None:
    first, second = rows("a", (0.7, 0.75, 0.8)), rows("b", (0.6, 0.7, 0.65))[::-1]
    result = difference(first, second, "dice")
    values = np.array([0.1, 0.05, 0.15])
    assert result.statistic.mean == pytest.approx(0.1)
    assert result.t == pytest.approx(stats.ttest_rel([0.7, 0.75, 0.8], [0.6, 0.7, 0.65]).pvalue)
    assert result.wilcoxon == pytest.approx(stats.wilcoxon(values).pvalue)


def test_pairs_that_one_method_failed_on_are_left_out() -> None:
    broken = [*rows("b", (0.6, 0.7)), Row("pair-2", "b", {}, "ValueError: no")]
    assert difference(rows("a", (0.7, 0.75, 0.8)), broken, "dice").statistic.pairs == 2


@pytest.mark.parametrize(
    ("ours", "better"),
    [
        ((0.7, 0.75, 0.8), "neither"),
        ((0.72, 0.80, 0.77), "ours (NMI)"),
        ((0.5, 0.58, 0.55), "VM (NMI), smoothness 0.08"),
    ],
)
def test_the_better_one_is_named_only_where_the_interval_says_so(
    found: Found, ours: tuple[float, ...], better: str
) -> None:
    found.rows["ours-nmi"] = rows("ours-nmi", ours)
    markdown = as_markdown("table1", found, methods_of("table1", found))
    assert line(markdown, "ours (NMI) minus VM (NMI), smoothness 0.08")[3] == better


def test_a_lower_error_is_better(found: Found) -> None:
    errors = {"vm-nmi": (2.0, 2.1, 2.2), "ours-nmi": (1.0, 1.12, 1.18)}
    table2 = found._replace(
        rows={name: rows(name, values, "mse_percent") for name, values in errors.items()}, smoothness={}
    )
    markdown = as_markdown("table2", table2, methods_of("table2", table2))
    assert line(markdown, "ours (NMI) minus VM (NMI)")[3] == "ours (NMI)"


def test_the_summary_has_the_papers_numbers_on_our_scale(found: Found) -> None:
    table = {
        (row["method"], row["score"]): row
        for row in csv.DictReader(io.StringIO(as_csv("table1", found, methods_of("table1", found))))
    }
    assert float(table["ours-nmi", "dice"]["mean"]) == pytest.approx(0.75)
    assert float(table["ours-nmi", "dice"]["paper"]) == pytest.approx(0.70569)
    assert table["none", "dice"]["paper"] == ""


def test_files_hold_the_rows_that_the_table_comes_from(found: Found, tmp_path: Path) -> None:
    markdown, summary, raw = write_table("table1", tmp_path, found)
    assert {path.name for path in (markdown, summary, raw)} == {"table1.md", "table1.csv", "table1-rows.csv"}
    assert [row.scores["dice"] for row in read_rows(raw) if row.method == "ours-nmi"] == [0.7, 0.75, 0.8]


def test_translations_without_noise_stand_beside_those_with_it(found: Found) -> None:
    table3 = found._replace(
        rows={
            "cyclegan": rows("cyclegan", (20, 21, 22), "psnr"),
            "cyclegan@clean": rows("cyclegan", (25, 26, 27), "psnr"),
        }
    )
    markdown = as_markdown("table3", table3, methods_of("table3", table3))
    cells = line(markdown, "CycleGAN")
    assert cells[1].startswith("21.00")
    assert cells[2] == "24.030"
    assert cells[3].startswith("26.00")


def test_every_published_number_has_its_method() -> None:
    """8 rows of Table 1, 6 of Table 2, 4 of Table 3."""
    assert [len(PUBLISHED[table]) for table in ("table1", "table2", "table3")] == [8, 6, 4]
    assert label("vm-ncc-as-ours", {}) == "VM (NCC), smoothness 0.02"
    assert label("ours-lg-coarse", {}) == "ours (LG), coarse stage"


def test_an_unknown_budget_is_refused() -> None:
    with pytest.raises(InputError, match="'gpu': expected one of smoke, cpu, paper"):
        find_budget("gpu")


def test_the_papers_budget_is_the_papers() -> None:
    budget = BUDGETS["paper"]
    assert set(budget.iterations.values()) == {150_000}
    assert (budget.brainweb[:2], budget.brats[:2]) == ((396, 96), (1416, 294))
    assert (budget.cyclegan.width, budget.cyclegan.blocks) == (64, 9)

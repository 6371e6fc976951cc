"""The paper's evaluation at a tiny budget: from files as the sites hand them out, and from nothing."""

import csv
import shutil
import sys
from pathlib import Path

import brainweb_tree
import brats_tree
import numpy as np
import pytest
from PIL import Image as Picture

from crossmorph.datasets.brainweb.dataset import prepare_brainweb
from crossmorph.datasets.brats.dataset import prepare_brats
from crossmorph.errors import InputError
from crossmorph.evaluation.baselines.voxelmorph import voxelmorph_config
from crossmorph.evaluation.results import Row, read_rows, write_rows
from crossmorph.networks.checkpoint import read_card
from crossmorph.reproduction.budgets import BUDGETS
from crossmorph.reproduction.datasets import given, simulated
from crossmorph.reproduction.experiments import VALIDATION, best_voxelmorph, recipe, voxelmorph
from crossmorph.reproduction.plan import Context, Data, Network
from crossmorph.reproduction.run import find_items, reproduce
from crossmorph.reproduction.task_cache import DONE, Task, run_task
from crossmorph.training.config import load_config

SMOKE = BUDGETS["smoke"]
CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def brainweb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of BrainWeb's files."""
    folder = tmp_path_factory.mktemp("brainweb")
    with pytest.MonkeyPatch.context() as patch:
        brainweb_tree.use_small_grids(patch)
        brainweb_tree.write_volumes(folder / "site")
        prepare_brainweb(folder / "site", folder / "data", **SMOKE.brainweb._asdict(), noise=0, inu=0)
    return folder / "data"


@pytest.fixture(scope="module")
def brats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of BraTS' files."""
    folder = tmp_path_factory.mktemp("brats")
    prepare_brats(brats_tree.tree(folder / "site"), folder / "data", **SMOKE.brats._asdict())
    return folder / "data"


def methods(path: Path) -> set[str]:
    rows = read_rows(path)
    assert not [row.error for row in rows if row.error]
    return {row.method for row in rows}


def done(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob(f"cells/*/{DONE}")}


@pytest.mark.slow  # the readers and the tables are each in the default suite
def test_table_3_of_files_from_brainweb(brainweb: Path, tmp_path: Path) -> None:
    paths = reproduce(find_items("table3,fig4"), tmp_path, SMOKE, brainweb)
    assert [path.name for path in paths] == [
        "table3.md", "table3.csv", "table3-rows.csv", "fig4.png", "fig4.pdf", "report.html"
    ]  # fmt: skip
    assert methods(tmp_path / "table3-rows.csv") == {"cyclegan", "ours-lg", "ours-ncc", "ours-nmi", "crossmorph"}
    for path in paths:
        if path.suffix == ".png":
            assert np.ptp(np.asarray(Picture.open(path).convert("L"))) > 200
    table = (tmp_path / "table3.md").read_text()
    assert str(brainweb) in table
    assert sum("ours" in name and "score" not in name for name in done(tmp_path)) == 3


@pytest.mark.slow
def test_a_second_call_trains_what_is_missing(brainweb: Path, tmp_path: Path) -> None:
    """A network is taken away: that one alone is trained again, to the same bits, and the table is the same."""
    reproduce(find_items("table3"), tmp_path, SMOKE, brainweb)
    table = (tmp_path / "table3.md").read_text()
    first = done(tmp_path)
    (lost,) = (folder for folder in (tmp_path / "cells").iterdir() if folder.name.startswith("brainweb-ours-lg-"))
    weights = next(lost.rglob("model.safetensors")).read_bytes()
    shutil.rmtree(lost)
    reproduce(find_items("table3"), tmp_path, SMOKE, brainweb)
    again = done(tmp_path)
    assert [name for name in again if again[name] != first[name]] == [lost.name]
    assert next(lost.rglob("model.safetensors")).read_bytes() == weights
    assert (tmp_path / "table3.md").read_text() == table


@pytest.mark.slow
def test_everything_of_files_from_both_sites(brainweb: Path, brats: Path, tmp_path: Path) -> None:
    paths = reproduce(find_items("all"), tmp_path, SMOKE, brainweb, brats, jobs=2)
    assert len(paths) == 3 * 3 + 4 * 2 + 1
    published = {f"{family}-{likeness}" for family in ("vm", "ours") for likeness in ("lg", "ncc", "nmi")}
    assert methods(tmp_path / "table1-rows.csv") >= published | {
        "none",
        "affine",
        "syn",
        "syn-tuned",
        "oracle",
        "crossmorph",
    }
    assert methods(tmp_path / "table2-rows.csv") >= published | {"none", "affine", "syn", "syn-tuned", "crossmorph"}
    assert "oracle" not in methods(tmp_path / "table2-rows.csv")


@pytest.mark.slow
def test_everything_from_nothing(tmp_path: Path) -> None:
    """The simulated data sets have the true fields, and the test pairs without noise."""
    reproduce(find_items("all"), tmp_path, SMOKE, jobs=2)
    for table in ("table1", "table2"):
        with (tmp_path / f"{table}.csv").open(newline="") as stream:
            rows = {(row["method"], row["score"]): float(row["mean"]) for row in csv.DictReader(stream)}
        assert rows["oracle", "epe_mm"] == 0
        assert rows["crossmorph", "dice"] > rows["affine", "dice"] > rows["none", "dice"]
    assert "ours-nmi@clean" in methods(tmp_path / "table3-rows.csv")
    assert "ground truth without noise" in (tmp_path / "table3.md").read_text()


def test_the_recipe_is_the_papers_but_for_the_budget() -> None:
    """As configs/paper.yaml has it, to the letter."""
    data = Data("brainweb", "made up", Path("data/phantom"), (128, 128), 1.5, "0")
    ours = recipe(Context(data, BUDGETS["paper"], Path("cache"), 0), "nmi")
    letter = load_config(CONFIGS / "paper.yaml")
    for name in ("hierarchy", "weights", "stages", "similarity", "batch", "schedule", "data", "gradient_clip"):
        assert getattr(ours, name) == getattr(letter, name), name


def test_voxelmorph_is_the_coarse_stage_without_the_way_back() -> None:
    letter = load_config(CONFIGS / "paper.yaml")
    theirs = voxelmorph_config(letter, 0.08, 900)
    assert theirs.hierarchy.coarse == letter.hierarchy.coarse
    assert (theirs.weights.coarse_smoothness, theirs.weights.coarse_backward) == (0.08, 0)
    assert theirs.weights.coarse_similarity == letter.weights.coarse_similarity
    assert [getattr(theirs.stages, stage).iterations for stage in ("affine", "coarse", "translation", "fine")] == [
        0,
        900,
        0,
        0,
    ]


@pytest.mark.parametrize(("role", "column", "best"), [("brainweb", "dice", 0.08), ("brats", "mse_percent", 0.02)])
def test_smoothness_is_chosen_by_the_validation_pairs(role: str, column: str, best: float, tmp_path: Path) -> None:
    tried = []
    for smoothness, value in ((0.02, 0.5), (0.08, 0.6)):
        folder = tmp_path / f"{smoothness}"
        folder.mkdir()
        write_rows(folder / VALIDATION, [Row("pair", "vm", {column: value})])
        tried.append(Network("nmi", smoothness, Task("vm", folder, 1.0, 1, print, ())))
    assert best_voxelmorph(tried, role).smoothness == best


def test_items_are_known_and_in_order() -> None:
    assert find_items("fig5,table1,fig5") == ["fig5", "table1"]
    assert len(find_items("all")) == 7
    with pytest.raises(InputError, match="received 'table9'; expected all, or some of table1"):
        find_items("table1,table9")


def test_a_folder_that_is_no_data_set_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty.train.pairs\.csv"):
        reproduce(find_items("table1"), tmp_path / "out", SMOKE, tmp_path / "empty")
    assert not (tmp_path / "out" / "data").exists()


def test_a_missing_peer_is_told_of_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ants", None)
    with pytest.raises(InputError, match="antspyx is not installed"):
        reproduce(find_items("fig2"), tmp_path / "out", SMOKE)
    assert not (tmp_path / "out").exists()


def test_images_of_two_sizes_are_refused(tmp_path: Path, brainweb: Path) -> None:
    import nibabel

    folder = tmp_path / "data"
    shutil.copytree(brainweb, folder)
    path = next((folder / "test").glob("*moving_t2.nii.gz"))
    image = nibabel.load(path)
    nibabel.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine).to_filename(path)
    with pytest.raises(InputError, match=r"\(127, 128\), \(128, 128\).*expected one"):
        given("brainweb", folder)


def test_the_digest_is_of_every_file(tmp_path: Path) -> None:
    one = simulated("brats", SMOKE, tmp_path, 0)
    assert simulated("brats", SMOKE, tmp_path, 0).digest == one.digest
    (one.folder / "dataset.json").write_text("{}")
    assert simulated("brats", SMOKE, tmp_path, 0).digest != one.digest


def test_data_of_no_use_are_refused_before_anything_is_made(brainweb: Path, brats: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for items, folders, reason in (
        (
            "table2",
            (None, brainweb),
            "is brainweb, by its dataset.json; expected that of `crossmorph prepare brats`",
        ),
        ("table1", (brats, None), "is brats, by its dataset.json"),
        ("table1", (None, brats), "--brats .*: no requested item uses it"),
    ):
        with pytest.raises(InputError, match=reason):
            reproduce(find_items(items), output, SMOKE, *folders)
    with pytest.raises(InputError, match="is a data set; expected a folder of its own"):
        reproduce(find_items("table3"), brainweb, SMOKE)
    assert not output.exists()
    assert not (brainweb / ".lock").exists()


def test_labels_that_are_missing_are_missed_before_training(brats: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(brats, folder)
    (folder / "dataset.json").unlink()
    with pytest.raises(InputError, match="lacks moving_labels, needed for scoring"):
        given("brainweb", folder)


def test_weights_of_a_task_have_a_card_of_their_training(brainweb: Path, tmp_path: Path) -> None:
    """It is a model's card like any other."""
    network = voxelmorph(Context(given("brainweb", brainweb), SMOKE, tmp_path, 3), "ncc", 0.08)
    run_task(network.task)
    card = read_card(network.run / "model.json")
    assert card.training["seed"] == 3
    assert card.training["similarity"] == "ncc"
    assert card.training["weights"]["coarse_smoothness"] == 0.08
    assert {row.method for row in read_rows(network.task.folder / VALIDATION)} == {"vm"}

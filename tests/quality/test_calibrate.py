"""Calibration: limits and tables by hand, and a run from simulated pairs to a calibration that is used."""

import csv
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from examples import measures
from typer.testing import CliRunner

from crossmorph.cli.main import app
from crossmorph.errors import InputError
from crossmorph.networks.checkpoint import Model, load_model, shipped_models
from crossmorph.quality.calibration.calibrate import (
    DEFAULTS,
    CalibrationSettings,
    calibrate,
    calibration_target,
    run_trials,
)
from crossmorph.quality.calibration.limits import ALARMS, RARE, fit
from crossmorph.quality.calibration.predictions import Prediction, balance, pair_expected_error, predict, raised
from crossmorph.quality.calibration.simulated_pair import Setting
from crossmorph.quality.calibration.tables import roc, wilson
from crossmorph.quality.calibration.trials import Trial
from crossmorph.quality.error_model import LIMITS, PREDICTORS, SUFFIX, calibration_of, read_calibration
from crossmorph.quality.error_network import ErrorNetwork

MODULE = "crossmorph.quality.calibration.calibrate."
SHAPE = (32, 32)
SLICES = Setting((128, 128), 1.5, "train")
FILES = ("calibration.md", "calibration-validation.csv", "calibration-test.csv", "calibration.png")
FOLDED = measures(folds_percent=1.0)
FEW = CalibrationSettings(learn=8, iterations=2, validation=40, test=12, seed=1)


def trial(seed: int) -> Trial:
    """A made-up pair; the larger its measures of consistency, the larger its error. Every fifth has no true field."""
    rng = np.random.default_rng(seed)
    known = seed % 5 > 0
    voxels = float(np.exp(rng.uniform(-1, 1.2))) if known else 6.0
    near = {"swap_consistency": voxels, "shift_consistency": voxels * rng.uniform(0.9, 1.1)}
    inside = torch.ones(SHAPE, dtype=torch.bool)
    lesion = torch.zeros(SHAPE, dtype=torch.bool)
    lesion[:4, :4] = known and seed % 3 == 0
    maps = torch.from_numpy(0.1 * rng.standard_normal((9, *SHAPE))).half()
    return Trial(
        "smooth" if known else "noise",
        1.5 * voxels if known else math.inf,
        measures(**near, folds_percent=0.0, mutual_information_final=0.75 if known else 0.3),
        torch.from_numpy(rng.standard_normal((2, 4)) + 20 * (not known)).float(),
        maps,
        torch.full(SHAPE, voxels if known else math.inf).half(),
        inside,
        lesion,
        inside,
        (0.2, 0.1),
    )


def made_up(model: Model, setting: Setting, seed: int, numbers: range, kept: Path | None) -> list[Trial | None]:
    """In place of the registrations; the first test pair is refused."""
    trials: list[Trial | None] = [trial(1000 * (setting.split == "test") + number) for number in numbers]
    return [None, *trials[1:]] if setting.split == "test" else trials


@pytest.fixture(scope="module")
def predictions() -> list[Prediction]:
    torch.manual_seed(0)
    network = ErrorNetwork(2, PREDICTORS).eval().requires_grad_(False)
    trials = [trial(number) for number in range(60)]
    balance(network, trials, 0)
    rng = np.random.default_rng(0)
    return [predict(each, network, rng) for each in trials]


@pytest.fixture
def own(tmp_path) -> Path:
    """The shipped model as a user's own folder."""
    card, folder = shipped_models()["any-2d"], tmp_path / "run"
    folder.mkdir()
    (folder / "own.json").write_text(card.read_text().replace('"name": "any-2d"', '"name": "own"'))
    shutil.copy(card.with_suffix(".safetensors"), folder / "own.safetensors")
    return folder


def test_the_defaults_are_those_of_the_shipped_slices():
    command = calibration_of(load_model("any-2d")).origin["command"]
    numbers = [f"--{name} {value}" for name, value in DEFAULTS._asdict().items() if value is not None]
    assert " ".join([*numbers, "--anatomies anatomies --scans scans"]) in command


def test_balance_makes_the_mean_over_voxels_that_of_the_errors(predictions):
    voxels = torch.cat([each.voxels for each in predictions]).clamp_max(6)
    assert float(voxels[:, 1].mean()) == pytest.approx(float(voxels[:, 0].mean()), rel=0.02)


def test_voxels_are_of_tissue_and_lesion_and_only_where_the_true_field_is_known(predictions):
    """60 voxels in tissue and all 16 of the lesion."""
    counts = [(len(each.voxels), int(each.voxels[:, 2].sum())) for each in predictions]
    assert counts[0] == (0, 0)
    assert counts[1] == (60, 0)
    assert counts[3] == (76, 16)


def test_limits_are_rare_among_good_pairs(predictions):
    network = ErrorNetwork(2, PREDICTORS)
    found = fit(predictions, network, {})
    good = [each for each in predictions if not each.trial.bad]
    swap = np.quantile([each.trial.measures.swap_consistency for each in good], RARE) / 1.5
    assert found.limits["swap_consistency"] == pytest.approx(swap)
    assert set(found.limits) == set(LIMITS)
    assert found.limits["expected_error_failed"] >= 1.5 * found.limits["expected_error"]
    alarms = sum(bool(raised(each, found)) for each in good)
    assert alarms <= ALARMS * len(good) + 3
    assert all(raised(each, found) for each in predictions if not math.isfinite(each.trial.error))
    expected = [1.5 * pair_expected_error(each, found) for each in good]
    assert np.corrcoef(expected, [each.trial.error for each in good])[0, 1] > 0.9


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (slice(0, None, 5), "9 pairs are too few to set limits"),  # none of them was registered
        (slice(0, 1), "0 pairs are too few"),
    ],
)
def test_too_few_good_pairs_are_refused(predictions, chosen, words):
    few = [each._replace(trial=each.trial._replace(measures=FOLDED)) for each in predictions[chosen]]
    with pytest.raises(InputError, match=words):
        fit(few, ErrorNetwork(2, PREDICTORS), {})


def test_a_model_without_good_pairs_is_refused(predictions):
    bad = [each for each in predictions if each.trial.bad]
    with pytest.raises(InputError, match=f"0 of {len(bad)} pairs were registered within 2 mm, so that limits cannot"):
        fit(bad, ErrorNetwork(2, PREDICTORS), {})


def test_no_curve_without_both_good_and_bad_pairs(predictions):
    found = fit(predictions, ErrorNetwork(2, PREDICTORS), {})
    assert len(roc(predictions, found).splitlines()) > 2
    assert len(roc([each for each in predictions if each.trial.bad], found).splitlines()) == 2


def test_intervals_of_shares():
    """95 of 100: 0.888 to 0.978 (Wilson)."""
    assert wilson(95, 100) == pytest.approx((0.888, 0.978), abs=1e-3)
    assert wilson(0, 50)[0] == pytest.approx(0, abs=1e-12)
    assert all(map(math.isnan, wilson(0, 0)))


def test_where_the_calibration_goes(tmp_path, own):
    shipped, mine = load_model("any-2d"), load_model(str(own))
    weights = shipped_models()["any-2d"].parent
    assert calibration_target(shipped, tmp_path, False) == tmp_path / f"any-2d{SUFFIX}"
    assert calibration_target(shipped, tmp_path, True) == weights / f"any-2d{SUFFIX}"
    assert calibration_target(mine, tmp_path, False) == own / f"own{SUFFIX}"
    assert calibration_target(mine._replace(path=None), tmp_path, False) == tmp_path / f"own{SUFFIX}"


def test_a_folder_of_ones_own_is_calibrated_and_then_checked_by_it(tmp_path, own, monkeypatch):
    monkeypatch.setattr(MODULE + "run_trials", made_up)
    model = load_model(str(own))
    done = calibrate(model, tmp_path / "a" / "b", FEW)
    assert done.files == (own / f"own{SUFFIX}", *(tmp_path / "a" / "b" / name for name in FILES))
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == set(FILES)
    found = calibration_of(load_model(str(own)))
    assert found.limits == done.calibration.limits
    assert (
        found.origin["command"]
        == "crossmorph calibrate own --learn 8 --iterations 2 --validation 40 --test 12 --seed 1"
    )
    text = (tmp_path / "a" / "b" / "calibration.md").read_text()
    assert text == done.text
    assert "## validation, 40 pairs, 0 refused" in text
    assert "## test, 11 pairs, 1 refused" in text
    with (tmp_path / "a" / "b" / "calibration-test.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 11
    assert float(rows[0]["swap_consistency"]) == pytest.approx(trial(1001).measures.swap_consistency, rel=1e-3)
    assert {row["checks"].partition(":")[0] for row in rows if row["error_mm"] == "inf"} == {"expected error"}
    assert "refine_steps" not in rows[0]


def test_the_network_of_another_calibration_is_used(tmp_path, own, monkeypatch):
    """All of it but the constant, which is balanced anew."""
    monkeypatch.setattr(MODULE + "run_trials", made_up)
    monkeypatch.setattr(MODULE + "train", None)
    other = shipped_models()["any-2d"].with_name(f"any-2d{SUFFIX}")
    done = calibrate(load_model(str(own)), tmp_path, FEW, network=other)
    assert done.calibration.origin["command"].endswith("--network FILE")
    found, given = (each.network.state_dict() for each in (done.calibration, read_calibration(other)))
    assert {name for name, tensor in found.items() if not torch.equal(tensor, given[name])} == {"unet.output.bias"}


def test_a_folder_that_cannot_be_written_to_shows_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(MODULE + "run_trials", None)
    (tmp_path / "calibration.md").mkdir()
    with pytest.raises(InputError, match=r"calibration\.md: is a folder"):
        calibrate(load_model(), tmp_path, FEW)
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.md"]


def test_nothing_is_written_where_the_model_registers_nothing(tmp_path, own, monkeypatch):
    monkeypatch.setattr(MODULE + "run_trials", lambda *arguments: [None for _ in arguments[3]])
    network = shipped_models()["any-2d"].with_name(f"any-2d{SUFFIX}")
    with pytest.raises(InputError, match="model own refused all 40 pairs of split validation"):
        calibrate(load_model(str(own)), tmp_path / "out", FEW, network=network)
    assert not list((tmp_path / "out").iterdir())
    assert {path.name for path in own.iterdir()} == {"own.json", "own.safetensors"}


def test_the_command_prints_tables_and_files(tmp_path, monkeypatch):
    monkeypatch.setattr(MODULE + "run_trials", made_up)
    words = ["calibrate", "any-2d", "-o", str(tmp_path), "--learn", "8", "--iterations", "1", "--validation", "40"]
    done = CliRunner().invoke(app, [*words, "--test", "12", "--seed", "3"])
    assert done.exit_code == 0
    assert "| pairs | number | a check raised |" in done.output
    assert done.output.splitlines()[-5:] == [f"wrote {tmp_path / name}" for name in (f"any-2d{SUFFIX}", *FILES)]
    assert read_calibration(tmp_path / f"any-2d{SUFFIX}").origin["command"].endswith("--test 12 --seed 3")


def test_trials_are_kept_and_reused(tmp_path, monkeypatch):
    model = load_model()
    (first,) = run_trials(model, SLICES, 5, range(3, 4), tmp_path)
    assert first.maps.shape == (9, *first.errors.shape)
    assert first.features.shape == (2, 96)
    assert first.measures.expected_error is None
    monkeypatch.setattr("crossmorph.quality.calibration.calibrate.run_trial", None)
    (again,) = run_trials(model, SLICES, 5, range(3, 4), tmp_path)
    assert again.measures == first.measures
    assert torch.equal(again.errors, first.errors)


@pytest.mark.slow
def test_a_few_real_pairs_make_a_calibration(tmp_path, own):
    """From simulation to file, without anything made up."""
    done = calibrate(load_model(str(own)), tmp_path, CalibrationSettings(8, 4, 30, 6, 5))
    found = read_calibration(done.files[0])
    assert calibration_of(load_model(str(own))).limits == found.limits
    assert 0.5 < found.limits["expected_error"] < 6
    assert all(path.stat().st_size for path in done.files)

"""Checks: every limit has its two sides, and a message says what was found and what to try."""

import math

import pytest

from crossmorph.networks.checkpoint import load_model
from crossmorph.quality.assessment import Check, Limits, Measures, failures, level_text
from crossmorph.quality.checks import (
    MAX_INCONSISTENCY,
    MAX_STRETCH,
    MIN_KEPT,
    MIN_OVERLAP,
    NOT_CALIBRATED,
    calibrated_limits,
    check,
)
from crossmorph.quality.error_model import calibration_of
from crossmorph.registration.register_images import RejectedStage

PLAIN = Measures(
    unit="mm",
    overlap_before=1.0,
    overlap=1.0,
    mutual_information_before=0.2,
    mutual_information_initial=0.25,
    mutual_information_coarse=0.3,
    mutual_information_fine=0.4,
    mutual_information_refined=None,
    mutual_information_final=0.4,
    folds_percent=0.0,
    min_jacobian=0.5,
    log_jacobian=0.5,
    inverse_consistency_median=0.01,
    inverse_consistency=0.1,
    swap_consistency_quartile=0.2,
    swap_consistency=0.3,
    shift_consistency_quartile=0.1,
    shift_consistency=0.2,
    local_correlation=0.6,
    residual=0.05,
    rotation_ratio=0.7,
    rejected_stages=0,
    working_spacing=1.5,
    mirror_ratio=0.9,
    translation_correlation=0.9,
)
GOOD = PLAIN._replace(expected_error=0.8, training_distance=0.5)
LIMITS = Limits(expected_error=1.8, expected_error_failed=4.0, swap_consistency=3.0, shift_consistency=2.5)
NAMES = [
    "expected error",
    "mutual information",
    "orientation",
    "left and right",
    "translation",
    "swap consistency",
    "shift consistency",
    "training images",
    "folding",
    "stretch",
    "inverse consistency",
    "overlap",
    "stages",
]
NAN = float("nan")


def named(checks: tuple[Check, ...]) -> dict[str, Check]:
    return {each.name: each for each in checks}


def test_good_measures_pass_every_check():
    checks = check(GOOD, LIMITS)
    assert [each.name for each in checks] == NAMES
    assert {each.level for each in checks} == {"passed"}
    assert failures(checks) == []


def test_values_and_limits_are_those_of_the_measures():
    """By hand: 0.8 of 0.2 nats, ``exp(0.5)`` of ``exp(2)``, one voxel of 1.5 mm."""
    found = {each.name: (each.value, each.limit) for each in check(GOOD, LIMITS)}
    assert found["expected error"] == (0.8, 1.8)
    assert found["mutual information"] == (0.4, pytest.approx(0.16))
    assert found["orientation"] == (0.7, 1.0)
    assert found["swap consistency"] == (0.3, 3.0)
    assert found["shift consistency"] == (0.2, 2.5)
    assert found["training images"] == (0.5, 1.0)
    assert found["folding"] == (0.0, 0.0)
    assert found["stretch"] == (pytest.approx(1.64872), pytest.approx(7.38906))
    assert found["inverse consistency"] == (0.1, 1.5)
    assert found["overlap"] == (1.0, 0.6)
    assert found["stages"] == (0.0, 0.0)


def test_a_failed_check_gives_the_limit_of_its_failure():
    checks = named(check(GOOD._replace(expected_error=5.0, rotation_ratio=1.2), LIMITS))
    assert checks["expected error"][1:4] == ("failed", 5.0, 4.0)
    assert checks["orientation"][1:4] == ("failed", 1.2, 1.1)
    assert failures(tuple(checks.values())) == ["expected error", "orientation"]


def test_a_large_expected_error_fails_however_strange_the_images_are():
    checks = check(GOOD._replace(expected_error=4.01, training_distance=1.0), LIMITS)
    levels = {each.name: each.level for each in checks}
    assert levels["expected error"] == "failed"
    assert levels["training images"] == "warning"


def test_left_and_right_are_not_compared_of_slices_and_a_translation_that_was_not_measured_is_not_judged():
    names = [each.name for each in check(GOOD._replace(mirror_ratio=None, translation_correlation=None), LIMITS)]
    assert names == [name for name in NAMES if name not in ("left and right", "translation")]


def test_refining_is_advised_only_where_it_was_not_done():
    large = GOOD._replace(expected_error=2.0)
    advice = named(check(large, LIMITS))["expected error"].message
    again = named(check(large._replace(refine_steps=20), LIMITS))["expected error"].message
    assert "--refine on" in advice
    assert "--refine" not in again
    assert "--init" in again


def test_a_model_without_calibration_says_so():
    checks = named(check(PLAIN, None))
    missing = checks.pop(NOT_CALIBRATED)
    assert missing[:4] == (NOT_CALIBRATED, "warning", None, None)
    assert "crossmorph calibrate" in missing.message
    assert {each.level for each in checks.values()} == {"passed"}
    assert "expected error" not in checks


def test_without_calibration_some_limits_are_not_known():
    """Whatever the measure: the check passes, with its value, and says that no limit is known."""
    checks = named(check(PLAIN._replace(swap_consistency=99.0, shift_consistency=NAN), None))
    for name in ("swap consistency", "shift consistency"):
        assert checks[name].level == "passed"
        assert checks[name].limit is None
        assert "no limit known for this model" in checks[name].message
        assert level_text(checks[name]) == "no limit"
    assert checks["swap consistency"].value == 99.0
    assert checks["training images"][1:4] == ("passed", None, None)
    assert "No limit known" in checks["training images"].message
    assert level_text(checks["training images"]) == "no limit"
    assert level_text(checks["folding"]) == "passed"
    assert level_text(checks[NOT_CALIBRATED]) == "warning"


@pytest.mark.parametrize(
    ("change", "name", "level", "words"),
    [
        ({"expected_error": 1.81}, "expected error", "warning", "error is 1.8 pixels (median over the foreground)"),
        ({"expected_error": 1.81}, "expected error", "warning", "limit 1.8: inspect the result"),
        ({"expected_error": 4.01}, "expected error", "failed", "error is 4 pixels (median over the foreground); the"),
        ({"expected_error": NAN}, "expected error", "failed", "not aligned"),
        ({"mutual_information_final": 0.159}, "mutual information", "failed", "is 0.159 after registration: it fell"),
        ({"mutual_information_final": NAN}, "mutual information", "failed", "next to nothing in common"),
        (
            {"rotation_ratio": 1.0},
            "orientation",
            "warning",
            "1.00 times the mutual information: one image may be upside",
        ),
        ({"mirror_ratio": 1.01}, "left and right", "warning", "1.01 times the mutual information"),
        ({"mirror_ratio": 1.02}, "left and right", "failed", "may name left what is right"),
        ({"translation_correlation": 0.69}, "translation", "warning", "correlate with 0.69 over the foreground"),
        ({"translation_correlation": 0.49}, "translation", "failed", "do not use the translated image"),
        ({"translation_correlation": NAN}, "translation", "failed", "expected at least 0.5"),
        (
            {"mutual_information_final": 0.04},
            "mutual information",
            "failed",
            "next to",
        ),
        ({"rotation_ratio": 1.1}, "orientation", "failed", "1.10 times the mutual information"),
        ({"rotation_ratio": NAN}, "orientation", "failed", "upside down"),
        (
            {"swap_consistency": 3.01},
            "swap consistency",
            "warning",
            "by 3.01 pixels (median), limit 3.00: the result is",
        ),
        ({"swap_consistency": NAN}, "swap consistency", "warning", "limit 3.00"),
        (
            {"shift_consistency": 2.51},
            "shift consistency",
            "warning",
            "by 2.51 pixels (median), limit 2.50: the result",
        ),
        ({"shift_consistency": NAN}, "shift consistency", "warning", "limit 2.50"),
        ({"training_distance": 1.01}, "training images", "warning", "1.01 of its limit: the images are noisier"),
        ({"training_distance": NAN}, "training images", "warning", "of its limit"),
        ({"folds_percent": 0.01}, "folding", "warning", "folds in 0.010% of the grid's cells: do not use it there"),
        ({"folds_percent": NAN}, "folding", "warning", "do not use it"),
        ({"log_jacobian": 2.01}, "stretch", "warning", "factor of up to 7.5 (99th percentile), limit 7.4"),
        ({"log_jacobian": NAN}, "stretch", "warning", "limit 7.4"),
        ({"inverse_consistency": 1.51}, "inverse consistency", "warning", "1.51 pixels (99th percentile), limit 1.50"),
        ({"inverse_consistency": NAN}, "inverse consistency", "warning", "limit 1.50"),
        (
            {"overlap_before": 0.59},
            "overlap",
            "warning",
            "covers 59% of the fixed image's field of view by its header, 1",
        ),
        ({"overlap_before": NAN}, "overlap", "warning", "same anatomy"),
        ({"rejected_stages": 1}, "stages", "warning", "Rejected stages: 1;"),
    ],
)
def test_each_measure_beyond_its_limit_is_found(change, name, level, words):
    checks = named(check(GOOD._replace(unit="pixels", **change), LIMITS))
    found = checks.pop(name)
    assert found.level == level
    assert words in found.message
    value = math.exp(change["log_jacobian"]) if name == "stretch" else next(iter(change.values()))
    assert found.value == pytest.approx(value, nan_ok=True)
    assert {each.level for each in checks.values()} == {"passed"}


def test_the_limits_themselves_pass():
    edge = GOOD._replace(
        mutual_information_final=MIN_KEPT * GOOD.mutual_information_before,
        overlap_before=MIN_OVERLAP,
        log_jacobian=MAX_STRETCH,
        inverse_consistency=MAX_INCONSISTENCY * GOOD.working_spacing,
    )
    assert {each.level for each in check(edge, LIMITS)} == {"passed"}


def test_stages_that_gained_nothing_are_named_and_no_warning():
    left_out = [RejectedStage(name, "initial", "no gain", 0.6, 0.5) for name in ("coarse", "fine")]
    found = named(check(GOOD, LIMITS, left_out))["stages"]
    assert (found.level, found.message) == ("passed", "Stages that gained nothing were left out: coarse, fine.")


def test_rejected_stages_are_named():
    rejected = [
        RejectedStage("fine", "coarse", "mutual information", 1.5, 1.0),
        RejectedStage("refined", "coarse", "folds", 0.0, 0.2),
    ]
    found = named(check(GOOD._replace(rejected_stages=2), LIMITS, rejected))["stages"]
    assert found.value == 2.0
    assert "fine (mutual information fell; the coarse field is used)" in found.message
    assert "refined (it added folds; the coarse field is used)" in found.message


def test_limits_of_a_calibration_are_lengths_of_the_working_grid():
    calibration = calibration_of(load_model())
    limits = calibrated_limits(calibration, 1.5)
    assert limits._asdict() == {name: 1.5 * calibration.limits[name] for name in Limits._fields}

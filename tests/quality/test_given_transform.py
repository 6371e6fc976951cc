"""Measures and checks of a transform that somebody else made: limits have two sides, and the sums are right."""

import numpy as np
import pytest
import torch
from examples import check

from crossmorph.functional import spatial
from crossmorph.images.image import Image
from crossmorph.networks.checkpoint import load_model
from crossmorph.quality.assessment import Check, Limits, TransformMeasures, failures
from crossmorph.quality.given_transform import (
    covers,
    folds,
    moved_onto_working_grid,
    transform_checks,
)
from crossmorph.transforms.composition import as_warp
from crossmorph.transforms.warp import Warp, from_voxel_displacement

GOOD = TransformMeasures(
    unit="mm",
    expected_error=0.8,
    remaining_displacement=0.6,
    remaining_displacement_95=1.5,
    own_expected_error=0.8,
    training_distance=0.5,
    overlap_before=1.0,
    overlap=1.0,
    mutual_information_before=0.5,
    mutual_information_final=0.7,
    mutual_information_own=0.71,
    local_correlation=0.5,
    rotation_ratio=0.7,
    folds_percent=0.0,
    min_jacobian=0.5,
    log_jacobian=0.5,
    working_spacing=1.5,
    mirror_ratio=0.9,
)
LIMITS = Limits(expected_error=2.0, expected_error_failed=4.0, swap_consistency=3.0, shift_consistency=2.5)
NAMES = ["expected error", "own registration", "mutual information", "orientation", "left and right"]
NAMES += ["folding", "stretch", "overlap"]
NAN = float("nan")


def checks(own: tuple[Check, ...] = (), transformed: bool = True, **changes: object) -> dict[str, Check]:
    return {each.name: each for each in transform_checks(GOOD._replace(**changes), LIMITS, own, transformed)}


def test_good_measures_pass_every_check() -> None:
    found = checks()
    assert list(found) == NAMES
    assert {each.level for each in found.values()} == {"passed"}
    assert found["expected error"][2:4] == (0.8, 2.0)
    assert found["mutual information"][2:4] == (0.7, 0.4)


def test_without_a_transform_some_checks_mean_nothing() -> None:
    assert list(checks(transformed=False)) == [*NAMES[:2], *NAMES[3:5], NAMES[-1]]


@pytest.mark.parametrize(
    ("changes", "name", "level", "words"),
    [
        # The image still moves by 2.5 mm, but what moves it is expected to be off by 1 mm itself.
        ({"expected_error": 2.5, "remaining_displacement": 2.5, "own_expected_error": 1.0}, "expected error", "warning",
         "moves the image by a further 2.5 mm"),
        # At least 3.1 - 1 mm: above the limit, however that registration errs.
        ({"expected_error": 3.1, "remaining_displacement": 3.1, "own_expected_error": 1.0}, "expected error", "failed",
         "the images are not aligned"),
        ({"expected_error": NAN, "remaining_displacement": NAN}, "expected error", "failed", "not aligned"),
        ({"expected_error": 3.0, "own_expected_error": 3.0}, "expected error", "warning", "inspect the result"),
        ({"expected_error": 4.1, "own_expected_error": 4.1}, "expected error", "failed", "cannot be registered"),
        ({"expected_error": 4.1, "own_expected_error": 4.1, "training_distance": 1.0}, "expected error", "failed",
         "cannot be registered"),
        ({"mirror_ratio": 1.01}, "left and right", "warning", "name left what is right"),
        ({"mutual_information_final": 0.39}, "mutual information", "failed", "direction and the order"),
        ({"mutual_information_final": NAN}, "mutual information", "failed", "falls"),
        ({"rotation_ratio": 1.05}, "orientation", "warning", "upside down"),
        ({"rotation_ratio": 1.1}, "orientation", "failed", "upside down"),
        ({"rotation_ratio": NAN}, "orientation", "failed", "upside down"),
        ({"folds_percent": 0.1}, "folding", "warning", "folds in 0.100%"),
        ({"folds_percent": NAN}, "folding", "warning", "do not use it there"),
        ({"log_jacobian": 2.1}, "stretch", "warning", "factor of up to 8.2"),
        ({"overlap": 0.59}, "overlap", "warning", "covers 59%"),
        ({"overlap": NAN}, "overlap", "warning", "same anatomy"),
    ],
)  # fmt: skip
def test_each_measure_beyond_its_limit_is_found(changes: dict[str, object], name: str, level: str, words: str) -> None:
    found = checks(**changes)
    raised = found.pop(name)
    assert raised.level == level
    assert words in raised.message
    assert {each.level for each in found.values()} == {"passed"}


def test_the_registration_behind_it_need_not_be_trusted() -> None:
    """What says whether it can be is its own checks, but for those that a transform has too."""
    raised = (check("swap consistency", "warning"), check("folding", "warning"), check("orientation", "failed"))
    own = checks(own=raised)["own registration"]
    assert own.level == "warning"
    assert "(swap consistency)" in own.message
    assert checks(own=raised[1:])["own registration"].level == "passed"


def test_a_model_without_calibration_says_so() -> None:
    blind = GOOD._replace(expected_error=None, own_expected_error=None, training_distance=None)
    first, *others = transform_checks(blind, None, (), True)
    assert first[:4] == ("not calibrated", "warning", 0.6, None)
    assert failures(others) == []
    assert {"expected_error", "training_distance"}.isdisjoint(blind.as_dict())


def test_folds_are_those_of_the_whole_grid_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    displacement = 3 * np.random.default_rng(0).random((3, 9, 6, 7))
    affine = np.diag([2.0, 1.0, 1.5, 1.0])
    whole = torch.from_numpy(displacement)[None]
    expected = float(spatial.folds_percent(whole)), float(spatial.strict_jacobian(whole).min())
    assert 0 < expected[0] < 100
    for layers in (9, 4, 1):
        monkeypatch.setattr("crossmorph.functional.interpolation.SLAB_VOXELS", layers * 42)
        assert folds(from_voxel_displacement(displacement, affine)) == pytest.approx(expected)


def test_a_mirror_folds_everywhere() -> None:
    mirrored = as_warp([np.diag([-1.0, 1.0, 1.0])], np.eye(3), (8, 8))
    assert folds(mirrored) == pytest.approx((100.0, -1.0))


def test_how_much_of_the_grid_leads_into_the_image() -> None:
    """By hand: 3 of 10 columns are pushed out; half of the rows end beyond an image half as long."""
    displacement = np.zeros((2, 10, 8), np.float32)
    displacement[0] = 3
    image = Image(np.zeros((10, 4), np.float32), np.eye(3))
    assert covers(image, Warp(displacement, np.eye(3))) == pytest.approx(0.7 * 0.5)


def test_an_affine_map_and_the_same_as_a_warp_move_the_image_alike() -> None:
    model = load_model()
    rng = np.random.default_rng(1)
    data = np.kron(rng.random((12, 11)), np.ones((8, 8))).astype(np.float32)
    moving = Image(data, np.diag([1.5, 1.5, 1.0]))
    fixed = Image(data, np.diag([1.6, 1.4, 1.0]))
    turn = np.array([[0.98, -0.17, 12.0], [0.17, 0.98, -9.0], [0, 0, 1]])
    by_matrix, by_warp = (
        moved_onto_working_grid(moving, fixed, steps, model)
        for steps in ([turn], [as_warp([turn], fixed.affine, fixed.shape)])
    )
    assert by_matrix.shape == by_warp.shape
    inner = (slice(20, 80), slice(20, 80))  # beyond the fixed image, a warp's edge is held
    np.testing.assert_allclose(by_matrix.data[inner], by_warp.data[inner], atol=2e-3)
    mirror = np.diag([-1.0, 1.0, 1.0])
    mirror[0, 2] = 130
    mirrored = moved_onto_working_grid(moving, fixed, [mirror], model)
    plain = moved_onto_working_grid(Image(data, np.linalg.inv(mirror) @ moving.affine), fixed, [], model)
    np.testing.assert_allclose(mirrored.data, plain.data, atol=1e-6)

"""Quality: the numbers are those of hand-made fields, and every threshold has its two sides."""

import math

import numpy as np
import pytest
import torch

from crossmorph.functional.similarity import mi
from crossmorph.images.image import Image, scale_intensity
from crossmorph.networks.hierarchy import Flow, Registration
from crossmorph.quality.checks import (
    LARGEST_INCONSISTENCY,
    LARGEST_STRETCH,
    LEAST_AGREEMENT,
    SMALL_OVERLAP,
    UNCALIBRATED,
    judge,
)
from crossmorph.quality.consistency import Consistency
from crossmorph.quality.error_model import FORETELLING, LEAST_NUMBER, Calibration
from crossmorph.quality.error_network import ErrorNetwork
from crossmorph.quality.measures import calibrate, mean_doubt, measure_plain
from crossmorph.registration.instance_optimization import Refinement
from crossmorph.registration.register_images import Registered, RejectedStage
from crossmorph.transforms.grid import Grid
from crossmorph.transforms.warp import Warp

PLAIN = {
    "overlap_before": 1.0,
    "overlap": 1.0,
    "mi_before": 0.2,
    "mi_start": 0.25,
    "mi_coarse": 0.3,
    "mi_fine": 0.4,
    "mi_final": 0.4,
    "folds_percent": 0.0,
    "min_jacobian": 0.5,
    "log_jacobian": 0.5,
    "inverse_consistency_median": 0.01,
    "inverse_consistency": 0.1,
    "order_quartile": 0.2,
    "order": 0.3,
    "shift_quartile": 0.1,
    "shift": 0.2,
    "correlation": 0.6,
    "residual": 0.05,
    "half_turn": 0.7,
    "refused_stages": 0.0,
    "working_spacing": 1.5,
}
GOOD = PLAIN | {
    "expected_error": 0.8,
    "expected_error_limit": 1.8,
    "expected_error_failed": 4.0,
    "order_limit": 3.0,
    "shift_limit": 2.5,
    "unfamiliarity": 0.5,
}
NAMES = [
    "expected error",
    "agreement",
    "orientation",
    "order",
    "shift",
    "familiar",
    "folding",
    "stretch",
    "inverse",
    "overlap",
]
SHAPE = (16, 24)


def registered(flow: Flow, spacing: float = 2.0) -> Registered:
    """A fixed texture, the same two voxels away, and a field that is both the coarse and the final one."""
    fixed = torch.from_numpy(np.random.default_rng(0).random((1, 1, *SHAPE), np.float32))
    moving = torch.roll(fixed, 2, dims=2)
    zero = Flow(torch.zeros(1, 2, *SHAPE), torch.zeros(1, 2, *SHAPE))
    grid = Grid(np.diag([-spacing, spacing, 1.0]), SHAPE)
    warp = Warp(np.zeros((2, *SHAPE)), grid.affine)
    image = Image(moving[0, 0].numpy(), grid.affine)
    result = Registration(flow, zero, flow, moving * 0, moving)
    stages, agreement = {"start": zero, "coarse": flow}, {"start": 0.5, "coarse": 1.5, "fine": 1.0}
    fallback = RejectedStage("fine", "coarse", "agreement", 1.5, 1.0)
    return Registered(
        warp, warp, image, np.eye(3), 0.75, moving, fixed, result, None, grid, {}, stages, agreement, (fallback,), None,
        None,
    )  # fmt: skip


def evidence() -> Consistency:
    """Distances that grow along the first axis from 0 to 15 voxels, of which the foreground is the first five rows."""
    rows = torch.arange(SHAPE[0]).float()[:, None].expand(*SHAPE)
    vectors = torch.stack([0.6 * rows, -0.8 * rows])
    return Consistency(vectors, vectors / 2, rows, rows, torch.full(SHAPE, 0.25), rows / 100, rows < 5, 1.2)


def constant(x: float) -> torch.Tensor:
    field = torch.zeros(1, 2, *SHAPE)
    field[:, 0] = x
    return field


def elsewhere(pair: Registered) -> Image:
    """The moving image as it was given, before a start put it where the networks saw it."""
    return Image(np.roll(pair.moving[0, 0].numpy(), 3, 1), pair.grid.affine)


def scores(pair: Registered) -> dict[str, float]:
    return measure_plain(pair, elsewhere(pair), evidence())


def test_numbers_of_a_shift():
    """The inverse falls half a voxel short: 1 mm at 2 mm; the field does not fold, its Jacobian is 1."""
    pair = registered(Flow(constant(2), constant(-1.5)))
    quality = scores(pair)
    assert set(quality) == set(PLAIN)
    assert quality["overlap"] == 0.75
    assert quality["overlap_before"] == 1
    assert quality["inverse_consistency"] == pytest.approx(1.0)
    assert quality["inverse_consistency_median"] == pytest.approx(1.0)
    assert quality["working_spacing"] == 2.0
    assert quality["folds_percent"] == 0
    assert quality["min_jacobian"] == pytest.approx(1)
    assert quality["log_jacobian"] == pytest.approx(0, abs=1e-6)
    given = torch.from_numpy(scale_intensity(elsewhere(pair).data).data)[None, None]
    assert quality["mi_before"] == pytest.approx(float(mi(given, pair.fixed)))
    assert "refine_steps" not in quality
    assert all(type(value) is float for value in quality.values())


def test_numbers_of_the_stages_are_of_all_and_the_last_of_the_one_taken():
    quality = scores(registered(Flow(constant(2), constant(-2))))
    assert (quality["mi_start"], quality["mi_coarse"], quality["mi_fine"]) == (0.5, 1.5, 1.0)
    assert quality["mi_final"] == 1.5
    assert quality["refused_stages"] == 1


def test_numbers_of_the_evidence_are_of_the_foreground_and_in_millimetres():
    """Rows 0 to 4, at 2 mm: medians 2 and 1 voxels, quartiles half of these."""
    quality = scores(registered(Flow(constant(2), constant(-2))))
    assert (quality["shift"], quality["order"]) == (4.0, 2.0)
    assert (quality["shift_quartile"], quality["order_quartile"]) == (2.0, 1.0)
    assert quality["correlation"] == 0.25
    assert quality["residual"] == pytest.approx(0.02)
    assert quality["half_turn"] == pytest.approx(1.2 / 1.5)


def test_a_field_that_doubles_sizes_is_stretched_by_two():
    field = constant(0)
    field[:, 0] = torch.arange(SHAPE[0])[:, None]
    assert scores(registered(Flow(field, constant(0))))["log_jacobian"] == pytest.approx(math.log(2))


def test_a_mirror_folds_everywhere():
    mirror = constant(0)
    mirror[:, 0] = -2 * torch.arange(SHAPE[0])[:, None]
    quality = scores(registered(Flow(mirror, constant(0))))
    assert quality["folds_percent"] == 100
    assert quality["min_jacobian"] == pytest.approx(-1)


def test_one_folded_cell_of_all():
    """One voxel pushed over its right neighbour: it turns the cells that it is a corner of."""
    field = constant(0)
    field[0, 0, 8, 8] = 1.5
    cells = (SHAPE[0] - 1) * (SHAPE[1] - 1)
    assert scores(registered(Flow(field, field)))["folds_percent"] == pytest.approx(100 * 2 / cells)


def test_forward_and_inverse_are_compared_where_the_moving_image_shows_something():
    """A field and an inverse that differ by two voxels in the right half, where the moving image is black."""
    field, nothing = constant(0), constant(0)
    field[..., 8:] = 2
    pair = registered(Flow(field, nothing))
    assert scores(pair)["inverse_consistency"] > 0
    moving = pair.moving.clone()
    moving[..., 5:] = 0
    moving[..., :5] = 1
    assert scores(pair._replace(moving=moving))["inverse_consistency"] == 0


def test_refining_is_told_of():
    pair = registered(Flow(constant(2), constant(-2)))
    refinement = Refinement(pair.result.final, 7, 0.1, 1.0, 1.2, True)
    assert scores(pair._replace(refinement=refinement))["refine_steps"] == 7


def test_calibration_adds_lengths_in_the_unit_of_the_image():
    """Weight 1 on the median of `order`, 1/2 on the mean doubt and the constant log 3: the product, 6 (.2 + floor)."""
    weights = torch.zeros(len(FORETELLING) + 2)
    weights[FORETELLING.index("order")], weights[-2:] = 1, torch.tensor([0.5, math.log(3)])
    names = ("order", "shift", "expected_error", "expected_error_failed", "unfamiliarity")
    limits = dict(zip(names, (2.0, 3.0, 4.0, 5.0, 6.0), strict=True))
    unit = torch.zeros(1), torch.ones(1), torch.eye(1)
    calibration = Calibration(ErrorNetwork(2, len(FORETELLING)), weights, *unit, limits, {})
    added = calibrate(PLAIN, torch.tensor([[1.0], [-3.0]]), 4.0, calibration)
    assert added["expected_error"] == pytest.approx(1.5 * 6 * (0.2 + LEAST_NUMBER), rel=1e-5)
    assert added["expected_error_limit"] == 6.0
    assert added["expected_error_failed"] == 7.5
    assert (added["order_limit"], added["shift_limit"]) == (3.0, 4.5)
    assert added["unfamiliarity"] == pytest.approx(0.5)


def test_doubt_is_averaged_by_its_logarithm_where_there_is_something():
    doubt = torch.tensor([[1.0, 4.0], [16.0, 6.0]])
    inside = torch.tensor([[True, True], [True, False]])
    assert mean_doubt(doubt, inside) == pytest.approx(4)


def test_good_numbers_raise_no_flag():
    flags = judge(GOOD)
    assert [flag.name for flag in flags] == [*NAMES, "stages"]
    assert {flag.level for flag in flags} == {"ok"}


def test_of_unfamiliar_images_the_expected_error_only_warns():
    levels = {flag.name: flag.level for flag in judge({**GOOD, "expected_error": 4.01, "unfamiliarity": 1.0})}
    assert levels["expected error"] == levels["familiar"] == "warning"
    assert "failed" not in levels.values()


def test_who_has_refined_is_not_told_to():
    doubtful = GOOD | {"expected_error": 2.0}
    (told,) = [flag.sentence for flag in judge(doubtful) if flag.name == "expected error"]
    (again,) = [flag.sentence for flag in judge(doubtful | {"refine_steps": 20.0}) if flag.name == "expected error"]
    assert "--refine auto" in told
    assert "--refine" not in again
    assert "--init" in again


def test_a_model_without_calibration_says_so():
    flags = {flag.name: flag.level for flag in judge(PLAIN)}
    assert flags.pop(UNCALIBRATED) == "warning"
    assert set(flags.values()) == {"ok"}
    assert "expected error" not in flags


NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "name", "level", "words"),
    [
        ({"expected_error": 1.81}, "expected error", "warning", "was about 1.8 pixels (limit 1.8): look before"),
        ({"expected_error": 4.01}, "expected error", "failed", "was about 4 pixels; this is not aligned"),
        ({"expected_error": NAN}, "expected error", "failed", "not aligned"),
        ({"mi_final": 0.159}, "agreement", "failed", "agree less than before"),
        ({"mi_final": NAN}, "agreement", "failed", "agree less than before"),
        ({"half_turn": 1.0}, "orientation", "warning", "agree 1.00 times as much: one of them may lie upside down"),
        ({"half_turn": 1.1}, "orientation", "failed", "agree 1.10 times as much"),
        ({"half_turn": NAN}, "orientation", "failed", "upside down"),
        ({"order": 3.01}, "order", "warning", "differs by 3.01 pixels (limit 3.00)"),
        ({"order": NAN}, "order", "warning", "limit 3.00"),
        ({"shift": 2.51}, "shift", "warning", "differs by 2.51 pixels (limit 2.50)"),
        ({"unfamiliarity": 1.01}, "familiar", "warning", "1.01 times the limit away"),
        ({"unfamiliarity": NAN}, "familiar", "warning", "times the limit"),
        ({"folds_percent": 0.01}, "folding", "warning", "0.010% of the cells fold; do not trust"),
        ({"log_jacobian": 2.01}, "stretch", "warning", "factor of up to 7.5 (limit 7.4)"),
        ({"inverse_consistency": 1.51}, "inverse", "warning", "1.51 pixels (expected below 1.50)"),
        ({"overlap_before": 0.59}, "overlap", "warning", "covers 59% of the fixed one, after the start 100%"),
        ({"refused_stages": 1.0}, "stages", "warning", "were not taken: 1;"),
    ],
)
def test_each_number_out_of_bounds_is_flagged(change, name, level, words):
    flags = {flag.name: flag for flag in judge(GOOD | change, "pixels")}
    flag = flags.pop(name)
    assert flag.level == level
    assert words in flag.sentence
    assert {flag.level for flag in flags.values()} == {"ok"}


def test_the_bounds_themselves_are_fine():
    edge = {
        "mi_final": LEAST_AGREEMENT * GOOD["mi_before"],
        "overlap_before": SMALL_OVERLAP,
        "log_jacobian": LARGEST_STRETCH,
        "inverse_consistency": LARGEST_INCONSISTENCY * GOOD["working_spacing"],
    }
    assert {flag.level for flag in judge(GOOD | edge)} == {"ok"}


def test_stages_that_were_not_taken_are_named():
    fallbacks = [
        RejectedStage("fine", "coarse", "agreement", 1.5, 1.0),
        RejectedStage("refined", "coarse", "folds", 0.0, 0.2),
    ]
    (flag,) = [flag for flag in judge(GOOD | {"refused_stages": 2.0}, fallbacks=fallbacks) if flag.name == "stages"]
    assert "fine (the images agreed less; the field is that of coarse)" in flag.sentence
    assert "refined (it folded; the field is that of coarse)" in flag.sentence

"""Measures: they are those of hand-made fields and maps, each in its unit."""

import math

import numpy as np
import pytest
import torch
from examples import everywhere

from crossmorph.functional.similarity import mi
from crossmorph.images.image import Image, scale_intensity
from crossmorph.networks.hierarchy import Flow, Registration
from crossmorph.quality.assessment import Consistency, Measures
from crossmorph.quality.error_model import Calibration
from crossmorph.quality.error_network import ErrorNetwork
from crossmorph.quality.measures import (
    LENGTHS,
    PREDICTORS,
    SMALLEST,
    error_predictors,
    mean_error,
    measure,
    with_expected_error,
)
from crossmorph.registration.instance_optimization import Refinement
from crossmorph.registration.register_images import Registered, RejectedStage
from crossmorph.registration.translation import Translation
from crossmorph.transforms.grid import Grid
from crossmorph.transforms.warp import Warp

SHAPE = (16, 24)


def registered(flow: Flow, spacing: float = 2.0) -> Registered:
    """A fixed texture, the same two voxels away, and a field that is both the coarse and the final one."""
    fixed = torch.from_numpy(np.random.default_rng(0).random((1, 1, *SHAPE), np.float32))
    moving = torch.roll(fixed, 2, dims=2)
    zero = Flow(torch.zeros(1, 2, *SHAPE), torch.zeros(1, 2, *SHAPE))
    grid = Grid(np.diag([-spacing, spacing, 1.0]), SHAPE)
    warp = Warp(np.zeros((2, *SHAPE)), grid.affine)
    image = Image(moving[0, 0].numpy(), grid.affine)
    result = Registration(flow, zero, flow, moving * 0, moving, moving * 0)
    stages, reached = {"initial": zero, "coarse": flow}, {"initial": 0.5, "coarse": 1.5, "fine": 1.0}
    rejected = RejectedStage("fine", "coarse", "mutual information", 1.5, 1.0)
    return Registered(
        warp, warp, image, Translation(0 * moving, 0 * moving + 1), np.eye(3), 0.75,
        everywhere(moving, fixed), result, None, grid, {}, stages, reached,
        (rejected,), None, None,
    )  # fmt: skip


def maps() -> Consistency:
    """Distances that grow along the first axis from 0 to 15 voxels, of which the foreground is the first five rows."""
    rows = torch.arange(SHAPE[0]).float()[:, None].expand(*SHAPE)
    vectors = torch.stack([0.6 * rows, -0.8 * rows])
    return Consistency(vectors, vectors / 2, rows, rows, torch.full(SHAPE, 0.25), rows / 100, rows < 5, 1.2, None)


def constant(x: float) -> torch.Tensor:
    field = torch.zeros(1, 2, *SHAPE)
    field[:, 0] = x
    return field


def elsewhere(pair: Registered) -> Image:
    """The moving image as it was given, before an initial affine put it where the networks saw it."""
    return Image(np.roll(pair.moving[0, 0].numpy(), 3, 1), pair.grid.affine)


def measured(pair: Registered, physical: bool = True) -> Measures:
    given = elsewhere(pair)
    return measure(pair, given, Image(pair.fixed[0, 0].numpy(), pair.grid.affine, physical), maps())


def test_measures_of_a_shift():
    """The inverse falls half a voxel short: 1 mm at 2 mm; the field does not fold, its Jacobian is 1."""
    pair = registered(Flow(constant(2), constant(-1.5)))
    found = measured(pair)
    assert found.overlap == 0.75
    assert found.overlap_before == 1
    assert found.inverse_consistency == pytest.approx(1.0)
    assert found.inverse_consistency_median == pytest.approx(1.0)
    assert found.working_spacing == 2.0
    assert found.folds_percent == 0
    assert found.min_jacobian == pytest.approx(1)
    assert found.log_jacobian == pytest.approx(0, abs=1e-6)
    given = torch.from_numpy(scale_intensity(elsewhere(pair).data).data)[None, None]
    assert found.mutual_information_before == pytest.approx(float(mi(given, pair.fixed)))


def test_measures_that_are_not_known_are_left_out_of_the_dictionary():
    """Without refinement and calibration; the others are there, in their order, as plain numbers."""
    found = measured(registered(Flow(constant(2), constant(-1.5))))
    unknown = {"mutual_information_refined", "mirror_ratio", "refine_steps", "expected_error", "training_distance"}
    unknown |= {"points_initial", "points_final", "points_accuracy", "ignored"}
    assert {name for name, value in found._asdict().items() if value is None} == unknown
    known = found.as_dict()
    assert list(known) == [name for name in Measures._fields if name not in unknown]
    assert known.pop("unit") == "mm"
    assert known.pop("rejected_stages") == 1
    assert all(type(value) is float for value in known.values())
    assert found._replace(expected_error=0.0).as_dict()["expected_error"] == 0.0


def test_lengths_are_in_pixels_where_the_fixed_image_has_no_millimetres():
    assert measured(registered(Flow(constant(2), constant(-2))), physical=False).unit == "pixels"


def test_mutual_information_is_that_of_all_stages_and_the_final_one_of_the_last_accepted():
    found = measured(registered(Flow(constant(2), constant(-2))))
    assert found.mutual_information_initial == 0.5
    assert found.mutual_information_coarse == 1.5
    assert found.mutual_information_fine == 1.0
    assert found.mutual_information_final == 1.5
    assert found.rejected_stages == 1


def test_consistency_is_that_of_the_foreground_and_in_millimetres():
    """Rows 0 to 4, at 2 mm: medians 2 and 1 voxels, quartiles half of these."""
    found = measured(registered(Flow(constant(2), constant(-2))))
    assert (found.shift_consistency, found.swap_consistency) == (4.0, 2.0)
    assert (found.shift_consistency_quartile, found.swap_consistency_quartile) == (2.0, 1.0)
    assert found.local_correlation == 0.25
    assert found.residual == pytest.approx(0.02)
    assert found.rotation_ratio == pytest.approx(1.2 / 1.5)


def test_a_field_that_doubles_sizes_is_stretched_by_two():
    field = constant(0)
    field[:, 0] = torch.arange(SHAPE[0])[:, None]
    assert measured(registered(Flow(field, constant(0)))).log_jacobian == pytest.approx(math.log(2))


def test_a_mirror_folds_everywhere():
    mirror = constant(0)
    mirror[:, 0] = -2 * torch.arange(SHAPE[0])[:, None]
    found = measured(registered(Flow(mirror, constant(0))))
    assert found.folds_percent == 100
    assert found.min_jacobian == pytest.approx(-1)


def test_one_folded_cell_of_all():
    """One voxel pushed over its right neighbour: it turns the cells that it is a corner of."""
    field = constant(0)
    field[0, 0, 8, 8] = 1.5
    cells = (SHAPE[0] - 1) * (SHAPE[1] - 1)
    assert measured(registered(Flow(field, field))).folds_percent == pytest.approx(100 * 2 / cells)


def test_forward_and_inverse_are_compared_where_the_moving_image_shows_something():
    """A field and an inverse that differ by two voxels in the right half, where the moving image is black."""
    field, nothing = constant(0), constant(0)
    field[..., 8:] = 2
    pair = registered(Flow(field, nothing))
    assert measured(pair).inverse_consistency > 0
    moving = pair.moving.clone()
    moving[..., 5:] = 0
    moving[..., :5] = 1
    assert measured(pair._replace(pair=everywhere(moving, pair.fixed))).inverse_consistency == 0


def test_instance_optimisation_is_reported():
    pair = registered(Flow(constant(2), constant(-2)))
    refinement = Refinement(pair.result.final, 7, 0.1, 1.0, 1.2, True)
    reached = pair.mutual_information | {"refined": 1.2}
    found = measured(pair._replace(refinement=refinement, mutual_information=reached))
    assert found.refine_steps == 7
    assert found.mutual_information_refined == 1.2


def test_calibration_adds_the_expected_error_in_the_unit_of_the_image():
    """Weight 1 on ``swap_consistency``, 1/2 on the mean error and the constant log 3: the product, 6 (.2 + floor)."""
    weights = torch.zeros(len(PREDICTORS) + 2)
    weights[PREDICTORS.index("swap_consistency")], weights[-2:] = 1, torch.tensor([0.5, math.log(3)])
    unit = torch.zeros(1), torch.ones(1), torch.eye(1)
    calibration = Calibration(ErrorNetwork(2, len(PREDICTORS)), weights, *unit, {"training_distance": 6.0}, {})
    plain = measured(registered(Flow(constant(2), constant(-2)), 1.5))._replace(swap_consistency=0.3)
    added = with_expected_error(plain, torch.tensor([[1.0], [-3.0]]), 4.0, calibration)
    assert added.expected_error == pytest.approx(1.5 * 6 * (0.2 + SMALLEST), rel=1e-5)
    assert added.training_distance == pytest.approx(0.5)
    assert added == plain._replace(expected_error=added.expected_error, training_distance=added.training_distance)


def test_predictors_do_not_depend_on_the_unit():
    plain = measured(registered(Flow(constant(2), constant(-2))))
    lengths = {name: 10 * getattr(plain, name) for name in (*LENGTHS, "working_spacing")}
    torch.testing.assert_close(error_predictors(plain._replace(**lengths)), error_predictors(plain))


def test_predictors_are_logarithms_in_the_order_of_their_names():
    plain = measured(registered(Flow(constant(2), constant(-2))))
    voxels = [getattr(plain, name) / (2.0 if name in LENGTHS else 1.0) for name in PREDICTORS]
    expected = torch.tensor([math.log(value + SMALLEST) for value in voxels])
    torch.testing.assert_close(error_predictors(plain), expected)


def test_the_expected_error_is_averaged_by_its_logarithm_over_the_foreground():
    error = torch.tensor([[1.0, 4.0], [16.0, 6.0]])
    inside = torch.tensor([[True, True], [True, False]])
    assert mean_error(error, inside) == pytest.approx(4)

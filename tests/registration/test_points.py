"""Corresponding points pull a field: to within their accuracy, without a fold, and no further than that."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossmorph.functional import spatial
from crossmorph.networks.hierarchy import Flow
from crossmorph.registration.points import VoxelPoints, follow_points, missing

WIDTHS = (16.0, 8.0, 4.0, 2.5)


def still(*shape: int) -> Flow:
    nowhere = torch.zeros(1, len(shape), *shape)
    return Flow(nowhere, nowhere)


def points(fixed: list[list[float]], shift: list[list[float]], accuracy: float = 0.5) -> VoxelPoints:
    places = torch.tensor(fixed)
    return VoxelPoints(places, places + torch.tensor(shift), accuracy, WIDTHS)


def test_points_are_met_and_their_surroundings_follow() -> None:
    wanted = points([[20.0, 20, 20], [30, 12, 18]], [[4.0, 0, -2], [0, 3, 0]])
    found = follow_points(still(44, 40, 42), wanted)
    assert missing(found, wanted).norm(dim=1).max() <= 0.5
    assert not spatial.folds(found.displacement).any()
    near = found.displacement[0, :, 21, 20, 20]
    assert (near - torch.tensor([4.0, 0, -2])).norm() < 1.5
    loop = spatial.compose(found.displacement, found.inverse)[..., 8:-8, 8:-8, 8:-8]
    assert loop.norm(dim=1).max() < 0.1


def test_points_that_are_met_change_nothing() -> None:
    field = torch.full((1, 2, 30, 30), 2.0)
    start = Flow(field, -field)
    assert follow_points(start, points([[10.0, 15], [20, 8]], [[2.3, 2.0], [2.0, 1.8]])) is start


def test_a_point_is_led_no_further_than_its_accuracy_asks() -> None:
    wanted = points([[15.0, 15]], [[5.0, 0.0]], accuracy=2.0)
    found = follow_points(still(30, 30), wanted)
    assert 0.7 < float(missing(found, wanted).norm()) <= 2.0


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(*[st.floats(6, 34)] * 2, *[st.floats(-6, 6)] * 2), min_size=1, max_size=6))
def test_whatever_the_points_nothing_folds_and_the_worst_comes_no_worse(drawn: list[tuple[float, ...]]) -> None:
    wanted = points([list(each[:2]) for each in drawn], [list(each[2:]) for each in drawn])
    before = still(40, 40)
    found = follow_points(before, wanted)
    assert not spatial.folds(found.displacement).any()
    assert missing(found, wanted).norm(dim=1).max() <= missing(before, wanted).norm(dim=1).max()


@pytest.mark.parametrize("shape", [(40, 40), (24, 24, 24)])
def test_points_that_contradict_each_other_fold_nothing(shape: tuple[int, ...]) -> None:
    rest = [12.0] * (len(shape) - 1)
    nothing = [0.0] * (len(shape) - 1)
    wanted = points([[11.0, *rest], [13.0, *rest]], [[6.0, *nothing], [-6.0, *nothing]])
    found = follow_points(still(*shape), wanted)
    assert not spatial.folds(found.displacement).any()
    assert missing(found, wanted).norm(dim=1).max() > 0.5

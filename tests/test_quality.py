"""Quality: the numbers are those of hand-made fields, and every threshold has its two sides."""

import numpy as np
import pytest
import torch

from crossmorph.grid import Grid
from crossmorph.hierarchy import Flow, Registration
from crossmorph.image import Image, scale_intensity
from crossmorph.pipeline import Registered
from crossmorph.quality import LARGEST_INCONSISTENCY, SMALL_OVERLAP, judge, measure
from crossmorph.refine import Refinement
from crossmorph.similarity import mi
from crossmorph.transform import Warp

GOOD = {
    "overlap_before": 1.0,
    "overlap": 1.0,
    "mi_before": 0.2,
    "mi_start": 0.25,
    "mi_coarse": 0.3,
    "mi_final": 0.4,
    "folds_percent": 0.0,
    "min_jacobian": 0.5,
    "inverse_consistency": 0.1,
    "working_spacing": 1.5,
}
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
    return Registered(warp, warp, image, np.eye(3), 0.75, moving, fixed, result, None, grid, {})


def constant(x: float) -> torch.Tensor:
    field = torch.zeros(1, 2, *SHAPE)
    field[:, 0] = x
    return field


def elsewhere(pair: Registered) -> Image:
    """The moving image as it was given, before a start put it where the networks saw it."""
    return Image(np.roll(pair.moving[0, 0].numpy(), 3, 1), pair.grid.affine)


def scores(pair: Registered) -> dict[str, float]:
    return measure(pair, elsewhere(pair))


def test_numbers_of_a_shift():
    """The inverse falls half a voxel short: 1 mm at 2 mm; the field does not fold, its Jacobian is 1."""
    pair = registered(Flow(constant(2), constant(-1.5)))
    quality = measure(pair, elsewhere(pair))
    assert set(quality) == set(GOOD)
    assert quality["overlap"] == 0.75
    assert quality["overlap_before"] == 1
    assert quality["inverse_consistency"] == pytest.approx(1.0)
    assert quality["working_spacing"] == 2.0
    assert quality["folds_percent"] == 0
    assert quality["min_jacobian"] == pytest.approx(1)
    given = torch.from_numpy(scale_intensity(elsewhere(pair).data).data)[None, None]
    assert quality["mi_before"] == pytest.approx(float(mi(given, pair.fixed)))
    assert quality["mi_start"] == pytest.approx(float(mi(pair.moving, pair.fixed)))
    assert "refine_steps" not in quality
    assert quality["mi_final"] == quality["mi_coarse"] > quality["mi_start"]
    assert all(type(value) is float for value in quality.values())


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


def test_good_numbers_raise_no_flag():
    flags = judge(GOOD)
    assert [flag.name for flag in flags] == ["agreement", "folding"]
    assert {flag.level for flag in flags} == {"ok"}


@pytest.mark.parametrize(
    ("change", "name", "level", "words"),
    [
        ({"mi_final": 0.19}, "agreement", "failed", "agree less than before"),
        ({"mi_final": float("nan")}, "agreement", "failed", "agree less than before"),
        ({"folds_percent": 0.01}, "folding", "warning", "0.010% of the cells fold; do not trust"),
        ({"inverse_consistency": 1.51}, "inverse", "warning", "1.51 pixels (expected below 1.50)"),
        ({"overlap_before": 0.59}, "overlap", "warning", "covers 59% of the fixed one, after the start 100%"),
    ],
)
def test_each_number_out_of_bounds_is_flagged(change, name, level, words):
    flags = {flag.name: flag for flag in judge(GOOD | change, "pixels")}
    assert flags.pop(name).level == level
    assert {flag.level for flag in flags.values()} == {"ok"}
    assert words in next(flag.sentence for flag in judge(GOOD | change, "pixels") if flag.name == name)


def test_the_bounds_themselves_are_fine():
    edge = {
        "mi_final": GOOD["mi_before"],
        "overlap_before": SMALL_OVERLAP,
        "inverse_consistency": LARGEST_INCONSISTENCY * GOOD["working_spacing"],
    }
    assert {flag.level for flag in judge(GOOD | edge)} == {"ok"}


def test_refining_is_told_of():
    pair = registered(Flow(constant(2), constant(-2)))
    refinement = Refinement(pair.result.final, 7, 0.1, 1.0, 1.2, True)
    assert scores(pair._replace(refinement=refinement))["refine_steps"] == 7

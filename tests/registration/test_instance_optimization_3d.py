"""Refinement of volumes: it finds a deformation it was not told, in millimetres, and leaves alone what it must."""

from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.functional import spatial
from crossmorph.images.image import Image
from crossmorph.networks.hierarchy import Flow
from crossmorph.registration import instance_optimization_3d as module
from crossmorph.registration.instance_optimization_3d import SCHEDULE, RefinedVolume, Round, refine_volume
from crossmorph.registration.optimization_grid import (
    FIELD,
    Window,
    cut,
    embedded,
    field_grid,
    field_spacing,
    finer,
    inner,
    onto,
    seen_window,
)
from crossmorph.transforms.grid import Grid, onto_grid

SIDE = 64.0  # millimetres of the scene
QUICK = (Round(2.0, 8.0, 5, 0.3, 8), Round(2.0, 4.0, 5, 0.3, 8))


def turned(spacing: float, shape: tuple[int, ...], angle: float = 0.0) -> ndarray:
    """An affine about the world's origin, turned about the third axis."""
    affine = np.eye(4)
    cos, sin = np.cos(angle), np.sin(angle)
    affine[:3, :3] = spacing * np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def anatomy(points: ndarray) -> ndarray:
    """Waves of some 12 mm in a ball, of points in millimetres, from 0 to 1."""
    x, y, z = points
    waves = np.sin(x / 2.0 + 1) * np.sin(y / 2.4) + np.sin(z / 1.9 + x / 5) * np.cos(y / 3.1)
    inside = 1 / (1 + np.exp((np.sqrt(x * x + y * y + z * z) - 24) / 1.0))
    return np.asarray(inside * (0.5 + 0.2 * waves))


def moved_by(points: ndarray) -> ndarray:
    """The true displacement, millimetres: up to 3, wider than the control points, none at the rim."""
    x, y, z = points
    bump = 3.0 * np.exp(-(x * x + y * y + z * z) / (2 * 11.0**2))
    return np.stack([bump * np.cos(y / 12), bump * np.sin(z / 14), -bump * np.cos(x / 13)])


def places(affine: ndarray, shape: tuple[int, ...]) -> ndarray:
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype(float)
    return np.asarray(np.einsum("ij,j...->i...", affine[:3, :3], index) + affine[:3, 3].reshape(3, 1, 1, 1))


class Scene:
    """A moving image, the fixed one in falling contrast, and the grid that networks would have worked on."""

    def __init__(self, spacing: float = 2.0, angle: float = 0.0) -> None:
        side = round(SIDE / spacing)
        fixed_affine, moving_affine = turned(spacing, (side,) * 3), turned(spacing, (side + 2,) * 3, angle)
        here = places(fixed_affine, (side,) * 3)
        rng = np.random.default_rng(0)
        fixed = 0.9 - 0.8 * anatomy(here + moved_by(here)) + 0.01 * rng.standard_normal((side,) * 3)
        # Air is dark in both.
        fixed *= np.sqrt((here**2).sum(0)) < 28
        moving = anatomy(places(moving_affine, (side + 2,) * 3))
        self.moving, self.fixed = (
            Image(moving.astype(np.float32), moving_affine),
            Image(fixed.astype(np.float32), fixed_affine),
        )
        shape = (26, 26, 26)
        self.working = Grid(turned(2.5, shape), shape)
        seen = [
            torch.from_numpy(onto_grid(image, self.working).data)[None, None] for image in (self.moving, self.fixed)
        ]
        self.seen = seen[0], seen[1]
        nowhere = torch.zeros(1, 3, *shape)
        self.start = Flow(nowhere, nowhere)

    def refine(self, level: Any = QUICK, **budget: Any) -> RefinedVolume:
        return refine_volume([(self.moving, self.fixed)], self.seen, self.start, self.working, level, **budget)

    def error(self, found: RefinedVolume) -> tuple[float, float]:
        """Mean endpoint error inside the ball in millimetres, and that of no displacement."""
        here = places(found.grid.affine, found.grid.shape)
        ball = np.sqrt((here**2).sum(0)) < 18
        truth, ours = moved_by(here), FIELD * found.field.displacement[0].numpy()
        return tuple(float(np.linalg.norm(each, axis=0)[ball].mean()) for each in (ours - truth, truth))  # type: ignore


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


@pytest.fixture(scope="module")
def refined(scene: Scene) -> RefinedVolume:
    return scene.refine()


# --- what it finds ---------------------------------------------------------------------------------------------------


def test_a_deformation_is_found_whatever_the_contrast(scene: Scene, refined: RefinedVolume) -> None:
    error, before = scene.error(refined)
    assert refined.refinement.improved
    assert refined.refinement.steps == 16
    assert refined.refinement.after > refined.refinement.before
    assert error < 0.5 * before


def test_a_turned_image_of_other_voxels_is_refined_in_millimetres() -> None:
    turned_scene = Scene(1.6, 0.3)
    error, before = turned_scene.error(turned_scene.refine())
    assert error < 0.5 * before


def test_the_field_is_the_same_on_the_networks_grid(scene: Scene, refined: RefinedVolume) -> None:
    """In millimetres, but for interpolation."""
    coarse = 2.5 * refined.refinement.final.displacement[0].numpy()
    middle = tuple(side // 2 for side in coarse.shape[1:])
    fine = FIELD * refined.field.displacement[0].numpy()
    at = np.linalg.inv(refined.grid.affine) @ scene.working.affine @ np.array([*middle, 1])
    there = [scipy.ndimage.map_coordinates(each, at[:3, None], order=1)[0] for each in fine]
    np.testing.assert_allclose(coarse[(slice(None), *middle)], there, atol=1e-3)


def test_nothing_folds_and_the_inverse_inverts(refined: RefinedVolume) -> None:
    assert (spatial.strict_jacobian(refined.field.displacement) > 0).all()
    for loop in (spatial.compose(*refined.field), spatial.compose(*refined.field[::-1])):
        assert float(loop.norm(dim=1).max()) < 0.2


def test_it_starts_from_the_field_it_is_given(scene: Scene) -> None:
    """A shift by two voxels that the header hides from all but the networks' field."""
    shift = np.array([5.0, 0, 0])
    affine = scene.moving.affine.copy()
    affine[:3, 3] += shift
    known = torch.zeros_like(scene.start.displacement)
    known[:, 0] = 2.0
    given = Flow(known, -known)
    seen = torch.from_numpy(onto_grid(Image(scene.moving.data, affine), scene.working).data)[None, None], scene.seen[1]
    found = refine_volume([(Image(scene.moving.data, affine), scene.fixed)], seen, given, scene.working, QUICK)
    here = places(found.grid.affine, found.grid.shape)
    ball = np.sqrt((here**2).sum(0)) < 18
    ours = FIELD * found.field.displacement[0].numpy() - shift.reshape(3, 1, 1, 1)
    assert np.linalg.norm(ours - moved_by(here), axis=0)[ball].mean() < 0.5 * scene.error(scene.refine(steps=0))[1]


def test_fine_rounds_are_for_fine_images(scene: Scene) -> None:
    level = (Round(2.0, 8.0, 5, 0.3, 2), Round(1.0, 4.0, 5, 1.0, 2))
    assert scene.refine(level).refinement.steps == 2
    fine = Scene(1.0)
    found = fine.refine(level)
    assert found.refinement.steps == 4
    assert found.refinement.improved


# --- what it leaves alone --------------------------------------------------------------------------------------------


def test_what_a_view_leaves_out_changes_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of close control points look at less of the world; their smoothness counts as in all of it."""
    fine, schedule = Scene(1.0), (Round(2.0, 8.0, 5, 0.3, 4), Round(1.0, 2.0, 5, 1.0, 4))
    found = fine.refine(schedule)
    monkeypatch.setattr(module, "MARGIN", 0)
    whole = fine.refine(schedule)
    apart = spatial.length(found.field.displacement - whole.field.displacement)[0, 0].numpy()
    ball = np.sqrt((places(found.grid.affine, found.grid.shape) ** 2).sum(0)) < 24
    assert apart[ball].mean() < 0.02 * spatial.length(whole.field.displacement)[0, 0].numpy()[ball].mean()
    assert found.refinement.steps == whole.refinement.steps == 8


def test_no_steps_and_no_time_leave_the_very_field(scene: Scene) -> None:
    for budget in ({"steps": 0}, {"seconds": 0.0}):
        found = scene.refine(**budget)
        assert found.refinement.final is scene.start
        assert (found.refinement.steps, found.refinement.improved) == (0, False)
        assert not found.field.displacement.any()


def test_constant_images_are_left_alone(scene: Scene) -> None:
    flat = Image(np.full(scene.fixed.shape, 0.5, np.float32), scene.fixed.affine)
    seen = torch.from_numpy(onto_grid(flat, scene.working).data)[None, None]
    dark = torch.zeros_like(seen)
    for each in (seen, dark):
        found = refine_volume([(flat, flat)], (each, each), scene.start, scene.working, QUICK)
        assert not found.refinement.improved


def test_a_dark_image_is_left_alone(scene: Scene) -> None:
    dark = replace(scene.fixed, data=np.zeros(scene.fixed.shape, np.float32))
    found = refine_volume([(scene.moving, dark)], scene.seen, scene.start, scene.working, QUICK)
    assert not found.refinement.improved


def test_a_round_that_folds_is_rejected(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two, too far, though it is said to correlate more: what the first found stays."""
    optimise, stand, calls, stands = module._optimise, module._stand, [], count()

    def wild(*words: Any) -> Any:
        found = optimise(*words)
        calls.append(found)
        return found if len(calls) == 1 else found._replace(velocity=60 * found.velocity)

    one = scene.refine(QUICK[:1])
    monkeypatch.setattr(module, "_optimise", wild)
    monkeypatch.setattr(module, "_stand", lambda *words: stand(*words)._replace(similarity=float(next(stands))))
    found = scene.refine()
    assert len(calls) == 2
    assert torch.equal(found.field.displacement, one.field.displacement)
    assert found.refinement.steps == 16


def test_bad_budgets(scene: Scene) -> None:
    for budget in ({"seconds": -1.0}, {"seconds": float("nan")}, {"steps": -1}):
        with pytest.raises(InputError, match="expected at least 0"):
            scene.refine(**budget)


# --- the same bits ---------------------------------------------------------------------------------------------------


def test_the_bits_do_not_depend_on_the_threads(scene: Scene, refined: RefinedVolume) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        again = scene.refine()
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(again.field.displacement, refined.field.displacement)
    assert torch.equal(again.field.inverse, refined.field.inverse)
    assert (again.refinement.before, again.refinement.after) == (refined.refinement.before, refined.refinement.after)


def test_time_is_kept_and_its_steps_repeat_it(scene: Scene) -> None:
    timed = scene.refine(seconds=0.8)
    assert timed.refinement.seconds < 5
    assert torch.equal(scene.refine(steps=timed.refinement.steps).field.displacement, timed.field.displacement)


# --- grids -----------------------------------------------------------------------------------------------------------


def test_the_schedule_has_rounds_that_the_grids_can_hold() -> None:
    assert SCHEDULE[0].spacing == FIELD
    for each in SCHEDULE:
        assert each.spacing in (FIELD, FIELD / 2)
        assert each.control % (2 * each.spacing) == 0
        assert each.window % 2 == 1


def test_the_grid_of_the_field_covers_the_same_extent(scene: Scene) -> None:
    grid = field_grid(scene.working, FIELD)
    corners = [g.affine[:3, :3] @ ((np.array(g.shape) - 1) / 2) + g.affine[:3, 3] for g in (grid, scene.working)]
    np.testing.assert_allclose(*corners, atol=1e-9)
    assert grid.shape == (33, 33, 33)
    np.testing.assert_allclose(np.linalg.norm(grid.affine[:3, :3], axis=0), FIELD)


def test_lengths_grow_with_the_voxels_of_coarse_images() -> None:
    def of(*spacing: float) -> Image:
        return Image(np.zeros((4, 4, 4), np.float32), np.diag([*spacing, 1.0]))

    assert field_spacing(of(1, 1, 1), of(0.5, 0.5, 4)) == FIELD
    assert field_spacing(of(1, 1, 1), of(8, 8, 8)) == pytest.approx(8)


def test_the_window_holds_what_both_show_and_lies_on_the_fields_voxels(scene: Scene) -> None:
    grid = field_grid(scene.working, FIELD)
    window = seen_window(*scene.seen, scene.start.displacement, scene.working, grid)
    np.testing.assert_allclose(
        window.grid.affine[:3, 3], grid.affine[:3, :3] @ window.first + grid.affine[:3, 3], atol=1e-9
    )
    assert all(side % 2 == 0 for side in window.grid.shape)
    lowest = window.grid.affine[:3, 3]
    assert (lowest < -24 - 12).all()
    field = torch.randn(1, 3, *grid.shape)
    inside = embedded(cut(field, window), window, grid)
    assert torch.equal(inside, field)


def test_the_inner_window_lies_where_it_lay(scene: Scene) -> None:
    window = Window(scene.working, (3, 4, 5))
    smaller = inner(window, 2)
    assert smaller.first == (5, 6, 7)
    assert smaller.grid.shape == tuple(side - 4 for side in scene.working.shape)
    assert np.allclose(smaller.grid.affine @ [0, 0, 0, 1], scene.working.affine @ [2, 2, 2, 1])
    assert np.allclose(smaller.grid.affine[:3, :3], scene.working.affine[:3, :3])


def test_an_image_on_a_part_of_the_world_is_that_of_the_slow_way(scene: Scene) -> None:
    grid = Grid(turned(2.0, (12, 14, 10), 0.2), (12, 14, 10))
    for each in (grid, finer(grid, 2)):
        wanted = onto_grid(Scene(1.0).moving, each).data
        np.testing.assert_allclose(onto(Scene(1.0).moving, each).numpy(), wanted, atol=2e-3)


# --- masks and further images ----------------------------------------------------------------------------------------


def spoilt(scene: Scene) -> tuple[Image, ndarray]:
    """The fixed image with something else in a ball of 9 mm beside the middle, and the ball."""
    here = places(scene.fixed.affine, scene.fixed.shape)
    ball = np.sqrt(((here - np.array([8.0, 0, 0]).reshape(3, 1, 1, 1)) ** 2).sum(0)) < 9
    other = anatomy(here * 1.3 + np.array([5.0, 9, -7]).reshape(3, 1, 1, 1))
    return replace(scene.fixed, data=np.where(ball, other, scene.fixed.data).astype(np.float32)), ball


def test_what_is_ignored_pulls_nothing(scene: Scene, refined: RefinedVolume) -> None:
    fixed, ball = spoilt(scene)
    start = scene.seen, scene.start, scene.working, QUICK
    whole = refine_volume([(scene.moving, fixed)], *start)
    masked = refine_volume([(scene.moving, replace(fixed, ignored=ball))], *start)
    assert scene.error(masked)[0] < 0.9 * scene.error(whole)[0]
    assert scene.error(masked)[0] < 0.6 * scene.error(refined)[1]  # of no displacement


def test_what_is_ignored_in_the_moving_image_hardly_matters(scene: Scene) -> None:
    """Windows see none of it, but for what a round moves into view."""
    ball = np.sqrt((places(scene.moving.affine, scene.moving.shape) ** 2).sum(0)) < 9

    def apart(ignored: ndarray | None) -> float:
        fields = []
        for value in (0.2, 0.8):
            data = np.where(ball, value, scene.moving.data).astype(np.float32)
            moving = replace(scene.moving, data=data, ignored=ignored)
            pairs = [(moving, scene.fixed)]
            fields.append(refine_volume(pairs, scene.seen, scene.start, scene.working, QUICK[:1]).field.displacement)
        return float((fields[0] - fields[1]).abs().mean())

    assert apart(ball) < 0.5 * apart(None)


def test_a_second_pair_says_what_the_first_does_not(scene: Scene) -> None:
    """One pair of images shows the left half, the other the right one."""
    sides = []
    for left in (True, False):
        images = []
        for image in (scene.moving, scene.fixed):
            half = (places(image.affine, image.shape)[0] < 0) == left
            images.append(replace(image, data=np.where(half, image.data, 0.5).astype(np.float32)))
        sides.append((images[0], images[1]))
    start = scene.seen, scene.start, scene.working, QUICK
    both, alone = (scene.error(refine_volume(pairs, *start))[0] for pairs in (sides, sides[:1]))
    assert both < 0.8 * alone


def test_the_correlations_of_pairs_add_up(scene: Scene, refined: RefinedVolume) -> None:
    twice = refine_volume([(scene.moving, scene.fixed)] * 2, scene.seen, scene.start, scene.working, QUICK)
    assert twice.refinement.before == 2 * refined.refinement.before
    assert twice.refinement.after > 1.9 * refined.refinement.after


def test_what_is_stripped_is_told_from_what_lies_aside() -> None:
    ball = np.sqrt(((np.indices((30, 30, 30)) - 14.5) ** 2).sum(0))
    head, brain = (torch.from_numpy((ball < radius).astype(np.float32)) for radius in (13, 9))
    aside = head.roll(1, 0)
    region, whole = module._stripped(brain, head)
    assert whole is None
    assert region is not None
    assert (region[brain > 0] == 1).all()
    assert not region[ball > 12].any()
    other = module._stripped(head, brain)
    assert other[0] is None
    assert torch.equal(other[1], region)
    assert module._stripped(head, aside) == (None, None)

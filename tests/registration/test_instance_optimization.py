"""Refinement: it finds a deformation it was not told, leaves alone what it cannot better, and reports what it did."""

import math
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor

from crossmorph.errors import InputError
from crossmorph.functional import similarity, spatial
from crossmorph.functional.regularization import bending_energy
from crossmorph.networks.hierarchy import Flow
from crossmorph.registration import instance_optimization as refinement
from crossmorph.registration.instance_optimization import Refinement, SeenPair, refine

SHAPE = (64, 56)


def textured(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Blobs of a few voxels, in [0, 1]."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    blobs = scipy.ndimage.gaussian_filter(noise, 2.0)
    return torch.from_numpy(0.5 + 0.45 * blobs / np.abs(blobs).max()).float()[None, None]


def smooth_flow(shape: tuple[int, ...], largest: float, seed: int = 1) -> Flow:
    """The flow of a random smooth velocity of at most so many voxels per axis."""
    noise = np.random.default_rng(seed).standard_normal((1, len(shape), *shape))
    velocity = torch.from_numpy(scipy.ndimage.gaussian_filter(noise, (0, 0, *[8.0] * len(shape)))).float()
    velocity = velocity * largest / velocity.abs().max()
    return Flow(spatial.integrate(velocity), spatial.integrate(-velocity))


def still(shape: tuple[int, ...]) -> Flow:
    return Flow(torch.zeros(1, len(shape), *shape), torch.zeros(1, len(shape), *shape))


def other_contrast(image: Tensor) -> Tensor:
    """A curve of the intensity that rises and falls, so that no linear relation is left."""
    return 0.1 + 0.8 * torch.sin(math.pi * image.clamp(0, 1)) * image


def pair(shape: tuple[int, ...], largest: float = 2.5) -> tuple[Tensor, Tensor, Tensor, Flow]:
    """Moving image, fixed image in another contrast, perfect translation, and the flow between them."""
    truth = smooth_flow(shape, largest)
    anatomy = textured(shape)
    translated = other_contrast(anatomy)
    return anatomy, spatial.warp(translated, truth.displacement), translated, truth


def error(displacement: Tensor, truth: Tensor) -> float:
    """Mean endpoint error away from the border, where there is something to go by."""
    inner = (..., *[slice(4, -4)] * (truth.ndim - 2))
    return float(spatial.endpoint_error(displacement, truth)[inner].mean())


# --- what it finds ---------------------------------------------------------------------------------------------------


def test_a_residual_deformation_is_corrected() -> None:
    moving, fixed, translated, truth = pair(SHAPE)
    found = refine([SeenPair(moving, fixed, translated)], still(SHAPE), None, steps=30)
    assert found.improved
    assert found.after > found.before
    assert error(found.final.displacement, truth.displacement) < 0.5 * error(
        torch.zeros_like(truth.displacement), truth.displacement
    )


def test_it_starts_from_the_field_it_is_given() -> None:
    """Three voxels along the first axis are known, and the rest is found on top of them."""
    moving, fixed, translated, truth = pair(SHAPE)
    known = torch.tensor([3.0, 0.0]).view(1, 2, 1, 1).expand_as(truth.displacement)
    shifted = [spatial.warp(image, -known) for image in (moving, translated)]
    found = refine([SeenPair(shifted[0], fixed, shifted[1])], Flow(known, -known), None, steps=30)
    wanted = truth.displacement + known
    assert error(found.final.displacement, wanted) < 0.5 * error(known, wanted)


def test_mutual_information_alone_suffices() -> None:
    """A translation that shows nothing leaves the images themselves."""
    moving, fixed, translated, truth = pair(SHAPE)
    found = refine([SeenPair(moving, fixed, torch.full_like(translated, 0.5))], still(SHAPE), None, steps=30)
    assert error(found.final.displacement, truth.displacement) < 0.5 * error(
        torch.zeros_like(truth.displacement), truth.displacement
    )


def test_the_translation_alone_suffices() -> None:
    moving, fixed, translated, truth = pair(SHAPE)
    found = refine([SeenPair(torch.full_like(moving, 0.5), fixed, translated)], still(SHAPE), None, steps=30)
    assert error(found.final.displacement, truth.displacement) < 0.5 * error(
        torch.zeros_like(truth.displacement), truth.displacement
    )


def test_the_inverse_inverts() -> None:
    moving, fixed, translated, _ = pair(SHAPE)
    given = smooth_flow(SHAPE, 1.0, seed=7)
    final = refine([SeenPair(moving, fixed, translated)], given, None, steps=10).final
    inner = (..., *[slice(6, -6)] * len(SHAPE))
    for loop in (spatial.compose(*final), spatial.compose(*final[::-1])):
        assert loop[inner].abs().max() < 0.1
    assert (final.displacement - given.displacement).abs().max() > 0.5


def test_wrinkles_of_the_start_are_straightened() -> None:
    """Where the images show nothing, only the bending is left to reduce, and it is that of the whole field."""
    grid = spatial.identity_grid((64, 64))
    wrinkled = 0.5 * torch.sin(grid * 2 * math.pi / 32)
    flat = torch.full((1, 1, 64, 64), 0.5)
    inverse = -wrinkled
    for _ in range(50):  # v <- -u(p + v)
        inverse = -spatial.warp(wrinkled, inverse)
    found = refine([SeenPair(flat, flat, flat)], Flow(wrinkled, inverse), None, steps=40)
    assert found.improved
    assert bending_energy(found.final.displacement) < 0.3 * bending_energy(wrinkled)


# --- what it leaves alone --------------------------------------------------------------------------------------------


def test_identical_images_keep_the_very_field() -> None:
    image, final = textured(SHAPE), still(SHAPE)
    found = refine([SeenPair(image, image, image)], final, None, steps=15)
    assert found.final is final
    assert not found.improved
    assert found.after == found.before
    assert found.steps > 0


def test_constant_images() -> None:
    flat, final = torch.full((1, 1, *SHAPE), 0.5), still(SHAPE)
    found = refine([SeenPair(flat, flat, flat)], final, None, steps=5)
    assert math.isfinite(found.before)
    assert math.isfinite(found.after)
    assert found.final is final


def claim(monkeypatch: pytest.MonkeyPatch, size: float) -> None:
    """Control points at random, of this many voxels, pass for a gain."""

    def optimise(objective, controls, steps, deadline):
        best = size * torch.randn(controls.shape, generator=torch.Generator().manual_seed(0))
        return refinement._Optimised(best, 1, 0.0, 1.0)

    monkeypatch.setattr(refinement, "_optimise", optimise)


def test_a_field_that_folds_anew_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    moving, fixed, translated, _ = pair(SHAPE)
    final = still(SHAPE)
    claim(monkeypatch, 0.4)
    assert refine([SeenPair(moving, fixed, translated)], final, None).improved
    claim(monkeypatch, 40.0)
    found = refine([SeenPair(moving, fixed, translated)], final, None)
    assert found.final is final
    assert (found.improved, found.before, found.after) == (False, 0.0, 0.0)


def test_a_fold_that_was_there_before_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    moving, fixed, translated, _ = pair(SHAPE)
    given = still(SHAPE)
    given.displacement[0, 0, 30, 30] = 1.5
    claim(monkeypatch, 1e-4)
    found = refine([SeenPair(moving, fixed, translated)], given, None)
    assert found.improved
    assert spatial.strict_jacobian(found.final.displacement).min() <= 0


@pytest.mark.parametrize("steps", [0, 1, 2, 7])
def test_never_worse(steps: int) -> None:
    moving, fixed, translated, _ = pair(SHAPE)
    found = refine([SeenPair(moving, fixed, translated)], still(SHAPE), None, steps=steps)
    assert found.steps == steps
    assert found.after >= found.before
    assert found.improved == (found.after > found.before) == (steps > 0)


# --- what it says and what it costs ----------------------------------------------------------------------------------


def objective(moving: Tensor, fixed: Tensor, translated: Tensor, displacement: Tensor) -> float:
    """By the package's own similarities; ``ncc`` at every other voxel along each axis."""
    moved_moving, moved = (spatial.warp(image, displacement) for image in (moving, translated))
    information = similarity.mi(moved_moving, fixed)
    products = torch.cat([torch.ones_like(fixed), moved, fixed, moved**2, fixed**2, moved * fixed], dim=1)
    size, i, j, ii, jj, ij = similarity.box_sum(products, refinement.WINDOW)[..., ::2, ::2].split(1, dim=1)
    squared = (ij - i * j / size) ** 2 / ((ii - i * i / size) * (jj - j * j / size) + 1e-5)
    bending = refinement.BENDING_WEIGHT * bending_energy(displacement)
    return float(information + refinement.NCC_WEIGHT * squared.mean() - bending)


@pytest.mark.parametrize("rate", [0.4, 3.0])
def test_the_objective_is_that_of_the_fields(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the field that came in and of the one that comes out, with moderate strides and with long ones."""
    monkeypatch.setattr(refinement, "RATE", rate)
    moving, fixed, translated, _ = pair(SHAPE)
    given = smooth_flow(SHAPE, 3.0, seed=7)
    found = refine([SeenPair(moving, fixed, translated)], given, None, steps=8)
    assert found.improved
    for reported, flow in ((found.before, given), (found.after, found.final)):
        assert reported == pytest.approx(objective(moving, fixed, translated, flow.displacement), abs=1e-3)


def test_control_points_are_in_voxels() -> None:
    """Equal ones shift everything by themselves, whatever the ratio of the velocity's grid, odd sides included."""
    shape = (64, 57)
    bases = refinement._bases(torch.zeros(1, 1, *shape))
    controls = torch.ones(1, len(shape), *(basis.shape[1] for basis in bases))
    flow = refinement._flow(controls, bases, shape)
    torch.testing.assert_close(flow.displacement, torch.ones(1, len(shape), *shape))
    torch.testing.assert_close(flow.inverse, -torch.ones(1, len(shape), *shape))


def test_the_best_point_is_kept() -> None:
    """A peak at 0.1 and strides of 0.4: the steps run past it, and the last is not the best."""

    def peak(controls: Tensor) -> Tensor:
        return -(controls - 0.1).abs().sum()

    found = refinement._optimise(peak, torch.zeros(1, 1, 1, 1), 1, math.inf)
    assert (found.steps, found.before, found.after) == (1, pytest.approx(-0.1), found.before)
    assert float(peak(found.controls)) == found.after


def test_the_correlation_is_near_that_of_all_windows() -> None:
    _, fixed, translated, _ = pair(SHAPE)
    some, every = refinement._correlation(fixed, refinement.WINDOW, None)(translated), similarity.ncc(translated, fixed)
    assert float(some) == pytest.approx(float(every), abs=0.03)


def test_bending_by_hand() -> None:
    """``u = (x^2 + 3 x y, 0)`` on 5 x 4: ``d2/dx2 = 2`` at 3 x 4 places, ``d2/dxdy = 3``, counted twice, at 4 x 3."""
    x, y = spatial.identity_grid((5, 4))[0]
    field = torch.stack([x * x + 3 * x * y, torch.zeros_like(x)])[None]
    assert float(bending_energy(field)) == pytest.approx((2**2 * 3 * 4 + 2 * 3**2 * 4 * 3) / 20, rel=1e-5)
    affine = torch.stack([0.3 * x - 0.2 * y + 1, 0.1 * x + 0.5 * y])[None]
    assert float(bending_energy(affine)) < 1e-10


def test_same_steps_same_bits() -> None:
    first, second = (refine([SeenPair(*pair(SHAPE)[:3])], still(SHAPE), None, steps=6) for _ in range(2))
    assert torch.equal(first.final.displacement, second.final.displacement)
    assert torch.equal(first.final.inverse, second.final.inverse)
    assert (first.steps, first.before, first.after) == (second.steps, second.before, second.after)


def test_it_stops_when_it_stops_gaining() -> None:
    moving, fixed, translated, _ = pair(SHAPE)
    found = refine([SeenPair(moving, fixed, translated)], still(SHAPE), None, steps=500)
    assert refinement.PATIENCE <= found.steps < 200
    assert found.after >= refine([SeenPair(moving, fixed, translated)], still(SHAPE), None, steps=10).after


def timed(seconds: float) -> tuple[Refinement, float]:
    moving, fixed, translated, _ = pair((128, 128))
    began = time.perf_counter()
    found = refine([SeenPair(moving, fixed, translated)], still((128, 128)), seconds, steps=2000)
    return found, time.perf_counter() - began


def test_time_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generously: the machine that runs this may be busy."""
    monkeypatch.setattr(refinement, "LEAST_GAIN", -1.0)
    found, wall = timed(1.0)
    assert 0 < found.steps < 2000
    assert found.seconds == pytest.approx(wall, abs=0.2)
    assert wall < 4.0


def test_no_time_no_steps() -> None:
    found, _ = timed(0.0)
    assert (found.steps, found.improved) == (0, False)


@pytest.mark.parametrize(("seconds", "steps"), [(-1.0, 5), (math.nan, 5), (None, -1)])
def test_bad_budgets(seconds: float | None, steps: int) -> None:
    moving, fixed, translated, _ = pair((16, 16))
    with pytest.raises(InputError, match="expected at least 0"):
        refine([SeenPair(moving, fixed, translated)], still((16, 16)), seconds, steps)


def test_the_first_call_pays_for_no_imports() -> None:
    """The compiler, which torch.optim would bring, takes longer to import than the refinement takes."""
    code = (
        "import sys, torch\n"
        "from crossmorph.networks.hierarchy import Flow\n"
        "from crossmorph.registration.instance_optimization import SeenPair, refine\n"
        "image = torch.rand(1, 1, 32, 32)\n"
        "refine([SeenPair(image, image.flip(2), image)], Flow(*torch.zeros(2, 1, 2, 32, 32)), None, steps=1)\n"
        "print('torch._dynamo' not in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "True", done.stderr


# --- gradients -------------------------------------------------------------------------------------------------------


def test_no_gradient_leaks() -> None:
    """Neither into what comes in, a network behind it included, nor out of what comes back."""
    moving, fixed, translated, _ = pair(SHAPE)
    network = torch.nn.Conv2d(1, 2, 3, padding=1)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    field = 0.1 * network(moving)
    inputs = [tensor.clone().requires_grad_() for tensor in (moving, fixed, translated)]
    kept = [tensor.detach().clone() for tensor in (*inputs, field)]
    found = refine([SeenPair(*inputs)], Flow(field, -field), None, steps=3)
    assert found.improved
    assert not any(tensor.requires_grad for tensor in found.final)
    assert all(tensor.grad is None for tensor in (*inputs, *network.parameters()))
    assert all(torch.equal(one, other) for one, other in zip((*inputs, field), kept, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(network.parameters(), before, strict=True))


def test_it_works_while_inferring() -> None:
    """The networks' answer is made of inference tensors, and the caller may still be inferring."""
    with torch.inference_mode():
        moving, fixed, translated, _ = pair(SHAPE)
        inside = refine([SeenPair(moving, fixed, translated)], still(SHAPE), None, steps=3)
    outside = refine([SeenPair(moving, fixed, translated)], still(SHAPE), None, steps=3)
    plain = refine([SeenPair(*pair(SHAPE)[:3])], still(SHAPE), None, steps=3)
    for found in (inside, outside):
        assert torch.equal(found.final.displacement, plain.final.displacement)


def test_what_does_not_count_has_no_say() -> None:
    """Noise where nothing counts changes nothing, but for what the field moves into view."""
    moving, fixed, translated, truth = pair(SHAPE)
    counted = torch.ones_like(fixed, dtype=torch.bool)
    counted[..., 12:30, 12:30] = False
    noise = torch.rand(fixed.shape, generator=torch.Generator().manual_seed(0))
    spoilt = torch.where(counted, fixed, noise)
    errors = [
        error(
            refine([SeenPair(moving, image, translated)], still(SHAPE), None, steps=30, where=where).final.displacement,
            truth.displacement,
        )
        for image, where in ((fixed, None), (spoilt, None), (spoilt, counted))
    ]
    assert errors[2] < errors[1]
    assert errors[2] < 2 * errors[0]  # within the square, of four control points a side, smoothness alone decides
    steps = [
        refine([SeenPair(moving, each, translated)], still(SHAPE), None, steps=5, where=counted)
        for each in (fixed, spoilt)
    ]
    assert torch.allclose(steps[0].final.displacement, steps[1].final.displacement, atol=1e-4)


def test_the_similarities_of_pairs_add_up() -> None:
    seen = SeenPair(*pair(SHAPE)[:3])
    once, twice = (refine(pairs, still(SHAPE), None, steps=5) for pairs in ([seen], [seen, seen]))
    assert twice.before == pytest.approx(2 * once.before)  # nothing is bent yet
    assert twice.after > twice.before

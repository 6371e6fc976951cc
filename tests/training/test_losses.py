"""Objectives: Eq. 1-3 from tiny images by hand and from their parts, their signs, and where their gradients go."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from crossmorph.functional import regularization, similarity, spatial
from crossmorph.networks.affine import Affine
from crossmorph.networks.hierarchy import Flow, Hierarchy, HierarchySpec
from crossmorph.networks.unet import UNetSpec
from crossmorph.training import losses
from crossmorph.training.batch import Samples
from crossmorph.training.losses import Weights

SMALL = UNetSpec(encoder=(4,), decoder=(4,), final=(4,))
WEIGHTS = Weights(
    coarse_smoothness=2,
    coarse_similarity=3,
    translation_mask=5,
    translation_similarity=7,
    translation_error=11,
    fine_smoothness=13,
    fine_similarity=17,
    fine_error=19,
)
dimensions = pytest.mark.parametrize("shape", [(20, 24), (20, 12, 14)], ids=["2d", "3d"])


def blob(shape: tuple[int, ...], at: float = 0.0) -> Tensor:
    """A bright ball, ``at`` voxels along the first axis from the centre; (1, 1, *shape) in [0, 1]."""
    grid = spatial.identity_grid(shape)
    centre = torch.tensor([(size - 1) / 2 for size in shape])
    centre[0] += at
    distance = (grid - centre.view(1, -1, *[1] * len(shape))).square().sum(1, keepdim=True)
    return torch.exp(-distance / 8)


def ring(image: Tensor) -> Tensor:
    """Another contrast of the ball: dark without and within, as CSF and white matter are about grey matter."""
    return 4 * image * (1 - image)


def shift(shape: tuple[int, ...], by: float) -> Flow:
    """A translation along the first axis, and its inverse."""
    u = torch.zeros(1, len(shape), *shape)
    u[:, 0] = by
    return Flow(u, -u)


def product_mean(varying: Tensor, constant: Tensor) -> Tensor:
    """A similarity that can be worked out by hand."""
    return (varying * constant).flatten(1).mean(1)


def images(moving: Tensor, fixed: Tensor) -> Samples:
    """Samples of which nothing better than the images is known."""
    return Samples(moving, fixed, moving, fixed)


def row(*values: float) -> Tensor:
    """Two equal rows of voxels."""
    return torch.tensor([values, values], dtype=torch.float32)[None, None]


def row_shift(by: float) -> Flow:
    u = torch.zeros(1, 2, 2, 4)
    u[:, 1] = by
    return Flow(u, -u)


# --- smoothness and stretching ---------------------------------------------------------------------------------------


def test_smoothness_by_hand() -> None:
    """u = (i j, 2 i) on 3x2 voxels. Steps down: (j, 2), squares 4 5 4 5, mean 4.5; across: (i, 0), 0 1 4, mean 5/3."""
    i, j = spatial.identity_grid((3, 2))[0]
    assert regularization.smoothness(torch.stack([i * j, 2 * i])[None]).item() == pytest.approx(4.5 + 5 / 3)


@dimensions
def test_smoothness_is_numpys(shape: tuple[int, ...]) -> None:
    u = torch.rand((3, len(shape), *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    steps = [np.diff(u.numpy(), axis=axis) ** 2 for axis in range(2, u.ndim)]
    expected = sum(squares.sum(1).mean() for squares in steps)
    assert regularization.smoothness(u).mean().item() == pytest.approx(expected, rel=1e-12)


@dimensions
def test_smoothness_is_a_mean_over_voxels(shape: tuple[int, ...]) -> None:
    """A ramp of slope 0.5 has the same at any size and in any batch: a quarter; a translation has none."""
    for factor in (1, 2):
        larger = tuple(factor * size for size in shape)
        grid = spatial.identity_grid(larger)
        ramp = torch.zeros_like(grid)
        ramp[:, -1] = 0.5 * grid[:, 0]
        assert regularization.smoothness(ramp.repeat(factor, *[1] * (len(shape) + 1))).mean().item() == pytest.approx(
            0.25
        )
    assert regularization.smoothness(shift(shape, 3.0).displacement).item() == 0


def test_stretch_by_hand() -> None:
    masks = torch.tensor([[-0.3, 0.1, 0.5], [2.0, 2.5, 3.0]]).view(2, 1, 1, 3)
    expected = torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.5, 1.0]]).view(2, 1, 1, 3)
    torch.testing.assert_close(losses.stretch(masks), expected)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(-5, 5, width=32), min_size=6, max_size=6))
def test_stretch_keeps_to_the_unit_interval(values: list[float]) -> None:
    stretched = losses.stretch(torch.tensor(values).view(1, 1, 2, 3))
    assert 0 <= stretched.min() <= stretched.max() <= 1 + 1e-5


def test_stretch_passes_no_gradient_through_its_bounds() -> None:
    mask = torch.tensor([-0.3, 0.1, 0.5]).view(1, 1, 1, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(losses.stretch(mask).square().sum(), mask)
    # d/dm of ((m + 0.3) / 0.8)^2, the bounds held: 2 * (0, 0.5, 1) / 0.8.
    torch.testing.assert_close(gradient.flatten(), torch.tensor([0.0, 1.25, 2.5]))


@pytest.mark.parametrize("name", ["mi", "nmi", "ncc", "lg"])
def test_a_flat_mask_has_a_finite_gradient(name: str) -> None:
    moving = blob((16, 16))
    mask = torch.full_like(moving, -0.2).requires_grad_()
    flow = shift((16, 16), 0.0)
    terms = losses.translation_terms(moving, moving, flow, mask, similarity.SIMILARITIES[name], Weights())
    sum(terms, torch.zeros(())).backward()
    assert mask.grad is not None
    assert mask.grad.isfinite().all()


# --- the three equations ---------------------------------------------------------------------------------------------


def test_weights_are_the_papers() -> None:
    assert Weights().model_dump() == {
        "coarse_smoothness": 0.02,
        "coarse_similarity": 0.15,
        "coarse_backward": None,
        "translation_mask": 0.02,
        "translation_similarity": 0.02,
        "translation_error": 2.5,
        "fine_smoothness": 0.02,
        "fine_similarity": 0.10,
        "fine_error": 1.5,
    }
    for given_ in ({"coarse_smoothness": -1}, {"fine": 1}):
        with pytest.raises(ValidationError, match=next(iter(given_))):
            Weights.model_validate(given_)


def test_coarse_terms_by_hand() -> None:
    """M = 1 2 3 4, F = 1 0 0 2, one voxel apart: M o phi = 2 3 4 4 and F o phi^-1 = 1 1 0 0."""
    terms = losses.coarse_terms(row(1, 2, 3, 4), row(1, 0, 0, 2), row_shift(1), product_mean, WEIGHTS, even())
    assert [term.item() for term in terms] == pytest.approx([0, -3 * (2 + 8) / 4, -3 * (1 + 2) / 4])


@pytest.mark.parametrize(("weight", "backward"), [(0.0, 0.0), (5.0, -5 * 3 / 4)])
def test_the_way_back_can_weigh_otherwise(weight: float, backward: float) -> None:
    """Images as above."""
    weights = WEIGHTS.model_copy(update={"coarse_backward": weight})
    terms = losses.coarse_terms(row(1, 2, 3, 4), row(1, 0, 0, 2), row_shift(1), product_mean, weights, even())
    assert [term.item() for term in terms] == pytest.approx([0, -3 * (2 + 8) / 4, backward])


def test_translation_terms_by_hand() -> None:
    """M = 0 1 1 0, mask = 1 -1 -0.5 0, so T = 1 0 0.5 0 and the stretched mask is 1 0 0.25 0.5.

    One voxel on, T is 0 0.5 0 0; F is 0 1 0 0, and the squared error (0.5)^2 / 4.
    """
    terms = losses.translation_terms(
        row(0, 1, 1, 0), row(0, 1, 0, 0), row_shift(1), row(1, -1, -0.5, 0), product_mean, WEIGHTS
    )
    assert [term.item() for term in terms] == pytest.approx([-5 * 0.25 / 4, -7 * 0.5 / 4, 11 * 0.25 / 4])


def test_fine_terms_by_hand() -> None:
    """M = 1 2 3 4 and T = 4 3 2 1, two voxels on: 3 4 4 4 and 2 1 1 1; F = 1 0 1 1."""
    samples = Samples(row(0, 0, 0, 0), row(1, 0, 1, 1), row(1, 2, 3, 4), row(1, 0, 1, 1))
    terms = losses.fine_terms(samples, row(4, 3, 2, 1), row_shift(1), row_shift(2), product_mean, WEIGHTS, even())
    assert [term.item() for term in terms] == pytest.approx([0, -17 * (3 + 4 + 4) / 4, 19 * (1 + 1 + 0 + 0) / 4])


def even(pairs: int = 1) -> losses.Balance:
    """Nothing weighs more than it is."""
    return losses.balance(torch.zeros(pairs), (1.0, 1.0))


@dimensions
@pytest.mark.parametrize("name", ["mi", "nmi", "ncc", "lg"])
def test_terms_are_their_equations(name: str, shape: tuple[int, ...]) -> None:
    """A batch of two, curved fields, each part asked of the other modules."""
    sim, generator = similarity.SIMILARITIES[name], torch.Generator().manual_seed(0)
    moving, fixed, mask = (torch.rand((2, 1, *shape), generator=generator) for _ in range(3))
    fields = 2 * torch.rand((6, 2, len(shape), *shape), generator=generator) - 1
    coarse, fine, final = Flow(*fields[:2]), Flow(*fields[2:4]), Flow(*fields[4:])
    mask, w = mask - 0.5, WEIGHTS
    first = losses.coarse_terms(moving, fixed, coarse, sim, w, even(2))
    assert first.smoothness.item() == pytest.approx(2 * regularization.smoothness(coarse.displacement).mean().item())
    moved, moved_back = spatial.warp(moving, coarse.displacement), spatial.warp(fixed, coarse.inverse)
    assert first.forward.item() == pytest.approx(-3 * sim(moved, fixed).mean().item())
    assert first.backward.item() == pytest.approx(-3 * sim(moved_back, moving).mean().item())

    second = losses.translation_terms(moving, fixed, coarse, mask, sim, w)
    translated = moving + mask
    error = similarity.mse(spatial.warp(translated, coarse.displacement), fixed).mean().item()
    assert second.mask.item() == pytest.approx(-5 * sim(losses.stretch(mask), moving).mean().item())
    assert second.structure.item() == pytest.approx(-7 * sim(translated, moving).mean().item())
    assert second.error.item() == pytest.approx(11 * error)

    third = losses.fine_terms(images(moving, fixed), translated, fine, final, sim, w, even(2))
    error = similarity.mse(spatial.warp(translated, final.displacement), fixed).mean().item()
    assert third.smoothness.item() == pytest.approx(13 * regularization.smoothness(fine.displacement).mean().item())
    assert third.similarity.item() == pytest.approx(
        -17 * sim(spatial.warp(moving, final.displacement), fixed).mean().item()
    )
    assert third.error.item() == pytest.approx(19 * error)


# --- signs -----------------------------------------------------------------------------------------------------------


@dimensions
@pytest.mark.parametrize("name", ["mi", "nmi", "ncc", "lg"])
def test_better_alignment_costs_less(name: str, shape: tuple[int, ...]) -> None:
    """The moving ball is a ring and lies 2 voxels on; the mask turns it into the fixed one."""
    moving, fixed = ring(blob(shape, at=2.0)), blob(shape)
    mask = blob(shape, at=2.0) - moving
    sim = similarity.SIMILARITIES[name]
    right, wrong = shift(shape, 2.0), shift(shape, 0.0)
    coarse = [losses.coarse_terms(moving, fixed, flow, sim, Weights(), even()) for flow in (right, wrong)]
    assert coarse[0].forward < coarse[1].forward
    assert coarse[0].backward < coarse[1].backward
    fine = [
        losses.fine_terms(
            Samples(moving, fixed, moving, fixed), moving + mask, shift(shape, 0.0), flow, sim, Weights(), even()
        )
        for flow in (right, wrong)
    ]
    assert fine[0].similarity < fine[1].similarity
    assert fine[0].error < 0.1 * fine[1].error


@dimensions
def test_better_translation_costs_less(shape: tuple[int, ...]) -> None:
    moving, fixed = ring(blob(shape, at=2.0)), blob(shape)
    right = blob(shape, at=2.0) - moving
    noise = torch.rand(moving.shape, generator=torch.Generator().manual_seed(0))
    flow = shift(shape, 2.0)
    good, none, bad = (
        losses.translation_terms(moving, fixed, flow, mask, similarity.mi, Weights())
        for mask in (right, 0 * right, noise - moving)
    )
    assert good.error < 0.1 * min(none.error, bad.error)
    assert good.structure < bad.structure
    assert good.mask < bad.mask


def test_each_pair_counts_in_its_balance() -> None:
    """Differences of 1 in one of 3 x 2 steps, twice that in the other pair; factors 1/2 and 8 of the smoothness."""
    u = torch.zeros(2, 2, 3, 2)
    u[0, 0, 1:, 0] = 1
    u[1, 0, 1:, 0] = 2
    each = [1 / 4 + 2 / 3, 4 / 4 + 8 / 3]  # 4 steps along the first axis, 3 along the second
    torch.testing.assert_close(regularization.smoothness(u), torch.tensor(each))
    balance = losses.balance(torch.tensor([0.0, 1.0]), (0.5, 8.0))
    torch.testing.assert_close(balance.smoothness, torch.tensor([2 / 3, 16 / 9]))
    torch.testing.assert_close(balance.others, torch.tensor([4 / 3, 2 / 9]))
    zeros, weights = torch.zeros(2, 1, 3, 2), Weights(coarse_smoothness=1, coarse_similarity=1)

    def first_and_second(varying: torch.Tensor, _constant: torch.Tensor) -> torch.Tensor:
        return torch.tensor([3.0, 9.0]).to(varying)

    terms = losses.coarse_terms(zeros, zeros, Flow(u, -u), first_and_second, weights, balance)
    assert terms.smoothness.item() == pytest.approx((each[0] * 2 / 3 + each[1] * 16 / 9) / 2)
    assert terms.forward.item() == terms.backward.item() == pytest.approx(-(3 * 4 / 3 + 9 * 2 / 9) / 2)


def test_the_affine_terms_fall_as_images_meet() -> None:
    still = blob((32, 32))
    moving = blob((32, 32), at=6.0)

    def terms(shift: float) -> losses.AffineTerms:
        affine = Affine(torch.eye(2)[None], torch.tensor([[shift, 0.0]]))
        return losses.affine_terms(moving, still, [affine], 32, similarity.overlap)

    near, half, none = (terms(shift) for shift in (6.0, 3.0, 0.0))
    assert near.similarity < half.similarity < none.similarity
    assert near.distant < half.distant < none.distant
    both = losses.affine_terms(
        moving,
        still,
        [Affine(torch.eye(2)[None], torch.tensor([[x, 0.0]])) for x in (6.0, 0.0)],
        32,
        similarity.overlap,
    )
    assert both.similarity.item() == pytest.approx((near.similarity.item() + none.similarity.item()) / 2)


def test_a_rougher_field_costs_more() -> None:
    rough = torch.rand((1, 2, 16, 16), generator=torch.Generator().manual_seed(0))
    smooth = spatial.bspline_smooth(rough, 4.0)
    image = blob((16, 16))
    costs = [
        losses.coarse_terms(image, image, Flow(u, -u), similarity.mi, Weights(), even()).smoothness
        for u in (smooth, rough)
    ]
    assert 0 < costs[0] < 0.3 * costs[1]


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["coarse", "translation", "fine"])
@pytest.mark.parametrize("name", ["mi", "nmi", "ncc", "lg"])
def test_gradients_reach_the_network_of_their_stage_alone(stage: str, name: str) -> None:
    """With what the stages before made held fast, as training does."""
    torch.manual_seed(0)
    model = Hierarchy(HierarchySpec(coarse=SMALL, translator=SMALL, fine=SMALL))
    moving, fixed, sim = blob((16, 16), at=2.0), 1 - 0.9 * blob((16, 16)), similarity.SIMILARITIES[name]
    coarse = model.register_coarse(moving, fixed)
    if stage == "coarse":
        terms: losses.Terms = losses.coarse_terms(moving, fixed, coarse, sim, Weights(), even(len(moving)))
    else:
        coarse = Flow(*(field.detach() for field in coarse))
        mask = model.translate(moving, fixed, coarse)
        if stage == "translation":
            terms = losses.translation_terms(moving, fixed, coarse, mask, sim, Weights())
        else:
            translated = moving + mask.detach()
            fine = model.register_fine(moving, fixed, translated, coarse)
            final = Flow(spatial.compose(coarse.displacement, fine.displacement), fine.inverse)
            terms = losses.fine_terms(images(moving, fixed), translated, fine, final, sim, Weights(), even(len(moving)))
    sum(terms, torch.zeros(())).backward()
    for network in ("coarse", "translation", "fine"):
        gradients = [parameter.grad for parameter in getattr(model, network).parameters()]
        if network == stage:
            assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
            assert max(gradient.abs().max().item() for gradient in gradients if gradient is not None) > 1e-6
        else:
            assert not any(gradient is not None for gradient in gradients)


@pytest.mark.parametrize("level", [-0.4, 0.4])
def test_a_mask_of_either_sign_is_pulled_towards_the_truth(level: float) -> None:
    """Where T is too dark the mask should rise (a negative slope), and where it is too bright fall."""
    moving = blob((16, 16))
    mask = torch.full_like(moving, level).requires_grad_()
    terms = losses.translation_terms(moving, moving, shift((16, 16), 0.0), mask, similarity.mi, Weights())
    (slope,) = torch.autograd.grad(terms.error, mask)
    assert (slope.sign() == np.sign(level)).all()


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_gradients_of_a_field_are_the_slopes(stage: str) -> None:
    """By finite differences through warp and similarity, off the kinks at whole voxels."""
    shape, generator = (7, 8), torch.Generator().manual_seed(0)
    moving, fixed, translated = (torch.rand((1, 1, *shape), generator=generator).double() for _ in range(3))
    u = (0.1 + 0.3 * torch.rand((1, 2, *shape), generator=generator)).double().requires_grad_()

    def terms(field: Tensor) -> tuple[Tensor, ...]:
        flow = Flow(field, -field)
        if stage == "coarse":
            return losses.coarse_terms(moving, fixed, flow, similarity.mi, WEIGHTS, even())
        return losses.fine_terms(
            Samples(moving, fixed, moving, fixed), translated, flow, flow, similarity.mi, WEIGHTS, even()
        )

    assert torch.autograd.gradcheck(terms, (u,))

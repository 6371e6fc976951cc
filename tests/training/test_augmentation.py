"""Augmentation: powers and mirrors by hand, the distribution of the draws, and that a draw is all there is to it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from crossmorph.training.augmentation import Augmentation, AugmentSpec, augment, draw


def images(*shape: int) -> tuple[Tensor, Tensor]:
    pair = torch.rand((2, 1, *shape), generator=torch.Generator().manual_seed(0))
    return pair[0], pair[1]


def draws(spec: AugmentSpec, count: int, seed: int = 0) -> list[Augmentation]:
    rng = np.random.default_rng(seed)
    return [draw(spec, rng) for _ in range(count)]


def test_by_hand() -> None:
    """M = 0.5 1 to the power 2, F = 0.25 0 to the power 1/2; rows change places."""
    moving, fixed = torch.tensor([[[0.5], [1.0]]]), torch.tensor([[[0.25], [0.0]]])
    parameters = Augmentation(flip=True, moving_gamma=2.0, fixed_gamma=0.5)
    squared, rooted = augment(moving, fixed, parameters)
    assert squared.flatten().tolist() == [1, 0.25]
    assert rooted.flatten().tolist() == [0, 0.5]


@pytest.mark.parametrize("shape", [(5, 4), (4, 5, 3)], ids=["2d", "3d"])
def test_both_images_are_mirrored_along_the_first_axis_only(shape: tuple[int, ...]) -> None:
    moving, fixed = images(*shape)
    results = augment(moving, fixed, Augmentation(flip=True, moving_gamma=1.0, fixed_gamma=1.0))
    for image, result in zip((moving, fixed), results, strict=True):
        np.testing.assert_array_equal(result.numpy(), image.numpy()[:, ::-1])
    again = augment(*results, Augmentation(flip=True, moving_gamma=1.0, fixed_gamma=1.0))
    assert torch.equal(again[0], moving)
    assert torch.equal(again[1], fixed)


@pytest.mark.parametrize("shape", [(5, 4), (4, 5, 3)], ids=["2d", "3d"])
def test_without_variation_nothing_changes(shape: tuple[int, ...]) -> None:
    moving, fixed = images(*shape)
    (parameters,) = draws(AugmentSpec(), 1)
    assert parameters == Augmentation(flip=False, moving_gamma=1.0, fixed_gamma=1.0)
    results = augment(moving, fixed, parameters)
    assert torch.equal(results[0], moving)
    assert torch.equal(results[1], fixed)


@settings(deadline=None, max_examples=20)
@given(gamma=st.floats(0, 2), seed=st.integers(0, 999))
def test_contrast_changes_keep_order_and_range(gamma: float, seed: int) -> None:
    (parameters,) = draws(AugmentSpec(gamma=gamma), 1, seed)
    ramp = torch.linspace(0, 1, 50).view(1, 50, 1)
    for result in augment(ramp, ramp, parameters):
        assert (result[0, 0, 0].item(), result[0, -1, 0].item()) == (0, 1)
        assert (result.diff(dim=1) > 0).all()


def test_powers_are_log_uniform_and_each_images_own() -> None:
    parameters = draws(AugmentSpec(gamma=0.5), 2000)
    logs = np.log([(p.moving_gamma, p.fixed_gamma) for p in parameters])
    np.testing.assert_allclose(logs.mean(0), 0, atol=0.03)
    np.testing.assert_allclose(logs.std(0), 1 / np.sqrt(12), rtol=0.03)  # uniform on an interval of length 1
    assert 0.49 < logs.max() <= 0.5
    assert -0.5 <= logs.min() < -0.49
    assert abs(np.corrcoef(logs.T)[0, 1]) < 0.07


def test_half_of_the_pairs_are_mirrored_if_any() -> None:
    assert np.mean([p.flip for p in draws(AugmentSpec(flip=True), 1000)]) == pytest.approx(0.5, abs=0.05)
    assert not any(p.flip for p in draws(AugmentSpec(gamma=0.5), 100))


def test_the_same_state_draws_the_same() -> None:
    spec = AugmentSpec(flip=True, gamma=0.3)
    assert draws(spec, 20, seed=1) == draws(spec, 20, seed=1) != draws(spec, 20, seed=2)


@pytest.mark.parametrize("given_", [{"gamma": -0.1}, {"gamma": 2.1}, {"flips": True}])
def test_specifications_refuse_what_they_do_not_know(given_: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(given_))):
        AugmentSpec.model_validate(given_)

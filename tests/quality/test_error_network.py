"""The error network: what it is shown, what a network without weights returns, and what it must not depend on."""

import math

import pytest
import torch

from crossmorph.quality.assessment import Consistency
from crossmorph.quality.consistency import network_maps
from crossmorph.quality.error_network import BEGIN, MOST, ErrorNetwork, expected_error

NUMBERS = 3
SHAPES = {2: (32, 48), 3: (16, 32, 16)}


def network(dim: int) -> ErrorNetwork:
    torch.manual_seed(dim)
    return ErrorNetwork(dim, NUMBERS).eval().requires_grad_(False)


def maps(dim: int, shape: tuple[int, ...]) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.rand(1, 5 + 2 * dim, *shape)


@pytest.mark.parametrize("dim", [2, 3])
def test_maps_are_shown_in_the_documented_order(dim):
    shape = SHAPES[dim]
    values = {
        name: torch.full(shape, float(place)) for place, name in enumerate(("moved", "translated", "correlation"))
    }
    vectors = {name: torch.full((dim, *shape), value) for name, value in (("shifted", 8.0), ("swapped", 9.0))}
    others = {"residual": torch.full(shape, 3.0), "foreground": torch.ones(shape, dtype=torch.bool)}
    others |= {"rotated": 0.0, "mirrored": None}
    found = Consistency(**values, **vectors, **others)
    shown = network_maps(torch.full((1, 1, *shape), -1.0), found)
    assert shown.shape == (1, 5 + 2 * dim, *shape)
    assert shown.flatten(2)[0, :, 0].tolist() == [-1, 0, 1, 2, 3, *[8] * dim, *[9] * dim]


@pytest.mark.parametrize("dim", [2, 3])
def test_without_weights_in_the_last_layer_its_constant_is_returned_everywhere(dim):
    empty = network(dim)
    empty.unet.output.weight.zero_()
    assert empty(maps(dim, SHAPES[dim]), torch.zeros(1, NUMBERS)).shape == (1, *(side // 2 for side in SHAPES[dim]))
    constant_map = expected_error(empty, maps(dim, SHAPES[dim]), torch.zeros(NUMBERS))
    torch.testing.assert_close(constant_map, torch.full(SHAPES[dim], math.exp(BEGIN)))
    empty.unet.output.bias.fill_(10.0)
    torch.testing.assert_close(
        expected_error(empty, maps(dim, SHAPES[dim]), torch.zeros(NUMBERS)), torch.full_like(constant_map, MOST)
    )


@pytest.mark.parametrize("dim", [2, 3])
def test_sides_of_any_length_are_padded_to_what_the_network_takes(dim):
    """Voxels repeated at the end of the last axis: the result is that of the continued map, cropped."""
    long = maps(dim, SHAPES[dim])
    long[..., -5:] = long[..., -6:-5]
    short = long[..., :-5]
    numbers = torch.zeros(NUMBERS)
    torch.testing.assert_close(
        expected_error(network(dim), short, numbers), expected_error(network(dim), long, numbers)[..., :-5]
    )


def test_numbers_are_seen_standardised():
    one, two = network(2), network(2)
    two.mean.fill_(5.0)
    two.scale.fill_(2.0)
    seen = maps(2, SHAPES[2])
    plain = expected_error(one, seen, torch.tensor([1.0, -1.0, 0.5]))
    torch.testing.assert_close(expected_error(two, seen, torch.tensor([7.0, 3.0, 6.0])), plain)
    assert not torch.equal(expected_error(one, seen, torch.zeros(NUMBERS)), plain)


def test_vectors_without_bound_give_finite_errors():
    seen = maps(2, SHAPES[2])
    seen[:, 5:] = 1e15
    assert torch.isfinite(expected_error(network(2), seen, torch.zeros(NUMBERS))).all()

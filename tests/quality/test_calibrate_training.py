"""Training of the error network: augmented maps keep their meaning, and it learns where and how large errors are."""

import math

import numpy as np
import pytest
import torch
from examples import measures

from crossmorph.errors import InputError
from crossmorph.networks.checkpoint import save_tensors
from crossmorph.quality.calibration.network_training import (
    BATCH,
    PAIR_LEAST,
    PAIR_MOST,
    _augmented,
    _cropped,
    pair_error,
    train,
)
from crossmorph.quality.calibration.trials import Trial, read_trial, write_trial
from crossmorph.quality.error_network import expected_error
from crossmorph.quality.measures import PREDICTORS, error_predictors

MEASURES = measures(**dict.fromkeys(PREDICTORS, 0.5), working_spacing=1.5)


def trial(seed: int, shape: tuple[int, ...] = (32, 32), known: bool = True) -> Trial:
    """The residual shows the error: 4 voxels in the left half or in the right, else half a voxel."""
    rng = torch.Generator().manual_seed(seed)
    maps = 0.1 * torch.randn(5 + 2 * len(shape), *shape, generator=rng)
    errors = torch.full(shape, 0.5 if known else math.inf)
    if seed % 2:
        half = slice(shape[0] // 2) if seed % 4 == 1 else slice(shape[0] // 2, None)
        errors[half] = 4.0
        maps[4, half] += 1.0
    inside = torch.ones(shape, dtype=torch.bool)
    median = 1.5 * float(errors.median())
    return Trial(
        "made", median, MEASURES, torch.zeros(2, 4), maps.half(), errors.half(), inside, ~inside, inside, (0.0, 1.0)
    )


@pytest.mark.parametrize("known", [True, False])
def test_what_is_kept_is_what_was_found(tmp_path, known):
    row = trial(3, known=known)
    write_trial(tmp_path / "sub" / "a.safetensors", row)
    found = read_trial(tmp_path / "sub" / "a.safetensors")
    for name, value in row._asdict().items():
        same = (
            torch.equal(value, getattr(found, name))
            if isinstance(value, torch.Tensor)
            else value == getattr(found, name)
        )
        assert same, name
    assert found.bad == (not known)
    assert found.measures.mutual_information_refined is None


def test_a_refused_pair_is_kept_too(tmp_path):
    write_trial(tmp_path / "a.safetensors", None)
    assert read_trial(tmp_path / "a.safetensors") is None


@pytest.mark.parametrize("text", [{}, {"text": "no JSON"}, {"text": '{"kind": "smooth"}'}])
def test_other_files_are_refused(tmp_path, text):
    save_tensors(tmp_path / "a.safetensors", {"maps": torch.zeros(1)}, text)
    with pytest.raises(InputError, match="not a kept pair of this version"):
        read_trial(tmp_path / "a.safetensors")


def test_fewer_pairs_than_a_batch_are_refused():
    with pytest.raises(InputError, match="7 pairs to train the error network on; expected at least 8"):
        train([trial(seed) for seed in range(BATCH - 1)], iterations=1, seed=0)


def test_medians_of_pairs_are_distinguished_between_two_ends():
    errors = [0.1, 3.0, 100.0, math.inf]
    assert [pair_error(trial(0)._replace(error=error)) for error in errors] == [PAIR_LEAST, 2.0, PAIR_MOST, PAIR_MOST]


@pytest.mark.parametrize("dim", [2, 3])
def test_augmented_vectors_point_to_where_they_pointed(dim):
    """Vectors that point from the centre still do, and vectors along an axis are still along that of a ramp."""
    shape = (8,) * dim
    outwards = torch.stack(torch.meshgrid(*[torch.arange(8) - 3.5] * dim, indexing="ij"))
    ramp = torch.arange(8.0).view(8, *[1] * (dim - 1)).expand(shape)
    along = torch.zeros(dim, *shape)
    along[0] = 1
    layers = torch.cat([ramp[None].expand(5, *shape), outwards, along, ramp[None].expand(3, *shape)])
    orders = set()
    for seed in range(20):
        changed = _augmented(layers, dim, np.random.default_rng(seed))
        torch.testing.assert_close(changed[5 : 5 + dim], outwards)
        gradient = torch.stack(torch.gradient(changed[0]))
        torch.testing.assert_close(changed[5 + dim : 5 + 2 * dim], gradient)
        torch.testing.assert_close(changed[-1], changed[0])
        orders.add(str(gradient.flatten(1)[:, 0].tolist()))
    assert len(orders) == 2 * dim


def test_larger_maps_are_cropped_about_the_foreground_and_smaller_ones_padded():
    layers = torch.zeros(4, 96, 32)
    layers[-2:, 70:80, 5:10] = 1
    cropped = _cropped(layers, 32, np.random.default_rng(0))
    assert cropped.shape == (4, 32, 32)
    assert float(cropped[-2].sum()) == 50
    padded = _cropped(layers, 48, np.random.default_rng(0))
    assert padded.shape == (4, 48, 48)
    assert float(padded[-1].sum()) == 50
    assert not padded[:, :, 32:].any()


@pytest.mark.slow
def test_the_network_learns_where_errors_are():
    trials = [trial(seed) for seed in range(64)]
    network = train(trials, iterations=120, seed=0)
    sharp, flat = (trial(seed) for seed in (65, 66))
    found, small = (
        expected_error(network, row.maps[None].float(), error_predictors(row.measures)) for row in (sharp, flat)
    )
    large = sharp.errors > 2
    assert float(found[large].median()) > 2 * float(found[~large].median())
    assert float(small.median()) < 1.0

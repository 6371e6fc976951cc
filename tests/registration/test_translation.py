"""The translation that is given out: it follows curves of intensity, place by place, and no error of the field."""

import numpy as np
import pytest
import torch

from crossmorph.functional import spatial
from crossmorph.networks.hierarchy import Flow
from crossmorph.registration.pair_similarity import Pair
from crossmorph.registration.translation import KNOTS, Translation, fit_translation
from crossmorph.simulation.drawing import smooth_noise

SHAPES = {2: (64, 48), 3: (32, 24, 28)}


def smooth(dim: int, seed: int, sigma: float = 1.5) -> torch.Tensor:
    """An image in [0, 1]."""
    noise = smooth_noise(np.random.default_rng(seed), 1, SHAPES[dim], sigma)
    return ((noise - noise.min()) / (noise.max() - noise.min()))[None]


def everywhere(moving: torch.Tensor, fixed: torch.Tensor) -> Pair:
    return Pair(moving, fixed, torch.ones_like(moving), torch.ones_like(fixed, dtype=torch.bool))


def still(dim: int) -> Flow:
    nowhere = torch.zeros(1, dim, *SHAPES[dim])
    return Flow(nowhere, nowhere)


def image(translation: Translation, moving: torch.Tensor) -> torch.Tensor:
    return translation.base + translation.slope * moving


@pytest.mark.parametrize("dim", [2, 3])
def test_a_curve_of_intensity_is_found(dim):
    """Linear between the knots, so that the fit can be exact but for the shrinking."""
    moving = smooth(dim, 0)
    knots, values = np.linspace(0, 1, KNOTS), np.array([0.0, 0.9, 0.3, 0.5, 0.2, 0.8, 0.1])
    fixed = torch.from_numpy(np.interp(moving.numpy(), knots, values)).float()
    found = fit_translation(everywhere(moving, fixed), 0 * moving, still(dim))
    middle = (moving > 0.2) & (moving < 0.8)
    assert float((image(found, moving) - fixed)[middle].abs().mean()) < 0.01
    # From 1/6 to 2/6 the curve falls by .6.
    falling = (moving > 0.2) & (moving < 0.3)
    assert float(found.slope[falling].median()) == pytest.approx(-3.0, abs=0.4)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_channel_of_the_network_is_used_where_intensities_do_not_tell(dim):
    moving, drawn = smooth(dim, 1), smooth(dim, 2)
    found = fit_translation(everywhere(moving, drawn), drawn, still(dim))
    assert float((image(found, moving) - drawn).abs().mean()) < 0.01
    without = fit_translation(everywhere(moving, drawn), 0 * drawn, still(dim))
    assert float((image(without, moving) - drawn).abs().mean()) > 0.05


def test_curves_differ_from_place_to_place():
    """One half of the image is inverted; a single curve would be flat."""
    moving = smooth(2, 3)
    fixed = moving.clone()
    fixed[:, :, :32] = 1 - moving[:, :, :32]
    found = fit_translation(everywhere(moving, fixed), 0 * moving, still(2))
    off = (image(found, moving) - fixed).abs()
    assert float(off[:, :, :16].mean()) < 0.1
    assert float(off[:, :, 48:].mean()) < 0.1
    # What a single curve leaves: the two halves cancel.
    assert float((fixed - fixed.mean()).abs().mean()) > 0.12


def test_it_lies_where_the_moving_image_lies():
    """The fixed image is the moving one, shifted by four voxels; T, on the moving grid, is not."""
    moving = smooth(2, 4)
    field = torch.zeros(1, 2, *SHAPES[2])
    field[:, 0] = 4.0
    fixed = spatial.warp(moving, field)
    found = fit_translation(everywhere(moving, fixed), 0 * moving, Flow(field, -field))
    assert float((image(found, moving) - moving)[:, :, 8:-8].abs().mean()) < 0.02


def test_what_is_out_of_sight_counts_nothing():
    moving = smooth(2, 5)
    fixed = moving.clone()
    fixed[:, :, 32:] = 1.0
    seen = torch.ones_like(moving)
    seen[:, :, 32:] = 0
    pair = Pair(moving, fixed, seen, torch.ones_like(fixed, dtype=torch.bool))
    found = fit_translation(pair, 0 * moving, still(2))
    assert float((image(found, moving) - moving).abs().mean()) < 0.02


def test_noise_is_not_explained():
    """Thirteen numbers for a window cannot copy an image that has nothing in common with the moving one."""
    moving, fixed = smooth(3, 6), smooth(3, 7)
    found = image(fit_translation(everywhere(moving, fixed), 0 * moving, still(3)), moving)
    explained = np.corrcoef(found.numpy().ravel(), fixed.numpy().ravel())[0, 1]
    assert explained < 0.5

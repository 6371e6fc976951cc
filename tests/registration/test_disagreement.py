"""Where two registered images disagree: a lesion is found in either, edges that lie a voxel off are not."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from crossmorph.images.image import Image
from crossmorph.networks.hierarchy import Flow, Registration
from crossmorph.registration.disagreement import disagreement, unexplained, with_disagreement
from crossmorph.registration.pair_similarity import Pair
from crossmorph.transforms.grid import Grid

SHAPE = (96, 96)


def tissues() -> np.ndarray:
    """Three tissues in a disc."""
    x, y = np.indices(SHAPE) - 47.5
    noise = ndimage.gaussian_filter(np.random.default_rng(2).standard_normal(SHAPE), 4)
    labels = np.digitize(noise, np.quantile(noise, (0.3, 0.7))) + 1
    return np.where(x**2 + y**2 < 40**2, labels, 0)


def pair(lesion: np.ndarray, off: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Moving and fixed image of the tissues, the fixed one with a lesion, the moving one some voxels off."""
    labels = tissues()
    rng = np.random.default_rng(4)
    moving, fixed = np.array([0.0, 0.9, 0.5, 0.3])[labels], np.array([0.0, 0.2, 0.5, 0.8])[labels]
    fixed = np.where(lesion, 0.95, fixed)
    smooth = [ndimage.gaussian_filter(each, 0.7) + 0.02 * rng.standard_normal(SHAPE) for each in (moving, fixed)]
    return np.roll(smooth[0], off, 0).clip(0, 1).astype(np.float32), smooth[1].clip(0, 1).astype(np.float32)


def lesion(radius: float) -> np.ndarray:
    x, y = np.indices(SHAPE) - np.array([40, 60]).reshape(2, 1, 1)
    return np.asarray(x**2 + y**2 < radius**2)


def registered(moving: np.ndarray, fixed: np.ndarray) -> tuple[Pair, Registration]:
    """A pair that lies right."""
    images = [torch.from_numpy(each)[None, None] for each in (moving, fixed)]
    nowhere = Flow(*[torch.zeros(1, 2, *SHAPE)] * 2)
    whole = torch.ones(1, 1, *SHAPE)
    nothing = torch.zeros_like(images[0])
    return Pair(*images, whole, whole > 0), Registration(nowhere, nowhere, nowhere, nothing, images[0], nothing)


def found(moving: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    both, result = registered(moving, fixed)
    return disagreement(unexplained(both, result.drawn, result.final))


@pytest.mark.parametrize("radius", [6.0, 10.0])
def test_a_lesion_is_found(radius: float) -> None:
    there, region = lesion(radius), found(*pair(lesion(radius)))
    assert (region & there).sum() > 0.9 * there.sum()
    assert (region & ~ndimage.binary_dilation(there, iterations=5)).sum() == 0


@pytest.mark.parametrize("off", [0, 1])
def test_nothing_is_found_where_only_edges_differ(off: int) -> None:
    assert not found(*pair(np.zeros(SHAPE, bool), off)).any()


def test_air_and_what_is_masked_is_not_looked_at() -> None:
    moving, fixed = pair(lesion(8.0))
    both, result = registered(moving * 0, fixed)
    assert not unexplained(both, result.drawn, result.final).any()
    masked = both._replace(
        moving=torch.from_numpy(moving)[None, None], fixed_seen=torch.from_numpy(~lesion(8.0))[None, None]
    )
    assert not disagreement(unexplained(masked, result.drawn, result.final)).any()


def test_it_is_ignored_in_the_fixed_image_beside_what_was_ignored_before() -> None:
    moving, fixed = pair(lesion(8.0))
    both, result = registered(moving, fixed)
    affine = np.diag([2.0, 2.0, 1.0])
    before = np.zeros(SHAPE, bool)
    before[:3] = True
    found = with_disagreement(Image(fixed, affine, ignored=before), both, result, Grid(affine, SHAPE))
    assert found is not None
    assert found.ignored is not None
    assert (found.ignored & lesion(8.0)).sum() > 0.9 * lesion(8.0).sum()
    assert found.ignored[before].all()
    plain, result = registered(*pair(np.zeros(SHAPE, bool)))
    assert with_disagreement(Image(fixed, affine), plain, result, Grid(affine, SHAPE)) is None

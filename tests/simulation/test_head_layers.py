"""The head around the brain: the order of its bands along rays, their thicknesses, and what they look like."""

import numpy as np
import pytest
import scipy.ndimage

from crossmorph.datasets import phantom
from crossmorph.datasets.test_splits import Slice, on_grid
from crossmorph.simulation import deformation, mri
from crossmorph.simulation.head_layers import FAT, SKIN, SKULL, surround

SHAPE = (192, 192)
LEVELS = phantom.split_levels("heads")
QUIET = deformation.Difficulty(noise=0.0, bias=0.0)


def brain_at(z_mm: float) -> np.ndarray:
    return on_grid(Slice(phantom.tissue_slice(z_mm), phantom.slice_affine(z_mm)), SHAPE).fractions


def head_at(z_mm: float, seed: int = 0) -> np.ndarray:
    return surround(brain_at(z_mm), 1.5, z_mm, np.random.default_rng(seed))


def ray(head: np.ndarray, degrees: float) -> tuple[np.ndarray, ...]:
    """Brain, fat, muscle (and skin), and what gives no signal, every 0.25 mm outwards; 90 degrees are to the front."""
    direction = np.array([[np.cos(np.deg2rad(degrees))], [np.sin(np.deg2rad(degrees))]])
    where = 95.5 + np.arange(0, 140, 0.25) / 1.5 * direction
    csf, gm, wm, fat, muscle = (scipy.ndimage.map_coordinates(tissue, where, order=1) for tissue in head)
    return csf + gm + wm, fat, muscle, 1 - csf - gm - wm - fat - muscle


@pytest.mark.parametrize("z_mm", LEVELS)
def test_bands_lie_in_order_all_around(z_mm: float) -> None:
    """Outwards from the brain: bone with marrow in it, muscle at the temples, fat, skin, air."""
    head = head_at(z_mm)
    for degrees in range(0, 360, 10):
        brain, fat, muscle, nothing = ray(head, degrees)
        inside, scalp = (int(np.flatnonzero(band > 0.5)[-1]) for band in (brain, fat))
        peak = inside + 24 + int(np.argmax(fat[inside + 24 : scalp + 1]))  # 6 mm on the marrow ends; here is fat
        bone, beyond = slice(inside, peak), slice(scalp, None)
        assert fat[:inside].max() < 0.1
        assert nothing[bone].max() > 0.5
        assert fat[inside : inside + 24].max() > 0.1
        assert fat[peak] > 0.7
        assert muscle[beyond].max() > 0.5
        assert nothing[beyond][np.argmax(muscle[beyond]) + 20 :].min() > 0.99
        if degrees in (20, 30, 150, 160) and z_mm < 20:
            assert muscle[bone].max() > 0.9
        if 205 < degrees < 335 or 75 < degrees < 105 or z_mm > 36:
            assert muscle[bone].max() < 0.3


def test_brain_is_untouched_and_lies_within_the_bone() -> None:
    """Grey and white matter are the template's; labels end at the skull, and no bone, fat or muscle bears one."""
    brain, head = brain_at(3.0), head_at(3.0)
    np.testing.assert_array_equal(head[1:3], brain[1:3])
    assert (head[0] - brain[0]).min() == 0
    labels, before = mri.tissue_labels(head), mri.tissue_labels(brain)
    assert labels[before > 0].all()
    assert set(labels[(labels > 0) & (before == 0)]) == {1}
    assert 1 < labels.astype(bool).sum() / before.astype(bool).sum() < 1.12
    assert not labels[head[3:].sum(0) > 0.5].any()
    assert head.min() >= 0
    assert head.sum(0).max() < 1 + 1e-3


def test_thicknesses_are_anatomical() -> None:
    """Along the four axes of many heads, from the voxels' parts: skull of 3-7 mm, fat and skin as documented."""
    skulls = []
    for seed in range(8):
        head = head_at(33.0, seed)
        for degrees in (0, 90, 180, 270):
            x, y = round(np.cos(np.deg2rad(degrees))), round(np.sin(np.deg2rad(degrees)))
            line = head[:, [95 + k * x for k in range(95)], [95 + k * y for k in range(95)]]
            outermost = 1 + np.flatnonzero(line[:3].sum(0) > 0.05)[-1]
            scalp = np.flatnonzero(line[3] > 0.9)[0] - 1  # the first voxel that may be part fat
            skulls.append(
                1.5 * (1 - line[:, outermost - 1 : scalp + 1].sum(0) + line[3, outermost - 1 : scalp + 1]).sum()
            )
            beyond = 1.5 * line[3, scalp:].sum()
            assert FAT[0] - 1.5 <= beyond <= FAT[1] + 1.5
            assert 1.5 * line[4, outermost:].sum() == pytest.approx(SKIN, abs=1.0)
    assert SKULL[0] - 1.5 < min(skulls) < max(skulls) < SKULL[1] + 1.5
    assert np.ptp(skulls) > 1


@pytest.mark.parametrize("modality", ["t1", "t2"])
def test_bone_is_dark_and_fat_bright(modality: mri.Modality) -> None:
    """T1w: fat outshines white matter 1.69 to 1. T2w: muscle is darker than any brain. Compact bone is dark."""
    head = head_at(10.5)
    image = mri.simulate(head, modality, np.random.default_rng(0), QUIET)
    fat, muscle, white = (image[part > 0.999].mean() for part in (head[3], head[4], head[2]))
    if modality == "t1":
        assert fat / white == pytest.approx(0.11891 / 0.07020, rel=2e-3)
    else:
        assert muscle < image[mri.tissue_labels(head) > 0].min()
    air_and_bone = head.sum(0) < 0.1
    skull = air_and_bone & scipy.ndimage.binary_fill_holes(~air_and_bone)
    assert skull.sum() > 100
    assert image[skull].max() < 0.15


def test_heads_differ_by_chance_alone() -> None:
    np.testing.assert_array_equal(head_at(18.0, seed=1), head_at(18.0, seed=1))
    assert np.abs(head_at(18.0, seed=1) - head_at(18.0, seed=2)).max() > 0.5

"""Pairs for calibration: the same again for the same numbers, with true fields, at levels of their split."""

import math

import numpy as np
import pytest

import crossmorph.quality.calibration.template_pairs as module
from crossmorph.images.image import Image
from crossmorph.quality.calibration.pairs import draw
from crossmorph.quality.calibration.simulated_pair import CANNOT_BE_REGISTERED, Setting, with_lesion
from crossmorph.quality.calibration.template_pairs import KINDS, SLICES_ONLY
from crossmorph.transforms.warp import Warp, resample

SLICES = Setting((128, 128), 1.5, "train")
VOLUMES = Setting((24, 28, 24), 8.0, "test")


def only(monkeypatch, kind: str) -> None:
    monkeypatch.setattr(module, "KINDS", {kind: 1.0})
    monkeypatch.setattr(module, "LESIONS", 0.0)


@pytest.mark.parametrize("setting", [SLICES, VOLUMES], ids=["slices", "volumes"])
def test_a_pair_depends_on_its_numbers_alone(setting):
    one, again, other = draw(setting, 0, 3), draw(setting, 0, 3), draw(setting, 0, 4)
    assert one.kind == again.kind
    assert np.array_equal(one.moving.data, again.moving.data)
    assert np.array_equal(one.fixed.data, again.fixed.data)
    assert one.fixed.shape != other.fixed.shape or not np.array_equal(one.fixed.data, other.fixed.data)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in CANNOT_BE_REGISTERED])
def test_the_true_field_moves_tissue_onto_tissue(kind, monkeypatch):
    """Both images without noise and bias, of one contrast, where the moving one is resampled by the true field."""
    only(monkeypatch, kind)
    monkeypatch.setattr(module, "_contrasts", lambda *_: ("t1", "t1"))
    monkeypatch.setattr(module, "simulate", lambda fractions, *_: fractions[1:3].sum(0).astype(np.float32))
    drawn = draw(SLICES, 0, 1)
    moved = resample(drawn.moving, Warp(drawn.truth, drawn.fixed.affine)).data
    inside = drawn.tissue & (moved > 0)
    assert np.abs(moved - drawn.fixed.data)[inside].mean() < 0.06
    assert inside.sum() > 0.7 * drawn.tissue.sum()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in CANNOT_BE_REGISTERED])
def test_pairs_that_cannot_be_registered_have_no_true_field(kind, monkeypatch):
    only(monkeypatch, kind)
    drawn = draw(SLICES, 0, 0)
    assert drawn.truth is None
    assert np.ptp(drawn.moving.data) > 0
    assert np.ptp(drawn.fixed.data) > 0


def test_levels_of_other_levels_lie_apart_and_in_the_split(monkeypatch):
    only(monkeypatch, "other level")
    seen = []
    monkeypatch.setattr(module, "tissue_slice", lambda z, *grid, f=module.tissue_slice: seen.append(z) or f(z, *grid))
    for split in ("train", "test"):
        seen.clear()
        for number in range(6):
            draw(Setting((128, 128), 1.5, split), 0, number)
        assert set(seen) <= set(module.split_levels(split))
        pairs = np.array(seen).reshape(-1, 2)
        assert np.abs(pairs[:, 0] - pairs[:, 1]).min() >= 28.5


def test_slabs_of_volumes_share_no_tissue(monkeypatch):
    only(monkeypatch, "other level")
    lower, upper = module._anatomies(np.random.default_rng(0), "other level", VOLUMES)
    assert lower.shape == upper.shape == (3, *VOLUMES.shape)
    assert lower.any()
    assert upper.any()
    assert not np.array_equal(lower, upper)


def test_volumes_have_no_kind_that_exists_of_slices_only():
    assert {draw(VOLUMES, 0, number).kind for number in range(12)}.isdisjoint(SLICES_ONLY)


def test_a_lesion_lies_in_the_tissue_and_changes_nothing_else(monkeypatch):
    only(monkeypatch, "smooth")
    plain = draw(SLICES, 0, 2)
    lesioned = with_lesion(plain, np.random.default_rng(1), 9.0)
    assert not plain.lesion.any()
    assert 0.5 < lesioned.lesion.sum() * 1.5**2 / (math.pi * 81) < 1.5
    assert (lesioned.tissue | ~lesioned.lesion).all()
    far = np.ones(lesioned.lesion.shape, bool)
    x, y = np.nonzero(lesioned.lesion)
    far[x.min() - 5 : x.max() + 6, y.min() - 5 : y.max() + 6] = False
    assert np.array_equal(lesioned.fixed.data[far], plain.fixed.data[far])
    assert lesioned.truth is plain.truth
    assert isinstance(lesioned.fixed, Image)


@pytest.mark.parametrize("kind", ["smooth", "far", "one head", "other level"])
def test_slices_have_the_grid_of_the_model(kind, monkeypatch):
    """A model of 1 mm: 192 voxels, and margins of 48 mm or more; as much brain in mm^2 as at 1.5 mm."""
    only(monkeypatch, kind)
    fine, usual = (
        draw(Setting(shape, spacing, "train"), 0, 4) for shape, spacing in (((192, 192), 1.0), ((128, 128), 1.5))
    )
    assert fine.fixed.spacing == (1.0, 1.0)
    margins = 0 if kind in ("smooth", "other level") else 128
    assert fine.fixed.shape == fine.moving.shape == fine.tissue.shape == (192 + margins,) * 2
    assert fine.tissue.sum() == pytest.approx(usual.tissue.sum() * 1.5**2, rel=0.3)

"""Pairs for calibration: the same again for the same numbers, with truths that are true, at levels of their split."""

import math
import sys

import numpy as np
import pytest
from conftest import ROOT

from crossmorph.images.image import Image
from crossmorph.transforms.warp import Warp, resample

sys.path.insert(0, str(ROOT / "benchmarks"))
import calibration_pairs
from calibration_pairs import HOPELESS, KINDS, SLICES_ONLY, Setting, draw, with_lesion
from calibration_tables import wilson

SLICES = Setting((128, 128), 1.5, "train")
VOLUMES = Setting((24, 28, 24), 8.0, "test")


def only(monkeypatch, kind: str) -> None:
    monkeypatch.setattr(calibration_pairs, "KINDS", {kind: 1.0})
    monkeypatch.setattr(calibration_pairs, "LESIONS", 0.0)


@pytest.mark.parametrize("setting", [SLICES, VOLUMES], ids=["slices", "volumes"])
def test_a_pair_depends_on_its_numbers_alone(setting):
    one, again, other = draw(setting, 0, 3), draw(setting, 0, 3), draw(setting, 0, 4)
    assert one.kind == again.kind
    assert np.array_equal(one.moving.data, again.moving.data)
    assert np.array_equal(one.fixed.data, again.fixed.data)
    assert one.fixed.shape != other.fixed.shape or not np.array_equal(one.fixed.data, other.fixed.data)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in HOPELESS] + ["upside down"])
def test_the_truth_lays_tissue_on_tissue(kind, monkeypatch):
    """Both images without noise and bias, of one contrast, where the moving one is resampled by the truth."""
    only(monkeypatch, kind)
    monkeypatch.setattr(calibration_pairs, "_contrasts", lambda *_: ("t1", "t1"))
    monkeypatch.setattr(calibration_pairs, "simulate", lambda fractions, *_: fractions[1:3].sum(0).astype(np.float32))
    drawn = draw(SLICES, 0, 1)
    moved = resample(drawn.moving, Warp(drawn.truth, drawn.fixed.affine)).data
    inside = drawn.tissue & (moved > 0)
    assert np.abs(moved - drawn.fixed.data)[inside].mean() < 0.06
    assert inside.sum() > 0.7 * drawn.tissue.sum()


@pytest.mark.parametrize("kind", [kind for kind in HOPELESS if kind != "upside down"])
def test_hopeless_pairs_have_no_truth(kind, monkeypatch):
    only(monkeypatch, kind)
    drawn = draw(SLICES, 0, 0)
    assert drawn.truth is None
    assert np.ptp(drawn.moving.data) > 0
    assert np.ptp(drawn.fixed.data) > 0


def test_levels_of_other_levels_lie_apart_and_in_the_split(monkeypatch):
    only(monkeypatch, "other level")
    seen = []
    monkeypatch.setattr(
        calibration_pairs, "tissue_slice", lambda z, f=calibration_pairs.tissue_slice: seen.append(z) or f(z)
    )
    for split in ("train", "test"):
        seen.clear()
        for number in range(6):
            draw(Setting((128, 128), 1.5, split), 0, number)
        assert set(seen) <= set(calibration_pairs.split_levels(split))
        pairs = np.array(seen).reshape(-1, 2)
        assert np.abs(pairs[:, 0] - pairs[:, 1]).min() >= 28.5


def test_slabs_of_volumes_share_no_tissue(monkeypatch):
    only(monkeypatch, "other level")
    lower, upper = calibration_pairs._anatomies(np.random.default_rng(0), "other level", VOLUMES)
    assert lower.shape == upper.shape == (3, *VOLUMES.shape)
    assert lower.any()
    assert upper.any()
    assert not np.array_equal(lower, upper)


def test_volumes_have_no_kind_that_exists_of_slices_only():
    assert {draw(VOLUMES, 0, number).kind for number in range(12)}.isdisjoint(SLICES_ONLY)


def test_a_lesion_lies_in_the_tissue_and_changes_nothing_else(monkeypatch):
    only(monkeypatch, "smooth")
    plain = draw(SLICES, 0, 2)
    sick = with_lesion(plain, np.random.default_rng(1), 9.0)
    assert not plain.lesion.any()
    assert 0.5 < sick.lesion.sum() * 1.5**2 / (math.pi * 81) < 1.5
    assert (sick.tissue | ~sick.lesion).all()
    far = np.ones(sick.lesion.shape, bool)
    x, y = np.nonzero(sick.lesion)
    far[x.min() - 5 : x.max() + 6, y.min() - 5 : y.max() + 6] = False
    assert np.array_equal(sick.fixed.data[far], plain.fixed.data[far])
    assert sick.truth is plain.truth
    assert isinstance(sick.fixed, Image)


def test_intervals_of_shares():
    """95 of 100: 0.888 to 0.978 (Wilson)."""
    assert wilson(95, 100) == pytest.approx((0.888, 0.978), abs=1e-3)
    assert wilson(0, 50)[0] == pytest.approx(0, abs=1e-12)
    assert all(map(math.isnan, wilson(0, 0)))

"""The self-test: known fields are those asked for, its errors those of registrations whose true field is known."""

import numpy as np
import pytest
import torch

from crossmorph.datasets.pairs import read_pairs
from crossmorph.functional.metrics import folds_percent
from crossmorph.images.image import Image
from crossmorph.images.io import read_image
from crossmorph.networks.checkpoint import Model, load_model
from crossmorph.quality import self_test as module
from crossmorph.quality.self_test import Trial, Tried, Verification, known_field, verify
from crossmorph.registration.register_images import register_images
from crossmorph.transforms.warp import Warp, resample, voxel_displacement


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model()


@pytest.fixture(scope="module")
def pair(phantom) -> tuple[Image, Image]:
    first = read_pairs(phantom / "validation" / "pairs.csv")[1]
    return read_image(first.moving), read_image(first.fixed)


def test_known_fields_grow_with_their_strength_and_never_fold(pair, model):
    sizes = []
    for strength in (0.2, 0.6, 1.0):
        field = known_field(pair[0], model, strength, np.random.default_rng(0))
        assert field.shape == pair[0].shape
        assert folds_percent(voxel_displacement(field)) == 0
        sizes.append(float(np.median(np.linalg.norm(field.displacement, axis=0))))
    assert sizes == sorted(sizes)
    assert sizes[0] < 4
    assert sizes[-1] > 2


def test_known_fields_are_in_millimetres_whatever_the_image(pair, model):
    """The same image on a grid twice as fine gets the same field at the same places."""
    coarse = pair[0]
    fine_affine = coarse.affine.copy()
    fine_affine[:2, :2] /= 2
    fine_affine[:2, 2] -= fine_affine[:2, :2] @ [0.5, 0.5]
    fine = resample(coarse, Warp(np.zeros((2, 256, 256), np.float32), fine_affine))
    one, two = (known_field(image, model, 1.0, np.random.default_rng(3)).displacement for image in (coarse, fine))
    averaged = two.reshape(2, 128, 2, 128, 2).mean((2, 4))
    assert np.abs(averaged - one)[:, 4:-4, 4:-4].max() < 0.2


def test_a_good_model_finds_known_fields(pair, model):
    watched = []
    found = verify(*pair, model, fields=2, watch=watched.append)
    assert tuple(watched) == found.rows
    assert [row.size for row in found.rows] == sorted(row.size for row in found.rows)
    assert found.unit == "mm"
    assert found.limit == pytest.approx(2.0)
    for row in found.rows:
        assert row.known.median < 0.25 * row.size
        assert row.known.median < row.known.most
        assert row.pair.median < 1.0
    assert found.missed == 0
    assert "errors above 2 mm that no check found: 0 of 4" in found.as_text()


def test_a_registration_that_does_nothing_errs_by_the_field(pair, model, monkeypatch):
    """Of the copy by all of the known field; of the pair by the same, since no field undoes it."""

    def nothing(moving, fixed, model, settings):
        found = register_images(moving, fixed, model, settings)
        still = Warp(np.zeros_like(found.warp.displacement), found.warp.affine)
        nowhere = torch.zeros_like(found.result.final.displacement)
        final = found.result.final._replace(displacement=nowhere, inverse=nowhere)
        return found._replace(warp=still, result=found.result._replace(final=final))

    monkeypatch.setattr(module, "register_images", nothing)
    (row,) = verify(*pair, model, fields=1).rows
    assert row.known.median == pytest.approx(row.size, rel=0.2)
    assert row.pair.median == pytest.approx(row.size, rel=0.3)


def test_misses_are_errors_that_no_check_found():
    passed, warned, small = Trial(2.1, 5.0, ()), Trial(9.0, 9.0, ("swap consistency",)), Trial(1.9, 9.0, ())
    rows = (Tried(3.0, passed, warned), Tried(6.0, small, passed))
    found = Verification(rows, (), "mm", 2.0)
    assert found.missed == 2
    text = found.as_text()
    assert "swap consistency" in text
    assert text.endswith("errors above 2 mm that no check found: 2 of 4")


def test_the_same_seed_gives_the_same_result(pair, model):
    first, again = (verify(*pair, model, fields=1, seed=5) for _ in range(2))
    assert first == again
    assert verify(*pair, model, fields=1, seed=6).rows != first.rows

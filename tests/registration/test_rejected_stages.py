"""Never worse: a stage that loses mutual information or folds is rejected; a good one is kept to the bit."""

import numpy as np
import pytest
import torch

from crossmorph.datasets.pairs import read_pairs
from crossmorph.images.image import Image
from crossmorph.images.io import read_image
from crossmorph.networks.checkpoint import Model, load_model
from crossmorph.networks.hierarchy import Flow, Hierarchy
from crossmorph.registration import register_images as module
from crossmorph.registration.instance_optimization import Refinement
from crossmorph.registration.register_images import register_coarse, register_images, register_initial
from crossmorph.registration.settings import Settings


@pytest.fixture(scope="module")
def pair(phantom) -> tuple[Image, Image]:
    first = read_pairs(phantom / "validation" / "pairs.csv")[0]
    return read_image(first.moving), read_image(first.fixed)


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model()


def waves(like: Flow, height: float) -> Flow:
    """A field of ripples, which tears images apart; folded where they are steep."""
    rows = torch.arange(like.displacement.shape[2]).float()
    field = (height * torch.sin(rows)).view(1, 1, -1, 1).expand_as(like.displacement).clone()
    return Flow(field, -field)


def broken(model: Model, monkeypatch, stage: str, height: float) -> Model:
    """The model with a stage that answers ripples."""
    spec = model.hierarchy.spec
    made = Hierarchy(spec)
    made.load_state_dict(model.hierarchy.state_dict())
    original = getattr(made, stage)
    monkeypatch.setattr(made, stage, lambda *arguments: waves(original(*arguments), height), raising=False)
    return Model(made.eval().requires_grad_(False), model.card)


def test_good_stages_are_all_accepted(pair, model):
    found = register_images(*pair, model)
    assert list(found.stages) == ["initial", "coarse", "fine"]
    assert list(found.mutual_information) == ["initial", "coarse", "fine"]
    assert found.rejected == ()
    assert found.stages["fine"] is found.result.final
    assert not found.stages["initial"].displacement.any()
    again = model.hierarchy(found.moving, found.fixed).final
    assert torch.equal(found.result.final.displacement, again.displacement)
    assert found.mutual_information["fine"] > found.mutual_information["coarse"] > found.mutual_information["initial"]


def test_a_fine_stage_that_loses_mutual_information_is_rejected(pair, model, monkeypatch):
    bad = broken(model, monkeypatch, "register_fine", 6.0)
    found = register_images(*pair, bad)
    assert list(found.stages) == ["initial", "coarse"]
    (fallback,) = found.rejected
    assert (fallback.stage, fallback.kept, fallback.reason) == ("fine", "coarse", "mutual information")
    assert fallback.after == found.mutual_information["fine"] < 0.95 * fallback.before
    assert fallback.before == found.mutual_information["coarse"]
    assert np.array_equal(found.warp.displacement, register_coarse(*pair, bad).displacement)
    assert torch.equal(found.result.final.inverse, found.result.coarse.inverse)


def test_a_stage_that_folds_is_rejected(pair, model, monkeypatch):
    monkeypatch.setattr(module, "MIN_KEPT", dict.fromkeys(module.STAGES, 0.0))
    found = register_images(*pair, broken(model, monkeypatch, "register_fine", 2.0))
    (fallback,) = found.rejected
    assert (fallback.stage, fallback.kept, fallback.reason, fallback.before) == ("fine", "coarse", "folds", 0.0)
    assert fallback.after > 10


def test_where_every_stage_fails_the_initial_affine_is_left(pair, model, monkeypatch):
    found = register_images(*pair, broken(model, monkeypatch, "register_coarse", 9.0), Settings("none"))
    assert [fallback.stage for fallback in found.rejected] == ["coarse", "fine"]
    assert list(found.stages) == ["initial"]
    assert np.array_equal(found.warp.displacement, register_initial(*pair, model, "none").displacement)
    assert not found.result.final.displacement.any()


def test_the_refinement_begins_with_what_has_gained(pair, model, monkeypatch):
    monkeypatch.setattr(module, "MIN_KEPT", dict.fromkeys(module.STAGES, 0.0))
    refined, begun = module._refined, []

    def seen(prepared, result, final, *others):
        begun.append(final)
        return refined(prepared, result, final, *others)

    monkeypatch.setattr(module, "_refined", seen)
    bad = broken(model, monkeypatch, "register_fine", 0.9)
    monkeypatch.setattr(
        bad.hierarchy, "register_coarse", lambda *words: waves(model.hierarchy.register_coarse(*words), 0.9)
    )
    found = register_images(*pair, bad, Settings(refine="on", refine_steps=2))
    assert [(each.stage, each.reason) for each in found.rejected][:2] == [("coarse", "no gain"), ("fine", "no gain")]
    assert not begun[0].displacement.any()


def test_mutual_information_that_is_no_number_is_worse(pair, model, monkeypatch):
    found = register_images(*pair, broken(model, monkeypatch, "register_fine", float("nan")))
    assert list(found.stages) == ["initial", "coarse"]


def test_a_refinement_that_makes_it_worse_is_rejected(pair, model, monkeypatch):
    def ruin(pairs, final, seconds, steps, where):
        return Refinement(waves(final, 6.0), steps, 0.1, 1.0, 2.0, True)

    monkeypatch.setattr(module, "refine", ruin)
    found = register_images(*pair, model, Settings(refine="on", refine_steps=3))
    assert list(found.stages) == ["initial", "coarse", "fine"]
    assert [(each.stage, each.kept) for each in found.rejected] == [("refined", "fine")]
    assert np.array_equal(found.warp.displacement, register_images(*pair, model).warp.displacement)


def test_a_refinement_limited_by_time_is_repeated_by_its_steps(pair, model):
    timed = register_images(*pair, model, Settings(refine=0.15))
    steps = timed.refinement.steps
    repeated = register_images(*pair, model, Settings(refine="on", refine_steps=steps))
    assert repeated.refinement.steps == steps
    assert np.array_equal(repeated.warp.displacement, timed.warp.displacement)
    few = register_images(*pair, model, Settings(refine="on", refine_steps=2))
    assert few.refinement.steps == 2
    assert list(few.stages) == ["initial", "coarse", "fine", "refined"]
    assert few.stages["refined"] is few.result.final

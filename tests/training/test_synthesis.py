"""The stream of simulated pairs: what it promises, and that it holds what it says."""

import numpy as np
import pytest
import torch
from torch import Tensor

from crossmorph.functional import spatial
from crossmorph.functional.similarity import overlap
from crossmorph.simulation import drawing
from crossmorph.simulation.anatomy import SHAPE, SPACING
from crossmorph.training.synthesis import Lattice, Placement, SynthesisSpec, synthesise

SLICE = Lattice(SHAPE, SPACING)
VOLUME = Lattice((24, 32, 24), 6.0)
STILL = Placement(shift=0, rotation=0, scale=(1.0, 1.0))
PLAIN = SynthesisSpec(near=STILL, elastic_strain=(0, 0), noise=(0, 0), bias=(0, 0), gamma=0)
ANY = SynthesisSpec(moving=("t2", "random"), fixed=("t1", "random"), heads=0.5, coarse=0.5, turned=0.5)


def foreground(truth: Tensor) -> Tensor:
    return truth.sum(1, keepdim=True) > 0.5


def test_shapes_ranges_and_types() -> None:
    samples = synthesise(ANY, SLICE, 0, 1, 0, 6, far=False)
    assert samples.moving.shape == samples.fixed.shape == (6, 1, *SHAPE)
    assert samples.moving_truth.shape == samples.fixed_truth.shape == (6, 3, *SHAPE)
    for images in samples:
        assert images.dtype == torch.float32
        assert 0 <= images.min() <= images.max() <= 1
    for truth in samples[2:]:
        assert truth.sum(1).max() <= 1 + 1e-5
        assert (foreground(truth).flatten(1).float().mean(1) > 0.1).all()


def test_volumes_are_drawn_the_same_way() -> None:
    near = Placement(shift=1, rotation=5, scale=(0.95, 1.05))
    spec = SynthesisSpec(moving=("t2", "random"), heads=0.5, coarse=0.5, near=near, elastic_sigma=(2, 3))
    samples = synthesise(spec, VOLUME, 0, 1, 0, 4, far=False)
    assert samples.moving.shape == samples.fixed.shape == (4, 1, *VOLUME.shape)
    assert samples.moving_truth.shape == (4, 3, *VOLUME.shape)
    for images in samples:
        assert 0 <= images.min() <= images.max() <= 1 + 1e-5
    litres = foreground(samples.fixed_truth).flatten(1).sum(1) * VOLUME.spacing**3 / 1e6
    assert (litres > 1.2).all()  # the template's brain with its fluid holds 1.9
    assert (litres < 2.6).all()
    overlaps = overlap(samples.moving_truth, samples.fixed_truth)
    assert (overlaps < 0.95).all()
    again = synthesise(spec, VOLUME, 0, 1, 2, 1, far=False)
    assert torch.equal(again.moving[0], samples.moving[2])


def test_a_small_grid_travels_over_the_anatomy_with_both_images() -> None:
    small = Lattice((16, 16, 16), 6.0)
    spec = PLAIN.model_copy(update={"travel": 6.0})
    here = synthesise(spec, small, 0, 1, 0, 6, far=False)
    assert overlap(here.moving_truth, here.fixed_truth).min() > 0.75  # but for a little shear
    shown = here.moving_truth.flatten(2).mean(2)
    assert shown.std(0).min() > 0.01  # another part each time


def test_alike_images_have_one_contrast() -> None:
    spec = PLAIN.model_copy(update={"alike": 1.0, "moving": ("random",)})
    alike = synthesise(spec, SLICE, 0, 1, 0, 6, far=False)
    means = [
        torch.stack(
            [(image[:, 0] * (truth > 0.9)).sum((1, 2)) / (truth > 0.9).sum((1, 2)) for truth in truths.unbind(1)]
        )
        for image, truths in ((alike.moving, alike.moving_truth), (alike.fixed, alike.fixed_truth))
    ]
    torch.testing.assert_close(means[0], means[1], atol=0.02, rtol=0)
    assert means[0].std(1).min() > 0.05  # another contrast each time


def test_a_pair_depends_on_seed_stage_and_number_alone() -> None:
    whole = synthesise(ANY, SLICE, 3, 1, 10, 4, far=False)
    parts = [synthesise(ANY, SLICE, 3, 1, first, 2, far=False) for first in (10, 12)]
    for index in range(4):
        assert torch.equal(whole[index], torch.cat([part[index] for part in parts]))
    for other in (synthesise(ANY, SLICE, 4, 1, 10, 4, False), synthesise(ANY, SLICE, 3, 2, 10, 4, False)):
        assert not torch.equal(whole.moving, other.moving)


def test_without_deformation_both_images_show_one_anatomy() -> None:
    samples = synthesise(PLAIN, SLICE, 0, 1, 0, 3, far=False)
    # The 5% of shear and stretch that every placement has remain.
    assert overlap(samples.moving_truth, samples.fixed_truth).min() > 0.5
    moved = synthesise(PLAIN.model_copy(update={"near": Placement(shift=20)}), SLICE, 0, 1, 0, 3, far=False)
    assert overlap(moved.moving_truth, moved.fixed_truth).mean() < 0.5


def test_contrasts_are_those_of_the_sequences() -> None:
    """T1w: white matter brightest, CSF darkest; T2w: CSF brightest. By the fractions that come along."""
    samples = synthesise(PLAIN, SLICE, 0, 1, 0, 3, far=False)

    def mean(image: Tensor, truth: Tensor, tissue: int) -> float:
        return float(image[truth[:, tissue : tissue + 1] > 0.95].mean())

    t1 = [mean(samples.fixed, samples.fixed_truth, tissue) for tissue in range(3)]
    t2 = [mean(samples.moving, samples.moving_truth, tissue) for tissue in range(3)]
    assert t1[0] < t1[1] < t1[2]
    assert t2[2] < t2[1] < t2[0]


def test_random_contrasts_are_each_another() -> None:
    samples = synthesise(PLAIN.model_copy(update={"moving": ("random",)}), SLICE, 0, 1, 0, 12, far=False)
    order = set()
    for image, truth in zip(samples.moving, samples.moving_truth, strict=True):
        order.add(tuple(np.argsort([float(image[0][truth[k] > 0.9].mean()) for k in range(3)])))
    assert len(order) >= 4


def test_noise_bias_and_gamma_do_what_they_say() -> None:
    def white_matter(**changes: object) -> Tensor:
        samples = synthesise(PLAIN.model_copy(update=changes), SLICE, 0, 1, 0, 2, far=False)
        return samples.fixed[samples.fixed_truth[:, 2:3] > 0.99]

    still = white_matter()
    assert still.std() < 0.02
    noisy = white_matter(noise=(0.05, 0.05))
    assert noisy.std() == pytest.approx(0.05, rel=0.3)  # of white matter, the brightest tissue in T1w
    assert white_matter(bias=(0.4, 0.4)).std() > 2 * still.std() + 0.02


def test_far_pairs_lie_far_apart_and_only_the_moving_image_moves() -> None:
    near, far = (synthesise(SynthesisSpec(), SLICE, 0, 0, 0, 12, far=far) for far in (False, True))
    together = [float(overlap(s.moving_truth, s.fixed_truth).mean()) for s in (near, far)]
    assert together[1] < 0.8 * together[0]

    def spread(truth: Tensor) -> float:
        grid = spatial.identity_grid(SHAPE)
        weight = truth.sum(1, keepdim=True)
        return float(((grid * weight).flatten(2).sum(2) / weight.flatten(2).sum(2)).std(0).mean())

    assert spread(far.moving_truth) > 2 * spread(far.fixed_truth)


def test_heads_surround_the_brain_and_are_not_in_the_truth() -> None:
    bare, dressed = (
        synthesise(PLAIN.model_copy(update={"heads": heads}), SLICE, 0, 1, 0, 4, False) for heads in (0.0, 1.0)
    )
    outside = ~foreground(bare.fixed_truth)
    assert bare.fixed[outside].mean() < 0.05
    outside = ~foreground(dressed.fixed_truth)
    assert dressed.fixed[outside].mean() > 0.1


def test_layers_fill_each_voxel_at_most_once_and_in_order() -> None:
    rng = np.random.default_rng(0)
    distance = torch.linspace(0, 30, SHAPE[0]).view(-1, 1).expand(SHAPE)
    head = drawing.random_head(rng)
    layers = drawing.head_layers(rng, distance, head)
    assert layers is not None
    assert layers.min() > -1e-6
    assert layers.sum(0).max() <= 1 + 1e-5
    middles = (layers * distance).sum((1, 2)) / layers.sum((1, 2))
    assert (middles.diff() > 0).all()
    assert drawing.head_layers(rng, distance, None) is None


def test_turns_move_both_images_and_their_truths_alike() -> None:
    spec = PLAIN.model_copy(update={"turned": 1.0})
    samples = synthesise(spec, SLICE, 0, 1, 0, 6, far=False)
    upright = synthesise(PLAIN, SLICE, 0, 1, 0, 6, far=False)
    assert overlap(samples.moving_truth, samples.fixed_truth).min() > 0.5
    # T1w: what is bright is white matter, wherever it was turned to.
    assert all(
        image[truth[2:] > 0.9].mean() > 0.8 for image, truth in zip(samples.fixed, samples.fixed_truth, strict=True)
    )
    assert (overlap(samples.fixed_truth, upright.fixed_truth) < 0.5).any()

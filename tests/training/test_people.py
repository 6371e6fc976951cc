"""Pairs of people drawn from label maps: what the stream promises, and that it holds what it says."""

from pathlib import Path

import numpy as np
import pytest
import torch
from people_scene import draw_people
from torch import Tensor

from crossmorph.datasets.anatomies import prepare_anatomies
from crossmorph.datasets.label_maps import Cohort, codes_at, fractions, load_anatomy, load_cohort, look_up, mean_steps
from crossmorph.errors import InputError
from crossmorph.functional.similarity import overlap
from crossmorph.simulation.drawing import Lattice, Placement
from crossmorph.simulation.tissue_signals import NAMES, SIGNALS, random_signals, signals_of
from crossmorph.training import people
from crossmorph.training.people import synthesise_people
from crossmorph.training.people_spec import PeopleSpec
from crossmorph.training.synthesis import SynthesisSpec

VOLUME = Lattice((40, 44, 40), 4.0)
SLICE = Lattice((48, 48), 4.0)
STILL = Placement(shift=0, rotation=0, scale=(1.0, 1.0))
ALONE = PeopleSpec(same=1, whole=1, structures=4, stripped=0, lesions=0, cut=0, texture=0, uncertain=0)


@pytest.fixture(scope="module")
def anatomies(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    splits = draw_people(folder / "maps")
    prepare_anatomies([folder / "maps"], folder / "set", splits=splits)
    return folder / "set"


@pytest.fixture(scope="module")
def cohort(anatomies) -> Cohort:
    return load_cohort(anatomies, "train")


@pytest.fixture
def plain(anatomies) -> SynthesisSpec:
    """Nothing at random but a little shear and stretch."""
    return SynthesisSpec(
        anatomies=anatomies, people=ALONE, near=STILL, elastic_strain=(0, 0), noise=(0, 0), bias=(0, 0), gamma=0
    )


def drawn(spec: SynthesisSpec, lattice: Lattice = VOLUME, count: int = 2, first: int = 0):
    return synthesise_people(spec, lattice, 0, 1, first, count, far=False)


def test_shapes_ranges_and_types(anatomies):
    spec = SynthesisSpec(
        anatomies=anatomies, moving=("t2", "ct", "random"), fixed=("t1", "flair", "pd"), heads=0.5, coarse=0.5
    )
    for lattice in (VOLUME, SLICE):
        samples = drawn(spec, lattice, count=4)
        assert samples.moving.shape == samples.fixed.shape == (4, 1, *lattice.shape)
        assert samples.moving_truth.shape == samples.fixed_truth.shape == (4, 3 + 8, *lattice.shape)
        for part in samples:
            assert part.dtype == torch.float32
            assert 0 <= part.min() <= part.max() <= 1
        for truth in samples[2:]:
            assert truth[:, :3].sum(1).max() <= 1 + 1e-5
            assert (truth[:, :3].sum(1).flatten(1).mean(1) > 0.02).all()


@pytest.mark.parametrize("lattice", [VOLUME, SLICE], ids=["volume", "slice"])
def test_a_pair_depends_on_seed_stage_and_number_alone(anatomies, lattice):
    spec = SynthesisSpec(anatomies=anatomies, heads=0.5, coarse=0.5)
    whole = synthesise_people(spec, lattice, 3, 1, 10, 3, far=False)
    for index in range(3):
        alone = synthesise_people(spec, lattice, 3, 1, 10 + index, 1, far=False)
        assert all(torch.equal(a[index], b[0]) for a, b in zip(whole, alone, strict=True))
    for other in (synthesise_people(spec, lattice, *which, 10, 1, far=False) for which in ((4, 1), (3, 2))):
        assert not torch.equal(whole.moving[0], other.moving[0])


def test_looking_up_a_map_at_its_own_voxels_gives_the_map(anatomies, cohort):
    anatomy = load_anatomy(anatomies, "train", 0)
    to_common = torch.linalg.inv(anatomy.to_codes)
    ranges = [torch.arange(size, dtype=torch.float32) for size in anatomy.codes.shape]
    voxels = torch.stack(torch.meshgrid(*ranges, indexing="ij"))
    points = torch.einsum("ij,j...->i...", to_common[:3, :3], voxels) + to_common[:3, 3].view(3, 1, 1, 1)
    assert torch.equal(codes_at(anatomy, points), anatomy.codes)
    parts = look_up(anatomy, points, mean_steps(points))
    assert parts.shape == (*anatomy.codes.shape, 8)
    for part in parts.unbind(-1):  # all of a voxel's parts lie nearest to its own centre
        assert torch.equal(part, anatomy.codes)
    far = points + 1000
    assert codes_at(anatomy, far).max() == 0


def test_parts_lie_a_quarter_of_a_voxel_from_the_centre(anatomies):
    anatomy = load_anatomy(anatomies, "train", 0)
    still = anatomy._replace(to_codes=torch.eye(4), codes=torch.arange(64, dtype=torch.uint8).view(4, 4, 4))
    points = torch.tensor([1.0, 2.0, 1.0]).view(3, 1, 1, 1)
    parts = look_up(still, points, torch.diag(torch.tensor([4.0, 0.1, 4.0])))
    # One voxel to either side along the first and the last axis: index 16 x + 4 y + z.
    assert sorted(parts.flatten().tolist()) == sorted(2 * [16 * x + 8 + z for x in (0, 2) for z in (0, 2)])


def test_fractions_are_means_over_the_parts():
    codes = torch.tensor([[0, 1, 1, 1], [2, 2, 2, 0]], dtype=torch.uint8)
    table = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 10.0]])
    torch.testing.assert_close(fractions(table, codes), torch.tensor([[0.75, 0.0], [0.0, 7.5]]))


def test_people_of_different_size_and_position_are_aligned(plain):
    """As well as one person is over himself, but for shear and stretch: the drawn people differ in size alone."""
    same = drawn(plain, count=3)
    different = drawn(plain.model_copy(update={"people": ALONE.model_copy(update={"same": 0.0})}), count=3)
    near, far = (overlap(s.moving_truth[:, :3], s.fixed_truth[:, :3]) for s in (same, different))
    assert near.min() > 0.7
    assert far.min() > 0.7


def test_structures_are_in_both_images_and_change_from_pair_to_pair(plain):
    samples = drawn(plain, count=4)
    for truth in samples[2:]:
        assert (truth[:, 3:].flatten(2).sum(2) > 0).all()
    sizes = {tuple(truth[3:].flatten(1).sum(1).round().int().tolist()) for truth in samples.fixed_truth}
    assert len(sizes) == 4


def mean(image: Tensor, truth: Tensor, tissue: int) -> float:
    return float(image[0][truth[tissue] > 0.95].mean())


def test_contrasts_are_those_of_the_sequences(plain):
    samples = drawn(plain)
    t1 = [mean(samples.fixed[0], samples.fixed_truth[0], tissue) for tissue in range(3)]
    t2 = [mean(samples.moving[0], samples.moving_truth[0], tissue) for tissue in range(3)]
    assert t1[0] < t1[1] < t1[2]
    assert t2[2] < t2[1] < t2[0]


def test_a_stripped_image_ends_at_the_margin_and_a_whole_head_does_not(plain):
    bare = plain.model_copy(update={"people": ALONE.model_copy(update={"stripped": 1.0, "margin": (3.0, 3.0)})})
    for spec, outside in ((plain, True), (bare, False)):
        samples = drawn(spec, count=1)
        brain = samples.fixed_truth[0, :3].sum(0) > 0
        away = torch.nn.functional.max_pool3d(brain[None].float(), 3, 1, 1)[0] == 0
        assert bool((samples.fixed[0, 0][away] > 0.05).any()) is outside


def test_layers_surround_a_brain_without_a_head(plain):
    spec = plain.model_copy(update={"people": ALONE.model_copy(update={"whole": 0.0})})
    shares = []
    for heads in (0.0, 1.0):
        samples = drawn(spec.model_copy(update={"heads": heads}), count=1)
        outside = samples.fixed_truth[0, :3].sum(0) == 0
        shares.append(float((samples.fixed[0, 0][outside] > 0.1).float().mean()))
    assert shares[0] == 0
    assert shares[1] > 0.05


def test_lesions_change_white_matter_alone(plain):
    # Air has the place one beyond the names, the lesion's code is the only one of its signal.
    cohort = load_cohort(plain.anatomies, "train")
    signals = torch.cat([cohort.signals, torch.tensor([NAMES.index("lesion")])])
    wider = cohort._replace(signals=signals, tissues=torch.nn.functional.pad(cohort.tissues, (0, 1)))
    codes = load_anatomy(plain.anatomies, "train", 0).codes.unsqueeze(-1)
    lattice = Lattice(tuple(codes.shape[:-1]), 4.0)
    changed = people._with_lesions(lattice, wider, np.random.default_rng(0), codes)
    differ = changed != codes
    assert 0 < differ.sum() < 0.05 * codes.numel()
    assert (changed[differ] == len(signals) - 1).all()
    assert cohort.tissues[2].bool()[codes[differ].int()].all()


@pytest.mark.parametrize(("thickness", "phase"), [(1.0, 0.0), (2.5, 0.3), (4.0, 0.9)])
def test_thick_slices_keep_constants_and_thin_ones_keep_everything(thickness, phase):
    slices = people._slices(20, thickness, phase)
    torch.testing.assert_close(torch.ones(20) @ slices, torch.ones(20))
    assert slices.min() >= 0
    if thickness == 1:
        torch.testing.assert_close(slices, torch.eye(20))


def test_a_cut_takes_up_to_a_third_from_one_end():
    image = torch.ones(30, 30, 30)
    for seed in range(8):
        cut = people._cut(np.random.default_rng(seed), image)
        lost = 1 - cut.mean()
        assert 1 / 30 < lost <= 1 / 3 + 1e-6
        assert {float(cut[0, 15, 15]) + float(cut[-1, 15, 15]), float(cut[15, 0, 15]) + float(cut[15, -1, 15])} | {
            float(cut[15, 15, 0]) + float(cut[15, 15, -1])
        } == {1.0, 2.0}


def test_slices_show_all_three_orientations(plain):
    axes = {people.random_view(plain, SLICE, np.random.default_rng(seed)).axes for seed in range(20)}
    assert axes == {(0, 1), (0, 2), (1, 2)}
    turned = drawn(plain.model_copy(update={"turned": 1.0}), SLICE, count=2)
    assert overlap(turned.moving_truth[:, :3], turned.fixed_truth[:, :3]).min() > 0.6


def test_two_people_are_two_unless_there_is_one(anatomies, cohort):
    spec = SynthesisSpec(anatomies=anatomies, people=ALONE.model_copy(update={"same": 0.0}))
    for seed in range(10):
        moving, fixed = people._two_people(spec, cohort, np.random.default_rng(seed))
        assert moving != fixed
    lonely = cohort._replace(people=cohort.people[:1])
    assert people._two_people(spec, lonely, np.random.default_rng(0)) == (0, 0)


def test_far_pairs_lie_far_apart(plain):
    spec = plain.model_copy(update={"far": Placement(shift=10, rotation=30, scale=(0.8, 1.25))})
    near, far = (synthesise_people(spec, VOLUME, 0, 0, 0, 3, far=far) for far in (False, True))
    together = [overlap(s.moving_truth[:, :3], s.fixed_truth[:, :3]).mean() for s in (near, far)]
    assert together[1] < 0.8 * together[0]


def test_signals_are_the_table_and_random_ones_leave_bone_dark():
    assert signals_of("flair", ["csf", "cortex"]).tolist() == [SIGNALS["csf"][2], SIGNALS["cortex"][2]]
    bone = [random_signals(np.random.default_rng(seed), ["bone", "csf"])[0] for seed in range(40)]
    assert np.mean(np.array(bone) < 0.15) > 0.6


def test_a_folder_without_people_to_train_on_is_refused(tmp_path, anatomies):
    with pytest.raises(InputError, match="made by crossmorph prepare anatomies"):
        load_cohort(tmp_path, "train")
    with pytest.raises(InputError, match="holds nobody of the split test"):
        load_cohort(anatomies, "test")

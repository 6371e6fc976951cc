"""Consistency: networks that follow, or ignore, shift and swap leave the distances that arithmetic says."""

import numpy as np
import pytest
import torch
from examples import everywhere
from torch import Tensor

from crossmorph.datasets.pairs import read_pairs
from crossmorph.functional.similarity import foreground, mi
from crossmorph.images.image import Image
from crossmorph.images.io import read_image
from crossmorph.networks.checkpoint import Model, load_model
from crossmorph.networks.hierarchy import Flow, Registration
from crossmorph.quality.consistency import SHIFT, consistency, encoder_features
from crossmorph.registration.register_images import Registered, register_images
from crossmorph.registration.translation import Translation
from crossmorph.transforms.grid import Grid
from crossmorph.transforms.warp import Warp

SHAPES = {2: (24, 32), 3: (16, 18, 20)}


class Networks:
    """Returns ``answers``, a displacement for each pair of the batch, and keeps what it was shown."""

    def __init__(self, answers: Tensor) -> None:
        self.answers = answers
        self.seen: list[Tensor] = []

    def register_coarse(self, moving: Tensor, fixed: Tensor, *_: object) -> Flow:
        self.seen += [moving, fixed]
        answers = self.answers if len(moving) == 2 else torch.zeros_like(self.answers[:1])
        return Flow(answers, -answers)

    def translate(self, moving: Tensor, *_: object) -> Tensor:
        return torch.ones_like(moving)

    def register_fine(self, *shown: Tensor | Flow | None) -> Flow:
        self.seen.append(shown[2])
        return Flow(torch.zeros_like(self.answers), torch.zeros_like(self.answers))


def constant(shift: tuple[float, ...]) -> Tensor:
    dim = len(shift)
    return torch.tensor(shift).view(1, dim, *[1] * dim).expand(1, dim, *SHAPES[dim]).clone()


def registered(found: tuple[float, ...], again: list[tuple[float, ...]]) -> Registered:
    """A pair whose field is a shift, and what the networks return for the two pairs they are shown after it."""
    dim = len(found)
    shape = SHAPES[dim]
    fixed = torch.from_numpy(np.random.default_rng(0).random((1, 1, *shape), np.float32))
    flow, nowhere = Flow(constant(found), -constant(found)), Flow(constant((0.0,) * dim), constant((0.0,) * dim))
    grid = Grid(np.diag([1.5] * dim + [1.0]), shape)
    warp = Warp(np.zeros((dim, *shape)), grid.affine)
    networks = Networks(torch.cat([constant(answer) for answer in again]))
    result = Registration(flow, nowhere, flow, fixed * 0, fixed, fixed * 0)
    return Registered(
        warp, warp, Image(fixed[0, 0].numpy(), grid.affine), Translation(0 * fixed, 0 * fixed + 1),
        np.eye(dim + 1), 1.0, everywhere(fixed, fixed), result,
        None, grid, {}, {"initial": nowhere, "fine": flow}, {"initial": 1.0, "fine": 1.0}, (), Model(networks, None),
        None,
    )  # fmt: skip


@pytest.mark.parametrize("dim", [2, 3])
def test_networks_that_follow_leave_nothing(dim):
    found = (1.0, 2.0, -1.0)[:dim]
    followed = tuple(u - s for u, s in zip(found, SHIFT, strict=False))
    maps = consistency(registered(found, [followed, tuple(-u for u in found)]))
    assert maps.shifted.shape == maps.swapped.shape == (dim, *SHAPES[dim])
    assert float(maps.shifted.abs().max()) == pytest.approx(0, abs=1e-6)
    assert float(maps.swapped.abs().max()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("dim", [2, 3])
def test_networks_that_ignore_both_leave_the_shift_and_the_field(dim):
    """The field stays while the image was shifted by SHIFT; the swapped pair gets no field to undo the first."""
    found = (3.0, 0.0, 0.0)[:dim]
    maps = consistency(registered(found, [found, (0.0,) * dim]))
    assert maps.shifted.flatten(1).mean(1).tolist() == pytest.approx(SHIFT[:dim], rel=1e-5)
    assert maps.swapped.flatten(1).mean(1).tolist() == pytest.approx(found, abs=1e-5)


@pytest.mark.parametrize("dim", [2, 3])
def test_images_are_moved_by_the_final_field(dim):
    """A whole number of voxels along the first axis."""
    found = (2.0, 0.0, 0.0)[:dim]
    pair = registered(found, [found, (0.0,) * dim])
    pair = pair._replace(pair=everywhere(0.5 * pair.moving, pair.fixed))
    maps = consistency(pair)
    torch.testing.assert_close(maps.moved[:-2], pair.moving[0, 0, 2:])
    torch.testing.assert_close(maps.translated[:-2], pair.result.translated[0, 0, 2:])


def test_the_networks_see_the_image_shifted_and_the_pair_swapped():
    pair = registered((0.0, 0.0), [(0.0, 0.0)] * 2)
    consistency(pair)
    moving, fixed, translated = pair.model.hierarchy.seen[:3]
    across, along = SHIFT[:2]
    assert torch.equal(moving[0, 0, 0:-across, -along:], pair.moving[0, 0, across:, 0:along])
    assert not moving[0, 0, -across:].any()
    assert not moving[0, 0, :, :-along].any()
    assert torch.equal(fixed, torch.cat([pair.fixed, pair.moving]))
    assert torch.equal(moving[1:], pair.fixed)
    assert torch.equal(translated[1:], pair.fixed + 1)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_moving_image_is_rotated_about_its_centre_of_intensity(dim):
    """A bright block off the grid's centre, brighter at one end: the block stays, its ends change places."""
    pair = registered((0.0,) * dim, [(0.0,) * dim] * 2)
    image = torch.zeros_like(pair.moving)
    block = (0, 0, slice(3, 9), slice(5, 11), *[slice(4, 8)] * (dim - 2))
    image[block] = torch.linspace(0.4, 1.0, 6).view(6, 1, *[1] * (dim - 2))
    networks = pair.model.hierarchy
    maps = consistency(pair._replace(pair=everywhere(image, pair.fixed)))
    # Of volumes the one after the rotations is mirrored.
    rotated, mirrored = networks.seen[3::2][: dim * (dim - 1) // 2], networks.seen[3::2][dim * (dim - 1) // 2 :]
    assert (len(rotated), len(mirrored)) == {2: (1, 0), 3: (3, 1)}[dim]
    # Brightness weighs the block's centre towards its bright end, so that it moves by a voxel along that axis.
    for seen in rotated:
        places = seen[0, 0].nonzero()
        first, last = places.min(0).values, places.max(0).values
        assert (last - first + 1).tolist() == [6, 6, 4][:dim]
        assert abs(int(first[0]) - 3) <= 1
        assert int(first[1]) == 5
    ends = [seen[0, 0].amax(tuple(range(1, dim))) for seen in rotated]
    reversed_ends = [end[end > 0][0] > end[end > 0][-1] for end in ends]
    assert sum(reversed_ends) == {2: 1, 3: 2}[dim]
    # But for the margin that the rotation leaves out of sight.
    assert maps.rotated == pytest.approx(max(float(mi(seen, pair.fixed)) for seen in rotated), rel=0.02)
    assert maps.mirrored == (pytest.approx(float(mi(mirrored[0], pair.fixed)), rel=0.02) if mirrored else None)


def test_equal_images_correlate_and_leave_no_residual():
    maps = consistency(registered((0.0, 0.0), [(0.0, 0.0)] * 2))
    assert float(maps.correlation.min()) > 0.99
    assert float(maps.residual.max()) == pytest.approx(0, abs=1e-5)


def test_foreground_is_what_is_bright():
    image = torch.zeros(1, 1, 20, 20)
    image[..., 5:15, 5:15] = 1
    assert foreground(image)[0, 0, 8:12, 8:12].all()
    assert not foreground(image)[0, 0, :2].any()
    assert foreground(torch.zeros(1, 1, 20, 20)).all()


def test_shipped_weights_are_consistent_on_a_pair_and_not_on_noise(phantom):
    model = load_model()
    pair = read_pairs(phantom / "test" / "pairs.csv")[0]
    moving, fixed = read_image(pair.moving), read_image(pair.fixed)
    noise = Image(np.random.default_rng(0).random(moving.shape).astype(np.float32), moving.affine)
    good, bad = (consistency(register_images(image, fixed, model)) for image in (moving, noise))
    for name in ("shifted", "swapped"):
        right, wrong = (float(getattr(each, name).norm(dim=0)[each.foreground].median()) for each in (good, bad))
        assert right < 1
        assert wrong > 3 * right
    assert float(good.correlation[good.foreground].mean()) > 2 * float(bad.correlation[bad.foreground].mean())


def test_encoder_features_have_a_row_for_each_image(phantom):
    model = load_model()
    pair = read_pairs(phantom / "test" / "pairs.csv")[0]
    done = register_images(read_image(pair.moving), read_image(pair.fixed), model)
    features = encoder_features(done)
    width = model.card.hierarchy.coarse.features[-2]
    assert features.shape == (2, 2 * width)
    same = encoder_features(done._replace(pair=everywhere(done.fixed, done.fixed)))
    torch.testing.assert_close(same[0], same[1])
    torch.testing.assert_close(same[0], features[0])

"""The affine start: maps about centres, and a network that finds them."""

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor, nn

from crossmorph.functional import spatial
from crossmorph.networks.affine import Affine, AffineNetwork, AffineSpec, affine_displacement, move, same_place

SMALL = AffineSpec(features=(8, 16), hidden=32, canvas=16, looks=2)


def turned(degrees: float, size: float = 1.0, shift: tuple[float, float] = (0.0, 0.0)) -> Affine:
    angle = math.radians(degrees)
    matrix = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    return Affine(size * torch.tensor([matrix]), torch.tensor([shift]))


def blobs(batch: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """A smooth, lopsided picture that fades to the border."""
    rng = np.random.default_rng(seed)
    noise = scipy.ndimage.gaussian_filter(rng.random((batch, 1, *shape)), (0, 0, *[2] * len(shape)), mode="constant")
    distance = np.linalg.norm([(i - (n - 1) / 2) / n for i, n in zip(np.indices(shape), shape, strict=True)], axis=0)
    return torch.from_numpy((noise * (distance < 0.35)).astype(np.float32))


def test_a_quarter_turn_about_the_centre_by_hand() -> None:
    """phi(p) = c + A (p - c), A e_0 = e_1: what lies along the second axis is seen along the first."""
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 4] = 1
    moved = spatial.warp(image, affine_displacement(turned(90), image))
    assert moved[0, 0].argmax() == 4 * 5 + 2
    assert moved.sum() == pytest.approx(1)


@pytest.mark.parametrize("shape", [(6, 7), (4, 5, 6)])
def test_the_identity_moves_nothing(shape: tuple[int, ...]) -> None:
    image = torch.rand(2, 1, *shape)
    assert affine_displacement(same_place(image), image).abs().max() == 0
    square = torch.rand(2, 1, *[shape[0]] * len(shape))
    torch.testing.assert_close(move(square, same_place(square), tuple(square.shape[2:]), shape[0]), square)


def test_displacement_is_scipys_affine_transform() -> None:
    image = blobs(1, (20, 24))
    affine = turned(25, 1.2, (1.5, -2.0))
    ours = spatial.warp(image, affine_displacement(affine, image), outside="zero")[0, 0].numpy()
    centre = (np.array(image.shape[2:]) - 1) / 2
    matrix = affine.matrix[0].double().numpy()
    offset = centre + affine.shift[0].double().numpy() - matrix @ centre
    theirs = scipy.ndimage.affine_transform(image[0, 0].numpy(), matrix, offset, order=1)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_canvas_shows_grids_of_any_shape_without_distortion() -> None:
    """A fixed grid of 16 x 8 on a canvas of 8: voxels twice as large, the short axis in the middle."""
    image = torch.arange(128.0).view(1, 1, 16, 8)
    seen = move(image, same_place(image), (16, 8), 8)[0, 0]
    assert (seen[:, :2] == 0).all()
    assert (seen[:, 6:] == 0).all()
    pooled = torch.nn.functional.avg_pool2d(image, 2)[0, 0]
    torch.testing.assert_close(seen[:, 2:6], pooled)


def test_a_moving_grid_of_another_size_meets_at_the_centres() -> None:
    small, large = blobs(1, (16, 16)), torch.zeros(1, 1, 32, 32)
    large[..., 8:24, 8:24] = small
    torch.testing.assert_close(
        move(large, same_place(large), (16, 16), 16), move(small, same_place(small), (16, 16), 16)
    )


@pytest.mark.parametrize("shape", [(32, 32), (48, 32), (32, 32, 32)])
def test_a_new_network_leaves_the_start_nearly_alone(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    dim = len(shape)
    image = torch.rand(2, 1, *shape)
    start = Affine(1.1 * torch.eye(dim).expand(2, -1, -1), torch.full((2, dim), 3.0))
    looks = AffineNetwork(SMALL, dim)(image, image.flip(2), start)
    assert len(looks) == 2
    for look in looks:
        torch.testing.assert_close(look.matrix, start.matrix, atol=0.05, rtol=0)
        torch.testing.assert_close(look.shift, start.shift, atol=1.0, rtol=0)


class Dictated(nn.Module):
    """An output that says one step after the other, whatever it is shown."""

    def __init__(self, *steps: list[list[float]]) -> None:
        super().__init__()
        self.steps = [torch.tensor(step) for step in steps]

    def forward(self, _: Tensor) -> Tensor:
        return self.steps.pop(0)


def test_a_settled_pair_is_left_as_it_is_unless_something_is_learnt() -> None:
    small, large = [0.02, 0.0, 0.0, 0.02, -0.02, 0.0], [0.2, 0.0, 0.3, 0.0, 0.0, 0.0]
    image = torch.rand(2, 1, 32, 32)

    def look(*steps: list[list[float]]) -> list[Affine]:
        network = AffineNetwork(AffineSpec(features=(8, 16), hidden=32, canvas=16, looks=3), 2)
        network.output = Dictated(*steps)
        return network(image, image, same_place(image))

    steps = ([small, large], [large, small], [large, large])
    with torch.no_grad():
        found = look(*steps)
    assert len(found) == 2
    for part in (0, 1):
        first, second = (affine[part] for affine in found)
        assert torch.equal(first[0], second[0])
        assert not torch.equal(first[1], second[1])
    assert len(look(*steps)) == 3


def test_iterations_compose_and_never_mirror() -> None:
    """Whatever the output, exp keeps the determinant positive, and the second look acts inside the first."""
    network = AffineNetwork(SMALL, 2).eval()
    with torch.no_grad():
        network.output.weight.zero_()
        network.output.bias.copy_(torch.tensor([0.25, 0.0, 0.0, -math.pi / 2, math.pi / 2, 0.0]))
    image = torch.rand(1, 1, 32, 32)
    first, second = network(image, image, same_place(image))
    quarter = torch.tensor([[[0.0, -1.0], [1.0, 0.0]]])
    torch.testing.assert_close(first.matrix, quarter, atol=1e-6, rtol=0)
    torch.testing.assert_close(first.shift, torch.tensor([[4.0, 0.0]]), atol=1e-5, rtol=0)  # 0.25 of 32 / 2
    torch.testing.assert_close(second.matrix, quarter @ quarter, atol=1e-6, rtol=0)
    torch.testing.assert_close(second.shift, torch.tensor([[4.0, 4.0]]), atol=1e-5, rtol=0)
    with torch.no_grad():
        network.output.bias.copy_(torch.tensor([0.0, 0.0, -3.0, 2.0, 1.0, 2.0]))
    assert network(image, image, same_place(image))[0].matrix.det() > 0


def test_batch_is_singles() -> None:
    torch.manual_seed(0)
    network = AffineNetwork(SMALL, 2).eval()
    torch.nn.init.normal_(network.output.weight, std=0.05)
    fixed, moving = torch.rand(3, 1, 32, 32), torch.rand(3, 1, 48, 32)
    together = network(fixed, moving, same_place(moving))[-1]
    for k in range(3):
        alone = network(fixed[k : k + 1], moving[k : k + 1], same_place(moving[:1]))[-1]
        torch.testing.assert_close(alone.matrix[0], together.matrix[k], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone.shift[0], together.shift[k], atol=1e-4, rtol=1e-5)


def test_it_learns_shifts_in_seconds() -> None:
    torch.manual_seed(0)
    network = AffineNetwork(SMALL, 2)
    adam = torch.optim.Adam(network.parameters(), lr=3e-3)
    picture = blobs(1, (32, 32)).expand(8, -1, -1, -1)
    generator = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(60):
        shift = (torch.rand(8, 2, generator=generator) - 0.5) * 12
        moving = spatial.warp(picture, (-shift).view(8, 2, 1, 1).expand(-1, -1, 32, 32), outside="zero")
        looks = network(picture, moving, same_place(picture))
        loss = torch.stack([(look.shift - shift).square().mean() for look in looks]).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        errors.append(float((looks[-1].shift - shift).square().mean().detach().sqrt()))
    assert errors[0] > 2.5
    assert np.mean(errors[-5:]) < 0.6 * errors[0]

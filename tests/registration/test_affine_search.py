"""The search finds affine maps it was not told, across contrasts, and gives the same bits again."""

import math

import pytest
import torch
from torch import Tensor

from crossmorph.functional import spatial
from crossmorph.networks.affine import Affine, affine_displacement, same_place
from crossmorph.registration.affine_search import View, _change_of_size, _cube, search_affine

SHAPES = [(48, 56), (32, 40, 36)]


def anatomy(shape: tuple[int, ...]) -> Tensor:
    """An ellipsoid with a lopsided inside, nothing around it."""
    grid = spatial.identity_grid(shape)
    middle = (torch.tensor(shape).view(1, -1, *[1] * len(shape)) - 1) / 2
    reach = torch.tensor(shape).view(1, -1, *[1] * len(shape)) * 0.36
    inside = torch.sigmoid(20 * (1 - ((grid - middle) / reach).square().sum(1, keepdim=True).sqrt()))
    noise = torch.rand((1, 1, *shape), generator=torch.Generator().manual_seed(1))
    mottle = spatial.bspline_smooth(noise, 4.0)
    mottle = (mottle - mottle.mean()) / mottle.std()
    return inside * (0.55 + 0.15 * mottle).clamp(0.05, 1)


def whole(image: Tensor) -> View:
    """An image whose field of view is all of its grid."""
    return View(image, torch.tensor(image.shape[2:]) / 2)


def pull_back(dim: int, degrees: float, size: float, shift: float) -> Affine:
    angle = math.radians(degrees)
    matrix = torch.eye(dim)
    matrix[:2, :2] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return Affine(matrix[None] * size, torch.tensor([[shift, -shift / 2, shift / 3][:dim]]))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("degrees", "size", "shift"), [(8, 1.05, 2.0), (-38, 1.1, 5.0)])
def test_a_known_map_is_found_across_contrasts(
    shape: tuple[int, ...], degrees: float, size: float, shift: float
) -> None:
    """fixed(p) = f(moving(A p)) with another contrast: the map found differs from A by under a voxel in the anatomy."""
    moving = anatomy(shape)
    truth = pull_back(len(shape), degrees, size, shift)
    seen = spatial.warp(moving, affine_displacement(truth, moving), outside="zero")
    fixed = torch.where(seen > 0.05, 1.1 - seen, seen)  # dark where the moving image is bright
    found = search_affine(whole(moving), whole(fixed), same_place(fixed))
    difference = affine_displacement(found, moving) - affine_displacement(truth, moving)
    error = torch.linalg.vector_norm(difference, dim=1, keepdim=True)[seen > 0.3]
    assert error.mean() < 0.7
    assert error.max() < 2


@pytest.mark.parametrize("shape", SHAPES)
def test_a_brain_is_not_blown_up_to_fill_a_head(shape: tuple[int, ...]) -> None:
    moving = anatomy(shape)
    head = spatial.warp(moving, affine_displacement(pull_back(len(shape), 0, 0.72, 0.0), moving), outside="zero") > 0.3
    scan = torch.where(moving > 0.05, 1.1 - moving, torch.where(head, 0.6, 0.0))
    fixed = scan + 0.1 * torch.randn(scan.shape, generator=torch.Generator().manual_seed(2))
    found = search_affine(whole(moving), whole(fixed.clamp(0, 1)), same_place(fixed))
    sizes = torch.linalg.svdvals(found.matrix[0])
    assert (sizes - 1).abs().max() < 0.05, sizes


@pytest.mark.parametrize(
    ("degrees", "shape"), [(-145.0, SHAPES[0]), (178.0, SHAPES[0]), (178.0, SHAPES[1]),
                           pytest.param(-145.0, SHAPES[1], marks=pytest.mark.slow)]
)  # fmt: skip
def test_images_that_lie_any_way_are_found_where_all_ways_are_tried(shape: tuple[int, ...], degrees: float) -> None:
    moving = anatomy(shape)
    truth = pull_back(len(shape), degrees, 1.0, 2.0)
    fixed = spatial.warp(moving, affine_displacement(truth, moving), outside="zero")
    errors = []
    for around in (True, False):
        found = search_affine(whole(moving), whole(fixed), same_place(fixed), around)
        difference = affine_displacement(found, moving) - affine_displacement(truth, moving)
        errors.append(float(torch.linalg.vector_norm(difference, dim=1, keepdim=True)[fixed > 0.3].mean()))
    assert errors[0] < 0.7
    assert errors[1] > 5


def test_a_shift_beyond_the_grid_is_found_by_the_centres_of_intensity() -> None:
    picture = anatomy((48, 48))
    moving = torch.nn.functional.pad(picture, [0, 0, 60, 0])
    found = search_affine(whole(moving), whole(picture), same_place(picture))
    # The grids' centres are 30 voxels apart, the anatomies 60.
    torch.testing.assert_close(found.shift, torch.tensor([[30.0, 0.0]]), atol=0.5, rtol=0)


def test_same_bits_at_any_number_of_threads_and_nothing_learns() -> None:
    picture = anatomy((32, 40))
    moving = spatial.warp(picture, affine_displacement(pull_back(2, 12, 1.0, 1.0), picture))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with torch.inference_mode():
                found.append(search_affine(whole(moving), whole(picture), same_place(picture)))
    finally:
        torch.set_num_threads(before)
    one, two = found
    assert torch.equal(one.matrix, two.matrix)
    assert torch.equal(one.shift, two.shift)
    assert not one.matrix.requires_grad


def test_what_lies_outside_the_field_of_view_does_not_count() -> None:
    """The moving image shows half of the anatomy, its grid goes on in black: it is not stretched over the whole."""
    picture = anatomy((40, 48))
    half = picture.clone()
    half[..., 24:] = 0
    # A field of view of the left half, about the centre of its own grid of 24 voxels.
    moving = View(half[..., :24].contiguous(), torch.tensor([20.0, 12.0]))
    start = Affine(torch.eye(2)[None], torch.tensor([[0.0, 12.0]]))  # the two grids' first voxels on each other
    found = search_affine(moving, whole(1.1 * (picture > 0.05) - picture), start)
    torch.testing.assert_close(found.matrix[0], torch.eye(2), atol=0.05, rtol=0)
    torch.testing.assert_close(found.shift, start.shift, atol=0.7, rtol=0)


def test_a_change_of_size_counts_by_hand() -> None:
    matrices = torch.stack([torch.eye(3), 2 * torch.eye(3), pull_back(3, 30, 1, 0).matrix[0]])
    torch.testing.assert_close(_change_of_size(matrices), torch.tensor([0.0, (4 + 0.25) / 2 - 1, 0.0]))


def test_a_cube_has_24_rotations() -> None:
    found = _cube()
    assert len({tuple(matrix.flatten().tolist()) for matrix in found}) == 24
    torch.testing.assert_close(found @ found.transpose(1, 2), torch.eye(3).expand(24, 3, 3))
    torch.testing.assert_close(torch.linalg.det(found), torch.ones(24))

"""Networks: parameters counted by hand, shapes, the start at the identity, correlation by hand, what is refused."""

from itertools import product

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from crossmorph.functional import spatial
from crossmorph.networks import hierarchy, layers
from crossmorph.networks import pyramid as pyramid_module
from crossmorph.networks.pyramid import Pyramid, PyramidSpec, local_correlation, normalise
from crossmorph.networks.unet import UNet, UNetSpec, UNetVelocity

SMALL_UNET = UNetSpec(encoder=(4, 6), decoder=(6, 5), final=(4,))
SMALL_PYRAMID = PyramidSpec(features=(4, 6), hidden=(5, 6), radius=(1, 2), control_spacing=4.0)
SPARSE_PYRAMID = PyramidSpec(features=(4, 6, 6), hidden=(0, 5, 6), radius=(1, 1, 1))
SPECS = {"unet": SMALL_UNET, "pyramid": SMALL_PYRAMID, "pyramid without its finest level": SPARSE_PYRAMID}
dimensions = pytest.mark.parametrize("shape", [(16, 24), (8, 16, 8)], ids=["2d", "3d"])
registering = pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def look(network: nn.Module, fixed: Tensor, moving: Tensor, smoothness: Tensor | None = None) -> Tensor:
    """One look of a network at a pair."""
    return network(network.encode(fixed), moving, smoothness)


def velocity_network(spec: UNetSpec | PyramidSpec, dim: int, stirred: bool = False) -> nn.Module:
    """One channel fixed, two moving; stirred, its last layers are as large as the others."""
    torch.manual_seed(0)
    network = hierarchy.velocity_network(spec, dim, 1, 2)
    for layer in network.modules():
        if stirred and isinstance(layer, (nn.Conv2d, nn.Conv3d)) and layer.out_channels == dim:
            nn.init.normal_(layer.weight, std=0.1)
    return network


def weights(dim: int, widths: list[tuple[int, int]]) -> int:
    """Of 3-kernel convolutions and their biases."""
    return sum(3**dim * before * after + after for before, after in widths)


# --- U-Net -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 3])
def test_voxelmorphs_second_model_by_hand(dim: int) -> None:
    """Encoder 16 32 32 32 on two images; decoder with the skips 32, 32, 16 and the images; one flow a dimension."""
    down = [(2, 16), (16, 32), (32, 32), (32, 32)]
    up = [(32, 32), (32 + 32, 32), (32 + 32, 32), (32 + 16, 32)]
    full = [(32 + 2, 32), (32, 16), (16, 16), (16, dim)]
    count = weights(dim, down + up + full)
    assert parameters(UNet(UNetSpec(), dim, 2, dim)) == count
    assert parameters(UNetVelocity(UNetSpec(), dim, 1, 1)) == count
    if dim == 3:
        assert count == 301_411  # VoxelMorph-2 as others count it: TransMorph, Table 1, arXiv 2111.10480


@dimensions
def test_unet_keeps_the_grid(shape: tuple[int, ...]) -> None:
    unet = UNet(SMALL_UNET, len(shape), 3, 2)
    assert unet(random(2, 3, *shape)).shape == (2, 2, *shape)


def test_unet_of_one_level_by_hand() -> None:
    """On constant weights: stride 2 down, nearest-neighbour up, the image beside the features, in that order."""
    unet = UNet(UNetSpec(encoder=(1,), decoder=(1,), final=()), 2, 1, 1)
    state = {name: torch.zeros_like(value) for name, value in unet.state_dict().items()}
    for name, factor in (("encoder.0.0.weight", -1.0), ("decoder.0.0.weight", 2.0)):
        state[name][0, 0, 1, 1] = factor  # the centre of the kernel only
    state["output.weight"][0, :, 1, 1] = torch.tensor([1.0, 10.0])
    unet.load_state_dict(state)
    image = torch.arange(16.0).view(1, 1, 4, 4)
    every_other = torch.tensor([[0.0, 2], [8, 10]])
    leaky = 2 * 0.2 * -every_other * 0.2  # through both rectifiers
    expected = leaky.repeat_interleave(2, 0).repeat_interleave(2, 1) + 10 * image[0, 0]
    np.testing.assert_allclose(unet(image)[0, 0].detach(), expected, atol=1e-5)


def test_unet_velocity_is_the_flow_at_half_resolution_in_its_voxels() -> None:
    network = velocity_network(SMALL_UNET, 2, stirred=True)
    fixed, moving = random(2, 1, 16, 24), random(2, 2, 16, 24, seed=1)
    flow = network.get_submodule("unet")(torch.cat([fixed, moving], dim=1))
    torch.testing.assert_close(look(network, fixed, moving), torch.nn.functional.avg_pool2d(flow, 2) / 2)


# --- pyramid ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 3])
def test_pyramid_parameters_by_hand(dim: int) -> None:
    """Two convolutions a level and image; an estimator sees (2 r + 1)^dim scores, both features and the velocity."""
    encoders = [(1, 4), (4, 4), (4, 6), (6, 6), (6, 6), (6, 6), (2, 4), (4, 4), (4, 6), (6, 6), (6, 6), (6, 6)]
    seen = 3**dim + 2 * 6 + dim
    estimators = [(seen, 5), (5, 5), (5, dim), (seen, 6), (6, 6), (6, dim)]
    assert parameters(Pyramid(SPARSE_PYRAMID, dim, 1, 2)) == weights(dim, encoders + estimators)


@dimensions
@pytest.mark.parametrize("radius", [0, 1, 2])
@pytest.mark.parametrize("products", [0, 10_000], ids=["offset by offset", "all products"])
def test_correlation_by_loops(
    shape: tuple[int, ...], radius: int, products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``c_o(p) = <f(p), m(p + o)> / sqrt(channels)``, offsets in the order of ``product``, nothing outside."""
    monkeypatch.setattr(pyramid_module, "PRODUCT_VOXELS", products)
    shape = tuple(size // 4 for size in shape)
    fixed, moving = random(2, 3, *shape), random(2, 3, *shape, seed=1)
    scores = local_correlation(fixed, moving, radius)
    offsets = list(product(range(-radius, radius + 1), repeat=len(shape)))
    assert scores.shape == (2, len(offsets), *shape)
    for (number, offset), p in product(enumerate(offsets), np.ndindex(*shape)):
        q = np.add(p, offset)
        inside = (q >= 0).all() and (q < shape).all()
        expected = (fixed[0, :, *p] * moving[0, :, *q]).sum() / 3**0.5 if inside else 0
        assert scores[0, number, *p].item() == pytest.approx(float(expected), abs=1e-6)


def test_both_ways_to_correlate_learn_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    slopes = []
    for products in (0, 10_000):
        monkeypatch.setattr(pyramid_module, "PRODUCT_VOXELS", products)
        fixed, moving = random(2, 3, 6, 7).requires_grad_(), random(2, 3, 6, 7, seed=1).requires_grad_()
        weights = random(2, 25, 6, 7, seed=2)
        slopes.append(torch.autograd.grad((local_correlation(fixed, moving, 2) * weights).sum(), (fixed, moving)))
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other)


def test_correlation_finds_a_shift() -> None:
    """Where moving is fixed moved on by (1, -2), that offset scores highest: it is the pull-back displacement."""
    fixed = normalise(torch.randn(1, 8, 12, 12, generator=torch.Generator().manual_seed(0)))
    scores = local_correlation(fixed, fixed.roll((1, -2), (2, 3)), 2)[0, :, 3:-3, 3:-3]
    best = scores.mean((1, 2)).argmax().item()
    assert list(product(range(-2, 3), repeat=2))[best] == (1, -2)


def test_features_are_normalised_for_each_image_and_channel() -> None:
    features = 5 + 3 * random(2, 3, 6, 8)
    normalised = normalise(features)
    torch.testing.assert_close(normalised.mean((2, 3)), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalised.var((2, 3), correction=0), torch.ones(2, 3), atol=1e-3, rtol=0)
    torch.testing.assert_close(normalised, nn.functional.instance_norm(features, eps=1e-4), atol=1e-5, rtol=0)
    assert normalise(torch.ones(1, 1, 4, 4)).abs().max() == 0


@dimensions
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("last", [False, True])
def test_convolutions_are_pytorchs_in_any_layout(shape: tuple[int, ...], batch: int, channels: int, last: bool) -> None:
    dim = len(shape)
    layer = layers.convolution(dim, channels, 5, stride=2)
    image = random(batch, channels, *shape)
    image = image.to(memory_format=layers.CHANNELS_LAST[dim]) if last else image
    with torch.inference_mode():
        plain = (nn.functional.conv2d, nn.functional.conv3d)[dim - 2]
        torch.testing.assert_close(layer(image), plain(image, layer.weight, layer.bias, stride=2, padding=1))


def test_levels_without_estimator_feed_the_coarser_ones_only() -> None:
    """Without its finest level a pyramid's velocity is one of 4x4 voxels, interpolated."""
    fixed, moving = random(1, 1, 16, 16), random(1, 2, 16, 16, seed=1)
    interpolation = spatial.resize_image(torch.eye(4)[None, None], (8, 4))[0, 0]
    project = interpolation @ torch.linalg.pinv(interpolation)

    def lost(spec: PyramidSpec) -> float:
        velocity = look(velocity_network(spec, 2, stirred=True), fixed, moving)
        return ((velocity - project @ velocity @ project.T).norm() / velocity.norm()).item()

    assert lost(SPARSE_PYRAMID) < 1e-5
    assert lost(SMALL_PYRAMID.model_copy(update={"control_spacing": 1.0})) > 0.1


class Estimator(nn.Module):
    """One that says what it was made to say, and remembers what it was shown."""

    def __init__(self, estimate: Tensor) -> None:
        super().__init__()
        self.estimate = estimate

    def forward(self, shown: Tensor) -> Tensor:
        self.shown = shown
        return self.estimate


def constant(vector: list[float], size: int) -> Tensor:
    return torch.tensor(vector).view(1, 2, 1, 1).expand(1, 2, size, size)


def test_levels_add_up_in_the_voxels_of_the_next() -> None:
    """(1, 0) at 1/8 is (2, 0) at 1/4; with (0, 0.5) there it is (2, 0.5), and (4, 1) at 1/2, where nothing is added."""
    pyramid = Pyramid(SPARSE_PYRAMID, 2, 1, 2)
    pyramid.estimators[2] = Estimator(constant([1.0, 0.0], 4))
    pyramid.estimators[1] = Estimator(constant([0.0, 0.5], 8))
    velocity = look(pyramid, random(1, 1, 32, 32), random(1, 2, 32, 32, seed=1))
    torch.testing.assert_close(velocity, constant([4.0, 1.0], 16))


def test_an_estimator_is_shown_the_features_moved_by_the_velocity_so_far() -> None:
    fixed, moving = random(1, 1, 32, 32), random(1, 2, 32, 32, seed=1)
    pyramid = Pyramid(SPARSE_PYRAMID, 2, 1, 2)
    estimator = Estimator(constant([0.0, 0.0], 8))
    pyramid.estimators[2] = Estimator(constant([1.0, -0.5], 4))
    pyramid.estimators[1] = estimator
    look(pyramid, fixed, moving)
    features = pyramid.encode_fixed(fixed)[1]
    moved = spatial.warp(pyramid.encode_moving(moving)[1], constant([2.0, -1.0], 8))
    scores = local_correlation(normalise(features), normalise(moved), 1)
    expected = torch.cat([scores, features, moved, constant([2.0, -1.0], 8)], dim=1)
    torch.testing.assert_close(estimator.shown, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("control_spacing", "spacing"), [(8.0, 4.0), (2.0, None)])
def test_an_estimate_is_a_spline_of_the_control_spacing(control_spacing: float, spacing: float | None) -> None:
    """Which is in voxels of full resolution; at one voxel of its level or less there is nothing to smooth."""
    spec = PyramidSpec(features=(4,), hidden=(4,), radius=(1,), control_spacing=control_spacing)
    pyramid, estimate = Pyramid(spec, 2, 1, 2), random(1, 2, 16, 16)
    pyramid.estimators[0] = Estimator(estimate)
    expected = estimate if spacing is None else spatial.bspline_smooth(estimate, spacing)
    torch.testing.assert_close(look(pyramid, random(1, 1, 32, 32), random(1, 2, 32, 32)), expected)


# --- every network ---------------------------------------------------------------------------------------------------


@registering
@dimensions
def test_velocity_is_at_half_resolution(spec: UNetSpec | PyramidSpec, shape: tuple[int, ...]) -> None:
    dim = len(shape)
    velocity = look(velocity_network(spec, dim), random(2, 1, *shape), random(2, 2, *shape, seed=1))
    assert velocity.shape == (2, dim, *[size // 2 for size in shape])
    assert velocity.dtype == torch.float32


@registering
@dimensions
def test_training_starts_at_the_identity(spec: UNetSpec | PyramidSpec, shape: tuple[int, ...]) -> None:
    """Not quite at zero, where nothing would learn."""
    velocity = look(velocity_network(spec, len(shape)), random(2, 1, *shape), random(2, 2, *shape, seed=1))
    assert 0 < velocity.abs().max() < 0.05


@registering
@dimensions
def test_a_batch_is_its_elements(spec: UNetSpec | PyramidSpec, shape: tuple[int, ...]) -> None:
    network = velocity_network(spec, len(shape), stirred=True)
    fixed, moving = random(3, 1, *shape), random(3, 2, *shape, seed=1)
    together = look(network, fixed, moving)
    assert together.abs().max() > 1e-2
    for k in range(3):
        torch.testing.assert_close(
            look(network, fixed[k : k + 1], moving[k : k + 1])[0], together[k], atol=1e-6, rtol=1e-5
        )


@registering
@dimensions
def test_every_parameter_learns(spec: UNetSpec | PyramidSpec, shape: tuple[int, ...]) -> None:
    network = velocity_network(spec, len(shape), stirred=True)
    look(network, random(2, 1, *shape), random(2, 2, *shape, seed=1)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # The finest level of a sparse pyramid still feeds the others; every one has something to learn.
        assert parameter.grad.abs().max() > 0, name


@registering
def test_blank_images_have_a_finite_gradient(spec: UNetSpec | PyramidSpec) -> None:
    """As at the end of a stack of slices: no feature has any variance."""
    network = velocity_network(spec, 2)
    velocity = look(network, torch.zeros(1, 1, 16, 16), torch.zeros(1, 2, 16, 16))
    velocity.square().sum().backward()
    assert velocity.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@registering
def test_sides_that_do_not_divide_are_refused(spec: UNetSpec | PyramidSpec) -> None:
    divisor = 8 if spec is SPARSE_PYRAMID else 4
    with pytest.raises(ValueError, match=rf"image of \(16, 18\) voxels, expected .* multiple of {divisor}"):
        look(velocity_network(spec, 2), random(1, 1, 16, 18), random(1, 2, 16, 18))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [9, 200])
def test_a_convolution_is_the_same_while_nothing_learns(size: int, stride: int) -> None:
    convolution = layers.convolution(2, 2, 5, stride)
    image = random(1, 2, 12, size)
    learning = convolution(image)
    assert learning.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(convolution(image), learning.detach())


def test_both_encoders_read_their_own_image() -> None:
    network = velocity_network(SMALL_PYRAMID, 2, stirred=True)
    fixed, moving = random(1, 1, 16, 16), random(1, 2, 16, 16, seed=1)
    velocity = look(network, fixed, moving)
    assert (look(network, 1 - fixed, moving) - velocity).abs().max() > 1e-3
    assert (look(network, fixed, 1 - moving) - velocity).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (UNetSpec, {"width": 3}),
        (UNetSpec, {"kind": "pyramid"}),
        (PyramidSpec, {"control_spacing": 0.0}),
        (PyramidSpec, {"features": "many"}),
    ],
)
def test_specifications_refuse_what_they_do_not_know(model: type[BaseModel], given: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(given))):
        model(**given)


@pytest.mark.parametrize(
    "given", [{"hidden": (4,)}, {"radius": (1, 1, 1)}, {"features": ()}, {"hidden": (4, 0)}, {"radius": (1, 0)}]
)
def test_levels_must_agree(given: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ValidationError, match=next(iter(given))):
        PyramidSpec(**{"features": (4, 4), "hidden": (4, 4), "radius": (1, 1)} | given)


def test_a_unet_goes_up_as_often_as_down() -> None:
    with pytest.raises(ValidationError, match="1 decoder widths for 2 encoder widths"):
        UNetSpec(encoder=(4, 4), decoder=(4,))


def test_a_pyramid_needs_more_than_one_voxel_at_its_coarsest() -> None:
    network = hierarchy.velocity_network(PyramidSpec(features=(4, 4), hidden=(4, 4), radius=(1, 1)), 2, 1, 1)
    with pytest.raises(ValueError, match=r"image of \(4, 4\) voxels, expected more"):
        look(network, torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4))


def test_a_conditioned_network_hears_of_the_smoothness_and_others_do_not() -> None:
    spec = PyramidSpec(features=(4, 4), hidden=(4, 4), radius=(1, 1), control_spacing=1, conditioned=True)
    network = velocity_network(spec, 2, stirred=True)
    fixed, moving = random(2, 1, 16, 16), random(2, 2, 16, 16, seed=1)
    velocity = look(network, fixed, moving, torch.tensor([0.0, 1.0]))
    swapped = look(network, fixed, moving, torch.tensor([1.0, 0.0]))
    assert (velocity - swapped).flatten(1).abs().amax(1).min() > 1e-4
    torch.testing.assert_close(
        look(network, fixed[:1], moving[:1], torch.tensor([0.0])), velocity[:1], atol=1e-6, rtol=1e-5
    )
    with pytest.raises(ValueError, match="conditioned on the smoothness"):
        look(network, fixed, moving)
    for plain in (SMALL_PYRAMID, SMALL_UNET):
        deaf = velocity_network(plain, 2, stirred=True)
        assert torch.equal(look(deaf, fixed, moving), look(deaf, fixed, moving, torch.tensor([0.0, 1.0])))

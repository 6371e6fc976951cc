"""The hierarchy: its equations hold between its own outputs, inverses invert, and each network sees what it should."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from crossmorph.functional import spatial
from crossmorph.networks.affine import Affine, AffineSpec, same_place
from crossmorph.networks.hierarchy import Flow, Hierarchy, HierarchySpec, Registration, chain, fit_appearance
from crossmorph.networks.pyramid import PyramidSpec
from crossmorph.networks.unet import UNetSpec

UNET = UNetSpec(encoder=(4, 6), decoder=(6, 5), final=(4,))
PYRAMID = PyramidSpec(features=(4, 6, 6), hidden=(0, 5, 6), radius=(1, 1, 1), control_spacing=8.0)
SPECS = {
    "unets": HierarchySpec(coarse=UNET, translator=UNET, fine=UNET),
    "pyramids": HierarchySpec(
        coarse=PYRAMID, translator=UNET, fine=PYRAMID, translator_sees="moving", fine_sees="aligned"
    ),
}
hierarchies = pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
dimensions = pytest.mark.parametrize("shape", [(24, 32), (16, 8, 16)], ids=["2d", "3d"])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def pair(shape: tuple[int, ...], batch: int = 2) -> tuple[Tensor, Tensor]:
    return random(batch, 1, *shape), random(batch, 1, *shape, seed=1)


def hierarchy(spec: HierarchySpec, dim: int = 2, stir: float = 0.0) -> Hierarchy:
    """Stirred, its last layers are not near zero: it moves and translates."""
    torch.manual_seed(0)
    model = Hierarchy(spec.model_copy(update={"dim": dim}))
    for layer in model.modules():
        if stir and isinstance(layer, (nn.Conv2d, nn.Conv3d)) and layer.out_channels in (1, dim):
            nn.init.normal_(layer.weight, std=stir)
    return model


def flat(registration: Registration) -> dict[str, Tensor]:
    """Every tensor of the result by its name."""
    flows = {name: getattr(registration, name)._asdict() for name in ("coarse", "fine", "final")}
    fields = {f"{name}.{part}": field for name, flow in flows.items() for part, field in flow.items()}
    return {**fields, "mask": registration.mask, "translated": registration.translated}


def constant(vector: list[float], shape: tuple[int, ...] = (5, 6)) -> Tensor:
    return torch.tensor(vector).view(1, -1, *[1] * len(shape)).expand(1, -1, *shape).clone()


# --- the result ------------------------------------------------------------------------------------------------------


@hierarchies
@dimensions
def test_equations_hold_between_the_parts(spec: HierarchySpec, shape: tuple[int, ...]) -> None:
    moving, fixed = pair(shape)
    model = hierarchy(spec, len(shape), stir=0.3)
    result = model(moving, fixed)
    for name, tensor in flat(result).items():
        assert tensor.shape == (2, 1 if name in ("mask", "translated") else len(shape), *shape), name
        assert tensor.abs().max() > 1e-2, name
    assert torch.equal(result.translated, moving + result.mask)
    assert torch.equal(result.final.displacement, spatial.compose(result.coarse.displacement, result.fine.displacement))
    assert torch.equal(result.final.inverse, spatial.compose(result.fine.inverse, result.coarse.inverse))


def test_chain_by_hand() -> None:
    """``phi0`` grows by a half and ``phi1`` moves by 2: ``phi(p) = 1.5 (p + 2)``, ``phi^-1(p) = p / 1.5 - 2``."""
    grid = spatial.identity_grid((12, 1))
    along = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    coarse = Flow(0.5 * grid * along, (1 / 1.5 - 1) * grid * along)
    fine = Flow(torch.full_like(grid, 2) * along, torch.full_like(grid, -2) * along)
    final = chain(coarse, fine)
    torch.testing.assert_close((grid + final.displacement)[0, 0, :10, 0], 1.5 * (torch.arange(10.0) + 2))
    torch.testing.assert_close((grid + final.inverse)[0, 0, :, 0], torch.arange(12.0) / 1.5 - 2)


@hierarchies
@pytest.mark.parametrize("shape", [(24, 32), (16, 16, 16)], ids=["2d", "3d"])
def test_inverse_flows_invert(spec: HierarchySpec, shape: tuple[int, ...]) -> None:
    """As far as flows at half resolution do: away from the border, what is left is small against what they move."""
    moving, fixed = (spatial.bspline_smooth(image, 4.0) for image in pair(shape, batch=1))
    result = hierarchy(spec, len(shape), stir=0.5)(moving, fixed)
    for flow in (result.coarse, result.fine, result.final):
        rest = spatial.compose(flow.displacement, flow.inverse)
        inside = rest[(..., *[slice(4, -4)] * len(shape))]
        assert flow.displacement.abs().max() > 0.5
        assert inside.abs().mean() < 0.05 * flow.displacement.abs().mean()


@hierarchies
@dimensions
def test_it_starts_at_the_identity(spec: HierarchySpec, shape: tuple[int, ...]) -> None:
    result = hierarchy(spec, len(shape))(*pair(shape))
    for name, tensor in flat(result).items():
        if name != "translated":
            assert tensor.abs().max() < 0.05, name


@hierarchies
@dimensions
def test_a_batch_is_its_elements(spec: HierarchySpec, shape: tuple[int, ...]) -> None:
    moving, fixed = pair(shape, batch=3)
    model = hierarchy(spec, len(shape), stir=0.2)
    together = flat(model(moving, fixed))
    for k in range(3):
        single = flat(model(moving[k : k + 1], fixed[k : k + 1]))
        for name, tensor in single.items():
            torch.testing.assert_close(tensor[0], together[name][k], atol=1e-5, rtol=1e-5, msg=name)


def test_flow_doubles_onto_the_full_grid() -> None:
    """A velocity of 1.5 voxels at half resolution is a displacement of 3 voxels of the image, forth and back."""
    model = hierarchy(SPECS["unets"])
    flow = model.flow(constant([1.5, -0.5], (4, 6)), random(1, 1, 8, 12))
    torch.testing.assert_close(flow.displacement, constant([3.0, -1.0], (8, 12)))
    torch.testing.assert_close(flow.inverse, constant([-3.0, 1.0], (8, 12)))


def test_integration_steps_are_those_of_the_specification() -> None:
    velocity = torch.zeros(1, 2, 4, 1)
    velocity[0, 0, :, 0] = torch.tensor([0.0, 2, 2, 0])
    for steps in (1, 5):
        model = hierarchy(SPECS["unets"].model_copy(update={"integration_steps": steps}))
        flow = model.flow(velocity, random(1, 1, 4, 1))
        torch.testing.assert_close(flow.displacement, spatial.integrate(velocity, steps))
        torch.testing.assert_close(flow.inverse, spatial.integrate(-velocity, steps))


# --- who sees what ---------------------------------------------------------------------------------------------------


def test_networks_are_shown_the_fixed_image_first() -> None:
    """``G1(F, M)``, ``G2(F, M)``: what a checkpoint was trained on."""
    moving, fixed = pair((16, 16))
    model = hierarchy(SPECS["unets"], stir=0.3)
    expected = model.flow(model.coarse(model.coarse.encode(fixed), moving), moving)
    assert torch.equal(model.register_coarse(moving, fixed).displacement, expected.displacement)
    coarse = model.register_coarse(moving, fixed)
    assert torch.equal(model.translate(moving, fixed, coarse), model.translation(torch.cat([fixed, moving], dim=1)))
    result = model(moving, fixed)
    assert torch.equal(result.coarse.displacement, expected.displacement)
    assert torch.equal(result.mask, model.translate(moving, fixed, coarse))


@pytest.mark.parametrize("sees", ["pair", "moving"])
def test_the_translator_sees_the_fixed_image_only_if_it_should(sees: str) -> None:
    moving, fixed = pair((16, 16))
    model = hierarchy(SPECS["unets"].model_copy(update={"translator_sees": sees}), stir=0.3)
    coarse = model.register_coarse(moving, fixed)
    mask = model.translate(moving, fixed, coarse)
    assert (mask - model.translate(1 - moving, fixed, coarse)).abs().max() > 1e-3
    moved = (mask - model.translate(moving, 1 - fixed, coarse)).abs().max()
    assert moved > 1e-3 if sees == "pair" else moved == 0


@pytest.mark.parametrize("sees", ["original", "aligned"])
def test_fine_registration_sees_the_moving_images_as_it_should(sees: str) -> None:
    """Either as they are, whatever the coarse field, or moved by it, once."""
    moving, fixed = pair((16, 16))
    translated = random(2, 1, 16, 16, seed=2)
    model = hierarchy(SPECS["unets"].model_copy(update={"fine_sees": sees}), stir=0.3)
    coarse = Flow(*(constant([2.0, -1.0], (16, 16)).expand(2, -1, -1, -1) * sign for sign in (1, -1)))
    flow = model.register_fine(moving, fixed, translated, coarse)
    both = torch.cat([moving, translated], dim=1)
    seen = both if sees == "original" else spatial.warp(both, coarse.displacement)
    expected = model.flow(model.fine(model.fine.encode(fixed), seen), moving)
    assert torch.equal(flow.displacement, expected.displacement)
    other = model.flow(model.fine(model.fine.encode(fixed), both.flip(1)), moving)
    assert (flow.displacement - other.displacement).abs().max() > 1e-3


@pytest.mark.parametrize("stage", ["coarse", "translation", "fine"])
def test_each_network_gets_the_gradient_of_its_own_output(stage: str) -> None:
    """And the coarse and fine fields do not depend on what they do not see."""
    moving, fixed = pair((16, 16))
    model = hierarchy(SPECS["unets"], stir=0.3)
    result = model(moving, fixed)
    output = {"coarse": result.coarse.displacement, "translation": result.mask, "fine": result.fine.displacement}[stage]
    output.square().sum().backward()
    learning = {
        name for name, network in model.named_children() if any(p.grad is not None for p in network.parameters())
    }
    # The translation is an input of the fine network.
    assert learning == ({"translation", "fine"} if stage == "fine" else {stage})


def test_a_negative_mask_is_alive() -> None:
    """CSF is bright in T2w and dark in T1w: the mask takes away, and its gradient does not stop there."""
    moving, fixed = pair((16, 16))
    model = hierarchy(SPECS["unets"])
    with torch.no_grad():
        model.translation.get_parameter("output.bias").fill_(-0.7)
    result = model(moving, fixed)
    assert result.mask.max() < -0.6
    assert result.translated.min() < 0
    result.translated.sum().backward()
    bias = model.translation.get_parameter("output.bias").grad
    assert bias is not None
    assert bias.item() == pytest.approx(2 * 16 * 16)


def test_passes_of_the_fine_network_are_composed() -> None:
    """The second look sees what the first one moved, and the fine field is both."""
    moving, fixed = pair((16, 16))
    translated = random(2, 1, 16, 16, seed=2)
    model = hierarchy(SPECS["unets"].model_copy(update={"fine_sees": "aligned", "fine_looks": 2}), stir=0.3)
    coarse = Flow(*(constant([2.0, -1.0], (16, 16)).expand(2, -1, -1, -1) * sign for sign in (1, -1)))
    both, flow = torch.cat([moving, translated], dim=1), coarse
    steps = []
    for _ in range(2):
        steps.append(model.flow(model.fine(model.fine.encode(fixed), spatial.warp(both, flow.displacement)), moving))
        flow = chain(coarse, chain(*steps) if len(steps) == 2 else steps[0])
    found = model.register_fine(moving, fixed, translated, coarse)
    torch.testing.assert_close(found.displacement, chain(*steps).displacement)
    torch.testing.assert_close(found.inverse, chain(*steps).inverse)


# --- the affine start ------------------------------------------------------------------------------------------------


def test_the_iteration_with_most_mutual_information_is_used_for_each_pair() -> None:
    """Three looks: wrong, right and wrong for the first pair; wrong, wrong and wrong for the second, which stays."""
    model = hierarchy(SPECS["unets"].model_copy(update={"affine": AffineSpec(features=(2,), hidden=2, canvas=32)}))
    picture = spatial.bspline_smooth(random(2, 1, 32, 32), 4.0)
    moving = torch.stack([torch.roll(picture[0], 4, 1), picture[1]])
    looks = [Affine(torch.eye(2).expand(2, 2, 2), torch.tensor([[x, 0.0], [9.0, 0.0]])) for x in (-4.0, 4.0, 1.0)]
    model.affine.forward = lambda *_: looks
    found = model.register_affine(moving, picture, same_place(picture))
    assert found.shift.tolist() == [[4.0, 0.0], [0.0, 0.0]]


# --- appearance ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(24, 20), (10, 12, 14)])
def test_an_appearance_within_reach_is_found(shape: tuple[int, ...]) -> None:
    """F = 0.3 P_0 - 0.7 P_1 + 0.2, moved: the weights come back, on the moving grid."""
    pictures = spatial.bspline_smooth(random(2, 3, *shape), 3.0)
    wanted = 0.3 * pictures[:, :1] - 0.7 * pictures[:, 1:2] + 0.2
    field = constant([1.5] + [0.5] * (len(shape) - 1), shape).expand(2, *[-1] * (len(shape) + 1))
    found = fit_appearance(pictures, spatial.warp(wanted, field), field)
    assert (found - wanted).abs().max() < 0.02
    assert (pictures[:, :1] - wanted).abs().max() > 0.2


def test_an_appearance_cannot_show_where_the_fixed_image_is() -> None:
    """Pictures that are symmetric stay so, however the fixed image lies: only a few numbers come from it."""
    pictures = random(1, 2, 16, 16)
    pictures = (pictures + pictures.flip(3)) / 2
    found = fit_appearance(pictures, random(1, 1, 16, 16, seed=3), torch.zeros(1, 2, 16, 16))
    torch.testing.assert_close(found, found.flip(3))


def test_the_appearance_is_the_least_squares_one() -> None:
    pictures, fixed = random(1, 2, 12, 12), random(1, 1, 12, 12, seed=3)
    found = fit_appearance(pictures, fixed, torch.zeros(1, 2, 12, 12))
    design = np.stack([*pictures[0].flatten(1).numpy(), np.ones(144)], axis=1)
    solution = np.linalg.lstsq(design, fixed.flatten().numpy(), rcond=None)[0]
    np.testing.assert_allclose(found.flatten().numpy(), design @ solution, atol=2e-3)


def test_constant_pictures_are_no_trouble() -> None:
    found = fit_appearance(torch.ones(1, 2, 8, 8), torch.full((1, 1, 8, 8), 0.4), torch.zeros(1, 2, 8, 8))
    torch.testing.assert_close(found, torch.full_like(found, 0.4), atol=1e-2, rtol=0)


def test_a_hierarchy_of_appearances_translates_any_contrast() -> None:
    """Turned upside down, the fixed image turns the translation: nothing of it is learnt."""
    moving = spatial.bspline_smooth(random(1, 1, 32, 32), 4.0)
    spec = SPECS["unets"].model_copy(update={"translator_sees": "moving", "appearances": 3})
    model = hierarchy(spec)
    still = Flow(torch.zeros(1, 2, 32, 32), torch.zeros(1, 2, 32, 32))
    for fixed in (moving, 1 - moving):
        translated = moving + model.translate(moving, fixed, still)
        assert (translated - fixed).abs().max() < 0.02


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("coarse", "translator", "fine", "divisor"),
    [(UNET, UNET, UNET, 4), (PYRAMID, UNET, UNET, 8), (UNET, UNET, PYRAMID, 8), (PYRAMID, UNetSpec(), UNET, 16)],
)
def test_divisor_is_that_of_the_deepest_network(
    coarse: UNetSpec | PyramidSpec, translator: UNetSpec, fine: UNetSpec | PyramidSpec, divisor: int
) -> None:
    model = Hierarchy(HierarchySpec(coarse=coarse, translator=translator, fine=fine))
    assert model.divisor == divisor
    model(*pair((2 * divisor, divisor), batch=1))
    with pytest.raises(ValueError, match=rf"\({2 * divisor}, {divisor + divisor // 2}\) voxels.*multiple of {divisor}"):
        model(*pair((2 * divisor, divisor + divisor // 2), batch=1))


@pytest.mark.parametrize(
    "given",
    [{"dim": 4}, {"translator_sees": "fixed"}, {"fine_sees": "nothing"}, {"integration_steps": 0}, {"networks": 3}],
)
def test_specifications_refuse_what_they_do_not_know(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(given))):
        HierarchySpec.model_validate(given)


def test_specification_survives_being_written() -> None:
    spec = SPECS["pyramids"]
    assert HierarchySpec.model_validate_json(spec.model_dump_json()) == spec
    assert HierarchySpec().coarse == UNetSpec()

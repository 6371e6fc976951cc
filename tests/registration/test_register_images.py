"""Registration with the shipped weights: it finds the true field on any pair of grids, and says what it cannot use."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy import ndarray
from scipy import ndimage

from crossmorph.datasets.pairs import read_pairs
from crossmorph.errors import InputError
from crossmorph.functional.metrics import endpoint_error_mm, mean_dice, psnr
from crossmorph.images.image import Image, scale_intensity
from crossmorph.images.io import read_image
from crossmorph.networks.checkpoint import Model, load_model
from crossmorph.registration.initialization import searched_affine
from crossmorph.registration.register_images import (
    Registered,
    register_coarse,
    register_images,
    register_networks,
)
from crossmorph.registration.settings import Settings
from crossmorph.registration.translation import fit_translation, translated_image
from crossmorph.transforms.grid import Grid, centre, onto_grid
from crossmorph.transforms.warp import Warp, resample, resample_warp
from crossmorph.transforms.warp_files import read_transform

Placement = tuple[tuple[int, ...], ndarray]


class Case(NamedTuple):
    """A phantom pair and what is known of it."""

    moving: Image
    fixed: Image
    moving_labels: Image
    fixed_labels: Image
    moving_same: Image
    truth: Warp


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model()


@pytest.fixture(scope="module")
def case(phantom) -> Case:
    pair = read_pairs(phantom / "test" / "pairs.csv")[0]
    return Case(
        read_image(pair.moving),
        read_image(pair.fixed),
        read_image(pair.moving_labels, labels=True),
        read_image(pair.fixed_labels, labels=True),
        read_image(pair.moving_same),
        read_transform(pair.field),
    )


@pytest.fixture(scope="module")
def plain(case, model) -> Registered:
    torch.set_num_threads(1)
    return register_images(case.moving, case.fixed, model)


def placed(spacing: tuple[float, float], shape: tuple[int, int], degrees: float = 0.0) -> Placement:
    """A grid about the phantom's centre (0, -17), turned in the plane."""
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    affine = np.eye(3)
    affine[:2, :2] = turn * spacing
    affine[:2, 2] = [0.0, -17.0] - affine[:2, :2] @ ((np.array(shape) - 1) / 2)
    return shape, affine


def on(image: Image, placement: Placement) -> Image:
    """An image, or labels, on another grid."""
    shape, affine = placement
    if image.data.dtype.kind == "f":
        return onto_grid(image, Grid(affine, shape))
    return resample(image, Warp(np.zeros((2, *shape)), affine), "nearest")


def still(like: Image) -> Warp:
    return Warp(np.zeros((like.dim, *like.shape)), like.affine)


def error_mm(warp: Warp, case: Case) -> float:
    """Mean endpoint error over the brain, on the warp's own grid."""
    truth = resample_warp(case.truth, warp.affine, warp.shape)
    brain = on(case.fixed_labels, (warp.shape, warp.affine)).data > 0
    return endpoint_error_mm(warp.displacement, truth.displacement, brain)


def flipped(image: Image, axis: int) -> Image:
    """The same image, stored from the other end of an axis."""
    turn = np.eye(3)
    turn[axis, axis], turn[axis, 2] = -1, image.shape[axis] - 1
    return Image(np.flip(image.data, axis).copy(), image.affine @ turn)


def swapped(image: Image) -> Image:
    """The same image, stored with its axes in the other order."""
    return Image(image.data.T.copy(), image.affine[:, [1, 0, 2]])


def moved_by(image: Image, offset: tuple[float, float]) -> Image:
    """The same image elsewhere in the world."""
    affine = image.affine.copy()
    affine[:2, 2] += offset
    return Image(image.data, affine)


def loop_mm(warp: Warp, inverse: Warp, where: ndarray) -> ndarray:
    """``|d(x) + inverse(x + d(x))|`` of the voxels of the warp's grid in a mask, millimetres."""
    d = warp.displacement[:, where]
    points = warp.affine[:2, :2] @ np.stack(np.nonzero(where)) + warp.affine[:2, 2:]
    voxels = np.linalg.inv(inverse.affine[:2, :2]) @ (points + d - inverse.affine[:2, 2:])
    back = [ndimage.map_coordinates(component, voxels, order=1, mode="nearest") for component in inverse.displacement]
    return np.linalg.norm(d + back, axis=0)


def test_shipped_weights_find_the_true_field(case, plain, model):
    before = mean_dice(on(case.moving_labels, (case.fixed.shape, case.fixed.affine)).data, case.fixed_labels.data)
    after = mean_dice(resample(case.moving_labels, plain.warp, "nearest").data, case.fixed_labels.data)
    ceiling = mean_dice(resample(case.moving_labels, case.truth, "nearest").data, case.fixed_labels.data)
    assert after > before + 0.1
    assert after > ceiling - 0.1
    assert error_mm(plain.warp, case) < error_mm(still(case.fixed), case) / 3
    assert error_mm(plain.warp, case) < error_mm(register_coarse(case.moving, case.fixed, model), case)


def test_the_translation_lies_on_the_moving_image_and_looks_like_the_fixed_one(case, plain):
    wanted = scale_intensity(case.moving_same.data).data
    assert plain.translated.shape == case.moving.shape
    assert np.array_equal(plain.translated.affine, case.moving.affine)
    assert psnr(plain.translated.data, wanted) > psnr(scale_intensity(case.moving.data).data, wanted) + 8


def test_the_networks_alone_give_the_same_where_nothing_is_refused(case, plain, model):
    prepared, result, warp = register_networks(case.moving, case.fixed, model)
    assert not plain.rejected
    assert np.array_equal(warp.displacement, plain.warp.displacement)
    assert torch.equal(result.final.displacement, plain.result.final.displacement)
    found = fit_translation(prepared.pair, result.drawn, result.final)
    translated = translated_image(*found, prepared, case.moving)
    assert np.array_equal(translated.data, plain.translated.data)


GRIDS = {
    "odd sizes": (placed((1.9, 1.7), (101, 117)), placed((1.5, 1.5), (128, 128))),
    "0.8 mm and 2.3 mm": (placed((0.8, 0.8), (239, 241)), placed((2.3, 2.3), (83, 85))),
    "2.3 mm and 0.8 mm": (placed((2.3, 2.3), (83, 85)), placed((0.8, 0.8), (239, 241))),
    "anisotropic": (placed((0.7, 2.1), (270, 91)), placed((1.9, 1.1), (100, 175))),
    "turned apart": (placed((1.4, 1.5), (131, 127), 12.0), placed((1.3, 1.6), (140, 120), -15.0)),
    "small field of view": (placed((1.2, 1.2), (125, 150)), placed((2.0, 2.0), (128, 128))),
}


@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
def test_any_size_spacing_and_field_of_view(case, model, grids):
    fixed, moving = on(case.fixed, grids[0]), on(case.moving, grids[1])
    found = register_images(moving, fixed, model)
    assert found.warp.shape == fixed.shape
    assert np.array_equal(found.warp.affine, fixed.affine)
    assert found.inverse.shape == moving.shape
    assert np.array_equal(found.inverse.affine, moving.affine)
    assert error_mm(found.warp, case) < error_mm(still(fixed), case) / 2
    labels = resample(on(case.moving_labels, grids[1]), found.warp, "nearest").data
    assert mean_dice(labels, on(case.fixed_labels, grids[0]).data) > 0.7
    brain = on(case.fixed_labels, grids[0]).data > 0
    assert np.percentile(loop_mm(found.warp, found.inverse, brain), 99) < 0.75


@pytest.mark.parametrize("role", ["moving", "fixed"])
@pytest.mark.parametrize(
    "stored", [lambda i: flipped(i, 0), lambda i: flipped(i, 1), swapped], ids=["left", "posterior", "transposed"]
)
def test_how_the_axes_are_stored_does_not_matter(case, plain, model, role, stored):
    images = {"moving": case.moving, "fixed": case.fixed}
    images[role] = stored(images[role])
    found = register_images(images["moving"], images["fixed"], model)
    for ours, theirs in ((found.warp, plain.warp), (found.inverse, plain.inverse)):
        same = resample_warp(ours, theirs.affine, theirs.shape).displacement
        np.testing.assert_allclose(same, theirs.displacement, atol=2e-3)


def test_pixels_stand_for_the_models_grid(case, plain, model):
    """A PNG of the model's own size, drawn as a radiograph, is what the networks know, with 1 for 1.5 mm."""
    page = np.diag([-1.0, -1.0, 1.0])
    moving, fixed = (Image(i.data[::-1, ::-1].copy(), page, physical=False) for i in (case.moving, case.fixed))
    found = register_images(moving, fixed, model)
    assert not found.translated.physical
    for ours, theirs in ((found.warp, plain.warp), (found.inverse, plain.inverse)):
        np.testing.assert_allclose(1.5 * ours.displacement[:, ::-1, ::-1], theirs.displacement, atol=2e-3)


def test_centres_bring_images_together_from_afar(case, model):
    plain = register_images(case.moving, case.fixed, model, Settings("none"))
    far = moved_by(case.moving, (400.0, -250.0))
    with pytest.raises(InputError, match=r"covers 0% .*--init centers"):
        register_images(far, case.fixed, model, Settings("none"))
    found = register_images(far, case.fixed, model, Settings("centers"))
    assert found.overlap == 1
    brain = case.fixed_labels.data > 0
    ours, theirs = resample(far, found.warp), resample(case.moving, plain.warp)
    np.testing.assert_allclose(ours.data, theirs.data, atol=1e-3 * np.ptp(theirs.data))
    np.testing.assert_allclose(found.translated.data, plain.translated.data, atol=1e-3)
    assert np.array_equal(found.translated.affine, far.affine)
    assert np.array_equal(found.inverse.affine, far.affine)
    np.testing.assert_allclose(
        found.inverse.displacement[:, 64, 64] + [400, -250], plain.inverse.displacement[:, 64, 64], atol=1e-4
    )
    assert loop_mm(found.warp, found.inverse, brain).max() < 1


def test_the_inverse_takes_the_fixed_image_to_the_moving_one(case, plain):
    back = resample(case.fixed_labels, plain.inverse, "nearest").data
    assert mean_dice(back, case.moving_labels.data) > mean_dice(case.fixed_labels.data, case.moving_labels.data) + 0.1
    error = loop_mm(plain.warp, plain.inverse, case.fixed_labels.data > 0)
    assert error.mean() < 0.15
    assert error.max() < 1


def turned(image: Image, degrees: float, offset: tuple[float, float]) -> Image:
    """The same image elsewhere in the world: turned about its centre, then shifted (mm)."""
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    affine = image.affine.copy()
    middle = centre(image)
    affine[:2, :2] = turn @ image.affine[:2, :2]
    affine[:2, 2] = turn @ (image.affine[:2, 2] - middle) + middle + offset
    return Image(image.data, affine)


FAR = [
    (35, (20.0, -15.0)),
    (-40, (0.0, 30.0)),
    (0, (500.0, 0.0)),
    (100, (15.0, 10.0)),
    (-150, (0.0, 0.0)),
    (180, (5.0, 0.0)),
]


@pytest.mark.parametrize(("degrees", "offset"), FAR)
def test_pairs_that_start_far_apart_end_where_near_ones_do(case, plain, model, degrees, offset):
    far = turned(case.moving, degrees, offset)
    labels = Image(case.moving_labels.data, far.affine)
    found = register_images(far, case.fixed, model)
    near = mean_dice(resample(case.moving_labels, plain.warp, "nearest").data, case.fixed_labels.data)
    dice = mean_dice(resample(labels, found.warp, "nearest").data, case.fixed_labels.data)
    assert dice > 0.95 * near
    assert dice > mean_dice(on(labels, (case.fixed.shape, case.fixed.affine)).data, case.fixed_labels.data) + 0.3
    # All but a few voxels, whose way leads out of the grid that the field was computed on.
    assert np.quantile(loop_mm(found.warp, found.inverse, case.fixed_labels.data > 0), 0.99) < 0.15


def test_the_search_is_asked_where_the_images_stay_unlike_alone(case, plain, model, monkeypatch):
    """Nearby it changes nothing, whether it is asked or not: another place has to be surely better."""
    asked, looks = [], []
    hierarchy = model.hierarchy
    coarse = hierarchy.register_coarse

    def search(*given, around):
        asked.append(searched_affine(*given, around))
        return asked[-1]

    monkeypatch.setattr("crossmorph.registration.preparation.searched_affine", search)
    monkeypatch.setattr(hierarchy, "register_coarse", lambda *given: looks.append(1) or coarse(*given))
    assert np.array_equal(register_images(case.moving, case.fixed, model).warp.displacement, plain.warp.displacement)
    assert (len(looks), len(asked)) == (1, 0)
    monkeypatch.setattr("crossmorph.registration.preparation.MIN_CORRELATION", 1.1)
    assert np.array_equal(register_images(case.moving, case.fixed, model).warp.displacement, plain.warp.displacement)
    assert (len(looks), len(asked)) == (1 + 3, 1)  # from where the affine network leads, the headers, and the search
    for start in ("none", "centers", np.eye(3)):
        register_images(case.moving, case.fixed, model, Settings(start))
    assert len(asked) == 1


def test_smoothness_is_obeyed_and_checked(case, model):
    rough, stiff = (register_images(case.moving, case.fixed, model, Settings(smoothness=s)).warp for s in (0.0, 1.0))

    def bend(warp: Warp) -> float:
        return float(np.square(np.diff(warp.displacement, n=2, axis=1)).mean())

    assert bend(stiff) < 0.7 * bend(rough)
    with pytest.raises(InputError, match=r"smoothness 1.5: expected 0 \(detailed\) to 1"):
        register_images(case.moving, case.fixed, model, Settings(smoothness=1.5))


def test_refining_gains_and_keeps_the_rest(case, plain, model):
    refined = register_images(case.moving, case.fixed, model, Settings(refine="on"))
    assert refined.refinement is not None
    assert refined.refinement.after > refined.refinement.before
    assert error_mm(refined.warp, case) < error_mm(plain.warp, case) + 0.1
    assert loop_mm(refined.warp, refined.inverse, case.fixed_labels.data > 0).max() < 1.5
    wanted = scale_intensity(case.moving_same.data).data
    assert psnr(refined.translated.data, wanted) > psnr(plain.translated.data, wanted) - 0.3


def test_overlap_is_of_the_fixed_field_of_view(case, model):
    half = register_images(moved_by(case.moving, (96.0, 0.0)), case.fixed, model, Settings("none"))
    assert half.overlap == 0.5
    # A start that was given is used, as long as there is something to compare.
    fifth = register_images(moved_by(case.moving, (100.0, 0.0)), case.fixed, model, Settings("none"))
    assert 0 < fifth.overlap < 0.5
    with pytest.raises(InputError, match="nothing to compare: the moving image covers 0% of the fixed"):
        register_images(moved_by(case.moving, (300.0, 0.0)), case.fixed, model, Settings("none"))


@pytest.mark.parametrize("change", ["none", "gamma", "inverted"])
def test_an_image_with_itself_stays_where_it_is(case, model, change):
    """Identical images give the identity to the bit; so do two contrasts of one image."""
    scaled = scale_intensity(case.fixed.data).data
    data = {"none": scaled, "gamma": scaled**0.6, "inverted": np.where(scaled > 0.1, 1.1 - scaled, scaled)}[change]
    found = register_images(Image(data.astype(np.float32), case.fixed.affine), case.fixed, model)
    assert not found.warp.displacement.any()
    assert not found.inverse.displacement.any()
    assert list(found.stages) == ["initial"]
    assert {each.kept for each in found.rejected} == {"initial"}


def test_an_image_that_is_lost_at_the_working_resolution_is_refused(case, model):
    """Fine stripes are an image in the file and a constant one for the networks."""
    stripes = np.indices((600, 600)).sum(0) % 2
    fine = Image(stripes.astype(np.float32), np.diag([0.2, 0.2, 1.0]))
    fine.affine[:2, 2] = centre(case.fixed) - 60
    with pytest.raises(InputError, match=r"fixed image, shape .* is constant at the resolution .* 1\.5 mm"):
        register_images(case.moving, fine, model)
    with pytest.raises(InputError, match="one of the two is constant there at the resolution"):
        register_images(fine, case.fixed, model)


def test_what_cannot_be_used_is_refused(case, model):
    volume = Image(np.random.default_rng(0).random((8, 9, 10), np.float32), np.eye(4))
    with pytest.raises(InputError, match=r"moving image is 3-D, shape \(8, 9, 10\); model any-2d registers 2-D"):
        register_images(volume, case.fixed, model)
    with pytest.raises(InputError, match="fixed image is 3-D"):
        register_images(case.moving, volume, model)
    wide = Image(case.fixed.data, np.diag([100.0, 100.0, 1.0]))
    with pytest.raises(InputError, match="correct its spacing"):
        register_images(wide, wide, model)
    flat = Image(np.full_like(case.moving.data, 7), case.moving.affine)
    for pair in ((flat, case.fixed), (case.moving, flat)):
        with pytest.raises(InputError, match="all 7: a constant image"):
            register_images(*pair, model)


def test_intensity_units_do_not_matter(case, plain, model):
    louder = Image(case.moving.data * 3000 - 400, case.moving.affine)
    found = register_images(louder, case.fixed, model)
    np.testing.assert_allclose(found.warp.displacement, plain.warp.displacement, atol=1e-3)


def test_the_same_bits_again_and_the_same_field_with_any_threads(case, model):
    """On some machines libraries add up otherwise with other threads, which moves the last bits and no more."""
    fields = {}
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        first, again = (register_images(case.moving, case.fixed, model) for _ in range(2))
        for ours, theirs in ((again.warp, first.warp), (again.inverse, first.inverse)):
            assert np.array_equal(ours.displacement, theirs.displacement)
        assert np.array_equal(again.translated.data, first.translated.data)
        fields[threads] = first.warp.displacement
    for field in fields.values():
        np.testing.assert_allclose(field, fields[1], atol=1e-4)


def test_inputs_stay_as_they_are(case, model):
    copies = [(image.data.copy(), image.affine.copy()) for image in (case.moving, case.fixed)]
    register_images(case.moving, case.fixed, model, Settings("centers"))
    for image, (data, affine) in zip((case.moving, case.fixed), copies, strict=True):
        assert np.array_equal(image.data, data)
        assert np.array_equal(image.affine, affine)

"""Volumes from file to file with a small untrained hierarchy: geometry, outputs and other programs, not accuracy."""

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import nn

from crossmorph.errors import InputError
from crossmorph.functional.metrics import mean_dice
from crossmorph.functional.spatial import strict_jacobian
from crossmorph.images.image import Image
from crossmorph.images.io import read_image, write_image
from crossmorph.networks.checkpoint import Card, Model, load_model, save_model
from crossmorph.networks.hierarchy import Hierarchy, HierarchySpec
from crossmorph.networks.pyramid import PyramidSpec
from crossmorph.networks.unet import UNetSpec
from crossmorph.registration.register_images import register_images, register_initial
from crossmorph.registration.settings import Settings
from crossmorph.simulation.anatomy import tissue_volume, volume_affine
from crossmorph.simulation.mri import simulate, tissue_labels
from crossmorph.transforms.warp import resample, voxel_displacement
from crossmorph.transforms.warp_files import read_transform
from crossmorph.workflows.outputs import LabelFiles, Outputs
from crossmorph.workflows.register_files import register_files

SHAPE, SPACING = (24, 30, 26), 8.0
PYRAMID = PyramidSpec(features=(4, 4), hidden=(4, 4), radius=(1, 1), control_spacing=4)


@pytest.fixture(autouse=True)
def untrained_fields_are_kept(monkeypatch) -> None:
    """What an untrained model finds is worse than nothing."""
    monkeypatch.setattr("crossmorph.registration.register_images._never_worse", lambda progress, _given: progress)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model whose fields are smooth and a few millimetres long."""
    torch.manual_seed(0)
    spec = HierarchySpec(
        dim=3,
        coarse=PYRAMID,
        translator=UNetSpec(encoder=(2, 2), decoder=(2, 2), final=()),
        fine=PYRAMID,
        translator_sees="moving",
        appearances=2,
        fine_sees="aligned",
    )
    hierarchy = Hierarchy(spec)
    for name, layer in hierarchy.named_modules():
        if isinstance(layer, nn.Conv3d) and layer.out_channels == 3 and "estimators" in name:
            nn.init.normal_(layer.weight, std=0.02)
    card = Card(
        name="small", description="", hierarchy=spec, shape=(24, 32, 24), spacing=SPACING, training={}, data={},
        scores={}, environment={}, sha256="",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, hierarchy, card)
    return folder


@pytest.fixture(scope="module")
def model(folder) -> Model:
    return load_model(str(folder))


@pytest.fixture(scope="module")
def brain() -> np.ndarray:
    return tissue_volume(SHAPE, SPACING)


def placed(degrees: float, spacing: tuple[float, ...], offset: tuple[float, ...] = (0, 0, 0)) -> np.ndarray:
    """A grid about the brain's centre, turned about z and x."""
    plane = np.deg2rad(degrees)
    z = np.array([[np.cos(plane), -np.sin(plane), 0], [np.sin(plane), np.cos(plane), 0], [0, 0, 1]])
    x = np.array([[1, 0, 0], [0, np.cos(plane / 2), -np.sin(plane / 2)], [0, np.sin(plane / 2), np.cos(plane / 2)]])
    affine = np.eye(4)
    affine[:3, :3] = z @ x @ np.diag(spacing)
    centre = volume_affine(SHAPE, SPACING) @ [*((np.array(SHAPE) - 1) / 2), 1]
    affine[:3, 3] = centre[:3] + offset - affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return affine


GEOMETRIES = {
    "plain": placed(0, (SPACING,) * 3),
    "oblique": placed(17, (SPACING,) * 3),
    "anisotropic": placed(-8, (7.0, 8.0, 9.5)),
    "left-handed": placed(5, (-8.0, 8.0, 8.0)),
    "flipped": placed(0, (-8.0, -8.0, 8.0)),
}


@pytest.fixture
def pair(tmp_path, brain) -> Callable[[str], tuple[Path, Path, Path]]:
    """Moving and fixed image and the moving labels, the fixed one on a grid of another geometry."""

    def write(geometry: str) -> tuple[Path, Path, Path]:
        rng = np.random.default_rng(0)
        paths = tmp_path / "moving.nii.gz", tmp_path / "fixed.nii.gz", tmp_path / "labels.nii.gz"
        plain = GEOMETRIES["plain"]
        write_image(paths[0], Image((simulate(brain, "t2", rng) * 900).astype(np.int16), plain))
        write_image(paths[2], Image(tissue_labels(brain), plain))
        write_image(paths[1], Image(simulate(brain, "t1", rng), GEOMETRIES[geometry]))
        return paths

    return write


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_other_programs_make_our_moved_volume(tmp_path, folder, pair, geometry):
    ants = pytest.importorskip("ants")
    moving, fixed, labels = pair(geometry)
    outputs = Outputs(
        moved=tmp_path / "moved.nii.gz",
        transform=tmp_path / "t.h5",
        inverse=tmp_path / "i.h5",
        translated=tmp_path / "translated.mha",
        labels=(LabelFiles(labels, tmp_path / "moved_labels.nii.gz"),),
        ants_prefix=tmp_path / "P_",
    )
    done = register_files(moving, fixed, outputs, str(folder))
    assert done.ants.startswith("antsApplyTransforms -d 3 ")
    warp = read_transform(outputs.transform)
    assert np.abs(voxel_displacement(warp)).max() > 0.3
    assert (strict_jacobian(torch.from_numpy(voxel_displacement(warp))[None]) > 0).all()
    moved = nibabel.load(outputs.moved)
    assert moved.get_data_dtype() == np.int16
    np.testing.assert_allclose(moved.affine, nibabel.load(fixed).affine, atol=1e-5)
    ours, span = moved.get_fdata(), 900
    source, reference = (sitk.ReadImage(str(path), sitk.sitkFloat64) for path in (moving, fixed))
    theirs = sitk.Resample(source, reference, sitk.ReadTransform(str(outputs.transform)), sitk.sitkLinear)
    np.testing.assert_allclose(sitk.GetArrayFromImage(theirs).T, ours, atol=0.5 + 1e-3 * span)  # ours is rounded
    steps = [str(tmp_path / "P_1Warp.nii.gz"), str(tmp_path / "P_0GenericAffine.mat")]
    by_ants = ants.apply_transforms(ants.image_read(str(fixed)), ants.image_read(str(moving)), steps)
    np.testing.assert_allclose(by_ants.numpy(), ours, atol=0.5 + 1e-3 * span)
    names = sitk.Resample(
        sitk.ReadImage(str(labels)), reference, sitk.ReadTransform(str(outputs.transform)), sitk.sitkNearestNeighbor
    )
    np.testing.assert_array_equal(sitk.GetArrayFromImage(names).T, nibabel.load(outputs.labels[0].target).dataobj)
    assert read_image(outputs.translated).shape == read_image(moving).shape


def test_a_reoriented_copy_gives_the_same_millimetres(tmp_path, folder, pair):
    moving, fixed, _ = pair("plain")
    turned = nibabel.load(fixed).as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    nibabel.save(turned, tmp_path / "turned.nii.gz")
    found = []
    for target in (fixed, tmp_path / "turned.nii.gz"):
        outputs = Outputs(tmp_path / "moved.nii.gz", transform=tmp_path / "t.h5")
        register_files(moving, target, outputs, str(folder))
        found.append(read_transform(outputs.transform))
    voxels = np.stack(np.meshgrid(*[np.arange(3, size - 3, 5) for size in SHAPE], indexing="ij")).reshape(3, -1)
    world = found[0].affine[:3, :3] @ voxels + found[0].affine[:3, 3:]
    there = np.linalg.inv(found[1].affine) @ np.concatenate([world, np.ones((1, world.shape[1]))])
    indices = np.rint(there[:3]).astype(int)
    # To a hundredth of a voxel: ADAM divides gradients by their size, also those that are little more than rounding.
    np.testing.assert_allclose(found[1].displacement[:, *indices], found[0].displacement[:, *voxels], atol=0.1)


def test_far_volumes_come_together_by_the_affine_search(brain, model):
    rng = np.random.default_rng(1)
    far = placed(28, (9.5, 9.0, 8.8), (30.0, -25.0, 20.0))
    moving, labels = Image(simulate(brain, "t2", rng), far), Image(tissue_labels(brain).astype(np.int32), far)
    fixed = Image(simulate(brain, "t1", rng), GEOMETRIES["plain"])
    truth = tissue_labels(brain)
    found = resample(labels, register_initial(moving, fixed, model), "nearest").data
    by_header = resample(labels, register_initial(moving, fixed, model, "none"), "nearest").data
    assert mean_dice(found, truth) > 0.8
    assert mean_dice(by_header, truth) < 0.45


def test_a_volume_cannot_meet_a_slice(tmp_path, folder, pair, brain, model):
    moving, _, _ = pair("plain")
    plane = Image(simulate(brain, "t1", np.random.default_rng(0))[:, :, 13], np.diag([8.0, 8.0, 1.0]))
    with pytest.raises(InputError, match=r"the fixed image is 2-D, shape \(24, 30\); model small registers 3-D images"):
        register_images(read_image(moving), plane, model)
    write_image(tmp_path / "plane.nii.gz", plane)
    with pytest.raises(InputError, match=r"moving.nii.gz is 3-D.* and .*plane.nii.gz is 2-D"):
        register_files(moving, tmp_path / "plane.nii.gz", Outputs(tmp_path / "m.nii.gz"))


def test_the_picture_shows_three_planes_and_volumes_are_refined(tmp_path, folder, pair):
    moving, fixed, _ = pair("oblique")
    outputs = Outputs(tmp_path / "moved.nii.gz", report=tmp_path / "look.png")
    done = register_files(moving, fixed, outputs, str(folder), Settings(refine=1.0))
    assert done.measures.refine_steps >= 1
    assert outputs.report.stat().st_size > 10_000

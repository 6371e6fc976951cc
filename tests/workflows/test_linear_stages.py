"""Linear stages from files to files: matrices that other programs read, and registrations that go on from a warp."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scenes import CENTRE, pair, pull
from small_model import draw, save_weights

import crossmorph
from crossmorph import InputError, Outputs, Settings, Warp, read_image, register_files, write_image, write_transform
from crossmorph.transforms.affine_files import read_affine_transform, write_affine_transform
from crossmorph.transforms.warp import followed_by, resample, transform_points
from crossmorph.workflows.replay import replay


def written(folder: Path, which: str) -> tuple[Path, Path]:
    """The scene of blobs as two files; the true map changes the size, too."""
    paths = folder / "moving.nii.gz", folder / "fixed.nii.gz"
    for path, image in zip(paths, pair(which), strict=True):
        write_image(path, image)
    return paths


def off(matrix: np.ndarray) -> float:
    """Largest distance from the truth within 20 mm of the centre."""
    dim = len(matrix) - 1
    offsets = np.random.default_rng(0).uniform(-20, 20, (dim, 200, *[1] * (dim - 1)))
    points = CENTRE[:dim].reshape(dim, *[1] * dim) + offsets
    return float(np.linalg.norm(transform_points(matrix, points) - pull(points), axis=0).max())


def test_a_linear_result_is_written_as_matrices_and_made_again(tmp_path: Path) -> None:
    moving, fixed = written(tmp_path, "2d")
    outputs = Outputs(
        moved=tmp_path / "moved.nii.gz",
        transform=tmp_path / "t.mat",
        inverse=tmp_path / "back.tfm",
        report=tmp_path / "page.html",
        ants_prefix=tmp_path / "ants_",
        header_only=tmp_path / "placed.nii.gz",
    )
    done = register_files(moving, fixed, outputs, settings=Settings(stage="similarity"))
    assert done.passed
    assert done.model is None
    assert not (tmp_path / "ants_1Warp.nii.gz").exists()
    matrix = read_affine_transform(tmp_path / "t.mat")
    assert off(matrix) < 0.5
    np.testing.assert_allclose(read_affine_transform(tmp_path / "back.tfm") @ matrix, np.eye(3), atol=1e-9)
    np.testing.assert_array_equal(read_affine_transform(tmp_path / "ants_0GenericAffine.mat"), matrix)
    by_itk = sitk.Resample(
        sitk.ReadImage(str(moving)), sitk.ReadImage(str(fixed)), sitk.ReadTransform(str(tmp_path / "t.mat"))
    )
    np.testing.assert_allclose(
        sitk.GetArrayFromImage(by_itk), sitk.GetArrayFromImage(sitk.ReadImage(str(outputs.moved))), atol=1e-3
    )
    placed, given = read_image(tmp_path / "placed.nii.gz"), read_image(moving)
    np.testing.assert_array_equal(placed.data, given.data)
    np.testing.assert_allclose(placed.affine, np.linalg.inv(matrix) @ given.affine, atol=1e-4)
    assert "similarity" in (tmp_path / "page.html").read_text(encoding="utf-8")
    again = replay(tmp_path / "t.json")
    # The page holds the date.
    assert {each.kind for each in again.outputs if not each.same} <= {"report"}


def test_volumes_have_matrices_of_fsl_and_freesurfer(tmp_path: Path) -> None:
    pytest.importorskip("nitransforms")
    moving, fixed = written(tmp_path, "3d")
    outputs = Outputs(transform=tmp_path / "t.lta", inverse=tmp_path / "back.h5", fsl=tmp_path / "flirt.mat")
    start = tmp_path / "start.tfm"
    write_affine_transform(start, np.diag([1.06, 1.06, 1.06, 1.0]))
    register_files(moving, fixed, outputs, settings=Settings(str(start), stage="affine"), keep_failed=True)
    images = read_image(moving), read_image(fixed)
    matrix = np.linalg.inv(read_affine_transform(tmp_path / "back.h5"))
    for name in ("t.lta", "flirt.mat"):
        np.testing.assert_allclose(read_affine_transform(tmp_path / name, *images), matrix, atol=1e-6)


def test_python_gives_the_matrix_and_refuses_what_networks_understand(tmp_path: Path) -> None:
    moving, fixed = pair("2d")
    result = crossmorph.register(moving, fixed, stage="similarity")
    assert result.matrix is not None
    assert off(result.matrix) < 0.5
    assert result.matrix.shape == (3, 3)
    assert "by a similarity map" in repr(result)
    assert result.measures.folds_percent == 0
    with pytest.raises(InputError, match="stage similarity: the error is not known"):
        result.error_map()
    with pytest.raises(InputError, match=r"is for 3-D images alone; the images are 2-D"):
        result.save(fsl=tmp_path / "f.mat")
    with pytest.raises(InputError, match="stage rigid: received --model, --smoothness, --refine; expected none"):
        crossmorph.register(moving, fixed, stage="rigid", model="any-2d", smoothness=0.5, refine="on")
    with pytest.raises(InputError, match="stage 'elastic': expected rigid, similarity, affine, deformable"):
        crossmorph.register(moving, fixed, stage="elastic")


@pytest.mark.parametrize(
    ("outputs", "settings", "said"),
    [
        ({"header_only": "p.nii"}, Settings("none"), "--header-only .*: a deformable transform is no matrix"),
        ({"fsl": "f.mat"}, Settings("none"), "--fsl-matrix .*: a deformable transform is no matrix"),
        ({"header_only": "p.png"}, Settings("none", stage="rigid"), "unknown image format"),
        ({"moved": "m.nii"}, Settings("warp.nii.gz", stage="rigid"), "is a warp; expected an affine transform, or"),
    ],
)
def test_what_a_stage_cannot_do_is_refused_and_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outputs: dict[str, str], settings: Settings, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    moving, fixed = written(tmp_path, "2d")
    write_transform("warp.nii.gz", Warp.identity(read_image(fixed)))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=said):
        register_files(
            moving, fixed, Outputs(**{kind: Path(name) for kind, name in outputs.items()}), settings=settings
        )
    assert sorted(tmp_path.iterdir()) == before


def test_going_on_from_a_warp_is_going_on_from_the_matrix_that_it_holds(tmp_path: Path) -> None:
    """The same start as a matrix and as a field, on a larger grid, gives one transform, its inverse and translation."""
    paths = tmp_path / "moving.nii", tmp_path / "fixed.nii"
    for seed, path in enumerate(paths):
        draw(path, seed)
    save_weights(tmp_path / "model", 0)
    moving, fixed = map(read_image, paths)
    matrix = np.array([[1.0, -0.05, 1.5], [0.05, 1.0, -0.8], [0.0, 0.0, 1.0]])
    wide = np.diag([1.5, 1.5, 1.0])
    wide[:2, 2] = fixed.affine[:2, 2] - 30
    field = followed_by(Warp(np.zeros((2, 64, 64)), wide), matrix)
    write_transform(tmp_path / "warp.h5", field)
    given = {"model": str(tmp_path / "model"), "refine": "off"}
    by_matrix = crossmorph.register(moving, fixed, init=matrix, **given)
    by_warp = crossmorph.register(moving, fixed, init=tmp_path / "warp.h5", **given)
    for one, other in ((by_matrix.transform, by_warp.transform), (by_matrix.inverse, by_warp.inverse)):
        difference = np.linalg.norm(one.displacement - other.displacement, axis=0)
        assert np.median(difference) < 0.05
    inside = (slice(2, -2), slice(2, -2))
    assert np.abs(by_matrix.translated.data - by_warp.translated.data)[inside].mean() < 0.05
    np.testing.assert_array_equal(by_warp.moved.data, resample(moving, by_warp.transform).data)
    by_warp.save(transform=tmp_path / "whole.h5", ants_prefix=tmp_path / "a_", report=tmp_path / "r.html")
    whole = crossmorph.read_transform(tmp_path / "whole.h5")
    np.testing.assert_allclose(whole.displacement, by_warp.transform.displacement, atol=1e-4)

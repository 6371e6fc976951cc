"""Affine transforms of other programs: what SimpleITK and nitransforms write and read, hand arithmetic, bad files."""

import builtins
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from numpy import ndarray
from scipy.spatial.transform import Rotation

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.transforms.affine_files import (
    fsl_coordinates,
    read_affine_transform,
    read_step,
    write_affine_transform,
    write_ants,
    write_fsl_affine,
    write_lta,
)
from crossmorph.transforms.warp import Warp
from crossmorph.transforms.warp_files import read_transform, write_transform

TURN = Rotation.from_euler("xyz", [10, -20, 30], degrees=True).as_matrix()
MATRIX = np.eye(4)
MATRIX[:3, :3], MATRIX[:3, 3] = TURN * [1.1, 0.9, 1.05], [5, -7, 11]


def image(columns: ndarray, shape: tuple[int, ...] = (20, 22, 18), offset: float = -12.0) -> Image:
    """An empty volume on a grid."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = columns, [offset, 3, 2 * offset]
    return Image(np.zeros(shape, np.float32), affine)


RIGHT, LEFT = image(TURN * [1, 2, 1.5]), image(np.diag([-1.0, 1.2, 2.0]), (14, 30, 16), 9.0)


def itk_transforms() -> dict[str, sitk.Transform]:
    """Linear transforms of many classes."""
    centre = (3.0, -2.0, 8.0)
    rigid = sitk.Euler3DTransform(centre, 0.1, 0.2, -0.3, (4, 5, 6))
    similarity = sitk.Similarity3DTransform(1.2, (0.0, 0.6, 0.8), 0.4, (1, 2, 3), centre)
    affine = sitk.AffineTransform([1.1, 0.1, 0, -0.2, 0.9, 0, 0, 0.3, 1], [7, 8, 9], centre)
    return {
        "translation": sitk.TranslationTransform(3, (1.0, 2.0, 3.0)),
        "rigid": rigid,
        "versor": sitk.VersorRigid3DTransform((1, 0, 0), 0.3, (1, 2, 3), centre),
        "similarity": similarity,
        "affine": affine,
        "composite": sitk.CompositeTransform([affine, rigid]),
        "plane": sitk.Euler2DTransform((3.0, 4.0), 0.3, (1, 2)),
    }


WRITTEN = [(kind, suffix) for kind in itk_transforms() for suffix in (".tfm", ".txt", ".h5", ".mat")]


@pytest.mark.parametrize(("kind", "suffix"), [(k, s) for k, s in WRITTEN if (k, s) != ("composite", ".mat")])
def test_linear_transforms_of_itk(kind: str, suffix: str, tmp_path: Path) -> None:
    transform, path = itk_transforms()[kind], tmp_path / f"a{suffix}"
    sitk.WriteTransform(transform, str(path))
    matrix = read_affine_transform(path)
    for ras in np.random.default_rng(0).normal(0, 100, (5, transform.GetDimension())):
        sign = np.array([-1, -1, 1])[: len(ras)]
        expected = sign * transform.TransformPoint((sign * ras).tolist())
        np.testing.assert_allclose((matrix @ [*ras, 1])[:-1], expected, atol=1e-6 if suffix == ".mat" else 1e-9)


@pytest.mark.parametrize("name", ["a.mat", "a.tfm", "a.txt", "a.h5"])
@pytest.mark.parametrize("matrix", [MATRIX, np.array([[0.9, -0.3, 5], [0.4, 1.1, -7], [0, 0, 1]])])
def test_affines_round_trip(name: str, matrix: ndarray, tmp_path: Path) -> None:
    write_affine_transform(tmp_path / name, matrix)
    np.testing.assert_allclose(read_affine_transform(tmp_path / name), matrix, atol=1e-12)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    step = read_step(tmp_path / name)
    assert not isinstance(step, Warp)
    np.testing.assert_allclose(step, matrix, atol=1e-12)


def test_a_known_affine_by_hand(tmp_path: Path) -> None:
    """6 mm to the right, 4 mm back and 2 mm up is +6, -4, +2 in RAS, -6, +4, +2 in ITK's LPS."""
    matrix = np.eye(4)
    matrix[:3, 3] = [6, -4, 2]
    write_affine_transform(tmp_path / "a.tfm", matrix)
    written = (tmp_path / "a.tfm").read_text().splitlines()
    assert written[3] == "Parameters: 1 0 0 0 1 0 0 0 1 -6 4 2"


def test_warps_and_affines_are_told_apart(tmp_path: Path) -> None:
    warp = Warp(np.ones((2, 3, 4)), np.eye(3))
    for name in ("w.h5", "w.nii.gz"):
        write_transform(tmp_path / name, warp)
        read = read_step(tmp_path / name)
        assert isinstance(read, Warp)
        np.testing.assert_allclose(read.displacement, warp.displacement)
    with pytest.raises(InputError, match="CompositeTransform, expected a linear"):
        read_affine_transform(tmp_path / "w.h5")


@pytest.mark.parametrize(("moving", "fixed"), [(RIGHT, LEFT), (LEFT, RIGHT), (RIGHT, RIGHT), (LEFT, LEFT)])
def test_fsl_matrices_are_those_of_nitransforms(moving: Image, fixed: Image, tmp_path: Path) -> None:
    pytest.importorskip("nitransforms")
    from nitransforms.io.fsl import FSLLinearTransform  # type: ignore[import-untyped]

    ends = {
        "moving": nibabel.Nifti1Image(moving.data, moving.affine),
        "reference": nibabel.Nifti1Image(fixed.data, fixed.affine),
    }
    theirs = FSLLinearTransform.from_ras(MATRIX, **ends)
    (tmp_path / "theirs.mat").write_text(theirs.to_string())
    np.testing.assert_allclose(read_affine_transform(tmp_path / "theirs.mat", moving, fixed), MATRIX, atol=1e-5)
    write_fsl_affine(tmp_path / "ours.mat", MATRIX, moving, fixed)
    np.testing.assert_allclose(np.loadtxt(tmp_path / "ours.mat"), theirs.structarr["parameters"], atol=1e-7)
    with pytest.raises(InputError, match="FSL matrix, which means nothing without"):
        read_affine_transform(tmp_path / "ours.mat", moving)


def test_fsl_coordinates_by_hand() -> None:
    """Voxel (3, 4, 5): millimetres from the first voxel, and from the last one along x in a right-handed image."""
    voxel = [3, 4, 5, 1]
    np.testing.assert_allclose(fsl_coordinates(LEFT) @ LEFT.affine @ voxel, [3, 4.8, 10, 1])
    np.testing.assert_allclose(fsl_coordinates(RIGHT) @ RIGHT.affine @ voxel, [(19 - 3) * 1, 8, 7.5, 1])


@pytest.mark.parametrize("kind", ["ras", "voxels"])
def test_freesurfer_transforms(kind: str, tmp_path: Path) -> None:
    """FreeSurfer's map goes from source (moving) to destination (fixed), between RAS or between voxels."""
    pytest.importorskip("nitransforms")
    code, matrix = 1, np.linalg.inv(MATRIX)
    if kind == "voxels":
        code, matrix = 0, np.linalg.inv(LEFT.affine) @ matrix @ RIGHT.affine
    rows = "\n".join(" ".join(f"{value:.12e}" for value in row) for row in matrix)
    lines = [f"type      = {code}", "nxforms   = 1", "mean      = 0.0 0.0 0.0", "sigma     = 1.0", "1 4 4", rows]
    for name, grid in (("src", RIGHT), ("dst", LEFT)):
        centre = grid.affine @ [*(np.array(grid.shape) / 2), 1]
        axes = grid.affine[:3, :3] / grid.spacing
        lines += [f"{name} volume info", "valid = 1  # volume info valid", f"filename = {name}.mgz"]
        lines += ["volume = " + " ".join(map(str, grid.shape))]
        lines += ["voxelsize = " + " ".join(f"{size:.12e}" for size in grid.spacing)]
        for letter, column in zip("xyz", axes.T, strict=True):
            lines += [f"{letter}ras   = " + " ".join(f"{value:.12e}" for value in column)]
        lines += ["cras   = " + " ".join(f"{value:.12e}" for value in centre[:3])]
    (tmp_path / "a.lta").write_text("\n".join([*lines, "subject x", "fscale 0.1", ""]))
    np.testing.assert_allclose(read_affine_transform(tmp_path / "a.lta"), MATRIX, atol=1e-4)


def test_what_is_written_for_freesurfer(tmp_path: Path) -> None:
    """The map goes from source (moving) to destination (fixed); the geometries are those of FreeSurfer's own images."""
    path = tmp_path / "a.lta"
    write_lta(path, MATRIX, ("my moving.nii.gz", RIGHT), ("fixed.nii.gz", LEFT))
    lines = path.read_text().splitlines()
    assert lines[0].split()[:3] == ["type", "=", "1"]
    there = np.array([line.split() for line in lines[5:9]], float)
    point = np.array([1.0, 2, 3, 1])
    np.testing.assert_allclose(MATRIX @ (there @ point), point, atol=1e-9)
    for start, name, grid in ((9, "my_moving.nii.gz", RIGHT), (18, "fixed.nii.gz", LEFT)):
        told = dict(line.replace(" ", "").split("=") for line in lines[start + 2 : start + 4])
        assert told == {"filename": name, "volume": "".join(map(str, grid.shape))}
        vectors = [[float(word) for word in line.split("=")[1].split()] for line in lines[start + 4 : start + 9]]
        header = nibabel.MGHImage(np.zeros(grid.shape, np.float32), grid.affine).header
        np.testing.assert_allclose(vectors[0], header["delta"], rtol=1e-6)
        np.testing.assert_allclose(vectors[1:4], header["Mdc"], atol=1e-6)
        np.testing.assert_allclose(vectors[4], header["Pxyz_c"], atol=1e-4)
    pytest.importorskip("nitransforms")
    np.testing.assert_allclose(read_affine_transform(path), MATRIX, atol=1e-5)


def test_freesurfer_without_nitransforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("nitransforms"):
            raise ImportError(name)
        return real(name, *rest)

    (tmp_path / "a.lta").write_text("type = 1")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="pip install nitransforms"):
        read_affine_transform(tmp_path / "a.lta")


def singular() -> sitk.Transform:
    """An affine map onto a plane."""
    return sitk.AffineTransform([1, 0, 0, 0, 1, 0, 0, 0, 0], [0, 0, 0])


TWO = "#Insight Transform File V1.0\n" + "".join(
    f"#Transform {i}\nTransform: TranslationTransform_double_3_3\nParameters: {i} 2 3\nFixedParameters:\n"
    for i in (0, 1)
)
BAD = {
    "missing": ("a.tfm", lambda path: path.unlink(missing_ok=True), "No such file"),
    "empty": ("a.mat", lambda path: path.touch(), "0 bytes"),
    "text": ("a.tfm", lambda path: path.write_text("hello"), "is not an ITK transform"),
    "damaged mat": ("a.mat", lambda path: path.write_bytes(b"\0\0\1\2" * 9), "is not an ITK transform"),
    "twelve numbers": ("a.mat", lambda path: path.write_text("1 0 0 0\n0 1 0 0\n0 0 1 0"), "is not an ITK transform"),
    "spline": ("a.tfm", lambda path: sitk.WriteTransform(sitk.BSplineTransform(3), str(path)), "expected a linear"),
    "singular": ("a.tfm", lambda path: sitk.WriteTransform(singular(), str(path)), "finite and invertible"),
    "two": ("a.txt", lambda path: path.write_text(TWO), "holds 2 transforms"),
    "lta": ("a.lta", lambda path: path.write_text("no transform"), "is not a FreeSurfer transform"),
    "suffix": ("a.xfm", lambda path: path.touch(), "unknown affine transform format"),
    "fsl alone": ("a.mat", lambda path: np.savetxt(path, np.eye(4)), "FSL matrix, which means nothing without"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_in_one_line(case: str, tmp_path: Path) -> None:
    name, make, reason = BAD[case]
    make(tmp_path / name)
    with pytest.raises(InputError, match=reason) as caught:
        read_affine_transform(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_the_set_of_ants_by_hand_and_whole_or_not_at_all(tmp_path: Path) -> None:
    """A shift of 5 mm behind a field of 2 mm: the files hold each alone, and the inverse of the field."""
    affine, grid = np.eye(4), np.diag([2.0, 2.0, 2.0, 1.0])
    affine[0, 3] = 5
    forward = np.zeros((3, 4, 5, 6))
    forward[0], forward[1] = 5, 2
    files = write_ants(tmp_path / "p", affine, Warp(forward, grid), Warp(-forward, grid))
    np.testing.assert_allclose(read_affine_transform(files[0]), affine)
    for file, shift in zip(files[1:], (2, -2), strict=True):
        read = read_transform(file)
        np.testing.assert_allclose(read.displacement[:, 1, 2, 3], [0, shift, 0])
        np.testing.assert_allclose(read.affine, grid)

    (tmp_path / "q1InverseWarp.nii.gz").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        write_ants(tmp_path / "q", affine, Warp(forward, grid), Warp(-forward, grid))
    broken = Warp(np.full((3, 4, 5, 6), np.nan), grid)
    with pytest.raises(InputError, match=r"r1InverseWarp.nii.gz: .* NaN"):
        write_ants(tmp_path / "r", affine, Warp(forward, grid), broken)
    assert len(list(tmp_path.iterdir())) == 4

"""NIfTI headers that contradict themselves or ITK: every combination of codes, signs and sizes, judged by the standard.

https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h: pixdim is positive; an sform with a code gives positions by
itself; a qform takes the sizes from pixdim.
"""

from itertools import product
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from numpy import ndarray
from scipy.spatial.transform import Rotation

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import read_image, write_image
from crossmorph.images.orientation import itk_affine

SIZES = np.array([1.5, 2.0, 3.0])
PLACE = np.eye(4)
PLACE[:3, :3] = Rotation.from_euler("xyz", [20, -10, 30], degrees=True).as_matrix() * SIZES
PLACE[:3, 3] = -10, -20, 30
AXIAL = np.diag([*SIZES, 1.0])
CODES = list(product((0, 1), (0, 1)))
SIGNS = list(product((1, -1), repeat=3))


def save(
    path: Path,
    codes: tuple[int, int],
    sform: ndarray = PLACE,
    qform: ndarray = PLACE,
    shape: tuple[int, ...] = (4, 5, 6),
    **fields: object,
) -> Path:
    """A file with both forms, an sform and a qform code, and header fields that nibabel would correct."""
    voxels = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    nifti = nibabel.Nifti1Image(voxels, None)
    nifti.set_sform(sform, codes[0])
    nifti.set_qform(qform, codes[1])
    nifti.header["pixdim"][1:4] = SIZES
    nibabel.save(nifti, path)
    content = path.read_bytes()
    header = np.frombuffer(bytearray(content[:348]), nibabel.Nifti1Header.template_dtype)[0]
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.tobytes() + content[348:])
    return path


def itk_geometry(path: Path) -> ndarray:
    """Index to RAS, by ITK."""
    image = sitk.ReadImage(str(path))
    return itk_affine(image.GetSpacing(), image.GetDirection(), image.GetOrigin())


def quiet(image: Image, codes: tuple[int, int]) -> bool:
    """Whether nothing is said but that an image without codes has no place."""
    expected = () if any(codes) else ("Neither qform nor sform says",)
    return all(said.startswith(known) for said, known in zip(image.cautions, expected, strict=True))


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("signs", SIGNS)
def test_signs_of_voxel_sizes(tmp_path: Path, codes: tuple[int, int], signs: tuple[int, ...]) -> None:
    path = save(tmp_path / "a.nii", codes, pixdim=[1, *(signs * SIZES), 0, 0, 0, 0])
    if np.prod(signs) < 0:  # ITK mirrors the image, the standard does not know of it, nibabel takes absolute values
        with pytest.raises(
            InputError, match=r"contradicts itself about left and right: pixdim\[\d\].* below 0"
        ) as found:
            read_image(path)
        assert "\n" not in str(found.value)
        return
    image = read_image(path)
    np.testing.assert_allclose(image.affine, itk_geometry(path), atol=1e-5)
    if min(signs) > 0:
        assert quiet(image, codes)
        if any(codes):
            np.testing.assert_allclose(image.affine, nibabel.load(path).affine, atol=1e-5)
    else:
        names = ", ".join(f"pixdim[{axis + 1}]" for axis in range(3) if signs[axis] < 0)
        assert f"Reverses the axes of {names} are below 0, as ITK does; other programs do not." in image.cautions


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("size", [0, np.nan])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_sizes_that_are_missing(tmp_path: Path, codes: tuple[int, int], size: float, axis: int) -> None:
    sizes = SIZES.copy()
    sizes[axis] = size
    path = save(tmp_path / "a.nii", codes, pixdim=[1, *sizes, 0, 0, 0, 0])
    image = read_image(path)
    np.testing.assert_allclose(image.affine, itk_geometry(path), atol=1e-5)
    assert image.spacing[axis] == pytest.approx(1)
    said = " ".join(image.cautions)
    assert f"pixdim[{axis + 1}] is 0 or no number, and is taken as 1." in said
    assert ("The sform puts a corner" in said) == bool(codes[0])  # it gives 1.5, 2 or 3 mm
    assert "The qform puts" not in said  # its sizes are those of pixdim


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("factor", [(2, 2, 2), (0.5, 1, 1), (1, 1.1, 1), (1, 1, 10)])
def test_sizes_of_another_scale(tmp_path: Path, codes: tuple[int, int], factor: tuple[float, ...]) -> None:
    path = save(tmp_path / "a.nii", codes, pixdim=[1, *(factor * SIZES), 0, 0, 0, 0])
    image = read_image(path)
    np.testing.assert_allclose(image.affine, itk_geometry(path), atol=1e-5)
    np.testing.assert_allclose(image.spacing, factor * SIZES, rtol=1e-6)
    if not codes[0]:
        assert quiet(image, codes)  # nothing else gives a size
        return
    by_pixdim = " x ".join(f"{size:.6g}" for size in factor * SIZES)
    corner = np.linalg.norm(PLACE[:3, :3] @ ((np.array(factor) - 1) * (3, 4, 5)))
    (said,) = image.cautions
    assert said.startswith(f"The sform puts a corner {corner:.3g}"[:-1])
    assert f"since its voxels are 1.5 x 2 x 3 mm and by pixdim {by_pixdim} mm; other programs" in said


@pytest.mark.parametrize("codes", [(1, 1), (2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_forms_that_are_mirror_images_are_refused(tmp_path: Path, codes: tuple[int, int], axis: int) -> None:
    mirrored = PLACE.copy()
    mirrored[:3, axis] *= -1
    for sform, qform in ((PLACE, mirrored), (mirrored, PLACE)):
        qfac = np.sign(np.linalg.det(qform[:3, :3]))
        path = save(tmp_path / "a.nii", codes, sform, qform, pixdim=[qfac, *SIZES, 0, 0, 0, 0])
        with pytest.raises(InputError, match="left and right: its qform and sform are mirror images of each other"):
            read_image(path)
        # A form without a code says nothing.
        for only in ((1, 0), (0, 1)):
            path = save(tmp_path / "b.nii", only, sform, qform, pixdim=[qfac, *SIZES, 0, 0, 0, 0])
            image = read_image(path)
            assert image.cautions == ()
            np.testing.assert_allclose(image.affine, sform if only[0] else qform, atol=1e-5)


@pytest.mark.parametrize("codes", [(1, 1), (2, 1), (1, 2)])
def test_forms_that_are_apart_are_named(tmp_path: Path, codes: tuple[int, int]) -> None:
    moved = PLACE.copy()
    moved[:3, 3] += (0, 3, 4)
    image = read_image(save(tmp_path / "a.nii", codes, PLACE, moved))
    (said,) = image.cautions
    followed = "qform" if np.allclose(image.affine, PLACE, atol=1e-4) else "sform"
    assert said.startswith(f"The {followed} puts a corner 5 mm from where register, which follows ITK, puts it; other")
    nearer = PLACE.copy()
    nearer[:3, 3] += 0.05
    assert read_image(save(tmp_path / "b.nii", codes, PLACE, nearer)).cautions == ()


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 1, 5), (1, 4, 5)])
@pytest.mark.parametrize("codes", CODES)
def test_of_a_slice_the_axis_across_does_not_count(
    tmp_path: Path, codes: tuple[int, int], shape: tuple[int, ...]
) -> None:
    across = shape.index(1) if 1 in shape else 2
    for value in (0, -3):
        sizes = SIZES.copy()
        sizes[across] = value
        path = save(tmp_path / "a.nii", codes, AXIAL, AXIAL, shape, pixdim=[1, *sizes, 0, 0, 0, 0])
        assert quiet(read_image(path), codes)
    sizes = SIZES.copy()
    sizes[(across + 1) % 3] *= -1
    path = save(tmp_path / "a.nii", codes, AXIAL, AXIAL, shape, pixdim=[1, *sizes, 0, 0, 0, 0])
    with pytest.raises(InputError, match="contradicts itself about left and right"):
        read_image(path)


def test_micrometres_are_no_contradiction(tmp_path: Path) -> None:
    for units in (1, 3):
        image = read_image(save(tmp_path / "a.nii", (1, 1), xyzt_units=units))
        assert image.cautions == ()
        np.testing.assert_allclose(image.spacing, SIZES * {1: 1000, 3: 0.001}[units], rtol=1e-5)


def test_an_unusable_form_beside_a_usable_one_is_named(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "a.nii", (1, 1), quatern_b=7))
    assert image.cautions == ("The qform cannot be used: it is no rotation, or singular.",)


@pytest.mark.parametrize("factor", [(2, 2, 2), (-1, -1, 1), (0, 1, 1), (1, np.nan, 1)])
@pytest.mark.parametrize("codes", [(1, 1), (0, 1), (1, 0)])
def test_what_is_written_has_one_geometry(tmp_path: Path, factor: tuple[float, ...], codes: tuple[int, int]) -> None:
    image = read_image(save(tmp_path / "a.nii", codes, pixdim=[1, *(factor * SIZES), 0, 0, 0, 0]))
    assert bool(image.cautions) == (codes[0] == 1 or factor != (2, 2, 2))
    write_image(tmp_path / "b.nii", image)
    again = read_image(tmp_path / "b.nii")
    assert again.cautions == ()
    np.testing.assert_allclose(again.affine, image.affine, atol=1e-5)
    np.testing.assert_allclose(nibabel.load(tmp_path / "b.nii").affine, image.affine, atol=1e-5)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("field", ["srow_x", "srow_y", "srow_z", "quatern_b", "qoffset_x"])
def test_infinite_numbers_are_refused_before_itk_sees_them(tmp_path: Path, field: str, value: float) -> None:
    # ITK does not return from some of these.
    with pytest.raises(InputError, match=r"form holds NaN or infinity|NIfTI header is invalid"):
        read_image(save(tmp_path / "a.nii", (1, 0) if field.startswith("s") else (0, 1), **{field: value}))

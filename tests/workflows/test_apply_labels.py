"""Labels through `apply`: exact whatever their type, and moved as labels where they evidently are."""

from pathlib import Path
from typing import get_args

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import typer
from numpy import ndarray
from scipy.ndimage import gaussian_filter, zoom
from typer.testing import CliRunner

from crossmorph.cli.transforms import add_commands
from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import read_image, write_image
from crossmorph.images.label_maps import holds_labels
from crossmorph.transforms.warp import Resampling, Warp
from crossmorph.transforms.warp_files import write_transform
from crossmorph.workflows.transform_files import ImageFiles, apply_files

INTEGERS = [np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)]
SHAPES = {"2-D": (9, 8), "3-D": (9, 8, 7), "2-D series": (9, 8, 1, 3), "4-D": (9, 8, 7, 3)}


def labels(dtype: np.dtype, shape: tuple[int, ...]) -> ndarray:
    """Blocks of odd numbers near both ends of a type, none of which float32, and of 64 bits float64, has."""
    limits = np.iinfo(dtype)
    values = [limits.max - 2, limits.max // 2, limits.min + 2 if limits.min else 3, 0]
    blocks = np.random.default_rng(0).integers(0, 4, [-(-size // 3) for size in shape])
    for axis, size in enumerate(shape):
        blocks = blocks.repeat(3, axis).take(range(size), axis)
    return np.array(values, dtype)[blocks]


def save(path: Path, data: ndarray) -> Path:
    """A NIfTI file of whatever type, by nibabel alone."""
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4), dtype=data.dtype), path)
    return path


@pytest.mark.parametrize("interpolation", get_args(Resampling))
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_of_every_type(dtype: np.dtype, kind: str, interpolation: Resampling, tmp_path: Path) -> None:
    data = labels(dtype, SHAPES[kind])
    assert len(np.unique(data)) == 4
    source, target = save(tmp_path / "in.nii.gz", data), tmp_path / "out.nii.gz"
    dim = int(kind[0]) if kind != "4-D" else 3
    field = np.zeros((dim, *data.shape[:dim]))
    field[0] = 1
    write_transform(tmp_path / "shift.h5", Warp(field, np.eye(dim + 1)))
    apply_files([tmp_path / "shift.h5"], [ImageFiles(source, target)], None, interpolation)
    written = nibabel.load(target)
    expected = np.concatenate([data[1:], np.zeros_like(data[:1])])
    if interpolation == "linear":
        assert written.get_data_dtype() == np.float32
        close = {"rtol": 1e-6, "atol": 1e-12 * np.iinfo(dtype).max}
        np.testing.assert_allclose(np.asarray(written.dataobj), expected.astype(np.float32), **close)
    else:
        assert written.get_data_dtype() == dtype
        np.testing.assert_array_equal(np.asarray(written.dataobj), expected)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_of_every_type_in_the_files_of_itk(dtype: np.dtype, suffix: str, tmp_path: Path) -> None:
    data = labels(dtype, (9, 8, 7))
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(np.ascontiguousarray(data.T)), str(source))
    write_transform(tmp_path / "still.h5", Warp.identity(read_image(source, labels=True)))
    apply_files([tmp_path / "still.h5"], [ImageFiles(source, target)])
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(target))).T
    assert written.dtype == dtype
    np.testing.assert_array_equal(written, data)


@pytest.mark.parametrize("number", [614454277, 2**40 + 1, 2**52 + 1])
def test_whole_numbers_that_are_stored_as_floats(number: int, tmp_path: Path) -> None:
    data = np.where(labels(np.dtype("u1"), (9, 8, 7)) > 9, number, 0).astype(np.float64)
    source, target = save(tmp_path / "in.nii.gz", data), tmp_path / "out.nii.gz"
    write_transform(tmp_path / "still.h5", Warp.identity(read_image(source, labels=True)))
    apply_files([tmp_path / "still.h5"], [ImageFiles(source, target)], None, "nearest")
    assert np.asarray(nibabel.load(target).dataobj).max() == number


def test_a_format_that_cannot_hold_a_label_refuses_it(tmp_path: Path) -> None:
    source = save(tmp_path / "in.nii.gz", labels(np.dtype("i4"), (9, 8)))
    write_transform(tmp_path / "still.h5", Warp.identity(read_image(source, labels=True)))
    with pytest.raises(InputError, match=r"o\.png: PNG holds whole numbers from 0 to 65535, received -2"):
        apply_files([tmp_path / "still.h5"], [ImageFiles(source, tmp_path / "o.png")], None, "nearest")
    assert not (tmp_path / "o.png").exists()


# --- whether an image holds labels -----------------------------------------------------------------------------------

NOISE = np.random.default_rng(0).normal(size=(40, 40, 40))
PARCELS = zoom(np.random.default_rng(1).permutation(1000).reshape(10, 10, 10), 4, order=0)
EVIDENT = {
    "a mask": (NOISE > 3).astype(np.uint8),
    "single voxels": np.where(NOISE > 3.5, np.arange(64000).reshape(40, 40, 40) % 7, 0),
    "tissues": np.digitize(gaussian_filter(NOISE, 2), [-0.03, 0, 0.03]),
    "a thousand regions": PARCELS,
    "a thousand regions on nothing": np.where(np.indices(NOISE.shape)[0] < 30, -1, PARCELS),
    "numbers far apart": (PARCELS.astype(np.int64) * 2**40),
    "one value": np.full((40, 40, 40), 7),
    "nothing": np.zeros((40, 40, 40), np.int16),
}
OTHERS = {
    "a scan of 16 bits": (1000 + 300 * NOISE).astype(np.int16),
    "a smooth scan of 8 bits": (128 + 90 * gaussian_filter(NOISE, 2) / 0.06).clip(0, 255).astype(np.uint8),
    "a scan in a field of nothing": np.where(np.indices(NOISE.shape)[0] < 36, -1024, 100 + 20 * NOISE).astype(np.int16),
    "a scan without skull": np.where(np.indices(NOISE.shape)[0] < 36, 0, 20 * NOISE).astype(np.int16),
    "a scan that was cut off and padded": np.where(
        np.indices(NOISE.shape)[0] < 20, np.where(np.indices(NOISE.shape)[0] < 15, -2000, -1024), 9 * NOISE
    ).astype(np.int16),
    "a mask of floats": (NOISE > 0).astype(np.float32),
    "a few voxels": np.arange(24).reshape(4, 6),
}


@pytest.mark.parametrize("name", EVIDENT)
def test_what_evidently_holds_labels(name: str) -> None:
    assert holds_labels(EVIDENT[name])
    assert holds_labels(EVIDENT[name][:, :, 20])


@pytest.mark.parametrize("name", OTHERS)
def test_what_may_be_a_scan(name: str) -> None:
    assert not holds_labels(OTHERS[name])
    assert OTHERS[name].ndim == 2 or not holds_labels(OTHERS[name][:, :, 20])


def test_labels_are_moved_as_such_unasked_and_the_terminal_says_so(tmp_path: Path) -> None:
    field = np.full((3, 40, 40, 40), 0.5)
    write_transform(tmp_path / "half.h5", Warp(field, np.eye(4)))
    write_image(tmp_path / "scan.nii.gz", Image(OTHERS["a scan of 16 bits"], np.eye(4)))
    write_image(tmp_path / "parcels.nii.gz", Image(PARCELS, np.eye(4)))
    app = typer.Typer()
    add_commands(app)

    def apply(*options: str) -> str:
        names = ("half.h5", "scan.nii.gz", "s.nii.gz", "parcels.nii.gz", "p.nii.gz")
        result = CliRunner().invoke(app, ["apply", *(str(tmp_path / name) for name in names), *options])
        assert result.exit_code == 0
        return result.stderr

    assert apply() == (
        f"crossmorph: caution: {tmp_path / 'parcels.nii.gz'}: evidently holds labels, so it is moved by --interp "
        "nearest; --interp linear would mix them\n"
    )
    moved = {name: nibabel.load(tmp_path / f"{name}.nii.gz") for name in "sp"}
    assert (moved["s"].get_data_dtype(), moved["p"].get_data_dtype()) == (np.float32, np.int32)
    assert np.isin(np.asarray(moved["p"].dataobj), PARCELS).all()
    assert apply("--interp", "linear") == ""
    assert not np.isin(np.asarray(nibabel.load(tmp_path / "p.nii.gz").dataobj), PARCELS).all()

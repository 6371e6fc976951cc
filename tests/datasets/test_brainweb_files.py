"""BrainWeb's files: every format gives one array with one geometry, and an incomplete file is named in the error."""

import gzip
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from brainweb_tree import SMALL, SUFFIXES, head_image, head_labels, use_small_grids, write

from crossmorph.datasets.brainweb.files import GRIDS, find_files, read_fractions, read_intensities, read_labels
from crossmorph.errors import InputError

GRID = SMALL["phantom"]
LABELS = head_labels(GRID)


def test_grids_are_the_sites():
    assert [np.prod(grid.shape) for grid in GRIDS.values()] == [181 * 217 * 181, 362 * 434 * 362, 256 * 256 * 181]
    first, last = GRIDS["phantom"].affine @ [0, 0, 0, 1], GRIDS["phantom"].affine @ [180, 216, 180, 1]
    assert (first.tolist(), last.tolist()) == ([-90, -126, -72, 1], [90, 90, 108, 1])
    # Half the step, the same field of view: the outer faces of the outer voxels.
    for kind in ("phantom", "subject"):
        grid = GRIDS[kind]
        low = np.array(grid.start) - grid.spacing / 2
        assert low.tolist() == [-90.5, -126.5, -72.5]
        assert (low + np.array(grid.shape) * grid.spacing).tolist() == [90.5, 90.5, 108.5]


@pytest.fixture(autouse=True)
def small(request, monkeypatch):
    if request.function is not test_grids_are_the_sites:
        use_small_grids(monkeypatch)


# --- formats ---------------------------------------------------------------------------------------------------------


def voxel(x: float, y: float, z: float) -> tuple[int, ...]:
    return tuple(np.rint(np.linalg.solve(GRID.affine, [x, y, z, 1]))[:3].astype(int))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_left_stays_left_in_every_format(tmp_path, suffix):
    path = tmp_path / f"phantom_1.0mm_normal_crisp{suffix}"
    write(path, LABELS, GRID)
    found = read_labels(path, "phantom", 9)
    np.testing.assert_array_equal(found.data, LABELS)
    np.testing.assert_allclose(found.affine, GRID.affine, atol=1e-9)
    # Fluid on the left, glia on the right, the neck below.
    assert [found.data[voxel(*where)] for where in ((-25, -10, 5), (25, -10, 5), (40, -18, -71))] == [1, 8, 5]
    write(path, head_image(GRID, "t1"), GRID)
    image = read_intensities(path, "phantom")
    np.testing.assert_allclose(image.data, np.minimum(head_image(GRID, "t1") / 255, 1), atol=2e-3)
    np.testing.assert_allclose(image.affine, GRID.affine, atol=1e-9)
    write(path, np.where(LABELS == 1, 255, 0).astype(np.uint8), GRID, most=1.0)
    np.testing.assert_allclose(read_fractions(path, "phantom").data, LABELS == 1, atol=4e-3)  # 16 * 255 of 4095


def test_left_stays_left_however_a_converter_stores_it(tmp_path):
    """NIfTI whose x runs to the left, or whose axes are z, y, x and say so; MINC 2, written by ITK."""
    path = tmp_path / "phantom_1.0mm_normal_crisp.nii.gz"
    mirrored = GRID.affine @ np.diag([-1.0, 1, 1, 1])
    mirrored[0, 3] = -GRID.affine[0, 3]
    assert mirrored[:3] @ [45, 0, 0, 1] == pytest.approx(GRID.start)
    for data, affine in ((LABELS[::-1], mirrored), (LABELS.T, GRID.affine[:, [2, 1, 0, 3]])):
        nibabel.Nifti1Image(np.ascontiguousarray(data), affine).to_filename(path)
        found = read_labels(path, "phantom", 9)
        np.testing.assert_array_equal(found.data, LABELS)
        np.testing.assert_allclose(found.affine, GRID.affine, atol=1e-5)
    image = sitk.GetImageFromArray(LABELS.T)
    image.SetOrigin(GRID.start)  # ITK writes the numbers of its own frame, MINC means right, anterior, superior
    image.SetSpacing([GRID.spacing] * 3)
    sitk.WriteImage(image, str(tmp_path / "phantom_1.0mm_normal_crisp.mnc"))
    found = read_labels(tmp_path / "phantom_1.0mm_normal_crisp.mnc", "phantom", 9)
    np.testing.assert_array_equal(found.data, LABELS)
    np.testing.assert_allclose(found.affine, GRID.affine, atol=1e-9)


def test_labels_that_minc_scaled_come_back(tmp_path):
    path = tmp_path / "phantom_1.0mm_normal_crisp.mnc"
    write(path, np.rint(LABELS * (255 / 9)).astype(np.uint8), GRID, most=9.0)
    np.testing.assert_array_equal(read_labels(path, "phantom", 9).data, LABELS)
    write(path, LABELS * 25, GRID, most=9.0)  # label k as .88 k
    with pytest.raises(InputError, match="expected a crisp model"):
        read_labels(path, "phantom", 9)


@pytest.mark.parametrize("order", ["<u2", ">u2"])
@pytest.mark.parametrize("factor", [1, 16])
def test_raw_shorts_in_either_order_of_bytes(tmp_path, order, factor):
    """Labels as they are, or times 16 with lower bits that mean nothing."""
    path = tmp_path / "phantom_1.0mm_normal_crisp.raws"
    values = LABELS.T.astype(order) * factor
    path.write_bytes((values + (factor - 1) // 3 * (values > 0)).astype(order).tobytes())
    np.testing.assert_array_equal(read_labels(path, "phantom", 9).data, LABELS)


# --- names -----------------------------------------------------------------------------------------------------------


def test_files_are_found_by_name(tmp_path):
    names = {
        "t1_icbm_normal_1mm_pn3_rf20.mnc.gz": "t1_icbm_normal_1mm_pn3_rf20",
        "deep/er/T2_ai_msles2_1mm_pn0_rf0.rawb": "t2_ai_msles2_1mm_pn0_rf0",
        "phantom_1.0mm_normal_m+s.raws.gz": "phantom_1.0mm_normal_m+s",
        "phantom_1.0mm_msles1_wml.mnc": "phantom_1.0mm_msles1_wml",
        "subject04_crisp_v.raws.gz": "subject04_crisp",
        "subject54_t1w_p4.nii.gz": "subject54_t1w",
    }
    others = "t1_icbm_normal_3mm_pn3_rf20.mnc", "t2_icbm_normal_1mm_pn3_rf20.rawb.gz.part", "notes.txt", "brain.nii.gz"
    for name in (*names, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_files(tmp_path) == {key: tmp_path / name for name, key in names.items()}


def test_one_volume_twice_is_refused(tmp_path):
    for name in ("a/subject04_crisp_v.mnc.gz", "b/subject04_crisp_v.rawb.gz"):
        write(tmp_path / name, LABELS, GRID)
    with pytest.raises(InputError, match=r"a/subject04_crisp_v\.mnc\.gz and .*b/subject04_crisp_v\.rawb\.gz are both"):
        find_files(tmp_path)
    with pytest.raises(InputError, match=r"absent: is no folder"):
        find_files(tmp_path / "absent")


# --- incomplete files, and others than their names --------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replaced(data: np.ndarray):
    return lambda path: write(path, data.astype(np.uint8), GRID)


def as_nifti(data: np.ndarray, affine: np.ndarray):
    return lambda path: nibabel.Nifti1Image(data, affine).to_filename(path)


BROKEN = {
    "half a gzip": (".rawb.gz", cut, "is truncated"),
    "half a minc": (".mnc.gz", cut, "truncated|damaged"),
    "half a nifti": (".nii.gz", cut, "is truncated"),
    "half a raw file": (".rawb", cut, r"holds 58190 bytes uncompressed; expected 116380 bytes: 46x55x46 voxels of 1"),
    "bytes as shorts": (".raws", lambda path: path.write_bytes(LABELS.tobytes()), "expected 232760 bytes"),
    "shorts as bytes": (".rawb", lambda path: path.write_bytes(2 * LABELS.tobytes()), "holds more bytes uncompressed"),
    "no shorts": (".raws", lambda path: path.write_bytes(b"\xff" * 2 * LABELS.size), "beyond 4095"),
    "a web page": (".rawb.gz", lambda path: path.write_text("<html>"), "is not gzip-compressed"),
    "a web page as minc": (".mnc", lambda path: path.write_text("<html>"), "is not a MINC file"),
    "nothing": (".rawb", lambda path: path.write_bytes(b""), "is empty"),
    "changed bits": (".rawb.gz", lambda path: path.write_bytes(flipped(path)), "damaged"),
    "an image": (".rawb", replaced(head_image(GRID, "t1")), "from 0 to 255; expected a crisp model, labels 0 to 9"),
    "no labels": (".rawb", replaced(0 * LABELS), "from 0 to 0; expected a crisp model"),
    "lesions": (".rawb", replaced(head_labels(GRID, lesion=True)), "from 0 to 10; expected"),
    "other axes": (".nii.gz", as_nifti(LABELS.T.copy(), GRID.affine), "axes are not x, y, z"),
    "upside down": (".nii.gz", as_nifti(LABELS[..., ::-1].copy(), GRID.affine), "axes are not x, y, z"),
    "other shape": (".nii.gz", as_nifti(LABELS[1:], GRID.affine), "has 45x55x46 voxels of 4x4x4 mm; expected 46x55x46"),
    "other spacing": (".nii.gz", as_nifti(LABELS, np.eye(4)), "voxels of 1x1x1 mm; expected 46x55x46 of 4 mm"),
    "other place": (".nii.gz", as_nifti(LABELS, np.diag([4.0, 4, 4, 1])), "begins at 0, 0, 0 mm; expected -90, -126"),
    "a slice": (".nii.gz", as_nifti(LABELS[:, :, 23], GRID.affine), "has 2 axes"),
}  # fmt: skip


def flipped(path: Path) -> bytes:
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # of the checksum
    return bytes(content)


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_file_is_named(tmp_path, fault):
    suffix, break_it, reason = BROKEN[fault]
    path = tmp_path / f"phantom_1.0mm_normal_crisp{suffix}"
    write(path, LABELS, GRID)
    break_it(path)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: .*({reason})"):
        read_labels(path, "phantom", 9)


def test_fractions_and_images_out_of_range_are_named(tmp_path):
    path = tmp_path / "phantom_1.0mm_normal_csf.nii.gz"
    write(path, LABELS, GRID)
    with pytest.raises(InputError, match=r"csf\.nii\.gz: holds values from 0 to 9; expected a fuzzy model"):
        read_fractions(path, "phantom")
    path = tmp_path / "t1_icbm_normal_1mm_pn3_rf20.rawb.gz"
    path.write_bytes(gzip.compress(bytes(LABELS.size)))
    with pytest.raises(InputError, match=r"rf20\.rawb\.gz: every voxel is 0"):
        read_intensities(path, "phantom")

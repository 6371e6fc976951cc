"""BraTS: small trees in the true layouts, with a brain that tells left from right and front from back."""

import gzip
import hashlib
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from brats_tree import LAYOUTS, MARK, SHAPE, TUMOUR, brain, tree, write_case, write_nifti

from crossmorph.datasets.brats import dataset, files
from crossmorph.datasets.pairs import read_pairs
from crossmorph.errors import InputError
from crossmorph.images.io import read_image


def world(path: Path, value: float) -> np.ndarray:
    """RAS millimetres of the only voxel of a value."""
    image = nib.Nifti1Image.from_filename(path)
    (place,) = np.argwhere(np.abs(image.get_fdata() - value) < 1e-3)
    return np.asarray(image.affine @ [*place, *[0] * (3 - len(place)), 1])[:3]


def load(path: Path | None) -> np.ndarray:
    assert path is not None
    return np.asarray(nib.Nifti1Image.from_filename(path).get_fdata())


def images(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


# --- the data set ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_slices_that_lie_where_the_files_say(layout: str, tmp_path: Path) -> None:
    """The mark is 4.5 mm left of the middle and 7.5 mm in front of it, whatever the file's axes."""
    lists = dataset.prepare_brats(tree(tmp_path, layout), tmp_path / "out", train=4, test=2, validation=2)
    assert list(lists) == ["train", "validation", "test"]
    (pair, _) = read_pairs(lists["test"])
    assert pair.moving_same is not None
    assert pair.field is pair.moving_labels is pair.fixed_labels is None
    mask = Path(str(pair.moving).replace("t2", "tumour"))
    for path in (pair.moving, pair.moving_same, pair.fixed, mask):
        image = nib.Nifti1Image.from_filename(path)
        assert image.shape == (176, 176)
        assert (np.diag(image.affine)[:3] > 0).all()
    # In RAS millimetres voxel (i, j) of the RAS array lies at (i - 29, j), since the file's first voxel is at 0 on x.
    for path in (pair.moving, pair.moving_same, pair.fixed):
        assert world(path, 1.0)[:2] == pytest.approx([MARK[0] - 29, MARK[1]])
    assert world(mask, 4.0)[:2] == pytest.approx([TUMOUR[0] - 29, TUMOUR[1]])
    # Left in the array, too: of the two columns the mark has the lower x.
    assert np.argwhere(load(pair.moving) > 0.999)[0, 0] < np.argwhere(load(mask) == 4)[0, 0]


def test_itk_sees_the_slice_at_its_place_in_the_volume(tmp_path: Path) -> None:
    """An external reader, on the source volume and on the slice."""
    source = tree(tmp_path)
    dataset.prepare_brats(source, tmp_path / "out", train=4, test=2, validation=2)
    path = tmp_path / "out" / "test" / "0000_fixed_t1.nii.gz"
    level = nib.Nifti1Image.from_filename(path).affine[2, 3]
    volume = sitk.ReadImage(str(next(source.rglob("*_t1.nii.gz"))))
    plane = sitk.GetArrayFromImage(volume)[round(level)]
    row, column = np.argwhere(plane == 1000)[0]
    expected = volume.TransformIndexToPhysicalPoint((int(column), int(row), round(level)))
    image = read_image(path)
    place = np.argwhere(np.abs(image.data - 1) < 1e-3)[0]
    assert (image.affine @ [*place, 1])[:2] == pytest.approx([-expected[0], -expected[1]])


def test_intensities_are_parts_of_the_brain_s_bright_end(tmp_path: Path) -> None:
    """By hand: voxel = (100 + 10 z + subject) / percentile 99.5 over the brain, at most 1, background 0."""
    dataset.prepare_brats(tree(tmp_path), tmp_path / "out", train=4, test=2, validation=2)
    path = tmp_path / "out" / "test" / "0001_fixed_t1.nii.gz"
    image = nib.Nifti1Image.from_filename(path)
    level = round(image.affine[2, 3])
    values = np.unique(np.round(image.get_fdata(), 4))
    assert len(values) == 3
    assert values[0] == 0
    assert values[2] == 1
    expected = []
    for number in range(6):
        t1, t2, _ = brain(number)
        bright = np.percentile(t1[(t1 > 0) & (t2 > 0)], 99.5)
        expected.append((100 + 10 * level + number) / bright)
    assert np.abs(np.array(expected) - values[1]).min() < 2e-4


def test_no_subject_is_on_both_sides_or_in_two_splits(tmp_path: Path) -> None:
    """The subject is in the intensities: 100 + 10 z + number, over what is 1000 in every subject."""
    lists = dataset.prepare_brats(tree(tmp_path, subjects=8), tmp_path / "out", train=9, test=5, validation=3)
    described = json.loads((tmp_path / "out" / "dataset.json").read_text())["splits"]
    members = {split: {int(case.rpartition("_")[2]) for case in described[split]["cases"]} for split in lists}
    assert sum(len(numbers) for numbers in members.values()) == len(set.union(*members.values())) == 8
    scale = [np.percentile(t1[t1 > 0], 99.5) for t1, _, _ in map(brain, range(8))]
    t2_scale = [np.percentile(t2[t2 > 0], 99.5) for _, t2, _ in map(brain, range(8))]

    def subject(path: Path, split: str) -> int:
        image = nib.Nifti1Image.from_filename(path)
        level, inside = round(image.affine[2, 3]), image.get_fdata()[TUMOUR[0] + 73, TUMOUR[1] + 71]
        clean = [(100 + 10 * level + k) / scale[k] for k in range(8)]
        if "t2" in path.name:
            clean = [(600 - 10 * level + k) / t2_scale[k] for k in range(8)]
        return int(min(members[split], key=lambda k: abs(clean[k] - inside)))

    for split, path in lists.items():
        pairs = read_pairs(path)
        for pair in pairs:
            levels = [nib.Nifti1Image.from_filename(p).affine[2, 3] for p in (pair.moving, pair.fixed)]
            assert levels[0] == levels[1]
            assert subject(pair.moving, split) != subject(pair.fixed, split)
        assert len({pair.moving for pair in pairs}) == {"train": 9, "test": 5, "validation": 3}[split]
    assert len(read_pairs(lists["train"])) > 9


def test_plan_uses_no_slice_twice_and_pairs_nobody_with_himself() -> None:
    plan = dataset.plan_split([3, 5, 8, 9], 30, np.random.default_rng(0))
    assert len(plan) == 30
    assert all(planned.moving != planned.fixed for planned in plan)
    assert len({(planned.moving, planned.height) for planned in plan}) == 30
    assert len({(planned.fixed, planned.height) for planned in plan}) == 30
    heights = sorted({planned.height for planned in plan})
    assert len(heights) == 8  # 30 pairs of 4 subjects
    assert heights == pytest.approx(0.30 + 0.55 * (np.arange(8) + 0.5) / 8)


def test_same_arguments_same_bytes(tmp_path: Path) -> None:
    source = tree(tmp_path)
    for name in ("a", "b"):
        dataset.prepare_brats(source, tmp_path / name, 4, train=4, test=2, validation=2)
    assert images(tmp_path / "a") == images(tmp_path / "b")
    counts: dict[dataset.Split, int] = {"train": 4, "validation": 2, "test": 2}
    assert dataset.deal_subjects(source, 6, counts, 4) != dataset.deal_subjects(source, 6, counts, 5)


def test_only_the_first_visit_counts_and_masks_may_be_missing(tmp_path: Path) -> None:
    source = tree(tmp_path, "2023")
    shutil.copytree(source / "BraTS-GLI-00002-000", source / "later" / "x")
    for path in (source / "later" / "x").iterdir():
        path.rename(path.with_name(path.name.replace("-000-", "-001-")))
    for path in source.rglob("*-seg.nii.gz"):
        path.unlink()
    dataset.prepare_brats(source, tmp_path / "out", train=4, test=2, validation=2)
    assert not list((tmp_path / "out").rglob("*tumour*"))
    splits = json.loads((tmp_path / "out" / "dataset.json").read_text())["splits"]
    assert sorted(case for split in splits.values() for case in split["cases"]) == [
        f"BraTS-GLI-{k:05d}-000" for k in range(6)
    ]


@pytest.mark.parametrize(
    ("case", "subject"),
    [
        ("HGG/brats_tcia_pat105_0165", "HGG/brats_tcia_pat105"),
        ("brats_2013_pat0001_1", "brats_2013_pat0001"),
        ("Brats17_CBICA_AAB_1", "Brats17_CBICA_AAB"),
        ("BraTS19_TCIA01_131_1", "BraTS19_TCIA01_131"),
        ("BraTS20_Training_001", "BraTS20_Training_001"),
        ("BraTS2021_00000", "BraTS2021_00000"),
        ("BraTS-MET-00089-002", "BraTS-MET-00089"),
    ],
)
def test_subject_is_the_case_without_its_visit(case: str, subject: str) -> None:
    assert files.subject_of(case) == subject


def test_one_name_in_hgg_and_lgg_of_2015_is_two_subjects(tmp_path: Path) -> None:
    case = write_case(tmp_path, "2015", 0)
    shutil.copytree(case, tmp_path / "LGG" / case.name)
    _, cases = files.find_cases(tmp_path)
    assert [found.name for found in cases] == [f"HGG/{case.name}", f"LGG/{case.name}"]


def test_volume_larger_than_the_frame_is_cut_about_the_brain() -> None:
    inside = np.zeros((240, 200, 4), bool)
    inside[20:180, 60:190] = True  # middle of the voxels at 99.5, 124.5: frames from 12 and 37
    (x, y), levels = dataset._frame(inside)
    assert (x, y, levels) == (12, 37, (0, 3))
    cut = dataset._cut(np.where(inside, 1.0, 0.0), (x, y, 1))
    expected = np.zeros((176, 176))
    expected[8:168, 23:153] = 1
    np.testing.assert_array_equal(cut, expected)


# --- errors ----------------------------------------------------------------------------------------------------------


def refused(source: Path, match: str, **counts: int) -> None:
    output = source.parent / "out"
    counts = counts or {"train": 4, "test": 2, "validation": 2}
    with pytest.raises(InputError, match=match) as caught:
        dataset.prepare_brats(source, output, **counts)
    assert "\n" not in str(caught.value)
    assert not output.exists()


def cut_short(source: Path, path: Path, length: int) -> None:
    """Refused by the check of headers and sizes, before any voxels are uncompressed."""
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match=rf"{path.name}: is (truncated|empty)"):
        files.check_grids(files.find_cases(source)[1])


def test_folder_without_cases(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    refused(tmp_path / "data", "data: no cases of BraTS")
    refused(tmp_path / "nowhere", "nowhere: is not a folder")


def test_missing_modality_names_the_case(tmp_path: Path) -> None:
    source = tree(tmp_path)
    (source / "BraTS2021_00003" / "BraTS2021_00003_t2.nii.gz").unlink()
    refused(source, "case BraTS2021_00003 has no t2 image")


@pytest.mark.parametrize("kind", ["t1", "t2", "seg"])
def test_half_a_download_names_the_file(kind: str, tmp_path: Path) -> None:
    source = tree(tmp_path)
    path = source / "BraTS2021_00005" / f"BraTS2021_00005_{kind}.nii.gz"
    for length in (path.stat().st_size - 3, path.stat().st_size // 2, 100, 0):
        cut_short(source, path, length)
    refused(source, f"00005_{kind}.nii.gz: is empty")


def test_half_a_download_of_2015_and_2020(tmp_path: Path) -> None:
    for layout, pattern in (("2015", "*MR_T2.32.mha"), ("brats20", "*003_t1.nii")):
        source = tree(tmp_path / layout, layout)
        (path,) = (path for path in source.rglob(pattern) if path.is_file())
        cut_short(source, path, path.stat().st_size * 3 // 4)


def test_whole_file_of_an_unusual_size_is_used(tmp_path: Path) -> None:
    """Bytes behind the voxels are allowed: the check of the sizes does not refuse them."""
    source = tree(tmp_path)
    write_nifti(source / "BraTS2021_00005" / "BraTS2021_00005_seg.nii.gz", np.zeros(SHAPE, np.uint8))
    for kind in ("t1", "seg"):
        path = source / "BraTS2021_00005" / f"BraTS2021_00005_{kind}.nii.gz"
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(100)))
    dataset.prepare_brats(source, tmp_path / "out", train=4, test=2, validation=2)
    assert (tmp_path / "out" / "train" / "pairs.csv").is_file()


def test_images_of_different_shape(tmp_path: Path) -> None:
    source = tree(tmp_path)
    write_nifti(source / "BraTS2021_00001" / "BraTS2021_00001_t2.nii.gz", brain(1)[1][:, :, 1:])
    refused(source, r"00001_t2.nii.gz: has shape \(30, 34, 25\); expected \(30, 34, 26\), as .*00001_t1")


def test_two_of_one_name(tmp_path: Path) -> None:
    source = tree(tmp_path)
    shutil.copytree(source / "BraTS2021_00001", source / "copy" / "BraTS2021_00001")
    refused(source, "BraTS2021_00001 has this image already in")


def test_two_years(tmp_path: Path) -> None:
    source = tree(tmp_path)
    write_case(source, "2023", 1)
    refused(source, "cases of several years")


def test_too_few_subjects(tmp_path: Path) -> None:
    refused(tree(tmp_path / "five", subjects=5), "5 subjects; expected at least 6")
    refused(
        tree(tmp_path / "six"),
        "6 subjects are too few for train 1416, validation 24, test 294; possible .* train 80, validation 80, test 80",
        train=1416,
    )
    refused(tree(tmp_path / "low"), "its brain is 20 slices high, too few for 30", train=60, test=2, validation=2)


def test_volume_without_brain(tmp_path: Path) -> None:
    source = tree(tmp_path)
    t1, t2, _ = brain(1)
    write_nifti(source / "BraTS2021_00001" / "BraTS2021_00001_t1.nii.gz", np.where(t2 > 0, 0, t1 + 1))
    refused(source, "00001_t1.nii.gz: no brain")

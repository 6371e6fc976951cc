"""Folders of files as BraTS hands them out, of a brain that tells left from right and front from back."""

from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

LAYOUTS = ("2015", "brats18", "brats20", "brats2021", "2023")
SHAPE = (30, 34, 26)
# Where the brightest column of every brain stands, RAS voxels: on the left, in front. The tumour's is on the right.
MARK, TUMOUR = (10, 24), (20, 12)


def brain(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """T1w, T2w and mask of a subject, RAS axes; slices and subjects are told by their intensities."""
    x, y, z = np.indices(SHAPE)
    inside = ((x - 14.5) / 11) ** 2 + ((y - 16.5) / 13) ** 2 + ((z - 12.5) / 30) ** 2 < 1
    inside &= (z >= 3) & (z <= 22)
    t1 = np.where(inside, 100 + 10 * z + number, 0)
    t2 = np.where(inside, 600 - 10 * z + number, 0)
    mask = np.zeros(SHAPE, np.uint8)
    t1[(*MARK, slice(3, 23))], t2[(*MARK, slice(3, 23))] = 1000, 1000
    mask[(*TUMOUR, slice(3, 23))] = 4
    return t1.astype(np.int16), t2.astype(np.int16), mask


def write_nifti(path: Path, ras: np.ndarray) -> None:
    """Axes to the left and the back, as BraTS has them: the first voxel is the right, front, lowest one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[1, 3] = SHAPE[1] - 1
    nib.save(nib.Nifti1Image(np.ascontiguousarray(ras[::-1, ::-1]), affine), path)


def write_mha(path: Path, ras: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.ascontiguousarray(ras[::-1, ::-1].T))
    image.SetOrigin((0, -(SHAPE[1] - 1), 0))
    sitk.WriteImage(image, str(path), useCompression=True)


def write_case(root: Path, layout: str, number: int) -> Path:
    """A case with the files that the year has; returns its folder."""
    t1, t2, mask = brain(number)
    if layout == "2015":
        folder = root / "HGG" / f"brats_tcia_pat{100 + number}_0001"
        named = {f"Brain.XX.O.MR_{kind}": data for kind, data in {"T1": t1, "T1c": t2, "T2": t2, "Flair": t1}.items()}
        for place, (name, data) in enumerate({**named, "Brain_3more.XX.O.OT": mask}.items()):
            stem = f"VSD.{name}.{10 * number + place}"
            write_mha(folder / stem / f"{stem}.mha", data)
        return folder
    if layout == "2023":
        name, kinds = f"BraTS-GLI-{number:05d}-000", ("-t1n", "-t1c", "-t2w", "-t2f", "-seg")
    else:
        name = {
            "brats18": f"Brats18_TCIA01_{number}_1",
            "brats20": f"BraTS20_Training_{number:03d}",
            "brats2021": f"BraTS2021_{number:05d}",
        }[layout]
        kinds = ("_t1", "_t1ce", "_t2", "_flair", "_seg")
    suffix = ".nii" if layout == "brats20" else ".nii.gz"
    for kind, data in zip(kinds, (t1, t2, t2, t1, mask), strict=True):
        write_nifti(root / name / f"{name}{kind}{suffix}", data)
    return root / name


def tree(root: Path, layout: str = "brats2021", subjects: int = 6) -> Path:
    for number in range(subjects):
        write_case(root / "data", layout, number)
    return root / "data"

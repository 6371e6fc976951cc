"""Folders of files as BrainWeb hands them out, of a small head whose left is not its right."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import scipy.io

from crossmorph.datasets.brainweb import files
from crossmorph.datasets.brainweb.files import SiteGrid

# The site's fields of view at a few millimetres.
SMALL = {
    "phantom": SiteGrid((46, 55, 46), (-90.0, -126.0, -72.0), 4.0),
    "subject": SiteGrid((60, 72, 60), (-90.0, -126.0, -72.0), 3.0),
    "subject-t1": SiteGrid((64, 64, 46), (-127.0, -145.0, -72.0), 4.0),
}
SUFFIXES = (".rawb", ".rawb.gz", ".raws", ".raws.gz", ".mnc", ".mnc.gz", ".nii.gz")
TISSUES = {1: "csf", 2: "gry", 3: "wht", 4: "fat", 5: "m+s", 6: "skn", 7: "skl", 8: "gli", 9: "mit", 10: "wml"}


def use_small_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, grid in SMALL.items():
        monkeypatch.setitem(files.GRIDS, kind, grid)


def head_labels(grid: SiteGrid, lesion: bool = False, wider: float = 1.0) -> np.ndarray:
    """Labels (x, y, z): shells of an ellipsoid on a neck; fluid on the left, glia on the right of the brain."""
    x, y, z = (
        (np.arange(size) * grid.spacing + start).reshape([-1 if k == axis else 1 for k in range(3)])
        for axis, (size, start) in enumerate(zip(grid.shape, grid.start, strict=True))
    )
    r = np.sqrt((x / (62 * wider)) ** 2 + ((y + 18) / 80) ** 2 + ((z - 5) / 62) ** 2)
    labels = np.where((np.hypot(x, y + 18) < 55) & (z < -30), 5, 0)
    for radius, label in ((1.36, 6), (1.3, 4), (1.25, 5), (1.2, 9), (1.15, 7), (1.05, 1), (0.95, 2), (0.75, 3)):
        labels = np.where(r < radius, label, labels)
    for centre, radius, label in ((-25, 15, 1), (25, 12, 8), *([(5, 10, 10)] if lesion else [])):
        labels = np.where(np.sqrt((x - centre) ** 2 + (y + 10) ** 2 + (z - 5) ** 2) < radius, label, labels)
    return labels.astype(np.uint8)


def head_image(grid: SiteGrid, modality: str, wider: float = 1.0) -> np.ndarray:
    """Intensities (x, y, z), 0 to 255, with their own grey for each label."""
    greys = {
        "t1": (0, 60, 120, 180, 255, 90, 70, 20, 130, 170, 80),
        "t2": (0, 255, 150, 110, 90, 50, 200, 10, 140, 100, 190),
        "pd": (0, 230, 210, 180, 255, 160, 220, 10, 200, 170, 215),
    }
    return np.array(greys[modality], np.uint8)[head_labels(grid, wider=wider)]


def write(path: Path, data: np.ndarray, grid: SiteGrid, most: float = 255.0) -> None:
    """Write bytes (x, y, z) in the format of the file's name; ``most`` is what MINC and NIfTI make of 255."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name.removesuffix(".gz")
    raw = data.transpose().tobytes()
    if name.endswith(".raws"):
        raw = (data.transpose().astype("<u2") * 16).tobytes()
    elif name.endswith(".mnc"):
        plain = path.with_name(name)
        write_minc(plain, data, grid, most)
        raw = plain.read_bytes()
        plain.unlink()
    elif name.endswith(".nii"):
        image = nibabel.Nifti1Image(data, grid.affine)
        image.header.set_slope_inter(most / 255, 0)
        raw = image.to_bytes()
    path.write_bytes(gzip.compress(raw, compresslevel=1) if path.name.endswith(".gz") else raw)


def write_minc(path: Path, data: np.ndarray, grid: SiteGrid, most: float) -> None:
    """MINC 1, as the site's: netCDF with the dimensions zspace, yspace, xspace."""
    with scipy.io.netcdf_file(path, "w") as file:
        for axis, name in enumerate(("xspace", "yspace", "zspace")):
            file.createDimension(name, grid.shape[axis])
            variable = file.createVariable(name, "i4", ())
            variable.step, variable.start, variable.length = grid.spacing, grid.start[axis], grid.shape[axis]
            variable.direction_cosines, variable.spacing = np.eye(3)[axis], b"regular__"
        image = file.createVariable("image", "i1", ("zspace", "yspace", "xspace"))
        image.signtype, image.valid_range = b"unsigned", np.array([0.0, 255.0])
        image[:] = data.transpose().view(np.int8)
        for name, value in (("image-max", most), ("image-min", 0.0)):
            file.createVariable(name, "f8", ())[...] = value


def write_volumes(folder: Path, brain: str = "normal", level: str = "pn0_rf0") -> None:
    """T1, T2 and PD volumes and the crisp model, each in a format of its own."""
    group, grid = "icbm_normal" if brain == "normal" else f"ai_{brain}", SMALL["phantom"]
    for modality, suffix in (("t1", ".mnc.gz"), ("t2", ".rawb.gz"), ("pd", ".nii.gz")):
        write(folder / "mri" / f"{modality}_{group}_1mm_{level}{suffix}", head_image(grid, modality), grid)
    write(folder / f"phantom_1.0mm_{brain}_crisp.rawb", head_labels(grid, brain != "normal"), grid)


def write_fuzzy(folder: Path, brain: str = "normal", suffix: str = ".mnc.gz") -> None:
    """The fuzzy models of all tissues."""
    labels = head_labels(SMALL["phantom"], brain != "normal")
    for label, tissue in TISSUES.items():
        if brain != "normal" or tissue != "wml":
            fraction = np.where(labels == label, 255, 0).astype(np.uint8)
            write(folder / f"phantom_1.0mm_{brain}_{tissue}{suffix}", fraction, SMALL["phantom"], most=1.0)


def write_subjects(folder: Path, numbers: tuple[int, ...] = (4, 5, 54), t1: bool = False) -> None:
    """The crisp models of some of the 20 subjects, and their T1w volumes."""
    for number in numbers:
        labels = head_labels(SMALL["subject"], wider=1 + number / 1000)
        write(folder / f"subject{number:02d}_crisp_v.raws.gz", labels, SMALL["subject"])
        if t1:
            image = head_image(SMALL["subject-t1"], "t1", wider=1 + number / 1000)
            write(folder / f"subject{number:02d}_t1w_p4.mnc.gz", image, SMALL["subject-t1"])

"""Every image format in and out: voxels and geometry beside nibabel or SimpleITK on the same file.

    python benchmarks/formats.py

Files of every format are written by nibabel, SimpleITK or Pillow and read by crossmorph and by another library; images
are written by crossmorph and read by another library. Each in several orientations, shapes and voxel types, in a
temporary folder. The exit code is 1 if a voxel differs or a corner of an image lies elsewhere.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import PIL.Image
import SimpleITK as sitk
from numpy import ndarray
from scipy.spatial.transform import Rotation

from crossmorph.images.image import Image
from crossmorph.images.io import read_image, write_image
from crossmorph.images.itk_silence import silent_itk
from crossmorph.images.orientation import itk_affine

SPACING = np.array([1.5, 2.0, 3.0])
OBLIQUE = Rotation.from_euler("xyz", [20, -10, 30], degrees=True).as_matrix()
ORIENTATIONS = {
    "RAS": np.eye(3),
    "LPS": np.diag([-1.0, -1.0, 1.0]),
    "LAS": np.diag([-1.0, 1.0, 1.0]),
    "sagittal": np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]),
    "oblique": OBLIQUE,
    "oblique, left-handed": OBLIQUE @ np.diag([1.0, 1.0, -1.0]),
}
SHAPES = [(9, 8, 7), (9, 8, 1), (9, 1, 7), (1, 8, 7)]
TYPES: list[type] = [np.uint8, np.int16, np.float32]
TOLERANCE_MM = 1e-3


class Case(NamedTuple):
    """Voxels, and voxel index to RAS millimetres."""

    voxels: ndarray
    affine: ndarray


class Row(NamedTuple):
    """A line of the table: how many files, how many of them with other voxels, and how far the corners lie apart."""

    format: str
    direction: str
    beside: str
    files: int
    differ: int
    apart: float


Writer = Callable[[Path, Case], None]
Reader = Callable[[Path], Case]


def cases(orientations: list[str], shapes: list[tuple[int, ...]], types: list[type]) -> Iterator[Case]:
    for name, shape, dtype in product(orientations, shapes, types):
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = ORIENTATIONS[name] * SPACING, (-10, -20, 30)
        yield Case((np.arange(np.prod(shape)).reshape(shape) % 251).astype(dtype), affine)


# --- other libraries -------------------------------------------------------------------------------------------------


def nibabel_writer(form: type) -> Writer:
    def write(path: Path, case: Case) -> None:
        image = form(case.voxels, case.affine)
        if hasattr(image, "set_qform"):
            image.set_qform(case.affine, 1)
        nibabel.save(image, path)

    return write


def itk_image(case: Case) -> sitk.Image:
    native = case.voxels.astype(case.voxels.dtype.newbyteorder("="))
    image = sitk.GetImageFromArray(np.ascontiguousarray(native.T))
    dim = case.voxels.ndim
    linear = (np.diag([-1.0, -1, 1]) @ case.affine[:3, :3])[:dim, :dim]
    spacing = np.linalg.norm(linear, axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((linear / spacing).ravel().tolist())
    image.SetOrigin(((-1.0, -1, 1) * case.affine[:3, 3])[:dim].tolist())
    return image


def write_itk(path: Path, case: Case) -> None:
    sitk.WriteImage(itk_image(case), str(path), useCompression=case.voxels.dtype != np.int16)


def write_dicom(folder: Path, case: Case) -> None:
    folder.mkdir()
    image = itk_image(case)
    axes = np.reshape(image.GetDirection(), (3, 3))
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(image.GetSize()[2]):
        plane = image[:, :, k]
        place = image.TransformIndexToPhysicalPoint((0, 0, k))
        for key, value in {
            "0008|0060": "MR",
            "0008|0018": f"1.2.3.{k + 1}",
            "0020|000d": "1.2",
            "0020|000e": "1.2.3",
            "0020|0032": "\\".join(f"{x:.9g}" for x in place),
            "0020|0037": "\\".join(f"{x:.9g}" for x in [*axes[:, 0], *axes[:, 1]]),
        }.items():
            plane.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{k:02d}.dcm"))
        writer.Execute(plane)


def write_picture(path: Path, case: Case) -> None:
    PIL.Image.fromarray(np.ascontiguousarray(case.voxels.T)).save(path)


def write_renamed(other: str) -> Writer:
    """A NIfTI file whose name says the opposite of its compression, beside one whose name is right."""

    def write(path: Path, case: Case) -> None:
        honest = path.with_name(f"honest{other}")
        nibabel_writer(nibabel.Nifti1Image)(honest, case)
        path.write_bytes(honest.read_bytes())

    return write


def read_honest(path: Path) -> Case:
    return read_sitk(next(path.parent.glob("honest*")))


def read_nibabel(path: Path) -> Case:
    image = nibabel.MGHImage.from_bytes(path.read_bytes()) if path.suffix == ".mgh" else nibabel.load(path)
    return Case(np.asarray(image.dataobj), image.affine)


def read_minc(path: Path) -> Case:
    image = nibabel.load(path)
    return Case(np.asarray(image.dataobj).T, image.affine[:, [2, 1, 0, 3]])


def read_sitk(path: Path) -> Case:
    with silent_itk():
        files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path)) if path.is_dir() else str(path)
        return of_itk(sitk.ReadImage(files))


def of_itk(image: sitk.Image) -> Case:
    affine = itk_affine(image.GetSpacing(), image.GetDirection(), image.GetOrigin())
    return Case(sitk.GetArrayFromImage(image).T, affine)


def sliced(case: Case) -> Case:
    """Of a volume of one slice the slice that SimpleITK cuts from it."""
    if case.voxels.ndim == 2 or 1 not in case.voxels.shape:
        return case
    image, across = itk_image(case), case.voxels.shape.index(1)
    return of_itk((image[0, :, :], image[:, 0, :], image[:, :, 0])[across])


# --- the sweep -------------------------------------------------------------------------------------------------------

VOLUMES, FLAT = SHAPES[:1], [(9, 8)]
ANY = list(ORIENTATIONS)


class Format(NamedTuple):
    """A format to read: the name of its files, who writes it, who reads it beside crossmorph, and what it can hold."""

    name: str
    label: str
    write: Writer
    beside: Reader
    shapes: list[tuple[int, ...]] = SHAPES
    orientations: list[str] = ANY
    types: list[type] = TYPES


IN = [
    Format("a.nii", "NIfTI-1 `.nii`", nibabel_writer(nibabel.Nifti1Image), read_sitk),
    Format("a.nii.gz", "NIfTI-1 `.nii.gz`", nibabel_writer(nibabel.Nifti1Image), read_sitk),
    Format("a.img", "NIfTI pair `.img`", nibabel_writer(nibabel.Nifti1Pair), read_sitk),
    Format("a.hdr", "NIfTI pair `.hdr`", nibabel_writer(nibabel.Nifti1Pair), read_sitk),
    Format("a.nii", "NIfTI-2 `.nii`", nibabel_writer(nibabel.Nifti2Image), read_nibabel),
    Format("a.hdr", "Analyze 7.5 `.hdr`", nibabel_writer(nibabel.AnalyzeImage), read_sitk, SHAPES, ["LAS"]),
    Format("a.nii", "`.nii` that is compressed", write_renamed(".nii.gz"), read_honest),
    Format("a.nii.gz", "`.nii.gz` that is not", write_renamed(".nii"), read_honest),
    Format("a.mgz", "FreeSurfer `.mgz`", nibabel_writer(nibabel.MGHImage), read_nibabel),
    Format("a.mgh", "FreeSurfer `.mgh`", nibabel_writer(nibabel.MGHImage), read_nibabel),
    Format("a.mha", "MetaImage `.mha`", write_itk, read_sitk),
    Format("a.mhd", "MetaImage `.mhd`", write_itk, read_sitk),
    Format("a.nrrd", "NRRD `.nrrd`", write_itk, read_sitk),
    Format("a.nhdr", "NRRD `.nhdr`", write_itk, read_sitk),
    Format("a.mnc", "MINC `.mnc`", write_itk, read_minc, VOLUMES, types=[np.int16, np.float32]),
    Format("a", "DICOM folder", write_dicom, read_sitk, SHAPES[:2], ["LPS", "sagittal", "oblique"], [np.int16]),
    Format("a.png", "PNG", write_picture, read_sitk, FLAT, ["LPS"], [np.uint8, np.uint16]),
    Format("a.tif", "TIFF", write_picture, read_sitk, FLAT, ["LPS"], [np.uint8, np.uint16, np.float32]),
]
OUT = {
    ".nii": (read_sitk, SHAPES, ANY),
    ".nii.gz": (read_sitk, SHAPES, ANY),
    ".mha": (read_sitk, SHAPES, ANY),
    ".nrrd": (read_sitk, SHAPES, ANY),
    ".png": (read_sitk, FLAT, ["LPS"]),
    ".tif": (read_sitk, FLAT, ["LPS"]),
}


def sweep(orientations: list[str] = ANY, types: list[type] | None = None) -> Iterator[Row]:
    """The rows of the table; of some orientations and voxel types alone where they are named and a format has them."""
    for form in IN:
        yield compared(form, list(cases(some(form.orientations, orientations), form.shapes, some(form.types, types))))
    for suffix, (beside, shapes, known) in OUT.items():
        held = TYPES[:1] if suffix in (".png", ".tif") else TYPES
        yield written(suffix, beside, list(cases(some(known, orientations), shapes, some(held, types))))


def some(known: list, wanted: list | None) -> list:
    """Those that are wanted, or the first where none is."""
    return [one for one in known if wanted is None or one in wanted] or known[:1]


def compared(form: Format, made: list[Case]) -> Row:
    """What crossmorph reads beside what the other library reads."""
    results = []
    for case in made:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, form.name)
            form.write(path, case)
            ours = read_image(path)
            results.append(difference(Case(ours.data, ours.affine), sliced(form.beside(path))))
    return row(form.label, "in", form.beside, results)


def written(suffix: str, beside: Reader, made: list[Case]) -> Row:
    """What the other library reads of an image that crossmorph read from NIfTI or PNG and wrote."""
    results = []
    for case in made:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "source.png" if suffix in (".png", ".tif") else "source.nii")
            (write_picture if source.suffix == ".png" else nibabel_writer(nibabel.Nifti1Image))(source, case)
            image = read_image(source)
            written_file = Path(folder, f"written{suffix}")
            write_image(written_file, Image(image.data, image.affine, image.physical, image.header))
            results.append(difference(beside(source), beside(written_file)))
    return row(f"`{suffix}`", "out", beside, results)


def difference(one: Case, other: Case) -> tuple[bool, float]:
    """Whether voxels differ, and the largest distance between the same corner of both in millimetres."""
    if one.voxels.shape != other.voxels.shape:
        return True, np.inf
    corners = np.stack(np.meshgrid(*([0, size - 1] for size in one.voxels.shape), indexing="ij"))
    corners = np.concatenate([corners.reshape(len(corners), -1), np.ones((1, corners[0].size))])
    apart = np.linalg.norm(((one.affine - other.affine) @ corners)[:-1], axis=0).max()
    return not np.array_equal(one.voxels, other.voxels), float(apart)


def row(label: str, direction: str, beside: Reader, results: list[tuple[bool, float]]) -> Row:
    library = "SimpleITK" if beside in (read_sitk, read_honest) else "nibabel"
    differ = sum(different for different, _ in results)
    return Row(label, direction, library, len(results), differ, max(apart for _, apart in results))


def main() -> int:
    print("| format | | beside | files | with other voxels | corners apart (mm) |\n|---|---|---|---|---|---|")
    failed = False
    for each in sweep():
        print(f"| {each.format} | {each.direction} | {each.beside} | {each.files} | {each.differ} | {each.apart:.1g} |")
        failed |= each.differ > 0 or each.apart > TOLERANCE_MM
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

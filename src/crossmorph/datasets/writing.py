"""Writing of simulated data sets: a folder that appears complete; images, labels and true fields as NIfTI files.

The same values give the same bytes.
"""

import gzip
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float, UInt8

from crossmorph.datasets.pairs import Pair
from crossmorph.errors import InputError

STEP = 1 / 4096  # intensity step on disk


def check_numbers(seed: int, counts: Iterable[tuple[str, int]]) -> None:
    """Refuse a seed below 0 and a split of less than one pair."""
    for name, number, least in (("seed", seed, 0), *((split, count, 1) for split, count in counts)):
        if number < least:
            raise InputError(f"{name} = {number}; expected at least {least}")


@contextmanager
def new_dataset(output: Path) -> Iterator[Path]:
    """Yield a temporary folder for a data set, and rename it to ``output`` when the block ends without an error.

    Raises:
        InputError: If ``output`` is neither new nor an empty folder, or cannot be written.
    """
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise InputError(f"{output} exists and is not an empty folder; expected a new folder")
    target = output.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as temporary:
            folder = Path(temporary) / "dataset"  # within it, since only the owner can read a temporary folder
            folder.mkdir()
            yield folder
            if target.is_dir():  # Windows puts no folder in the place of another, not even of an empty one
                target.rmdir()
            folder.replace(target)
    except OSError as error:
        raise InputError(f"{output}: {error.strerror or error}; expected a folder that can be written") from error


def slice_pair(folder: Path, split: str, moving: int, fixed: int, modality: str = "t2") -> Pair:
    """Two images of a split by their numbers, with their files; training pairs have no field and no T1w moving."""
    known = split != "train"
    return Pair(
        name=f"{split}-{moving:04d}" if known else f"{split}-{moving:04d}-{fixed:04d}",
        moving=folder / f"{moving:04d}_moving_{modality}.nii.gz",
        fixed=folder / f"{fixed:04d}_fixed_t1.nii.gz",
        moving_labels=folder / f"{moving:04d}_moving_labels.nii.gz",
        fixed_labels=folder / f"{fixed:04d}_fixed_labels.nii.gz",
        moving_same=folder / f"{moving:04d}_moving_t1.nii.gz" if known else None,
        field=folder / f"{moving:04d}_field.nii.gz" if known else None,
    )


def write_intensities(path: Path, image: Float[np.ndarray, "*space"], affine: Float[np.ndarray, "4 4"]) -> None:
    """Write 12 bits up to the brightest tissue, as scanners do: steps far below the noise, half of float32's bytes."""
    stored = np.clip(np.rint(image / STEP), 0, np.iinfo(np.int16).max).astype(np.int16)
    _write_nifti(path, stored, affine, slope=STEP)


def write_labels(path: Path, labels: UInt8[np.ndarray, "*space"], affine: Float[np.ndarray, "4 4"]) -> None:
    """Write a label map."""
    _write_nifti(path, labels, affine)


def write_field(path: Path, u: Float[np.ndarray, "dim *space"], affine: Float[np.ndarray, "4 4"]) -> None:
    """Write a displacement in voxels as an ITK/ANTs warp: LPS millimetres, (x, y, 1, 1, 2) or (x, y, z, 1, 3).

    Its intent is 1007 (vector).
    """
    dim, *space = u.shape
    lps = np.diag([-1.0, -1.0, 1.0])[:dim, :dim] @ affine[:dim, :dim]
    field = np.moveaxis(np.tensordot(lps, u, axes=1), 0, -1).reshape(*space, *[1] * (4 - dim), dim)
    _write_nifti(path, field.astype(np.float32), affine, intent="vector")


def _write_nifti(path: Path, data: np.ndarray, affine: np.ndarray, slope: float = 1.0, intent: str = "none") -> None:
    """Write stored values unchanged, without a time in the gzip header."""
    header = nib.Nifti1Header()
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    header.set_zooms([*spacing[: data.ndim], *[1.0] * (data.ndim - 3)])
    header.set_sform(affine, code="scanner")
    header.set_qform(affine, code="scanner")
    header.set_xyzt_units("mm")
    header.set_slope_inter(slope, 0.0)
    header.set_intent(intent)
    header["vox_offset"] = 352
    content = header.binaryblock + b"\0\0\0\0" + data.tobytes(order="F")
    path.write_bytes(gzip.compress(content, compresslevel=1, mtime=0))

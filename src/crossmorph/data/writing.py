"""Simulated images, labels and true fields as NIfTI files; the same values give the same bytes."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float, UInt8

STEP = 1 / 4096  # intensity step on disk


def write_intensities(path: Path, image: Float[np.ndarray, "x y"], affine: Float[np.ndarray, "4 4"]) -> None:
    """Write 12 bits up to the brightest tissue, as scanners do: steps far below the noise, half of float32's bytes."""
    stored = np.clip(np.rint(image / STEP), 0, np.iinfo(np.int16).max).astype(np.int16)
    _write_nifti(path, stored, affine, slope=STEP)


def write_labels(path: Path, labels: UInt8[np.ndarray, "x y"], affine: Float[np.ndarray, "4 4"]) -> None:
    """Write a label map."""
    _write_nifti(path, labels, affine)


def write_field(path: Path, u: Float[np.ndarray, "2 x y"], affine: Float[np.ndarray, "4 4"]) -> None:
    """Write a displacement in voxels as an ITK/ANTs warp: (x, y, 1, 1, 2), intent 1007 (vector), LPS millimetres."""
    ras = np.tensordot(affine[:2, :2], u, axes=1)
    _write_nifti(path, np.moveaxis(-ras, 0, -1)[:, :, None, None].astype(np.float32), affine, intent="vector")


def _write_nifti(path: Path, data: np.ndarray, affine: np.ndarray, slope: float = 1.0, intent: str = "none") -> None:
    """Write stored values as they are, and no time of day into the gzip header."""
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

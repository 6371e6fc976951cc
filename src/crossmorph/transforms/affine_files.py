"""Affine transforms of other programs, to and from files; and the pair of affine and warp that ANTs keeps.

An affine is a pull-back in the world: ``(dim + 1, dim + 1)``, RAS millimetres of the fixed space to RAS millimetres of
the moving space. ITK's and ANTs' files hold the same direction in LPS. FSL's ``flirt`` holds the opposite one, between
coordinates that only the two images' headers define; FreeSurfer's ``.lta`` the opposite one, between RAS or voxels.
"""

import warnings
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from jaxtyping import Float, Float64
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.itk import itk_reason
from crossmorph.system.files import atomic_output, brief, output_set, readable, suffix_of, write_whole
from crossmorph.transforms.itk_files import affine_part, read_itk_transform, write_hdf5
from crossmorph.transforms.warp import Warp, after_moving, followed_by, resample_warp
from crossmorph.transforms.warp_files import TRANSFORM_SUFFIXES, itk_warp, read_transform, write_transform

AFFINE_SUFFIXES = (".tfm", ".txt", ".mat", ".h5")
READABLE_SUFFIXES = (*AFFINE_SUFFIXES, ".lta")


def read_affine_transform(
    path: str | Path, moving: Image | None = None, fixed: Image | None = None
) -> Float64[ndarray, "n n"]:
    """Read an affine map of another program as RAS millimetres, fixed space to moving space.

    * ITK and ANTs: ``.tfm``, ``.txt``, ``.h5`` and binary ``.mat``; any linear transform (translation, rigid,
      similarity, affine) or composite of linear ones;
    * FSL ``flirt``: 4 x 4 numbers as text, in ``.mat`` or ``.txt``;
    * FreeSurfer: ``.lta``, through nitransforms.

    Args:
        path: the file.
        moving: the moving image, for FSL, whose coordinates are millimetres from a corner of it.
        fixed: the fixed image, likewise.

    Raises:
        InputError: missing, damaged, of another kind, not linear or not invertible; FSL without the images;
            nitransforms is not installed.
    """
    path = Path(path)
    suffix = suffix_of(path, READABLE_SUFFIXES, "affine transform")
    with readable(path):
        numbers = _numbers(path) if suffix in (".mat", ".txt") else None
    if suffix == ".lta":
        matrix = _read_lta(path)
    elif numbers is not None:
        matrix = _from_fsl(path, numbers, moving, fixed)
    else:
        matrix = _itk_matrix(path, read_itk_transform(path))
    return _checked(path, matrix)


def read_step(
    path: str | Path, moving: Image | None = None, fixed: Image | None = None
) -> Warp | Float64[ndarray, "n n"]:
    """Read a warp or an affine map, whichever the file holds.

    Arguments and errors as of :func:`read_affine_transform` and
    :func:`crossmorph.transforms.warp_files.read_transform`.
    """
    path = Path(path)
    suffix = suffix_of(path, (*TRANSFORM_SUFFIXES, *READABLE_SUFFIXES), "transform")
    if suffix == ".h5":
        transform = read_itk_transform(path)
        return _checked(path, _itk_matrix(path, transform)) if transform.IsLinear() else itk_warp(path, transform)
    return read_transform(path) if suffix in TRANSFORM_SUFFIXES else read_affine_transform(path, moving, fixed)


def write_affine_transform(path: str | Path, matrix: Float[ndarray, "n n"]) -> None:
    """Write an affine map for ITK, SimpleITK, ANTs and Slicer, as an ``AffineTransform`` of float64.

    Args:
        path: ``.mat`` (ANTs' own), ``.tfm``, ``.txt`` or ``.h5``; an existing file is replaced.
        matrix: RAS millimetres, fixed space to moving space.

    Raises:
        InputError: unknown suffix, or a file that cannot be written.
    """
    path = Path(path)
    suffix_of(path, AFFINE_SUFFIXES, "affine transform")
    with atomic_output(path) as temporary:
        _write_itk(path, temporary, matrix)


def write_fsl_affine(path: str | Path, matrix: Float[ndarray, "4 4"], moving: Image, fixed: Image) -> None:
    """Write an affine map as ``flirt -omat`` does: text, moving to fixed, in FSL's coordinates of both images.

    Args:
        path: the file, by custom ``.mat``.
        matrix: RAS millimetres, fixed space to moving space.
        moving: the moving image, 3-D.
        fixed: the fixed image, 3-D.
    """
    flirt = fsl_coordinates(fixed) @ np.linalg.inv(matrix) @ np.linalg.inv(fsl_coordinates(moving))
    write_whole(Path(path), "".join(" ".join(f"{number:.10f}" for number in row) + "\n" for row in flirt).encode())


def write_lta(
    path: str | Path, matrix: Float[ndarray, "4 4"], moving: tuple[str, Image], fixed: tuple[str, Image]
) -> None:
    """Write an affine map for FreeSurfer: moving ("source") to fixed ("destination"), between RAS millimetres.

    Args:
        path: the file, ``.lta``.
        matrix: RAS millimetres, fixed space to moving space.
        moving: the moving image's name and the image, 3-D; FreeSurfer resamples by the geometry that stands here.
        fixed: the fixed image's, 3-D.
    """
    rows = [" ".join(f"{number:.15e}" for number in row) for row in np.linalg.inv(matrix)]
    lines = ["type      = 1 # LINEAR_RAS_TO_RAS", "nxforms   = 1", "mean      = 0.0000 0.0000 0.0000"]
    lines += ["sigma     = 1.0000", "1 4 4", *rows]
    lines += ["src volume info", *_lta_geometry(*moving), "dst volume info", *_lta_geometry(*fixed)]
    write_whole(Path(path), ("\n".join(lines) + "\n").encode())


def _lta_geometry(name: str, image: Image) -> list[str]:
    """A volume's geometry: its voxel axes in RAS, and where the voxel lies whose index is half of each size."""
    x, y, z = (image.affine[:3, :3] / image.spacing).T
    centre = (image.affine @ [*(np.array(image.shape) / 2), 1])[:3]
    vectors = {"voxelsize": image.spacing, "xras  ": x, "yras  ": y, "zras  ": z, "cras  ": centre}
    named = [f"{key} = " + " ".join(f"{number:.15e}" for number in numbers) for key, numbers in vectors.items()]
    size = " ".join(map(str, image.shape))
    return ["valid = 1  # volume info valid", f"filename = {'_'.join(name.split())}", f"volume = {size}", *named]


def fsl_coordinates(image: Image) -> Float64[ndarray, "4 4"]:
    """RAS millimetres to FSL's coordinates of an image.

    Voxel index times spacing, the first axis counted from its other end where the voxel axes are right-handed in RAS
    ("neurological"): FSL's coordinates are left-handed (FLIRT's FAQ at fsl.fmrib.ox.ac.uk, on the matrix's format).
    """
    scaled = np.diag([*image.spacing, 1.0])
    if np.linalg.det(image.affine[:3, :3]) > 0:
        scaled[0, 0] *= -1
        scaled[0, 3] = (image.shape[0] - 1) * image.spacing[0]
    return scaled @ np.linalg.inv(image.affine)


def write_ants(prefix: str | Path, affine: Float[ndarray, "n n"], warp: Warp, inverse: Warp) -> tuple[Path, ...]:
    """Write a registration as ANTs does: ``P0GenericAffine.mat``, ``P1Warp.nii.gz``, ``P1InverseWarp.nii.gz``.

    ``antsApplyTransforms -t P1Warp.nii.gz -t P0GenericAffine.mat`` moves as the whole warp does: a point goes through
    the first named first, ``x -> A (x + w(x))``. ``-t [P0GenericAffine.mat,1] -t P1InverseWarp.nii.gz`` is the inverse.
    Both fields lie on the fixed image's grid, so the inverse is resampled once.

    Args:
        prefix: how the names begin, with the folder.
        affine: ``A``, RAS millimetres, fixed space to moving space.
        warp: the whole transform, ``A`` included, on the fixed image's grid.
        inverse: its inverse on the moving image's grid.

    Returns:
        The files, in the order above. They appear together once all are written.

    Raises:
        InputError: missing or unwritable folder, NaN, or a grid that NIfTI cannot hold.
    """
    names = ants_names(prefix)
    # Sampled on the fixed grid as A moves it, then expressed on the fixed grid itself.
    undone = after_moving(resample_warp(inverse, affine @ warp.affine, warp.shape), warp.affine)
    with output_set(names) as written:
        write_affine_transform(names[0], affine)
        write_transform(names[1], followed_by(warp, np.linalg.inv(affine)))
        write_transform(names[2], undone)
        written.publish()
    return names


def ants_names(prefix: str | Path) -> tuple[Path, ...]:
    """What :func:`write_ants` writes."""
    return tuple(Path(f"{prefix}{end}") for end in ("0GenericAffine.mat", "1Warp.nii.gz", "1InverseWarp.nii.gz"))


def _checked(path: Path, matrix: ndarray) -> ndarray:
    with np.errstate(all="ignore"):
        usable = np.isfinite(matrix).all() and 1e-9 <= abs(np.linalg.det(matrix)) < np.inf
    if not usable:
        raise InputError(f"{path}: holds the affine {matrix.tolist()}, expected a finite and invertible one")
    return matrix


def _numbers(path: Path) -> ndarray | None:
    """The 4 x 4 numbers of a text file that holds nothing else."""
    try:
        numbers: ndarray = np.array(path.read_text("ascii").split(), np.float64)
    except ValueError:
        return None
    return numbers.reshape(4, 4) if numbers.size == 16 else None


def _itk_matrix(path: Path, transform: sitk.Transform) -> ndarray:
    if not transform.IsLinear():
        raise InputError(f"{path}: holds {transform.GetName()}, expected a linear transform")
    if not isinstance(transform, sitk.CompositeTransform) and path.suffix.lower() != ".mat":
        # SimpleITK reads the first of several without a word.
        several = path.read_bytes().count(b"\nTransform:")
        if several > 1:
            raise InputError(f"{path}: holds {several} transforms in no stated order, expected one, or a composite")
    dim = transform.GetDimension()
    matrix = np.eye(dim + 1)
    matrix[:dim, dim] = transform.TransformPoint((0.0,) * dim)
    for axis in range(dim):
        matrix[:dim, axis] = np.array(transform.TransformPoint(np.eye(dim)[axis].tolist())) - matrix[:dim, dim]
    return _swap_frame(matrix)


def _write_itk(path: Path, temporary: Path, matrix: ndarray) -> None:
    lps = _swap_frame(matrix)
    if temporary.suffix.lower() == ".h5":
        write_hdf5(temporary, [affine_part(lps)])
        return
    transform = sitk.AffineTransform(lps[:-1, :-1].ravel().tolist(), lps[:-1, -1].tolist())
    try:
        sitk.WriteTransform(transform, str(temporary))
    except RuntimeError as error:
        raise InputError(f"{path}: cannot be written ({itk_reason(error)})") from error


def _swap_frame(matrix: ndarray) -> ndarray:
    """A map of RAS points as one of LPS points, or back."""
    sign = np.array([-1.0, -1.0, 1.0, 1.0])[: len(matrix)]
    sign[-1] = 1
    swapped: ndarray = sign[:, None] * matrix * sign
    return swapped


def _from_fsl(path: Path, flirt: ndarray, moving: Image | None, fixed: Image | None) -> ndarray:
    if moving is None or fixed is None or moving.dim != 3 or fixed.dim != 3:
        raise InputError(f"{path}: is an FSL matrix, which means nothing without its 3-D moving and fixed images")
    matrix: ndarray = np.linalg.inv(fsl_coordinates(moving)) @ np.linalg.inv(_checked(path, flirt))
    return matrix @ fsl_coordinates(fixed)


def _read_lta(path: Path) -> ndarray:
    try:
        from nitransforms.io.lta import FSLinearTransformArray  # type: ignore[import-untyped]
    except ImportError as error:
        raise InputError(f"{path}: reading FreeSurfer's .lta needs nitransforms: pip install nitransforms") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            matrices = FSLinearTransformArray.from_filename(str(path)).to_ras()
    except Exception as error:  # its parser raises whatever the text makes it stumble over
        raise InputError(f"{path}: is not a FreeSurfer transform ({type(error).__name__}: {brief(error)})") from error
    if len(matrices) != 1:
        raise InputError(f"{path}: holds {len(matrices)} transforms, expected one")
    matrix: ndarray = np.asarray(matrices[0], np.float64)
    return matrix

"""Greyscale PNG and TIFF files: pixels without millimetres."""

import logging
import math
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import SimpleITK as sitk

from crossmorph.errors import InputError
from crossmorph.images.image import PAGE, Content, Image
from crossmorph.images.itk import itk_content, quiet_itk, read_information
from crossmorph.system.files import DEFLATE_LIMIT, atomic_output

# Pillow would log damaged files on the terminal.
logging.getLogger("PIL").addHandler(logging.NullHandler())

GREY_SUFFIXES = (".png", ".tif", ".tiff")
PNG_KINDS = {"P": "a colour palette", "RGB": "colour", "RGBA": "colour and transparency"}


def read_png(path: Path) -> Content:
    """Grey levels of an 8- or 16-bit greyscale PNG; one bit becomes 0 and 255, as in ITK."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(path, formats=["PNG"]) as png:
                if png.mode not in ("1", "L", "I", "I;16") or "transparency" in png.info:
                    found = PNG_KINDS.get(png.mode, "transparency")
                    raise InputError(f"{path}: holds {found}; save it as 8- or 16-bit greyscale without transparency")
                if math.prod(png.size) > DEFLATE_LIMIT * 8 * path.stat().st_size:
                    raise InputError(
                        f"{path}: announces {png.size} pixels, more than {path.stat().st_size} bytes can hold"
                    )
                levels = np.asarray(png.convert("L") if png.mode == "1" else png)
                stored = np.dtype(np.uint8 if png.mode in ("1", "L") else np.uint16)
    except InputError:
        raise
    except PIL.UnidentifiedImageError as error:
        raise InputError(f"{path}: is not a PNG file") from error
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise InputError(f"{path}: is too large ({error})") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        if isinstance(error, PermissionError):
            raise
        raise InputError(f"{path}: is truncated or damaged ({error})") from error
    return Content(levels.T.astype(np.int32), PAGE, stored, physical=False)


def write_png_tiff(path: Path, image: Image) -> None:
    """Write a 2-D image as :func:`crossmorph.images.io.write_image` describes. Raises InputError as that does."""
    kind = "PNG" if path.suffix.lower() == ".png" else "TIFF"
    if image.dim != 2:
        raise InputError(f"{path}: {kind} holds 2-D images, received shape {image.shape}; expected a NIfTI file name")
    levels = np.round(image.data)
    unit_range = image.data.min() >= 0 and image.data.max() <= 1 and not np.array_equal(levels, image.data)
    if unit_range:
        levels = np.round(image.data.astype(np.float64) * 65535)
    if not np.isfinite(levels).all() or levels.min() < 0 or levels.max() > 65535:
        low, high = float(image.data.min()), float(image.data.max())
        raise InputError(
            f"{path}: {kind} holds whole numbers from 0 to 65535, received {low:g} to {high:g}; expected a NIfTI name"
        )
    depth = np.uint16 if unit_range or levels.max() > 255 else np.uint8
    with atomic_output(path) as temporary:
        PIL.Image.fromarray(np.ascontiguousarray(levels.T.astype(depth))).save(temporary, format=kind)


TIFF_MODES = ("L", "I", "I;16", "I;16B", "F")


def read_tiff(path: Path) -> Content:
    """Read a greyscale TIFF file of one page; its resolution does not describe the body and is dropped.

    Raises:
        InputError: not TIFF, truncated, of colour or several pages, or announcing more than the file can hold.
    """
    # Pillow first: libtiff allocates memory for as many strips as a header announces.
    mode, size = _tiff_header(path)
    if math.prod(size) > DEFLATE_LIMIT * 8 * path.stat().st_size:
        raise InputError(f"{path}: announces {size} pixels, more than {path.stat().st_size} bytes can hold")
    reader = read_information(path, "TIFFImageIO")
    if len(reader.GetSize()) != 2:
        raise InputError(f"{path}: holds {reader.GetSize()[-1]} pages, expected one greyscale page")
    if mode not in TIFF_MODES:
        raise InputError(f"{path}: holds a palette, colour or transparency (mode {mode}); save it as greyscale")
    with quiet_itk(path):
        image = reader.Execute()
    return itk_content(path, image, sitk.GetArrayFromImage(image).T)._replace(affine=PAGE, physical=False)


def _tiff_header(path: Path) -> tuple[str, tuple[int, int]]:
    """Pillow's mode of the pixels, and the size; ITK turns palettes and transparency into meaningless grey levels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with PIL.Image.open(path, formats=["TIFF"]) as tiff:
                return tiff.mode, tiff.size
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise InputError(f"{path}: is not a TIFF file of a known kind, or is too large ({error})") from error

"""Greyscale PNG and TIFF files: pixels without millimetres."""

import logging
import math
import struct
import warnings
import zlib
from pathlib import Path
from typing import cast

import numpy as np
import PIL.Image
import PIL.TiffImagePlugin

from crossmorph.errors import InputError
from crossmorph.images.image import PAGE, Content, Image
from crossmorph.system.files import DEFLATE_LIMIT, atomic_output, brief

# Pillow would log damaged files on the terminal.
logging.getLogger("PIL").addHandler(logging.NullHandler())

GREY_SUFFIXES = (".png", ".tif", ".tiff")
TOO_LARGE = (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning)
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
    except TOO_LARGE as error:
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


# Types by the tags SampleFormat (1 where missing) and BitsPerSample of TIFF 6.0.
TIFF_TYPES = {(1, 8): "u1", (1, 16): "u2", (1, 32): "u4", (2, 8): "i1", (2, 16): "i2", (2, 32): "i4", (3, 32): "f4"}
TIFF_MODES = ("L", "I", "I;16", "I;16B", "F")
BITS, PHOTOMETRIC, FORMAT = 258, 262, 339


def read_tiff(path: Path) -> Content:
    """Read a greyscale TIFF file of one page, in strips or tiles; its resolution is not the body's and is dropped.

    Pillow reads it: ITK takes tiled files for colour. Levels are those that are stored, also where 0 is white.

    Raises:
        InputError: not TIFF, truncated, of colour or several pages, or announcing more than the file can hold.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with PIL.Image.open(path, formats=["TIFF"]) as opened:
                tiff = cast(PIL.TiffImagePlugin.TiffImageFile, opened)
                kind = _tiff_type(path, tiff)
                levels = np.asarray(tiff)
                inverted = tiff.mode == "L" and tiff.tag_v2.get(PHOTOMETRIC) == 0
    except (InputError, PermissionError, MemoryError):
        raise
    except Exception as error:  # Pillow raises errors of many types on a damaged file
        reason = brief(error) or type(error).__name__
        raise InputError(
            f"{path}: is not a TIFF file of a known kind, or is damaged or too large ({reason})"
        ) from error
    levels = np.ascontiguousarray(levels, levels.dtype.newbyteorder("="))
    if kind in ("u4", "i1"):  # Pillow's types have no sign here, or one there
        levels = levels.view(kind)
    levels = (255 - levels) if inverted else levels.astype(kind)
    return Content(levels.T, PAGE, levels.dtype, physical=False)


def _tiff_type(path: Path, tiff: PIL.TiffImagePlugin.TiffImageFile) -> str:
    """The type of the stored numbers; refuses what is not one page of grey levels that the file can hold."""
    if math.prod(tiff.size) > DEFLATE_LIMIT * 8 * path.stat().st_size:
        raise InputError(f"{path}: announces {tiff.size} pixels, more than {path.stat().st_size} bytes can hold")
    if tiff.n_frames != 1:
        raise InputError(f"{path}: holds {tiff.n_frames} pages, expected one greyscale page")
    if tiff.mode not in TIFF_MODES:
        raise InputError(f"{path}: holds a palette, colour or transparency (mode {tiff.mode}); save it as greyscale")
    bits, sign = tiff.tag_v2.get(BITS, (1,)), tiff.tag_v2.get(FORMAT, (1,))
    found = TIFF_TYPES.get((sign[0], bits[0])) if len(bits) == len(sign) == 1 else None
    if found is None:
        raise InputError(f"{path}: holds numbers of {bits} bits and kind {sign}, expected integers of 8 to 32 bits")
    return found

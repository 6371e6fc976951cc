"""Pairs of images that nobody should have, by Hypothesis: odd values, sizes and geometry; `fuzz.py` registers them."""

import io
import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

Files = dict[str, bytes]

SIDES = [1, 2, 3, 5, 40]
ODD_VOXELS = [math.nan, math.inf, -math.inf, 1e20, -1e38]
SCALES = [255.0, -1.0, 1e-40, 1e-300, 1e30, 3e38, 1e300]
TYPES = [np.float64, np.int16, np.uint8, np.bool_, np.int64]
SPACINGS = [1e-30, 1e-6, 0.01, 0.3, 20.0, 300.0, 1e4, 1e8, 1e30]
OFFSETS = [30.0, -300.0, 1e4, 1e6, 1e15, math.nan, math.inf]
ODDITIES = [
    "side",
    "voxel",
    "constant",
    "scale",
    "offset",
    "type",
    "spacing",
    "axis",
    "turn",
    "shear",
    "place",
    "volume",
]


@st.composite
def odd_image(draw: st.DrawFn, oddities: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and their affine, decent but for some oddities."""

    def one_of(oddity: str, values: list, usual: object) -> Any:
        return draw(st.sampled_from(values)) if oddity in oddities else usual

    dim = one_of("volume", [3], 2)
    shape = [44, 40, 12][:dim]
    shape[0] = one_of("side", SIDES, shape[0])
    shape[1] = one_of("side", SIDES, shape[1])
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    places = np.indices(shape) / np.reshape(shape, (-1,) + (1,) * dim)
    image = np.exp(-9 * ((places - 0.5) ** 2).sum(0)) * one_of("constant", [0], 1) + 0.05 * rng.random(shape)
    image = image * one_of("scale", SCALES, 1.0) + one_of("offset", [1e6, -1e30], 0.0)
    image.flat[draw(st.integers(0, image.size - 1))] += one_of("voxel", ODD_VOXELS, 0.0)
    with np.errstate(all="ignore"):
        image = image.astype(one_of("type", TYPES, np.float32)) * one_of("constant", [0, 1], 1)

    spacing = np.full(dim, one_of("spacing", SPACINGS, 3.0))
    spacing[0] *= one_of("axis", [0.0, -1.0, 30.0, 1e-9], 1.0)
    turn, shear = np.eye(dim), np.eye(dim)
    angle = one_of("turn", [0.3, math.pi / 2, math.pi], 0.0)
    turn[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    shear[0, 1] = one_of("shear", [0.4, 1e3], 0.0)
    matrix = np.eye(dim + 1)
    matrix[:dim, :dim] = turn @ shear * spacing
    matrix[:dim, dim] = -spacing * shape / 2
    matrix[0, dim] += one_of("place", OFFSETS, 0.0)
    return image, matrix


@st.composite
def odd_pairs(draw: st.DrawFn) -> Files:
    """Voxels and affine of a moving and a fixed image, as files of NumPy; one of the two is often a decent one."""
    files = {}
    for role in ("moving", "fixed"):
        oddities = draw(st.lists(st.sampled_from(ODDITIES), max_size=2))
        for part, array in zip(("voxels", "affine"), draw(odd_image(oddities)), strict=True):
            stream = io.BytesIO()
            np.save(stream, array, allow_pickle=False)
            files[f"{role}_{part}.npy"] = stream.getvalue()
    return files

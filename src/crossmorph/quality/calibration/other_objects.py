"""Images of no head: objects with organs, and noise. What shows them cannot be registered to a head."""

from collections.abc import Sequence

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float
from numpy import ndarray


def replaced(rng: np.random.Generator, kind: str, images: Sequence[ndarray]) -> list[ndarray]:
    """One of two images, or both, as another object or as noise; the images themselves for any other kind of pair."""
    moving, fixed = images
    if kind == "two objects":
        return [_object(rng, moving.shape), _object(rng, fixed.shape)]
    if kind in MADE:
        made = MADE[kind]
        which = rng.integers(2 if kind == "object" else 3)
        return [made(rng, image.shape) if which in (role, 2) else image for role, image in enumerate(images)]
    return [moving, fixed]


def _object(rng: np.random.Generator, shape: tuple[int, ...]) -> Float[ndarray, "*space"]:
    """A body with a rim and organs: ellipsoids of random brightness, mottled, with noise."""
    dim = len(shape)
    axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij", sparse=True)
    size = rng.uniform(0.5, 0.85, dim)
    image = np.zeros(shape)
    body = _ellipsoid(axes, rng.uniform(-0.1, 0.1, dim), size)
    image[body] = rng.uniform(0.2, 1)
    inner = _ellipsoid(axes, np.zeros(dim), size * rng.uniform(0.8, 0.95)) & body
    image[inner] = rng.uniform(0.2, 1)
    for _ in range(rng.integers(4, 10)):
        organ = _ellipsoid(axes, rng.uniform(-0.5, 0.5, dim) * size, rng.uniform(0.06, 0.35, dim))
        image[organ & inner] = rng.uniform(0, 1)
    image *= 1 + rng.uniform(0, 0.3) * smooth_texture(rng, shape, rng.uniform(1.5, 5))
    real, imaginary = rng.standard_normal((2, *shape)) * rng.uniform(0.01, 0.08)
    return np.hypot(scipy.ndimage.gaussian_filter(image, 0.7) + real, imaginary).astype(np.float32)


def _ellipsoid(axes: Sequence[ndarray], centre: ndarray, radii: ndarray) -> Bool[ndarray, "*space"]:
    parts = (((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii, strict=True))
    return np.asarray(sum(parts) < 1)


def _noise(rng: np.random.Generator, shape: tuple[int, ...]) -> Float[ndarray, "*space"]:
    """White, or more or less smooth."""
    noise = rng.standard_normal(shape)
    if rng.random() < 0.6:
        noise = smooth_texture(rng, shape, rng.uniform(0.6, 5))
    return (np.abs(noise) if rng.random() < 0.5 else noise - noise.min()).astype(np.float32)


def _pattern(rng: np.random.Generator, shape: tuple[int, ...]) -> Float[ndarray, "*space"]:
    """A checkerboard, or two halves of one brightness each, with noise."""
    places = np.indices(shape) + rng.integers(0, 64, (len(shape), *[1] * len(shape)))
    sizes = rng.integers(3, 25, (len(shape), *[1] * len(shape)))
    board = (
        (places // sizes).sum(0) % 2 if rng.random() < 0.6 else np.indices(shape)[0] > rng.uniform(0.3, 0.7) * shape[0]
    )
    return (board + rng.uniform(0, 0.05) * np.abs(rng.standard_normal(shape))).astype(np.float32)


def smooth_texture(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> Float[ndarray, "*space"]:
    """White noise under a Gaussian filter, -1 to 1."""
    smooth = scipy.ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return np.asarray(smooth / np.abs(smooth).max())


MADE = {"object": _object, "noise": _noise, "pattern": _pattern}

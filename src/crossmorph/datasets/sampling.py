"""Random numbers of the data sets: an independent stream for each key, and the pairs of a training list."""

from collections.abc import Callable, Sequence

import numpy as np

PARTNER_DISTANCE = 3.0  # mm between the levels of a training pair
PARTNERS = 4  # fixed images for each moving image of the training list

# Words of the keys. New words go to the end: the index of a word is its number.
_WORDS = (
    *("train", "validation", "test", "rough", "moving", "fixed", "t1", "t2", "pd", "partners"),
    *("contrasts", "heads", "far", "head", "pair"),
    *("flair", "inverted", "synthetic-a", "synthetic-b", "synthetic-c"),
    "volume",
)


def generator(seed: int, *key: str | int) -> np.random.Generator:
    """An independent stream for each key, so that no image depends on how many numbers were drawn before.

    Args:
        seed: of the data set.
        key: numbers, and words of the data sets: splits, roles, contrasts.
    """
    numbers = tuple(part if isinstance(part, int) else _WORDS.index(part) for part in key)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=numbers))


def training_pairs(
    levels: Sequence[float], stream: Callable[[int], np.random.Generator], heads: Sequence[int] | None = None
) -> list[tuple[int, int]]:
    """Every moving image with up to `PARTNERS` random fixed images of its level or one nearby, by number.

    Args:
        levels: of the images, mm; image `k` has a moving and a fixed image at `levels[k]`.
        stream: the random stream of a moving image's number.
        heads: of the images, by number; partners are of the same head. None: all images are of one.
    """
    pairs = []
    for moving, z_mm in enumerate(levels):
        near = np.abs(np.array(levels) - z_mm) <= PARTNER_DISTANCE
        if heads is not None:
            near &= np.array(heads) == heads[moving]
        partners = np.flatnonzero(near)
        chosen = stream(moving).choice(partners, min(PARTNERS, len(partners)), replace=False)
        pairs += [(moving, int(fixed)) for fixed in np.sort(chosen)]
    return pairs

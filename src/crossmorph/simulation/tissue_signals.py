"""How bright each kind of tissue is in T1w, T2w, FLAIR and PDw images of a head and in CT, in arbitrary units.

The values are set by eye beside real scans at 1.5 and 3 T: white matter in T1w is 1. CT is as seen through a brain
window, from 0 to 80 HU, through which bone is as bright as anything gets.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

Sequence_ = Literal["t1", "t2", "flair", "pd", "ct"]
Acquisition = Sequence_ | Literal["random"]  # of a sequence, or with any signal for each tissue
SEQUENCES: tuple[Sequence_, ...] = get_args(Sequence_)

SIGNALS: dict[str, tuple[float, ...]] = {
    "csf": (0.20, 1.00, 0.15, 0.95, 0.10),
    "cortex": (0.68, 0.54, 0.80, 0.85, 0.47),
    "white matter": (1.00, 0.38, 0.62, 0.70, 0.36),
    "cerebellar cortex": (0.66, 0.53, 0.78, 0.84, 0.46),
    "cerebellar white matter": (0.97, 0.39, 0.62, 0.71, 0.37),
    "thalamus": (0.80, 0.43, 0.70, 0.78, 0.45),
    "caudate": (0.72, 0.50, 0.76, 0.82, 0.46),
    "putamen": (0.76, 0.46, 0.72, 0.80, 0.46),
    "pallidum": (0.90, 0.30, 0.52, 0.72, 0.44),
    "brain stem": (0.92, 0.40, 0.62, 0.74, 0.38),
    "ventral diencephalon": (0.88, 0.38, 0.62, 0.74, 0.40),
    "lesion": (0.62, 0.72, 1.05, 0.92, 0.30),
    "vessel": (0.35, 0.15, 0.30, 0.40, 0.55),
    "skin": (0.85, 0.50, 0.60, 0.70, 0.45),
    "soft tissue": (0.62, 0.32, 0.50, 0.60, 0.40),
    "muscle": (0.50, 0.20, 0.42, 0.52, 0.65),
    "mucosa": (0.45, 0.62, 0.60, 0.70, 0.45),
    "bone": (0.10, 0.06, 0.08, 0.10, 1.00),
    "marrow": (0.75, 0.42, 0.50, 0.60, 0.90),
    "dura": (0.42, 0.22, 0.40, 0.50, 0.60),
    "eye": (0.22, 0.95, 0.20, 0.90, 0.15),
}
NAMES = tuple(SIGNALS)
DARK = ("bone",)  # in most contrasts of random signals, as in most of magnetic resonance


def signals_of(sequence: Sequence_, names: Sequence[str] = NAMES) -> Float[np.ndarray, " names"]:
    """The signals of kinds of tissue in a sequence, noise-free."""
    column = SEQUENCES.index(sequence)
    return np.array([SIGNALS[name][column] for name in names])


def random_signals(rng: np.random.Generator, names: Sequence[str] = NAMES) -> Float[np.ndarray, " names"]:
    """A signal from 0 to 1 for each kind of tissue, each drawn by itself; bone is dark four times of five."""
    drawn = rng.uniform(0.0, 1.0, len(names))
    if rng.random() < 0.8:
        drawn[[names.index(name) for name in DARK if name in names]] *= 0.15
    return drawn

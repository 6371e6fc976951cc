"""Simulated MR images: the signal of each tissue, bias field and noise.

Every image is one anatomy, as tissue fractions, under a deformation of its own, given the signal of a contrast, a bias
field and Rician noise:

    image(p) = | bias(p) * sum_k fraction_k(p + u(p)) * signal_k + noise |
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import scipy.linalg
import scipy.ndimage
from jaxtyping import Float, UInt8

from crossmorph.errors import InputError
from crossmorph.simulation.deformation import SMOOTH, Difficulty

Modality = Literal["t1", "t2", "pd", "flair"]  # what scanners give
Contrast = Literal[Modality, "inverted", "synthetic-a", "synthetic-b", "synthetic-c"]
CONTRASTS: tuple[Contrast, ...] = (*get_args(Modality), "inverted", "synthetic-a", "synthetic-b", "synthetic-c")

TISSUES = ("csf", "gm", "wm")  # label k + 1 is TISSUES[k]; label 0 is background
HEAD_TISSUES = (*TISSUES, "fat", "muscle")


class Tissue(NamedTuple):
    """Relaxation times (ms) and relative proton density."""

    t1: float
    t2: float
    t2_star: float
    pd: float


# At 1.5 T. Kwan, Evans, Pike (1999), "MRI simulation-based evaluation of image-processing and classification methods",
# IEEE TMI 18(11):1085-1097, and BrainWeb, https://brainweb.bic.mni.mcgill.ca/tissue_mr_parameters.txt
RELAXATION = {
    "csf": Tissue(2569.0, 329.0, 58.0, 1.0),
    "gm": Tissue(833.0, 83.0, 69.0, 0.86),
    "wm": Tissue(500.0, 70.0, 61.0, 0.77),
    "fat": Tissue(350.0, 70.0, 58.0, 1.0),
    "muscle": Tissue(900.0, 47.0, 30.0, 1.0),  # BrainWeb's class 5, muscle and skin
}
# The tissue BrainWeb's noise level refers to; in FLAIR, which BrainWeb lacks, the brightest.
REFERENCE: dict[Modality, str] = {"t1": "wm", "t2": "csf", "pd": "csf", "flair": "gm"}

# Signals of CSF, grey and white matter that no sequence above gives: T1w darkens from WM to GM to CSF, T2w and PDw from
# CSF to GM to WM, FLAIR from GM to WM to CSF. Neighbours differ by 0.30 or 0.35; T1w's by 0.26 and 0.44.
SYNTHETIC: dict[Contrast, tuple[float, float, float]] = {
    "synthetic-a": (0.70, 1.00, 0.40),
    "synthetic-b": (1.00, 0.35, 0.65),
    "synthetic-c": (0.65, 0.35, 1.00),
}


# --- signal ----------------------------------------------------------------------------------------------------------


def signal(tissue: Tissue, modality: Modality) -> float:
    """Noise-free signal of a tissue in the sequences of BrainWeb's normal brain database, and in FLAIR.

    T1w: spoiled FLASH, TR 18 ms, TE 10 ms, flip angle a = 30 degrees:
    `PD sin(a) (1 - E1) exp(-TE/T2*) / (1 - E1 cos(a))`, `E1 = exp(-TR/T1)`.
    T2w and PDw: dual-echo spin echo, TR 3300 ms, TE 120 and 35 ms:
    `PD exp(-TE/T2) (1 - 2 exp(-(TR - t2)/T1) + 2 exp(-(TR - t1)/T1) - exp(-TR/T1))`, refocused at t1 = TE1/2 and
    t2 = (TE1 + TE2)/2.
    FLAIR: inversion recovery spin echo, TR 9000 ms, TE 120 ms, TI 1700 ms:
    `PD exp(-TE/T2) |1 - 2 exp(-TI/T1) + 2 exp(-(TR - TE/2)/T1) - exp(-TR/T1)|`, which is Bloch's steady state where
    the pulse at TI leaves nothing along the field and the one TE/2 later turns what has come back. Scanners invert
    2000 to 2500 ms before; CSF vanishes at 1700 ms because BrainWeb's CSF recovers faster, in 2569 ms.

    Sources: Kwan, Evans, Pike (1999), IEEE TMI 18(11):1085-1097; https://brainweb.bic.mni.mcgill.ca; for FLAIR,
    De Coene et al. (1992), AJNR 13(6):1555-1564, and https://www.cis.rit.edu/htbooks/mri, chapter 4 (without the turn).
    """
    if modality == "t1":
        angle, decay = np.deg2rad(30.0), np.exp(-18.0 / tissue.t1)
        steady = np.sin(angle) * (1 - decay) / (1 - decay * np.cos(angle))
        return float(tissue.pd * steady * np.exp(-10.0 / tissue.t2_star))
    if modality == "flair":
        inverted = 1 - 2 * np.exp(-1700.0 / tissue.t1)
        turned = 2 * np.exp(-(9000.0 - 120.0 / 2) / tissue.t1) - np.exp(-9000.0 / tissue.t1)
        return float(tissue.pd * np.exp(-120.0 / tissue.t2) * abs(inverted + turned))
    repetition, first, second = 3300.0, 35.0 / 2, (35.0 + 120.0) / 2
    recovered = (
        1
        - 2 * np.exp(-(repetition - second) / tissue.t1)
        + 2 * np.exp(-(repetition - first) / tissue.t1)
        - np.exp(-repetition / tissue.t1)
    )
    return float(tissue.pd * np.exp(-(120.0 if modality == "t2" else 35.0) / tissue.t2) * recovered)


def contrast_signals(contrast: Contrast, tissues: Sequence[str] = TISSUES) -> Float[np.ndarray, " tissue"]:
    """Noise-free signals, of which the brightest of CSF, grey and white matter is 1.

    `inverted` is T1w upside down in the brain: what is brightest there becomes darkest, `max + min - signal`.

    Args:
        contrast: A modality, or a contrast that no scanner gives.
        tissues: Names in `RELAXATION`, beginning with those of `TISSUES`.

    Raises:
        InputError: If tissues outside the brain are asked for in a contrast that no scanner gives.
    """
    if contrast in REFERENCE:
        signals = np.array([signal(RELAXATION[tissue], contrast) for tissue in tissues])
        return np.asarray(signals / signals[: len(TISSUES)].max())
    if tuple(tissues) != TISSUES:
        raise InputError(f"contrast {contrast!r} of {', '.join(tissues)}; expected {', '.join(TISSUES)} alone")
    if contrast in SYNTHETIC:
        return np.array(SYNTHETIC[contrast])
    upright = contrast_signals("t1")
    return np.asarray(upright.max() + upright.min() - upright)


def simulate(
    fractions: Float[np.ndarray, "tissue *space"],
    contrast: Contrast,
    rng: np.random.Generator,
    difficulty: Difficulty = SMOOTH,
) -> Float[np.ndarray, "*space"]:
    """Acquire an image of an anatomy.

    The brightest brain tissue's noise-free signal is 1, a constant of the contrast: the scale of an image does not
    depend on its noise, bias field or content. Bias, noise and fat reach beyond 1.

    Args:
        fractions: The part of each voxel that is CSF, grey and white matter, and in a head fat and muscle; what is left
            is air or bone, without signal.
        contrast: One of `CONTRASTS`.
        rng: Source of the bias field and the noise.
        difficulty: Its `noise` and `bias` are used.

    Returns:
        The image, float32, at least 0.
    """
    signals = contrast_signals(contrast, HEAD_TISSUES[: len(fractions)])
    reference = signals[TISSUES.index(REFERENCE[contrast])] if contrast in REFERENCE else 1.0
    clean = np.tensordot(signals, fractions, axes=1)
    clean = clean * bias_field(fractions[: len(TISSUES)].sum(0) > 0.5, rng, difficulty.bias)
    real, imaginary = rng.standard_normal((2, *clean.shape)) * difficulty.noise * reference
    magnitude: np.ndarray = np.hypot(clean + real, imaginary)
    return magnitude.astype(np.float32)


def bias_field(brain: np.ndarray, rng: np.random.Generator, bias: float) -> Float[np.ndarray, "*space"]:
    """A smooth factor that spans exactly 1 - bias/2 to 1 + bias/2 over the brain, and is held at these outside."""
    sigma = [size / 4 for size in brain.shape]
    smooth = scipy.ndimage.gaussian_filter(rng.standard_normal(brain.shape), sigma, mode="reflect")
    low, high = smooth[brain].min(), smooth[brain].max()
    return np.asarray(1 + bias * (np.clip((smooth - low) / (high - low), 0, 1) - 0.5))


def tissue_labels(fractions: Float[np.ndarray, "tissue *space"]) -> UInt8[np.ndarray, "*space"]:
    """The largest part of each voxel: 1 CSF, 2 grey matter, 3 white matter, 0 background, the head's other tissues."""
    brain = fractions[: len(TISSUES)]
    whole = np.concatenate([1 - brain.sum(0, keepdims=True), brain])
    return np.asarray(whole.argmax(0), dtype=np.uint8)

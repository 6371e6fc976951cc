"""Pairs of `calibration_pairs`, registered: what came out, how wrong it is, and what speaks for it."""

import json
import math
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from calibration_pairs import Drawn, Setting, Split, draw
from jaxtyping import Bool, Float
from torch import Tensor

from crossmorph.errors import InputError
from crossmorph.networks.checkpoint import Model
from crossmorph.quality.consistency import appearance, gather
from crossmorph.quality.error_network import gathered_maps
from crossmorph.quality.measures import measure_plain
from crossmorph.registration.register_images import register_images
from crossmorph.system.files import atomic_output

TOO_FAR = 2.0  # mm of median error in tissue: what is above is to be found


class Trial(NamedTuple):
    """A pair and what came out of it.

    ``error`` is the median in tissue, mm, and ``wrong`` that of every voxel, working voxels, both infinite where no
    truth exists; ``maps`` are those of :func:`crossmorph.quality.error_network.gathered_maps`; ``seconds`` are those
    of the CPU, for registering and for the numbers.
    """

    kind: str
    error: float
    numbers: dict[str, float]
    features: Float[Tensor, "images features"]
    maps: Float[Tensor, "maps *space"]
    wrong: Float[Tensor, "*space"]
    tissue: Bool[Tensor, "*space"]
    lesion: Bool[Tensor, "*space"]
    foreground: Bool[Tensor, "*space"]
    seconds: tuple[float, float]

    @property
    def bad(self) -> bool:
        """Whether a flag should find it."""
        return not self.error <= TOO_FAR


def run(model: Model, split: Split, seed: int, numbers: range, folder: Path | None) -> list[Trial | None]:
    """Trials of pairs of a split, None where the pair was refused with an error, which nobody can overlook.

    Args:
        model: the weights that register.
        split: whose anatomies are drawn.
        seed: of the pairs.
        numbers: which of the seed's pairs.
        folder: where trials are kept, and taken from where they lie there already.
    """
    setting = Setting(model.card.shape, model.card.spacing, split)
    rows, began = [], time.perf_counter()
    for number in numbers:
        path = folder and folder / f"{model.card.name}-{model.card.sha256[:12]}-{split}-{seed}-{number}.npz"
        if path and path.is_file():
            rows.append(read_trial(path))
            continue
        row = trial(model, draw(setting, seed, number))
        if path:
            write_trial(path, row)
        rows.append(row)
        if number % 25 == 24:
            spent = time.perf_counter() - began
            print(f"{split} {number + 1} of {numbers.stop}, {spent:.0f} s", file=sys.stderr, flush=True)
    return rows


def trial(model: Model, drawn: Drawn) -> Trial | None:
    """Register a pair; None where that is refused."""
    began = time.process_time()
    try:
        registered = register_images(drawn.moving, drawn.fixed, model)
    except InputError:
        return None
    between = time.process_time()
    evidence, features = gather(registered), appearance(registered)
    numbers = measure_plain(registered, drawn.moving, evidence)
    seconds = between - began, time.process_time() - between
    assert registered.fixed.shape[2:] == drawn.fixed.shape, "pairs are drawn on the model's own grid"
    error, wrong = math.inf, np.full(drawn.fixed.shape, np.inf)
    if drawn.truth is not None and drawn.tissue.any():
        distance = np.linalg.norm(registered.warp.displacement - drawn.truth, axis=0)
        error, wrong = float(np.median(distance[drawn.tissue])), distance / numbers["working_spacing"]
    return Trial(
        drawn.kind,
        error,
        numbers,
        features,
        gathered_maps(registered.fixed, evidence)[0].half(),
        torch.from_numpy(wrong).half(),
        torch.from_numpy(drawn.tissue),
        torch.from_numpy(drawn.lesion),
        evidence.foreground,
        seconds,
    )


TENSORS = ("features", "maps", "wrong", "tissue", "lesion", "foreground")


def write_trial(path: Path, row: Trial | None) -> None:
    """Keep a trial, or that there is none, as arrays and a line of JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {} if row is None else {name: getattr(row, name).numpy() for name in TENSORS}
    text = {} if row is None else {"kind": row.kind, "error": row.error, "numbers": row.numbers, "seconds": row.seconds}
    with atomic_output(path) as beside, beside.open("wb") as stream:
        np.savez(stream, text=np.array(json.dumps(text)), **arrays)


def read_trial(path: Path) -> Trial | None:
    """What :func:`write_trial` kept."""
    with np.load(path) as arrays:
        text = json.loads(str(arrays["text"]))
        if not text:
            return None
        tensors = {name: torch.from_numpy(arrays[name]) for name in TENSORS}
    return Trial(**{**text, "seconds": tuple(text["seconds"])}, **tensors)

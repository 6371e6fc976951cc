"""Registrations of simulated pairs: consistency, measures and true errors of each."""

import json
import math
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crossmorph.errors import InputError
from crossmorph.networks.checkpoint import Model, load_tensors, save_tensors
from crossmorph.quality.assessment import Measures
from crossmorph.quality.calibration.pairs import Setting, SimulatedPair, Split, draw
from crossmorph.quality.consistency import consistency, encoder_features, network_maps
from crossmorph.quality.measures import measure
from crossmorph.registration.register_images import register_images

MAX_ERROR = 2.0  # mm of median error in tissue, above which a check should warn
TENSORS = ("features", "maps", "errors", "tissue", "lesion", "foreground")
PROGRESS = 25  # pairs between two lines of progress


class Trial(NamedTuple):
    """A simulated pair and its registration.

    Attributes:
        kind: of the pair, one of :data:`crossmorph.quality.calibration.pairs.KINDS`.
        error: true median error in tissue, mm; infinite where the pair cannot be registered.
        measures: of the registration, without those that need a calibration.
        features: :func:`crossmorph.quality.consistency.encoder_features`.
        maps: :func:`crossmorph.quality.consistency.network_maps`.
        errors: true error of every voxel, voxels of the working grid; infinite where the pair cannot be registered.
        tissue: where the fixed image shows tissue.
        lesion: where only the fixed image has a lesion.
        foreground: of the fixed image, see :class:`crossmorph.quality.assessment.Consistency`.
        seconds: CPU time of the registration, and of consistency maps and measures.
    """

    kind: str
    error: float
    measures: Measures
    features: Float[Tensor, "images features"]
    maps: Float[Tensor, "maps *space"]
    errors: Float[Tensor, "*space"]
    tissue: Bool[Tensor, "*space"]
    lesion: Bool[Tensor, "*space"]
    foreground: Bool[Tensor, "*space"]
    seconds: tuple[float, float]

    @property
    def bad(self) -> bool:
        """Whether a check should detect it: an error above ``MAX_ERROR``, or a pair that cannot be registered."""
        return not self.error <= MAX_ERROR


def run_trials(model: Model, split: Split, seed: int, numbers: range, kept: Path | None = None) -> list[Trial | None]:
    """Trials of simulated pairs of a split; None where the registration refused the pair with an error.

    Args:
        model: the weights that register.
        split: whose anatomies are drawn.
        seed: of the pairs.
        numbers: which of the seed's pairs.
        kept: folder where trials are kept and reused.
    """
    setting = Setting(model.card.shape, model.card.spacing, split)
    trials, began = [], time.perf_counter()
    for number in numbers:
        path = kept and kept / f"{model.card.name}-{model.card.sha256[:12]}-{split}-{seed}-{number}.safetensors"
        if path and path.is_file():
            trials.append(read_trial(path))
            continue
        trials.append(run_trial(model, draw(setting, seed, number)))
        if path:
            write_trial(path, trials[-1])
        if number % PROGRESS == PROGRESS - 1:
            spent = time.perf_counter() - began
            print(f"{split} pair {number + 1} of {numbers.stop}, {spent:.0f} s", file=sys.stderr, flush=True)
    return trials


def run_trial(model: Model, pair: SimulatedPair) -> Trial | None:
    """Register and measure a pair; None where the registration refuses it."""
    began = time.process_time()
    try:
        registered = register_images(pair.moving, pair.fixed, model)
    except InputError:
        return None
    between = time.process_time()
    maps, features = consistency(registered), encoder_features(registered)
    measures = measure(registered, pair.moving, pair.fixed, maps)
    seconds = between - began, time.process_time() - between
    assert registered.fixed.shape[2:] == pair.fixed.shape, "pairs are drawn on the model's own grid"
    error, errors = math.inf, np.full(pair.fixed.shape, np.inf)
    if pair.truth is not None and pair.tissue.any():
        distance = np.linalg.norm(registered.warp.displacement - pair.truth, axis=0)
        error, errors = float(np.median(distance[pair.tissue])), distance / measures.working_spacing
    return Trial(
        pair.kind,
        error,
        measures,
        features,
        network_maps(registered.fixed, maps)[0].half(),
        torch.from_numpy(errors).half(),
        torch.from_numpy(pair.tissue),
        torch.from_numpy(pair.lesion),
        maps.foreground,
        seconds,
    )


def write_trial(path: Path, trial: Trial | None) -> None:
    """Keep a trial, or that the pair was refused, as tensors and a line of JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors, text = {}, {}
    if trial is not None:
        tensors = {name: getattr(trial, name).clone() for name in TENSORS}
        text = {"kind": trial.kind, "error": trial.error, "seconds": trial.seconds}
        text["measures"] = trial.measures._asdict()
    save_tensors(path, tensors, {"text": json.dumps(text)})


def read_trial(path: Path) -> Trial | None:
    """What :func:`write_trial` kept. Raises InputError where it is another kind of file, or another version's."""
    try:
        tensors, kept = load_tensors(path)
        text = json.loads(kept["text"])
        if not text:
            return None
        registration, measuring = text["seconds"]
        measures = Measures(**text["measures"])
        shown = {name: tensors[name] for name in TENSORS}
        return Trial(text["kind"], text["error"], measures, **shown, seconds=(registration, measuring))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a kept pair of this version; delete it, or give another --pairs") from error

"""Registrations of simulated pairs: consistency, measures and true errors of each."""

import json
import math
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.networks.checkpoint import Model, load_tensors, save_tensors
from crossmorph.quality.assessment import Measures
from crossmorph.quality.calibration.simulated_pair import SimulatedPair, structure_distance
from crossmorph.quality.consistency import consistency, encoder_features, network_maps
from crossmorph.quality.measures import measure
from crossmorph.registration.register_images import Registered, register_images
from crossmorph.transforms.grid import Grid, onto_grid
from crossmorph.transforms.warp import resample

MAX_ERROR = 2.0  # mm of median error in tissue, above which a check should warn
TENSORS = ("features", "maps", "errors", "tissue", "lesion", "foreground")


class Trial(NamedTuple):
    """A simulated pair and its registration.

    Attributes:
        kind: of the pair, one of the modules that draw pairs.
        error: true median error in tissue, mm; of two people the median distance of structures; infinite where the
            pair cannot be registered.
        measures: of the registration, without those that need a calibration.
        features: :func:`crossmorph.quality.consistency.encoder_features`.
        maps: :func:`crossmorph.quality.consistency.network_maps`.
        errors: true error of every voxel, voxels of the working grid; infinite where it is not known.
        tissue: where the fixed image shows tissue and the true error is known or infinite.
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
    truth = _true_errors(pair, registered)
    return Trial(
        pair.kind,
        truth.error,
        measures,
        features,
        network_maps(registered.fixed, maps)[0].half(),
        truth.errors.half(),
        truth.tissue,
        truth.lesion,
        maps.foreground,
        seconds,
    )


class _Truth(NamedTuple):
    """What is known of a registration's error; see :class:`Trial`."""

    error: float
    errors: Float[Tensor, "*space"]
    tissue: Bool[Tensor, "*space"]
    lesion: Bool[Tensor, "*space"]


def _true_errors(pair: SimulatedPair, registered: Registered) -> _Truth:
    """The errors on the working grid, and their median in tissue or the distance of structures."""
    grid = registered.grid
    tissue, lesion = (_on(grid, part.astype(np.float32), pair) > 0.5 for part in (pair.tissue, pair.lesion))
    errors = torch.full(grid.shape, math.inf)
    if pair.labels is not None:
        moving, fixed = pair.labels
        moved = resample(Image(moving, pair.moving.affine), registered.warp, "nearest").data
        return _Truth(structure_distance(moved, fixed, pair.fixed.affine), errors, tissue & False, lesion)
    if pair.truth is None or not tissue.any():
        return _Truth(math.inf, errors, tissue, lesion)
    distance = np.linalg.norm(registered.warp.displacement - pair.truth, axis=0).astype(np.float32)
    return _Truth(float(np.median(distance[pair.tissue])), _on(grid, distance, pair) / grid.spacing, tissue, lesion)


def _on(grid: Grid, data: Float[ndarray, "*fixed"], pair: SimulatedPair) -> Float[Tensor, "*space"]:
    """What lies on the fixed image's grid, on the working grid."""
    return torch.from_numpy(onto_grid(Image(data, pair.fixed.affine), grid).data)


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

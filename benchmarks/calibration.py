"""How far a model's results can be believed: ``python benchmarks/calibration.py --model NAME_OR_FOLDER``.

Draws pairs of the training anatomies whose truth is known, easy to hopeless, and pairs that have none
(`calibration_pairs`), registers them, fits what foretells the error, and sets the limits of the flags; then draws pairs
of the test anatomies, once, and prints how well the flags find what is wrong there. Writes ``NAME.quality.safetensors``
(beside the shipped weights with ``--ship``), a row for every pair to ``calibration-*.csv``, and the tables to
``calibration.md``. About 0.3 s of one core a pair of slices.
"""

import argparse
import csv
import datetime
import importlib.metadata
import math
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from calibration_pairs import HOPELESS, Drawn, Setting, Split, draw
from calibration_tables import doubt_inputs, tables
from torch import Tensor

import crossmorph
from crossmorph import DEFAULT_MODELS, load_model
from crossmorph.calibration import (
    LIMITS,
    SUFFIX,
    Calibration,
    foretold,
    unfamiliarity,
    usual_features,
    write_calibration,
)
from crossmorph.checkpoint import Model
from crossmorph.doubt import MOST, local_logarithms
from crossmorph.errors import InputError
from crossmorph.evidence import appearance, gather
from crossmorph.pipeline import Registered, register_images
from crossmorph.quality import calibrate, judge, logarithms, measure_plain

TOO_FAR = 2.0  # mm of median error in tissue: what is above is to be found
ALARMS = 0.045  # of the good training pairs that may be flagged
RARE = 0.998  # a single number's limit, as a quantile of good training pairs
CERTAIN = 0.998  # the same for a failure, which no good pair should be called
LEAST, LARGEST = 0.5, 5.0  # voxels between which errors are told apart; the hopeless count as the largest
RIDGE = 1e-3
FOLDS = 5  # of the training pairs, for the limits
SAMPLED = 60  # voxels of each pair for the map of doubt, and as many of a lesion


class Trial(NamedTuple):
    """A pair and what came out of it.

    ``error`` is the median in tissue, mm, infinite where no truth exists; ``voxels`` holds, of some, the error (working
    voxels), whether they lie in a lesion, and the logarithms of the local maps; ``seconds`` are those of the CPU, for
    registering and for the numbers.
    """

    kind: str
    error: float
    numbers: dict[str, float]
    features: Tensor
    voxels: Tensor
    seconds: tuple[float, float]

    @property
    def bad(self) -> bool:
        """Whether a flag should find it."""
        return not self.error <= TOO_FAR


def main() -> None:
    options = read_options()
    torch.set_num_threads(1)
    model = load_model(options.model)
    options.results.mkdir(parents=True, exist_ok=True)
    counts: dict[Split, int] = {"train": options.train, "test": options.test}
    trials = {split: run(model, split, options.seed, count) for split, count in counts.items()}
    origin = {
        "model": model.card.name,
        "sha256": model.card.sha256,
        "command": f"python benchmarks/calibration.py --model {model.card.name} --train {options.train} "
        f"--test {options.test} --seed {options.seed}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "version": importlib.metadata.version("crossmorph"),
    }
    calibration = fit(trials["train"], origin)
    folder = Path(crossmorph.__file__).parent / "weights" if options.ship else options.results
    write_calibration(folder / f"{model.card.name}{SUFFIX}", calibration)
    for split, rows in trials.items():
        write_csv(options.results / f"calibration-{split}.csv", rows, calibration)
    text = tables(trials, calibration, flags)
    (options.results / "calibration.md").write_text(text)
    print(text)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODELS[2], metavar="NAME")
    parser.add_argument("--train", type=int, default=800, metavar="N", help="pairs to fit to (800)")
    parser.add_argument("--test", type=int, default=600, metavar="N", help="pairs to measure on (600)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("results/calibration"), metavar="FOLDER")
    parser.add_argument("--ship", action="store_true", help="write the calibration beside the shipped weights")
    return parser.parse_args()


# --- trials ----------------------------------------------------------------------------------------------------------


def run(model: Model, split: Split, seed: int, count: int) -> list[Trial | None]:
    """Trials of the first pairs of a split."""
    setting = Setting(model.card.shape, model.card.spacing, split)
    rows, began = [], time.perf_counter()
    for number in range(count):
        rows.append(trial(model, draw(setting, seed, number), np.random.default_rng([seed, number])))
        if number % 25 == 24:
            print(f"{split} {number + 1} of {count}, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return rows


def trial(model: Model, drawn: Drawn, rng: np.random.Generator) -> Trial | None:
    """Register a pair; None where that is refused with an error, which nobody can overlook."""
    began = time.process_time()
    try:
        registered = register_images(drawn.moving, drawn.fixed, model)
    except InputError:
        return None
    between = time.process_time()
    evidence, features = gather(registered), appearance(registered)
    numbers = measure_plain(registered, drawn.moving, evidence)
    seconds = between - began, time.process_time() - between
    if drawn.truth is None or not drawn.tissue.any():
        return Trial(drawn.kind, math.inf, numbers, features, torch.zeros(0, 6), seconds)
    wrong = np.linalg.norm(registered.warp.displacement - drawn.truth, axis=0)
    maps = local_logarithms(evidence, 1.0)[..., :-1]
    voxels = sample(registered, drawn, wrong, maps, rng)
    return Trial(drawn.kind, float(np.median(wrong[drawn.tissue])), numbers, features, voxels, seconds)


def sample(registered: Registered, drawn: Drawn, wrong: np.ndarray, maps: Tensor, rng: np.random.Generator) -> Tensor:
    """Some voxels of the tissue and of the lesion: error (working voxels), in a lesion, logarithms of the maps."""
    spacing = np.linalg.norm(registered.grid.affine[:-1, 0])
    to_grid = np.linalg.inv(registered.grid.affine) @ drawn.fixed.affine
    rows = []
    for where in (drawn.tissue & ~drawn.lesion, drawn.lesion):
        places = np.argwhere(where)
        for place in places[rng.permutation(len(places))[:SAMPLED]]:
            there = tuple(np.round(to_grid[:-1, :-1] @ place + to_grid[:-1, -1]).astype(int))
            rows.append([wrong[tuple(place)] / spacing, float(drawn.lesion[tuple(place)]), *maps[there].tolist()])
    return torch.tensor(rows, dtype=torch.float32)


# --- fit -------------------------------------------------------------------------------------------------------------


def fit(trials: list[Trial | None], origin: dict[str, str]) -> Calibration:
    """Weights from all training trials, and limits from each as the weights of the others see it."""
    rows = [row for row in trials if row is not None]
    return _weights(rows, origin)._replace(limits=_limits(rows, origin))


def _weights(rows: list[Trial], origin: dict[str, str]) -> Calibration:
    """A calibration without limits."""
    spacing = rows[0].numbers["working_spacing"]
    errors = torch.tensor([row.error / spacing for row in rows]).clamp(LEAST, LARGEST)
    error = _least_squares(torch.stack([logarithms(row.numbers) for row in rows]), errors.log())
    usual = usual_features(torch.cat([row.features for row in rows if row.kind not in (*HOPELESS, "noisy")]))
    return Calibration(error, _fit_doubt(rows, error), *usual, dict.fromkeys(LIMITS, math.inf), origin)


def _limits(rows: list[Trial], origin: dict[str, str]) -> dict[str, float]:
    """Of single numbers by what is rare among good pairs, of the expected error by how many of them may be flagged.

    Pairs that weights were fitted to look nearer and better foretold than others do, so each is seen by the weights of
    the other folds.
    """
    spacing = rows[0].numbers["working_spacing"]
    seen = []
    for fold in range(FOLDS):
        others = _weights([row for number, row in enumerate(rows) if number % FOLDS != fold], origin)
        seen += [(row, others) for row in rows[fold::FOLDS] if not row.bad]
    limits = {
        "order": float(np.quantile([row.numbers["order"] for row, _ in seen], RARE)) / spacing,
        "shift": float(np.quantile([row.numbers["shift"] for row, _ in seen], RARE)) / spacing,
        "unfamiliarity": float(np.quantile([unfamiliarity(others, row.features) for row, others in seen], RARE)),
    }
    expected = np.array([float(foretold(others.error, logarithms(row.numbers))) for row, others in seen])
    flagged = np.array([bool(flags(row, others._replace(limits=others.limits | limits))) for row, others in seen])
    free = np.sort(np.where(flagged, -math.inf, expected))
    allowed = int(ALARMS * len(seen)) - int(flagged.sum())
    limits["expected_error"] = float(free[-1 - max(allowed, 0)]) * 1.0001
    certain = float(np.quantile(expected, CERTAIN))
    return {**limits, "expected_error_failed": max(certain, 1.5 * limits["expected_error"])}


def _fit_doubt(rows: list[Trial], error: Tensor) -> Tensor:
    """Weights of :mod:`crossmorph.doubt`, the constant such that means agree."""
    inputs, targets = doubt_inputs(rows, error)
    weights = _least_squares(inputs, targets.clamp(0.05, MOST).log())
    for _ in range(20):
        ratio = targets.clamp_max(MOST).mean() / foretold(weights, inputs).clamp_max(MOST).mean()
        weights[-1] += ratio.log()
    return weights


def _least_squares(inputs: Tensor, targets: Tensor) -> Tensor:
    """Ridge regression with a constant that is not shrunk."""
    x, y = inputs.double(), targets.double()
    centred = x - x.mean(0)
    normal = centred.T @ centred / len(x) + RIDGE * torch.eye(x.shape[1])
    weights = torch.linalg.solve(normal, centred.T @ (y - y.mean()) / len(x))
    return torch.cat([weights, (y.mean() - x.mean(0) @ weights)[None]]).float()


# --- what came out ---------------------------------------------------------------------------------------------------


def flags(row: Trial, calibration: Calibration) -> dict[str, str]:
    """Names and levels of the flags that are raised."""
    numbers = row.numbers | calibrate(row.numbers, row.features, calibration)
    return {flag.name: flag.level for flag in judge(numbers) if flag.level != "ok"}


def write_csv(path: Path, rows: list[Trial | None], calibration: Calibration) -> None:
    """A line for every pair: its kind, its error, its numbers, its flags."""
    done = [row for row in rows if row is not None]
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        added = list(calibrate(done[0].numbers, done[0].features, calibration))
        writer.writerow(["kind", "error_mm", *done[0].numbers, *added, "flags"])
        for row in done:
            numbers = row.numbers | calibrate(row.numbers, row.features, calibration)
            raised = " ".join(f"{name}:{level}" for name, level in flags(row, calibration).items())
            writer.writerow([row.kind, f"{row.error:.4f}", *(f"{v:.5g}" for v in numbers.values()), raised])


if __name__ == "__main__":
    main()

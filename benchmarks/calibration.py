"""How far a model's results can be believed: ``python benchmarks/calibration.py --model NAME_OR_FOLDER``.

Draws pairs of the training anatomies whose truth is known, easy to hopeless, and pairs that have none
(`calibration_pairs`), and registers them. From most of them the network learns that foretells the error of a voxel
(`doubt_training`); on the rest, which it never saw, what foretells the error of a pair is fitted, and the limits of the
flags are set. Then draws pairs of the test anatomies, once, and prints how well the flags find what is wrong there.
Writes ``NAME.quality.safetensors`` (beside the shipped weights with ``--ship``), a row for every pair to
``calibration-*.csv``, the tables to ``calibration.md`` and a picture to ``calibration.png``.
"""

import argparse
import csv
import datetime
import importlib.metadata
import math
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from calibration_pairs import HOPELESS
from calibration_plot import draw
from calibration_tables import tables
from calibration_trials import Trial, run
from doubt_training import pair_error, train
from torch import Tensor

import crossmorph
from crossmorph import DEFAULT_MODELS, load_model
from crossmorph.quality.checks import judge
from crossmorph.quality.error_model import (
    LIMITS,
    SUFFIX,
    Calibration,
    foretold,
    logarithms,
    read_calibration,
    unfamiliarity,
    usual_features,
    write_calibration,
)
from crossmorph.quality.error_network import MOST, DoubtNetwork, foretell
from crossmorph.quality.measures import calibrate, mean_doubt

ALARMS = 0.045  # of the good training pairs that may be flagged
RARE = 0.998  # a single number's limit, as a quantile of good training pairs
CERTAIN = 0.998  # the same for a failure, which no good pair should be called
RIDGE = 1e-3
FOLDS = 5  # of the training pairs, for the limits
SAMPLED = 60  # voxels of each pair for the map of doubt, and as many of a lesion


class Row(NamedTuple):
    """A trial, and what the network of doubt says of it.

    ``doubt`` is the mean doubt, working voxels; ``voxels`` holds, of some, the error and the doubt (working voxels),
    and whether they lie in a lesion; ``seconds`` are the trial's, the network's added to those for the numbers.
    """

    trial: Trial
    doubt: float
    voxels: Tensor
    seconds: tuple[float, float]


def main() -> None:
    options = read_options()
    torch.set_num_threads(1)
    model = load_model(options.model)
    options.results.mkdir(parents=True, exist_ok=True)
    used = options.learn + options.train
    if options.network:
        network = read_calibration(options.network).network
    else:
        learned = run(model, "train", options.seed, range(options.learn), options.pairs)
        network = train([row for row in learned if row is not None], options.iterations, options.seed)
    parts = {
        "train": run(model, "train", options.seed, range(options.learn, used), options.pairs),
        "test": run(model, "test", options.seed, range(options.test), options.pairs),
    }
    balance(network, parts["train"], options.seed)
    rng = np.random.default_rng(options.seed)
    rows = {split: [row and look(row, network, rng) for row in part] for split, part in parts.items()}
    origin = {
        "model": model.card.name,
        "sha256": model.card.sha256,
        "command": f"python benchmarks/calibration.py --model {model.card.name} --learn {options.learn} "
        f"--iterations {options.iterations} --train {options.train} --test {options.test} --seed {options.seed}"
        + (" --network FILE" if options.network else ""),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "version": importlib.metadata.version("crossmorph"),
    }
    calibration = fit(rows["train"], network, origin)
    folder = Path(crossmorph.__file__).parent / "weights" if options.ship else options.results
    write_calibration(folder / f"{model.card.name}{SUFFIX}", calibration)
    for split, part in rows.items():
        write_csv(options.results / f"calibration-{split}.csv", part, calibration)
    text = tables(rows, calibration, flags)
    (options.results / "calibration.md").write_text(text)
    draw(options.results / "calibration.png", [row for row in rows["test"] if row is not None], calibration)
    print(text)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODELS[2], metavar="NAME")
    parser.add_argument("--learn", type=int, default=4000, metavar="N", help="pairs to train the network on (4000)")
    parser.add_argument(
        "--iterations", type=int, default=6000, metavar="N", help="of its training, 8 pairs each (6000)"
    )
    parser.add_argument("--network", type=Path, metavar="FILE", help="take the network of this calibration, train none")
    parser.add_argument("--train", type=int, default=1000, metavar="N", help="further pairs, to set limits by (1000)")
    parser.add_argument("--test", type=int, default=600, metavar="N", help="pairs to measure on (600)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--pairs", type=Path, metavar="FOLDER", help="keep registered pairs here, and take them from here"
    )
    parser.add_argument("--results", type=Path, default=Path("results/calibration"), metavar="FOLDER")
    parser.add_argument("--ship", action="store_true", help="write the calibration beside the shipped weights")
    return parser.parse_args()


# --- what the network says -------------------------------------------------------------------------------------------


def look(trial: Trial, network: DoubtNetwork, rng: np.random.Generator) -> Row:
    """What the network says of a trial, and of some voxels of its tissue and of its lesion."""
    maps, began = trial.maps[None].float(), time.process_time()
    told = foretell(network, maps, logarithms(trial.numbers))
    seconds = trial.seconds[0], trial.seconds[1] + time.process_time() - began
    rows = []
    known = trial.tissue if math.isfinite(trial.error) else torch.zeros_like(trial.tissue)
    for sick, where in enumerate((known & ~trial.lesion, known & trial.lesion)):
        places = torch.argwhere(where)
        chosen = places[torch.from_numpy(rng.permutation(len(places))[:SAMPLED])].unbind(1)
        values = torch.stack([trial.wrong[chosen].float(), told[chosen]], 1)
        rows.append(torch.cat([values, torch.full((len(values), 1), float(sick))], 1))
    return Row(trial, mean_doubt(told, trial.foreground), torch.cat(rows), seconds)


def balance(network: DoubtNetwork, trials: list[Trial | None], seed: int) -> None:
    """Set the network's constant such that its mean over voxels is that of the errors, both ``MOST`` at most."""
    for _ in range(4):
        rng = np.random.default_rng(seed)
        voxels = torch.cat([look(trial, network, rng).voxels for trial in trials if trial is not None])
        wrong, told, _ = voxels.clamp_max(MOST).mean(0)
        network.unet.output.bias += (wrong / told).log()


# --- fit -------------------------------------------------------------------------------------------------------------


def fit(rows: list[Row | None], network: DoubtNetwork, origin: dict[str, str]) -> Calibration:
    """Weights from all pairs, and limits from each as the weights of the others see it."""
    found = [row for row in rows if row is not None]
    return _weights(found, network, origin)._replace(limits=_limits(found, network, origin))


def _weights(rows: list[Row], network: DoubtNetwork, origin: dict[str, str]) -> Calibration:
    """A calibration without limits."""
    inputs = [torch.cat([logarithms(row.trial.numbers), torch.tensor([math.log(row.doubt)])]) for row in rows]
    targets = torch.tensor([pair_error(row.trial) for row in rows]).log()
    usual = [row.trial.features for row in rows if row.trial.kind not in (*HOPELESS, "noisy")]
    error = _least_squares(torch.stack(inputs), targets)
    return Calibration(network, error, *usual_features(torch.cat(usual)), dict.fromkeys(LIMITS, math.inf), origin)


def _limits(rows: list[Row], network: DoubtNetwork, origin: dict[str, str]) -> dict[str, float]:
    """Of single numbers by what is rare among good pairs, of the expected error by how many of them may be flagged.

    Pairs that weights were fitted to look nearer and better foretold than others do, so each is seen by the weights of
    the other folds.
    """
    spacing = rows[0].trial.numbers["working_spacing"]
    seen = []
    for fold in range(FOLDS):
        others = _weights([row for number, row in enumerate(rows) if number % FOLDS != fold], network, origin)
        seen += [(row, others) for row in rows[fold::FOLDS] if not row.trial.bad]
    limits = {
        "order": float(np.quantile([row.trial.numbers["order"] for row, _ in seen], RARE)) / spacing,
        "shift": float(np.quantile([row.trial.numbers["shift"] for row, _ in seen], RARE)) / spacing,
        "unfamiliarity": float(np.quantile([unfamiliarity(others, row.trial.features) for row, others in seen], RARE)),
    }
    expected = np.array([foretold(others, logarithms(row.trial.numbers), row.doubt) for row, others in seen])
    flagged = np.array([bool(flags(row, others._replace(limits=others.limits | limits))) for row, others in seen])
    free = np.sort(np.where(flagged, -math.inf, expected))
    allowed = int(ALARMS * len(seen)) - int(flagged.sum())
    limits["expected_error"] = float(free[-1 - max(allowed, 0)]) * 1.0001
    certain = float(np.quantile(expected, CERTAIN))
    return {**limits, "expected_error_failed": max(certain, 1.5 * limits["expected_error"])}


def _least_squares(inputs: Tensor, targets: Tensor) -> Tensor:
    """Ridge regression with a constant that is not shrunk."""
    x, y = inputs.double(), targets.double()
    centred = x - x.mean(0)
    normal = centred.T @ centred / len(x) + RIDGE * torch.eye(x.shape[1])
    weights = torch.linalg.solve(normal, centred.T @ (y - y.mean()) / len(x))
    return torch.cat([weights, (y.mean() - x.mean(0) @ weights)[None]]).float()


# --- what came out ---------------------------------------------------------------------------------------------------


def flags(row: Row, calibration: Calibration) -> dict[str, str]:
    """Names and levels of the flags that are raised."""
    return {flag.name: flag.level for flag in judge(row_numbers(row, calibration)) if flag.level != "ok"}


def row_numbers(row: Row, calibration: Calibration) -> dict[str, float]:
    """Those of :func:`crossmorph.quality.measures.measure`."""
    return row.trial.numbers | calibrate(row.trial.numbers, row.trial.features, row.doubt, calibration)


def write_csv(path: Path, rows: list[Row | None], calibration: Calibration) -> None:
    """A line for every pair: its kind, its error, its numbers, its flags."""
    done = [row for row in rows if row is not None]
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["kind", "error_mm", *row_numbers(done[0], calibration), "flags"])
        for row in done:
            raised = " ".join(f"{name}:{level}" for name, level in flags(row, calibration).items())
            values = (f"{value:.5g}" for value in row_numbers(row, calibration).values())
            writer.writerow([row.trial.kind, f"{row.trial.error:.4f}", *values, raised])


if __name__ == "__main__":
    main()

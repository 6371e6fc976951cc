"""Calibrate a model on simulated pairs whose true field is known, and measure how well its checks detect errors.

Pairs of the training split train the error network. On pairs of the validation split, whose people and levels it never
saw, the error model is fitted and the limits of the checks are set. Pairs of the test split, which nothing was fitted
to, then show how many errors the checks detect.
"""

import csv
import datetime
import importlib.metadata
import io
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crossmorph.datasets.anatomies import PersonSplit
from crossmorph.errors import InputError
from crossmorph.networks.checkpoint import Model, shipped_models
from crossmorph.quality.calibration.limits import fit
from crossmorph.quality.calibration.network_training import train
from crossmorph.quality.calibration.pairs import draw
from crossmorph.quality.calibration.predictions import Prediction, balance, measures_of, predict, raised
from crossmorph.quality.calibration.simulated_pair import Setting
from crossmorph.quality.calibration.tables import tables
from crossmorph.quality.calibration.trials import Trial, read_trial, run_trial, write_trial
from crossmorph.quality.error_model import SUFFIX, Calibration, calibration_path, read_calibration, write_calibration
from crossmorph.quality.error_network import ErrorNetwork
from crossmorph.system.files import output_set, write_whole

SPLITS: tuple[PersonSplit, ...] = ("validation", "test")  # of which a row is written for every pair
PROGRESS = 25  # pairs between two lines of progress


class CalibrationSettings(NamedTuple):
    """How much to draw and to train; the defaults are those of the calibration of ``any-2d``.

    Attributes:
        learn: pairs to train the error network on.
        iterations: of its training, 8 pairs each.
        validation: pairs to fit the error model and set the limits on.
        test: pairs to measure on.
        seed: of the pairs and the training.
        anatomies: label maps of people (``crossmorph prepare anatomies``) to draw pairs of, beside the template's.
        scans: scans in the subfolders ``train``, ``validation`` and ``test``, to draw pairs of as well.
    """

    learn: int = 600
    iterations: int = 2500
    validation: int = 300
    test: int = 250
    seed: int = 5
    anatomies: Path | None = None
    scans: Path | None = None


DEFAULTS = CalibrationSettings()


class Calibrated(NamedTuple):
    """The outcome.

    Attributes:
        calibration: what was written.
        text: the tables, in Markdown.
        files: all that was written, the calibration first.
    """

    calibration: Calibration
    text: str
    files: tuple[Path, ...]


def calibrate(
    model: Model,
    output: Path,
    settings: CalibrationSettings = DEFAULTS,
    network: Path | None = None,
    kept: Path | None = None,
    ship: bool = False,
) -> Calibrated:
    """Calibrate a model.

    Writes ``NAME.quality.safetensors`` beside the weights of a user's own model, where it is found whenever they are
    loaded; that of shipped weights goes into the output folder, unless ``ship``. The output folder also gets the tables
    (``calibration.md``), a row for every pair (``calibration-validation.csv``, ``calibration-test.csv``) and a plot
    (``calibration.png``).

    Args:
        model: what to calibrate.
        output: folder; made where it is missing.
        settings: how much to draw and to train.
        network: take the error network of this calibration instead of training one.
        kept: folder where registered pairs are kept and reused.
        ship: write the calibration of shipped weights beside them.

    Raises:
        InputError: files cannot be read or written, or too few pairs could be registered.
    """
    output.mkdir(parents=True, exist_ok=True)
    files = tuple(output / name for name in ("calibration.md", *map(_rows_file, SPLITS), "calibration.png"))
    files = (calibration_target(model, output, ship), *files)
    # Claimed before the work, which takes hours.
    with output_set(files) as written:
        given = read_calibration(network).network if network else None
        error_network, trials, refused = _registered(model, settings, given, kept)
        balance(error_network, trials["validation"], settings.seed)
        rng = np.random.default_rng(settings.seed)
        predictions = {split: [predict(each, error_network, rng) for each in trials[split]] for split in SPLITS}
        calibration = fit(predictions["validation"], error_network, _origin(model, settings, network is not None))
        text = tables({split: (predictions[split], refused[split]) for split in SPLITS}, calibration)
        _write(files, calibration, text, predictions)
        written.publish()
    return Calibrated(calibration, text, files)


def run_trials(
    model: Model, setting: Setting, seed: int, numbers: range, kept: Path | None = None
) -> list[Trial | None]:
    """Trials of simulated pairs; None where the registration refused the pair with an error.

    Args:
        model: the weights that register.
        setting: what pairs are drawn for.
        seed: of the pairs.
        numbers: which of the seed's pairs.
        kept: folder where trials are kept and reused.
    """
    split, sources = setting.split, "".join(f"-{name}" for name in ("anatomies", "scans") if getattr(setting, name))
    of = f"{model.card.name}-{model.card.sha256[:12]}{sources}"
    trials, began = [], time.perf_counter()
    for number in numbers:
        path = kept and kept / f"{of}-{split}-{seed}-{number}.safetensors"
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


def calibration_target(model: Model, output: Path, ship: bool) -> Path:
    """Where the calibration of a model goes; arguments as of :func:`calibrate`."""
    shipped = {path.resolve() for path in shipped_models().values()}
    if model.path is None or (model.path.resolve() in shipped and not ship):
        return output / f"{model.card.name}{SUFFIX}"
    return calibration_path(model.path)


def _registered(
    model: Model, settings: CalibrationSettings, network: ErrorNetwork | None, kept: Path | None
) -> tuple[ErrorNetwork, dict[PersonSplit, list[Trial]], dict[PersonSplit, int]]:
    """The error network, trained where there is none, further trials by split, and how many pairs were refused."""

    def tried(split: PersonSplit, count: int) -> list[Trial | None]:
        where = Setting(model.card.shape, model.card.spacing, split, settings.anatomies, settings.scans)
        return run_trials(model, where, settings.seed, range(count), kept)

    if network is None:
        learned = tried("train", settings.learn)
        network = train([trial for trial in learned if trial is not None], settings.iterations, settings.seed)
    every: dict[PersonSplit, list[Trial | None]] = {
        "validation": tried("validation", settings.validation),
        "test": tried("test", settings.test),
    }
    trials = {split: [trial for trial in part if trial is not None] for split, part in every.items()}
    for split, part in trials.items():
        if not part:
            raise InputError(f"model {model.card.name} refused all {len(every[split])} pairs of split {split}")
    return network, trials, {split: len(part) - len(trials[split]) for split, part in every.items()}


def _origin(model: Model, settings: CalibrationSettings, network_given: bool) -> dict[str, str]:
    given = {name: value for name, value in settings._asdict().items() if value is not None}
    # Where the folders lie is nobody's business.
    options = " ".join(f"--{name} {value.name if isinstance(value, Path) else value}" for name, value in given.items())
    return {
        "model": model.card.name,
        "sha256": model.card.sha256,
        "command": f"crossmorph calibrate {model.card.name} {options}" + (" --network FILE" if network_given else ""),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "version": importlib.metadata.version("crossmorph"),
    }


def _write(
    files: Sequence[Path], calibration: Calibration, text: str, predictions: Mapping[PersonSplit, list[Prediction]]
) -> None:
    # Imported where it is needed: matplotlib takes half a second.
    from crossmorph.quality.calibration.plot import draw_plot

    target, page, *rows, plot = files
    write_calibration(target, calibration)
    write_whole(page, text.encode())
    for path, split in zip(rows, SPLITS, strict=True):
        write_whole(path, _rows(predictions[split], calibration).encode())
    draw_plot(plot, predictions["test"], calibration)


def _rows_file(split: str) -> str:
    return f"calibration-{split}.csv"


def _rows(predictions: Sequence[Prediction], calibration: Calibration) -> str:
    """A line for every pair: its kind, its true error, its measures that any pair has, the checks that it raises."""
    measures = [measures_of(each, calibration).as_dict() for each in predictions]
    known = {name for each in measures for name in each} - {"unit"}
    names = [name for name in type(predictions[0].trial.measures)._fields if name in known]
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(["kind", "error_mm", *names, "checks"])
    for each, values in zip(predictions, measures, strict=True):
        numbers = (f"{values[name]:.5g}" if name in values else "" for name in names)
        checks = "; ".join(f"{name}: {level}" for name, level in raised(each, calibration).items())
        writer.writerow([each.trial.kind, f"{each.trial.error:.4f}", *numbers, checks])
    return stream.getvalue()

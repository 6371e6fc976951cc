"""Scores and times of the methods on the test pairs, and the tasks that compute them."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from crossmorph.datasets.pairs import read_pairs
from crossmorph.evaluation.baselines.cyclegan import load_generator, translate
from crossmorph.evaluation.evaluate import Case, Method, Outcome, load_case, run_methods, runner, timed, unregistered
from crossmorph.evaluation.results import Row, read_rows, write_rows
from crossmorph.functional import metrics
from crossmorph.images.image import Image, scale_intensity
from crossmorph.networks.checkpoint import load_model
from crossmorph.registration.register_images import register_coarse, register_networks
from crossmorph.registration.translation import translated_image
from crossmorph.reproduction.plan import Context, Entry, Network
from crossmorph.reproduction.task_cache import Task, task_folder

ROWS = "rows.csv"
# Approximate seconds for a pair, for the estimate of the time left.
SECONDS = {"syn": 0.4, "syn-tuned": 1.3, "affine": 0.2, "crossmorph": 0.2}


def scoring(context: Context, entry: Entry, network: Network | None = None, clean: bool = False) -> Task:
    """The task that scores a method on the test pairs, or on the same pairs without noise."""
    data = context.data
    pairs = data.clean if clean else data.pairs("test")
    assert pairs is not None
    trained = network.task.folder.name if network else ""
    name = f"{data.role}-{'clean-' if clean else ''}score-{entry.name}"
    folder = task_folder(context.cache, name, [entry.kind, trained, data.digest, clean])
    count = len(read_pairs(pairs))
    seconds = count * (0.15 + SECONDS.get(entry.name, 0.05))
    title = f"{data.role}: {entry.name} on {count} pairs{' without noise' if clean else ''}"
    return Task(title, folder, seconds, 0, _score, (entry, pairs, folder))


def speed(context: Context, entries: Sequence[Entry], tasks: Sequence[Task]) -> Task:
    """The task that times all methods pair by pair in one process."""
    data, count = context.data, context.budget.timed
    folder = task_folder(context.cache, f"{data.role}-speed", [[task.folder.name for task in tasks], count])
    arguments = (tuple(entries), data.pairs("test"), folder, count)
    return Task(f"{data.role}: time of a registration", folder, count * 5.0, 0, _time, arguments)


def rows_of(task: Task) -> list[Row]:
    """The rows of a scoring or timing task."""
    return read_rows(task.folder / ROWS)


def method(entry: Entry) -> Method:
    """The method of an entry, with its weights loaded."""
    match entry.kind:
        case "coarse":
            return partial(timed, partial(register_coarse, init="none"), load_model(str(entry.weights)))
        case "hierarchy":
            return partial(_hierarchy, load_model(str(entry.weights)))
        case "cyclegan":
            assert entry.weights is not None
            return partial(_cyclegan, load_generator(entry.weights))
        case "noise-free":
            raise AssertionError(entry.kind)
        case "peer":
            return runner(entry.name, load_model, threads=1)


def _hierarchy(model, case: Case) -> Outcome:  # type: ignore[no-untyped-def]
    began = time.perf_counter()
    prepared, result, warp = register_networks(case.moving, case.fixed, model, init="none")
    seconds = time.perf_counter() - began
    return Outcome(warp, seconds, translated_image(result.mask, None, prepared, case.moving))


def _cyclegan(network: torch.nn.Sequential, case: Case) -> Outcome:
    """The translation, with a displacement of zero."""
    scaled = torch.from_numpy(scale_intensity(case.moving.data).data)[None, None]
    data = translate(network, scaled)[0, 0].numpy()
    return unregistered(case)._replace(translated=Image(data, case.moving.affine, case.moving.physical))


def _score(entry: Entry, pairs: Path, folder: Path) -> None:
    if entry.kind == "noise-free":
        assert entry.weights is not None
        rows = _noise_free(pairs, entry)
    else:
        rows = run_methods(read_pairs(pairs), {entry.name: method(entry)}, bar=False)
    # Scoring tasks run in parallel, which slows them down: times are those of the task of ``speed``.
    rows = [row._replace(scores={key: value for key, value in row.scores.items() if key != "seconds"}) for row in rows]
    write_rows(folder / ROWS, rows)


def _time(entries: Sequence[Entry], pairs: Path, folder: Path, count: int) -> None:
    rows = run_methods(read_pairs(pairs)[:count], {entry.name: method(entry) for entry in entries}, bar=False)
    only = [row._replace(scores={key: value for key, value in row.scores.items() if key == "seconds"}) for row in rows]
    write_rows(folder / ROWS, only)


def _noise_free(pairs: Path, entry: Entry) -> list[Row]:
    """Scores of the noise-free moving anatomy in the fixed modality against the same image with noise."""
    assert entry.weights is not None
    rows = []
    for noisy, quiet in zip(read_pairs(pairs), read_pairs(entry.weights), strict=True):
        truth, clean = load_case(noisy).moving_same, load_case(quiet).moving_same
        assert truth is not None
        assert clean is not None
        scaled = scale_intensity(truth.data)
        same = np.clip((clean.data - scaled.low) / (scaled.high - scaled.low), 0, 1).astype(np.float32)
        scores = {"psnr": metrics.psnr(same, scaled.data), "ssim": metrics.ssim(same, scaled.data)}
        rows.append(Row(noisy.name, entry.name, scores))
    return rows

"""Registration methods side by side: the same pairs, the same scores, a row for each pair and method.

The rows are the result; :mod:`crossmorph.evaluation.results` computes means and intervals from them.

Times are wall seconds of one registration of images that are already in memory. A first call on the first pair is not
timed, since it includes imports, allocation and caches. Reading files, loading weights and scoring are not included.
For other packages only their own registration is timed, without conversions; each module of
:mod:`crossmorph.evaluation.baselines` lists what that includes. ``none`` and ``oracle`` have no seconds.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
import torch

from crossmorph.datasets.pairs import Pair, read_pairs
from crossmorph.errors import InputError
from crossmorph.evaluation.baselines import ants, dipy, elastix, greedy, simpleitk, voxelmorph
from crossmorph.evaluation.baselines.common import Timed
from crossmorph.evaluation.results import Row, write_rows
from crossmorph.functional import metrics
from crossmorph.images.image import Image, scale_intensity
from crossmorph.images.io import read_image
from crossmorph.networks.checkpoint import DEFAULT_MODELS, Model, load_model
from crossmorph.registration.register_images import register_coarse, register_images, register_initial
from crossmorph.registration.settings import Settings
from crossmorph.system.files import atomic_output
from crossmorph.system.progress import progress_bar
from crossmorph.transforms.warp import Warp, resample, resample_warp, voxel_displacement
from crossmorph.transforms.warp_files import read_transform

logger = logging.getLogger(__name__)

PEERS = ("affine", "syn", "syn-tuned", "elastix", "greedy", "simpleitk", "dipy", "voxelmorph")
OURS = ("start", "coarse", "crossmorph", "crossmorph-refined")
REFINE_SECONDS = {2: 0.5, 3: None}  # by dimension; None: until it converges
METHODS = ("none", *PEERS, *OURS, "oracle")


class Case(NamedTuple):
    """A pair in memory; None is "unknown". ``truth`` is on the fixed image's grid."""

    moving: Image
    fixed: Image
    moving_labels: Image | None = None
    fixed_labels: Image | None = None
    moving_same: Image | None = None
    truth: Warp | None = None


class Outcome(NamedTuple):
    """A method's transform on the fixed image's grid, the seconds it took, and the translation where it makes one."""

    warp: Warp
    seconds: float | None = None
    translated: Image | None = None


Method = Callable[[Case], Outcome]
Watch = Callable[[Row, Case, Outcome], None]  # is called for every pair that a method was scored on


def evaluate(
    pairs_csv: str | Path,
    methods: Sequence[str],
    output: str | Path,
    model: str | None = None,
    threads: int = 1,
    count: int | None = None,
    watch: Watch | None = None,
) -> list[Row]:
    """Run methods on every pair of a list and score what they find.

    The CSV has the columns ``pair, method, dice, dice_<label>.., hd95_mm, mse_percent, ncc, epe_mm, folds_percent,
    min_jacobian, psnr, ssim, seconds, error``; a cell is empty where the pair or the method does not provide the score:

    - ``dice`` (0 to 1), ``hd95_mm``: of the moving labels, moved by nearest voxel, and the fixed labels; means over the
      labels of the fixed map;
    - ``mse_percent``, ``ncc``: of ``moving_same``, moved, and the fixed image, each scaled to [0, 1] on its own
      beforehand; the correlation inside the moving image's field of view;
    - ``epe_mm``: against the true field, over the fixed labels, or over the whole grid where these are unknown;
    - ``folds_percent``, ``min_jacobian``: strict, of the field on the fixed grid;
    - ``psnr``, ``ssim``: of the translation and the scaled ``moving_same``, on the moving grid; only ``crossmorph``
      translates;
    - ``seconds``: see the module.

    A pair that a method fails on becomes a row with ``error`` and no scores, and the evaluation continues: the caller
    must check for such rows. Errors before the first registration (an unknown method, a missing package) are raised.

    Args:
        pairs_csv: the list, see :mod:`crossmorph.datasets.pairs`; 2-D or 3-D, every pair on its own grids.
        methods: names out of ``METHODS``.
        output: the CSV to write; it appears complete at the end.
        model: weights of ``coarse`` and ``crossmorph``, see :func:`chosen_model`.
        threads: of the CPU, for every method (``dipy`` always works on one).
        count: evaluate at most this number of pairs, the first of the list; None: all.
        watch: called with every row that has scores, its pair and its outcome; not included in the seconds.

    Returns:
        The rows, by pair and then by method.

    Raises:
        InputError: the list, a method, the model or the output cannot be used, or ANTs was started with another number
            of threads. Nothing has run then.
    """
    if threads < 1:
        raise InputError(f"received {threads} threads; expected at least 1")
    if Path(output).resolve() == Path(pairs_csv).resolve():
        raise InputError(f"{output}: is the list of pairs; expected another file for the results")
    if count is not None and count < 1:
        raise InputError(f"received a count of {count} pairs; expected at least 1")
    pairs = read_pairs(pairs_csv)[:count]
    _check_names(methods)
    # The output is opened first: an error in writing must show before hours of work, not after.
    with _limited(threads), atomic_output(Path(output)) as temporary:
        loaded = cache(partial(load_model, chosen_model(pairs_csv, model)))
        runners = {name: ready(name, pairs_csv, pairs, loaded, threads) for name in methods}
        rows = run_methods(pairs, runners, watch=watch)
        write_rows(temporary, rows)
    return rows


def chosen_model(pairs_csv: str | Path, model: str | None) -> str:
    """``model``, or else the shipped one for the dimension of the list's first fixed image."""
    return model or DEFAULT_MODELS[read_image(read_pairs(pairs_csv)[0].fixed).dim]


def _check_names(methods: Sequence[str]) -> None:
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        received = ", ".join(map(repr, unknown)) or "none"
        raise InputError(f"unknown method: received {received}; expected some of {', '.join(METHODS)}")


def ready(name: str, pairs_csv: str | Path, pairs: list[Pair], model: Callable[[], Model], threads: int) -> Method:
    """The method of a name, once it is known that it can run on a list. Raises InputError where it cannot."""
    without = [pair.name for pair in pairs if pair.field is None]
    if name == "oracle" and without:
        raise InputError(
            f"{pairs_csv}: {len(without)} of {len(pairs)} pairs have no true field ({without[0]} is the first); "
            "expected one for each with the method 'oracle'"
        )
    if name in (*OURS, "voxelmorph"):
        card, image = (voxelmorph.load_trained() if name == "voxelmorph" else model()).card, read_image(pairs[0].fixed)
        if image.dim != card.hierarchy.dim:
            raise InputError(
                f"{name}: model {card.name} registers {card.hierarchy.dim}-D images; {pairs[0].fixed} is {image.dim}-D"
            )
    return runner(name, model, threads)


@contextlib.contextmanager
def _limited(threads: int) -> Iterator[None]:
    """Run torch and SimpleITK on this number of threads."""
    before = torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    torch.set_num_threads(threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before[1])


# --- methods ---------------------------------------------------------------------------------------------------------


def runner(name: str, model: Callable[[], Model], threads: int) -> Method:
    """The method of a name, loaded and ready; ``model`` is called only for crossmorph's own methods."""
    match name:
        case "start":
            return partial(timed, register_initial, model())
        case "coarse":
            return partial(timed, register_coarse, model())
        case "crossmorph":
            return partial(_crossmorph, Settings(refine="off"), model())
        case "crossmorph-refined":
            loaded = model()
            seconds = REFINE_SECONDS[loaded.card.hierarchy.dim]
            return partial(_crossmorph, Settings(refine="on" if seconds is None else seconds), loaded)
        case "oracle":
            return _oracle
        case "none":
            return unregistered
        case "voxelmorph":
            return partial(timed, register_coarse, voxelmorph.load_trained())
        case _:
            return partial(_peer, _peer_register(name, threads))


def _peer_register(name: str, threads: int) -> Callable[[Image, Image], Timed]:
    """The registration of another package; raises InputError where that is not installed."""
    match name:
        case "elastix":
            elastix.load()
            return partial(elastix.register, threads=threads)
        case "greedy":
            greedy.load()
            return partial(greedy.register, threads=threads)
        case "simpleitk":
            return partial(simpleitk.register, threads=threads)
        case "dipy":
            dipy.load()
            return dipy.register
        case "affine" | "syn" | "syn-tuned":
            ants.start(threads)
            return partial(ants.register, kind=name)
        case _:
            raise AssertionError(name)


def unregistered(case: Case) -> Outcome:
    """A displacement of zero."""
    return Outcome(Warp.identity(case.fixed))


def _peer(register: Callable[[Image, Image], Timed], case: Case) -> Outcome:
    return Outcome(*register(case.moving, case.fixed))


def timed(register: Callable[[Image, Image, Model], Warp], model: Model, case: Case) -> Outcome:
    """Time a registration that returns its field only."""
    began = time.perf_counter()
    warp = register(case.moving, case.fixed, model)
    return Outcome(warp, time.perf_counter() - began)


def _crossmorph(settings: Settings, model: Model, case: Case) -> Outcome:
    began = time.perf_counter()
    registered = register_images(case.moving, case.fixed, model, settings)
    return Outcome(registered.warp, time.perf_counter() - began, registered.translated)


def _oracle(case: Case) -> Outcome:
    assert case.truth is not None
    return Outcome(case.truth)


# --- the loop --------------------------------------------------------------------------------------------------------


def run_methods(
    pairs: Sequence[Pair], methods: Mapping[str, Method], bar: bool = True, watch: Watch | None = None
) -> list[Row]:
    """Every method on every pair, as :func:`evaluate` describes; ``bar`` shows the progress on a terminal."""
    rows: list[Row] = []
    load = lru_cache(maxsize=1)(load_case)
    with progress_bar(bar) as progress:
        task = progress.add_task("evaluate", total=len(pairs) * len(methods))
        for pair in pairs:
            for name, method in methods.items():
                progress.update(task, description=name)
                try:
                    case = load(pair)
                    if pair is pairs[0]:
                        method(case)
                    outcome = method(case)
                    rows.append(Row(pair.name, name, score(case, outcome)))
                except Exception as error:
                    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
                    logger.warning("%s failed on %s (%s)", name, pair.name, reason)
                    rows.append(Row(pair.name, name, {}, reason))
                else:
                    if watch:
                        watch(rows[-1], case, outcome)
                progress.advance(task)
    return rows


def load_case(pair: Pair) -> Case:
    """Read all files of a pair. Raises InputError where their grids differ."""
    moving, fixed = read_image(pair.moving), read_image(pair.fixed)
    if moving.dim != fixed.dim:
        raise InputError(f"{pair.moving} is {moving.dim}-D and {pair.fixed} {fixed.dim}-D; expected the same")
    truth = None
    if pair.field:
        truth = read_transform(pair.field)
        if truth.dim != fixed.dim:
            raise InputError(f"{pair.field} is {truth.dim}-D; expected a {fixed.dim}-D field, as the images")
        if not _same_grid(truth, fixed):
            truth = resample_warp(truth, fixed.affine, fixed.shape)
    return Case(
        moving,
        fixed,
        _beside(pair.moving_labels, moving, labels=True),
        _beside(pair.fixed_labels, fixed, labels=True),
        _beside(pair.moving_same, moving, labels=False),
        truth,
    )


def _beside(path: Path | None, image: Image, labels: bool) -> Image | None:
    """An image or label map that must have the grid of another."""
    if path is None:
        return None
    found = read_image(path, labels=labels)
    if not _same_grid(found, image):
        raise InputError(
            f"{path}: has shape {found.shape} and affine {found.affine.tolist()}; expected the grid of its image, "
            f"{image.shape} and {image.affine.tolist()}"
        )
    return found


def _same_grid(one: Image | Warp, other: Image) -> bool:
    return one.shape == other.shape and bool(np.allclose(one.affine, other.affine, rtol=1e-4, atol=1e-3))


# --- scores ----------------------------------------------------------------------------------------------------------


def score(case: Case, outcome: Outcome) -> dict[str, float]:
    """All scores that can be computed for the pair, by column."""
    warp = outcome.warp
    if not np.isfinite(warp.displacement).all():
        raise ValueError("the transform holds NaN or infinite displacements")
    voxels = voxel_displacement(warp)
    scores = {
        **_label_scores(case, warp),
        **_intensity_scores(case, warp),
        "epe_mm": _endpoint_error(case, warp),
        "folds_percent": metrics.folds_percent(voxels),
        "min_jacobian": metrics.min_jacobian(voxels),
        **_translation_scores(case, outcome.translated),
        "seconds": math.nan if outcome.seconds is None else outcome.seconds,
    }
    return {name: value for name, value in scores.items() if not math.isnan(value)}


def _label_scores(case: Case, warp: Warp) -> dict[str, float]:
    if case.moving_labels is None or case.fixed_labels is None:
        return {}
    moved, fixed = resample(case.moving_labels, warp, "nearest").data, case.fixed_labels.data
    dice = metrics.dice(moved, fixed)
    if not dice:
        return {}
    distances = metrics.hd95_mm(moved, fixed, case.fixed.spacing)
    return {
        "dice": float(np.mean(list(dice.values()))),
        **{f"dice_{label}": value for label, value in dice.items()},
        "hd95_mm": float(np.mean(list(distances.values()))),
    }


def _intensity_scores(case: Case, warp: Warp) -> dict[str, float]:
    if case.moving_same is None:
        return {}
    same = case.moving_same
    fixed = scale_intensity(case.fixed.data).data
    moved = resample(same.scaled(), warp).data
    inside = resample(Image(np.ones(same.shape, np.uint8), same.affine, same.physical), warp, "nearest").data > 0
    return {"mse_percent": metrics.mse_percent(moved, fixed), "ncc": metrics.ncc(moved, fixed, inside)}


def _endpoint_error(case: Case, warp: Warp) -> float:
    if case.truth is None:
        return math.nan
    labels = case.fixed_labels
    foreground = np.ones(case.fixed.shape, bool) if labels is None else labels.data > 0
    return metrics.endpoint_error_mm(warp.displacement, case.truth.displacement, foreground)


def _translation_scores(case: Case, translated: Image | None) -> dict[str, float]:
    if translated is None or case.moving_same is None:
        return {}
    same = scale_intensity(case.moving_same.data).data
    return {"psnr": metrics.psnr(translated.data, same), "ssim": metrics.ssim(translated.data, same)}

"""The networks of the paper's tables: which they are, how they are trained, and where each one's weights lie."""

from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from crossmorph.datasets.pairs import read_pairs
from crossmorph.evaluation.baselines.cyclegan import GENERATOR, CycleSpec, train_cyclegan
from crossmorph.evaluation.baselines.voxelmorph import voxelmorph_config
from crossmorph.evaluation.evaluate import run_methods, timed
from crossmorph.evaluation.results import read_rows, write_rows
from crossmorph.networks.checkpoint import load_model
from crossmorph.registration.register_images import register_coarse
from crossmorph.reproduction.budgets import Budget
from crossmorph.reproduction.datasets import Data
from crossmorph.reproduction.task_cache import Cell, cell_folder
from crossmorph.training.config import DataSpec, StageSpec, StageSpecs, TrainConfig
from crossmorph.training.dataset import load_dataset
from crossmorph.training.losses import Weights
from crossmorph.training.train import train

Likeness = Literal["lg", "ncc", "nmi"]
LIKENESSES: tuple[Likeness, ...] = ("lg", "ncc", "nmi")
# What the paper calls NMI is plain mutual information, as its equation says.
SIMILARITY: dict[Likeness, Literal["lg", "ncc", "mi"]] = {"lg": "lg", "ncc": "ncc", "nmi": "mi"}
PAPER_SMOOTHNESS = Weights().coarse_smoothness
RUN, VALIDATION = "run", "validation.csv"
LONG = 3  # times as many iterations for one more VoxelMorph: as many as the three stages of the hierarchy have

# Seconds an iteration of batch 1 at 128 x 128 on one core of an AMD EPYC, in proportion: for the time left alone.
SECONDS = {"vm": 0.042, "ours": 0.051 + 0.061 + 0.073}


class Network(NamedTuple):
    """A network of the tables and the cell that trains it."""

    likeness: Likeness | None
    smoothness: float
    cell: Cell

    @property
    def run(self) -> Path:
        """The folder of its weights."""
        return self.cell.folder / RUN


class Context(NamedTuple):
    """What all cells of one data set share."""

    data: Data
    budget: Budget
    cache: Path
    seed: int

    @property
    def iterations(self) -> int:
        """Of each stage, on this data set."""
        return self.budget.iterations[self.data.role]


def recipe(context: Context, likeness: Likeness, smoothness: float = PAPER_SMOOTHNESS) -> TrainConfig:
    """The paper's recipe, to the letter but for what the budget says."""
    data, budget = context.data, context.budget
    stage = StageSpec(iterations=context.iterations, learning_rate=budget.learning_rate)
    return TrainConfig(
        name="model",
        description=f"The paper's recipe with {SIMILARITY[likeness]}: a cell of its tables.",
        output=Path(RUN),
        data=DataSpec(
            train=data.pairs("train"), validation=data.pairs("validation"), shape=data.shape, spacing=data.spacing
        ),
        similarity=SIMILARITY[likeness],
        weights=Weights(coarse_smoothness=smoothness, fine_smoothness=smoothness),
        stages=StageSpecs(coarse=stage, translation=stage, fine=stage),
        schedule=budget.schedule,
        seed=context.seed,
        threads=1,
    )


def hierarchy(context: Context, likeness: Likeness, smoothness: float = PAPER_SMOOTHNESS) -> Network:
    """The three networks of the paper."""
    config = recipe(context, likeness, smoothness)
    name = f"ours-{likeness}" + ("" if smoothness == PAPER_SMOOTHNESS else f"-{smoothness:g}")
    return Network(likeness, smoothness, _training(context, name, config, "ours"))


def voxelmorph(context: Context, likeness: Likeness, smoothness: float, times: int = 1) -> Network:
    """VoxelMorph with a weight of smoothness, for as many iterations as a stage of the hierarchy, or more of them."""
    config = voxelmorph_config(recipe(context, likeness), smoothness, times * context.iterations)
    name = f"vm-{likeness}-{smoothness:g}" + ("" if times == 1 else f"-x{times}")
    return Network(likeness, smoothness, _training(context, name, config, "vm"))


def cyclegan(context: Context) -> Network:
    """CycleGAN on the images of the training split."""
    data, spec = context.data, context.budget.cyclegan
    depends = [spec.model_dump(mode="json"), data.digest, context.seed]
    folder = cell_folder(context.cache, f"{data.role}-cyclegan", depends)
    seconds = spec.iterations * 0.45 * (spec.width / 16) ** 2 * spec.blocks / 6 * _size(data)
    arguments = (spec, data.pairs("train"), data.shape, data.spacing, folder / RUN, context.seed)
    cell = Cell(f"{data.role} cyclegan", folder, seconds, spec.iterations, _train_cyclegan, arguments)
    return Network(None, 0.0, cell)


def best_voxelmorph(tried: list[Network], role: str) -> Network:
    """The one that scores best on the validation pairs: by Dice, or where the paper has none by mono-modal error."""
    column, sign = ("dice", 1) if role == "brainweb" else ("mse_percent", -1)

    def score(network: Network) -> float:
        rows = read_rows(network.cell.folder / VALIDATION)
        return sign * float(np.mean([row.scores[column] for row in rows]))

    return max(tried, key=score)


def generator(network: Network) -> Path:
    """The weights of a CycleGAN."""
    return network.run / GENERATOR


def _training(context: Context, name: str, config: TrainConfig, kind: Literal["vm", "ours"]) -> Cell:
    data = context.data
    settings = config.model_dump(mode="json", exclude={"output": True, "data": {"train", "validation"}})
    folder = cell_folder(context.cache, f"{data.role}-{name}", [settings, data.digest])
    config = config.model_copy(update={"output": folder / RUN})
    work = _train_voxelmorph if kind == "vm" else _train_hierarchy
    iterations = config.stages.iterations
    seconds = SECONDS[kind] * _size(data) * iterations / (1 if kind == "vm" else 3)
    return Cell(f"{data.role} {name}", folder, seconds, iterations, work, (config,))


def _size(data: Data) -> float:
    return float(np.prod(data.shape)) / 128**2


def _train_hierarchy(config: TrainConfig) -> None:
    train(config, resume=True, progress=False)


def _train_voxelmorph(config: TrainConfig) -> None:
    train(config, resume=True, progress=False)
    register = partial(timed, partial(register_coarse, start="none"), load_model(str(config.output)))
    rows = run_methods(read_pairs(config.data.validation), {"vm": register}, bar=False)
    write_rows(config.output.parent / VALIDATION, rows)


def _train_cyclegan(
    spec: CycleSpec, pairs: Path, shape: tuple[int, ...], spacing: float, folder: Path, seed: int
) -> None:
    train_cyclegan(spec, load_dataset(pairs, spacing, shape), folder, seed)

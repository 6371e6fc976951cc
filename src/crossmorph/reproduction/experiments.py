"""The networks of the paper's tables: their configurations, and the tasks that train them."""

from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from crossmorph.datasets.pairs import read_pairs
from crossmorph.evaluation.baselines.cyclegan import GENERATOR, train_cyclegan
from crossmorph.evaluation.baselines.cyclegan_networks import CycleSpec
from crossmorph.evaluation.baselines.voxelmorph import voxelmorph_config
from crossmorph.evaluation.evaluate import run_methods, timed
from crossmorph.evaluation.results import read_rows, write_rows
from crossmorph.networks.checkpoint import load_model
from crossmorph.registration.register_images import register_coarse
from crossmorph.reproduction.plan import PAPER_SMOOTHNESS, RUN, Context, Data, Network, Similarity
from crossmorph.reproduction.task_cache import Task, task_folder
from crossmorph.training.config import DataSpec, StageSpec, StageSpecs, TrainConfig
from crossmorph.training.loading import load_dataset
from crossmorph.training.losses import Weights
from crossmorph.training.train import train

# The paper's "NMI" is mutual information without normalisation, as its equation says.
TRAINED_WITH: dict[Similarity, Literal["lg", "ncc", "mi"]] = {"lg": "lg", "ncc": "ncc", "nmi": "mi"}
VALIDATION = "validation.csv"
LONG = 3  # factor of the iterations of the long VoxelMorph: as many as the three stages of the hierarchy together

# Seconds an iteration of batch 1 at 128 x 128 on one core of an AMD EPYC, for the estimate of the time left.
SECONDS = {"vm": 0.042, "ours": 0.051 + 0.061 + 0.073}


def recipe(context: Context, similarity: Similarity, smoothness: float = PAPER_SMOOTHNESS) -> TrainConfig:
    """The paper's configuration, except for the settings of the budget."""
    data, budget = context.data, context.budget
    stage = StageSpec(iterations=context.iterations, learning_rate=budget.learning_rate)
    return TrainConfig(
        name="model",
        # Part of the name of the folder: with another description, earlier results would not be found.
        description=f"The paper's recipe with {TRAINED_WITH[similarity]}: a cell of its tables.",
        output=Path(RUN),
        data=DataSpec(
            train=data.pairs("train"), validation=data.pairs("validation"), shape=data.shape, spacing=data.spacing
        ),
        similarity=TRAINED_WITH[similarity],
        weights=Weights(coarse_smoothness=smoothness, fine_smoothness=smoothness),
        stages=StageSpecs(coarse=stage, translation=stage, fine=stage),
        schedule=budget.schedule,
        seed=context.seed,
        threads=1,
    )


def hierarchy(context: Context, similarity: Similarity, smoothness: float = PAPER_SMOOTHNESS) -> Network:
    """The three networks of the paper."""
    config = recipe(context, similarity, smoothness)
    name = f"ours-{similarity}" + ("" if smoothness == PAPER_SMOOTHNESS else f"-{smoothness:g}")
    return Network(similarity, smoothness, _training(context, name, config, "ours"))


def voxelmorph(context: Context, similarity: Similarity, smoothness: float, times: int = 1) -> Network:
    """VoxelMorph with a weight of smoothness, for ``times`` as many iterations as a stage of the hierarchy."""
    config = voxelmorph_config(recipe(context, similarity), smoothness, times * context.iterations)
    name = f"vm-{similarity}-{smoothness:g}" + ("" if times == 1 else f"-x{times}")
    return Network(similarity, smoothness, _training(context, name, config, "vm"))


def cyclegan(context: Context) -> Network:
    """CycleGAN on the images of the training split."""
    data, spec = context.data, context.budget.cyclegan
    depends = [spec.model_dump(mode="json"), data.digest, context.seed]
    folder = task_folder(context.cache, f"{data.role}-cyclegan", depends)
    seconds = spec.iterations * 0.45 * (spec.width / 16) ** 2 * spec.blocks / 6 * _size(data)
    arguments = (spec, data.pairs("train"), data.shape, data.spacing, folder / RUN, context.seed)
    task = Task(f"{data.role} cyclegan", folder, seconds, spec.iterations, _train_cyclegan, arguments)
    return Network(None, 0.0, task)


def best_voxelmorph(tried: list[Network], role: str) -> Network:
    """The network with the best score on the validation pairs: Dice, or for BraTS the mono-modal error."""
    column, sign = ("dice", 1) if role == "brainweb" else ("mse_percent", -1)

    def score(network: Network) -> float:
        rows = read_rows(network.task.folder / VALIDATION)
        return sign * float(np.mean([row.scores[column] for row in rows]))

    return max(tried, key=score)


def generator(network: Network) -> Path:
    """The weights of a CycleGAN."""
    return network.run / GENERATOR


def _training(context: Context, name: str, config: TrainConfig, kind: Literal["vm", "ours"]) -> Task:
    data = context.data
    settings = config.model_dump(mode="json", exclude={"output": True, "data": {"train", "validation"}})
    folder = task_folder(context.cache, f"{data.role}-{name}", [settings, data.digest])
    config = config.model_copy(update={"output": folder / RUN})
    work = _train_voxelmorph if kind == "vm" else _train_hierarchy
    iterations = config.stages.iterations
    seconds = SECONDS[kind] * _size(data) * iterations / (1 if kind == "vm" else 3)
    return Task(f"{data.role} {name}", folder, seconds, iterations, work, (config,))


def _size(data: Data) -> float:
    return float(np.prod(data.shape)) / 128**2


def _train_hierarchy(config: TrainConfig) -> None:
    train(config, resume=True, progress=False)


def _train_voxelmorph(config: TrainConfig) -> None:
    train(config, resume=True, progress=False)
    register = partial(timed, partial(register_coarse, init="none"), load_model(str(config.output)))
    rows = run_methods(read_pairs(config.data.validation), {"vm": register}, bar=False)
    write_rows(config.output.parent / VALIDATION, rows)


def _train_cyclegan(
    spec: CycleSpec, pairs: Path, shape: tuple[int, ...], spacing: float, folder: Path, seed: int
) -> None:
    train_cyclegan(spec, load_dataset(pairs, spacing, shape), folder, seed)

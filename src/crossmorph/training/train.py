"""Training of a hierarchy: the networks of the affine, coarse, translation and fine stages, one after the other."""

import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from crossmorph.datasets.anatomies import map_path
from crossmorph.datasets.label_maps import load_cohort
from crossmorph.errors import InputError
from crossmorph.functional.similarity import SIMILARITIES, overlap
from crossmorph.networks.checkpoint import Card, load_model, save_model
from crossmorph.networks.hierarchy import STAGES, Hierarchy, Stage
from crossmorph.system.environment import environment
from crossmorph.system.progress import progress_bar, working
from crossmorph.training.batch import Samples
from crossmorph.training.checkpoints import CHECKPOINT, Position, optimizer_state, restore, save
from crossmorph.training.config import DataSpec, TrainConfig
from crossmorph.training.dataset import Dataset, batch
from crossmorph.training.folder import check_folder, claim_folder
from crossmorph.training.loading import load_dataset
from crossmorph.training.log import RunLog
from crossmorph.training.losses import Terms
from crossmorph.training.people import synthesise_people
from crossmorph.training.stage_loss import Batch, StageLoss
from crossmorph.training.synthesis import synthesise
from crossmorph.training.validation import validate


class TrainingDivergedError(RuntimeError):
    """The loss is NaN or infinite; the message has the stage, the iteration and the terms."""


@dataclass(frozen=True)
class Run:
    """Configuration, networks, data and log of a run, shared by its stages."""

    fabric: Fabric
    config: TrainConfig
    hierarchy: Hierarchy
    data: Dataset | None  # None: the pairs are simulated
    validation: Dataset
    log: RunLog | None  # of the first process only
    advance: Callable[[str], None]  # called once an iteration with the stage's name


def train(config: TrainConfig, resume: bool = False, progress: bool = True) -> Path:
    """Train a hierarchy and write its weights and card into ``config.output``.

    The same configuration gives the same weights, whether or not the run was interrupted (on a CPU, with the same
    number of threads): batches depend on the seed and the iteration alone, and a checkpoint holds weights, optimiser
    and position.

    Args:
        config: the networks, data, losses and iterations.
        resume: continue from the folder's checkpoint, or from the first iteration if there is none. Iterations of the
            stage it is at, and of later ones, may have changed, see
            :func:`crossmorph.training.folder.check_folder`; so a finished run can be prolonged.
        progress: whether a bar is shown, on a terminal.

    Returns:
        The path of the weights; the card is beside it.

    Raises:
        InputError: the data cannot be used, or the folder holds a run and ``resume`` is false or the settings differ.
            Nothing is written then.
        TrainingDivergedError: the loss became NaN or infinite.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    fabric = _launch(config)
    problem = fabric.broadcast(_folder_problem(config, resume) if fabric.is_global_zero else "")
    if problem:
        raise InputError(problem)
    torch.manual_seed(config.seed)
    with working("reading the pairs") if progress and fabric.is_global_zero else nullcontext():
        hierarchy, data, validation = read_inputs(config)
    if fabric.is_global_zero:
        claim_folder(config)
    fabric.barrier()
    start, moments = restore(config.output / CHECKPOINT, hierarchy)
    hierarchy.to(fabric.device)
    done = _iterations_before(config, start.stage) + start.step
    with ExitStack() as stack:
        log = (
            stack.enter_context(RunLog(config.output, done, STAGES[start.stage + 1 :]))
            if fabric.is_global_zero
            else None
        )
        bar = stack.enter_context(progress_bar(progress and fabric.is_global_zero))
        task = bar.add_task("training", total=config.stages.iterations, completed=done)
        run = Run(
            fabric, config, hierarchy, data, validation, log,
            lambda stage: bar.update(task, advance=1, description=stage),
        )  # fmt: skip
        for index in range(start.stage, len(STAGES)):
            first = index == start.stage
            position = Position(index, start.step if first else 0)
            if position.step < config.stages.of(STAGES[index]).iterations:
                _train_stage(run, position, moments if first else {})
        scores = validate(fabric, hierarchy, validation, "fine")
    if fabric.is_global_zero:
        save_model(config.output, hierarchy.cpu(), _card(config, scores))
    return config.output / f"{config.name}.safetensors"


def _folder_problem(config: TrainConfig, resume: bool) -> str:
    """Why the run may not begin or continue in its folder, or nothing; for all processes, as only the first looks."""
    try:
        check_folder(config, resume)
    except InputError as error:
        return str(error)
    return ""


class Inputs(NamedTuple):
    """What a run starts with: the networks, and the pairs of both lists; ``data`` is None where pairs are simulated."""

    hierarchy: Hierarchy
    data: Dataset | None
    validation: Dataset


def read_inputs(config: TrainConfig) -> Inputs:
    """Build the networks, read both lists of pairs, and try what the simulation needs.

    Raises:
        InputError: a side of a grid does not fit the networks, ``begin`` is no model or one of other networks, a file
            of a list cannot be used, a label map is missing, or nothing can be simulated.
    """
    hierarchy = _first_weights(config)
    data = config.data
    shapes = {"data.shape": data.shape, "data.validation_shape": data.validation_shape or data.shape}
    for key, shape in shapes.items():
        _check_shape(key, shape, hierarchy.divisor)
    _try_simulation(data, config.seed)
    train = load_dataset(data.train, data.spacing, data.shape) if data.train else None
    return Inputs(hierarchy, train, load_dataset(data.validation, data.spacing, shapes["data.validation_shape"]))


def _first_weights(config: TrainConfig) -> Hierarchy:
    """The networks with random weights, or with those of the model ``config.begin``. Raises InputError."""
    hierarchy = Hierarchy(config.hierarchy)
    if config.begin:
        other = load_model(config.begin, "cpu")
        try:
            hierarchy.load_state_dict(other.hierarchy.state_dict())
        except RuntimeError as error:
            raise InputError(
                f"begin: {config.begin} has other networks than this configuration; expected the hierarchy of its card"
            ) from error
    return hierarchy


def _simulate(data: DataSpec, seed: int, stage: int, first: int, count: int, far: bool) -> Samples:
    """Pairs of a stage's stream, of people or of the template; arguments as of :func:`synthesise`."""
    assert data.synthesis is not None
    draw = synthesise_people if data.synthesis.anatomies else synthesise
    return draw(data.synthesis, data.lattice, seed, stage, first, count, far)


def _check_shape(key: str, shape: tuple[int, ...], divisor: int) -> None:
    """Every side must be a multiple of the divisor, and at least twice it, as in registration."""
    if any(side % divisor or side < 2 * divisor for side in shape):
        fitting = [max(2, -(-side // divisor)) * divisor for side in shape]
        raise InputError(
            f"{key}: received {list(shape)}; expected multiples of {divisor} from {2 * divisor} on for these "
            f"networks, for example {fitting}"
        )


def _try_simulation(data: DataSpec, seed: int) -> None:
    """See that every training person has a label map, and draw one pair."""
    if data.synthesis is None:
        return
    if data.synthesis.anatomies:
        cohort = load_cohort(data.synthesis.anatomies, "train")
        missing = [path for person in cohort.people if not (path := map_path(cohort.anatomies, person)).is_file()]
        if missing:
            raise InputError(f"{missing[0]}: no such file; the folder's index expects it ({len(missing)} are missing)")
    _simulate(data, seed, 0, 0, 1, False)


def _launch(config: TrainConfig) -> Fabric:
    processes = config.devices * config.nodes
    fabric = Fabric(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy="ddp" if processes > 1 else "auto",
        precision=config.precision,
    )
    fabric.launch()
    return fabric


def _train_stage(run: Run, position: Position, moments: dict[str, Tensor]) -> None:
    """Train the network of one stage to its end; the others are frozen."""
    config, fabric = run.config, run.fabric
    stage = STAGES[position.stage]
    spec = config.stages.of(stage)
    run.hierarchy.requires_grad_(False)
    network = run.hierarchy.get_submodule(stage).requires_grad_(True)
    run.hierarchy.train()
    similarity = SIMILARITIES[config.similarity]
    compare = overlap if config.data.synthesis else similarity
    module = StageLoss(run.hierarchy, stage, similarity, compare, config.weights)
    adam = torch.optim.Adam(network.parameters(), lr=spec.learning_rate)
    if moments:
        adam.load_state_dict({**adam.state_dict(), "state": optimizer_state(moments)})
    loss_of, optimizer = fabric.setup(module, adam)
    offset = _iterations_before(config, position.stage)
    if position.step == 0:
        _log(run, offset, stage, validate(fabric, run.hierarchy, run.validation, stage))
    for step, shown in _stream(run, position, spec.iterations):
        rate = spec.learning_rate * _decay(config, step / spec.iterations)
        adam.param_groups[0]["lr"] = rate
        terms = loss_of(shown)
        total = torch.stack(terms).sum()
        # At every iteration and before the gradient: sampling at coordinates that are NaN can crash the process.
        if not torch.isfinite(torch.as_tensor(fabric.all_reduce(total.detach()))):
            raise _divergence(stage, offset + step, terms)
        optimizer.zero_grad()
        fabric.backward(total)
        if config.gradient_clip:
            fabric.clip_gradients(loss_of, optimizer, max_norm=config.gradient_clip)
        optimizer.step()
        run.advance(stage)
        done = step + 1
        last = done == spec.iterations
        if done % config.log_every == 0 or done % config.checkpoint_every == 0 or last:
            _record(run, offset + done, stage, terms, rate)
        if done % config.validate_every == 0 or last:
            _log(run, offset + done, stage, validate(fabric, run.hierarchy, run.validation, stage))
        if done % config.checkpoint_every == 0 or last:
            _save(run, Position(position.stage, done), adam.state_dict()["state"])


def _stream(run: Run, position: Position, end: int) -> Iterator[tuple[int, Batch]]:
    """The steps of a stage with their batches; the next batch is made while the networks process the current one."""
    initialise = partial(torch.set_num_threads, run.config.threads or torch.get_num_threads())
    with ThreadPoolExecutor(1, initializer=initialise) as pool:
        upcoming = pool.submit(_share, run, position.stage, position.step)
        for step in range(position.step, end):
            ready = upcoming.result()
            if step + 1 < end:
                upcoming = pool.submit(_share, run, position.stage, step + 1)
            yield step, ready


def _share(run: Run, stage: int, step: int) -> Batch:
    """This process's part of an iteration's batch, on its device."""
    config, fabric = run.config, run.fabric
    size = config.batch_of(STAGES[stage])
    count = size // fabric.world_size
    first = step * size + fabric.global_rank * count
    if run.data is not None:
        samples = batch(run.data, config.data.augment, config.seed, stage, first, count)
    else:
        samples = _simulate(config.data, config.seed, stage, first, count, far=STAGES[stage] == "affine")
    drawn = np.array(
        [np.random.default_rng([config.seed, stage, 3, number]).random(2) for number in range(first, first + count)]
    )
    smoothness = drawn[:, 0] ** 2  # more pairs with detailed fields, which are harder to learn, than with smooth ones
    # Few pairs are aligned at first: the coarse network learns little from them before it has learnt from others.
    aligned = drawn[:, 1] < (2 * step / config.stages.coarse.iterations if STAGES[stage] == "coarse" else 1)
    moved = [fabric.to_device(tensor) for tensor in samples]
    return Batch(
        Samples(*moved), *(fabric.to_device(torch.tensor(each, dtype=torch.float32)) for each in (smoothness, aligned))
    )


def _decay(config: TrainConfig, progress: float) -> float:
    """Factor of the learning rate at a fraction of the stage: 1, or half a cosine from 1 to 0."""
    return (1 + math.cos(math.pi * progress)) / 2 if config.schedule == "cosine" else 1.0


def _divergence(stage: Stage, iteration: int, terms: Terms) -> TrainingDivergedError:
    named = ", ".join(f"{name} {float(value.detach()):g}" for name, value in terms._asdict().items())
    return TrainingDivergedError(
        f"stage {stage} diverged after {iteration} iterations of the run ({named}); the last checkpoint is valid: "
        "lower the learning rate or raise the smoothness weight, and train again into another folder"
    )


def _record(run: Run, iteration: int, stage: Stage, terms: Terms, rate: float) -> None:
    """Log the terms, averaged over processes."""
    values = {
        name: float(torch.as_tensor(run.fabric.all_reduce(value.detach()))) for name, value in terms._asdict().items()
    }
    _log(run, iteration, stage, {**values, "total": sum(values.values()), "learning_rate": rate})


def _log(run: Run, iteration: int, stage: Stage, values: dict[str, float]) -> None:
    if run.log is not None:
        run.log.write(iteration, stage, values)


def _save(run: Run, position: Position, state: dict[int, dict[str, Tensor]]) -> None:
    """Write the checkpoint, in the first process."""
    if run.fabric.is_global_zero:
        save(run.config.output / CHECKPOINT, run.hierarchy, position, state)


def _iterations_before(config: TrainConfig, stage: int) -> int:
    return sum(config.stages.of(name).iterations for name in STAGES[:stage])


def _card(config: TrainConfig, scores: dict[str, float]) -> Card:
    described = (config.data.train or config.data.validation).parent.parent / "dataset.json"
    data = json.loads(described.read_text("utf-8")) if described.exists() else {}
    return Card(
        name=config.name,
        description=config.description,
        hierarchy=config.hierarchy,
        shape=config.data.shape,
        spacing=config.data.spacing,
        training=config.model_dump(mode="json", exclude={"name", "description", "hierarchy", "output"}),
        data=data,
        scores={name: round(value, 5) for name, value in scores.items()},
        environment=environment(),
        sha256="",
    )

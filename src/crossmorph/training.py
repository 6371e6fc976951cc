"""Training: coarse, translation, fine, each stage frozen when it is done. Read it from top to bottom."""

import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from crossmorph import spatial
from crossmorph.affine import affine_displacement, same_place
from crossmorph.checkpoint import Card, load_model, load_tensors, save_model, save_tensors
from crossmorph.config import TrainConfig, dump_config
from crossmorph.data.dataset import Dataset, batch, load_dataset
from crossmorph.data.people import synthesise_people
from crossmorph.data.samples import Samples
from crossmorph.data.synthesis import synthesise
from crossmorph.errors import InputError
from crossmorph.files import write_whole
from crossmorph.hierarchy import STAGES, Hierarchy, Stage, chain
from crossmorph.metrics import mean_dice
from crossmorph.objective import Terms, Weights, affine_terms, balance, coarse_terms, fine_terms, translation_terms
from crossmorph.runlog import RunLog, environment, progress_bar
from crossmorph.similarity import SIMILARITIES, Similarity, mse, overlap

CHECKPOINT = "checkpoint.safetensors"


class TrainingDivergedError(RuntimeError):
    """The loss is no longer a number; the message says where and which terms."""


class Position(NamedTuple):
    """Where a run stands: a stage, and how many of its iterations are done."""

    stage: int
    step: int


class Batch(NamedTuple):
    """Some pairs, and for each the smoothness asked for (0 to 1) and whether the affine start is applied (0 or 1)."""

    samples: Samples
    smoothness: Tensor
    started: Tensor


class StageLoss(nn.Module):
    """The objective of one stage as a module, so that Fabric can spread it over processes."""

    def __init__(
        self, hierarchy: Hierarchy, stage: Stage, similarity: Similarity, compare: Similarity, weights: Weights
    ) -> None:
        super().__init__()
        self.hierarchy = hierarchy
        self.stage = stage
        self.similarity = similarity  # of images
        self.compare = compare  # of what stands in their place
        self.weights = weights

    def forward(self, shown: Batch) -> Terms:
        """The stage's weighted terms, to be added up."""
        hierarchy, compare, weights = self.hierarchy, self.compare, self.weights
        samples, smoothness, started = shown
        moving, fixed, moving_truth, fixed_truth = samples
        if self.stage == "affine":
            assert hierarchy.affine is not None
            looks = hierarchy.affine(fixed, moving, same_place(fixed))
            return affine_terms(moving_truth, fixed_truth, looks, hierarchy.affine.spec.canvas, compare)
        if hierarchy.affine is not None:
            # The later networks are shown what the affine start will have done for them.
            start = start_displacement(hierarchy, moving, fixed)
            start = start * started.view(-1, *[1] * (start.ndim - 1))
            moving, moving_truth = (spatial.warp(image, start, outside="zero") for image in (moving, moving_truth))
            samples = Samples(moving, fixed, moving_truth, fixed_truth)
        balanced = balance(smoothness, hierarchy.spec.smoothness_range)
        coarse = hierarchy.register_coarse(moving, fixed, smoothness)
        if self.stage == "coarse":
            return coarse_terms(moving_truth, fixed_truth, coarse, compare, weights, balanced)
        mask = hierarchy.translate(moving, fixed, coarse)
        if self.stage == "translation":
            return translation_terms(moving, fixed, coarse, mask, self.similarity, weights)
        fine = hierarchy.register_fine(moving, fixed, moving + mask, coarse, smoothness)
        return fine_terms(samples, moving + mask, fine, chain(coarse, fine), compare, weights, balanced)


@torch.no_grad()
def start_displacement(hierarchy: Hierarchy, moving: Tensor, fixed: Tensor) -> Tensor:
    """What the affine network finds, as a displacement of images on one grid."""
    return affine_displacement(hierarchy.register_affine(moving, fixed, same_place(fixed)), moving)


@dataclass(frozen=True)
class Run:
    """What the stages of one run share."""

    fabric: Fabric
    config: TrainConfig
    hierarchy: Hierarchy
    data: Dataset | None  # None: pairs are simulated
    validation: Dataset
    log: RunLog | None  # of the first process only
    advance: Callable[[str], None]  # called once an iteration with the stage's name


def train(config: TrainConfig, resume: bool = False, progress: bool = True) -> Path:
    """Train a hierarchy and write its weights and card into ``config.output``.

    The same configuration gives the same weights, whether or not the run was interrupted (on a CPU, with the same
    number of threads): batches depend on the seed and the iteration alone, and a checkpoint holds weights, optimiser
    and position.

    Args:
        config: what to train, on what, for how long.
        resume: go on from the folder's checkpoint, or start if there is none yet.
        progress: whether a bar is shown, on a terminal.

    Returns:
        The path of the weights; the card is beside it.

    Raises:
        InputError: the data cannot be used, or the folder holds a run and ``resume`` is false or the settings differ.
        TrainingDivergedError: the loss became NaN or infinite.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    fabric = _launch(config)
    problem = fabric.broadcast(_claim_folder(config, resume) if fabric.is_global_zero else "")
    if problem:
        raise InputError(problem)
    torch.manual_seed(config.seed)
    hierarchy = _first_weights(config)
    spacing, shape = config.data.spacing, config.data.shape
    data = load_dataset(config.data.train, spacing, shape) if config.data.train else None
    validation = load_dataset(config.data.validation, spacing, config.data.validation_shape or shape)
    start, moments = _restore(config.output / CHECKPOINT, hierarchy)
    hierarchy.to(fabric.device)
    done = _iterations_before(config, start.stage) + start.step
    with ExitStack() as stack:
        log = stack.enter_context(RunLog(config.output, done)) if fabric.is_global_zero else None
        bar = stack.enter_context(progress_bar(progress and fabric.is_global_zero))
        task = bar.add_task("training", total=config.stages.iterations, completed=done)
        run = Run(
            fabric, config, hierarchy, data, validation, log,
            lambda stage: bar.update(task, advance=1, description=stage),
        )  # fmt: skip
        for index in range(start.stage, len(STAGES)):
            first = index == start.stage
            if config.stages.of(STAGES[index]).iterations == 0:
                continue
            _train_stage(run, Position(index, start.step if first else 0), moments if first else {})
        scores = validate(run, "fine")
    if fabric.is_global_zero:
        save_model(config.output, hierarchy.cpu(), _card(config, scores))
    return config.output / f"{config.name}.safetensors"


def _first_weights(config: TrainConfig) -> Hierarchy:
    """Networks with random weights, or with those of the model to begin with."""
    hierarchy = Hierarchy(config.hierarchy)
    if config.begin:
        other = load_model(config.begin)
        try:
            hierarchy.load_state_dict(other.hierarchy.state_dict())
        except RuntimeError as error:
            raise InputError(
                f"begin: {config.begin} has other networks than this configuration; expected the hierarchy of its card"
            ) from error
    return hierarchy


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


def _claim_folder(config: TrainConfig, resume: bool) -> str:
    """Write the resolved configuration and the environment into the run's folder; says what forbids it, or nothing."""
    path = config.output / "config.yaml"
    resolved = dump_config(config)
    if path.exists() and not resume:
        return f"{config.output}: holds a run already; expected an empty folder, or --resume to go on with it"
    if path.exists() and path.read_text() != resolved:
        return f"{path}: differs from the settings now given; a run is resumed with the settings it began with"
    config.output.mkdir(parents=True, exist_ok=True)
    write_whole(path, resolved.encode())
    write_whole(config.output / "environment.json", json.dumps(environment(), indent=2).encode())
    return ""


def _train_stage(run: Run, position: Position, moments: dict[str, Tensor]) -> None:
    """One stage to its end: its network learns, the others stand still."""
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
        adam.load_state_dict({**adam.state_dict(), "state": _unflatten(moments)})
    loss_of, optimizer = fabric.setup(module, adam)
    offset = _iterations_before(config, position.stage)
    for step, shown in _stream(run, position, spec.iterations):
        rate = spec.learning_rate * _decay(config, step / spec.iterations)
        adam.param_groups[0]["lr"] = rate
        terms = loss_of(shown)
        total = torch.stack(terms).sum()
        # At every iteration and before the gradient: sampling at coordinates that are not numbers can end the process.
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
            _log(run, offset + done, stage, validate(run, stage))
        if last:
            _save(run, Position(position.stage + 1, 0), {})
        elif done % config.checkpoint_every == 0:
            _save(run, Position(position.stage, done), adam.state_dict()["state"])


def _stream(run: Run, position: Position, end: int) -> Iterator[tuple[int, Batch]]:
    """The steps of a stage with their batches, the next of which is made while the networks work on this one."""
    initialise = partial(torch.set_num_threads, run.config.threads or torch.get_num_threads())
    with ThreadPoolExecutor(1, initializer=initialise) as pool:
        upcoming = pool.submit(_share, run, position.stage, position.step)
        for step in range(position.step, end):
            ready = upcoming.result()
            if step + 1 < end:
                upcoming = pool.submit(_share, run, position.stage, step + 1)
            yield step, ready


def _share(run: Run, stage: int, step: int) -> Batch:
    """This process' part of an iteration's batch, on its device."""
    config, fabric = run.config, run.fabric
    size = config.batch_of(STAGES[stage])
    count = size // fabric.world_size
    first = step * size + fabric.global_rank * count
    if run.data is not None:
        samples = batch(run.data, config.data.augment, config.seed, stage, first, count)
    else:
        assert config.data.synthesis is not None
        far = STAGES[stage] == "affine"
        draw = synthesise_people if config.data.synthesis.anatomies else synthesise
        samples = draw(config.data.synthesis, config.data.lattice, config.seed, stage, first, count, far)
    drawn = np.array(
        [np.random.default_rng([config.seed, stage, 3, number]).random(2) for number in range(first, first + count)]
    )
    smoothness = drawn[:, 0] ** 2  # detailed fields have more to learn than stiff ones
    # The coarse network learns nothing from pairs that are aligned but for details until it has learnt from others.
    started = drawn[:, 1] < (2 * step / config.stages.coarse.iterations if STAGES[stage] == "coarse" else 1)
    moved = [fabric.to_device(tensor) for tensor in samples]
    return Batch(
        Samples(*moved), *(fabric.to_device(torch.tensor(each, dtype=torch.float32)) for each in (smoothness, started))
    )


def _decay(config: TrainConfig, progress: float) -> float:
    """Factor of the learning rate at a fraction of the stage: 1, or half a cosine from 1 to 0."""
    return (1 + math.cos(math.pi * progress)) / 2 if config.schedule == "cosine" else 1.0


def _divergence(stage: Stage, iteration: int, terms: Terms) -> TrainingDivergedError:
    named = ", ".join(f"{name} {float(value.detach()):g}" for name, value in terms._asdict().items())
    return TrainingDivergedError(
        f"stage {stage} diverged after {iteration} iterations of the run ({named}); the last checkpoint is sound: "
        "lower the learning rate or raise the smoothness weight and begin again"
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


@torch.inference_mode()
def validate(run: Run, stage: Stage) -> dict[str, float]:
    """Scores on the validation pairs at the end of a stage: mean Dice of the fields, error of the translation.

    Returns:
        ``dice_affine``, ``dice_coarse``, ``dice_final`` (0-1, where the pairs have labels) of the stages up to this
        one; from the translation stage on ``translation_mse``, the squared difference of the moved translation and the
        fixed image.
    """
    hierarchy, data = run.hierarchy.eval(), run.validation
    scores: dict[str, list[float]] = {}
    for row in data.pairs:
        moving, fixed = (run.fabric.to_device(images[i : i + 1]) for images, i in zip(data[:2], row, strict=True))
        fields, found = _fields(hierarchy, stage, moving, fixed)
        if data.moving_labels is not None and data.fixed_labels is not None:
            labels = data.moving_labels[row[0] : row[0] + 1].float()
            truth = data.fixed_labels[row[1], 0].numpy()
            for name, displacement in fields.items():
                moved = spatial.warp(labels, displacement.cpu(), "nearest", "zero")[0, 0].int().numpy()
                found[name] = mean_dice(moved, truth)
        for name, value in found.items():
            scores.setdefault(name, []).append(value)
    hierarchy.train()
    return {name: sum(values) / len(values) for name, values in scores.items()}


def _fields(
    hierarchy: Hierarchy, stage: Stage, moving: Tensor, fixed: Tensor
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Displacements of the stages up to this one, by score; error of the translation."""
    fields: dict[str, Tensor] = {}
    start = torch.zeros_like(moving).expand(-1, hierarchy.spec.dim, *moving.shape[2:])
    if hierarchy.affine:
        start = fields["dice_affine"] = start_displacement(hierarchy, moving, fixed)
        moving = spatial.warp(moving, start, outside="zero")
    if stage == "affine":
        return fields, {}
    coarse = final = hierarchy.register_coarse(moving, fixed)
    fields["dice_coarse"] = spatial.compose(start, coarse.displacement)
    if stage == "coarse":
        return fields, {}
    translated = moving + hierarchy.translate(moving, fixed, coarse)
    if stage == "fine":
        final = chain(coarse, hierarchy.register_fine(moving, fixed, translated, coarse))
        fields["dice_final"] = spatial.compose(start, final.displacement)
    return fields, {"translation_mse": float(mse(spatial.warp(translated, final.displacement), fixed))}


def _iterations_before(config: TrainConfig, stage: int) -> int:
    return sum(config.stages.of(name).iterations for name in STAGES[:stage])


def _save(run: Run, position: Position, state: dict[int, dict[str, Tensor]]) -> None:
    """Checkpoint of the first process: weights, the moments of ADAM, the position."""
    if not run.fabric.is_global_zero:
        return
    tensors = {f"weights.{name}": tensor for name, tensor in run.hierarchy.state_dict().items()}
    for index, values in state.items():
        tensors |= {f"moments.{index}.{name}": tensor for name, tensor in values.items()}
    save_tensors(run.config.output / CHECKPOINT, tensors, {"stage": str(position.stage), "step": str(position.step)})


def _restore(path: Path, hierarchy: Hierarchy) -> tuple[Position, dict[str, Tensor]]:
    """Load a checkpoint's weights into the hierarchy; its position and moments. From the start where there is none."""
    if not path.exists():
        return Position(0, 0), {}
    tensors, text = load_tensors(path)
    hierarchy.load_state_dict(_below(tensors, "weights."))
    return Position(int(text["stage"]), int(text["step"])), _below(tensors, "moments.")


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _unflatten(moments: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """``{"3.exp_avg": t}`` to ``{3: {"exp_avg": t}}``, the layout of an optimiser's state."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in moments.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    return state


def _card(config: TrainConfig, scores: dict[str, float]) -> Card:
    described = (config.data.train or config.data.validation).parent.parent / "dataset.json"
    data = json.loads(described.read_text()) if described.exists() else {}
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

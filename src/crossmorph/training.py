"""Training: coarse, translation, fine, each stage frozen when it is done. Read it from top to bottom."""

import json
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from crossmorph import spatial
from crossmorph.checkpoint import Card, load_tensors, save_model, save_tensors
from crossmorph.config import TrainConfig, dump_config
from crossmorph.data.dataset import Dataset, batch, load_dataset
from crossmorph.errors import InputError
from crossmorph.files import write_whole
from crossmorph.hierarchy import STAGES, Hierarchy, Stage, chain
from crossmorph.metrics import mean_dice
from crossmorph.objective import Terms, Weights, coarse_terms, fine_terms, translation_terms
from crossmorph.runlog import RunLog, environment, progress_bar
from crossmorph.similarity import SIMILARITIES, Similarity, mse

CHECKPOINT = "checkpoint.safetensors"


class TrainingDivergedError(RuntimeError):
    """The loss is no longer a number; the message says where and which terms."""


class Position(NamedTuple):
    """Where a run stands: a stage, and how many of its iterations are done."""

    stage: int
    step: int


class StageLoss(nn.Module):
    """The objective of one stage as a module, so that Fabric can spread it over processes."""

    def __init__(self, hierarchy: Hierarchy, stage: Stage, similarity: Similarity, weights: Weights) -> None:
        super().__init__()
        self.hierarchy = hierarchy
        self.stage = stage
        self.similarity = similarity
        self.weights = weights

    def forward(self, moving: Tensor, fixed: Tensor) -> Terms:
        """The stage's weighted terms, to be added up."""
        hierarchy, similarity, weights = self.hierarchy, self.similarity, self.weights
        coarse = hierarchy.register_coarse(moving, fixed)
        if self.stage == "coarse":
            return coarse_terms(moving, fixed, coarse, similarity, weights)
        mask = hierarchy.translate(moving, fixed)
        if self.stage == "translation":
            return translation_terms(moving, fixed, coarse, mask, similarity, weights)
        fine = hierarchy.register_fine(moving, fixed, moving + mask, coarse)
        return fine_terms(moving, fixed, moving + mask, fine, chain(coarse, fine), similarity, weights)


@dataclass(frozen=True)
class Run:
    """What the stages of one run share."""

    fabric: Fabric
    config: TrainConfig
    hierarchy: Hierarchy
    data: Dataset
    validation: Dataset
    log: RunLog | None  # of the first process only
    advance: Callable[[str], None]  # called once an iteration with the stage's name


def train(config: TrainConfig, resume: bool = False) -> Path:
    """Train a hierarchy and write its weights and card into ``config.output``.

    The same configuration gives the same weights, whether or not the run was interrupted (on a CPU, with the same
    number of threads): batches depend on the seed and the iteration alone, and a checkpoint holds weights, optimiser
    and position.

    Args:
        config: what to train, on what, for how long.
        resume: go on from the folder's checkpoint, or start if there is none yet.

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
    hierarchy = Hierarchy(config.hierarchy)
    data, validation = (
        load_dataset(path, config.data.spacing, config.data.shape)
        for path in (config.data.train, config.data.validation)
    )
    start, moments = _restore(config.output / CHECKPOINT, hierarchy)
    hierarchy.to(fabric.device)
    done = _iterations_before(config, start.stage) + start.step
    with ExitStack() as stack:
        log = stack.enter_context(RunLog(config.output, done)) if fabric.is_global_zero else None
        progress = stack.enter_context(progress_bar(fabric.is_global_zero))
        task = progress.add_task("training", total=config.stages.iterations, completed=done)
        run = Run(
            fabric, config, hierarchy, data, validation, log,
            lambda stage: progress.update(task, advance=1, description=stage),
        )  # fmt: skip
        for index in range(start.stage, len(STAGES)):
            first = index == start.stage
            _train_stage(run, Position(index, start.step if first else 0), moments if first else {})
        scores = validate(run, "fine")
    if fabric.is_global_zero:
        save_model(config.output, hierarchy.cpu(), _card(config, scores))
    return config.output / f"{config.name}.safetensors"


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
    module = StageLoss(run.hierarchy, stage, SIMILARITIES[config.similarity], config.weights)
    adam = torch.optim.Adam(network.parameters(), lr=spec.learning_rate)
    if moments:
        adam.load_state_dict({**adam.state_dict(), "state": _unflatten(moments)})
    loss_of, optimizer = fabric.setup(module, adam)
    offset = _iterations_before(config, position.stage)
    for step in range(position.step, spec.iterations):
        rate = spec.learning_rate * _decay(config, step / spec.iterations)
        adam.param_groups[0]["lr"] = rate
        terms = loss_of(*_share(run, position.stage, step))
        total = torch.stack(terms).sum()
        # At every iteration and before the gradient: sampling at coordinates that are not numbers can end the process.
        if not torch.isfinite(torch.as_tensor(fabric.all_reduce(total.detach()))):
            raise _divergence(stage, offset + step, terms)
        optimizer.zero_grad()
        fabric.backward(total)
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


def _share(run: Run, stage: int, step: int) -> tuple[Tensor, Tensor]:
    """This process' part of an iteration's batch, on its device."""
    config, fabric = run.config, run.fabric
    count = config.batch // fabric.world_size
    first = step * config.batch + fabric.global_rank * count
    moving, fixed = batch(run.data, config.data.augment, config.seed, stage, first, count)
    return fabric.to_device(moving), fabric.to_device(fixed)


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
        ``dice_coarse`` and, from the fine stage on, ``dice_final`` (0-1, where the pairs have labels); from the
        translation stage on ``translation_mse``, the squared difference of the moved translation and the fixed image.
    """
    hierarchy, data = run.hierarchy.eval(), run.validation
    scores: dict[str, list[float]] = {}
    for row in data.pairs:
        moving, fixed = (run.fabric.to_device(images[i : i + 1]) for images, i in zip(data[:2], row, strict=True))
        result = hierarchy(moving, fixed)
        flow = result.final if stage == "fine" else result.coarse
        found = {}
        if stage != "coarse":
            found["translation_mse"] = float(mse(spatial.warp(result.translated, flow.displacement), fixed))
        if data.moving_labels is not None and data.fixed_labels is not None:
            labels = data.moving_labels[row[0] : row[0] + 1].float()
            truth = data.fixed_labels[row[1], 0].numpy()
            fields = {"dice_coarse": result.coarse} | ({"dice_final": result.final} if stage == "fine" else {})
            for name, field in fields.items():
                moved = spatial.warp(labels, field.displacement.cpu(), "nearest", "zero")[0, 0].int().numpy()
                found[name] = mean_dice(moved, truth)
        for name, value in found.items():
            scores.setdefault(name, []).append(value)
    hierarchy.train()
    return {name: sum(values) / len(values) for name, values in scores.items()}


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
    described = config.data.train.parent.parent / "dataset.json"
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

"""Checkpoints of a training run: weights, the moments of ADAM, and the position in the stages."""

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from crossmorph.networks.checkpoint import load_tensors, save_tensors
from crossmorph.networks.hierarchy import Hierarchy

CHECKPOINT = "checkpoint.safetensors"


class Position(NamedTuple):
    """Position of a run: a stage, by its index, and the number of its iterations that are done, at its end all."""

    stage: int
    step: int


def save(path: Path, hierarchy: Hierarchy, position: Position, state: dict[int, dict[str, Tensor]]) -> None:
    """Write a checkpoint; ``state`` is that of the optimizer."""
    tensors = {f"weights.{name}": tensor for name, tensor in hierarchy.state_dict().items()}
    for index, values in state.items():
        tensors |= {f"moments.{index}.{name}": tensor for name, tensor in values.items()}
    save_tensors(path, tensors, {"stage": str(position.stage), "step": str(position.step)})


def restore(path: Path, hierarchy: Hierarchy) -> tuple[Position, dict[str, Tensor]]:
    """Load a checkpoint's weights into the hierarchy; return its position and moments, the first position if none."""
    if not path.exists():
        return Position(0, 0), {}
    tensors, text = load_tensors(path)
    hierarchy.load_state_dict(_below(tensors, "weights."))
    return Position(int(text["stage"]), int(text["step"])), _below(tensors, "moments.")


def read_position(path: Path) -> Position:
    """The position of a checkpoint, the first one where there is none."""
    if not path.exists():
        return Position(0, 0)
    _, text = load_tensors(path)
    return Position(int(text["stage"]), int(text["step"]))


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def optimizer_state(moments: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """``{"3.exp_avg": t}`` to ``{3: {"exp_avg": t}}``, the layout of an optimizer's state."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in moments.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    return state

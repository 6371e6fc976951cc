"""Weights and their card: a ``.safetensors`` file and a ``.json`` beside it. Nothing is ever unpickled."""

import hashlib
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.overrides import TorchFunctionMode

from crossmorph.errors import InputError
from crossmorph.networks.hierarchy import Hierarchy, HierarchySpec
from crossmorph.networks.layers import CHANNELS_LAST
from crossmorph.networks.shipped import DEFAULT_MODELS as DEFAULT_MODELS
from crossmorph.networks.shipped import pulled_models as pulled_models
from crossmorph.networks.shipped import registry as registry
from crossmorph.networks.shipped import shipped_models as shipped_models
from crossmorph.system.files import brief, read_json, write_whole

FILLED_BY = ("normal_", "uniform_", "kaiming_uniform_")


class Card(BaseModel):
    """What a set of weights is, where it came from and what it scored.

    Attributes:
        name: the name that ``--model`` takes.
        description: one sentence for people.
        hierarchy: the networks.
        shape: voxels of the grid it was trained on.
        spacing: millimetres of a voxel of that grid.
        training: the resolved configuration of the run, seed and numbers of steps included.
        data: what it was trained on.
        scores: numbers measured on the validation pairs at the end of training, by name.
        environment: versions and hardware.
        sha256: of the weights file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    description: str
    hierarchy: HierarchySpec
    shape: tuple[int, ...]
    spacing: float
    training: dict[str, Any]
    data: dict[str, Any]
    scores: dict[str, float]
    environment: dict[str, str]
    sha256: str


class Model(NamedTuple):
    """A model ready to use.

    Attributes:
        hierarchy: the networks, in evaluation mode.
        card: what they are.
        path: of the card, beside which weights and calibration lie; None where the model was not read from files.
    """

    hierarchy: Hierarchy
    card: Card
    path: Path | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.hierarchy.parameters()).device


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors and text to a safetensors file, whole or not at all."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(path, save(contiguous, metadata))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and text of a safetensors file. Raises InputError where it is missing or not such a file.

    The file is read once, as a whole: opened by name a second time, it could be another by then, since a running
    training replaces its checkpoint.
    """
    try:
        content = path.read_bytes()
        tensors = dict(sorted(load(content).items()))  # safetensors gives them in any order
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot read weights ({brief(error)}), expected a safetensors file") from error
    # The header, eight bytes of its length and then JSON, holds the text; safetensors gives it for open files only.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return tensors, header.get("__metadata__") or {}


def save_model(folder: Path, hierarchy: Hierarchy, card: Card) -> Path:
    """Write ``NAME.safetensors`` and ``NAME.json`` into the folder; the card gets the weights' SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{card.name}.safetensors"
    save_tensors(path, hierarchy.state_dict())
    card = card.model_copy(update={"sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    write_whole(path.with_suffix(".json"), (card.model_dump_json(indent=2) + "\n").encode())
    return path


def find_card(name: str) -> Path:
    """The card of a shipped or pulled model's name, a ``.json`` file, or a folder that holds exactly one model."""
    named = pulled_models() | shipped_models()
    if name in named:
        return named[name]
    path = Path(name)
    cards = [card for card in path.glob("*.json") if card.with_suffix(".safetensors").exists()] if path.is_dir() else []
    if len(cards) == 1:
        return cards[0]
    if path.suffix == ".json" and path.is_file():
        return path
    known = ", ".join(sorted(named)) or "none"
    raise InputError(
        f"{name}: no such model; expected one by name ({known}) or a folder with one .safetensors and its .json"
    )


def read_card(path: Path) -> Card:
    """Read and check a card. Raises InputError naming what is wrong."""
    return read_json(path, Card, "a model card")


def load_model(name: str = DEFAULT_MODELS[2], device: str = "auto") -> Model:
    """The weights of a name or a folder; the same file is read once per process.

    Args:
        name: a shipped model's name, a folder that ``train`` wrote, or the path of a card.
        device: a torch device, or ``auto``: CUDA where there is one, else the CPU.

    Raises:
        InputError: no such model, a damaged card, weights that are not the card's, or no such device.
    """
    path = find_card(name).absolute()
    weights = path.with_suffix(".safetensors")
    stamps = tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in (path, weights))
    return _loaded(path, weights, stamps, find_device(device))


def find_device(name: str) -> torch.device:
    """The torch device of a name, or of ``auto``. Raises InputError where there is no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = brief(str(error).splitlines()[0])
        raise InputError(f"device {name}: not available here ({reason}); expected auto, cpu, cuda or mps") from error
    return device


@lru_cache(maxsize=4)
def _loaded(path: Path, weights: Path, stamps: tuple[int, ...], device: torch.device) -> Model:  # noqa: ARG001
    """The model of a card and its weights; the time stamps of both tell a changed file from one that was read."""
    card = read_card(path)
    tensors, _ = load_tensors(weights)
    if hashlib.sha256(weights.read_bytes()).hexdigest() != card.sha256:
        raise InputError(f"{weights}: SHA-256 is not the one on its card; the file is damaged or not this model's")
    hierarchy = _built(weights, card.hierarchy, tensors).to(device)
    # The layout that CPU convolutions work in: about a tenth off the time of a pair.
    hierarchy = hierarchy.to(memory_format=CHANNELS_LAST[card.hierarchy.dim])  # type: ignore[call-overload]
    return Model(hierarchy.eval().requires_grad_(False), card, path)


class _Unfilled(TorchFunctionMode):
    """Leaves tensors without their first random content, for which "meta" would import half of PyTorch."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, arguments: tuple[Any, ...] = (), options: Any = None
    ) -> Any:
        """Do nothing where a tensor is to be filled."""
        if getattr(function, "__name__", "") in FILLED_BY:
            return arguments[0] if arguments else options["tensor"]
        return function(*arguments, **(options or {}))


def _built(path: Path, spec: HierarchySpec, tensors: dict[str, Tensor]) -> Hierarchy:
    """Networks with the tensors for weights; no memory is taken for them before it is known that the tensors fit."""
    try:
        with torch.device("meta"), _Unfilled():
            hierarchy = Hierarchy(spec)
        wanted = hierarchy.state_dict()
    except (RuntimeError, OverflowError, TypeError):  # what PyTorch says of sizes beyond all bounds
        wanted = {}
    if _shapes(wanted) != _shapes(tensors):
        raise InputError(f"{path}: tensors do not fit the networks of the card")
    own = {name: tensor.to(wanted[name].dtype, copy=True) for name, tensor in tensors.items()}
    hierarchy.load_state_dict(own, assign=True)
    return hierarchy


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}

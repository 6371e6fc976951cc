"""The configuration of a training run: a YAML file, validated and resolved."""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from crossmorph.errors import InputError
from crossmorph.networks.hierarchy import STAGES, HierarchySpec, Stage
from crossmorph.simulation.drawing import Lattice
from crossmorph.system.files import brief
from crossmorph.training.augmentation import AugmentSpec
from crossmorph.training.losses import Weights
from crossmorph.training.synthesis import SynthesisSpec

MOST_CHARACTERS = 1 << 18


class Section(BaseModel):
    """A part of a configuration: unknown keys are refused, and values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataSpec(Section):
    """Sources of pairs, and the grid they are resampled to.

    Attributes:
        train: list of training pairs, relative to the working directory; None where ``synthesis`` is given.
        synthesis: simulate the training pairs instead.
        validation: list of validation pairs.
        shape: voxels of the grid.
        validation_shape: voxels of the grid of the validation pairs; None: as many.
        spacing: its millimetres.
        augment: augmentation of the pairs of a list.
    """

    train: Path | None = None
    synthesis: SynthesisSpec | None = None
    validation: Path
    shape: tuple[int, ...] = (128, 128)
    validation_shape: tuple[int, ...] | None = None
    spacing: float = Field(default=1.5, gt=0)
    augment: AugmentSpec = AugmentSpec()

    @model_validator(mode="after")
    def _one_source(self) -> "DataSpec":
        if (self.train is None) == (self.synthesis is None):
            raise ValueError("expected either train (a list of pairs) or synthesis")
        if self.synthesis and self.synthesis.turned and not (len(self.shape) == 2 and self.shape[0] == self.shape[1]):
            raise ValueError(f"synthesis.turned transposes slices: expected a square grid, received {self.shape}")
        if self.validation_shape and len(self.validation_shape) != len(self.shape):
            raise ValueError(f"validation_shape {self.validation_shape} has another number of axes than {self.shape}")
        return self

    @property
    def lattice(self) -> Lattice:
        """The grid, for the simulation."""
        return Lattice(self.shape, self.spacing)


class StageSpec(Section):
    """Iterations and learning rate of a stage, and its batch size if it differs from the others'."""

    iterations: int = Field(ge=0)
    learning_rate: float = Field(default=1e-4, gt=0)
    batch: int | None = Field(default=None, ge=1)


class StageSpecs(Section):
    """One entry a stage, in the order of training; the paper has no affine stage."""

    affine: StageSpec = StageSpec(iterations=0)
    coarse: StageSpec = StageSpec(iterations=150_000)
    translation: StageSpec = StageSpec(iterations=150_000)
    fine: StageSpec = StageSpec(iterations=150_000)

    def of(self, stage: Stage) -> StageSpec:
        """The entry of a stage."""
        spec: StageSpec = getattr(self, stage)
        return spec

    @property
    def iterations(self) -> int:
        """Iterations of all stages together."""
        return sum(self.of(stage).iterations for stage in STAGES)


class TrainConfig(Section):
    """All settings of a run. The defaults are the paper's recipe.

    ``batch`` counts pairs over all processes. ``begin`` names a model, shipped or in a folder, of the same hierarchy,
    whose weights are the run's initial ones; None: random weights. ``gradient_clip`` is the largest norm of a
    gradient, so that one diverging field does not spoil the weights; None, as in the paper: no limit.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    output: Path
    data: DataSpec
    hierarchy: HierarchySpec = HierarchySpec()
    begin: str | None = None
    similarity: Literal["mi", "nmi", "ncc", "lg"] = "mi"
    weights: Weights = Weights()
    stages: StageSpecs = StageSpecs()
    batch: int = Field(default=1, ge=1)
    schedule: Literal["constant", "cosine"] = "constant"
    gradient_clip: float | None = Field(default=None, gt=0)
    seed: int = Field(default=0, ge=0)
    log_every: int = Field(default=50, ge=1)
    checkpoint_every: int = Field(default=500, ge=1)
    validate_every: int = Field(default=1000, ge=1)
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = Field(default=1, ge=1)
    nodes: int = Field(default=1, ge=1)
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    threads: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> "TrainConfig":
        processes = self.devices * self.nodes
        for batch in {self.batch_of(stage) for stage in STAGES}:
            if batch % processes:
                raise ValueError(f"batch {batch} cannot be shared evenly by {processes} processes; expected a multiple")
        if self.stages.affine.iterations and not self.hierarchy.affine:
            raise ValueError("stages.affine has iterations, but hierarchy.affine is missing")
        if len(self.data.shape) != self.hierarchy.dim:
            axes = len(self.data.shape)
            raise ValueError(
                f"data.shape {self.data.shape} has {axes} axes; expected hierarchy.dim = {self.hierarchy.dim}"
            )
        return self

    def batch_of(self, stage: Stage) -> int:
        """Pairs an iteration of a stage, over all processes."""
        return self.stages.of(stage).batch or self.batch


def load_config(path: Path, overrides: list[str] | None = None) -> TrainConfig:
    """Read a configuration.

    Args:
        path: YAML, keys as in :class:`TrainConfig`.
        overrides: ``key.subkey=value``, the value in YAML, instead of the file's value.

    Raises:
        InputError: the file cannot be read, is not YAML, or a key is unknown or has a wrong value (the first is named).
    """
    try:
        with path.open(encoding="utf-8") as stream:
            document = _parse(stream.read(MOST_CHARACTERS + 1))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read the configuration ({error})") from error
    except ValueError as error:
        raise InputError(f"{path}: not YAML ({brief(error)})") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: expected a mapping of settings, found {type(document).__name__}")
    for override in overrides or []:
        _override(document, override)
    try:
        return TrainConfig.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "configuration"
        raise InputError(f"{path}: {key}: {first['msg']} (received {brief(repr(first['input']))})") from error


def _override(document: dict[str, Any], override: str) -> None:
    key, found, value = override.partition("=")
    if not found or not key:
        raise InputError(f"--set {override}: expected key=value")
    *parents, last = key.split(".")
    for parent in parents:
        document = document.setdefault(parent, {})
        if not isinstance(document, dict):
            raise InputError(f"--set {override}: {parent} is a value, not a section")
    try:
        document[last] = _parse(value)
    except ValueError as error:
        raise InputError(f"--set {override}: the value is not YAML") from error


def _parse(text: str) -> Any:
    """The document of a YAML text: plain values only. Raises ValueError where it is none.

    Aliases (``*name``) are refused: a few lines of them can expand beyond any memory.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"expected a configuration of {MOST_CHARACTERS} characters at most")
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, yaml.SafeLoader)):
            raise ValueError("received an alias, *name; expected the value itself")
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error


def dump_config(config: TrainConfig) -> str:
    """The resolved configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)

"""The folder of a run: what it must be before the run, and which settings of a run may change when it continues."""

import json
from typing import Any

from crossmorph.errors import InputError
from crossmorph.networks.hierarchy import STAGES
from crossmorph.system.environment import environment
from crossmorph.system.files import write_whole
from crossmorph.training.checkpoints import CHECKPOINT, Position, read_position
from crossmorph.training.config import TrainConfig, dump_config, load_config

CONFIG = "config.yaml"


def check_folder(config: TrainConfig, resume: bool) -> None:
    """See that a run may begin or continue in ``config.output``; nothing is written.

    A run continues with its own settings. Only ``stages.STAGE.iterations`` may change, of the stage at which the
    checkpoint is, not below its iterations that are done, and of later stages. A finished run is at its last stage, so
    that more iterations prolong it. The folder itself may have been moved.

    Raises:
        InputError: the folder holds a run and ``resume`` is false, or a setting differs that may not.
    """
    path = config.output / CONFIG
    if not path.exists():
        return
    if not resume:
        raise InputError(
            f"{config.output}: holds a run already; expected another folder (output), or --resume to continue that run"
        )
    before, now = (flattened(each.model_dump(mode="json", exclude={"output"})) for each in (load_config(path), config))
    position = read_position(config.output / CHECKPOINT)
    for key in dict.fromkeys((*before, *now)):
        old, new = before.get(key), now.get(key)
        if old != new and not _may_change(key, new, position):
            raise InputError(
                f"{path}: {key} is {old} in that run, received {new}; expected the settings of the run, of which "
                f"{_changeable(position)} may change"
            )


def claim_folder(config: TrainConfig) -> None:
    """Write the resolved configuration and the environment into the run's folder."""
    config.output.mkdir(parents=True, exist_ok=True)
    write_whole(config.output / CONFIG, dump_config(config).encode())
    write_whole(config.output / "environment.json", json.dumps(environment(), indent=2).encode())


def flattened(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` to ``{"a.b": 1}``."""
    found: dict[str, Any] = {}
    for key, value in document.items():
        found |= flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _may_change(key: str, new: Any, position: Position) -> bool:
    for index, stage in enumerate(STAGES):
        if key == f"stages.{stage}.iterations":
            return index > position.stage or (index == position.stage and new >= position.step)
    return False


def _changeable(position: Position) -> str:
    """The settings that may change, for an error."""
    names = [f"stages.{stage}.iterations" for stage in STAGES[position.stage :]]
    if position.step and names:
        names[0] += f" ({position.step} or more)"
    return f"only {', '.join(names)}" if names else "none"

"""The card of a model for people: what it is for, what it was trained on, what it scored, its limits; its checksums."""

import textwrap
from pathlib import Path
from typing import Any

from crossmorph.networks.checkpoint import DEFAULT_MODELS, Model, find_card, load_model, read_card, shipped_models
from crossmorph.networks.hierarchy import STAGES
from crossmorph.provenance.record import digest
from crossmorph.quality.error_model import calibration_of, calibration_path

WIDTH, INDENT = 100, 12  # characters
SCORES = {
    "dice_affine": "Dice, initial affine",
    "dice_coarse": "Dice, coarse stage",
    "dice_final": "Dice, fine stage",
    "mi_affine": "mutual information, initial affine (nats)",
    "mi_coarse": "mutual information, coarse stage (nats)",
    "mi_final": "mutual information, fine stage (nats)",
    "translation_mse": "error of the translation (MSE)",
}


def model_card(path: Path) -> str:
    """The card of a model as text.

    Args:
        path: of the card, a JSON file beside the weights.

    Raises:
        InputError: the card or the weights are damaged.
    """
    model = load_model(str(path), "cpu")
    card = model.card
    parts = card_parts(model) | {"weights": [f"{path.with_suffix('.safetensors')}", *weights_facts(model)]}
    lines = [card.name, *([_filled("  ", card.description)] if card.description else [])]
    for heading, entries in parts.items():
        headings = [heading, *[""] * len(entries)]
        lines += [_filled(f"{each:<{INDENT}}", entry) for each, entry in zip(headings, entries, strict=False)]
    return "\n".join(lines)


def card_parts(model: Model) -> dict[str, list[str]]:
    """What a model is for, what it was trained on, what it scored, and its limits; lines by heading."""
    return {
        "for": _purpose(model),
        "trained on": _training(model.card.training, model.card.data),
        "scores": _scores(model.card.scores),
        "limits": _limits(model),
    }


def _filled(begin: str, text: str) -> str:
    """A text in lines of one width, the later ones set in by as much as the first; paths are not broken."""
    after = " " * len(begin)
    return textwrap.fill(
        text, WIDTH, initial_indent=begin, subsequent_indent=after, break_long_words=False, break_on_hyphens=False
    )


def _purpose(model: Model) -> list[str]:
    spec = model.card.hierarchy
    low, high = spec.smoothness_range
    return [
        f"{'slices' if spec.dim == 2 else 'volumes'} ({spec.dim}-D images), on a working grid of "
        f"{model.card.spacing:g} mm",
        f"smoothness 0 to 1, {spec.smoothness:g} by default" if low != high else "one smoothness",
        "initial affine by a network" if spec.affine else "initial affine by search",
    ]


def _training(training: dict[str, Any], data: dict[str, Any]) -> list[str]:
    source = training.get("data", {})
    drawn = source.get("synthesis")
    if drawn:
        shown = "people" if drawn.get("anatomies") else "one template"
        lines = [f"simulated pairs of {shown}"]
        lines += [f"{role} images: {', '.join(dict.fromkeys(drawn[role]))}" for role in ("moving", "fixed")]
    else:
        lines = [f"pairs of {source['train']}"] if source.get("train") else []
    lines += [f"{key}: {text}" for key, text in data.items() if isinstance(text, str) and key != "name"]
    counts = {stage: training.get("stages", {}).get(stage, {}).get("iterations", 0) for stage in STAGES}
    if any(counts.values()):
        lines.append("iterations: " + ", ".join(f"{stage} {count}" for stage, count in counts.items() if count))
    return lines or ["not on the card"]


def _scores(scores: dict[str, float]) -> list[str]:
    known = {name: scores[name] for name in SCORES if name in scores} | scores
    lines = [f"{SCORES.get(name, name.replace('_', ' '))}: {score:.4f}" for name, score in known.items()]
    return ["(networks alone, on the validation pairs unless the name says otherwise)", *lines] if lines else ["none"]


def _limits(model: Model) -> list[str]:
    calibration = calibration_of(model)
    if calibration:
        checks = f"the checks have limits, set by: {calibration.origin.get('command', 'crossmorph calibrate')}"
    else:
        checks = "no calibration: some checks have no known limit (crossmorph calibrate sets them)"
    return [
        "other anatomy, contrasts or fields of view than it was trained on: train on your own scans (crossmorph train)",
        checks,
        *(f"calibration, {key}: {text}" for key, text in model.card.data.get("calibration", {}).items()),
        "not a medical device",
    ]


def weights_facts(model: Model) -> list[str]:
    """Number of parameters, checksum, and what the weights were made with."""
    card = model.card
    count = sum(parameter.numel() for parameter in model.hierarchy.parameters())
    made = ", ".join(f"{name} {card.environment[name]}" for name in ("crossmorph", "torch") if name in card.environment)
    return [
        f"{count:,} parameters",
        f"SHA-256 {card.sha256}",
        *([f"made with {made}"] if made else []),
    ]


def digests_of_weights(model: str | None) -> list[str]:
    """SHA-256 of a model's weights and calibration, or of those from which the dimension of the images chooses."""
    shipped = shipped_models()
    found = [find_card(model)] if model else [shipped[name] for name in DEFAULT_MODELS.values() if name in shipped]
    cards = [read_card(path) for path in found]
    calibrations = [beside for path in found if (beside := calibration_path(path)).is_file()]
    return [*(card.sha256 for card in cards), *map(digest, calibrations)]

"""A model with its card in the forms of others: a repository of Hugging Face, a bundle of MONAI."""

import json
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from crossmorph.datasets.writing import new_dataset
from crossmorph.errors import InputError
from crossmorph.networks.checkpoint import Model, find_card, load_model, shipped_models
from crossmorph.quality.error_model import calibration_path
from crossmorph.workflows.model_card import card_parts, weights_facts

FORMS = ("huggingface", "monai")
PAPER = (
    'X. Dai, T. Ma, H. Cai, Y. Wen, "Unsupervised hierarchical translation-based model for multi-modal medical image '
    'registration"'
)
# A hub has no identifier for it: the data that weights are computed from have licences of their own.
SHIPPED_LICENCE = {
    "license": "other",
    "license_name": "apache-2.0-with-notices-of-the-data",
    "license_link": "LICENSE.md",
}
# `python -m monai.bundle run` reads it: two files in, the moved image out. The weights stay safetensors, which MONAI's
# own loading does not know, so the network brings them.
INFERENCE: dict[str, Any] = {
    "imports": ["$import crossmorph"],
    "bundle_root": ".",
    "device": "cpu",
    "moving": "moving.nii.gz",
    "fixed": "fixed.nii.gz",
    "output_dir": "$@bundle_root + '/eval'",
    "network_def": "$crossmorph.load_model(@bundle_root + '/models', @device).hierarchy",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": ["moving", "fixed"]},
            {"_target_": "EnsureChannelFirstd", "keys": ["moving", "fixed"]},
        ],
    },
    "registration": {
        "_target_": "crossmorph.integrations.monai.Registerd",
        "moving": "moving",
        "fixed": "fixed",
        "model": "$@bundle_root + '/models'",
    },
    "postprocessing": {
        "_target_": "SaveImaged",
        "keys": "moving",
        "output_dir": "@output_dir",
        "output_postfix": "moved",
        "separate_folder": False,
        "resample": False,
    },
    "run": ["$@postprocessing(@registration(@preprocessing({'moving': @moving, 'fixed': @fixed})))"],
}


def export_model(name: str, output: Path, form: str) -> list[Path]:
    """Write a folder with weights, card and calibration of a model, in the form of a hub.

    Args:
        name: shipped or pulled model, or folder that ``train`` wrote.
        output: folder to make; it appears complete or not at all.
        form: ``huggingface``: ``README.md`` with the metadata of a model card, beside the files of the model.
            ``monai``: ``configs/metadata.json``, ``configs/inference.json``, ``docs/README.md`` and ``models/``.
            Shipped models have ``LICENSE.md`` beside them.

    Returns:
        The files, relative to the folder.

    Raises:
        InputError: unknown form, no such model, damaged, or the folder exists and is not empty.
    """
    if form not in FORMS:
        raise InputError(f"received the form {form}; expected {' or '.join(FORMS)}")
    card = find_card(name)
    model = load_model(str(card), "cpu")
    with new_dataset(output) as folder:
        if _shipped(model):
            _write(folder / "LICENSE.md", _licence(model))
        if form == "huggingface":
            _copy(card, folder)
            _write(folder / "README.md", _front_matter(model) + _readme(model))
        else:
            _copy(card, folder / "models")
            _write(folder / "docs" / "README.md", _readme(model))
            _write(folder / "configs" / "inference.json", json.dumps(INFERENCE, indent=4) + "\n")
            _write(folder / "configs" / "metadata.json", json.dumps(_metadata(model), indent=4) + "\n")
        return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def _copy(card: Path, folder: Path) -> None:
    """The files of a model. Its calibration may be none."""
    folder.mkdir(exist_ok=True)
    for file in (card, card.with_suffix(".safetensors"), calibration_path(card)):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def _shipped(model: Model) -> bool:
    return shipped_models().get(model.card.name) == model.path


def _front_matter(model: Model) -> str:
    """The metadata of a model card (https://huggingface.co/docs/hub/model-cards); a licence of shipped weights only."""
    lines = ["library_name: crossmorph", "pipeline_tag: image-to-image"]
    if _shipped(model):
        lines += [f"{key}: {value}" for key, value in SHIPPED_LICENCE.items()]
    tags = ("image-registration", "medical-imaging", "mri", f"{model.card.hierarchy.dim}d", "safetensors")
    return "\n".join(["---", *lines, "tags:", *(f"- {tag}" for tag in tags), "---", "", ""])


def _licence(model: Model) -> str:
    """The licence of shipped weights, with the notices that the data behind them ask for."""
    data = {"networks": model.card.data} | {"calibration": model.card.data.get("calibration", {})}
    notices = [
        f"- {part}: {facts['source']}. {facts['licence']}. Cite: {facts['cite']}."
        for part, facts in data.items()
        if "licence" in facts
    ]
    return (
        f"# Licence of {model.card.name}\n\n"
        "The crossmorph authors share these weights under the Apache License 2.0\n"
        "(https://www.apache.org/licenses/LICENSE-2.0), as far as they hold rights in them. The weights were computed\n"
        "from data of others, whose licences and notices are these. Where the law takes weights for an adaptation of\n"
        "such data, the licence of the data holds for them too (CC BY-SA: name the source, share alike).\n\n"
    ) + "\n".join([*notices, ""])


def _readme(model: Model) -> str:
    card = model.card
    parts = card_parts(model) | {"weights": weights_facts(model)}
    lists = {heading: "\n".join(f"- {line}" for line in lines) for heading, lines in parts.items()}
    sections = [f"## {heading.capitalize()}\n\n{lines}" for heading, lines in lists.items()]
    pull = "" if _shipped(model) else f"    crossmorph models pull {card.name}.json    # of this folder, or its URL\n"
    use = (
        '## Use\n\n    pip install "crossmorph[report]"\n'
        f"{pull}    crossmorph register MOVING FIXED -o moved.nii.gz --model {card.name}"
    )
    cite = f"## Citation\n\nThe method follows {PAPER}."
    return "\n\n".join([f"# {card.name}", card.description, use, *sections, cite]) + "\n"


def _metadata(model: Model) -> dict[str, Any]:
    """What MONAI's bundle specification asks for (https://docs.monai.io/en/stable/bundle_intro.html)."""
    card = model.card
    image = {
        "type": "image",
        "format": "magnitude",
        "num_channels": 1,
        "spatial_shape": list(card.shape),
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": False,
        "channel_def": {"0": "image"},
    }
    packages = {name: metadata.version(name) for name in ("crossmorph", "nibabel", "safetensors")}
    return {
        "version": metadata.version("crossmorph"),
        "changelog": {metadata.version("crossmorph"): f"weights with SHA-256 {card.sha256}"},
        "monai_version": "1.5.0",
        "pytorch_version": metadata.version("torch").split("+")[0],
        "numpy_version": metadata.version("numpy"),
        "required_packages_version": packages,
        "name": card.name,
        "task": f"Registration of {'slices' if card.hierarchy.dim == 2 else 'volumes'} of different modality",
        "description": card.description,
        "authors": "The crossmorph authors",
        "copyright": "The crossmorph authors",
        "intended_use": "Research. Not a medical device.",
        "references": [PAPER],
        "network_data_format": {
            "inputs": {"moving": image, "fixed": image},
            "outputs": {"moved": image},
        },
    }

"""Weights and cards: bits that survive, and everything damaged, foreign or ambiguous refused in one line."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from crossmorph import DEFAULT_MODELS
from crossmorph.errors import InputError
from crossmorph.networks.checkpoint import (
    Card,
    find_card,
    load_model,
    load_tensors,
    read_card,
    save_model,
    save_tensors,
    shipped_models,
)
from crossmorph.networks.hierarchy import Hierarchy, HierarchySpec
from crossmorph.networks.pyramid import PyramidSpec
from crossmorph.networks.unet import UNetSpec

SMALL = UNetSpec(encoder=(2, 3), decoder=(3, 2), final=(2,))
PYRAMID = PyramidSpec(features=(2, 3), hidden=(0, 3), radius=(1, 1))
SPECS = {
    "unet": HierarchySpec(coarse=SMALL, translator=SMALL, fine=SMALL),
    "pyramid": HierarchySpec(coarse=PYRAMID, translator=SMALL, fine=PYRAMID, translator_sees="moving"),
    "3d": HierarchySpec(dim=3, coarse=SMALL, translator=SMALL, fine=SMALL, fine_sees="aligned"),
}


def card(spec: HierarchySpec, name: str = "small") -> Card:
    """What a training run says of its weights."""
    return Card(
        name=name,
        description="For tests.",
        hierarchy=spec,
        shape=(16,) * spec.dim,
        spacing=1.5,
        training={"seed": 3, "stages": {"coarse": {"iterations": 2}}},
        data={"name": "phantom"},
        scores={"dice_final": 0.5},
        environment={"torch": torch.__version__},
        sha256="",
    )


def bits(tensor: Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    """All there is to a tensor."""
    return tensor.dtype, tuple(tensor.shape), bytes(tensor.contiguous().view(-1).view(torch.uint8).numpy())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one model."""
    torch.manual_seed(0)
    save_model(tmp_path / "run", Hierarchy(SPECS["unet"]), card(SPECS["unet"]))
    return tmp_path / "run"


def sign(folder: Path) -> None:
    """Give the card the weights' present SHA-256."""
    document = json.loads((folder / "small.json").read_text())
    document["sha256"] = hashlib.sha256((folder / "small.safetensors").read_bytes()).hexdigest()
    (folder / "small.json").write_text(json.dumps(document))


def assert_refused(name: Path | str, reason: str) -> str:
    """The one line with which a model is refused."""
    with pytest.raises(InputError, match=reason) as caught:
        load_model(str(name))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_tensors_and_text_come_back_bit_by_bit(tmp_path: Path) -> None:
    tensors = {
        "odd numbers": torch.tensor([float("nan"), float("-inf"), -0.0, 1e-45, 0.1]),
        "double": torch.full((2, 1, 3), 1 / 3, dtype=torch.float64),
        "half": torch.linspace(0, 1, 7, dtype=torch.bfloat16),
        "step": torch.tensor(2**40 + 1),
        "flag": torch.tensor([True, False]),
        "none": torch.zeros(0, 4),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "learnt": torch.ones(2, requires_grad=True),
    }
    save_tensors(tmp_path / "a.safetensors", tensors, {"stage": "1", "note": "größer\n"})
    loaded, text = load_tensors(tmp_path / "a.safetensors")
    assert {name: bits(tensor) for name, tensor in loaded.items()} == {
        name: bits(tensor.detach()) for name, tensor in tensors.items()
    }
    assert text == {"stage": "1", "note": "größer\n"}
    save_tensors(tmp_path / "a.safetensors", {"x": torch.ones(1)})
    assert load_tensors(tmp_path / "a.safetensors")[1] == {}
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_tensors_are_read_whole_while_another_process_replaces_the_file(tmp_path):
    path, sizes = tmp_path / "a.safetensors", (10_000, 1_000_000)
    script = (
        "import sys, torch; from pathlib import Path; from crossmorph.networks.checkpoint import save_tensors\n"
        f"while True:\n    for n in {sizes}: save_tensors(Path(sys.argv[1]), {{'x': torch.full((n,), float(n))}})"
    )
    save_tensors(path, {"x": torch.full((10,), 10.0)})
    seen = [10]
    with subprocess.Popen([sys.executable, "-c", script, str(path)]) as writer:
        try:
            deadline = time.monotonic() + 60
            while sum(a != b for a, b in pairwise(seen)) < 60 and time.monotonic() < deadline:
                x = load_tensors(path)[0]["x"]
                assert (x == len(x)).all()
                seen.append(len(x))
        finally:
            writer.kill()
    assert set(sizes) < set(seen)


@pytest.mark.parametrize("name", SPECS)
def test_a_model_comes_back_bit_by_bit(tmp_path: Path, name: str) -> None:
    torch.manual_seed(1)
    spec = SPECS[name]
    hierarchy = Hierarchy(spec)
    path = save_model(tmp_path / "new" / "run", hierarchy, card(spec))
    assert sorted(file.name for file in path.parent.iterdir()) == ["small.json", "small.safetensors"]
    moving, fixed = torch.rand(2, 1, 1, *[16] * spec.dim)
    with torch.no_grad():
        expected = hierarchy.eval()(moving, fixed)
    for source in (path.parent, path.with_suffix(".json")):
        model = load_model(str(source))
        state, found = hierarchy.state_dict(), model.hierarchy.state_dict()
        assert list(found) == list(state)
        assert all(bits(found[key]) == bits(state[key]) for key in state)
        assert not model.hierarchy.training
        assert not any(parameter.requires_grad for parameter in model.hierarchy.parameters())
        result = model.hierarchy(moving, fixed)
        # Up to rounding: a loaded model may keep the same numbers in another order in memory.
        torch.testing.assert_close(result.final.displacement, expected.final.displacement, rtol=0, atol=1e-5)
        torch.testing.assert_close(result.translated, expected.translated, rtol=0, atol=1e-5)


def test_the_card_says_all_that_it_was_told_and_the_weights_sha256(folder: Path) -> None:
    sha256 = hashlib.sha256((folder / "small.safetensors").read_bytes()).hexdigest()
    told = card(SPECS["unet"]).model_copy(update={"sha256": sha256})
    assert read_card(folder / "small.json") == load_model(str(folder)).card == told
    text = (folder / "small.json").read_text()
    assert json.loads(text) == told.model_dump(mode="json")
    assert text.endswith("}\n")
    assert len(text.splitlines()) > len(Card.model_fields)  # for people, too


def test_the_same_weights_are_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_model(tmp_path / "again", Hierarchy(SPECS["unet"]), card(SPECS["unet"]))
    for name in ("small.json", "small.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


def flip(path: Path, where: int) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)


def put_pickle(path: Path) -> None:
    """What other programs call a checkpoint."""
    path.write_bytes(pickle.dumps(Trap(path.parent / "unpickled")))


def put_torch(path: Path) -> None:
    """What torch.save makes."""
    torch.save({"weights": torch.zeros(3), "trap": Trap(path.parent / "unpickled")}, path)


UNREADABLE = {
    "missing": lambda path: path.unlink(),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "empty": lambda path: path.write_bytes(b""),
    "truncated in the header": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "truncated in the tensors": lambda path: path.write_bytes(path.read_bytes()[:-4]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0\0\0\0"),
    "damaged in the header's size": lambda path: flip(path, 3),
    "damaged in the header": lambda path: flip(path, 9),
    "text": lambda path: path.write_text("no weights at all" * 100),
    "pickle": put_pickle,
    "torch": put_torch,
}


@pytest.mark.parametrize("signed", [False, True], ids=["", "signed"])
@pytest.mark.parametrize("case", UNREADABLE)
def test_files_that_are_no_safetensors_are_refused_and_never_run(folder: Path, case: str, signed: bool) -> None:
    path = folder / "small.safetensors"
    UNREADABLE[case](path)
    if signed and path.is_file():
        sign(folder)
    line = assert_refused(folder / "small.json", r"expected a safetensors file")
    assert line.startswith(str(path))
    assert not (folder / "unpickled").exists()


@pytest.mark.parametrize("where", [-1, -500])
def test_one_flipped_bit_of_a_tensor_is_found(folder: Path, where: int) -> None:
    flip(folder / "small.safetensors", where)
    line = assert_refused(folder, r"SHA-256 is not the one on its card")
    assert line.startswith(str(folder / "small.safetensors"))
    flip(folder / "small.safetensors", where)
    load_model(str(folder))


def test_weights_of_another_model_are_refused(folder: Path, tmp_path: Path) -> None:
    hierarchy = Hierarchy(SPECS["pyramid"])
    save_model(tmp_path / "other", hierarchy, card(SPECS["pyramid"]))
    shutil.copy(tmp_path / "other" / "small.safetensors", folder)
    assert_refused(folder, "SHA-256")
    sign(folder)
    assert_refused(folder, r"small\.safetensors: tensors do not fit the networks of the card")


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_tensors_that_are_not_those_of_the_networks_are_refused(folder: Path, change: str) -> None:
    tensors, _ = load_tensors(folder / "small.safetensors")
    name = max(tensors, key=lambda name: tensors[name].numel())
    if change == "missing":
        del tensors[name]
    else:
        tensors["extra" if change == "extra" else name] = torch.zeros(1)
    save_tensors(folder / "small.safetensors", tensors)
    sign(folder)
    assert_refused(folder, "tensors do not fit the networks of the card")


def set_key(path: Path, **values: object) -> None:
    """Change keys of a card; None removes one."""
    document = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))


DAMAGED_CARDS = {
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:200]), "not a model card .*EOF"),
    "no JSON": (lambda path: path.write_text("name: small"), "not a model card .*JSON"),
    "no text": (lambda path: path.write_bytes(b"\xff\xfe{}"), "not a model card .*JSON"),
    "list": (lambda path: path.write_text("[]"), "not a model card .*object"),
    "unknown key": (lambda path: set_key(path, colour="red"), "not a model card .*colour: Extra inputs"),
    "missing key": (lambda path: set_key(path, spacing=None), "not a model card .*spacing: Field required"),
    "wrong type": (lambda path: set_key(path, shape="large"), "not a model card .*shape: "),
    "unknown key below": (
        lambda path: set_key(path, hierarchy={"dim": 2, "depth": 4}),
        "not a model card .*hierarchy: depth: Extra inputs",
    ),
    "unknown network": (
        lambda path: set_key(path, hierarchy={"coarse": {"kind": "transformer"}}),
        "not a model card .*hierarchy: coarse: .*transformer",
    ),
}


@pytest.mark.parametrize("case", DAMAGED_CARDS)
def test_damaged_cards_are_refused_by_what_is_wrong(folder: Path, case: str) -> None:
    damage, reason = DAMAGED_CARDS[case]
    damage(folder / "small.json")
    line = assert_refused(folder, reason)
    assert line.startswith(str(folder / "small.json"))
    with pytest.raises(InputError, match=r"cannot be read .No such file"):
        read_card(folder / "none.json")


def test_an_unknown_name_lists_the_shipped_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("t3t9", "no/such/folder", "missing.json", ""):
        line = assert_refused(name, r"no such model; expected one by name \(.*\) or a folder with")
        assert all(shipped in line for shipped in shipped_models())


def test_a_folder_with_two_models_or_none_is_refused(folder: Path) -> None:
    (folder / "environment.json").write_text("{}")  # as in a run's folder: no model, there are no weights beside it
    assert find_card(str(folder)) == folder / "small.json"
    save_model(folder, Hierarchy(SPECS["unet"]), card(SPECS["unet"], "second"))
    assert_refused(folder, r"no such model; .* a folder with one \.safetensors and its \.json")
    assert load_model(str(folder / "second.json")).card.name == "second"
    for name in ("small", "second"):
        (folder / f"{name}.safetensors").unlink()
    assert_refused(folder, "no such model")


def test_a_failed_save_leaves_the_old_model_and_no_temporary_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_disk)
        with pytest.raises(InputError, match=r"small\.safetensors: cannot be written \(No space left"):
            save_model(folder, Hierarchy(SPECS["pyramid"]), card(SPECS["pyramid"]))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    save_model(folder, Hierarchy(SPECS["pyramid"]), card(SPECS["pyramid"]))
    assert sorted(path.name for path in folder.iterdir()) == sorted(before)
    assert load_model(str(folder)).hierarchy.spec == SPECS["pyramid"]


def test_the_default_model_is_shipped() -> None:
    assert set(DEFAULT_MODELS.values()) <= set(shipped_models())


@pytest.mark.parametrize("name", shipped_models())
def test_every_shipped_model_loads_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = load_model(name)
    assert model.card.name == name
    assert model.card.description
    assert len(model.card.shape) == model.card.hierarchy.dim
    assert all(side % model.hierarchy.divisor == 0 for side in model.card.shape)

"""Weights of others: what they say is checked before anything is stored, whatever they say."""

import hashlib
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from small_model import save_weights
from typer.testing import CliRunner

from crossmorph.cli.main import app
from crossmorph.errors import InputError
from crossmorph.networks.checkpoint import find_card, pulled_models, shipped_models
from crossmorph.quality.error_model import read_calibration
from crossmorph.workflows.pull_model import pull_model


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CROSSMORPH_MODELS", str(tmp_path / "registry"))
    return tmp_path / "registry"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The card of a model that somebody else trained."""
    save_weights(tmp_path / "theirs", 1)
    return tmp_path / "theirs" / "small.json"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def change(card: Path, **entries: object) -> None:
    card.write_text(json.dumps(json.loads(card.read_text()) | entries))


def refused(source: object, message: str, registry: Path, sha256: str | None = None) -> None:
    with pytest.raises(InputError, match=message):
        pull_model(str(source), sha256)
    assert not registry.exists() or list(registry.iterdir()) == []


@pytest.mark.parametrize("suffix", ["", ".json", ".safetensors"])
def test_a_model_is_stored_under_its_name(suffix: str, model: Path, registry: Path) -> None:
    weights = model.with_suffix(".safetensors")
    pulled = pull_model(str(model.with_suffix(suffix) if suffix else model.parent), digest(weights).upper())
    assert pulled == ("small", registry / "small" / "small.json", digest(weights), False)
    assert {path.name for path in registry.iterdir()} == {"small"}
    assert (registry / "small" / "small.safetensors").read_bytes() == weights.read_bytes()
    assert find_card("small") == pulled.card
    with pytest.raises(InputError, match="there is a model of that name; expected another, or remove"):
        pull_model(str(model))


def test_the_command_stores_lists_and_shows(model: Path, registry: Path) -> None:
    done = CliRunner().invoke(app, ["models", "pull", str(model)])
    assert done.exit_code == 0, done.output
    assert f"wrote {registry / 'small' / 'small.json'}\nuse it by --model small" in done.output
    assert "small  For tests." in CliRunner().invoke(app, ["models", "list"]).output
    assert "not a medical device" in CliRunner().invoke(app, ["models", "show", "small"]).output


def test_a_calibration_comes_along_and_must_be_of_the_weights(model: Path, registry: Path, tmp_path: Path) -> None:
    shipped = shipped_models()["any-2d"]
    other = tmp_path / "copy"
    other.mkdir()
    for suffix in (".json", ".safetensors", ".quality.safetensors"):
        shutil.copyfile(shipped.with_name(f"any-2d{suffix}"), other / f"mine{suffix}")
    change(other / "mine.json", name="mine")
    assert pull_model(str(other / "mine.json")).calibrated
    stored = registry / "mine" / "mine.quality.safetensors"
    assert read_calibration(stored).origin["sha256"] == digest(other / "mine.safetensors")
    shutil.rmtree(registry)
    shutil.copyfile(other / "mine.quality.safetensors", model.with_name("small.quality.safetensors"))
    refused(model, "is the calibration of other weights", registry)


@pytest.mark.parametrize("name", ["../small", "/tmp/small", "", ".hidden", "a b", "any-2d", "x" * 65])
def test_a_name_that_leads_elsewhere_or_is_taken_is_refused(name: str, model: Path, registry: Path) -> None:
    change(model, name=name)
    refused(model, "the model is called", registry)


def test_what_is_not_what_it_says_is_refused(model: Path, registry: Path) -> None:
    weights = model.with_suffix(".safetensors")
    refused(model, f"SHA-256 is {digest(weights)}; expected 00ff", registry, "00FF")
    good = weights.read_bytes()
    weights.write_bytes(good[:-4] + b"torn")
    refused(model, "expected [0-9a-f]{64}, which is on its card", registry)
    weights.write_bytes(b"\x80\x04\x95 a pickle")
    change(model, sha256=digest(weights))
    refused(model, "expected a safetensors file", registry)
    weights.write_bytes(good)
    change(model, sha256=digest(weights), shape=["many"])
    refused(model, "not a model card", registry)
    change(model, shape=[16, 16], hierarchy={"dim": 3})
    refused(model, "tensors do not fit", registry)
    weights.unlink()
    refused(model, "small.safetensors: is not there; expected weights", registry)


def test_no_place_or_another_kind_of_place_is_refused(registry: Path, tmp_path: Path) -> None:
    refused(tmp_path / "absent.safetensors", "absent.json: is not there; expected a model card", registry)
    refused("ftp://localhost/small.json", "expected https://", registry)
    refused("http://localhost/small.json", "http:// with --sha256", registry)
    refused("https://localhost/small.pt", "expected a name ending in .json or .safetensors", registry)
    refused("https://localhost:1/small.json", "expected a network connection", registry)


@pytest.fixture
def server(model: Path) -> Iterator[str]:
    """The URL of the folder of the model."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(model.parent))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_a_model_is_fetched_by_its_address(server: str, model: Path, registry: Path) -> None:
    sha256 = digest(model.with_suffix(".safetensors"))
    refused(f"{server}/other.json", "other.json: is not there", registry, sha256)
    pulled = pull_model(f"{server}/small.safetensors?download=true", sha256)
    assert pulled.sha256 == sha256
    assert pulled_models() == {"small": registry / "small" / "small.json"}

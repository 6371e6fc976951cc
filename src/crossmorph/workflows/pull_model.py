"""Weights of others, put where ``--model NAME`` finds them, after everything that they say was checked."""

import hashlib
import re
import tempfile
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

from crossmorph.datasets.writing import new_dataset
from crossmorph.errors import InputError
from crossmorph.networks.checkpoint import find_card, load_model, read_card, registry, shipped_models
from crossmorph.quality.error_model import SUFFIX as CALIBRATION
from crossmorph.quality.error_model import read_calibration
from crossmorph.system.files import make_folder, readable

CARD, WEIGHTS = ".json", ".safetensors"
MOST_OF_A_CARD, MOST_OF_WEIGHTS = 1 << 20, 1 << 31  # bytes
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
TIMEOUT = 60  # seconds without an answer
ABSENT = (403, 404, 410)  # what servers answer for a file that is not there


class Pulled(NamedTuple):
    """A model that was stored: its name, its card, the SHA-256 of its weights, and whether it has a calibration."""

    name: str
    card: Path
    sha256: str
    calibrated: bool


def pull_model(source: str, sha256: str | None = None) -> Pulled:
    """Fetch a model and store it under the name on its card.

    A model is a card ``X.json``, weights ``X.safetensors`` beside it and, where there is one, a calibration
    ``X.quality.safetensors``. Nothing is unpickled, and nothing is stored before all of it is read: the weights must
    have the SHA-256 of the card and fit the networks of the card, and the calibration must be of these weights.

    Args:
        source: URL or path of the card or the weights, or a folder with one model.
        sha256: of the weights, from wherever it was published; required for ``http://``, which anyone on the way can
            change.

    Raises:
        InputError: something is missing, damaged, not what it says, or there is a model of that name.
    """
    card_place, weights_place, calibration_place = _places(source, sha256)
    card_bytes = _required(card_place, MOST_OF_A_CARD, "a model card")
    weights = _required(weights_place, MOST_OF_WEIGHTS, "weights")
    found = hashlib.sha256(weights).hexdigest()
    if sha256 is not None and found != sha256.lower():
        raise InputError(f"{weights_place}: SHA-256 is {found}; expected {sha256.lower()}")
    make_folder(registry())
    with tempfile.TemporaryDirectory(prefix=".", dir=registry()) as temporary:
        folder = Path(temporary)
        (folder / "card.json").write_bytes(card_bytes)
        card = read_card(folder / "card.json")
        target = _target(card.name, card_place)
        if card.sha256 != found:
            raise InputError(f"{weights_place}: SHA-256 is {found}; expected {card.sha256}, which is on its card")
        path = folder / f"{card.name}{CARD}"
        (folder / "card.json").rename(path)
        path.with_suffix(WEIGHTS).write_bytes(weights)
        load_model(str(path), "cpu")
        calibration = _content(calibration_place, MOST_OF_WEIGHTS)
        if calibration is not None:
            _check_calibration(folder / f"{card.name}{CALIBRATION}", calibration, found)
        with new_dataset(target) as stored:
            for file in list(folder.iterdir()):
                file.rename(stored / file.name)
    return Pulled(card.name, target / path.name, found, calibration is not None)


def _places(source: str, sha256: str | None) -> tuple[str, str, str]:
    """Card, weights and calibration, by the place of one of the first two."""
    suffixes = (CARD, WEIGHTS, CALIBRATION)
    if "://" not in source:
        path = Path(source)
        card = path.with_suffix(CARD) if path.suffix == WEIGHTS else find_card(source)
        return tuple(str(card.with_name(f"{card.stem}{suffix}")) for suffix in suffixes)  # type: ignore[return-value]
    parts = urlsplit(source)
    if parts.scheme != "https" and not (parts.scheme == "http" and sha256):
        raise InputError(f"{source}: expected https://, or http:// with --sha256, or a file")
    stem, dot, suffix = parts.path.rpartition(".")
    if f"{dot}{suffix}" not in (CARD, WEIGHTS):
        raise InputError(f"{source}: expected a name ending in {CARD} or {WEIGHTS}")
    return tuple(urlunsplit(parts._replace(path=f"{stem}{each}")) for each in suffixes)  # type: ignore[return-value]


def _required(place: str, most: int, what: str) -> bytes:
    content = _content(place, most)
    if content is None:
        raise InputError(f"{place}: is not there; expected {what}")
    return content


def _content(place: str, most: int) -> bytes | None:
    """What lies at a URL or path, or None where nothing does. Raises InputError where it is larger than ``most``."""
    if "://" not in place:
        path = Path(place)
        if not path.exists():
            return None
        with readable(path), path.open("rb") as stream:
            content = stream.read(most + 1)
    else:
        try:
            with urllib.request.urlopen(place, timeout=TIMEOUT) as response:
                content = response.read(most + 1)
        except urllib.error.HTTPError as error:
            if error.code in ABSENT:
                return None
            raise InputError(f"{place}: the server answered {error.code} ({error.reason})") from error
        except (urllib.error.URLError, HTTPException, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise InputError(f"{place}: not fetched ({reason}); expected a network connection") from error
    if len(content) > most:
        raise InputError(f"{place}: is larger than {most} bytes; expected a file of a model")
    return content


def _target(name: str, place: str) -> Path:
    """Where a model of that name is stored."""
    if not NAME.fullmatch(name):
        raise InputError(f"{place}: the model is called {name!r}; expected letters, digits, '.', '_' and '-' only")
    if name in shipped_models():
        raise InputError(f"{place}: the model is called {name}, as a shipped one; expected another name")
    target = registry() / name
    if target.exists():
        raise InputError(f"{name}: there is a model of that name; expected another, or remove {target} first")
    return target


def _check_calibration(path: Path, content: bytes, sha256: str) -> None:
    path.write_bytes(content)
    if read_calibration(path).origin.get("sha256") != sha256:
        raise InputError(f"{path.name}: is the calibration of other weights; expected that of {sha256}")

"""BrainWeb over HTTP: the site's own download form, as its pages send it.

The PyPI client brainweb-dl 0.4.6 sends the same form, but cannot resume a download, writes incomplete files under the
final name, and gives (z, y, x) arrays (x, y, z) headers; so this module sends the form, and stores the site's files
unchanged.
"""

import math
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import NamedTuple

from crossmorph.datasets.brainweb.files import GRIDS, Kind, find_files, read_raw_bytes
from crossmorph.datasets.brainweb.heads import Brain
from crossmorph.errors import InputError
from crossmorph.simulation.mri import Modality

SITE = "https://brainweb.bic.mni.mcgill.ca/cgi/"  # brainweb1 provides normal heads, brainweb2 those with lesions
SUBJECTS = (4, 5, 6, 18, 20, 38, *range(41, 55))  # https://brainweb.bic.mni.mcgill.ca/anatomic_normal_20.html
TIMEOUT = 60.0  # seconds without a byte
BLOCK = 1 << 20
PARTIAL, BEYOND_END = 206, 416  # HTTP


class Item(NamedTuple):
    """A file of the site.

    Attributes:
        key: what :func:`crossmorph.datasets.brainweb.files.find_files` calls it.
        name: of the file that the site sends.
        alias: its name in the form.
        program: of the site that receives the form.
        kind: gives the number of voxels.
    """

    key: str
    name: str
    alias: str
    program: str
    kind: Kind

    @property
    def url(self) -> str:
        """The form, filled in: raw shorts, packed by gzip."""
        fields = {
            "do_download_alias": self.alias,
            "format_value": "raw_short",
            "zip_value": "gnuzip",
            "download_for_real": "[Start download!]",
        }
        return f"{SITE}{self.program}?{urllib.parse.urlencode(fields)}"


def wanted_items(brain: Brain, noise: int, inu: int, modalities: tuple[Modality, ...]) -> list[Item]:
    """The files of a data set: volumes and crisp model of one head, or the crisp models of the 20 subjects.

    Raises:
        InputError: If the site has no volumes of that head.
    """
    if brain == "subjects":
        keys = [f"subject{number:02d}_crisp" for number in SUBJECTS]
        return [Item(key, f"{key}_v.raws.gz", key, "brainweb1", "subject") for key in keys]
    if brain not in ("normal", "msles2"):
        raise InputError(f"--download of {brain}: the site has volumes of normal and msles2 only; expected one of them")
    program, group = ("brainweb1", "ICBM normal") if brain == "normal" else ("brainweb2", f"AI {brain}")
    aliases = [f"{modality.upper()} {group} 1mm pn{noise} rf{inu}" for modality in modalities]
    aliases.append(f"phantom_1.0mm_{brain}_crisp")
    keys = [alias.replace(" ", "_").lower() for alias in aliases]
    return [Item(key, f"{key}.raws.gz", alias, program, "phantom") for key, alias in zip(keys, aliases, strict=True)]


def download_brainweb(
    folder: Path,
    brain: Brain = "normal",
    noise: int = 3,
    inu: int = 20,
    modalities: tuple[Modality, ...] = ("t2", "t1"),
    report: Callable[[str], None] = print,
) -> list[Path]:
    """Download the missing files from BrainWeb.

    An incomplete file stays as `NAME.part`, and the next call resumes it, if the server can. A file gets its name when
    its uncompressed size is that of its volume.

    Args:
        folder: Where to; created if it does not exist. Files it holds already, in any format, are not fetched again.
        brain: Which head, or the 20 subjects.
        noise: Percent, of the volumes.
        inu: Intensity non-uniformity of the volumes, percent.
        modalities: Of the volumes.
        report: Called with a line for each file, present or fetched.

    Returns:
        The files that were fetched.

    Raises:
        InputError: If the site cannot be reached or answers with anything else, or the folder cannot be written.
    """
    items = wanted_items(brain, noise, inu, modalities)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be created ({error.strerror or error})") from error
    there = find_files(folder)
    fetched = []
    for number, item in enumerate(items, start=1):
        if item.key in there:
            report(f"{number}/{len(items)} is there: {there[item.key]}")
            continue
        path = folder / item.name
        _fetch(item, path)
        report(f"{number}/{len(items)} fetched: {path}, {path.stat().st_size} bytes")
        fetched.append(path)
    return fetched


def _fetch(item: Item, path: Path) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        _append(item.url, part)
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(
            f"{path}: not fetched from {SITE}{item.program} ({reason}); expected a network connection. The same "
            "command resumes the download; docs/datasets.md describes it by hand"
        ) from error
    except OSError as error:
        raise InputError(f"{part}: cannot be written ({error.strerror or error})") from error
    _check(item, part)
    part.replace(path)


def _append(url: str, part: Path) -> None:
    """Fetch the rest of a partial file, or all of it where the server does not support ranges.

    Raises:
        ConnectionError: The server stopped before the end.
    """
    had = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={had}-"} if had else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            expected = int(response.headers.get("Content-Length", -1))
            received = _save(response, part, "ab" if response.status == PARTIAL else "wb")
    except urllib.error.HTTPError as error:
        if error.code == BEYOND_END:  # it was complete, and only not renamed yet
            return
        raise
    if expected >= 0 and received < expected:
        raise ConnectionError(f"it stopped after {received} of {expected} bytes")


def _save(response: HTTPResponse, part: Path, mode: str) -> int:
    received = 0
    with part.open(mode) as stream:
        while block := response.read(BLOCK):
            received += stream.write(block)
    return received


def _check(item: Item, part: Path) -> None:
    """Refuse, and remove, a file whose content is not that of its volume, so that the next call fetches it anew."""
    needed = 2 * math.prod(GRIDS[item.kind].shape)
    try:
        held = len(read_raw_bytes(part, needed, packed=True))
        if held != needed:
            raise InputError(f"{part}: holds {held} bytes uncompressed; expected {needed}")
    except InputError as error:
        part.unlink()
        raise InputError(f"{error}. The site sent it for {item.alias!r}; the file is removed") from error

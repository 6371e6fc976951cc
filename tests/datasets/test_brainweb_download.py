"""Fetching from BrainWeb, of which a server of this machine plays the part."""

import gzip
import math
import re
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from brainweb_tree import SMALL, head_image, head_labels, use_small_grids
from typer.testing import CliRunner

from crossmorph.cli.main import app
from crossmorph.datasets.brainweb import download
from crossmorph.datasets.brainweb.download import SUBJECTS, download_brainweb, wanted_items
from crossmorph.datasets.brainweb.files import find_files, read_labels
from crossmorph.errors import InputError

GRID = SMALL["phantom"]
CRISP = "phantom_1.0mm_normal_crisp"


def packed(data: np.ndarray) -> bytes:
    return gzip.compress((data.T.astype("<u2") * 16).tobytes(), compresslevel=1, mtime=0)


class Site:
    """What the server sends, and how; and the requests it received."""

    def __init__(self) -> None:
        self.files = {CRISP: packed(head_labels(GRID))}
        for modality in ("t1", "t2"):
            self.files[f"{modality.upper()} ICBM normal 1mm pn0 rf0"] = packed(head_image(GRID, modality))
        self.requests: list[tuple[str, dict[str, str], str | None]] = []
        self.breaks_after: int | None = None
        self.serves_parts = True

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        address = urllib.parse.urlsplit(handler.path)
        fields = dict(urllib.parse.parse_qsl(address.query))
        wanted = handler.headers.get("Range")
        self.requests.append((address.path, fields, wanted))
        content = self.files.get(fields["do_download_alias"], b"<html>no such file</html>")
        first = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.serves_parts else 0
        if first >= len(content):
            handler.send_error(416)
            return
        handler.send_response(206 if first else 200)
        handler.send_header("Content-Length", str(len(content) - first))
        handler.end_headers()
        handler.wfile.write(content[first : self.breaks_after])


@pytest.fixture
def site(monkeypatch):
    use_small_grids(monkeypatch)
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    monkeypatch.setattr(download, "SITE", f"http://127.0.0.1:{server.server_port}/cgi/")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield site
    server.shutdown()
    server.server_close()


def fetch(folder, said=None, brain="normal"):
    return download_brainweb(folder, brain, 0, 0, report=(said if said is not None else []).append)


def test_what_is_fetched_can_be_read(site, tmp_path):
    said: list[str] = []
    names = [path.name for path in fetch(tmp_path / "new" / "site", said)]
    assert names == [f"t2_{(rest := 'icbm_normal_1mm_pn0_rf0.raws.gz')}", f"t1_{rest}", f"{CRISP}.raws.gz"]
    assert [path for path, _, _ in site.requests] == ["/cgi/brainweb1"] * 3
    form = {"format_value": "raw_short", "zip_value": "gnuzip", "download_for_real": "[Start download!]"}
    assert site.requests[0][1] == {"do_download_alias": "T2 ICBM normal 1mm pn0 rf0", **form}
    files = find_files(tmp_path)
    assert set(files) == {item.key for item in wanted_items("normal", 0, 0, ("t2", "t1"))}
    np.testing.assert_array_equal(read_labels(files[CRISP], "phantom", 9).data, head_labels(GRID))
    size = len(site.files[CRISP])
    assert said[2] == f"3/3 fetched: {files[CRISP]}, {size} bytes"


def test_what_is_there_is_not_fetched_again(site, tmp_path):
    (tmp_path / "by hand").mkdir()
    mine = tmp_path / "by hand" / "t2_icbm_normal_1mm_pn0_rf0.mnc"
    mine.touch()
    said: list[str] = []
    assert len(fetch(tmp_path, said)) == 2
    assert said[0] == f"1/3 is there: {mine}"
    assert fetch(tmp_path) == []
    assert len(site.requests) == 2


@pytest.mark.parametrize("serves_parts", [True, False])
def test_a_fetch_that_was_cut_off_goes_on(site, tmp_path, serves_parts):
    site.breaks_after = 1000
    part = tmp_path / "t2_icbm_normal_1mm_pn0_rf0.raws.gz.part"
    whole = site.files["T2 ICBM normal 1mm pn0 rf0"]
    with pytest.raises(InputError, match=rf"rf0\.raws\.gz: not fetched .*it stopped after 1000 of {len(whole)} bytes"):
        fetch(tmp_path)
    assert part.read_bytes() == whole[:1000]
    assert find_files(tmp_path) == {}
    site.breaks_after, site.serves_parts = None, serves_parts
    fetch(tmp_path)
    assert [wanted for _, _, wanted in site.requests] == [None, "bytes=1000-", None, None]
    assert part.with_suffix("").read_bytes() == whole
    assert not part.exists()


def test_a_part_that_is_whole_gets_its_name(site, tmp_path):
    part = tmp_path / "t2_icbm_normal_1mm_pn0_rf0.raws.gz.part"
    part.write_bytes(site.files["T2 ICBM normal 1mm pn0 rf0"])
    assert len(fetch(tmp_path)) == 3


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"<html>too many visitors</html>", "is not gzip-compressed"),
        (gzip.compress(bytes(2 * math.prod(GRID.shape) - 2)), r"holds 232758 bytes uncompressed; expected 232760"),
        (gzip.compress(bytes(2 * math.prod(GRID.shape)))[:-9], "is truncated"),
        (b"", "is empty"),
    ],
)
def test_what_is_not_the_volume_is_removed(site, tmp_path, sent, reason):
    site.files[CRISP] = sent or b""
    if not sent:
        site.answer = lambda handler: (handler.send_response(200), handler.end_headers())
    with pytest.raises(InputError, match=f"{reason}.*; the file is removed"):
        fetch(tmp_path)
    assert not list(tmp_path.glob("*.part"))
    assert CRISP not in find_files(tmp_path)


def test_without_a_network_there_is_one_clear_error(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "SITE", "http://127.0.0.1:1/cgi/")
    path = tmp_path / "t2_icbm_normal_1mm_pn3_rf20.raws.gz"
    expected = (
        f"^{re.escape(str(path))}: not fetched from http://127.0.0.1:1/cgi/brainweb1 .*refused.*; expected a network"
    )
    with pytest.raises(InputError, match=expected):
        download_brainweb(tmp_path, report=lambda _: None)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: cannot be created"):
        download_brainweb(tmp_path / "file", report=lambda _: None)


def test_the_forms_of_other_heads():
    lesions = wanted_items("msles2", 9, 40, ("t2", "t1", "pd"))
    assert [item.key for item in lesions] == [
        *(f"{modality}_ai_msles2_1mm_pn9_rf40" for modality in ("t2", "t1", "pd")),
        "phantom_1.0mm_msles2_crisp",
    ]
    assert lesions[2].url == (
        "https://brainweb.bic.mni.mcgill.ca/cgi/brainweb2?do_download_alias=PD+AI+msles2+1mm+pn9+rf40"
        "&format_value=raw_short&zip_value=gnuzip&download_for_real=%5BStart+download%21%5D"
    )
    subjects = wanted_items("subjects", 3, 20, ("t2", "t1"))
    assert len(subjects) == len(set(SUBJECTS)) == 20
    assert (subjects[0].alias, subjects[0].name) == ("subject04_crisp", "subject04_crisp_v.raws.gz")
    assert {item.kind for item in subjects} == {"subject"}
    with pytest.raises(InputError, match="volumes of normal and msles2 only"):
        wanted_items("msles3", 3, 20, ("t2", "t1"))


def test_the_command_fetches_and_prepares(site, tmp_path):
    words = ["prepare", "brainweb", tmp_path / "site", "-o", tmp_path / "made", "--noise", 0, "--inu", 0, "--download"]
    counts = ["--train", 1, "--test", 1, "--validation", 1]
    done = CliRunner().invoke(app, [str(word) for word in (*words, *counts)], catch_exceptions=False)
    assert done.exit_code == 0
    assert [line.split()[0] for line in done.output.splitlines()] == ["1/3", "2/3", "3/3", "wrote", "wrote", "wrote"]
    assert (tmp_path / "made" / "test" / "0000_moving_t2.nii.gz").exists()

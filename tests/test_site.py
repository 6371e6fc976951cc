"""The documentation site builds without a warning, and the notebook in it runs."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from project import ROOT

import crossmorph

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


def test_the_site_has_places_for_pages_that_exist() -> None:
    """Those that it does not name, the hooks of the site add."""
    navigation = json.dumps(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"])
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")} | {NOTEBOOK.name}
    assert set(re.findall(r"[\w/-]+\.(?:md|ipynb)", navigation)) <= pages
    assert {page for page in pages if "/" in page} <= set(re.findall(r"[\w-]+/[\w-]+\.md", navigation))


def test_the_notebook_holds_results() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert kinds == {"execute_result", "stream", "display_data"}
    assert NOTEBOOK.stat().st_size < 500_000
    # A first run in one order, without leftovers.
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "api" / "index.html").read_text("utf-8")
    public = [name for name in crossmorph.__all__ if not name.isupper()]
    assert [name for name in public if not re.search(rf'id="crossmorph\.[\w.]+\.{name}"', page)] == []
    assert (tmp_path / "site" / "results" / "accuracy-time.png").exists()
    home = (tmp_path / "site" / "index.html").read_text("utf-8")
    assert home.count("<table>") == 1
    assert 'src="images/volumes.png"' in home
    # Commands in lists are code, as on GitHub, and a bar in the code of a table is no backslash and a bar.
    pages = {path: path.read_text("utf-8") for path in (tmp_path / "site").rglob("*.html")}
    assert [path for path, text in pages.items() if re.search(r"<p>(crossmorph|python) |<code>[^<]*\\\|", text)] == []


def printed(notebook: Any) -> list[str]:
    return [output["text"] for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output]


@pytest.mark.slow
def test_the_notebook_runs() -> None:
    import nbclient
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    before = printed(notebook)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    last = notebook.cells[-1]["outputs"][0]["data"]["text/plain"]
    assert "True" in last
    # What the file holds is what it prints today: the checks and their levels.
    assert printed(notebook) == before

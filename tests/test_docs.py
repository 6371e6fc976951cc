"""Documents do not lie: their snippets run, their links lead somewhere, CI runs the README's own commands."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT

from crossmorph.workflows.demo import run_demo

DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("name", ["README.md", "docs/reference.md"])
def test_python_snippets_run(name, tmp_path):
    run_demo(tmp_path / "demo")
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), flags=re.DOTALL)
    ours = [snippet for snippet in snippets if "crossmorph" in snippet]
    assert ours
    script = "\n".join(ours)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        assert target.startswith("http") or (document.parent / target).exists(), target


def test_ci_runs_the_commands_of_the_readme():
    commands = re.findall(r"^    (make \w+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert commands == ["make demo", "make test"]
    script = (ROOT / ".ci" / "run").read_text()
    assert [line for line in script.splitlines() if line.startswith("make")] == commands


def test_every_option_in_the_documents_exists():
    words = (ROOT / "README.md").read_text() + (ROOT / "docs" / "reference.md").read_text()
    source = "".join(path.read_text() for path in (ROOT / "src" / "crossmorph").glob("cli*.py"))
    options = {option.replace("-", "_") for option in re.findall(r"(?<![\w-])--([a-z-]+)\b", words)} - {"help"}
    assert options
    for option in options:
        assert re.search(rf'"--{option}"|^    {option}: ', source, flags=re.MULTILINE), option

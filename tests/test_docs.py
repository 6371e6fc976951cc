"""Documents are true: snippets run, links and anchors exist, the reference lists every command, option and key."""

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from project import ROOT
from pydantic import BaseModel
from test_architecture import ROWS

import crossmorph
from crossmorph.cli.option_tables import commands, with_option_tables
from crossmorph.errors import InputError
from crossmorph.evaluation.evaluate import METHODS
from crossmorph.networks.affine import AffineSpec
from crossmorph.networks.hierarchy import HierarchySpec
from crossmorph.networks.pyramid import PyramidSpec
from crossmorph.networks.unet import UNetSpec
from crossmorph.quality.assessment import Check, Measures
from crossmorph.training.augmentation import AugmentSpec
from crossmorph.training.config import DataSpec, StageSpec, StageSpecs, TrainConfig
from crossmorph.training.losses import Weights
from crossmorph.training.synthesis import SynthesisSpec
from crossmorph.workflows.demo import run_demo

PROSE_WIDTH = 120
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SECTIONS: tuple[type[BaseModel], ...] = (
    TrainConfig, DataSpec, AugmentSpec, SynthesisSpec, HierarchySpec, AffineSpec, PyramidSpec, UNetSpec, Weights,
    StageSpecs, StageSpec,
)  # fmt: skip
# Words that a reader outside the project cannot know; the glossary has those to use.
PRIVATE = re.compile(
    r"\b(agreements?|doubts?|doubtful|uncertainty|foretells?|foretold|evidence|familiar|unfamiliarity|strangers?|verdicts?|"
    r"flags?|flagged|cohorts?|canvas|canvases|climbs?|begun|hopeless|believed?|half around)\b",
    re.IGNORECASE,
)
# A changelog names what was renamed; `canvas` is a key of the configuration.
ALLOWED = {("CHANGELOG.md", word) for word in ("cohort", "flags", "uncertainty")} | {("reference.md", "canvas")}


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(document: str, heading: str) -> str:
    """What stands between a heading and the next one of its level or above."""
    level = heading.split()[0]
    _, _, rest = document.partition(f"\n{heading}\n")
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.parametrize("name", ["README.md", "docs/reference.md"])
def test_python_snippets_run(name: str, tmp_path: Path) -> None:
    run_demo(tmp_path / "demo")
    snippets = re.findall(r"```python\n(.*?)```", text(name), flags=re.DOTALL)
    ours = [snippet for snippet in snippets if "crossmorph" in snippet]
    assert ours
    script = "\n".join(ours)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def prose(document: Path) -> Iterator[str]:
    """Lines that are neither code nor a row of a table nor a picture."""
    fenced = False
    for line in document.read_text(encoding="utf-8").splitlines():
        fenced ^= line.strip().startswith("```")
        if not fenced and not line.lstrip().startswith(("|", "!", "```", "<")):
            yield line


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_prose_has_one_width(document: Path) -> None:
    assert not [line for line in prose(document) if len(line) > PROSE_WIDTH]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_use_the_words_of_the_glossary(document: Path) -> None:
    found = {word.lower() for word in PRIVATE.findall(document.read_text(encoding="utf-8"))}
    assert not {word for word in found if (document.name, word) not in ALLOWED}


def test_ci_runs_the_commands_of_the_readme() -> None:
    commands = re.findall(r"^    (make \w+)", text("README.md"), flags=re.MULTILINE)
    assert commands == ["make demo", "make test"]
    assert [line for line in text(".ci/run").splitlines() if line.startswith("make")] == [*commands, "make lint"]


COMMANDS = dict(commands())


def options(command: Any) -> set[str]:
    """All names of a command's options."""
    return {name for each in command.params if each.param_type_name == "option" for name in each.opts} - {
        "--help",
        "-h",
    }


def test_the_tables_of_options_are_those_of_the_code() -> None:
    page = text("docs/reference.md")
    assert page == with_option_tables(page), "run python -m crossmorph.cli.option_tables docs/reference.md"
    altered = page.replace("| `--jobs N` | `1` |", "| `--jobs N` | `2` |")
    assert altered != page
    assert with_option_tables(altered) == page


def test_a_page_without_a_table_of_options_is_refused() -> None:
    with pytest.raises(InputError, match="crossmorph apply: expected its heading"):
        with_option_tables(text("docs/reference.md").replace("### crossmorph apply", "### apply"))


def test_the_reference_lists_every_command() -> None:
    assert set(re.findall(r"^### (crossmorph\b.*)$", text("docs/reference.md"), flags=re.MULTILINE)) == set(COMMANDS)


@pytest.mark.parametrize("name", ["README.md", "docs/tutorial.md", "docs/train.md", "docs/trust.md"])
def test_every_option_in_the_documents_exists(name: str) -> None:
    known = set().union(*map(options, COMMANDS.values()))
    ours = re.sub(r"pip install .*", "", text(name))
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*\b", ours)) <= known


@pytest.mark.parametrize("spec", SECTIONS, ids=lambda spec: spec.__name__)
def test_the_reference_lists_every_key(spec: type[BaseModel]) -> None:
    words = set(re.findall(r"\w+", section(text("docs/reference.md"), "## Configuration")))
    assert set(spec.model_fields) <= words


def test_the_reference_lists_the_arguments_of_register() -> None:
    part = section(text("docs/reference.md"), "## Python")
    arguments = inspect.signature(crossmorph.register).parameters
    assert all(f"`{name}`" in part for name in arguments)
    assert all(f"`{name}`" in part for name in Check._fields)


def test_the_reference_lists_every_method() -> None:
    part = section(text("docs/reference.md"), "### crossmorph evaluate")
    assert all(f"`{name}`" in part for name in METHODS)


def test_every_measure_is_explained() -> None:
    words = set(re.findall(r"\w+", section(text("docs/trust.md"), "## Checks") + text("docs/reference.md")))
    assert set(Measures._fields) <= words


def test_the_design_has_the_order_of_imports() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", text("docs/design.md"), flags=re.MULTILINE)
    found: dict[str, set[str]] = {}
    for row, package in rows:
        found.setdefault(row, set()).add(package)
    assert list(found.values()) == [row for row in ROWS if row not in ({"__main__"}, {"errors"})]


def test_pre_commit_runs_the_pinned_ruff() -> None:
    (ruff, *_) = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]
    pinned = re.search(r"^ruff==(.+)$", text("constraints.txt"), flags=re.MULTILINE)
    assert pinned
    assert ruff["rev"] == f"v{pinned[1]}"


def test_citation_changelog_and_tag_have_one_version() -> None:
    """The package has that of the tag; between two versions, the citation names the last."""
    last = re.search(r"^## \[(\d.*)\]", text("CHANGELOG.md"), flags=re.MULTILINE)
    assert last
    assert yaml.safe_load(text("CITATION.cff"))["version"] == last[1]
    if (ROOT / ".git").exists():
        words = ["git", "-C", str(ROOT), "tag", "--points-at", "HEAD", "v*"]
        tags = subprocess.run(words, capture_output=True, text=True).stdout.split()
        assert tags in ([], [f"v{last[1]}"])


@pytest.mark.parametrize("form", ["bug.yml", "config.yml", "feature.yml"])
def test_issue_forms_are_yaml(form: str) -> None:
    assert yaml.safe_load(text(f".github/ISSUE_TEMPLATE/{form}"))

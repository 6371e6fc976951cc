"""Recipes of containers and packages: they name what the project has, and their steps run on a machine without them."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from project import ROOT

FOLDER = ROOT / "distribution"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
BIDS_APP = "crossmorph-bids"
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
CPU_INDEX = " --index-url https://download.pytorch.org/whl/cpu"


def docker_stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage of the Dockerfile."""
    text = (FOLDER / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    stages: list[list[tuple[str, str]]] = []
    for line in lines:
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stages.append([])
        stages[-1].append((word, rest))
    return stages


def build_steps() -> list[str]:
    return [rest for word, rest in docker_stages()[0] if word == "RUN"]


def apptainer_sections() -> dict[str, list[str]]:
    text = (FOLDER / "apptainer.def").read_text("utf-8")
    parts = re.split(r"^%(\w+)\n", text, flags=re.MULTILINE)
    return {
        name: [line.strip() for line in body.strip().splitlines()]
        for name, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def test_the_image_is_slim_on_a_cpu_and_of_no_superuser() -> None:
    build, final = docker_stages()
    assert build[0][1] == "python:3.12-slim AS build"
    assert final[0] == ("FROM", "python:3.12-slim")
    assert [rest for word, rest in final if word == "COPY"] == ["--from=build /opt/crossmorph /opt/crossmorph"]
    words = [word for word, _ in final]
    assert dict(final)["USER"] == "1000"
    assert words.index("USER") > max(place for place, word in enumerate(words) if word == "RUN")
    assert dict(final)["ENTRYPOINT"] == f'["{BIDS_APP}"]'
    assert sum(CPU_INDEX in step for step in build_steps()) == 1


def test_apptainer_takes_the_same_steps_and_runs_the_same_command() -> None:
    sections = apptainer_sections()
    assert sections["post"] == [*build_steps(), "rm -r /dist"]
    assert sections["runscript"] == [f'exec {BIDS_APP} "$@"']


def test_neurodesk_deploys_the_commands() -> None:
    recipe = yaml.safe_load((FOLDER / "neurodesk.yaml").read_text("utf-8"))
    steps = {name: step for each in recipe["build"]["directives"] for name, step in each.items()}
    assert steps["run"][:2] == build_steps()[:2]
    assert steps["deploy"]["bins"] == ["crossmorph", BIDS_APP]
    assert recipe["version"] == yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"]


def test_conda_needs_what_pip_needs() -> None:
    recipe = yaml.safe_load((FOLDER / "recipe.yaml").read_text("utf-8"))
    extras = PROJECT["optional-dependencies"]
    wanted = {}
    for requirement in [*PROJECT["dependencies"], *extras["report"], *extras["simulate"]]:
        name, version = re.fullmatch(r"([\w-]+)(.*)", requirement).groups()
        wanted[CONDA_NAMES.get(name, name)] = version
    python, *others = recipe["requirements"]["run"]
    assert python == "python >=${{ python_min }}"
    assert PROJECT["requires-python"] == f">={recipe['context']['python_min']}"
    assert dict(each.split() for each in others) == wanted
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["build-system"]["requires"]
    assert {each.replace(" ", "") for each in recipe["requirements"]["host"][2:]} == set(needed)
    ours = {f"{name} = {place}" for name, place in PROJECT["scripts"].items()}
    assert set(recipe["build"]["python"]["entry_points"]) >= ours
    assert recipe["context"]["version"] == yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"]


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder in the place of the root of the image, into which every user can look."""
    folder = Path(tempfile.mkdtemp(prefix="crossmorph-image-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def anyones_python() -> str | None:
    """A Python in which every user can look, as in the image; one below /root is the superuser's alone."""
    for each in (sys.executable, "/usr/bin/python3"):
        folders = Path(each).resolve().parents
        if Path(each).exists() and all(folder.stat().st_mode & 0o001 for folder in folders):
            return each
    return None


@pytest.mark.slow
def test_the_steps_of_the_image_run_and_a_user_without_rights_registers(root: Path) -> None:
    python = anyones_python()
    if python is None:
        pytest.skip("needs a Python that every user can run")
    words = [sys.executable, "-m", "build", "--wheel", "--outdir", str(root / "dist"), str(ROOT)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run(words, check=True, capture_output=True, env=clean)
    for step in build_steps():
        # Paths of the image lie below the folder; pip's own index may be the only one in reach.
        here = step.replace(CPU_INDEX, "").replace("/opt/", f"{root}/opt/").replace("/dist/", f"{root}/dist/")
        here = re.sub(r"^python ", f"{python} ", here)
        done = subprocess.run(["sh", "-ec", here], env=clean, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stderr
    work = root / "work"
    work.mkdir(mode=0o777)
    work.chmod(0o777)
    variables = dict(each.split("=", 1) for each in dict(docker_stages()[1])["ENV"].split())
    variables["PATH"] = f"{root}/opt/crossmorph/bin:/usr/bin:/bin"
    user = 1000 if os.geteuid() == 0 else None
    done = subprocess.run(["crossmorph", "demo"], cwd=work, env=variables, user=user, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (work / "demo" / "transform.h5").exists()
    if BIDS_APP in PROJECT["scripts"]:
        done = subprocess.run([BIDS_APP, "--help"], cwd=work, env=variables, user=user, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

"""What several test files share."""

import os
from pathlib import Path

# One thread: the sizes are small, and the machine that runs the tests may be busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
import yaml
from chromium import browser as browser
from exported_model import exported as exported
from made_up_tables import made_up
from project import ROOT

from crossmorph.datasets.phantom import prepare_phantom
from crossmorph.reproduction.plan import Found


@pytest.fixture(autouse=True)
def one_thread():
    """Every test starts at one thread, whatever the one before did."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def phantom(tmp_path_factory) -> Path:
    """A small simulated dataset with all splits."""
    folder = tmp_path_factory.mktemp("data") / "phantom"
    prepare_phantom(folder, seed=3, rough=True, train=12, test=3, validation=3)
    return folder


@pytest.fixture(scope="session")
def smoke(phantom) -> dict:
    """The shipped smoke configuration, on the small dataset, without an output folder."""
    document = yaml.safe_load((ROOT / "configs" / "smoke.yaml").read_text())
    document["data"] |= {split: str(phantom / split / "pairs.csv") for split in ("train", "validation")}
    return document


@pytest.fixture
def found(tmp_path: Path) -> Found:
    """The results of three methods, as a reproduction finds them."""
    return made_up(tmp_path)

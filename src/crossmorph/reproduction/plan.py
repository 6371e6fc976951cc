"""The plan of a reproduction: its data sets, the networks to train, the methods to score, and their results."""

from pathlib import Path
from typing import Literal, NamedTuple

from crossmorph.evaluation.results import Row
from crossmorph.reproduction.budgets import Budget
from crossmorph.reproduction.task_cache import Task
from crossmorph.training.losses import Weights

Role = Literal["brainweb", "brats"]
ROLES: tuple[Role, ...] = ("brainweb", "brats")
Similarity = Literal["lg", "ncc", "nmi"]
SIMILARITIES: tuple[Similarity, ...] = ("lg", "ncc", "nmi")
PAPER_SMOOTHNESS = Weights().coarse_smoothness
OURS = "ours-nmi"  # the method whose median pair is drawn and whose worst pairs are shown
RUN = "run"  # folder of the weights in a task's folder
Kind = Literal["peer", "coarse", "hierarchy", "cyclegan", "noise-free"]


class Data(NamedTuple):
    """A data set of pairs on one grid.

    Attributes:
        role: which of the paper's two it is, or is used for.
        description: of its source, for the tables.
        folder: holds ``train``, ``validation`` and ``test``, each with a ``pairs.csv``.
        shape: voxels of every image.
        spacing: millimetres of a voxel.
        digest: SHA-256 over all files.
        clean: the list of the same test pairs without noise, of the phantom alone.
    """

    role: Role
    description: str
    folder: Path
    shape: tuple[int, ...]
    spacing: float
    digest: str
    clean: Path | None = None

    def pairs(self, split: str) -> Path:
        """The list of a split's pairs."""
        return self.folder / split / "pairs.csv"


class Context(NamedTuple):
    """Data set, budget, cache folder and seed, shared by all tasks of one data set."""

    data: Data
    budget: Budget
    cache: Path
    seed: int

    @property
    def iterations(self) -> int:
        """Iterations of each stage, on this data set."""
        return self.budget.iterations[self.data.role]


class Network(NamedTuple):
    """A network of the tables and the task that trains it."""

    similarity: Similarity | None
    smoothness: float
    task: Task

    @property
    def run(self) -> Path:
        """The folder of its weights."""
        return self.task.folder / RUN


class Entry(NamedTuple):
    """A method of the tables.

    Attributes:
        name: in rows and tables.
        kind: ``coarse`` and ``hierarchy`` are networks of a folder without an initial affine, ``peer`` a method of
            :mod:`crossmorph.evaluation.evaluate`, ``noise-free`` the moving anatomy acquired without noise, as a
            translation.
        weights: folder or file of the networks, or the list of noise-free pairs.
    """

    name: str
    kind: Kind
    weights: Path | None = None


class Found(NamedTuple):
    """All results on one data set.

    Attributes:
        context: data and budget.
        entries: methods by the name of their rows; a name ending in ``@clean`` is a method on images without noise.
        rows: a row for each pair, by that name.
        times: rows with seconds only, of all methods in one process.
        smoothness: weight of the smoothness term of the networks that have another than the paper's, by name.
    """

    context: Context
    entries: dict[str, Entry]
    rows: dict[str, list[Row]]
    times: list[Row]
    smoothness: dict[str, float]

"""The page of a reproduction: its tables and figures, plots of all methods, and the worst pairs of ours."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossmorph.datasets.pairs import label_names
from crossmorph.evaluation.results import Row
from crossmorph.networks.checkpoint import DEFAULT_MODELS
from crossmorph.reports.evaluation_page import Study, origin, page
from crossmorph.reproduction.plan import OURS, Found
from crossmorph.reproduction.tables import label, methods_of
from crossmorph.system.files import write_whole

NAME = "report.html"
CAPTIONS = {
    "fig2": "Figure 2: registrations of the median pair of the first data set, with white matter below",
    "fig3": "Figure 3: registrations of the median pair of the second data set, with the mono-modal error below",
    "fig4": "Figure 4: translations of the median pair, with their errors below",
    "fig5": "Figure 5: fields of the stages on the median pair",
}


def write_page(output: Path, found: Sequence[Found], paths: Sequence[Path], command: str) -> Path:
    """Write ``report.html`` and return its path.

    Args:
        output: the folder.
        found: the results of each data set.
        paths: tables (``.md``) and figures (``.png``) that were written; other files are ignored.
        command: the command line.
    """
    tables = [path.read_text(encoding="utf-8") for path in paths if path.suffix == ".md"]
    figures = [(CAPTIONS[path.stem], path) for path in paths if path.suffix == ".png"]
    title = f"The paper's evaluation, budget {found[0].context.budget.name}"
    text = page(title, [study_of(one) for one in found], tables, figures, _provenance(found, command))
    write_whole(output / NAME, text.encode())
    return output / NAME


def command_of(items: Sequence[str], output: Path, budget: str, own: dict[str, Path], seed: int) -> str:
    """The command line that rebuilds the items; ``own``: folders of the user's data, by their role."""
    words = ["crossmorph", "reproduce", ",".join(items), "--budget", budget, "-o", str(output), "--seed", str(seed)]
    for role, folder in own.items():
        words += [f"--{role}", str(folder)]
    return shlex.join(words)


def study_of(found: Found) -> Study:
    """The methods that register, named as in the tables; a CycleGAN only translates."""
    names = {name: label(name, found.smoothness) for name in methods_of("table1", found)}

    def renamed(rows: Sequence[Row]) -> list[Row]:
        return [row._replace(method=names[row.method]) for row in rows if row.method in names]

    rows = [row for name in names for row in renamed(found.rows[name])]
    data = found.context.data
    labels = label_names(data.pairs("test"))
    return Study(data.description, rows, [names[OURS]], times=renamed(found.times), labels=labels)


def _provenance(found: Sequence[Found], command: str) -> dict[str, Any]:
    peers = [name for name in ("syn", "crossmorph") if any(name in one.entries for one in found)]
    data = [
        {
            "what": one.context.data.description,
            "folder": str(one.context.data.folder),
            "sha256": one.context.data.digest,
            "iterations of a stage": one.context.iterations,
        }
        for one in found
    ]
    context = found[0].context
    return {
        "command": command,
        "data": data,
        "budget": context.budget.name,
        "seed of data and trainings": context.seed,
        **origin(peers, DEFAULT_MODELS[2], 1),
    }

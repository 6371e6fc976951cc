"""The results of three methods on three pairs, made by hand, for the tests of what shows them."""

from pathlib import Path

from crossmorph.evaluation.results import Row
from crossmorph.reproduction.budgets import BUDGETS
from crossmorph.reproduction.plan import Context, Data, Entry, Found

DICE = {"none": (0.3, 0.4, 0.5), "vm-nmi": (0.6, 0.7, 0.65), "ours-nmi": (0.7, 0.75, 0.8)}


def rows(name: str, values: tuple[float, ...], score: str = "dice") -> list[Row]:
    return [Row(f"pair-{number}", name, {score: value}) for number, value in enumerate(values)]


def made_up(tmp_path: Path) -> Found:
    data = Data("brainweb", "made up", tmp_path, (128, 128), 1.5, "0")
    times = [
        row for name, value in (("vm-nmi", 0.02), ("ours-nmi", 0.04)) for row in rows(name, (value,) * 3, "seconds")
    ]
    return Found(
        Context(data, BUDGETS["cpu"], tmp_path, 0),
        {name: Entry(name, "peer") for name in DICE},
        {name: rows(name, values) for name, values in DICE.items()},
        times,
        {"vm-nmi": 0.08},
    )

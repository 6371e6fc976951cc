"""The reproduction from an empty folder to the paper's tables and figures: train, score, time, write."""

from collections.abc import Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

from crossmorph.datasets.pairs import read_pairs
from crossmorph.errors import InputError
from crossmorph.evaluation.baselines.common import require
from crossmorph.reproduction import figures, tables
from crossmorph.reproduction.budgets import Budget
from crossmorph.reproduction.datasets import given, simulated
from crossmorph.reproduction.experiments import LONG, best_voxelmorph, cyclegan, generator, hierarchy, voxelmorph
from crossmorph.reproduction.page import command_of, write_page
from crossmorph.reproduction.plan import (
    PAPER_SMOOTHNESS,
    SIMILARITIES,
    Context,
    Data,
    Entry,
    Found,
    Network,
    Role,
    Similarity,
)
from crossmorph.reproduction.scores import rows_of, scoring, speed
from crossmorph.reproduction.task_cache import Task, run_tasks
from crossmorph.system.processes import claimed, workers

Item = Literal["table1", "table2", "table3", "fig2", "fig3", "fig4", "fig5"]
# Of each item: its data set, and whether it needs VoxelMorph and the peers, and whether it needs the CycleGAN.
NEEDS: dict[Item, tuple[Role, bool, bool]] = {
    "table1": ("brainweb", True, False),
    "table2": ("brats", True, False),
    "table3": ("brainweb", False, True),
    "fig2": ("brainweb", True, False),
    "fig3": ("brats", True, False),
    "fig4": ("brainweb", False, True),
    "fig5": ("brainweb", False, False),
}
PEERS = ("none", "affine", "syn", "syn-tuned")


def find_items(what: str) -> list[Item]:
    """The items of a comma-separated list, or of ``all``. Raises InputError where one is unknown."""
    found = [item for name in what.split(",") for item in NEEDS if name in (item, "all")]
    unknown = [name for name in what.split(",") if name not in (*NEEDS, "all")]
    if unknown:
        raise InputError(f"reproduce: received {unknown[0]!r}; expected all, or some of {', '.join(NEEDS)}")
    return list(dict.fromkeys(found))


class Networks(NamedTuple):
    """All networks that are trained on one data set."""

    hierarchies: dict[Similarity, Network]
    voxelmorphs: dict[Similarity, list[Network]]
    long: Network | None
    cyclegan: Network | None

    @property
    def tasks(self) -> list[Task]:
        """Their training tasks."""
        tried = [network for networks in self.voxelmorphs.values() for network in networks]
        more = [network for network in (self.long, self.cyclegan) if network]
        return [network.task for network in (*self.hierarchies.values(), *tried, *more)]


def reproduce(
    items: Sequence[Item],
    output: Path,
    budget: Budget,
    brainweb: Path | None = None,
    brats: Path | None = None,
    jobs: int = 1,
    seed: int = 0,
) -> list[Path]:
    """Train, score, and write tables and figures; tasks that an earlier call finished are not repeated.

    Args:
        items: tables and figures to rebuild.
        output: the folder of tables and figures; it also caches data (``data``) and finished tasks (``cells``).
        budget: numbers of images and iterations.
        brainweb: the folder that ``crossmorph prepare brainweb`` wrote; None: simulated images.
        brats: the same of ``crossmorph prepare brats``.
        jobs: processes, of one thread each.
        seed: of data and trainings.

    Returns:
        The paths of tables and figures, and of the page that shows them.

    Raises:
        InputError: data cannot be used or are not needed, another run or a data set uses the folder, or antspyx is
            needed and not installed.
        FailedTasksError: tasks failed; the finished ones are kept.
    """
    if jobs < 1:
        raise InputError(f"received {jobs} jobs; expected at least 1")
    if any(NEEDS[item][1] for item in items):
        require("ants", "antspyx")  # before hours of training
    roles = dict.fromkeys(NEEDS[item][0] for item in items)
    # The user's data first, so that errors in them show before hours of simulation and training.
    own = _own({"brainweb": brainweb, "brats": brats}, roles)
    output = output.resolve()
    if (output / "dataset.json").exists():
        raise InputError(f"{output}: is a data set; expected a folder of its own for tables, figures and the cache")
    with claimed(output), workers(jobs) as pool:
        made = {role: simulated(role, budget, output / "data", seed) for role in roles if role not in own}
        data = {**own, **made}
        contexts = {role: Context(data[role], budget, output / "cells", seed) for role in roles}
        networks = {role: _networks(contexts[role], items) for role in roles}
        run_tasks([task for found in networks.values() for task in found.tasks], pool, "training")
        stiffer = {role: _as_smooth(contexts[role], found) for role, found in networks.items()}
        run_tasks([network.task for found in stiffer.values() for network in found.values()], pool, "training")
        scores = {role: _scorings(contexts[role], networks[role], stiffer[role]) for role in roles}
        run_tasks([task for found in scores.values() for _, task in found.values()], pool, "scoring")
        found = {role: _found(contexts[role], networks[role], stiffer[role], scores[role], pool) for role in roles}
        paths = [path for item in items for path in _write(item, output, found[NEEDS[item][0]])]
        command = command_of(items, output, budget.name, {role: data[role].folder for role in own}, seed)
        return [*paths, write_page(output, list(found.values()), paths, command)]


def _own(folders: dict[Role, Path | None], roles: Collection[Role]) -> dict[Role, Data]:
    """The user's data sets. Raises InputError where one cannot be used, or no requested item needs it."""
    for role, folder in folders.items():
        if folder and role not in roles:
            raise InputError(f"--{role} {folder}: no requested item uses it; expected other items, or no --{role}")
    return {role: given(role, folder) for role, folder in folders.items() if folder}


def _networks(context: Context, items: Sequence[Item]) -> Networks:
    """The networks that the items need, of one data set."""
    needs = [NEEDS[item] for item in items if NEEDS[item][0] == context.data.role]
    peers, gan = any(need[1] for need in needs), any(need[2] for need in needs)
    tried = {
        similarity: [voxelmorph(context, similarity, smoothness) for smoothness in context.budget.smoothness]
        for similarity in (SIMILARITIES if peers else ())
    }
    return Networks(
        {similarity: hierarchy(context, similarity) for similarity in SIMILARITIES},
        tried,
        voxelmorph(context, "nmi", PAPER_SMOOTHNESS, LONG) if peers and context.data.role == "brainweb" else None,
        cyclegan(context) if gan else None,
    )


def _as_smooth(context: Context, networks: Networks) -> dict[Similarity, Network]:
    """The hierarchy with the smoothness that suits VoxelMorph best, where that is not the paper's.

    On one data set only, as the longer VoxelMorph: each such hierarchy costs as much as the paper's own.
    """
    if context.data.role != "brainweb":
        return {}
    best = {similarity: best_voxelmorph(tried, context.data.role) for similarity, tried in networks.voxelmorphs.items()}
    return {
        similarity: hierarchy(context, similarity, network.smoothness)
        for similarity, network in best.items()
        if network.smoothness != PAPER_SMOOTHNESS
    }


Scorings = dict[str, tuple[Entry, Task]]


def _scorings(context: Context, networks: Networks, stiffer: dict[Similarity, Network]) -> Scorings:
    """Every method of the tables with the task that scores it, by name; ``@clean`` in a name: without noise."""
    listed = _listed(context, networks, stiffer)
    found: Scorings = {entry.name: (entry, scoring(context, entry, network)) for entry, network in listed}
    if networks.cyclegan and context.data.clean:
        for entry, network in listed:
            if entry.kind in ("hierarchy", "cyclegan") or entry.name == "crossmorph":
                found[f"{entry.name}@clean"] = entry, scoring(context, entry, network, clean=True)
        ceiling = Entry("noise-free", "noise-free", context.data.clean)
        found[ceiling.name] = ceiling, scoring(context, ceiling)
    return found


def _listed(
    context: Context, networks: Networks, stiffer: dict[Similarity, Network]
) -> list[tuple[Entry, Network | None]]:
    """Every method, with the network that it needs."""
    listed: list[tuple[Entry, Network | None]] = [(Entry("crossmorph", "peer"), None)]
    if networks.voxelmorphs:
        known = all(pair.field for pair in read_pairs(context.data.pairs("test")))
        listed += [(Entry(name, "peer"), None) for name in (*PEERS, *(["oracle"] if known else []))]
    for similarity, tried in networks.voxelmorphs.items():
        best = best_voxelmorph(tried, context.data.role)
        plain = next(network for network in tried if network.smoothness == PAPER_SMOOTHNESS)
        listed.append((Entry(f"vm-{similarity}", "coarse", best.run), best))
        if plain is not best:
            listed.append((Entry(f"vm-{similarity}-as-ours", "coarse", plain.run), plain))
    if networks.long:
        listed.append((Entry("vm-nmi-long", "coarse", networks.long.run), networks.long))
    for similarity, network in networks.hierarchies.items():
        listed.append((Entry(f"ours-{similarity}", "hierarchy", network.run), network))
        listed.append((Entry(f"ours-{similarity}-coarse", "coarse", network.run), network))
    for similarity, network in stiffer.items():
        listed.append((Entry(f"ours-{similarity}-as-vm", "hierarchy", network.run), network))
    if networks.cyclegan:
        listed.append((Entry("cyclegan", "cyclegan", generator(networks.cyclegan)), networks.cyclegan))
    return listed


def _found(
    context: Context,
    networks: Networks,
    stiffer: dict[Similarity, Network],
    scores: Scorings,
    pool: ProcessPoolExecutor,
) -> Found:
    """All rows of a data set, and the times, which are measured last, while no other task runs."""
    timed = [(entry, task) for name, (entry, task) in scores.items() if "@" not in name and entry.kind != "noise-free"]
    times = speed(context, [entry for entry, _ in timed], [task for _, task in timed])
    run_tasks([times], pool, "timing")
    smoothness = {
        f"vm-{similarity}": best_voxelmorph(tried, context.data.role).smoothness
        for similarity, tried in networks.voxelmorphs.items()
    }
    smoothness |= {f"ours-{similarity}-as-vm": network.smoothness for similarity, network in stiffer.items()}
    rows = {name: rows_of(task) for name, (_, task) in scores.items()}
    return Found(context, {name: entry for name, (entry, _) in scores.items()}, rows, rows_of(times), smoothness)


def _write(item: Item, output: Path, found: Found) -> list[Path]:
    """The files of one table or figure."""
    match item:
        case "table1" | "table2" | "table3":
            return tables.write_table(item, output, found)
        case "fig2" | "fig3" | "fig4" | "fig5":
            return figures.write_figure(item, output, found)

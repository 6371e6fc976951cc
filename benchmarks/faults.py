"""Killed processes, full disks, no memory, two writers, threads: ``python benchmarks/faults.py``.

Each command runs in a forked process that begins with everything imported, so that its time goes into its work, and is
killed: at a random moment of its duration (SIGKILL), just before or after one of its calls that touch, synchronise,
rename or remove a file (SIGKILL), or in the middle of a write, by a limit on the size of files (SIGXFSZ). Then

* every file under a final name is whole: bit by bit that of the undisturbed run, or readable where it holds the time
  or how far a run has come; other names begin with a dot, and the next run leaves them alone or removes them;
* the inputs have the SHA-256 they had;
* the same command, with ``--resume`` for training, ends well with the bits of the undisturbed run.

Then come the conditions of `conditions.py`. Prints tables in Markdown; exits with 1 where anything else happened.
"""

import argparse
import contextlib
import csv
import hashlib
import importlib
import json
import pkgutil
import platform
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from processes import Ended, count_calls, die_at_byte, die_at_call, run, start, survivors, wait

import crossmorph
from crossmorph.datasets.phantom import prepare_phantom
from crossmorph.networks.checkpoint import load_tensors
from crossmorph.system.environment import processor

ROOT = Path(__file__).parent.parent
GROWING = ("metrics.csv", "checkpoint.safetensors", "result.json")  # of another content before the end
LOGS = ("tensorboard",)  # written to as long as a run lasts, not outputs
OUTLIVED = "{} processes outlived the one that began them"
MANNERS = ("moment", "moment", "call", "byte")


@dataclass(frozen=True)
class Work:
    """A command: its words, what is added to go on after a kill, and the folder that it reads."""

    name: str
    words: tuple[str, ...]
    again: tuple[str, ...]
    inputs: Path


# --- what is there ---------------------------------------------------------------------------------------------------


def finals(folder: Path) -> dict[str, Path]:
    """Files under final names, below a folder: those without a dot before any part of their path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(".") for part in parts) and not set(parts) & set(LOGS):
            found["/".join(parts)] = path
    return found


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def essence(path: Path) -> object:
    """What of a whole file must be the same in every run; raises where the file is not whole.

    Records and tables hold times; of a checkpoint that can be read, only a finished run knows what must be in it.
    """
    content = path.read_bytes()
    if path.name == "checkpoint.safetensors":
        return sorted(load_tensors(path)[0])
    if path.suffix == ".json" and path.name not in ("environment.json", "dataset.json"):
        return sorted(json.loads(content))
    if path.suffix == ".csv" and path.name in ("summary.csv", "metrics.csv"):
        if content and not content.endswith(b"\n") and path.name == "summary.csv":
            raise ValueError("its last line is not whole")
        rows = list(csv.reader(content.decode().splitlines()))
        return path.name if path.name == "summary.csv" else [row for row in rows if len(row) == 4]
    return hashlib.sha256(content).hexdigest()


def check(folder: Path, expected: dict[str, object], whole: bool) -> list[str]:
    """What is wrong with the files under final names: damaged, different, unknown, or if ``whole``, missing."""
    found, faults = finals(folder), []
    for name, path in found.items():
        try:
            same = essence(path) == expected.get(name)
        except Exception as error:
            faults.append(f"{name} is not whole ({type(error).__name__}: {error})")
            continue
        growing = name.endswith(GROWING) and not whole
        if name not in expected:
            faults.append(f"{name} is of no undisturbed run")
        elif not same and not growing:
            faults.append(f"{name} differs from that of the undisturbed run")
    if whole:
        faults += [f"{name} is missing" for name in expected.keys() - found.keys()]
    return faults


def hidden(folder: Path) -> int:
    """Number of leftovers: files or folders whose own name begins with a dot; the lock of a cohort is none."""
    return sum(path.name.startswith(".") and path.name != ".lock" for path in folder.rglob("*"))


# --- trials ----------------------------------------------------------------------------------------------------------


class Trial(NamedTuple):
    """One kill: how, whether it struck before the end, leftovers, and what was wrong."""

    manner: str
    struck: bool
    left: int
    faults: list[str]


class Undisturbed(NamedTuple):
    """A run to its end: what it leaves, its seconds, its calls, and the sizes of its files."""

    expected: dict[str, object]
    seconds: float
    calls: int
    sizes: list[int]


def undisturbed(work: Work, folder: Path) -> Undisturbed:
    fresh(folder)
    counter = folder.parent / ".calls"
    ended = run(work.words, folder, lambda: count_calls(counter))
    if ended.code:
        raise SystemExit(f"{work.name} does not run: {ended.errors}")
    found = finals(folder)
    sizes = [path.stat().st_size for path in found.values()]
    return Undisturbed(
        {name: essence(path) for name, path in found.items()}, ended.seconds, int(counter.read_text()), sizes
    )


def fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def kill(
    work: Work, plain: Undisturbed, folder: Path, rng: np.random.Generator, words: tuple[str, ...]
) -> tuple[str, Ended]:
    """Run a command and kill it in a random manner."""
    manner = str(rng.choice(MANNERS))
    if manner == "call":
        number, after = int(rng.integers(1, plain.calls + 1)), bool(rng.integers(2))
        return manner, run(words, folder, lambda: die_at_call(number, after))
    if manner == "byte":
        size = int(rng.integers(1, max(plain.sizes)))
        return manner, run(words, folder, lambda: die_at_byte(size))
    moment = float(rng.uniform(0, plain.seconds))
    alone = work.name == "register --pairs" and rng.random() < 0.5
    process = start(words, folder)
    ended = wait(process, folder, moment, not alone)
    if left := survivors(process):
        ended = ended._replace(errors=ended.errors + OUTLIVED.format(len(left)))
    return manner, ended


def trial(work: Work, plain: Undisturbed, folder: Path, rng: np.random.Generator) -> Trial:
    """Kill a command once, or what goes on as well, look at what is there, and go on to the end."""
    fresh(folder)
    before = digests(work.inputs)
    manner, ended = kill(work, plain, folder, rng, work.words)
    faults = check(folder, plain.expected, whole=False)
    faults += [ended.errors.splitlines()[-1]] if "outlived" in ended.errors else []
    if work.again and rng.random() < 0.5:
        kept = _logged(folder)
        kill(work, plain, folder, rng, (*work.words, *work.again))
        faults += check(folder, plain.expected, whole=False)
        faults += ["rows of metrics.csv were lost"] if not kept <= _logged(folder) else []
    left = hidden(folder)
    done = folder.exists() and not check(folder, plain.expected, whole=True)
    again = run((*work.words, *work.again), folder)
    refused = work.name == "prepare phantom" and done and again.code == 2  # a data set is not overwritten
    if again.code and not refused:
        faults.append(f"the next run ended with {again.code}: {again.errors[-300:]}")
    faults += check(folder, plain.expected, whole=True)
    faults += ["an input changed"] if digests(work.inputs) != before else []
    struck = ended.code < 0 or "File too large" in ended.errors or (manner == "byte" and ended.code != 0)
    return Trial(manner, struck, left, faults)


def _logged(folder: Path) -> set[str]:
    """The rows of a training's log that its checkpoint stands for."""
    log, checkpoint = (next(folder.rglob(name), None) for name in ("metrics.csv", "checkpoint.safetensors"))
    if log is None or checkpoint is None:
        return set()
    stages = {"coarse": 1, "translation": 2, "fine": 3}
    position = int(load_tensors(checkpoint)[1]["stage"])
    rows = [line.split(",") for line in log.read_text().splitlines()]
    return {",".join(row) for row in rows if len(row) == 4 and stages.get(row[1], 9) < position}


def works(data: Path) -> list[Work]:
    """The commands, on a small phantom that is made in ``data``."""
    prepare_phantom(data / "phantom", seed=0, train=4, test=2, validation=1)
    pairs = data / "phantom" / "test" / "pairs.csv"
    images = sorted(map(str, pairs.parent.glob("0000_*_t[12].nii.gz")))
    moving, fixed = (
        next(name for name in images if "moving_t2" in name),
        next(name for name in images if "fixed" in name),
    )
    config = yaml.safe_load((ROOT / "configs" / "smoke.yaml").read_text())
    for split in ("train", "validation"):
        config["data"][split] = str(data / "phantom" / split / "pairs.csv")
    config |= {"output": "run", "batch": 2, "checkpoint_every": 3, "log_every": 2, "validate_every": 100}
    config["stages"] = {stage: {"iterations": 8} for stage in ("coarse", "translation", "fine")}
    (data / "small.yaml").write_text(yaml.safe_dump(config))
    outputs = ("-o", "moved.nii.gz", "-t", "transform.h5", "--inverse", "inverse.nii.gz", "--translated", "t.nii.gz")
    more = ("--ants-prefix", "ants", "--report", "report.png", "--threads", "1", "--keep-failed")
    few = ("--train", "2", "--test", "2", "--validation", "1")
    return [
        Work("register", ("register", moving, fixed, *outputs, *more), (), data),
        Work(
            "register --pairs",
            ("register", "--pairs", str(pairs), "-o", "out", "--threads", "1", "--keep-failed"),
            (),
            data,
        ),
        Work("prepare phantom", ("prepare", "phantom", "-o", "made", *few), (), data),
        Work("train", ("train", str(data / "small.yaml")), ("--resume",), data),
    ]


def warm_up() -> None:
    """Import all that a command may import, on one thread, before processes part."""
    torch.set_num_threads(1)
    importlib.import_module("torch._dynamo")
    for module in pkgutil.iter_modules(crossmorph.__path__):
        if not module.name.startswith("_"):
            with contextlib.suppress(ImportError):
                importlib.import_module(f"crossmorph.{module.name}")


def kills(work: Work, count: int, seconds: float, seed: int, folder: Path) -> Iterator[Trial]:
    """So many trials of a command, or as many as fit into so many seconds."""
    plain = undisturbed(work, folder)
    rng = np.random.default_rng([seed, len(work.name)])
    deadline = time.monotonic() + seconds
    for _ in range(count):
        if time.monotonic() > deadline:
            return
        yield trial(work, plain, folder, rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="of each command")
    parser.add_argument("--seconds", type=float, default=3600.0, help="at most, for the kills of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", metavar="NAME", help="commands whose name begins so")
    arguments = parser.parse_args()
    warm_up()
    from conditions import conditions

    bad = False
    with tempfile.TemporaryDirectory(prefix="crossmorph-faults-") as temporary:
        data = Path(temporary, "data")
        data.mkdir()
        commands = works(data)
        print("| command | kills | at a moment | at a call | in a write | struck | with leftovers | faults |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        for work in commands:
            if not work.name.startswith(arguments.only):
                continue
            trials = list(kills(work, arguments.kills, arguments.seconds, arguments.seed, Path(temporary, "case")))
            manners = Counter(one.manner for one in trials)
            faults = [fault for one in trials for fault in one.faults]
            bad |= bool(faults)
            cells = [work.name, len(trials), *(manners[name] for name in ("moment", "call", "byte"))]
            cells += [sum(one.struck for one in trials), sum(one.left > 0 for one in trials), len(faults)]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)
            for fault, number in Counter(faults).most_common():
                print(f"{work.name}: {number} x {fault}", file=sys.stderr, flush=True)
        if not arguments.only:
            bad |= conditions(commands, Path(temporary))
    machine = f"{processor()}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}"
    print(f"\n{date.today()}, seed {arguments.seed}, on {machine}")
    if bad:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

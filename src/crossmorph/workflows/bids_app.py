"""A BIDS data set in, BIDS derivatives out, as a BIDS App (Gorgolewski et al., doi:10.1371/journal.pcbi.1005209).

The participant level registers the images of each person and may run for several people at the same time, on any
machines that see the same folders: each person's folder belongs to one run at a time. The group level makes the table
and the page of all that is finished by then.

    OUT/dataset_description.json
    OUT/sub-01/anat/sub-01_space-T1w_T2w.nii.gz                        and the transforms, each with a JSON file
    OUT/sub-01/figures/sub-01_from-T2w_to-T1w/result.json              what a run that goes on looks at
    OUT/sub-01.html                                                    the registrations of a person
    OUT/registrations.tsv, OUT/index.html                              of all people (group level)
"""

import contextlib
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from crossmorph.errors import InputError
from crossmorph.provenance.record import record_path
from crossmorph.quality.assessment import Check
from crossmorph.registration.settings import DEFAULTS, Settings
from crossmorph.reports.batch_page import PAGE, Line, load_result, write_batch_page
from crossmorph.reports.numbers import estimate_applies
from crossmorph.system.files import atomic_output, make_folder, write_whole
from crossmorph.system.processes import claimed
from crossmorph.workflows.batch import RESULT, Entry, Task, check_how, failed_checks, register_tasks
from crossmorph.workflows.bids import BidsName, bids_outputs, generator, parsed
from crossmorph.workflows.outputs import Outputs

BIDS_VERSION = "1.10.0"
DESCRIPTION, TABLE = "dataset_description.json", "registrations.tsv"
IGNORED = ("*.html", "*_xfm.*", "sub-*/figures", "registrations.*")  # what validators need not know
SOURCE = "raw"  # name of the data set in BIDS URIs: bids:raw:sub-01/anat/sub-01_T1w.nii.gz
COLUMNS = {
    "participant_id": "The person.",
    "name": "The registration, by the name of its transform.",
    "level": "passed, warning or failed: the worst of the checks.",
    "expected_error": "Expected error over the foreground, millimetres; n/a where it is not known.",
    "mutual_information_before": "Mutual information of the images after the initial affine, nats.",
    "mutual_information_final": "Mutual information of the registered images, nats.",
    "folds_percent": "Cells of the grid at which the field folds, percent.",
    "seconds": "Wall time of the registration.",
    "error": "Why it failed.",
}


class Missing(NamedTuple):
    """A person's session of which no pair can be made, and why."""

    name: str
    reason: str


class Done(NamedTuple):
    """What the participant level did: an entry for each registration, what was left out, and the pages."""

    entries: list[Entry]
    missing: list[Missing]
    pages: list[Path]


class BidsPair(NamedTuple):
    """Two images of one person."""

    moving: Path
    fixed: Path


def register_participants(
    bids_dir: Path,
    output: Path,
    moving: str,
    fixed: str,
    participants: Sequence[str] = (),
    sessions: Sequence[str] = (),
    cpus: int = 1,
    model: str | None = None,
    settings: Settings = DEFAULTS,
    device: str = "auto",
    keep_failed: bool = False,
    reports: bool = False,
    command: str = "crossmorph.workflows.bids_app.register_participants, in Python",
) -> Done:
    """Register the moving image of every person and session to the fixed one of the same.

    Args:
        bids_dir: the data set.
        output: folder of the derivatives; made if need be.
        moving: suffix of the moving images, with entities that tell them apart where need be: ``T2w``,
            ``acq-high_T2w``.
        fixed: likewise; where the session has none, the only one of the person is used.
        participants: labels of people, with or without ``sub-``; all, if none.
        sessions: labels of sessions, likewise.
        cpus: of the machine to use: processes, and threads of each where there are fewer pairs.
        model: as of :func:`crossmorph.workflows.batch.register_batch`.
        settings: likewise.
        device: likewise.
        keep_failed: likewise.
        reports: whether to write a page for each registration.
        command: what was called.

    Raises:
        InputError: no such people or images, the output folder is another program's, or settings cannot be used.
    """
    if cpus < 1:
        raise InputError(f"received {cpus} CPUs; expected at least 1")
    bids_dir, output = bids_dir.absolute(), output.absolute()
    model, settings = check_how(model, settings, device)
    people = _people(bids_dir, participants)
    pairs, missing = _pairs(people, _wanted(moving, "moving"), _wanted(fixed, "fixed"), _labels(sessions, "ses"))
    if not pairs:
        why = f" ({missing[0].name}: {missing[0].reason})" if missing else ""
        raise InputError(f"{bids_dir}: no pair of {moving} and {fixed} in {len(people)} participants{why}")
    jobs = min(cpus, len(pairs))
    how = (model, settings, device, cpus // jobs, keep_failed, command)
    tasks = [_task(pair, bids_dir, output, reports, *how) for pair in pairs]
    _check_apart(tasks)
    _describe(bids_dir, output)
    names = list(dict.fromkeys(_person(task.name) for task in tasks))
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(claimed(output / name))
        entries = register_tasks(tasks, jobs)
        title = f"{moving} to {fixed}"
        pages = [_write_person(output, name, title, entries, command) for name in names]
    return Done(entries, missing, pages)


def _person(registration: str) -> str:
    return registration.partition("_")[0]


def _write_person(output: Path, name: str, title: str, entries: Sequence[Entry], command: str) -> Path:
    """The page of a person, with what failed before it had a result."""
    lines = _lines(output, name)
    known = {line.name for line in lines}
    ours = (entry for entry in entries if _person(entry.name) == name and entry.name not in known)
    lines += [Line(entry.name, {}, entry.error) for entry in ours]
    return _write_page(output, f"{name}.html", f"{title}, {name}", lines, command)


def summarise_group(output: Path, command: str | None = None) -> list[Path]:
    """Write the table and the page of all registrations of a folder of derivatives.

    Args:
        output: where the participant level wrote.
        command: what was called.

    Returns:
        The files.

    Raises:
        InputError: there is no registration.
    """
    output = output.absolute()
    lines = _lines(output, "sub-*")
    if not lines:
        raise InputError(f"{output}: no registrations; expected the folder that the participant level wrote")
    with atomic_output(output / TABLE) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream, delimiter="\t", lineterminator="\n")
        rows.writerow(COLUMNS)
        rows.writerows(map(_row, lines))
    described = {name: {"Description": text} for name, text in COLUMNS.items()}
    sidecar = (output / TABLE).with_suffix(".json")
    write_whole(sidecar, (json.dumps(described, indent=2) + "\n").encode())
    page = _write_page(output, PAGE, f"{len(lines)} registrations in {output.name}", lines, command)
    return [output / TABLE, sidecar, page]


# --- the images ------------------------------------------------------------------------------------------------------


def _wanted(text: str, role: str) -> BidsName:
    found = parsed(text)
    if found is None:
        raise InputError(f"--{role} {text}: expected a BIDS suffix, with entities if need be: acq-high_T2w")
    return found


def _labels(given: Sequence[str], entity: str) -> list[str]:
    return [label.removeprefix(f"{entity}-") for label in given]


def _people(bids_dir: Path, participants: Sequence[str]) -> list[Path]:
    """The folders of the people."""
    there = {path.name: path for path in sorted(bids_dir.glob("sub-*")) if path.is_dir()}
    if not there:
        raise InputError(f"{bids_dir}: no folders sub-*; expected a BIDS data set")
    wanted = [f"sub-{label}" for label in _labels(participants, "sub")] or list(there)
    if absent := [name for name in wanted if name not in there]:
        raise InputError(f"--participant-label: no {', '.join(absent)} in {bids_dir}, which has {len(there)} people")
    return [there[name] for name in dict.fromkeys(wanted)]


def _pairs(
    people: Sequence[Path], moving: BidsName, fixed: BidsName, sessions: Sequence[str]
) -> tuple[list[BidsPair], list[Missing]]:
    """Every moving image with its fixed one, and the sessions that have none."""
    pairs: list[BidsPair] = []
    missing: list[Missing] = []
    for person in people:
        names = _images(person)
        stills = [path for path, name in names.items() if _fits(name, fixed)]
        for session in dict.fromkeys(name.entities.get("ses") for name in names.values()):
            if sessions and session not in sessions:
                continue
            ours = [path for path, name in names.items() if name.entities.get("ses") == session]
            still = [path for path in stills if path in ours] or stills
            movers = [path for path in ours if _fits(names[path], moving) and path not in still]
            if reason := _lacking(movers, still, moving, fixed):
                missing.append(Missing(person.name + (f"_ses-{session}" if session else ""), reason))
            else:
                pairs += [BidsPair(path, still[0]) for path in movers]
    return pairs, missing


def _lacking(movers: list[Path], still: list[Path], moving: BidsName, fixed: BidsName) -> str:
    """Why a session has no pair, empty where it has."""
    for found, wanted in ((movers, moving), (still, fixed)):
        if not found:
            return f"no {_text(wanted)}"
    if len(still) > 1:
        return f"{len(still)} images may be the fixed one ({', '.join(path.name for path in still)}); name its entities"
    return ""


def _text(name: BidsName) -> str:
    return "".join(f"{key}-{value}_" for key, value in name.entities.items()) + name.suffix


def _images(person: Path) -> dict[Path, BidsName]:
    """The NIfTI images of a person with BIDS names."""
    found = {}
    for pattern in ("*/*", "ses-*/*/*"):
        for path in sorted(person.glob(pattern)):
            if path.name.endswith((".nii", ".nii.gz")):
                name = parsed(path.name.removesuffix(".gz").removesuffix(".nii"))
                if name and f"sub-{name.entities.get('sub')}" == person.name:
                    found[path] = name
    return found


def _fits(name: BidsName, wanted: BidsName) -> bool:
    return name.suffix == wanted.suffix and wanted.entities.items() <= name.entities.items()


# --- the derivatives -------------------------------------------------------------------------------------------------


def _task(pair: BidsPair, bids_dir: Path, output: Path, reports: bool, *how: Any) -> Task:
    """A registration whose files have the names of derivatives; its result lies among the person's figures."""
    place = pair.moving.parent.relative_to(bids_dir)

    def uri(path: Path) -> str:
        return f"bids:{SOURCE}:{path.relative_to(bids_dir).as_posix()}"

    outputs = bids_outputs(pair.moving, pair.fixed, output / place, uri)
    assert outputs.transform
    name = outputs.transform.name.replace("_mode-image", "").removesuffix("_xfm.h5")
    folder = output / place.parts[0] / "figures" / name
    if reports:
        outputs = outputs._replace(report=folder / "report.html")
    return Task(name, *pair, folder, _with_skull(outputs, pair.moving, bids_dir), *how)


def _with_skull(outputs: Outputs, moving: Path, bids_dir: Path) -> Outputs:
    """With ``SkullStripped``, which the standard asks of resampled images: as the image's own JSON file says it.

    Without a word there, raw data are as the scanner made them.
    """
    raw = _json(bids_dir / DESCRIPTION).get("DatasetType", "raw") == "raw"
    said = _json(record_path(moving)).get("SkullStripped", False if raw else None)
    if said is None:
        return outputs
    first, *others = outputs.sidecars
    return outputs._replace(sidecars=(first._replace(content={**first.content, "SkullStripped": said}), *others))


def _json(path: Path) -> dict[str, Any]:
    """The content of a JSON file of the data set, empty where there is none that can be read."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_bytes())
        return found if isinstance(found, dict) else {}
    return {}


def _check_apart(tasks: Sequence[Task]) -> None:
    """No two registrations may have one name."""
    seen: dict[str, Task] = {}
    for task in tasks:
        if other := seen.get(task.name):
            raise InputError(f"{other.moving} and {task.moving}: the same BIDS name; expected one of the two")
        seen[task.name] = task


def _describe(bids_dir: Path, output: Path) -> None:
    """Make the folder of derivatives with its description, unless it is another program's."""
    if output.resolve() == bids_dir.resolve():
        raise InputError(f"{output}: is the data set; expected another folder for the derivatives")
    path = output / DESCRIPTION
    if path.exists() and "crossmorph" not in (each.get("Name") for each in _json(path).get("GeneratedBy", [])):
        raise InputError(f"{output}: has the derivatives of another program; expected a folder of its own")
    make_folder(output)
    link = bids_dir.as_uri()
    description = {
        "Name": "Registered images and transforms",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [generator()],
        "SourceDatasets": [{"URL": link}],
        "DatasetLinks": {SOURCE: link},
    }
    write_whole(path, (json.dumps(description, indent=2) + "\n").encode())
    write_whole(output / ".bidsignore", ("\n".join(IGNORED) + "\n").encode())


# --- tables and pages ------------------------------------------------------------------------------------------------


def _lines(output: Path, people: str) -> list[Line]:
    """The registrations that lie in the folders of people, those that failed included."""
    lines = []
    for path in sorted(output.glob(f"{people}/figures/*/{RESULT}")):
        result = load_result(path)
        failed = failed_checks(result) if "checks" in result else []
        error = str(result.get("error", "")) or (f"checks failed ({', '.join(failed)})" if failed else "")
        lines.append(Line(path.parent.name, result, error, path.parent.relative_to(output).as_posix()))
    return lines


def _write_page(output: Path, name: str, title: str, lines: Sequence[Line], command: str | None) -> Path:
    write_batch_page(output / name, title, lines, {"command": command})
    return output / name


def _row(line: Line) -> list[str]:
    """A row of the table; what is not known is ``n/a``, as the standard wants it."""
    checks = [Check(**each) for each in line.result.get("checks", [])]
    measures = dict(line.result.get("measures", {}))
    if not estimate_applies(checks):
        measures.pop("expected_error", None)
    warned = any(check.level == "warning" for check in checks)
    level = "failed" if line.error else "warning" if warned else "passed"
    numbers = [measures.get(name) for name in list(COLUMNS)[3:7]]
    cells = (_person(line.name), line.name, level, *numbers, line.result.get("seconds"), line.error or None)
    return ["n/a" if cell is None else f"{cell:.6g}" if isinstance(cell, float) else str(cell) for cell in cells]

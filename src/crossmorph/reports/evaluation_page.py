"""The page of an evaluation: worst pairs first, then tables and plots; one HTML file that needs nothing else.

The results do not hold the fields, so pictures of the worst pairs are made while an evaluation runs
(:func:`keep_worst`), and those of pairs that are no longer among the worst are forgotten.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import PIL.Image

from crossmorph.datasets.pairs import label_names
from crossmorph.errors import InputError
from crossmorph.evaluation.baselines.common import SEED
from crossmorph.evaluation.evaluate import OURS, Case, Outcome, evaluate
from crossmorph.evaluation.results import (
    LABEL,
    Row,
    Statistic,
    caption,
    markdown_rows,
    markdown_table,
    summarise,
)
from crossmorph.networks.checkpoint import find_card, read_card
from crossmorph.provenance.record import digest, weights_of
from crossmorph.reports.html import templates
from crossmorph.reports.layers import LOSSLESS, data_uri
from crossmorph.reports.planes import panels_of
from crossmorph.reports.plots import DOTS, plots_of
from crossmorph.system.environment import processor, versions
from crossmorph.system.files import atomic_output, brief, suffix_of
from crossmorph.transforms.warp import Warp

WORST = 3  # pairs of each method
FIGURE_BYTES = 500_000
MOST_FAILURES = 100  # that are listed
LOWEST = 3  # labels of a pair that are named with their Dice
# Scores that pairs are ranked by, and whether more is better. The last is known of every field.
RANKED = {"dice": 1, "mse_percent": -1, "epe_mm": -1, "min_jacobian": 1}
PACKAGES = {
    "affine": "antspyx",
    "syn": "antspyx",
    "syn-tuned": "antspyx",
    "elastix": "itk-elastix",
    "greedy": "picsl-greedy",
    "dipy": "dipy",
}

BOUND = "\u00a0±\u00a0"  # a line does not break there

Pictures = dict[str, str]  # data URIs by what they show


class Seen(NamedTuple):
    """A pair that one method did badly on, as far as the evaluation went."""

    badness: float
    pair: str
    pictures: Pictures


Kept = dict[tuple[str, str], list[Seen]]  # by method and score, the worst first, no more than ``WORST``


class Study(NamedTuple):
    """Methods on one set of pairs.

    Attributes:
        title: of the pairs, empty where a page has one study only.
        rows: the methods' names in them are shown as they are.
        worst: methods whose worst pairs are shown.
        pictures: of pairs, by method and pair.
        times: rows that hold seconds alone, where those were measured apart.
        labels: names of labels, by their numbers; a label without one keeps its number.
    """

    title: str
    rows: Sequence[Row]
    worst: Sequence[str]
    pictures: Mapping[tuple[str, str], Pictures] = {}
    times: Sequence[Row] = ()
    labels: Mapping[str, str] = {}


class Block(NamedTuple):
    """A part of what :func:`crossmorph.evaluation.results.markdown_table` and its like write."""

    kind: Literal["heading", "table", "text"]
    text: str
    cells: list[list[str]]


def evaluate_with_page(
    pairs_csv: str | Path,
    methods: Sequence[str],
    output: str | Path,
    report: str | Path,
    model: str,
    threads: int = 1,
    count: int | None = None,
    command: str | None = None,
) -> list[Row]:
    """Evaluate as :func:`crossmorph.evaluation.evaluate.evaluate` does, and write the page beside the rows.

    Args:
        pairs_csv: the list.
        methods: their names.
        output: the CSV of results.
        report: the page, ``.html``; it appears whole after the CSV.
        model: weights, of :func:`crossmorph.evaluation.evaluate.chosen_model`.
        threads: of the CPU.
        count: take only the first so many pairs.
        command: the command line, to be shown.

    Raises:
        InputError: as ``evaluate``, or the page has another suffix, a place that cannot be written, or the name of the
            list or of the results.
    """
    report = Path(report)
    suffix_of(report, (".html",), "report")
    if report.resolve() in (Path(pairs_csv).resolve(), Path(output).resolve()):
        raise InputError(f"{report}: is the list of pairs or the results; expected another file for the report")
    kept: Kept = {}
    with atomic_output(report) as temporary:
        rows = evaluate(pairs_csv, methods, output, model, threads, count, partial(keep_worst, kept))
        names = list(dict.fromkeys(methods))
        # Whoever opens the page wants to see ours first.
        ours = sorted(names, key=lambda name: not name.startswith("crossmorph"))
        labels = label_names(pairs_csv)
        study = Study("", rows, ours, _pictures(kept), labels=labels)
        tables = tables_of(rows, labels, caption(pairs_csv, rows, model, threads))
        data = {"list": str(pairs_csv), "sha256": digest(Path(pairs_csv))}
        provenance = {"command": command or "a call from Python", "data": data, **origin(names, model, threads)}
        title = f"{len(names)} method{'s'[: len(names) != 1]} on {pairs_csv}"
        temporary.write_text(page(title, [study], tables, [], provenance), "utf-8")
    return rows


def tables_of(rows: Sequence[Row], labels: Mapping[str, str], caption: str) -> list[str]:
    """Markdown of the scores of each method, and of the Dice of each label: a row each, however many there are.

    Args:
        rows: of the evaluation.
        labels: names of labels, by their numbers.
        caption: below the scores.
    """
    whole, summaries = summarise([_without_labels(row) for row in rows]), summarise(rows)
    tables = [markdown_table(whole, caption)]
    found = {name: None for summary in summaries for name in summary.scores if name.startswith(LABEL)}
    if found:
        head = ["label", *(summary.method for summary in summaries)]
        cells = [
            [_label(name, labels), *(_dice(summary.scores.get(name)) for summary in summaries)]
            for name in sorted(found, key=lambda name: int(name.removeprefix(LABEL)))
        ]
        note = "Mean ± standard deviation over the pairs that have the label."
        tables.append(f"## Dice % of each label\n\n{markdown_rows([head, *cells])}\n\n{note}")
    return tables


def _without_labels(row: Row) -> Row:
    return row._replace(scores={name: value for name, value in row.scores.items() if not name.startswith(LABEL)})


def _label(column: str, labels: Mapping[str, str]) -> str:
    """The name of a label by its column, its number where it has none."""
    number = column.removeprefix(LABEL)
    return labels.get(number, number).replace("|", "/")  # a bar ends a cell


def _dice(found: Statistic | None) -> str:
    if found is None:
        return "-"
    return f"{100 * found.mean:.1f}" + ("" if math.isnan(found.sd) else f" ± {100 * found.sd:.1f}")


def _pictures(kept: Kept) -> dict[tuple[str, str], Pictures]:
    return {(method, seen.pair): seen.pictures for (method, _), some in kept.items() for seen in some}


def origin(methods: Sequence[str], model: str, threads: int) -> dict[str, Any]:
    """How the methods of an evaluation were run: weights, threads, seed, hardware and versions."""
    found: dict[str, Any] = {}
    if set(methods) & set(OURS):
        path = find_card(model)
        found["model"] = weights_of(read_card(path), path).model_dump()
    peers = sorted({PACKAGES[name] for name in methods if name in PACKAGES})
    if peers:
        found["seed of peers that draw at random"] = SEED
    return found | {
        "threads": threads,
        "hardware": processor(),
        "versions": versions() | {name: metadata.version(name) for name in peers},
    }


# --- worst pairs -----------------------------------------------------------------------------------------------------


def keep_worst(kept: Kept, row: Row, case: Case, outcome: Outcome) -> None:
    """Keep pictures of a pair if it is one of its method's worst so far, and forget the one it replaces.

    Args:
        kept: what was kept before; changed.
        row: the pair's scores; the worst are kept by each score of ``RANKED``.
        case: the pair.
        outcome: what the method made of it.
    """
    pictures: Pictures | None = None
    for score in RANKED.keys() & row.scores.keys():
        some = kept.setdefault((row.method, score), [])
        badness = _badness(row, score)
        if len(some) == WORST and badness <= some[-1].badness:
            continue
        if pictures is None:
            pictures = draw_pictures(case, outcome.warp)
        some.append(Seen(badness, row.pair, pictures))
        some.sort(key=lambda seen: -seen.badness)
        del some[WORST:]


def _badness(row: Row, score: str) -> float:
    return -RANKED[score] * row.scores[score]


def ranking(rows: Sequence[Row]) -> str:
    """The score of ``RANKED`` that most rows have; the last only where no row has another."""
    counts = {score: sum(score in row.scores for row in rows) for score in RANKED}
    *better, last = counts
    best = max(better, key=lambda score: counts[score])
    return best if counts[best] else last


def worst_rows(rows: Sequence[Row], method: str, score: str) -> list[Row]:
    """The rows of a method's ``WORST`` worst pairs by a score, the worst first."""
    known = [row for row in rows if row.method == method and score in row.scores]
    return sorted(known, key=lambda row: -_badness(row, score))[:WORST]


def draw_pictures(case: Case, warp: Warp) -> Pictures:
    """Small pictures of a registered pair: fixed, moved, and a checkerboard of both; of a volume an axial plane.

    See :func:`crossmorph.reports.planes.panels_of`. An image that cannot be scaled gives none.
    """
    with suppress(InputError):
        panels = panels_of(case.moving, case.fixed, warp)
        return {name: data_uri(PIL.Image.fromarray(panel), LOSSLESS) for name, panel in panels.items()}
    return {}


# --- the page --------------------------------------------------------------------------------------------------------


def page(
    title: str,
    studies: Sequence[Study],
    tables: Sequence[str],
    figures: Sequence[tuple[str, Path]],
    provenance: dict[str, Any],
) -> str:
    """The page as text.

    Args:
        title: what was evaluated.
        studies: rows, of which worst pairs, failures and plots are shown.
        tables: Markdown of headings, tables and paragraphs, as :mod:`crossmorph.evaluation.results` writes it.
        figures: what they show, and PNG; they are shown smaller where they are large.
        provenance: what made the results: text, numbers, and lists and mappings of them.
    """
    rows = [row for study in studies for row in study.rows]
    failures = [(row.method, brief(row.pair), brief(row.error)) for row in rows if row.error]
    return (
        templates()
        .get_template("evaluation.html")
        .render(
            title=title,
            count=len(rows),
            failures=failures[:MOST_FAILURES],
            failed=len(failures),
            worst=[part for study in studies if (part := _worst_of(study))],
            blocks=[block for text in tables for block in blocks_of(text)],
            plots=[(study.title, some) for study in studies if (some := plots_of(study.rows, study.times))],
            dots=DOTS,
            figures=[(what, path.name, shrunk(path)) for what, path in figures],
            provenance=provenance,
        )
    )


def _worst_of(study: Study) -> dict[str, Any] | None:
    """The worst pairs of each method as the template takes them, None where there are none."""
    score = ranking(study.rows)
    (heading,) = _cells(Row("", "", {score: 0.0}))
    methods = []
    for method in study.worst:
        rows = worst_rows(study.rows, method, score)
        cells = [_cells(_without_labels(row)) | _lowest(row, study.labels) for row in rows]
        scores = [{heading: some[heading]} | some for some in cells]  # what they are ranked by stands first
        pictures = [study.pictures.get((method, row.pair), {}) for row in rows]
        cases = list(zip([brief(row.pair) for row in rows], scores, pictures, strict=True))
        if cases:
            methods.append((method, cases))
    way = "lowest" if RANKED[score] > 0 else "highest"
    return {"title": study.title, "score": heading, "way": way, "methods": methods} if methods else None


def _cells(row: Row) -> dict[str, str]:
    """The scores of a row by their headings, as a table shows them."""
    heads, _, values = blocks_of(markdown_table(summarise([row])))[0].cells
    # A mean and a median of one pair are the same number.
    return {head: value.partition(" (")[0] for head, value in zip(heads[1:], values[1:], strict=True)}


def _lowest(row: Row, labels: Mapping[str, str]) -> dict[str, str]:
    """The Dice of the labels that fit least, by their headings."""
    dice = sorted((value, name) for name, value in row.scores.items() if name.startswith(LABEL))
    return {f"Dice {_label(name, labels)} %": f"{100 * value:.1f}" for value, name in dice[:LOWEST]}


def blocks_of(markdown: str) -> list[Block]:
    """Headings, tables (their second row is the rule) and paragraphs; blank lines lie between them."""
    blocks = []
    for part in filter(None, (part.strip() for part in markdown.split("\n\n"))):
        if part.startswith("| "):
            lines = [line.strip().strip("|").replace(" ± ", BOUND).split("|") for line in part.splitlines()]
            cells = [[cell.strip(" ") for cell in line] for line in lines]
            blocks.append(Block("table", "", cells))
        elif part.startswith("#"):
            blocks.append(Block("heading", part.lstrip("# "), []))
        else:
            blocks.append(Block("text", part, []))
    return blocks


def shrunk(path: Path) -> str:
    """A PNG as a data URI of few bytes: in 256 colours, and smaller until it has no more than ``FIGURE_BYTES``."""
    with PIL.Image.open(path) as stored:
        whole = stored.convert("RGB")
    side, most = 1.0, FIGURE_BYTES * 4 / 3  # base64 has 4 letters for 3 bytes
    while True:
        size = round(whole.width * side), round(whole.height * side)
        small = whole.resize(size, PIL.Image.Resampling.LANCZOS) if side < 1 else whole
        uri = data_uri(small.quantize(256, dither=PIL.Image.Dither.NONE), LOSSLESS)
        if len(uri) <= most or min(size) < 100:
            return uri
        side *= 0.95 * math.sqrt(most / len(uri))

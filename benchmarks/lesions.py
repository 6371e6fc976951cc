"""What a lesion in one image does to a registration: ``python benchmarks/lesions.py --anatomies FOLDER -o FILE``.

Pairs of one person under a known field (test people of ``crossmorph prepare anatomies``) and of the template. Into the
fixed image a lesion of 10, 20 or 40 mm is put, which pushes aside what lies around it; the true field includes that.
The error is the mean distance, mm, of the field that is found from the true one over the tissue outside the lesion: all
of it, and what lies within 15 mm of the lesion. Conditions:

* ``no lesion``: the pair as it was, nothing pushed; its error where the lesion will be near;
* ``pushed``: what the lesion pushes aside, healthy inside: to this the lesion's appearance adds;
* ``lesion``, ``outline`` (its outline ignored) and ``auto`` (``--ignore auto``): the lesion itself.

Rows that are in the file already are not measured again. One thread.
"""

import argparse
import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from crossmorph import Image, load_model
from crossmorph.networks.checkpoint import Model
from crossmorph.quality.calibration.people_pairs import draw_people
from crossmorph.quality.calibration.simulated_pair import Setting, SimulatedPair
from crossmorph.quality.calibration.template_pairs import draw_template
from crossmorph.registration.disagreement import with_disagreement
from crossmorph.registration.register_images import register_images
from crossmorph.simulation.lesions import PUSH, WIDTH

DIAMETERS = (10.0, 20.0, 40.0)  # mm
NEAR = 15.0  # mm from the lesion
KINDS = ("one person", "deformed person", "smooth", "rough")
CONDITIONS = ("no lesion", "pushed", "lesion", "outline", "auto")
COLUMNS = ("dim", "pair", "source", "kind", "diameter_mm", "condition", "error_mm", "near_mm", "found", "false")
SOURCES = {"people": draw_people, "template": draw_template}
RESAMPLES = 2000  # of the bootstrap
MOST_DRAWN = 60  # pairs that are looked at for each one that is used


def draw(source: str, setting: Setting, seed: int) -> SimulatedPair:
    """A pair of one anatomy under a known field, whose fixed image has no lesion."""
    for attempt in range(MOST_DRAWN):
        rng = np.random.default_rng([seed, attempt, 77])
        pair = SOURCES[source](setting, rng)
        if pair.kind in KINDS and pair.truth is not None and not pair.lesion.any():
            return pair
    raise RuntimeError(f"no pair of {KINDS} in {MOST_DRAWN}")


def with_lesion(whole: SimulatedPair, rng: np.random.Generator, radius: float) -> tuple[SimulatedPair, SimulatedPair]:
    """The pair with a lesion of some radius (mm) in the fixed image, and with what it has pushed aside alone.

    The tissue at ``x`` lay at ``x - p (x - c) exp(-|x - c|^2 / w^2)`` before (:mod:`crossmorph.simulation.lesions`).
    """
    spacing, dim = whole.fixed.spacing[0], whole.fixed.dim
    column = (-1, *[1] * dim)
    depth = ndimage.distance_transform_edt(whole.tissue) * spacing
    places = np.argwhere(depth > min(0.8 * radius, 0.95 * depth.max()))
    centre = places[rng.integers(len(places))].reshape(column)
    voxels = np.indices(whole.fixed.shape, dtype=float)
    offset = voxels - centre
    distance = np.linalg.norm(offset, axis=0) * spacing
    before = voxels - rng.uniform(*PUSH) * offset * np.exp(-((distance / (WIDTH * radius)) ** 2))

    def carried(values: np.ndarray, order: int = 1) -> np.ndarray:
        return ndimage.map_coordinates(values, before, order=order, mode="nearest")

    assert whole.truth is not None
    truth = (before - voxels) * spacing + np.stack([carried(component) for component in whole.truth])
    ripples = ndimage.gaussian_filter(rng.standard_normal(whole.fixed.shape), 4.0)
    inside = distance < radius * (1 + 0.2 * np.clip(ripples / ripples.std(), -2, 2) / 2)
    soft = ndimage.gaussian_filter(inside.astype(np.float32), 0.7)
    bright = float(np.quantile(whole.fixed.data, 0.99)) * rng.uniform(0.0, 1.0)
    data = carried(whole.fixed.data) * (1 - soft) + soft * bright
    tissue = carried(whole.tissue.astype(np.float32)) > 0.5
    images = (Image(each.astype(np.float32), whole.fixed.affine) for each in (data, carried(whole.fixed.data)))
    lesioned, pushed = (whole._replace(fixed=fixed, truth=truth, tissue=tissue, lesion=inside) for fixed in images)
    return lesioned, pushed


def errors(field: np.ndarray, pair: SimulatedPair, lesion: np.ndarray) -> tuple[float, float]:
    """Mean error over the tissue outside a lesion, and over what of it lies near."""
    missed = np.linalg.norm(field - pair.truth, axis=0)
    apart = ndimage.distance_transform_edt(~lesion) * pair.fixed.spacing[0]
    outside = pair.tissue & ~lesion
    return float(missed[outside].mean()), float(missed[outside & (apart < NEAR)].mean())


def measured(moving: Image, fixed: Image, model: Model, ignore: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The field, mm on the fixed image's grid, and what was ignored there; ``ignore``: by the images' disagreement."""
    found = register_images(moving, fixed, model)
    if ignore:
        again = with_disagreement(fixed, found.pair, found.result, found.grid)
        if again is not None:
            fixed, found = again, register_images(moving, again, model)
    ignored = np.zeros(fixed.shape, bool) if fixed.ignored is None else fixed.ignored
    return found.warp.displacement, ignored


def rows_of(source: str, setting: Setting, number: int, model: Model) -> Iterator[dict[str, object]]:
    """All conditions and sizes of a pair."""
    whole = draw(source, setting, number)
    plain = measured(whole.moving, whole.fixed, model)
    for diameter in DIAMETERS:
        lesioned, pushed = with_lesion(whole, np.random.default_rng([number, int(diameter)]), diameter / 2)
        lesion, fixed = lesioned.lesion, lesioned.fixed
        found = {
            "no lesion": (plain, whole),
            "pushed": (measured(whole.moving, pushed.fixed, model), lesioned),
            "lesion": (measured(whole.moving, fixed, model), lesioned),
            "outline": (measured(whole.moving, replace(fixed, ignored=lesion), model), lesioned),
            "auto": (measured(whole.moving, fixed, model, ignore=True), lesioned),
        }
        for condition, ((field, ignored), pair) in found.items():
            everywhere, near = errors(field, pair, lesion)
            covered = float((ignored & lesion).sum() / lesion.sum())
            false = float((ignored & ~lesion & pair.tissue).sum() / pair.tissue.sum())
            values = (setting.dim, number, source, whole.kind, diameter, condition, everywhere, near, covered, false)
            yield dict(zip(COLUMNS, values, strict=True))


def summary(rows: list[dict[str, str]]) -> str:
    """Means over the pairs, with 95% bootstrap intervals of the error near the lesion."""
    titles = "dim", "lesion, mm", "condition", "error, mm", "within 15 mm of it", "of it ignored", "of the rest"
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    rng = np.random.default_rng(0)
    for dim in sorted({row["dim"] for row in rows}):
        for diameter in sorted({row["diameter_mm"] for row in rows}, key=float):
            for condition in CONDITIONS:
                chosen = [r for r in rows if (r["dim"], r["diameter_mm"], r["condition"]) == (dim, diameter, condition)]
                if not chosen:
                    continue
                values = {name: np.array([float(r[name]) for r in chosen]) for name in COLUMNS[6:]}
                means = rng.choice(values["near_mm"], (RESAMPLES, len(chosen))).mean(1)
                low, high = np.quantile(means, (0.025, 0.975))
                lines.append(
                    f"| {dim} | {float(diameter):.0f} | {condition} | {values['error_mm'].mean():.2f} | "
                    f"{values['near_mm'].mean():.2f} ({low:.2f} to {high:.2f}) | {values['found'].mean():.0%} | "
                    f"{values['false'].mean():.1%} |"
                )
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing in the table, and print its summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anatomies", type=Path, required=True, help="folder that crossmorph prepare anatomies wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, help="table to write or to go on with, .csv")
    parser.add_argument("--dim", type=int, choices=(2, 3), default=3)
    parser.add_argument("--pairs", type=int, default=8, help="of each source")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model("any-2d" if chosen.dim == 2 else "any-3d")
    setting = Setting(tuple(model.card.shape), model.card.spacing, chosen.split, chosen.anatomies)
    rows = list(csv.DictReader(chosen.output.open())) if chosen.output.exists() else []
    done = {(row["dim"], row["pair"], row["source"]) for row in rows}
    for number in range(chosen.pairs):
        for source in SOURCES:
            if (str(chosen.dim), str(number), source) in done:
                continue
            measured_now = rows_of(source, setting, number, model)
            rows += [{name: str(value) for name, value in row.items()} for row in measured_now]
            with chosen.output.open("w", newline="") as stream:
                writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
    print(summary(rows))


if __name__ == "__main__":
    main()

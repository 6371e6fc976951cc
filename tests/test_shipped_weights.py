"""What the README promises of the shipped weights, on freshly simulated pairs at the test levels."""

import numpy as np
import pytest

from crossmorph.data.phantom import prepare_phantom
from crossmorph.evaluation import evaluate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shipped")
    prepare_phantom(folder / "phantom", seed=11, train=1, validation=1, test=24)
    methods = ["affine", "coarse", "crossmorph"]
    rows = evaluate(folder / "phantom" / "test" / "pairs.csv", methods, folder / "results.csv")
    assert not any(row.error for row in rows)
    return {method: [row.scores for row in rows if row.method == method] for method in methods}


def mean(scores: list[dict[str, float]], name: str) -> float:
    return float(np.mean([row[name] for row in scores]))


def test_every_stage_earns_its_place(scores):
    final, coarse = ([row["dice"] for row in scores[name]] for name in ("crossmorph", "coarse"))
    gains = np.subtract(final, coarse)
    assert gains.mean() > 2 * gains.std(ddof=1) / np.sqrt(len(gains)) > 0
    assert mean(scores["crossmorph"], "dice") > mean(scores["coarse"], "dice") > mean(scores["affine"], "dice")


def test_accuracy_is_what_is_promised(scores):
    assert mean(scores["crossmorph"], "dice") > 0.84
    assert mean(scores["crossmorph"], "psnr") > 24
    assert mean(scores["crossmorph"], "epe_mm") < 1.5
    assert np.median([row["folds_percent"] for row in scores["crossmorph"]]) == 0

"""What the README promises of the shipped weights, on freshly simulated pairs at the test levels."""

import numpy as np
import pytest

from crossmorph.datasets.phantom import prepare_phantom
from crossmorph.evaluation.evaluate import evaluate

pytestmark = pytest.mark.slow
METHODS = ["affine", "start", "coarse", "crossmorph", "crossmorph-refined"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shipped") / "phantom"
    prepare_phantom(folder, seed=11, train=1, validation=1, test=24, extra={"contrasts": 4, "heads": 6, "far": 16})
    return folder


def scores(pairs, methods):
    rows = evaluate(pairs, methods, pairs.with_name(f"results-{pairs.stem}.csv"))
    assert not any(row.error for row in rows)
    return {method: [row.scores for row in rows if row.method == method] for method in methods}


@pytest.fixture(scope="module")
def smooth(folder):
    return scores(folder / "test" / "pairs.csv", METHODS)


def mean(scores: list[dict[str, float]], name: str) -> float:
    return float(np.mean([row[name] for row in scores]))


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_every_stage_earns_its_place(smooth, stage):
    earlier, later = ([row["dice"] for row in smooth[name]] for name in METHODS[stage - 1 : stage + 1])
    gains = np.subtract(later, earlier)
    if stage == 1:  # ANTs' affine, as good as an affine map may be
        assert gains.mean() > -0.02
    else:
        assert gains.mean() > 2 * gains.std(ddof=1) / np.sqrt(len(gains)) > 0


def test_accuracy_is_what_is_promised(smooth):
    final = smooth["crossmorph"]
    assert mean(final, "dice") > 0.855
    assert mean(final, "psnr") > 24
    assert mean(final, "epe_mm") < 1.6
    assert max(row["folds_percent"] for row in final) == 0


def test_other_contrasts_heads_and_far_starts_are_registered(folder):
    for pairs in sorted(folder.glob("contrasts/pairs*.csv")):
        assert mean(scores(pairs, ["crossmorph"])["crossmorph"], "dice") > 0.72, pairs.stem
    found = scores(folder / "heads" / "pairs.csv", ["none", "crossmorph"])
    assert mean(found["crossmorph"], "dice") > mean(found["none"], "dice") + 0.2
    far = [row["dice"] for row in scores(folder / "far" / "pairs.csv", ["crossmorph"])["crossmorph"]]
    assert np.median(far) > 0.78

"""Evaluation: scores are about the right images, a failure costs one row, and the time is the method's alone."""

import logging
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from crossmorph.datasets.pairs import Pair, read_pairs, write_pairs
from crossmorph.errors import InputError
from crossmorph.evaluation import evaluate as evaluation
from crossmorph.evaluation.baselines.common import Timed
from crossmorph.evaluation.choice import USUAL, scores_left_out, usual_methods
from crossmorph.evaluation.evaluate import Case, Method, Outcome, evaluate
from crossmorph.evaluation.results import Row, read_rows
from crossmorph.images.image import Image, scale_intensity
from crossmorph.images.io import read_image, write_image
from crossmorph.networks.checkpoint import Card, save_model
from crossmorph.networks.hierarchy import Hierarchy, HierarchySpec
from crossmorph.networks.unet import UNetSpec
from crossmorph.transforms.warp import Warp
from crossmorph.transforms.warp_files import write_transform

SHIFT = 3.0  # voxels along the first axis: the truth of the made pairs


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A 2-D and a 3-D pair, each a scene and the same shifted by whole voxels along x, with everything known."""
    made = []
    for name, shape in (("flat", (40, 36)), ("solid", (24, 20, 16))):
        affine = np.diag([2.0] * len(shape) + [1.0])
        values = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape), 2, mode="wrap")
        anatomy = (values - values.min()) / np.ptp(values)
        labels = np.digitize(anatomy, [0.4, 0.6])
        labels[: int(SHIFT)] = 0  # else it would leave the field of view
        field = np.zeros((len(shape), *shape))
        field[0] = SHIFT * 2.0
        contents = {
            "moving": (1 - anatomy).astype(np.float32),
            "fixed": np.roll(anatomy, -int(SHIFT), axis=0).astype(np.float32),
            "moving_labels": labels.astype(np.int32),
            "fixed_labels": np.roll(labels, -int(SHIFT), axis=0).astype(np.int32),
            "moving_same": anatomy.astype(np.float32),
        }
        files = {part: tmp_path / f"{name}_{part}.nii.gz" for part in (*contents, "field")}
        for part, data in contents.items():
            write_image(files[part], Image(data, affine))
        write_transform(files["field"], Warp(field, affine))
        made.append(Pair(name, **files))
    write_pairs(tmp_path / "pairs.csv", made)
    return tmp_path / "pairs.csv"


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A folder with an untrained 2-D hierarchy."""
    net = UNetSpec(encoder=(4, 4), decoder=(4, 4), final=(4,))
    spec = HierarchySpec(coarse=net, translator=net, fine=net)
    torch.manual_seed(0)
    described = {"training": {}, "data": {}, "scores": {}, "environment": {}, "sha256": ""}
    card = Card(name="tiny", description="", hierarchy=spec, shape=(40, 36), spacing=2.0, **described)
    save_model(tmp_path / "tiny", Hierarchy(spec), card)
    return str(tmp_path / "tiny")


def by_method(rows: list[Row], pair: str) -> dict[str, dict[str, float]]:
    assert not any(row.error for row in rows if row.pair == pair)
    return {row.method: row.scores for row in rows if row.pair == pair}


def use(monkeypatch: pytest.MonkeyPatch, method: Method) -> None:
    """Let every name mean this method."""
    monkeypatch.setattr(evaluation, "runner", lambda *_: method)


def still(case: Case) -> Warp:
    return Warp(np.zeros((case.fixed.dim, *case.fixed.shape)), case.fixed.affine)


# --- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flat", "solid"])
def test_the_true_field_is_perfect_and_no_field_is_off_by_the_shift(pairs: Path, name: str) -> None:
    rows = evaluate(pairs, ["none", "oracle"], pairs.with_name("results.csv"))
    scores = by_method(rows, name)
    none, oracle = scores["none"], scores["oracle"]
    assert none["epe_mm"] == pytest.approx(SHIFT * 2.0)
    assert oracle["epe_mm"] == pytest.approx(0, abs=1e-6)
    assert oracle["ncc"] == pytest.approx(1, abs=1e-4)
    assert none["ncc"] < 0.9
    assert (oracle["dice"], oracle["dice_1"], oracle["dice_2"], oracle["hd95_mm"]) == (1, 1, 1, 0)
    assert none["dice"] == pytest.approx(np.mean([none["dice_1"], none["dice_2"]]))
    assert none["dice"] < 0.9
    assert none["hd95_mm"] > 2.0
    for each in (none, oracle):
        assert each["folds_percent"] == 0
        assert each["min_jacobian"] == pytest.approx(1)
        assert not {"seconds", "psnr", "ssim"} & set(each)


def test_mse_is_of_the_same_modality_scaled_and_zero_outside(pairs: Path) -> None:
    rows = evaluate(pairs, ["oracle"], pairs.with_name("results.csv"))
    same, fixed = (scale_intensity(read_image(pairs.with_name(f"flat_{part}.nii.gz")).data).data
                   for part in ("moving_same", "fixed"))  # fmt: skip
    moved = np.zeros_like(same)
    moved[: -int(SHIFT)] = same[int(SHIFT) :]
    expected = 100 * np.mean((moved - fixed) ** 2)
    assert by_method(rows, "flat")["oracle"]["mse_percent"] == pytest.approx(expected, rel=1e-4)


def test_endpoint_error_is_taken_in_the_foreground_only(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong_in_the_background(case: Case) -> Outcome:
        background = read_image(pairs.with_name("flat_fixed_labels.nii.gz"), labels=True).data == 0
        return Outcome(Warp(case.truth.displacement + 50.0 * background, case.fixed.affine))

    flat = read_pairs(pairs)[0]
    write_pairs(pairs, [flat])
    use(monkeypatch, wrong_in_the_background)
    rows = evaluate(pairs, ["none"], pairs.with_name("results.csv"))
    assert by_method(rows, "flat")["none"]["epe_mm"] == pytest.approx(0, abs=1e-6)
    write_pairs(pairs, [Pair("flat", flat.moving, flat.fixed, field=flat.field)])
    rows = evaluate(pairs, ["none"], pairs.with_name("results.csv"))
    assert by_method(rows, "flat")["none"]["epe_mm"] > 10


def test_what_is_not_known_stays_empty(pairs: Path) -> None:
    write_pairs(pairs, [Pair("bare", pair.moving, pair.fixed) for pair in read_pairs(pairs)[:1]])
    (row,) = evaluate(pairs, ["none"], pairs.with_name("results.csv"))
    assert row == Row("bare", "none", {"folds_percent": 0.0, "min_jacobian": pytest.approx(1)})
    assert pairs.with_name("results.csv").read_text().splitlines()[1] == "bare,none,,,,,,0,1,,,,"


def test_a_true_field_on_another_grid_is_brought_to_the_fixed_image(pairs: Path) -> None:
    pair = read_pairs(pairs)[0]
    coarse = np.zeros((2, 12, 12))
    coarse[0] = SHIFT * 2.0
    write_transform(pair.field, Warp(coarse, np.diag([8.0, 8.0, 1.0])))
    write_pairs(pairs, [pair])
    rows = evaluate(pairs, ["oracle"], pairs.with_name("results.csv"))
    assert by_method(rows, "flat")["oracle"]["ncc"] == pytest.approx(1, abs=1e-4)


def test_phantom_and_ants(phantom: Path, tmp_path: Path) -> None:
    pytest.importorskip("ants")
    output = tmp_path / "results.csv"
    rows = evaluate(phantom / "test" / "pairs.csv", ["none", "affine", "syn", "oracle"], output)
    assert [row.method for row in rows[:4]] == ["none", "affine", "syn", "oracle"]
    assert len(rows) == 4 * 3
    mean = {method: np.mean([row.scores["dice"] for row in rows if row.method == method])
            for method in ("none", "affine", "oracle")}  # fmt: skip
    assert mean["none"] < mean["affine"] < mean["oracle"]
    assert all(row.scores["seconds"] > 0 for row in rows if row.method in ("affine", "syn"))
    assert [(row.pair, row.method) for row in read_rows(output)] == [(row.pair, row.method) for row in rows]


def test_networks_translate_and_coarse_does_not(pairs: Path, model: str) -> None:
    write_pairs(pairs, read_pairs(pairs)[:1])
    rows = evaluate(pairs, ["coarse", "crossmorph"], pairs.with_name("results.csv"), model=model)
    scores = by_method(rows, "flat")
    assert {"psnr", "ssim"} <= set(scores["crossmorph"])
    assert not {"psnr", "ssim"} & set(scores["coarse"])
    # The translation is fitted to the fixed image, so that it is nearer to it than the moving image is.
    moving, same = (scale_intensity(read_image(pairs.with_name(f"flat_{part}.nii.gz")).data).data
                    for part in ("moving", "moving_same"))  # fmt: skip
    expected = -10 * np.log10(np.mean((moving - same) ** 2))
    assert scores["crossmorph"]["psnr"] > expected + 3
    assert all(each["seconds"] > 0 for each in scores.values())


# --- failures --------------------------------------------------------------------------------------------------------


def test_a_failure_costs_one_row(pairs: Path, model: str, caplog: pytest.LogCaptureFixture) -> None:
    output = pairs.with_name("results.csv")
    with caplog.at_level(logging.WARNING):
        rows = evaluate(pairs, ["coarse", "none"], output, model=model)
    failed = [row for row in rows if row.error]
    assert [(row.pair, row.method) for row in failed] == [("solid", "coarse")]
    assert failed[0].scores == {}
    assert "InputError: the moving image is 3-D" in failed[0].error
    assert "coarse failed on solid" in caplog.text
    assert [row.error for row in read_rows(output)] == [row.error for row in rows]


@pytest.mark.parametrize("part", ["moving", "moving_labels", "moving_same", "field"])
def test_a_damaged_file_costs_its_pair(pairs: Path, part: str) -> None:
    pairs.with_name(f"flat_{part}.nii.gz").write_bytes(b"no image")
    rows = evaluate(pairs, ["none", "oracle"], pairs.with_name("results.csv"))
    assert [row.pair for row in rows if row.error] == ["flat", "flat"]
    assert all(f"flat_{part}.nii.gz" in row.error for row in rows if row.error)
    assert by_method(rows, "solid")["oracle"]["ncc"] > 0.99


@pytest.mark.parametrize(
    ("part", "message"), [("fixed_labels", "expected the grid of its image"), ("moving", "expected the same")]
)
def test_files_that_do_not_belong_together_are_named(pairs: Path, part: str, message: str) -> None:
    other = pairs.with_name(f"solid_{part}.nii.gz")
    pairs.with_name(f"flat_{part}.nii.gz").write_bytes(other.read_bytes())
    rows = evaluate(pairs, ["none"], pairs.with_name("results.csv"))
    assert message in rows[0].error
    assert f"flat_{part}.nii.gz" in rows[0].error


def test_a_transform_that_is_not_a_number_is_a_failure(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, lambda case: Outcome(Warp(still(case).displacement * np.nan, case.fixed.affine)))
    rows = evaluate(pairs, ["none"], pairs.with_name("results.csv"))
    assert all("NaN" in row.error for row in rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["none", "magic"]}, "unknown method: received 'magic'; expected some of none, affine"),
        ({"methods": []}, "received none"),
        ({"methods": ["crossmorph"], "model": "nowhere"}, "nowhere: no such model"),
        ({"threads": 0}, "received 0 threads"),
        ({"count": 0}, "received a count of 0 pairs"),
        ({"output": "missing/results.csv"}, "does not exist"),
        ({"output": "pairs.csv"}, "is the list of pairs"),
    ],
)
def test_what_cannot_work_is_said_before_anything_runs(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, options: dict, message: str
) -> None:
    monkeypatch.chdir(pairs.parent)
    monkeypatch.setattr(evaluation, "run_methods", lambda *_: pytest.fail("it ran"))
    before = sorted(pairs.parent.iterdir())
    with pytest.raises(InputError, match=message):
        evaluate(**{"pairs_csv": "pairs.csv", "methods": ["none"], "output": "results.csv"} | options)
    assert sorted(pairs.parent.iterdir()) == before


def test_an_oracle_needs_a_true_field_for_every_pair(pairs: Path) -> None:
    first, second = read_pairs(pairs)
    write_pairs(pairs, [first, Pair("without", second.moving, second.fixed)])
    with pytest.raises(InputError, match=r"1 of 2 pairs have no true field \(without is the first\)"):
        evaluate(pairs, ["oracle"], pairs.with_name("results.csv"))


def test_a_model_of_another_dimension_is_said_before_anything_runs(
    pairs: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat, solid = read_pairs(pairs)
    monkeypatch.setattr(evaluation, "run_methods", lambda *_: pytest.fail("it ran"))
    write_pairs(pairs, [solid, flat])
    with pytest.raises(InputError, match=r"coarse: model tiny registers 2-D images; .*solid_fixed.nii.gz is 3-D"):
        evaluate(pairs, ["none", "coarse"], pairs.with_name("results.csv"), model=model)


def test_the_usual_methods_are_those_that_can_run(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise InputError("antspyx is not installed")

    monkeypatch.setattr(evaluation.ants, "start", lambda *_: None)
    assert usual_methods(pairs) == (USUAL, {})
    assert scores_left_out(pairs) == {}
    monkeypatch.setattr(evaluation.ants, "start", missing)
    flat, solid = read_pairs(pairs)
    bare = replace(solid, moving_labels=None, field=None)
    write_pairs(pairs, [flat, bare])
    methods, left_out = usual_methods(pairs)
    assert methods == ("none", "coarse", "crossmorph")
    assert left_out["affine"] == left_out["syn"] == "antspyx is not installed"
    assert "1 of 2 pairs have no true field (solid is the first)" in left_out["oracle"]
    assert set(left_out) == {"affine", "syn", "oracle"}
    assert scores_left_out(pairs) == {
        "Dice and HD95": "1 of 2 pairs have no moving_labels and fixed_labels in the list",
        "endpoint error": "1 of 2 pairs have no field in the list",
    }


def test_an_interruption_leaves_the_old_results(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(case: Case) -> Outcome:
        raise KeyboardInterrupt

    output = pairs.with_name("results.csv")
    output.write_text("old")
    use(monkeypatch, interrupted)
    before = sorted(pairs.parent.iterdir())
    with pytest.raises(KeyboardInterrupt):
        evaluate(pairs, ["none"], output)
    assert output.read_text() == "old"
    assert sorted(pairs.parent.iterdir()) == before


# --- time and threads ------------------------------------------------------------------------------------------------


def test_the_first_call_is_not_timed(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Case] = []

    def slow_at_first(case: Case) -> Outcome:
        began = time.perf_counter()
        calls.append(case)
        if len(calls) == 1:
            time.sleep(0.3)
        return Outcome(still(case), time.perf_counter() - began)

    use(monkeypatch, slow_at_first)
    rows = evaluate(pairs, ["none"], pairs.with_name("results.csv"))
    assert [case.fixed.dim for case in calls] == [2, 2, 3]
    assert all(0 < row.scores["seconds"] < 0.2 for row in rows)


def test_reading_and_scoring_do_not_count(pairs: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pairs(pairs, read_pairs(pairs)[:1])
    for name, seconds in (("register_coarse", 0.05), ("score", 0.3), ("load_case", 0.3)):
        original = getattr(evaluation, name)

        def slowed(*arguments, original=original, seconds=seconds):
            time.sleep(seconds)
            return original(*arguments)

        monkeypatch.setattr(evaluation, name, slowed)
    began = time.perf_counter()
    (row,) = evaluate(pairs, ["coarse"], pairs.with_name("results.csv"), model=model)
    assert 0.05 <= row.scores["seconds"] <= time.perf_counter() - began - 0.6


def test_threads_are_those_asked_for_and_only_meanwhile(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def look(case: Case) -> Outcome:
        seen.append((torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()))
        return Outcome(still(case))

    use(monkeypatch, look)
    before = torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    evaluate(pairs, ["none"], pairs.with_name("results.csv"), threads=3)
    assert set(seen) == {(3, 3)}
    assert (torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()) == before


# --- peers and the number of pairs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", evaluation.PEERS)
def test_a_peer_that_is_missing_is_said_before_anything_runs(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name == "simpleitk":
        pytest.skip("is always there")

    def missing(*_: object) -> None:
        raise InputError("not installed")

    monkeypatch.setattr(evaluation, "run_methods", lambda *_: pytest.fail("it ran"))
    for module, function in (
        ("ants", "start"),
        *((name, "load") for name in ("elastix", "greedy", "dipy")),
        ("voxelmorph", "load_trained"),
    ):
        monkeypatch.setattr(getattr(evaluation, module), function, missing)
    with pytest.raises(InputError, match="not installed"):
        evaluate(pairs, ["none", name], pairs.with_name("results.csv"))


@pytest.mark.parametrize("name", [name for name in evaluation.PEERS if name != "voxelmorph"])
def test_a_peer_gets_the_pair_and_the_threads(pairs: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    module = getattr(evaluation, {"affine": "ants", "syn": "ants", "syn-tuned": "ants"}.get(name, name))
    seen = []

    def register(moving: Image, fixed: Image, **options: object) -> Timed:
        seen.append(options)
        return Timed(Warp(np.full((fixed.dim, *fixed.shape), 2.0), fixed.affine), 7.0)

    monkeypatch.setattr(module, "register", register)
    for starting in {"start", "load"} & set(vars(module)):
        monkeypatch.setattr(module, starting, lambda *_: None)
    (row,) = evaluate(pairs, [name], pairs.with_name("results.csv"), threads=1, count=1)
    assert row.scores["seconds"] == 7.0
    assert row.scores["epe_mm"] > 0
    expected = {"kind": name} if module is evaluation.ants else {} if name == "dipy" else {"threads": 1}
    assert seen == [expected, expected]


def test_voxelmorph_is_a_trained_run_after_the_affine_search(
    pairs: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    voxelmorph = evaluation.voxelmorph
    voxelmorph.load_trained.cache_clear()
    monkeypatch.setattr(voxelmorph, "RUN", Path(model))
    ours, theirs = evaluate(pairs, ["coarse", "voxelmorph"], pairs.with_name("results.csv"), model, count=1)
    assert (ours.error, theirs.error) == ("", "")
    assert theirs.scores["seconds"] > 0
    assert {**theirs.scores, "seconds": 0} == {**ours.scores, "seconds": 0}
    voxelmorph.load_trained.cache_clear()
    monkeypatch.setattr(voxelmorph, "RUN", pairs)
    with pytest.raises(InputError, match="no such model"):
        evaluate(pairs, ["voxelmorph"], pairs.with_name("results.csv"))
    monkeypatch.setattr(voxelmorph, "RUN", pairs.with_name("nothing"))
    with pytest.raises(InputError, match="train VoxelMorph first"):
        evaluate(pairs, ["voxelmorph"], pairs.with_name("results.csv"))


def test_only_the_first_pairs_are_taken(pairs: Path) -> None:
    rows = evaluate(pairs, ["none"], pairs.with_name("results.csv"), count=1)
    assert [row.pair for row in rows] == ["flat"]
    rows = evaluate(pairs, ["none"], pairs.with_name("results.csv"), count=9)
    assert [row.pair for row in rows] == ["flat", "solid"]

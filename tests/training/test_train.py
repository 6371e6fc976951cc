import copy
import csv
import json
import re
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from people_scene import draw_people
from project import ROOT, command

from crossmorph.cli import main
from crossmorph.datasets.anatomies import prepare_anatomies
from crossmorph.datasets.phantom_3d import prepare_volumes
from crossmorph.errors import InputError
from crossmorph.functional.metrics import mean_dice
from crossmorph.networks.checkpoint import load_model, load_tensors
from crossmorph.networks.hierarchy import STAGES, Hierarchy
from crossmorph.training.config import StageSpec, TrainConfig, load_config
from crossmorph.training.dataset import batch
from crossmorph.training.loading import load_dataset
from crossmorph.training.train import TrainingDivergedError, _launch, read_inputs, train
from crossmorph.training.validation import validate

PAPER = STAGES[1:]  # the stages of the smoke configuration: it has no affine network


def configure(smoke: dict, output: Path, iterations: int = 4, **changes) -> TrainConfig:
    """The smoke configuration with a few iterations a stage."""
    document = copy.deepcopy(smoke) | {"output": str(output)} | changes
    document["stages"] = {stage: {"iterations": iterations, "learning_rate": 1e-3} for stage in PAPER}
    return TrainConfig.model_validate(document)


def write_config(config: TrainConfig, path: Path) -> Path:
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return path


def numbers(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_training_for_seconds_raises_dice(smoke, tmp_path):
    document = copy.deepcopy(smoke) | {"output": str(tmp_path / "run"), "log_every": 5}
    document["stages"] = {
        "coarse": {"iterations": 160, "learning_rate": 2e-3},
        "translation": {"iterations": 150, "learning_rate": 4e-3},
        "fine": {"iterations": 20, "learning_rate": 1e-3},
    }
    config = TrainConfig.model_validate(document)
    data = load_dataset(config.data.validation, config.data.spacing, config.data.shape)
    before = [mean_dice(data.moving_labels[m, 0].numpy(), data.fixed_labels[f, 0].numpy()) for m, f in data.pairs]
    weights = train(config)
    model = load_model(str(weights.parent))
    assert model.card.scores["dice_final"] > sum(before) / len(before) + 0.04
    rows = [row for row in numbers(config.output) if row["stage"] == "translation" and row["name"] == "error"]
    errors = [float(row["value"]) for row in rows]
    assert sum(errors[-3:]) < 0.6 * sum(errors[:3])


def test_run_folder_says_what_was_run(smoke, tmp_path):
    config = configure(smoke, tmp_path / "run", validate_every=2, log_every=1)
    train(config)
    assert load_config(config.output / "config.yaml") == config
    assert json.loads((config.output / "environment.json").read_text())["torch"] == torch.__version__
    rows = numbers(config.output)
    assert {row["stage"] for row in rows} == set(PAPER)
    assert {"smoothness", "forward", "backward", "dice_coarse", "dice_final", "mask"} <= {row["name"] for row in rows}
    assert [row["iteration"] for row in rows if row["name"] == "total"] == [str(i) for i in range(1, 13)]
    assert list((config.output / "tensorboard").glob("events*"))
    card = load_model(str(config.output)).card
    assert card.training["seed"] == config.seed
    assert card.data["name"] == "phantom"
    assert card.spacing == 3.0


def test_each_stage_trains_its_own_network_only(smoke, tmp_path):
    config = configure(smoke, tmp_path / "run", iterations=1, checkpoint_every=1)
    torch.manual_seed(config.seed)
    start = Hierarchy(config.hierarchy).state_dict()
    after = load_model(str(train(config).parent)).hierarchy.state_dict()
    # One iteration of one stage moves a weight by about the learning rate, so every network moved, and only once.
    for stage in PAPER:
        moves = [(after[name] - start[name]).abs().max() for name in start if name.startswith(stage)]
        assert 0.5e-3 < max(moves) < 1.5e-3


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_weights(smoke, tmp_path):
    whole = configure(smoke, tmp_path / "whole", iterations=30, checkpoint_every=5)
    broken = configure(smoke, tmp_path / "broken", iterations=30, checkpoint_every=5)
    expected = train(whole).read_bytes()
    path = write_config(broken, tmp_path / "broken.yaml")
    words = [sys.executable, "-m", "crossmorph", "train", str(path), "--resume"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            _wait_for(broken.output / "checkpoint.safetensors", STAGES.index("fine"), process)
        finally:
            process.kill()
    assert not (broken.output / "smoke-2d.safetensors").exists()
    finished = command("train", path, "--resume")
    assert finished.returncode == 0, finished.stderr
    assert (broken.output / "smoke-2d.safetensors").read_bytes() == expected
    totals = [[row for row in numbers(run.output) if row["name"] == "total"] for run in (whole, broken)]
    assert totals[0] == totals[1]


def _wait_for(checkpoint: Path, stage: int, process: subprocess.Popen) -> None:
    """Until the checkpoint is inside a stage."""
    for _ in range(12_000):
        if checkpoint.exists():
            position = load_tensors(checkpoint)[1]
            if int(position["stage"]) == stage and int(position["step"]) > 0:
                return
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    raise AssertionError("no checkpoint in time")


GRADIENT = """
import sys
import torch
from pathlib import Path
from safetensors.torch import save_file
from crossmorph.functional.similarity import mi
from crossmorph.networks.hierarchy import Hierarchy
from crossmorph.training.config import load_config
from crossmorph.training.loading import load_dataset
from crossmorph.training.stage_loss import StageLoss
from crossmorph.training.train import Run, _launch, _share

config = load_config(Path(sys.argv[1]))
fabric = _launch(config)
torch.manual_seed(0)
hierarchy = Hierarchy(config.hierarchy).requires_grad_(False)
hierarchy.coarse.requires_grad_(True)
data = load_dataset(config.data.train, config.data.spacing, config.data.shape)
run = Run(fabric, config, hierarchy, data, data, None, print)
loss = StageLoss(hierarchy, "coarse", mi, mi, config.weights)
module, _ = fabric.setup(loss, torch.optim.Adam(hierarchy.coarse.parameters()))
fabric.backward(torch.stack(module(_share(run, 1, 0))).sum())
if fabric.is_global_zero:
    save_file({name: p.grad for name, p in hierarchy.coarse.named_parameters()}, sys.argv[2])
"""


@pytest.mark.slow
def test_two_processes_give_the_gradient_of_one_on_the_joint_batch(smoke, tmp_path, monkeypatch):
    script = tmp_path / "gradient.py"
    script.write_text(GRADIENT)
    gradients = []
    for devices in (1, 2):
        config = configure(smoke, tmp_path / "run", devices=devices, accelerator="cpu")
        path = write_config(config, tmp_path / f"{devices}.yaml")
        target = tmp_path / f"{devices}.safetensors"
        if devices == 1:
            monkeypatch.setattr(sys, "argv", [str(script), str(path), str(target)])
            runpy.run_path(str(script))
        else:
            done = subprocess.run([sys.executable, script, path, target], capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
        gradients.append(load_tensors(target)[0])
    for name, single in gradients[0].items():
        scale = single.abs().max()
        assert scale > 0
        torch.testing.assert_close(gradients[1][name], single, rtol=0, atol=float(1e-4 * scale))


@pytest.mark.slow  # the gradient of two processes is in the default suite
def test_two_processes_train_to_the_end(smoke, tmp_path):
    config = configure(smoke, tmp_path / "run", iterations=2, devices=2, accelerator="cpu")
    done = command("train", write_config(config, tmp_path / "two.yaml"))
    assert done.returncode == 0, done.stderr
    assert load_model(str(config.output)).card.training["devices"] == 2
    assert done.stdout.count("wrote") == 1


def test_divergence_stops_with_a_reason(smoke, tmp_path):
    document = configure(smoke, tmp_path / "run", iterations=30, log_every=1).model_dump(mode="json")
    document["stages"]["coarse"]["learning_rate"] = 1e30
    config = TrainConfig.model_validate(document)
    with pytest.raises(TrainingDivergedError, match=r"stage coarse diverged after \d+ iterations .*smoothness"):
        train(config)
    assert not (config.output / "smoke-2d.safetensors").exists()


def test_divergence_is_exit_code_3(smoke, tmp_path, monkeypatch, capsys):
    config = configure(smoke, tmp_path / "run", iterations=30, log_every=1)
    words = ["train", write_config(config, tmp_path / "c.yaml"), "--set", "stages.coarse.learning_rate=1.0e+30"]
    monkeypatch.setattr(sys, "argv", ["crossmorph", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main.main()
    assert end.value.code == 3
    assert re.fullmatch(r"crossmorph: stage coarse diverged.*\n", capsys.readouterr().err)


def test_a_folder_with_a_run_is_not_overwritten(smoke, tmp_path):
    config = configure(smoke, tmp_path / "run", iterations=1)
    before = train(config).read_bytes()
    with pytest.raises(InputError, match="holds a run already"):
        train(config)
    assert train(config, resume=True).read_bytes() == before


def with_iterations(config: TrainConfig, **iterations: int) -> TrainConfig:
    document = config.model_dump(mode="json")
    for stage, count in iterations.items():
        document["stages"][stage]["iterations"] = count
    return TrainConfig.model_validate(document)


def test_a_finished_run_is_prolonged_to_the_weights_of_a_longer_one(smoke, tmp_path):
    """With a constant learning rate; ADAM goes on with its moments."""
    settings = {"iterations": 1, "schedule": "constant", "log_every": 1}
    short, long = (configure(smoke, tmp_path / name, **settings) for name in ("short", "long"))
    expected = train(with_iterations(long, fine=3)).read_bytes()
    before = train(short).read_bytes()
    short.output.rename(tmp_path / "moved")  # a folder that was moved is the same run
    short = short.model_copy(update={"output": tmp_path / "moved"})
    weights = train(with_iterations(short, fine=3), resume=True)
    assert weights.read_bytes() == expected != before
    assert load_config(short.output / "config.yaml").stages.fine.iterations == 3
    totals = [[row for row in numbers(run.output) if row["name"] == "total"] for run in (short, long)]
    assert totals[0] == totals[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 5}, r"seed is 0 in that run, received 5; .* only stages.fine.iterations \(1 or more\) may change"),
        ({"iterations": {"coarse": 2}}, r"stages.coarse.iterations is 1 in that run, received 2; .*fine"),
        ({"iterations": {"fine": 0}}, r"stages.fine.iterations is 1 in that run, received 0; .*1 or more"),
        ({"data": {"spacing": 2.0}}, r"data.spacing is 3.0 in that run, received 2.0"),
    ],
)
def test_a_run_continues_with_its_own_settings(smoke, tmp_path_factory, change, message):
    folder = tmp_path_factory.getbasetemp() / "run-to-continue"
    config = configure(smoke, folder, iterations=1)
    train(config, resume=True)
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    document = with_iterations(config, **change.pop("iterations", {})).model_dump(mode="json")
    document["data"] |= change.pop("data", {})
    with pytest.raises(InputError, match=message):
        train(TrainConfig.model_validate(document | change), resume=True)
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_iterations_of_later_stages_may_change(smoke, tmp_path):
    config = configure(smoke, tmp_path / "run", iterations=1)
    train(with_iterations(config, translation=0, fine=0))
    assert {row["stage"] for row in numbers(config.output)} == {"coarse"}
    train(with_iterations(config, coarse=2, translation=1, fine=1), resume=True)
    totals = [(row["stage"], row["iteration"]) for row in numbers(config.output) if row["name"] == "total"]
    assert totals == [("coarse", "1"), ("coarse", "2"), ("translation", "3"), ("fine", "4")]


def damaged(path: Path, column: str) -> Path:
    """A list of one pair with a damaged file."""
    folder = path.parent
    (folder / "bad.nii.gz").write_bytes(b"no image")
    with path.open() as stream:
        row = next(csv.DictReader(stream)) | {column: "bad.nii.gz"}
    listed = folder / f"bad-{column}.csv"
    listed.write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
    return listed


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.train", "nowhere/pairs.csv", "nowhere/pairs.csv: No such file"),
        ("data.validation", "nowhere/pairs.csv", "nowhere/pairs.csv: No such file"),
        ("data.train", "fixed", "bad.nii.gz: is not a NIfTI file"),
        ("data.validation", "moving_labels", "bad.nii.gz: is not a NIfTI file"),
        ("data.shape", [100, 100], r"data.shape: received \[100, 100\]; expected multiples of 8 .* \[104, 104\]"),
        ("data.shape", [0, 64], r"data.shape: received \[0, 64\]; expected multiples of 8 from 16 on"),
        ("data.validation_shape", [72, 66], r"data.validation_shape: received \[72, 66\]; .* \[72, 72\]"),
        ("begin", "nowhere", "nowhere: no such model"),
        ("begin", "any-2d", "any-2d has other networks"),
    ],
)
def test_what_cannot_be_trained_is_said_before_the_folder_appears(smoke, phantom, tmp_path, key, value, message):
    document = configure(smoke, tmp_path / "run").model_dump(mode="json")
    if value in ("fixed", "moving_labels"):
        folder = shutil.copytree(phantom / "validation", tmp_path / "copy")
        value = str(damaged(folder / "pairs.csv", value))
    section, _, name = key.rpartition(".")
    (document[section] if section else document)[name] = value
    with pytest.raises(InputError, match=message):
        train(TrainConfig.model_validate(document))
    assert not (tmp_path / "run").exists()


def test_missing_label_maps_are_said_before_the_folder_appears(smoke, tmp_path):
    prepare_anatomies([tmp_path / "maps"], tmp_path / "set", splits=draw_people(tmp_path / "maps"))
    document = configure(smoke, tmp_path / "run").model_dump(mode="json")
    document["data"] |= {"train": None, "synthesis": {"anatomies": str(tmp_path / "set")}}
    (missing, *_) = sorted((tmp_path / "set").glob("*.nii.gz"))
    missing.unlink()
    with pytest.raises(InputError, match=f"{missing}: no such file; the folder's index expects it"):
        train(TrainConfig.model_validate(document))
    document["data"]["synthesis"]["anatomies"] = str(tmp_path / "nowhere")
    with pytest.raises(InputError, match="expected a folder made by crossmorph prepare anatomies"):
        train(TrainConfig.model_validate(document))
    assert not (tmp_path / "run").exists()


def test_the_table_has_the_scores_before_and_after_each_stage(smoke, tmp_path, monkeypatch, capsys):
    config = configure(smoke, tmp_path / "run", iterations=2)
    monkeypatch.setattr(sys, "argv", ["crossmorph", "train", str(write_config(config, tmp_path / "c.yaml"))])
    with pytest.raises(SystemExit) as end:
        main.main()
    assert end.value.code == 0
    out = capsys.readouterr().out
    rows = {tuple(line.split()[:2]): line.split()[-2:] for line in out.splitlines()[1:-2]}
    assert set(rows) == {
        (stage, score) for stage in ("coarse", "fine") for score in ("Dice", "mutual")
    } | {("translation", "error")}  # fmt: skip
    fabric, data = _launch(config), read_inputs(config).validation
    torch.manual_seed(config.seed)
    began = validate(fabric, Hierarchy(config.hierarchy), data, "coarse")
    assert float(rows["coarse", "Dice"][0]) == pytest.approx(began["dice_coarse"], abs=1e-4)
    assert float(rows["coarse", "mutual"][0]) == pytest.approx(began["mi_coarse"], abs=1e-4)
    ended = load_model(str(config.output)).card.scores
    assert float(rows["fine", "Dice"][1]) == pytest.approx(ended["dice_final"], abs=1e-4)
    assert rows["translation", "error"][0] != rows["translation", "error"][1]


SIMULATED = {
    "name": "simulated",
    "data": {"synthesis": {"moving": ["t2", "random"], "fixed": ["t1", "random"], "heads": 0.5}},
    "hierarchy": {
        "affine": {"features": [8, 8], "hidden": 16, "canvas": 16, "looks": 2},
        "coarse": {"kind": "pyramid", "features": [8, 8], "hidden": [0, 8], "radius": [1, 2], "conditioned": True},
        "translator": {"encoder": [4, 4], "decoder": [4, 4], "final": [4]},
        "translator_sees": "moving",
        "appearances": 3,
        "fine": {"kind": "pyramid", "features": [8, 8], "hidden": [4, 8], "radius": [1, 1], "conditioned": True},
        "fine_sees": "aligned",
        "fine_looks": 2,
        "smoothness_range": [0.1, 10],
    },
    "batch": 2,
    "stages": {stage: {"iterations": 3, "learning_rate": 1e-3} for stage in STAGES},
    "log_every": 1,
    "threads": 1,
}


def test_simulated_pairs_train_every_network_and_begin_another_run(phantom, tmp_path):
    validation = {**SIMULATED["data"], "validation": str(phantom / "validation" / "pairs.csv")}
    settings = {**SIMULATED, "data": validation, "output": str(tmp_path / "first")}
    config = TrainConfig.model_validate(settings)
    torch.manual_seed(config.seed)
    start = Hierarchy(config.hierarchy).state_dict()
    model = load_model(str(train(config).parent))
    after = model.hierarchy.state_dict()
    for stage in STAGES:
        assert max((after[name] - start[name]).abs().max() for name in start if name.startswith(stage)) > 1e-4
    stages = ("affine", "coarse", "final")
    expected = {f"{name}_{stage}" for name in ("dice", "mi") for stage in stages} | {"translation_mse"}
    assert set(model.card.scores) == expected
    assert {row["stage"] for row in numbers(config.output)} == set(STAGES)
    # One tiny step from there: the weights are still close to its initial ones.
    short = {stage: {"iterations": 1, "learning_rate": 1e-6} for stage in STAGES}
    second = {**settings, "output": str(tmp_path / "second"), "begin": str(tmp_path / "first"), "stages": short}
    initial = load_model(str(train(TrainConfig.model_validate(second)).parent)).hierarchy.state_dict()
    assert max(float((initial[name] - after[name]).abs().max()) for name in after) < 1e-5
    other = {**second, "hierarchy": {}, "output": str(tmp_path / "third"), "stages": {}}
    with pytest.raises(InputError, match=r"begin: .* has other networks"):
        train(TrainConfig.model_validate(other))


def test_stages_without_iterations_are_left_out(smoke, tmp_path):
    config = configure(smoke, tmp_path / "run", iterations=1)
    stages = config.stages.model_copy(update={"translation": StageSpec(iterations=0), "fine": StageSpec(iterations=0)})
    train(config.model_copy(update={"stages": stages}))
    assert {row["stage"] for row in numbers(config.output) if row["name"] == "total"} == {"coarse"}


def test_batches_depend_on_seed_and_number_alone(smoke, phantom):
    config = TrainConfig.model_validate(smoke)
    data = load_dataset(config.data.train, 3.0, (64, 64))
    spec = config.data.augment
    whole = batch(data, spec, 1, 0, 0, 120)
    parts = [batch(data, spec, 1, 0, first, 40) for first in (0, 40, 80)]
    for k in range(2):
        assert torch.equal(whole[k], torch.cat([part[k] for part in parts]))
    assert not torch.equal(whole[0], batch(data, spec, 2, 0, 0, 120)[0])
    assert not torch.equal(whole[0], batch(data, spec, 1, 1, 0, 120)[0])


def test_dataset_is_on_the_grid_asked_for(phantom):
    fine = load_dataset(phantom / "validation" / "pairs.csv", 1.5, (128, 128))
    coarse = load_dataset(phantom / "validation" / "pairs.csv", 3.0, (64, 64))
    assert fine.moving.shape == (3, 1, 128, 128)
    pooled = torch.nn.functional.avg_pool2d(fine.fixed, 2)
    assert (pooled - coarse.fixed).abs().mean() < 0.02
    assert set(fine.moving_labels.unique().tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "configs").glob("*.yaml")))
def test_every_shipped_config_takes_one_step(name, phantom, tmp_path):
    text = (ROOT / "configs" / name).read_text()
    validation, grid = phantom / "validation" / "pairs.csv", []
    if "dim: 3" in text:
        validation = prepare_volumes(tmp_path / "volumes", validation=1, test=1, contrasts=1, spacing=8.0)["validation"]
        grid = ["data.shape=[24, 32, 24]", "data.spacing=8"]
    if "anatomies:" in text:
        prepare_anatomies([tmp_path / "maps"], tmp_path / "set", splits=draw_people(tmp_path / "maps"))
        grid.append(f"data.synthesis.anatomies={tmp_path / 'set'}")
    if "validation_shape:" in text:
        grid.append("data.validation_shape=[24, 32, 32]")
    config = load_config(
        ROOT / "configs" / name,
        [
            f"output={tmp_path / 'run'}",
            *([f"data.train={phantom / 'train' / 'pairs.csv'}"] if "synthesis:" not in text else []),
            f"data.validation={validation}",
            *grid,
            *(f"stages.{stage}.iterations=1" for stage in STAGES if stage != "affine" or "affine:" in text),
        ],
    )
    assert load_model(str(train(config).parent)).card.name == config.name

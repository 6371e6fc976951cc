from pathlib import Path

import pytest
from project import ROOT

from crossmorph.errors import InputError
from crossmorph.networks.hierarchy import HierarchySpec
from crossmorph.training.config import dump_config, load_config
from crossmorph.training.losses import Weights

SMOKE = ROOT / "configs" / "smoke.yaml"


def test_paper_config_is_the_papers_recipe():
    config = load_config(ROOT / "configs" / "paper.yaml")
    assert config.weights == Weights()
    assert config.hierarchy == HierarchySpec()
    assert (config.batch, config.similarity, config.schedule) == (1, "mi", "constant")
    assert config.stages.iterations == 3 * 150_000
    w = config.weights
    assert (w.coarse_smoothness, w.coarse_similarity) == (0.02, 0.15)
    assert (w.translation_mask, w.translation_similarity, w.translation_error) == (0.02, 0.02, 2.5)
    assert (w.fine_smoothness, w.fine_similarity, w.fine_error) == (0.02, 0.10, 1.5)


def test_dump_is_read_back(tmp_path):
    config = load_config(SMOKE)
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert load_config(path) == config


def test_overrides_replace_values():
    config = load_config(SMOKE, ["stages.coarse.iterations=7", "similarity=ncc", "data.augment.gamma=0"])
    assert (config.stages.coarse.iterations, config.similarity, config.data.augment.gamma) == (7, "ncc", 0)
    assert config.stages.fine == load_config(SMOKE).stages.fine


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("nonsense=1", "nonsense: Extra inputs"),
        ("similarity=ssd", "similarity: .*'ssd'"),
        ("stages.coarse.iterations=-1", "stages.coarse.iterations: .*greater than or equal to 0"),
        ("batch=3 4", "batch: "),
        ("devices=3", "batch 4 cannot be shared evenly by 3 processes"),
        ("hierarchy.dim=3", "has 2 axes; expected hierarchy.dim = 3"),
        ("name=../escape", "name: "),
        ("batch", "expected key=value"),
        ("batch.size=3", "batch is a value, not a section"),
        ("batch=[", "not YAML"),
    ],
)
def test_bad_settings_are_named(override, message):
    with pytest.raises(InputError, match=message):
        load_config(SMOKE, [override])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "not YAML"),
        (b"- 1", "expected a mapping"),
        (b"\xff\xfe\x00", "cannot read|not YAML"),
        (b"", "expected a mapping"),
    ],
)
def test_bad_files_are_named(tmp_path, content, message):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_config(path)
    with pytest.raises(InputError, match="cannot read"):
        load_config(Path(tmp_path / "missing.yaml"))


def test_yaml_cannot_run_code(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text(f"name: !!python/object/apply:pathlib.Path.touch [{tmp_path / 'owned'}]")
    with pytest.raises(InputError, match="not YAML"):
        load_config(path)
    assert not (tmp_path / "owned").exists()

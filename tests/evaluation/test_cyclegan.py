"""CycleGAN: shapes and sizes by hand, the pool, training that goes down, resumes, and translates."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from crossmorph.errors import InputError
from crossmorph.evaluation.baselines import cyclegan, cyclegan_networks
from crossmorph.evaluation.baselines.cyclegan import Pool, load_generator, train_cyclegan, translate
from crossmorph.evaluation.baselines.cyclegan_networks import CycleSpec
from crossmorph.training.dataset import Dataset

TINY = CycleSpec(width=4, blocks=1, iterations=4)


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Discs; the fixed modality is the moving one upside down."""
    places = np.indices((32, 32)) - 15.5
    discs = [np.hypot(*(places + shift)) < 9 for shift in range(-2, 3)]
    images = torch.from_numpy(np.stack(discs)[:, None].astype(np.float32)) * 0.6 + 0.2
    return Dataset(images, 1 - images, torch.tensor([[0, 1]]), None, None)


def parameters(network: torch.nn.Module) -> int:
    return sum(tensor.numel() for tensor in network.parameters())


def test_the_networks_are_those_of_the_authors() -> None:
    """Parameters counted from the paper's layers: c7s1-64, d128, d256, nine blocks of 256, u128, u64, c7s1-1."""
    convolutions = 49 * 64 + 64, 9 * 64 * 128 + 128, 9 * 128 * 256 + 256
    blocks = 9 * 2 * (9 * 256 * 256 + 256)
    up = 9 * 256 * 128 + 128, 9 * 128 * 64 + 64, 49 * 64 + 1
    assert parameters(cyclegan_networks.generator(CycleSpec())) == sum(convolutions) + blocks + sum(up)
    judged = 16 * 64 + 64, 16 * 64 * 128 + 128, 16 * 128 * 256 + 256, 16 * 256 * 512 + 512, 16 * 512 + 1
    assert parameters(cyclegan_networks.discriminator(CycleSpec())) == sum(judged)


def test_the_discriminator_sees_seventy_pixels() -> None:
    image = torch.rand(1, 1, 128, 128, requires_grad=True)
    network = cyclegan_networks.discriminator(CycleSpec(width=4))
    # Instance norm mixes the whole image; without it, what one output depends on is its patch.
    plain = torch.nn.Sequential(*(layer for layer in network if not isinstance(layer, torch.nn.InstanceNorm2d)))
    found = plain(image)
    found[0, 0, found.shape[2] // 2, found.shape[3] // 2].backward()
    assert image.grad is not None
    rows = image.grad[0, 0].abs().sum(1).nonzero()
    assert int(rows.max() - rows.min()) + 1 == 70


def test_a_pool_gives_back_half_of_what_it_took() -> None:
    rng = np.random.default_rng(0)
    pool = Pool(3, [])
    first = [torch.tensor(float(value)) for value in range(3)]
    assert [float(pool.exchange(image, rng)) for image in first] == [0, 1, 2]
    given = [float(pool.exchange(torch.tensor(float(value)), rng)) for value in range(3, 103)]
    earlier = sum(value < number for number, value in enumerate(given, start=3))
    assert 30 < earlier < 70
    assert len(pool.images) == 3


def test_an_interrupted_training_gives_the_same_generator(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cyclegan, "SAVE_EVERY", 2)
    whole = train_cyclegan(TINY, data, tmp_path / "whole")

    def stop() -> None:
        steps.append(0)
        if len(steps) == 3:
            raise KeyboardInterrupt

    steps: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        train_cyclegan(TINY, data, tmp_path / "stopped", advance=stop)
    assert (tmp_path / "stopped" / cyclegan.CHECKPOINT).exists()
    steps = []
    resumed = train_cyclegan(TINY, data, tmp_path / "stopped", advance=lambda: steps.append(0))
    assert len(steps) == 2
    assert resumed.read_bytes() == whole.read_bytes()


def test_training_makes_translations_of_the_other_modality(data: Dataset, tmp_path: Path) -> None:
    spec = CycleSpec(width=6, blocks=1, iterations=120, learning_rate=2e-3)
    network = load_generator(train_cyclegan(spec, data, tmp_path))
    before = float((data.moving[:1] - data.fixed[:1]).abs().mean())
    after = float((translate(network, data.moving[:1]) - data.fixed[:1]).abs().mean())
    assert after < before / 2
    with (tmp_path / "metrics.csv").open(newline="") as stream:
        cycle = [float(row["value"]) for row in csv.DictReader(stream) if row["name"] == "cycle"]
    assert cycle[-1] < cycle[0]


def test_sides_of_any_length_are_translated(data: Dataset, tmp_path: Path) -> None:
    network = load_generator(train_cyclegan(TINY, data, tmp_path))
    assert translate(network, torch.rand(1, 1, 31, 34)).shape == (1, 1, 31, 34)


def test_images_that_do_not_fit_are_refused(data: Dataset, tmp_path: Path) -> None:
    odd = data._replace(moving=torch.rand(1, 1, 30, 32), fixed=torch.rand(1, 1, 30, 32))
    with pytest.raises(InputError, match=r"\(30, 32\).*multiple of 4"):
        train_cyclegan(TINY, odd, tmp_path)


def test_a_file_of_other_weights_is_refused(tmp_path: Path) -> None:
    from crossmorph.networks.checkpoint import save_tensors

    save_tensors(tmp_path / "other.safetensors", {"weight": torch.zeros(2)})
    with pytest.raises(InputError, match="not the generator"):
        load_generator(tmp_path / "other.safetensors")

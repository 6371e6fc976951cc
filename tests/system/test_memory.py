"""Images that do not fit into memory are refused before any work."""

import numpy as np
import psutil
import pytest

from crossmorph import load_model, register_images
from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import read_image, write_image
from crossmorph.system.memory import check_memory, memory_needed


def test_hand_arithmetic():
    expected = 0.4e9 + 420 * 10 * 20 + 80 * (100 * 100 + 30 * 40 * 50)
    assert memory_needed((10, 20), (100, 100), (30, 40, 50)) == pytest.approx(expected)


def test_what_fits_passes_and_what_does_not_says_how_much_it_takes():
    check_memory((64, 64, 64), (64, 64, 64), (64, 64, 64))
    with pytest.raises(
        InputError, match=r"^out of memory: images of \(9000, 9000, 9000\) .* take about 58320\.4 GB .* are free"
    ):
        check_memory((8, 8, 8), (9000, 9000, 9000))


def test_register_asks_first(monkeypatch):
    free = psutil.virtual_memory()._replace(available=1e6)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    monkeypatch.setattr(psutil.Process, "memory_info", lambda _: type("Info", (), {"rss": 1e6}))
    image = Image(np.random.default_rng(0).random((64, 64), np.float32), np.eye(3))
    with pytest.raises(InputError, match=r"take about 0\.4 GB to register, and 0\.0 GB are free"):
        register_images(image, image, load_model())


@pytest.mark.parametrize("name", ["image.nii", "image.nii.gz", "image.mha", "image.nrrd"])
def test_a_file_without_room_is_refused_by_its_header(name, tmp_path, monkeypatch):
    """100 x 90 voxels of two bytes: 18 kB and some header as stored, 72 kB as numbers."""
    path = tmp_path / name
    data = np.random.default_rng(0).integers(0, 999, (100, 90)).astype(np.int16)
    write_image(path, Image(data, np.eye(3)))
    free = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free._replace(available=18_000 + 72_000 + 1_000))
    assert np.array_equal(read_image(path).data, data)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free._replace(available=18_000 + 72_000 - 1_000))
    with pytest.raises(
        InputError, match=rf"{name}: out of memory: 9000 voxels take about 0\.0 GB to read, and 0\.0 GB are free"
    ):
        read_image(path)

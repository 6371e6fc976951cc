"""PNG files to images and back, intensity scaling, and what an image refuses to be."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray

from crossmorph.errors import InputError
from crossmorph.image import Image, read_image, scale_intensity, write_image


def ramp(shape: tuple[int, ...]) -> ndarray:
    """Distinct intensities."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 1


def itk_read(path: Path) -> tuple[ndarray, ndarray]:
    """Voxels (x, y) and index-to-RAS affine as SimpleITK has them."""
    image = sitk.ReadImage(str(path))
    affine = np.eye(3)
    affine[:2, :2] = -np.reshape(image.GetDirection(), (2, 2)) * image.GetSpacing()
    affine[:2, 2] = -np.array(image.GetOrigin())
    return sitk.GetArrayFromImage(image).T, affine


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.gz", "nii"])
def test_unknown_formats_are_refused(tmp_path: Path, name: str) -> None:
    for call in (lambda path: read_image(path), lambda path: write_image(path, Image(ramp((6, 5)), np.eye(3)))):
        with pytest.raises(InputError, match=r"expected a name ending in \.nii\.gz, \.nii, \.png"):
            call(tmp_path / name)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_png_is_read_as_itk_reads_it_and_round_trips(tmp_path: Path, depth: type) -> None:
    levels = np.random.default_rng(0).integers(0, np.iinfo(depth).max, (5, 7), endpoint=True).astype(depth)
    levels[0, 0] = np.iinfo(depth).max
    PIL.Image.fromarray(levels).save(tmp_path / "a.png", dpi=(96, 96))
    image = read_image(tmp_path / "a.png")
    data, affine = itk_read(tmp_path / "a.png")
    np.testing.assert_array_equal(image.data, data)
    np.testing.assert_array_equal(image.affine, affine)
    assert (image.shape, image.physical, image.header) == ((7, 5), False, None)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", labels=True).data, levels.T)
    write_image(tmp_path / "b.png", image)
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(tmp_path / "b.png")), levels)


def test_png_of_one_bit_is_read_as_itk_reads_it(tmp_path: Path) -> None:
    PIL.Image.fromarray(np.eye(4) > 0).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").data, itk_read(tmp_path / "a.png")[0])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ([[0, 255.4]], ("uint8", [[0, 255]])),
        ([[0, 255.6]], ("uint16", [[0, 256]])),
        ([[0, 65535]], ("uint16", [[0, 65535]])),
        ([[0, 1]], ("uint8", [[0, 1]])),
        ([[0, 0.001]], ("uint16", [[0, 66]])),
        ([[0.5, 1]], ("uint16", [[32768, 65535]])),
    ],
)
def test_png_depth_follows_the_values(tmp_path: Path, data: list, expected: tuple[str, list]) -> None:
    write_image(tmp_path / "a.png", Image(np.array(data, np.float32).T, np.eye(3)))
    levels = np.asarray(PIL.Image.open(tmp_path / "a.png"))
    assert (levels.dtype.name, levels.tolist()) == expected


@pytest.mark.parametrize("value", [-1, 65536, np.nan, np.inf])
def test_png_never_wraps(tmp_path: Path, value: float) -> None:
    with pytest.raises(InputError, match="PNG holds whole numbers from 0 to 65535"):
        write_image(tmp_path / "a.png", Image(np.array([[3.0, value]], np.float32), np.eye(3)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("mode", "reason"),
    [("RGB", "holds colour;"), ("RGBA", "transparency"), ("LA", "transparency"), ("P", "palette")],
)
def test_png_of_other_kinds_is_refused(tmp_path: Path, mode: str, reason: str) -> None:
    PIL.Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5)).convert(mode).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=reason):
        read_image(tmp_path / "a.png")


def test_damaged_png_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    PIL.Image.fromarray(noise).save(path)
    content = path.read_bytes()
    claims_more = content[:16] + (30000).to_bytes(4, "big") + content[20:]
    for damaged in (content[:2000], content[:20], claims_more, b"no image at all"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"a\.png: (is|announces)") as caught:
            read_image(path)
        assert "\n" not in str(caught.value)


def test_a_volume_is_not_written_as_png(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"volume\.png: PNG holds 2-D images, got shape \(3, 4, 5\)"):
        write_image(tmp_path / "volume.png", Image(ramp((3, 4, 5)), np.eye(4)))
    assert not list(tmp_path.iterdir())


def test_an_affine_of_another_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs an affine of shape \(3, 3\)"):
        Image(ramp((6, 5)), np.eye(4))


def test_scale_by_hand() -> None:
    scaled = scale_intensity(np.arange(1001.0).reshape(7, 143))
    assert (scaled.low, scaled.high) == (5.0, 995.0)
    np.testing.assert_allclose(scaled.data.flat[[0, 5, 995, 1000]], [0, 0, 1, 1])
    assert scaled.data.flat[104] == pytest.approx(99 / 990)
    assert scaled.data.dtype == np.float32


def test_scale_of_one_bright_voxel_uses_the_whole_range() -> None:
    data = np.zeros((64, 64))
    data[3, 4], data[5, 6] = 8, 2
    scaled = scale_intensity(data)
    assert (scaled.low, scaled.high, scaled.data[5, 6]) == (0, 8, 0.25)


@pytest.mark.parametrize(("value", "reason"), [(3, "all 3: a constant"), (np.nan, "must be finite")])
def test_scale_refuses_what_has_no_range(value: float, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        scale_intensity(np.full((4, 4), value))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 99), st.floats(0.01, 1e4), st.floats(-1e3, 1e3))
def test_scale_ignores_gain_and_offset(seed: int, gain: float, offset: float) -> None:
    data = np.random.default_rng(seed).random((20, 20))
    np.testing.assert_allclose(scale_intensity(gain * data + offset).data, scale_intensity(data).data, atol=1e-4)


@pytest.mark.parametrize(("grey", "white", "fluid"), [(0.55, 0.75, 0.25), (0.30, 0.25, 1.0)], ids=["T1w", "T2w"])
def test_scale_is_stable_under_noise(grey: float, white: float, fluid: float) -> None:
    radius = np.hypot(*np.meshgrid(np.linspace(-1.3, 1.3, 128), np.linspace(-1.3, 1.3, 128)))
    signal = np.select([radius < 0.2, radius < 0.6, radius < 0.9, radius < 1], [fluid, white, grey, fluid], 0)
    highs = []
    for seed in range(8):
        noise = np.random.default_rng(seed).normal(0, 0.03 * signal.max(), (2, 128, 128))
        scaled = scale_intensity(np.hypot(signal + noise[0], noise[1]))
        highs.append(scaled.high)
        assert 0 <= scaled.low < 0.01 * signal.max()
        assert (scaled.data[signal > 0] == 1).mean() < 0.012
    assert np.std(highs) < 0.005 * np.mean(highs)
    assert np.mean(highs) == pytest.approx(signal.max(), rel=0.1)

"""A series is held still: known motion is recovered, and what is written says so."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scenes import scene

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import read_series, write_image, write_series
from crossmorph.registration.linear import Linear
from crossmorph.registration.settings import DEFAULTS
from crossmorph.simulation.anatomy import tissue_maps
from crossmorph.simulation.mri import contrast_signals
from crossmorph.transforms.affine_files import read_affine_transform
from crossmorph.transforms.grid import centre
from crossmorph.transforms.motion import motion_matrix, motion_parameters
from crossmorph.transforms.warp import Warp, followed_by, resample, transform_points
from crossmorph.transforms.warp_files import read_transform
from crossmorph.workflows import series
from crossmorph.workflows.series import SeriesFiles, register_series

AFFINE = np.array([[3.0, 0, 0, -25], [0, 3, 0, -66], [0, 0, 3.5, -34], [0, 0, 0, 1]])
SHAPE = (26, 26, 24)


def volume(parameters: np.ndarray, noise: int) -> Image:
    """The scene after a motion: what was at ``x`` is at ``M x``; 2% noise."""
    grid = Image(np.zeros(SHAPE, np.float32), AFFINE)
    matrix = np.linalg.inv(motion_matrix(parameters, centre(grid)))
    points = transform_points(AFFINE, np.indices(SHAPE).astype(float))
    data = scene(transform_points(matrix, points))
    rng = np.random.default_rng(noise)
    return Image((800 * (data + rng.normal(0, 0.02, SHAPE))).astype(np.float32), AFFINE)


def motions(count: int) -> np.ndarray:
    """A walk of some millimetres and degrees."""
    steps = np.random.default_rng(5).normal(size=(count, 6)) * [0.5, 0.5, 0.5, 0.008, 0.008, 0.008]
    steps[0] = 0
    return np.cumsum(steps, axis=0)


@pytest.fixture
def moved(tmp_path: Path) -> tuple[Path, np.ndarray]:
    known = motions(4)
    write_series(tmp_path / "bold.nii.gz", [volume(each, k) for k, each in enumerate(known)])
    return tmp_path / "bold.nii.gz", known


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, moved: tuple[Path, np.ndarray]) -> None:
    """The known motion in place of a registration."""
    source, known = moved
    volumes = read_series(source)
    compared = [series.blurred(each).data for each in volumes]

    def told(volume: Image, reference: Image, freedom: str, start: np.ndarray) -> Linear:
        assert freedom == "rigid"
        ours = next(k for k, each in enumerate(compared) if np.array_equal(each, volume.data))
        theirs = next((k for k, each in enumerate(compared) if np.array_equal(each, reference.data)), 2)
        ends = [motion_matrix(known[k], centre(volumes[0])) for k in (ours, theirs)]
        matrix = ends[0] @ np.linalg.inv(ends[1])
        return Linear(matrix, start, 0.0, {})

    monkeypatch.setattr(series, "register_linear", told)


def checked_only(volume: Image, reference: Image, freedom: str, start: np.ndarray) -> Linear:
    """What the registration does first."""
    volume.scaled()
    return Linear(start, start, 0.0, {})


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_what_is_written(moved: tuple[Path, np.ndarray], quick: None, tmp_path: Path) -> None:
    source, known = moved
    files = SeriesFiles(*(tmp_path / name for name in ("still.nii.gz", "motion.tsv", "motion.png", "transforms")))
    found = register_series(source, files, reference="0", command="what I typed")
    np.testing.assert_allclose(found.parameters, known, atol=1e-9)
    table = rows(tmp_path / "motion.tsv")
    assert list(table[0]) == ["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z", "framewise_displacement"]
    assert table[0]["framewise_displacement"] == "n/a"
    assert float(table[3]["rot_z"]) == pytest.approx(known[3, 5], abs=1e-6)
    by_hand = np.abs(known[2] - known[1])
    assert float(table[2]["framewise_displacement"]) == pytest.approx(
        by_hand[:3].sum() + 50 * by_hand[3:].sum(), abs=1e-5
    )
    record = json.loads((tmp_path / "still.json").read_text())
    assert (record["command"], record["stage"], record["reference"]) == ("what I typed", "rigid", "0")
    assert (tmp_path / "motion.png").stat().st_size > 10_000
    matrix = read_affine_transform(tmp_path / "transforms" / "volume-0003.tfm")
    np.testing.assert_allclose(motion_parameters(matrix, centre(read_series(source)[0])), known[3], atol=1e-9)
    still = read_series(tmp_path / "still.nii.gz")
    inner = (slice(5, -5),) * 3
    first = read_series(source)[0].data[inner]
    for before, after in zip(read_series(source)[1:], still[1:], strict=True):
        gained = [np.corrcoef(first.ravel(), image.data[inner].ravel())[0, 1] for image in (before, after)]
        assert gained[1] > max(gained[0], 0.98)


def test_references(moved: tuple[Path, np.ndarray], quick: None, tmp_path: Path) -> None:
    source, _ = moved
    volumes = read_series(source)
    write_image(tmp_path / "reference.nii.gz", volumes[1])
    by_path = register_series(source, SeriesFiles(tmp_path / "a.nii"), str(tmp_path / "reference.nii.gz"))
    by_number = register_series(source, SeriesFiles(tmp_path / "b.nii"), "1")
    np.testing.assert_allclose(by_path.parameters, by_number.parameters, atol=1e-9)
    np.testing.assert_allclose(by_number.parameters[1], 0, atol=1e-9)
    to_mean = register_series(source, SeriesFiles(tmp_path / "c.nii"))
    np.testing.assert_allclose(to_mean.parameters[2], 0, atol=1e-9)  # the middle one, in whose place the mean is


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": "4"}, "--reference 4: .* has volumes 0 to 3"),
        ({"reference": "nothing.nii"}, "nothing.nii"),
        ({"jobs": 0}, "0 jobs"),
        ({"files": SeriesFiles(Path("still.mha"))}, "still.mha: unknown series format"),
        ({"files": SeriesFiles(Path("still.nii"), plot=Path("plot.txt"))}, "plot.txt: unknown picture format"),
    ],
)
def test_what_cannot_be_used_is_refused(
    moved: tuple[Path, np.ndarray], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        register_series(moved[0], **{"files": SeriesFiles(tmp_path / "still.nii"), **options})
    assert [path.name for path in tmp_path.iterdir()] == ["bold.nii.gz"]


def test_files_that_are_no_series_are_refused(
    moved: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, _ = moved
    write_image(tmp_path / "one.nii.gz", read_series(source)[0])
    with pytest.raises(InputError, match=r"has shape \(26, 26, 24, 1\); expected volumes"):
        register_series(tmp_path / "one.nii.gz", SeriesFiles(tmp_path / "still.nii"))
    with pytest.raises(InputError, match="is also the series or another output"):
        register_series(source, SeriesFiles(source))
    (tmp_path / "still.json").write_text('{"RepetitionTime": 2}')
    with pytest.raises(InputError, match=r"still\.json: .* a file that is no such record"):
        register_series(source, SeriesFiles(tmp_path / "still.nii"))
    (tmp_path / "still.json").unlink()
    volumes = read_series(source)
    volumes[2] = Image(np.zeros(SHAPE, np.float32), AFFINE)
    write_series(tmp_path / "blank.nii.gz", volumes)
    monkeypatch.setattr(series, "register_linear", checked_only)
    with pytest.raises(InputError, match=r"blank\.nii\.gz: volume 2: .*constant"):
        register_series(tmp_path / "blank.nii.gz", SeriesFiles(tmp_path / "still.nii"), "0")
    assert not (tmp_path / "still.nii").exists()


@pytest.mark.slow
def test_the_motion_of_forty_volumes(tmp_path: Path) -> None:
    """To 0.2 mm and 0.2 degrees, each against the first."""
    known = motions(40)
    write_series(tmp_path / "bold.nii.gz", [volume(each, k) for k, each in enumerate(known)])
    found = register_series(tmp_path / "bold.nii.gz", SeriesFiles(tmp_path / "still.nii.gz"), "0", jobs=2)
    wrong = np.abs(found.parameters - known)
    print(f"largest errors: {wrong[:, :3].max():.3f} mm, {np.degrees(wrong[:, 3:].max()):.3f} degrees")
    assert wrong[:, :3].max() < 0.2
    assert np.degrees(wrong[:, 3:].max()) < 0.2


@pytest.mark.slow
def test_a_deformable_series(moved: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    """Each volume has a field, which moves it as the written series has it."""
    source, _ = moved
    write_series(tmp_path / "two.nii.gz", read_series(source)[:2])
    files = SeriesFiles(tmp_path / "still.nii.gz", transforms=tmp_path / "transforms")
    register_series(tmp_path / "two.nii.gz", files, "0", stage="deformable")
    warp = read_transform(tmp_path / "transforms" / "volume-0001.h5")
    moved_again = resample(read_series(source)[1], warp)
    np.testing.assert_allclose(read_series(tmp_path / "still.nii.gz")[1].data, moved_again.data, atol=0.5)
    inner = (slice(5, -5),) * 3
    first, before = (image.data[inner].ravel() for image in read_series(source)[:2])
    assert np.corrcoef(first, moved_again.data[inner].ravel())[0, 1] > np.corrcoef(first, before)[0, 1]


def test_noise_does_not_draw_a_volume() -> None:
    """A brain in voxels of 4 mm with 5% of noise, moved by less than a tenth of a voxel: found to 0.03 mm."""
    maps, affine = tissue_maps()
    bright = Image(np.tensordot(contrast_signals("t2"), maps, 1).astype(np.float32), affine)
    coarse = affine @ np.diag([2.0, 2, 2, 1])
    coarse[:3, 3] += affine[:3, :3].sum(1) / 2
    shape = tuple(size // 2 for size in bright.shape)
    matrix = motion_matrix(np.array([0.4, -0.3, 0.5, 0.005, -0.004, 0.006]), affine[:3, 3])
    rng = np.random.default_rng(4)

    def acquired(there: np.ndarray) -> Image:
        moved = resample(bright, followed_by(Warp.identity(bright), there)).data
        blocks = moved[tuple(slice(2 * size) for size in shape)].reshape(*np.ravel([(size, 2) for size in shape]))
        data = blocks.mean((1, 3, 5))
        return Image(np.hypot(data + rng.normal(0, 0.05, shape), rng.normal(0, 0.05, shape)).astype(np.float32), coarse)

    still, volume = acquired(np.eye(4)), acquired(np.linalg.inv(matrix))
    how = series.How("rigid", None, DEFAULTS, "cpu", None)
    (found,) = series.register_chunk(series.Chunk(0, [volume], [np.eye(4)], still, how))
    points = transform_points(affine, np.argwhere(maps.sum(0) > 0.5)[::499].T.astype(float))
    ends = [transform_points(each, points) for each in (found.matrix, matrix)]
    assert np.linalg.norm(ends[0] - ends[1], axis=0).mean() < 0.03

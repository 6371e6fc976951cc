"""ANTs as a peer: our transform gives its own moved image, known deformations are found, nothing is left behind."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from crossmorph.baselines import ants as peer
from crossmorph.errors import InputError
from crossmorph.image import Image
from crossmorph.transform import Warp, resample

antspy = pytest.importorskip("ants")

SETTINGS = {"2d": ((64, 56), (1.5, 2.0)), "3d": ((28, 26, 24), (2.0, 2.5, 3.0))}
TURN = 0.5  # radians between the axes of the grid and those of the world
CENTRE = np.array([12.0, -30.0, 8.0])  # mm, of everything there is to see
BLOBS = 24
dimensions = pytest.mark.parametrize("which", SETTINGS)


def oblique(which: str, flip: bool = False) -> np.ndarray:
    """Affine of a turned, anisotropic grid about the centre; left-handed if flipped."""
    shape, spacing = SETTINGS[which]
    dim = len(shape)
    turn = np.eye(dim)
    turn[:2, :2] = [[np.cos(TURN), -np.sin(TURN)], [np.sin(TURN), np.cos(TURN)]]
    affine = np.eye(dim + 1)
    affine[:dim, :dim] = turn * np.array(spacing) * np.where(np.arange(dim) == 0, 1 - 2 * flip, 1)
    affine[:dim, dim] = CENTRE[:dim] - affine[:dim, :dim] @ (np.array(shape) - 1) / 2
    return affine


def world(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    dim = len(shape)
    points = np.tensordot(affine[:dim, :dim], np.indices(shape), 1)
    return points + affine[:dim, dim].reshape(-1, *[1] * dim)


def scene(points: np.ndarray) -> np.ndarray:
    """Blobs in the world, the same at every call: intensities at points (mm)."""
    rng = np.random.default_rng(0)
    dim = len(points)
    total = np.zeros(points.shape[1:])
    for _ in range(BLOBS):
        offset = points - (CENTRE[:dim] + rng.uniform(-28, 28, dim)).reshape(-1, *[1] * dim)
        total += rng.uniform(0.3, 1) * np.exp(-(offset**2).sum(0) / (2 * rng.uniform(5, 9) ** 2))
    return total / total.max()


def pull(points: np.ndarray) -> np.ndarray:
    """Where a fixed point lies in the moving image: scaled, turned and shifted about the centre."""
    dim = len(points)
    matrix = np.eye(dim) * 1.06
    matrix[:2, :2] = 1.06 * np.array([[np.cos(0.12), -np.sin(0.12)], [np.sin(0.12), np.cos(0.12)]])
    centre = CENTRE[:dim].reshape(-1, *[1] * dim)
    return np.tensordot(matrix, points - centre, 1) + centre + np.array([4.0, -3.0, 2.0])[:dim].reshape(centre.shape)


def pair(which: str, flip: bool = False) -> tuple[Image, Image]:
    """Moving and fixed image of the scene, in inverted contrast, on different grids."""
    shape, _ = SETTINGS[which]
    affine = oblique(which, flip)
    straight = np.eye(len(shape) + 1) * 2.0
    straight[-1, -1] = 1
    larger = tuple(size + 6 for size in shape)
    straight[:-1, -1] = CENTRE[: len(shape)] - (np.array(larger) - 1)
    moving = scene(world(straight, larger))
    fixed = scene(pull(world(affine, shape)))
    return Image(moving.astype(np.float32), straight), Image((1 - fixed**0.7).astype(np.float32), affine)


def error_mm(warp: Warp) -> float:
    """Mean distance to the truth in the inner half of the grid."""
    points = world(warp.affine, warp.shape)
    distance = np.linalg.norm(points + warp.displacement - pull(points), axis=0)
    return float(distance[tuple(slice(size // 4, -size // 4) for size in warp.shape)].mean())


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What ``ants.registration`` returned."""
    results: list[dict] = []
    original = antspy.registration

    def registration(*arguments, **options) -> dict:
        results.append(original(*arguments, **options))
        return results[-1]

    monkeypatch.setattr(antspy, "registration", registration)
    return results


@dimensions
@pytest.mark.parametrize("method", [peer.affine, peer.syn], ids=["affine", "syn"])
@pytest.mark.parametrize("flip", [False, True], ids=["right-handed", "left-handed"])
def test_our_transform_gives_the_moved_image_of_ants(recorded, which: str, method, flip: bool) -> None:
    moving, fixed = pair(which, flip)
    warp = method(moving, fixed)
    theirs = recorded[0]["warpedmovout"].numpy()
    assert warp.shape == fixed.shape
    np.testing.assert_array_equal(warp.affine, fixed.affine)
    np.testing.assert_allclose(resample(moving, warp).data, theirs, atol=1e-3)
    assert np.ptp(theirs) > 0.5


def test_a_sheared_grid_is_no_obstacle(recorded) -> None:
    moving, fixed = pair("2d")
    sheared = fixed.affine.copy()
    sheared[:2, 1] += 0.2 * sheared[:2, 0]
    fixed = Image(scene(pull(world(sheared, fixed.shape))).astype(np.float32), sheared)
    warp = peer.syn(moving, fixed)
    np.testing.assert_allclose(resample(moving, warp).data, recorded[0]["warpedmovout"].numpy(), atol=1e-3)


@dimensions
@pytest.mark.parametrize("kind", peer.SETTINGS)
def test_a_known_deformation_is_found(which: str, kind: peer.Kind) -> None:
    moving, fixed = pair(which)
    nowhere = Warp(np.zeros((fixed.dim, *fixed.shape)), fixed.affine)
    found, seconds = peer.register(moving, fixed, kind)
    assert error_mm(found) < 0.25 * error_mm(nowhere)
    assert 0 < seconds < 60


@pytest.mark.parametrize("fails", [False, True], ids=["done", "failed"])
def test_no_file_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    moving, fixed = pair("2d")
    seen = []
    original = antspy.registration

    def registration(*arguments, **options) -> dict:
        result = original(*arguments, **options)
        seen.extend(tmp_path.rglob("*.h5"))
        if fails:
            raise RuntimeError("gave up")
        return result

    monkeypatch.setattr(antspy, "registration", registration)
    if fails:
        with pytest.raises(RuntimeError, match="gave up"):
            peer.affine(moving, fixed)
    else:
        peer.affine(moving, fixed)
    assert seen
    assert list(tmp_path.iterdir()) == []


def test_one_thread_gives_the_same_bits() -> None:
    # In a process of its own: ANTs keeps the number of threads of whoever used it first.
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_baselines import pair, peer\n"
        "peer.start(1)\n"
        "one, other = (peer.syn(*pair('2d')).displacement for _ in range(2))\n"
        "assert (one == other).all()\n"
        "try: peer.start(2)\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(Path(__file__).parent)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ANTs began in this process with 1 thread(s) and cannot change; received 2, expected 1\n"


def test_a_missing_antspyx_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ants", None)
    monkeypatch.setattr(peer, "_start", peer._start.__wrapped__)
    with pytest.raises(InputError, match=r'antspyx.*pip install "crossmorph\[baselines\]"'):
        peer.affine(*pair("2d"))

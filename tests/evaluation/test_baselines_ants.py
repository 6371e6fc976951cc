"""ANTs as a peer: our transform gives its own moved image, known deformations are found, nothing is left behind."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from scenes import SETTINGS, error_mm, pair, pull, scene, world

from crossmorph.errors import InputError
from crossmorph.evaluation.baselines import ants as peer
from crossmorph.images.image import Image
from crossmorph.transforms.warp import Warp, resample

antspy = pytest.importorskip("ants")

dimensions = pytest.mark.parametrize("which", SETTINGS)


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
@pytest.mark.parametrize("kind", ["affine", "syn"])
@pytest.mark.parametrize("flip", [False, True], ids=["right-handed", "left-handed"])
def test_our_transform_gives_the_moved_image_of_ants(recorded, which: str, kind: peer.Kind, flip: bool) -> None:
    moving, fixed = pair(which, flip)
    warp = peer.register(moving, fixed, kind).warp
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
    warp = peer.register(moving, fixed, "syn").warp
    np.testing.assert_allclose(resample(moving, warp).data, recorded[0]["warpedmovout"].numpy(), atol=1e-3)


@dimensions
@pytest.mark.parametrize("kind", peer.SETTINGS)
def test_a_known_deformation_is_found(which: str, kind: peer.Kind) -> None:
    moving, fixed = pair(which)
    nowhere = Warp(np.zeros((fixed.dim, *fixed.shape)), fixed.affine)
    found, seconds = peer.register(moving, fixed, kind)
    assert error_mm(found) < 0.3 * error_mm(nowhere)
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
            peer.register(moving, fixed, "affine")
    else:
        peer.register(moving, fixed, "affine")
    assert seen
    assert list(tmp_path.iterdir()) == []


def test_one_thread_gives_the_same_bits() -> None:
    # In a process of its own: ANTs keeps the number of threads of whoever used it first.
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from scenes import pair\n"
        "from crossmorph.evaluation.baselines import ants as peer\n"
        "peer.start(1)\n"
        "one, other = (peer.register(*pair('2d'), 'syn').warp.displacement for _ in range(2))\n"
        "assert (one == other).all()\n"
        "try: peer.start(2)\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(Path(__file__).parents[1])], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ANTs was started in this process with 1 thread(s) and keeps them; received 2, expected 1\n"


def test_a_missing_antspyx_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ants", None)
    monkeypatch.setattr(peer, "_start", peer._start.__wrapped__)
    with pytest.raises(InputError, match=r'antspyx.*pip install "crossmorph\[baselines\]"'):
        peer.register(*pair("2d"), "affine")

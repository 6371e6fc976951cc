"""A template of a group: in its middle, sharper than the affine average, the same however often it was interrupted."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples import check, measures
from html_scene import Parsed
from scipy import ndimage

from crossmorph.errors import InputError
from crossmorph.images.image import Image
from crossmorph.images.io import read_image, write_image
from crossmorph.registration.linear import Linear, register_linear
from crossmorph.registration.settings import Settings
from crossmorph.transforms.averages import mean_warp
from crossmorph.transforms.composition import as_warp, inverted
from crossmorph.transforms.grid import Grid
from crossmorph.transforms.warp import Warp, followed_by, resample
from crossmorph.transforms.warp_files import read_transform, write_transform
from crossmorph.workflows import batch, template, template_affine
from crossmorph.workflows.batch import Entry, Task
from crossmorph.workflows.longitudinal import Dates, volume_changes
from crossmorph.workflows.outputs import Outputs
from crossmorph.workflows.register_files import Done, register_files
from crossmorph.workflows.template import Template, make_template
from crossmorph.workflows.template_average import average, foreground, group_grid, sharpened, sharpness
from crossmorph.workflows.template_group import names_of

SIDE = 72


def head(seed: int) -> Image:
    """An ellipse with blobs of a scene that all share, bent, turned and scaled at random."""
    rng = np.random.default_rng(seed)
    grid = np.indices((SIDE, SIDE)).astype(float)
    bend = np.stack([ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), 9) for _ in range(2)])
    turn, size = rng.uniform(-0.15, 0.15), rng.uniform(0.92, 1.08)
    rotation = size * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    centre = (SIDE - 1) / 2
    points = np.tensordot(rotation, grid - centre, 1) + 3 * bend / bend.std()
    shared = np.random.default_rng(99)
    data = ((points[0] / 26) ** 2 + (points[1] / 21) ** 2 < 1) * 0.4
    for _ in range(12):
        at, width = shared.uniform(-15, 15, 2), shared.uniform(2, 5)
        blob = np.exp(-((points - at[:, None, None]) ** 2).sum(0) / (2 * width**2))
        data = data + shared.uniform(0.2, 0.6) * (blob > 0.5)
    data = ndimage.gaussian_filter(data, 0.7) + rng.normal(0, 0.01, data.shape)
    affine = np.diag([1.5, 1.5, 1.0])
    affine[:2, 2] = rng.uniform(-60, -40, 2)
    return Image(data.astype(np.float32), affine)


def by_centroids(moving: Image, fixed: Image, *_: object) -> Linear:
    """Centre of intensity on centre of intensity, which takes no time."""
    shift = np.eye(3)
    ends = [image.affine @ [*ndimage.center_of_mass(image.data), 1] for image in (moving, fixed)]
    shift[:2, 2] = (ends[0] - ends[1])[:2]
    return Linear(shift, shift, 0.0, {})


def bent(moving: Path, fixed: Path, outputs: Outputs, model: None, settings: Settings, *_: object) -> Done:
    """The initial affine after a bend that depends on the images' intensities, in place of a registration."""
    ours, theirs = read_image(moving), read_image(fixed)
    waves = np.sin(np.indices(theirs.shape) / 9 + 40 * ours.data.mean())
    warp = followed_by(Warp((1 + 2 * waves * theirs.data.max()).astype(np.float32), theirs.affine), settings.init)
    assert outputs.transform
    assert outputs.inverse
    assert outputs.moved
    write_transform(outputs.transform, warp)
    write_transform(outputs.inverse, as_warp(inverted([warp]), ours.affine, ours.shape))
    write_image(outputs.moved, resample(ours, warp))
    for sidecar in outputs.records():
        sidecar.path.write_text("{}")
    return Done(moving, fixed, model or "none", outputs, 1.0, measures(), (check("folding", "passed"),), None, None)


@pytest.fixture
def group(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "images" / f"sub-{k}.nii.gz" for k in range(4)]
    paths[0].parent.mkdir()
    for seed, path in enumerate(paths):
        write_image(path, head(seed))
    return paths


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All tasks in this process; what was done, in a list."""
    done: list[str] = []

    def pairs(tasks: list[Task], jobs: int) -> Generator[Entry, None, None]:
        for task in tasks:
            entry = batch.register_pair(task)
            done.append(f"{task.name} {entry.status}")
            yield entry

    def on_processes(work: Any, tasks: Any, jobs: int) -> Any:
        return ((task, work(task)) for task in tasks)

    monkeypatch.setattr(batch, "_by_processes", pairs)
    monkeypatch.setattr(template_affine, "on_processes", on_processes)
    monkeypatch.setattr(template_affine, "register_linear", by_centroids)
    monkeypatch.setattr(batch, "register_files", bent)
    return done


def read(made: Template) -> tuple[np.ndarray, list[Warp], list[Warp]]:
    folder = made.path.parent
    names = [f"sub-{k}" for k in range(4)]
    ends = [[read_transform(folder / name / f"{kind}.h5") for name in names] for kind in ("transform", "inverse")]
    return read_image(made.path).data, ends[0], ends[1]


def test_the_deformations_have_no_mean(group: list[Path], here: list[str], tmp_path: Path) -> None:
    made = make_template(group, tmp_path / "out", rounds=2, sharpening=0.0)
    _, forth, back = read(made)
    deformations = [
        followed_by(warp, np.linalg.inv(np.array(matrix)))
        for warp, matrix in zip(forth, made.rounds[-1].matrices, strict=True)
    ]
    left = np.linalg.norm(mean_warp(deformations).displacement, axis=0)
    assert left[8:-8, 8:-8].max() < 5e-4
    assert left.max() < 0.02  # at the border the inverse of a field goes on as an affine map does
    assert made.rounds[-1].removed > 1
    assert made.rounds[-1].mean_deformation == pytest.approx(left[foreground(read_image(made.path))].mean(), abs=1e-4)
    # Each image's transforms lead to the template and back.
    image = read_image(group[1])
    there = as_warp([back[1], forth[1]], image.affine, image.shape)
    assert np.percentile(np.linalg.norm(there.displacement, axis=0)[foreground(image)], 95) < 0.3
    moved = read_image(made.path.parent / "sub-1" / "moved.nii.gz")
    np.testing.assert_allclose(moved.data, resample(image, forth[1]).data, atol=1e-6)
    means = [resample(read_image(path).scaled(), warp).data for path, warp in zip(group, forth, strict=True)]
    np.testing.assert_allclose(read_image(made.path).data, np.mean(means, axis=0), atol=1e-5)


@pytest.mark.slow
def test_a_template_is_sharper_than_the_affine_average(
    group: list[Path], here: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_affine, "register_linear", register_linear)
    monkeypatch.setattr(batch, "register_files", register_files)
    made = make_template(group, tmp_path / "out", rounds=2, sharpening=0.0)
    affine, _, last = made.rounds
    assert last.variation < 0.6 * affine.variation
    assert last.gradient > 1.04 * affine.gradient
    assert last.mean_deformation < 1e-3


def test_whatever_is_interrupted_ends_in_the_same(
    group: list[Path], here: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"rounds": 2}
    whole = make_template(group, tmp_path / "whole", **how)
    here.clear()
    register_pair, count = batch.register_pair, iter(range(100))

    def killed(task: Task) -> Entry:
        if next(count) in (2, 6):
            raise KeyboardInterrupt
        return register_pair(task)

    monkeypatch.setattr(batch, "register_pair", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            make_template(group, tmp_path / "parts", **how)
    write = template.write_transform

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(template, "write_transform", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_template(group, tmp_path / "parts", **how)
    monkeypatch.setattr(template, "write_transform", write)
    parts = make_template(group, tmp_path / "parts", **how)
    assert sum(line.endswith("done") for line in here) == 8
    assert parts.rounds == whole.rounds
    for one, two in zip(read(parts)[1:], read(whole)[1:], strict=True):
        for warp, other in zip(one, two, strict=True):
            np.testing.assert_array_equal(warp.displacement, other.displacement)
    np.testing.assert_array_equal(read(parts)[0], read(whole)[0])
    here.clear()
    before = (tmp_path / "parts" / "template.json").read_bytes()
    make_template(group, tmp_path / "parts", **how)
    assert here == []
    assert (tmp_path / "parts" / "template.json").read_bytes() == before
    # A lost transform is made again, one round more goes on from there, another setting begins again.
    (tmp_path / "parts" / "sub-2" / "inverse.h5").unlink()
    make_template(group, tmp_path / "parts", **how)
    assert {line.split()[1] for line in here} == {"skipped"}
    more = make_template(group, tmp_path / "parts", **{**how, "rounds": 3})
    assert more.rounds[:3] == whole.rounds
    assert sum(line.endswith("done") for line in here) == 4
    page = Parsed(more.page.read_text("utf-8"))
    assert "Finished after 3 rounds" in page.text
    assert sum(tag == "img" for tag, _ in page.tags) == 4
    record = json.loads((tmp_path / "parts" / "template.json").read_text())
    assert [image["name"] for image in record["images"]] == [f"sub-{k}" for k in range(4)]
    subjects = Parsed((tmp_path / "parts" / "subjects.html").read_text("utf-8"))
    links = [str(attributes["href"]) for tag, attributes in subjects.tags if tag == "a"]
    assert len(links) == 8
    assert all((tmp_path / "parts" / link).exists() for link in links)


def test_the_affine_average_does_not_depend_on_the_order(group: list[Path], here: list[str], tmp_path: Path) -> None:
    """By centroids all maps are shifts, so that the averages are the same but for where their grids begin."""
    one = make_template(group, tmp_path / "one", rounds=0)
    two = make_template(group[::-1], tmp_path / "two", rounds=0)
    shared = [read_image(made.path) for made in (one, two)]
    other = resample(shared[1], Warp.identity(shared[0])).data
    inner = (slice(8, -8), slice(8, -8))
    assert np.corrcoef(shared[0].data[inner].ravel(), other[inner].ravel())[0, 1] > 0.99
    for state in (one.rounds[0], two.rounds[0]):
        volumes = [np.linalg.det(np.array(matrix)[:-1, :-1]) for matrix in state.matrices]
        assert np.mean(np.log(volumes)) == pytest.approx(0, abs=1e-6)
    assert {path.name for path in one.path.parent.iterdir()} >= {"template.nii.gz", "sub-0", "index.html"}


def test_an_image_that_cannot_be_registered_is_named(
    group: list[Path], here: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_pair = batch.register_pair

    def failing(task: Task) -> Entry:
        return Entry(task.name, "failed", error="torn") if task.name == "sub-2" else register_pair(task)

    monkeypatch.setattr(batch, "register_pair", failing)
    with pytest.raises(InputError, match=r"sub-2\.nii\.gz: cannot be registered to the template \(torn\)"):
        make_template(group, tmp_path / "out", rounds=1)
    assert not (tmp_path / "out" / "template.nii.gz").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": -1}, "received -1 rounds"),
        ({"spacing": 0.0}, "spacing 0.0; expected"),
        ({"jobs": 0}, "0 jobs"),
        ({"settings": Settings(refine="yes")}, "refine 'yes'"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(
    group: list[Path], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make_template(group, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_images_that_do_not_go_together_are_refused(group: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="received 1 images; expected at least 2"):
        make_template(group[:1], tmp_path / "out")
    with pytest.raises(InputError, match="expected names that tell the images apart"):
        make_template([group[0], group[0]], tmp_path / "out")
    volume = tmp_path / "volume.nii.gz"
    write_image(volume, Image(np.random.default_rng(0).random((8, 8, 8)).astype(np.float32), np.eye(4)))
    with pytest.raises(InputError, match=r"volume\.nii\.gz: is 3-D; expected 2-D images in millimetres"):
        make_template([*group, volume], tmp_path / "out")
    page = tmp_path / "page.png"
    write_image(page, Image(np.arange(256, dtype=np.uint8).reshape(16, 16), np.diag([-1.0, -1, 1]), physical=False))
    with pytest.raises(InputError, match=r"page\.png: is without millimetres"):
        make_template([group[0], page], tmp_path / "out")


# --- averages --------------------------------------------------------------------------------------------------------


def test_the_grid_shows_what_most_images_show() -> None:
    """Three images of 40 mm about 0, 10 and 100, two voxel sizes of 2 and one of 1."""
    grids = []
    for middle, size in ((0, 2.0), (10, 2.0), (100, 1.0)):
        affine = np.diag([size, size, 1])
        affine[:2, 2] = middle - 20 + size / 2
        grids.append(Grid(affine, (round(40 / size),) * 2))
    found = group_grid(grids, [np.eye(3)] * 3, None)
    assert found.shape == (20, 20)
    np.testing.assert_allclose(found.affine, [[2, 0, -9], [0, 2, -9], [0, 0, 1]])
    assert group_grid(grids, [np.eye(3)] * 3, 0.5).shape == (80, 80)
    twice = group_grid(grids, [np.diag([2.0, 2, 1])] * 3, None)
    assert twice.shape == (10, 10)


def test_sharpening_steepens_edges_within_the_intensities() -> None:
    data = np.zeros((40, 40), np.float32)
    data[10:30, 10:30] = 1
    blurred = Image(ndimage.gaussian_filter(data, 1.5), np.diag([2.0, 2, 1]))
    sharp = sharpened(blurred, 1.0)
    assert sharpness(sharp).gradient > 1.05 * sharpness(blurred).gradient
    assert sharpness(sharp).entropy < sharpness(blurred).entropy
    assert sharp.data.min() >= blurred.data.min()
    assert sharp.data.max() <= blurred.data.max()
    np.testing.assert_array_equal(sharpened(blurred, 0.0).data, blurred.data)


def test_entropy_and_gradient_by_hand() -> None:
    """A quarter, a quarter and a half of the voxels at three intensities: 1.5 bits; a ramp of .01 per voxel of 2 mm."""
    data = np.repeat([0.1, 0.5, 0.9, 0.9], 16).reshape(8, 8).astype(np.float32)
    assert sharpness(Image(data, np.eye(3))).entropy == pytest.approx(1.5)
    ramp = Image((0.5 + 0.01 * np.indices((20, 20))[0]).astype(np.float32), np.diag([2.0, 2, 1]))
    shown = foreground(ramp)
    assert sharpness(ramp).gradient == pytest.approx(0.005 / ramp.data[shown].mean(), rel=1e-4)


def test_an_average_of_shifted_images(tmp_path: Path) -> None:
    """Two images half a shift to either side: the mean, no variation, no mean deformation."""
    paths = [tmp_path / f"{k}.nii.gz" for k in range(2)]
    data = np.random.default_rng(0).random((24, 24)).astype(np.float32)
    for path, shift in zip(paths, (4.0, -4.0), strict=True):
        affine = np.eye(3)
        affine[0, 2] = shift
        write_image(path, Image(data, affine))
    matrices = [np.eye(3), np.eye(3)]
    warps = [np.array([[1, 0, shift], [0, 1, 0], [0, 0, 1.0]]) for shift in (4.0, -4.0)]
    grid = Grid(np.eye(3), (24, 24))
    found = average(paths, matrices, ([matrix] for matrix in warps), grid)
    np.testing.assert_allclose(found.image.data, Image(data, np.eye(3)).scaled().data, atol=1e-6)
    assert found.variation == pytest.approx(0, abs=1e-6)
    assert found.mean_deformation == pytest.approx(0, abs=1e-6)
    still = average(paths, matrices, ([np.eye(3)] for _ in warps), grid)
    assert still.variation > 0.1


# --- dates of one person ---------------------------------------------------------------------------------------------


def register_dates(images: list[Path], output: Path, **how: Any) -> Dates:
    made = make_template(images, output, sharpening=0.0, freedom="rigid", **how)
    return volume_changes(made.path, names_of(images))


def test_exchanged_dates_give_the_inverse_change(group: list[Path], here: list[str], tmp_path: Path) -> None:
    forth = register_dates(group[:2], tmp_path / "forth", rounds=1)
    back = register_dates(group[1::-1], tmp_path / "back", rounds=1)
    change = read_image(tmp_path / "forth" / "sub-1" / "jacobian.nii.gz")
    other = read_image(tmp_path / "back" / "sub-0" / "jacobian.nii.gz")
    np.testing.assert_allclose(change.affine, other.affine, atol=1e-9)
    assert np.abs(np.log(change.data)).max() > 0.2
    np.testing.assert_allclose(np.log(change.data), -np.log(other.data), atol=1e-4)
    for name in ("sub-0", "sub-1"):
        ends = [read_transform(tmp_path / folder / name / "transform.h5") for folder in ("forth", "back")]
        np.testing.assert_allclose(ends[0].displacement, ends[1].displacement, atol=1e-3)
    assert [date.name for date in forth.dates] == ["sub-1"]
    assert forth.dates[0].median == pytest.approx(1 / back.dates[0].median, rel=1e-3)
    # By hand: the ratio of the two dates' Jacobian determinants, and where it lies on the first date's grid.
    jacobians = [read_transform(tmp_path / "forth" / name / "transform.h5").jacobian() for name in ("sub-0", "sub-1")]
    np.testing.assert_allclose(change.data, jacobians[1] / jacobians[0], rtol=1e-5)
    on_first = read_image(tmp_path / "forth" / "sub-1" / "jacobian_on_first.nii.gz")
    first = read_image(group[0])
    assert on_first.shape == first.shape
    np.testing.assert_allclose(on_first.affine, first.affine)

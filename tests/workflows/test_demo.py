"""The demonstration: files, numbers and picture, as promised on the first page."""

import numpy as np
import pytest

from crossmorph.errors import InputError
from crossmorph.functional import metrics
from crossmorph.images.io import read_image
from crossmorph.transforms.warp import Warp, resample
from crossmorph.transforms.warp_files import read_transform
from crossmorph.workflows.demo import demo_pair, run_demo

FILES = {
    "fixed.nii.gz",
    "fixed_labels.nii.gz",
    "inverse.h5",
    "inverse.json",
    "moved.nii.gz",
    "moved_labels.nii.gz",
    "moving.nii.gz",
    "moving_labels.nii.gz",
    "report.html",
    "transform.h5",
    "transform.json",
    "translated.nii.gz",
}


def test_the_demo_registers_its_pair(tmp_path, capsys):
    folder = tmp_path / "new" / "demo"
    done = run_demo(folder)
    assert done.passed
    assert {path.name for path in folder.iterdir()} == FILES
    assert all(path.stat().st_size > 0 for path in folder.iterdir())

    pair, found = demo_pair(), read_transform(folder / "transform.h5")
    still = Warp(np.zeros_like(pair.truth.displacement), pair.fixed.affine)
    brain = pair.fixed_labels.data > 0
    dice, error = {}, {}
    for name, warp in (("before", still), ("after", found), ("truth", pair.truth)):
        moved = resample(pair.moving_labels, warp, "nearest").data
        dice[name] = metrics.mean_dice(moved, pair.fixed_labels.data)
        error[name] = metrics.endpoint_error_mm(warp.displacement, pair.truth.displacement, brain)
    assert dice["before"] + 0.2 < dice["after"] < dice["truth"]
    assert error["after"] < error["before"] / 2
    written = read_image(folder / "moved_labels.nii.gz", labels=True).data
    assert np.array_equal(written, resample(pair.moving_labels, found, "nearest").data)

    printed = capsys.readouterr().out
    for number in (*dice.values(), error["before"], error["after"]):
        assert f"{number:.3f}" in printed or f"{number:.2f}" in printed
    assert str(folder / "report.html") in printed


def test_the_pair_is_the_same_every_time():
    first, second = demo_pair(), demo_pair()
    assert np.array_equal(first.moving.data, second.moving.data)
    assert np.array_equal(first.truth.displacement, second.truth.displacement)


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "demo").write_text("mine")
    with pytest.raises(InputError, match="demo: the folder cannot be made"):
        run_demo(tmp_path / "demo")
    assert (tmp_path / "demo").read_text() == "mine"

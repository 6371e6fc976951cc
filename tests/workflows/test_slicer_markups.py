"""Points in Slicer's markups files: both frames, several markups, what is kept, bad files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossmorph.errors import InputError
from crossmorph.transforms.affine_files import write_affine_transform
from crossmorph.transforms.warp import Warp
from crossmorph.transforms.warp_files import write_transform
from crossmorph.workflows.transform_points import points_file

SCHEMA = "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
Document = dict[str, Any]


def point(number: int, position: list[Any], **more: object) -> Document:
    """A control point as Slicer writes it."""
    return {
        "id": str(number),
        "label": f"F-{number}",
        "description": "",
        "associatedNodeID": "vtkMRMLScalarVolumeNode1",
        "position": position,
        "orientation": [-1.0, -0.0, -0.0, -0.0, -1.0, -0.0, 0.0, 0.0, 1.0],
        "selected": True,
        "locked": False,
        "visibility": True,
        "positionStatus": "defined",
        **more,
    }


def markup(frame: str, *points: Document, **more: object) -> Document:
    """A markup of a point list as Slicer writes it."""
    return {
        "type": "Fiducial",
        "coordinateSystem": frame,
        "coordinateUnits": "mm",
        "locked": False,
        "controlPoints": list(points),
        "measurements": [],
        "display": {"visibility": True, "color": [0.4, 1.0, 1.0]},
        **more,
    }


def document(*markups: object) -> Document:
    return {"@schema": f"{SCHEMA}markups-schema-v1.0.3.json#", "markups": list(markups)}


@pytest.fixture
def shift(tmp_path: Path) -> Path:
    """10 mm to the right, 20 mm forward and 30 mm up, as an affine map."""
    matrix = np.eye(4)
    matrix[:3, 3] = [10, 20, 30]
    write_affine_transform(tmp_path / "shift.mat", matrix)
    return tmp_path / "shift.mat"


def moved(transform: Path, told: Document, inverse: bool = False) -> Document:
    """A document through a transform."""
    source, target = transform.with_name("a.mrk.json"), transform.with_name("b.mrk.json")
    source.write_text(json.dumps(told))
    assert points_file([transform], source, target, inverse) == []
    return json.loads(target.read_text())


@pytest.mark.parametrize(
    ("frame", "there", "back"), [("RAS", [11, 22, 33], [-9, -18, -27]), ("LPS", [-9, -18, 33], [11, 22, -27])]
)
def test_points_move_in_the_frame_of_their_file(frame: str, there: list[float], back: list[float], shift: Path) -> None:
    told = document(markup(frame, point(1, [1.0, 2.0, 3.0])))
    for inverse, position in ((False, there), (True, back)):
        expected = document(markup(frame, point(1, position)))
        del expected["markups"][0]["measurements"]
        assert moved(shift, told, inverse) == expected


def test_several_markups_of_several_kinds_each_in_its_frame(shift: Path) -> None:
    """Without a frame it is LPS; points without a position stay without one."""
    line = markup("RAS", point(1, [0, 0, 0]), point(2, [1, 1, 1]), type="Line")
    line["measurements"] = [{"name": "length", "enabled": True, "value": 1.732, "units": "mm"}]
    plain = {"type": "Curve", "controlPoints": [{"label": "a", "position": [0, 0, 0]}]}
    units = ["mm", "UCUM", "millimeter"]
    waiting = markup("LPS", {"id": "1", "positionStatus": "undefined"}, type="Angle", coordinateUnits=units)
    found = moved(shift, document(line, plain, waiting))["markups"]
    assert [each["position"] for each in found[0]["controlPoints"]] == [[10, 20, 30], [11, 21, 31]]
    assert "measurements" not in found[0]
    assert found[1]["controlPoints"] == [{"label": "a", "position": [-10, -20, 30]}]
    assert found[2]["controlPoints"] == waiting["controlPoints"]


def test_a_plane_moves_two_coordinates_and_leaves_the_third(tmp_path: Path) -> None:
    matrix = np.eye(3)
    matrix[:2, 2] = [10, 20]
    write_affine_transform(tmp_path / "shift.mat", matrix)
    found = moved(tmp_path / "shift.mat", document(markup("LPS", point(1, [1, 2, 7]))))
    assert found["markups"][0]["controlPoints"][0]["position"] == [-9, -18, 7]


def test_points_beyond_the_grid_are_named(tmp_path: Path) -> None:
    write_transform(tmp_path / "w.h5", Warp(np.full((3, 5, 5, 5), 2.0), np.eye(4)))
    told = document(markup("RAS", point(1, [1, 1, 1]), point(2, [90, 1, 1])))
    (tmp_path / "a.mrk.json").write_text(json.dumps(told))
    (caution,) = points_file([tmp_path / "w.h5"], tmp_path / "a.mrk.json", tmp_path / "b.mrk.json")
    assert "1 of 2 points lie beyond the warp's grid" in caution


GOOD = [1.0, 2.0, 3.0]
BAD: dict[str, tuple[object, str]] = {
    "no JSON": ("{", "is not JSON"),
    "binary": ("\ud800", "is not JSON"),
    "deep": ("[" * 100_000, "is not JSON"),
    "a list": ([], "has no list of markups"),
    "other": ({"points": []}, "has no list of markups"),
    "nothing": (document(), "holds no points"),
    "no points": (document(markup("LPS")), "holds no points"),
    "a region": (document(markup("LPS", point(1, GOOD), type="ROI")), "a markup of type ROI, expected Fiducial, Line"),
    "no type": (document({"controlPoints": []}), "a markup of type None"),
    "a word": (document("Fiducial"), "a markup of type None"),
    "voxels": (document(markup("IJK", point(1, GOOD))), "coordinate system IJK, expected LPS or RAS"),
    "a list for a frame": (document(markup("LPS", point(1, GOOD), coordinateSystem=["LPS"])), "expected LPS or RAS"),
    "micrometres": (document(markup("LPS", point(1, GOOD), coordinateUnits="um")), "coordinates in um, expected mm"),
    "two numbers": (
        document(markup("LPS", point(4, [1.0, 2.0]))),
        r"F-4 has the position \[1.0, 2.0\], expected",
    ),
    "words": (document(markup("LPS", point(1, ["1", "2", "3"]))), "expected three finite numbers"),
    "true": (document(markup("LPS", point(1, [True, 2, 3]))), "expected three finite numbers"),
    "not finite": (document(markup("LPS", point(1, [1, 2, float("nan")]))), "expected three finite numbers"),
    "no position": (document(markup("LPS", {"label": "x"})), "x has the position None"),
    "points of another kind": (document({"type": "Line", "controlPoints": {"a": 1}}), "no list of points"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_line(name: str, shift: Path) -> None:
    told, reason = BAD[name]
    source, target = shift.with_name("a.mrk.json"), shift.with_name("b.mrk.json")
    source.write_bytes((told if isinstance(told, str) else json.dumps(told)).encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError, match=reason) as caught:
        points_file([shift], source, target)
    assert str(caught.value).startswith(str(source))
    assert "\n" not in str(caught.value)
    assert not target.exists()

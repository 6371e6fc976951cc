"""Points through transforms: the tables of ANTs and Slicer, ANTs' own answer, hand arithmetic, bad tables."""

from pathlib import Path

import numpy as np
import pytest
import typer
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

from crossmorph.cli.transforms import add_commands
from crossmorph.errors import InputError
from crossmorph.transforms.affine_files import write_affine_transform
from crossmorph.transforms.warp import Warp
from crossmorph.transforms.warp_files import write_transform
from crossmorph.workflows.point_tables import read_points
from crossmorph.workflows.transform_points import points_file

ANTS = 'x,y,z,t,label,comment\n-1,-2,3,0,1,tip\n4,5,6,0,2,"a, b"\n'
FCSV = """# Markups fiducial file version = 4.11
# CoordinateSystem = {}
# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID
1,{},{},3.000000,0,0,0,1,1,1,0,F-1,,
"""


@pytest.fixture
def shift(tmp_path: Path) -> Path:
    """10 mm to the right, 20 mm forward and 30 mm up, as an affine map."""
    matrix = np.eye(4)
    matrix[:3, 3] = [10, 20, 30]
    write_affine_transform(tmp_path / "shift.mat", matrix)
    return tmp_path / "shift.mat"


def moved(transform: Path, name: str, text: str, inverse: bool = False) -> str:
    """A table through a transform."""
    source, target = transform.with_name(name), transform.with_name(f"out_{name}")
    source.write_text(text)
    points_file([transform], source, target, inverse)
    return target.read_text()


def test_tables_of_ants_are_lps_and_keep_their_columns(shift: Path) -> None:
    lines = moved(shift, "a.csv", ANTS).splitlines()
    assert lines[0] == "x,y,z,t,label,comment"
    assert lines[1] == "-11.000000,-22.000000,33.000000,0,1,tip"
    assert lines[2] == '-6.000000,-15.000000,36.000000,0,2,"a, b"'
    assert moved(shift, "b.csv", ANTS, inverse=True).splitlines()[1] == "9.000000,18.000000,-27.000000,0,1,tip"


@pytest.mark.parametrize(("frame", "signs"), [("LPS", (-1, -1)), ("RAS", (1, 1)), ("0", (1, 1)), ("1", (-1, -1))])
def test_fcsv_of_slicer_in_both_frames(frame: str, signs: tuple[int, int], shift: Path) -> None:
    before, after = ((signs[0] * x, signs[1] * y) for x, y in ((1, 2), (11, 22)))
    lines = moved(shift, "a.fcsv", FCSV.format(frame, *before)).splitlines()
    assert lines[:3] == FCSV.format(frame, 0, 0).splitlines()[:3]
    assert lines[3] == f"1,{after[0]:.6f},{after[1]:.6f},33.000000,0,0,0,1,1,1,0,F-1,,"


@pytest.mark.parametrize(("names", "sign"), [("r,a,s", 1), ("l,p,s", -1), ("R,A,S", 1)])
def test_csv_of_slicer_in_both_frames(names: str, sign: int, shift: Path) -> None:
    text = f"label,{names},defined\nF-1,{sign * 1},{sign * 2},3,1\n"
    expected = f"F-1,{sign * 11:.6f},{sign * 22:.6f},33.000000,1"
    assert moved(shift, "a.csv", text).splitlines() == [f"label,{names},defined", expected]


@pytest.mark.parametrize("dim", [2, 3])
def test_points_go_where_ants_takes_them(dim: int, tmp_path: Path) -> None:
    ants, pandas = pytest.importorskip("ants"), pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    shape = (16, 18, 14)[:dim]
    field = (10 if dim == 2 else 40) * np.stack([gaussian_filter(rng.standard_normal(shape), 3) for _ in shape])
    grid = np.diag([*[1.5, -2.0, 1.2][:dim], 1.0])
    matrix = np.eye(dim + 1)
    matrix[0, 1], matrix[:dim, dim] = 0.2, [3, -4, 5][:dim]
    write_transform(tmp_path / "w.nii.gz", Warp(field, grid))
    write_affine_transform(tmp_path / "a.mat", matrix)
    voxels = rng.uniform(2, 12, (dim, 30))
    points = pandas.DataFrame(
        ((grid[:dim, :dim] @ voxels) * np.array([-1, -1, 1])[:dim, None]).T, columns=[*"xyz"][:dim]
    )
    points["t"] = 0
    points.to_csv(tmp_path / "in.csv", index=False)
    files = [tmp_path / "w.nii.gz", tmp_path / "a.mat"]
    points_file(files, tmp_path / "in.csv", tmp_path / "out.csv")
    ours = pandas.read_csv(tmp_path / "out.csv")
    theirs = ants.apply_transforms_to_points(dim, points, [str(file) for file in files])
    assert np.abs(ours - points).to_numpy()[:, :dim].max() > 3
    np.testing.assert_allclose(ours.to_numpy(), theirs.to_numpy(), atol=1e-3)

    points_file(files, tmp_path / "out.csv", tmp_path / "back.csv", inverse=True)
    np.testing.assert_allclose(pandas.read_csv(tmp_path / "back.csv").to_numpy(), points.to_numpy(), atol=1e-3)


def test_a_plane_needs_no_z_and_leaves_it(tmp_path: Path) -> None:
    matrix = np.eye(3)
    matrix[:2, 2] = [10, 20]
    write_affine_transform(tmp_path / "shift.mat", matrix)
    assert moved(tmp_path / "shift.mat", "a.csv", "x,y\n1,2\n") == "x,y\n-9.000000,-18.000000\n"
    assert moved(tmp_path / "shift.mat", "b.csv", "x,y,z\n1,2,7\n").splitlines()[1] == "-9.000000,-18.000000,7"


def test_points_beyond_the_grid_are_named(tmp_path: Path) -> None:
    write_transform(tmp_path / "w.h5", Warp(np.full((3, 5, 5, 5), 2.0), np.eye(4)))
    (tmp_path / "a.csv").write_text("x,y,z\n-1,-1,1\n-90,-1,1\n")
    app = typer.Typer()
    add_commands(app)
    result = CliRunner().invoke(app, ["points", *(str(tmp_path / name) for name in ("w.h5", "a.csv", "o.csv"))])
    assert result.exit_code == 0
    assert "1 of 2 points lie beyond the warp's grid" in result.stderr
    assert result.stdout == f"wrote {tmp_path / 'o.csv'}\n"
    assert (tmp_path / "o.csv").read_text().splitlines()[2] == "-92.000000,-3.000000,3.000000"


def test_tables_of_other_systems_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("\ufeffx, y, z\r\n1,2,3\r\n\r\n4,5,6\r\n".encode())
    np.testing.assert_allclose(read_points(tmp_path / "a.csv", 3).points, [[-1, -4], [-2, -5], [3, 6]])


BAD = {
    "empty": ("a.csv", b"", "0 bytes"),
    "no rows": ("a.csv", b"x,y,z,t\n", "holds no points"),
    "no header": ("a.csv", b"1,2,3\n4,5,6\n", "has the columns 1, 2, 3; expected x,y,z"),
    "no z": ("a.csv", b"x,y\n1,2\n", "no column z, which a 3-D"),
    "nan": ("a.csv", b"x,y,z\n1,nan,3\n", "row '1,nan,3' has no finite numbers"),
    "text": ("a.csv", b"x,y,z\n1,two,3\n", "row '1,two,3' has no finite"),
    "short": ("a.csv", b"x,y,z\n1,2\n", "row '1,2' has no finite"),
    "binary": ("a.csv", b"\xff\xfe\x00x", "is not text"),
    "no frame": ("a.fcsv", b"# columns = id,x,y,z\n1,2,3,4\n", "coordinate system none"),
    "voxels": ("a.fcsv", b"# CoordinateSystem = IJK\n1,2,3,4\n", "coordinate system IJK"),
    "suffix": ("a.json", b"{}", "unknown point table format"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_refused(case: str, shift: Path) -> None:
    name, content, reason = BAD[case]
    source = shift.with_name(name)
    source.write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        points_file([shift], source, shift.with_name(f"out_{name}"))
    assert str(caught.value).startswith(str(source))
    assert not list(shift.parent.glob("out_*"))


def test_outputs_are_of_the_inputs_format(shift: Path) -> None:
    source = shift.with_name("a.csv")
    source.write_text(ANTS)
    for target, reason in ((shift.with_name("o.fcsv"), "ends as a.csv does"), (source, "is an input too")):
        with pytest.raises(InputError, match=reason):
            points_file([shift], source, target)

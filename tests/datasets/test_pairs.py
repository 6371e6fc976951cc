"""Lists of image pairs: what is read is what was written, and every unusable list is refused by name and row."""

from pathlib import Path

import pytest

from crossmorph.datasets.pairs import Pair, read_pairs, write_pairs
from crossmorph.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with four files and a folder, beside a file that is outside."""
    (tmp_path / "data" / "sub").mkdir(parents=True)
    for name in ("a.nii.gz", "b.nii", "sub/c.png", "sub/größe, 2.nii"):
        (tmp_path / "data" / name).touch()
    (tmp_path / "outside.nii").touch()
    return tmp_path / "data"


def assert_refused(folder: Path, content: str | bytes, *expected: str) -> None:
    """The list is refused in one line that names the file and holds every expected part."""
    path = folder / "pairs.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read_pairs(path)
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(path), *expected):
        assert part in message


def test_reads_what_the_rows_say(folder: Path) -> None:
    (folder / "pairs.csv").write_text("fixed,moving,field\nb.nii,a.nii.gz,\nsub/c.png, b.nii ,a.nii.gz\n")
    first, second = read_pairs(folder / "pairs.csv")
    assert first == Pair("a-1", folder / "a.nii.gz", folder / "b.nii")
    assert second == Pair("b-2", folder / "b.nii", folder / "sub/c.png", field=folder / "a.nii.gz")


def test_name_comes_from_the_row_where_it_has_one(folder: Path) -> None:
    (folder / "pairs.csv").write_text("name,moving,fixed\nfirst,a.nii.gz,b.nii\n,a.nii.gz,b.nii\n")
    assert [pair.name for pair in read_pairs(folder / "pairs.csv")] == ["first", "a-2"]


def test_blank_lines_and_a_byte_order_mark_are_no_content(folder: Path) -> None:
    (folder / "pairs.csv").write_bytes(b"\xef\xbb\xbfmoving,fixed\r\n\r\na.nii.gz,b.nii\r\n,\r\n\r\n")
    assert [pair.name for pair in read_pairs(folder / "pairs.csv")] == ["a-1"]


def test_round_trip(folder: Path) -> None:
    everything = (folder / name for name in ("a.nii.gz", "b.nii", "sub/c.png", "sub/größe, 2.nii", "a.nii.gz", "b.nii"))
    pairs = [Pair("all, known", *everything), Pair("least", folder / "a.nii.gz", folder / "b.nii")]
    write_pairs(folder / "pairs.csv", pairs)
    assert read_pairs(folder / "pairs.csv") == pairs
    assert sorted(file.name for file in folder.glob("*") if file.is_file()) == ["a.nii.gz", "b.nii", "pairs.csv"]


def test_paths_are_relative_so_the_folder_can_move(folder: Path) -> None:
    write_pairs(folder / "pairs.csv", [Pair("p", folder / "sub/c.png", folder / "b.nii")])
    moved = folder.rename(folder.with_name("elsewhere"))
    assert read_pairs(moved / "pairs.csv") == [Pair("p", moved / "sub/c.png", moved / "b.nii")]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", ["empty", "moving, fixed"]),
        ("\n\n", ["empty"]),
        ("moving,fixed\n", ["no pairs"]),
        ("moving\na.nii.gz\n", ["lacks fixed", "received moving"]),
        ("moving,fixed,fixed_label\na.nii.gz,b.nii,\n", ["'fixed_label'", "fixed_labels"]),
        ("moving,fixed,fixed\na.nii.gz,b.nii,b.nii\n", ["fixed occurs more than once"]),
        ("moving,fixed\na.nii.gz\n", ["row 1", "1 cells", "expected 2"]),
        ("moving,fixed\na.nii.gz,b.nii\na.nii.gz,b.nii,b.nii\n", ["row 2", "3 cells"]),
        ("moving,fixed\na.nii.gz,\n", ["row 1", "no fixed image"]),
        ("moving,fixed\n,b.nii\n", ["row 1", "no moving image"]),
        ("moving,fixed\na.nii.gz,nowhere.nii\n", ["row 1", "fixed", "'nowhere.nii'", "does not exist"]),
        (f"moving,fixed\na.nii.gz,{'x' * 5000}\n", ["row 1", "does not exist"]),
        ("moving,fixed\na.nii.gz,sub\n", ["row 1", "'sub'", "is a folder"]),
        ("moving,fixed\na.nii.gz,../outside.nii\n", ["row 1", "'../outside.nii'", "leaves the folder"]),
        ("moving,fixed\na.nii.gz,sub/../../outside.nii\n", ["row 1", "leaves the folder"]),
        ("moving,fixed\na.nii.gz,/etc/hostname\n", ["row 1", "'/etc/hostname'", "leaves the folder"]),
        ("moving,fixed\na.nii.gz,b\0.nii\n", ["row 1", "leaves the folder"]),
        ("name,moving,fixed\np,a.nii.gz,b.nii\np,b.nii,a.nii.gz\n", ["rows 1 and 2", "'p'"]),
        ('moving,fixed\n"a.nii.gz,b.nii\n', ["not a CSV file"]),
        ("moving,fixed\ngröße.nii,b.nii\n".encode("latin-1"), ["byte 15", "UTF-8"]),
    ],
)
def test_unusable_lists_are_refused(folder: Path, content: str | bytes, expected: list[str]) -> None:
    assert_refused(folder, content, *expected)


def test_a_list_that_cannot_be_opened_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.csv: No such file"):
        read_pairs(folder / "nowhere.csv")
    with pytest.raises(InputError, match=r"sub: Is a directory"):
        read_pairs(folder / "sub")


def test_a_link_inside_the_folder_may_point_outside(folder: Path) -> None:
    (folder / "linked.nii").symlink_to(folder.parent / "outside.nii")
    (folder / "pairs.csv").write_text("moving,fixed\nlinked.nii,b.nii\n")
    assert read_pairs(folder / "pairs.csv")[0].moving == folder / "linked.nii"


def test_unusable_pairs_are_not_written(folder: Path) -> None:
    pair = Pair("p", folder / "a.nii.gz", folder / "b.nii")
    outside = Pair("q", folder / "a.nii.gz", folder.parent / "outside.nii")
    for pairs, expected in (
        ([], "no pairs"),
        ([pair, pair], "rows 1 and 2"),
        ([pair, outside], "row 2, fixed: .*outside"),
    ):
        with pytest.raises(InputError, match=expected):
            write_pairs(folder / "pairs.csv", pairs)
    assert not (folder / "pairs.csv").exists()
    with pytest.raises(InputError, match=r"nowhere/pairs\.csv: the folder .*nowhere does not exist"):
        write_pairs(folder / "nowhere" / "pairs.csv", [Pair("p", folder / "nowhere/a.nii", folder / "nowhere/b.nii")])

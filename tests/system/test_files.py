"""Files of any kind: whole or not at all, no temporary file left, errors that name the file."""

import os
from pathlib import Path

import pytest

from crossmorph.errors import InputError
from crossmorph.system.files import atomic_output, output_set, readable, suffix_of, write_whole


def test_what_is_written_replaces_the_old_file_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with path.open() as reader:  # replaced, not overwritten: who reads the old file goes on reading it
        with atomic_output(path) as temporary:
            temporary.write_text("new")
            assert path.read_text() == "old"
        assert reader.read() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, InputError])
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error, match="stop"), atomic_output(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error("stop")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_systems_errors_in_writing_name_the_wanted_file(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"a\.txt: cannot be written \(No space left on device\)"),
        atomic_output(tmp_path / "a.txt"),
    ):
        raise OSError(28, "No space left on device")
    with (
        pytest.raises(InputError, match=r"a\.txt: cannot be written \(No such file or directory\)"),
        atomic_output(tmp_path / "a.txt") as temporary,
    ):
        temporary.unlink()
    assert not list(tmp_path.iterdir())


def test_impossible_targets_are_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for path, reason in (
        (tmp_path / "missing" / "a.txt", "missing does not exist"),
        (tmp_path / "file" / "a.txt", "file does not exist"),
        (tmp_path, "is a folder, expected a file name"),
    ):
        with pytest.raises(InputError, match=reason) as caught, atomic_output(path):
            pytest.fail("the block was entered")
        assert str(caught.value).startswith(str(path))

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", deny)
    with pytest.raises(InputError, match=r"cannot be written \(Permission denied\)"), atomic_output(tmp_path / "a.txt"):
        pytest.fail("the block was entered")


@pytest.mark.parametrize("name", ["a.nii.gz", "sub-01.T2w.png", "a.b.c.h5", ".hidden.csv", "bare"])
def test_the_temporary_file_is_a_sibling_with_the_same_suffix(tmp_path: Path, name: str) -> None:
    with atomic_output(tmp_path / name) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name != name
        assert temporary.name.startswith(".")
        assert temporary.suffix == Path(name).suffix
        assert temporary.name.endswith(".nii.gz") == name.endswith(".nii.gz")


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_output(path) as first, atomic_output(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    with atomic_output(path) as outer, atomic_output(outer) as inner:
        inner.write_text("inner")
    assert path.read_text() == "inner"
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (done.append(("fsync", os.fstat(number).st_size)), fsync(number)))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append(("replace", 0)), replace(*paths)))
    write_whole(tmp_path / "a.txt", b"12345")
    assert done == [("fsync", 5), ("replace", 0)]


def test_new_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_whole(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_write_whole_keeps_every_byte(tmp_path: Path) -> None:
    content = bytes(range(256)) + b"\r\n\n"
    write_whole(tmp_path / "a.bin", content)
    assert (tmp_path / "a.bin").read_bytes() == content
    write_whole(tmp_path / "a.bin", b"")
    assert (tmp_path / "a.bin").read_bytes() == b""


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "full").write_text("content")
    for name, reason in (("missing", "cannot be read .No such file"), ("empty", "0 bytes"), ("", "is a folder")):
        with pytest.raises(InputError, match=reason) as caught, readable(tmp_path / name):
            pytest.fail("the block was entered")
        assert str(caught.value).startswith(str(tmp_path / name))
    with pytest.raises(InputError, match=r"full: cannot be read \(Input/output error\)"), readable(tmp_path / "full"):
        raise OSError(5, "Input/output error")
    with pytest.raises(KeyError), readable(tmp_path / "full"):
        raise KeyError


def test_suffixes() -> None:
    suffixes = (".nii.gz", ".nii", ".png")
    assert suffix_of(Path("a.nii.gz"), suffixes, "image") == ".nii.gz"
    assert suffix_of(Path("a.b.NII"), suffixes, "image") == ".nii"
    for name in ("a.gz", "nii", "a.png.txt", "png/a"):
        with pytest.raises(InputError, match=r"unknown image format, expected .* \.nii\.gz, \.nii, \.png"):
            suffix_of(Path(name), suffixes, "image")


# --- symbolic links --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["old", None])
@pytest.mark.parametrize("relative", [True, False])
def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path, before: str | None, relative: bool) -> None:
    """Also by way of a second link, to another folder, and where the file is yet to be made."""
    (tmp_path / "data").mkdir()
    (tmp_path / "here").mkdir()
    target, between, link = tmp_path / "data" / "a.txt", tmp_path / "data" / "b.txt", tmp_path / "here" / "c.csv"
    if before:
        target.write_text(before)
    between.symlink_to("a.txt")
    link.symlink_to("../data/b.txt" if relative else between)
    with atomic_output(link) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".csv"  # writers go by the name that was given
        assert temporary.parent == target.parent
        assert (target.read_text() if target.exists() else None) == before
    assert link.is_symlink()
    assert between.is_symlink()
    assert link.read_text() == target.read_text() == "new"
    with output_set([link, tmp_path / "d.txt"]) as written:
        write_whole(link, b"newer")
        write_whole(tmp_path / "d.txt", b"beside")
        assert target.read_text() == "new"
        written.publish()
    assert link.is_symlink()
    assert target.read_text() == "newer"
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["a.txt", "b.txt"]
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["c.csv"]


def test_a_failure_leaves_the_link_and_its_file(tmp_path: Path) -> None:
    target, link = tmp_path / "a.txt", tmp_path / "b.txt"
    target.write_text("old")
    link.symlink_to(target)
    with pytest.raises(ValueError, match="stop"), atomic_output(link) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise ValueError("stop")
    assert link.is_symlink()
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_links_and_devices_that_take_no_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("back")
    (tmp_path / "back").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("missing/a.txt")
    (tmp_path / "folder").mkdir()
    (tmp_path / "to_folder").symlink_to("folder")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to_pipe").symlink_to("pipe")
    before = sorted(tmp_path.iterdir())
    for name, reason in (
        ("loop", "is a device, or a link that leads nowhere"),
        ("nowhere", "missing does not exist"),
        ("to_folder", "is a folder"),
        ("pipe", "is a device"),
        ("to_pipe", "is a device"),
    ):
        with pytest.raises(InputError, match=reason) as caught, atomic_output(tmp_path / name):
            pytest.fail("the block was entered")
        assert str(caught.value).startswith(str(tmp_path / name))
    with pytest.raises(InputError, match="/dev/null: is a device"), atomic_output(Path("/dev/null")):
        pytest.fail("the block was entered")
    assert sorted(tmp_path.iterdir()) == before

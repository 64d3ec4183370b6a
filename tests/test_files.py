"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from pyro_unmix.errors import InputError
from pyro_unmix.io.files import atomic_folder, atomic_path, make_folder


def contents(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path):
    target = tmp_path / "new" / "deep" / "table.csv"
    with atomic_path(target) as path:
        path.write_text("half")
        assert path.parent == target.parent and path.suffix == ".csv" and not target.exists()
    assert target.read_text() == "half" and contents(target.parent) == ["table.csv"]


def test_what_was_there_stays_when_writing_fails(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError):
        with atomic_path(target) as path:
            path.write_text("new")
            raise ZeroDivisionError
    assert target.read_text() == "old" and contents(tmp_path) == ["table.csv"]


def test_what_was_there_is_replaced(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("old")
    with atomic_path(target) as path:
        path.write_text("new")
    assert target.read_text() == "new" and contents(tmp_path) == ["table.csv"]


def test_two_files_of_one_name_do_not_meet(tmp_path):
    with atomic_path(tmp_path / "summary.nc") as one, atomic_path(tmp_path / "summary.tif") as other:
        one.write_text("nc")
        other.write_text("tif")
    assert (tmp_path / "summary.nc").read_text() == "nc" and (tmp_path / "summary.tif").read_text() == "tif"


def test_paths_may_be_strings(tmp_path):
    with atomic_path(os.fspath(tmp_path / "a.txt")) as path:
        path.write_text("a")
    assert (tmp_path / "a.txt").exists()
    assert make_folder(os.fspath(tmp_path / "folder")).is_dir()


def test_a_folder_in_the_place_of_the_file_is_said_plainly(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match="writable output.*taken"):
        with atomic_path(tmp_path / "taken") as path:
            path.write_text("x")
    assert contents(tmp_path) == ["taken"]


def test_a_file_that_may_not_be_replaced_is_said_plainly(tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(InputError, match="writable output.*not permitted"):
        with atomic_path(tmp_path / "a.txt") as path:
            path.write_text("x")
    assert not contents(tmp_path)


def test_a_folder_that_cannot_be_made_is_said_plainly(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="writable output folder"):
        make_folder(tmp_path / "file" / "below")
    with pytest.raises(InputError, match="writable output folder"):
        make_folder(tmp_path / "file")


@pytest.fixture
def gone():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_killed_processes_left_is_gone_after_the_next_write(tmp_path, gone):
    (tmp_path / f".table.{gone}.csv").write_text("half")
    (tmp_path / f".maps.{gone}.zarr" / "new").mkdir(parents=True)
    others = [f".table.{os.getppid()}.csv", f".table.{gone}.txt", f".tables.{gone}.csv", ".table.csv", ".table.x.csv"]
    for name in others:
        (tmp_path / name).write_text("of one that runs, or of another file")
    with atomic_path(tmp_path / "table.csv") as path:
        path.write_text("whole")
    with atomic_folder(tmp_path / "maps.zarr") as folder:
        (folder / "maps.zarr").mkdir()
    assert contents(tmp_path) == sorted([*others, "table.csv", "maps.zarr"])


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), OSError("a library's own words\n")])
@pytest.mark.parametrize("write", [atomic_path, atomic_folder])
def test_a_full_disk_is_said_plainly_and_leaves_nothing(tmp_path, write, error):
    with pytest.raises(InputError, match="writable output.*a.nc.*(No space left|a library's own words).*; make room"):
        with write(tmp_path / "a.nc") as path:
            (path / "half" if path.is_dir() else path).write_text("half")
            raise error
    assert not contents(tmp_path)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot set room aside")
@pytest.mark.parametrize("write", [atomic_path, atomic_folder])
def test_room_is_proven_before_anything_is_written(tmp_path, monkeypatch, write):
    asked = []

    def refuse(descriptor, start, n_bytes):
        asked.append(n_bytes)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(InputError, match="No space left"):
        with write(tmp_path / "a.nc", room=10**6):
            pytest.fail("it was written all the same")
    assert asked[0] >= 10**6 and not contents(tmp_path)


def test_making_a_folder_leaves_nothing_in_it(tmp_path):
    folder = make_folder(tmp_path / "a" / "b")
    assert folder == tmp_path / "a" / "b" and not contents(folder)
    assert make_folder(folder) == folder

"""Write a file whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyro_unmix.errors import InputError

# What a format adds to its arrays, at most.
_OVERHEAD = 2**17


@contextmanager
def atomic_path(path: str | os.PathLike, *, room: int = 0) -> Iterator[Path]:
    """Yield a temporary name beside `path` and rename it to `path` when the block ends well.

    Parameters
    ----------
    room
        Bytes of the arrays that will be written, for libraries that a full disk makes crash, as HDF5: proven to be there before.

    Raises
    ------
    InputError
        The folder cannot be made or written to, the disk is full, or `path` cannot be replaced.
    """
    path = Path(path)
    with _temporary_name(path) as temporary, _writable(path):
        _prove_room(path.parent, room)
        yield temporary
        os.replace(temporary, path)


@contextmanager
def atomic_folder(path: str | os.PathLike, *, room: int = 0) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; what it holds when the block ends well takes its place beside `path`.

    For formats of several files, or of a folder. Files and folders of the same names are replaced. `room` as in `atomic_path`.

    Raises
    ------
    InputError
        As `atomic_path`.
    """
    path = Path(path)
    with _temporary_name(path) as temporary, _writable(path):
        _prove_room(path.parent, room)
        folder, old = temporary / "new", temporary / "old"
        folder.mkdir(parents=True)
        old.mkdir()
        yield folder
        for made in sorted(folder.iterdir(), reverse=True):
            target = path.parent / made.name
            if made.is_dir() and target.is_dir():
                os.replace(target, old / made.name)  # a folder can only be renamed to where none is
            os.replace(made, target)


def make_folder(folder: str | os.PathLike) -> Path:
    """Make `folder` if it is missing and prove that it can be written to.

    Raises
    ------
    InputError
        It cannot.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError("a writable output folder", f"'{folder}': {error.strerror}", "choose another place") from error
    return folder


@contextmanager
def _temporary_name(path: Path) -> Iterator[Path]:
    """A name beside `path` that is of this process alone, gone at the end; what killed ones left there goes at the beginning."""
    folder = make_folder(path.parent)
    temporary = folder / f".{path.stem}.{os.getpid()}{path.suffix}"
    of_any = re.compile(rf"\.{re.escape(path.stem)}\.(\d+){re.escape(path.suffix)}")
    for left in folder.iterdir():
        if (found := of_any.fullmatch(left.name)) and not _runs(int(found[1])):
            _remove(left)
    try:
        yield temporary
    finally:
        _remove(temporary)


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    """What the system refuses becomes an `InputError`; libraries wrap its words in theirs, or say none."""
    try:
        yield
    except OSError as error:
        raise InputError("a writable output", f"'{path}': {error.strerror or ' '.join(str(error).split())}",
                         "make room there, or choose another place") from error


def _prove_room(folder: Path, n_bytes: int) -> None:
    """Have the system set so many bytes aside and give them back; no disk, quota or limit refuses them then."""
    if n_bytes and hasattr(os, "posix_fallocate"):
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, n_bytes + _OVERHEAD)


def _runs(process: int) -> bool:
    """Whether a process of this number runs, or may run, where the system cannot be asked without harm."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

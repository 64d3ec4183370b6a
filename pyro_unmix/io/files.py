"""Write a file whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyro_unmix.errors import InputError


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary name beside `path` and rename it to `path` when the block ends well.

    Raises
    ------
    InputError
        The folder cannot be made or written to, or `path` cannot be replaced.
    """
    path = Path(path)
    temporary = make_folder(path.parent) / f".{path.stem}.{os.getpid()}{path.suffix}"
    try:
        yield temporary
        os.replace(temporary, path)
    except (PermissionError, IsADirectoryError) as error:
        raise InputError("a writable output", f"'{path}': {error.strerror}", "choose another place") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; what it holds when the block ends well takes its place beside `path`.

    For formats of several files, or of a folder. Files and folders of the same names are replaced.

    Raises
    ------
    InputError
        As `atomic_path`.
    """
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=make_folder(path.parent), prefix=f".{path.stem}.") as name:
        folder, old = Path(name) / "new", Path(name) / "old"
        folder.mkdir()
        old.mkdir()
        yield folder
        try:
            for made in sorted(folder.iterdir(), reverse=True):
                target = path.parent / made.name
                if made.is_dir() and target.is_dir():
                    os.replace(target, old / made.name)  # a folder can only be renamed to where none is
                os.replace(made, target)
        except OSError as error:
            raise InputError("a writable output", f"'{path}': {error.strerror}", "choose another place") from error


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

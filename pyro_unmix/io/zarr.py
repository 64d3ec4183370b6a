"""Zarr stores, versions 2 and 3: cubes that xarray opens, and summaries."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import xarray as xr

from pyro_unmix.errors import InputError
from pyro_unmix.io.cubes import Cube, readable
from pyro_unmix.io.extras import needed
from pyro_unmix.io.files import atomic_folder
from pyro_unmix.io.grids import cube_of
from pyro_unmix.io.netcdf import with_grid_mapping
from pyro_unmix.io.sizes import check_size

_MARKS = ("zarr.json", ".zgroup", ".zmetadata")


@contextmanager
def open_cube(path: Path) -> Iterator[Cube]:
    """A store in a folder, read chunk by chunk."""
    zarr = needed("zarr")
    if not is_store(path):
        raise InputError("a Zarr store", f"'{path.name}', a folder without {', '.join(_MARKS)}", "check the path")
    with readable(path, "a Zarr store"):
        there = _bytes(path)
        for part in sorted(folder for folder in path.iterdir() if folder.is_dir()):
            if isinstance(array := zarr.open(str(part), mode="r"), zarr.Array):
                check_size(array.shape, array.dtype.itemsize, there, path)
        # Each array's own description, not a copy of them all at the root, which may say something else.
        with xr.open_zarr(path, chunks=None, consolidated=False, decode_times=False, decode_coords="all") as dataset:
            yield cube_of(dataset, path)


def write_summary(summary: xr.Dataset, path: Path) -> None:
    """A summary in a folder, whole or not at all; an older store of this name is replaced, another folder is not."""
    needed("zarr")
    if path.exists() and not is_store(path):
        raise InputError("a writable output", f"'{path}', which is there and is no Zarr store", "choose another place")
    with atomic_folder(path, room=summary.nbytes) as folder, warnings.catch_warnings():
        # Version 3 of Zarr has no settled way yet to write text, which the names of endmembers are; xarray reads it back.
        warnings.simplefilter("ignore")
        with_grid_mapping(summary).to_zarr(folder / path.name, mode="w", consolidated=True)


def is_store(path: Path) -> bool:
    return path.is_dir() and any((path / mark).is_file() for mark in _MARKS)


def _bytes(path: Path) -> int:
    return sum(os.lstat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(path) for name in names)

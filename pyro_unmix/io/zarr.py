"""Zarr stores, versions 2 and 3: cubes that xarray opens, and summaries."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from pyro_unmix.errors import InputError, UnmixWarning
from pyro_unmix.io.cubes import Cube, readable
from pyro_unmix.io.extras import needed
from pyro_unmix.io.files import atomic_folder
from pyro_unmix.io.grids import cube_of
from pyro_unmix.io.netcdf import chunks_of, map_attributes
from pyro_unmix.io.sizes import check_size

_MARKS = ("zarr.json", ".zgroup", ".zmetadata")


@contextmanager
def open_cube(path: Path) -> Iterator[Cube]:
    """A store in a folder, read chunk by chunk."""
    zarr = needed("zarr")
    if not is_store(path):
        raise InputError("a Zarr store", f"'{path.name}', a folder without {', '.join(_MARKS)}", "check the path")
    with readable(path, "a Zarr store"):
        _refuse_pickles(path)
        there = _bytes(path)
        for part in sorted(folder for folder in path.iterdir() if folder.is_dir()):
            if isinstance(array := zarr.open(str(part), mode="r"), zarr.Array):
                check_size(array.shape, array.dtype.itemsize, there, path)
                _tell_gaps(array, part.name)
        # Each array's own description, not a copy of them all at the root, which may say something else.
        with xr.open_zarr(path, chunks=None, consolidated=False, decode_times=False, decode_coords="all") as dataset:
            yield cube_of(dataset, path)


def write_summary(shared: xr.Dataset, strips: Iterable[xr.Dataset], path: Path, room: int) -> None:
    """A summary in a folder, whole or not at all; an older store of this name is replaced, another folder is not."""
    zarr = needed("zarr")
    if path.exists() and not is_store(path):
        raise InputError("a writable output", f"'{path}', which is there and is no Zarr store", "choose another place")
    with atomic_folder(path, room=room) as folder, warnings.catch_warnings():
        # Version 3 of Zarr has no settled way yet to write text, which the names of endmembers are; xarray reads it back.
        warnings.simplefilter("ignore")
        store = folder / path.name
        shared.to_zarr(store, mode="w", consolidated=False)
        group, row = zarr.open_group(str(store), mode="a"), 0
        for strip in strips:
            for name, values in strip.data_vars.items():
                if name not in group:
                    shape = tuple(shared.sizes[dim] for dim in values.dims)
                    made = group.create_array(str(name), shape=shape, chunks=chunks_of(shared, values), dtype=values.dtype,
                                              fill_value=np.nan, dimension_names=values.dims)
                    made.attrs.update(map_attributes(shared))
                rows = slice(row, row + strip.sizes["y"])
                group[name][tuple(rows if dim == "y" else slice(None) for dim in values.dims)] = values.values
            row += strip.sizes["y"]
        zarr.consolidate_metadata(str(store))


def is_store(path: Path) -> bool:
    return path.is_dir() and any((path / mark).is_file() for mark in _MARKS)


def _tell_gaps(array: Any, name: str) -> None:
    """A chunk that is lost looks like one that has never been written, which has the fill value; of an image, NaN is masked."""
    missing, fill = array.nchunks - array.nchunks_initialized, array.fill_value
    gaps_are_masked = array.ndim > 1 and isinstance(fill, (float, np.floating)) and np.isnan(fill)
    if array.ndim and missing and not gaps_are_masked:
        warnings.warn(f"{missing} of {array.nchunks} chunks of '{name}' are not in the store: there it is taken to be {fill}",
                      UnmixWarning, stacklevel=2)


def _refuse_pickles(path: Path) -> None:
    """No chunk is to be unpickled, which can run anything: a store names the codecs of its arrays, and old ones include that."""
    for about in (*path.rglob(".zarray"), *path.rglob("zarr.json")):
        description = json.loads(about.read_text())
        if "pickle" in json.dumps([description.get(name) for name in ("filters", "compressor", "codecs")]):
            raise InputError("a Zarr store of numbers and text", f"'{about.parent.name}' of '{path.name}', which holds pickled "
                             "objects", "write it again without them")


def _bytes(path: Path) -> int:
    return sum(os.lstat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(path) for name in names)

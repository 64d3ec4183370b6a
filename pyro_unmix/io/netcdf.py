"""NetCDF: EMIT reflectance with its groups, and plain cubes of xarray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import h5py
import xarray as xr

from pyro_unmix.errors import InputError
from pyro_unmix.io.cubes import Cube, check_size, readable
from pyro_unmix.io.files import atomic_path
from pyro_unmix.io.grids import cube_of

# EMIT's groups: what it says of bands, and of the place of pixels.
_BANDS, _LOCATION = "sensor_band_parameters", "location"
_OPTIONS: dict[str, Any] = {"decode_times": False, "decode_coords": "all"}


@contextmanager
def open_cube(path: Path) -> Iterator[Cube]:
    """Version 4 (HDF5), with or without EMIT's groups, or version 3."""
    with readable(path, "a NetCDF file"), ExitStack() as files:
        if not h5py.is_hdf5(path):
            # SciPy maps the file to memory, and refuses one that is shorter than it says.
            yield cube_of(files.enter_context(xr.open_dataset(path, engine="scipy", **_OPTIONS)), path)
            return
        with h5py.File(path) as file:
            groups = {name for name in (_BANDS, _LOCATION) if isinstance(file.get(name), h5py.Group)}
            _check(file, path)
        dataset, *more = (files.enter_context(xr.open_dataset(path, engine="h5netcdf", group=group, **_OPTIONS))
                          for group in (None, *sorted(groups)))
        parts = dict(zip(sorted(groups), more, strict=True))
        yield cube_of(dataset, path, parts.get(_BANDS), parts.get(_LOCATION))


def write_summary(summary: xr.Dataset, path: Path) -> None:
    """A summary, compressed, whole or not at all; its maps name their grid mapping, as the CF conventions ask."""
    with atomic_path(path, room=summary.nbytes) as temporary:
        with_grid_mapping(summary).to_netcdf(temporary, engine="h5netcdf", encoding={name: {"zlib": True, "complevel": 4}
                                                                                  for name in summary.data_vars})


def with_grid_mapping(summary: xr.Dataset) -> xr.Dataset:
    """The summary, its maps pointing at `spatial_ref`."""
    if "spatial_ref" not in summary.coords:
        return summary
    return summary.assign({name: values.assign_attrs(grid_mapping="spatial_ref") for name, values in summary.data_vars.items()
                           if {"y", "x"} <= set(values.dims)})


def _check(group: h5py.Group, path: Path, here: int | None = None) -> None:
    """Refuse what is larger than the file can hold, or lies in other files."""
    here = path.stat().st_size if here is None else here
    for name in group:
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise InputError(f"all data of '{path.name}' in that file", f"'{name}', which is in '{link.filename}'", "copy it in")
        item = group.get(name)
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise InputError(f"all data of '{path.name}' in that file", f"'{name}', which is in another", "copy it in")
            if item.shape and item.size:
                check_size(item.shape, item.dtype.itemsize, here, path)
        elif isinstance(item, h5py.Group) and isinstance(link, h5py.HardLink):
            _check(item, path, here)

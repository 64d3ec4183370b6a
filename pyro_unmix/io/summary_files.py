"""Read and write summaries: the format to write is chosen by the extension, one module a format."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import xarray as xr

from pyro_unmix.errors import InputError
from pyro_unmix.io import envi, geotiff, netcdf, zarr
from pyro_unmix.io.extras import needed

# The function that writes, to a disk that has room for so many bytes, and the packages it needs.
_Write = Callable[[xr.Dataset, Iterable[xr.Dataset], Path, int], None]
_WRITERS: dict[str, tuple[_Write, tuple[str, ...]]] = {
    ".nc": (netcdf.write_summary, ()), ".zarr": (zarr.write_summary, ("zarr",)),
    ".tif": (geotiff.write_summary, ("rasterio", "rioxarray")), ".tiff": (geotiff.write_summary, ("rasterio", "rioxarray")),
    ".hdr": (envi.write_summary, ("rasterio", "rioxarray")), ".img": (envi.write_summary, ("rasterio", "rioxarray"))}


def write_summary(summary: xr.Dataset, path: str | os.PathLike) -> None:
    """Write a summary, whole or not at all.

    `.nc` and `.zarr` hold all of it. `.tif` and `.hdr` (with its `.img`) hold the maps, as bands with names, on the grid of the
    scene; a band is NaN where a pixel is masked.

    Raises
    ------
    InputError
        As `check_output`, or a place that cannot be written to.
    """
    maps = [name for name, values in summary.data_vars.items() if {"y", "x"} <= set(values.dims)]
    write_strips(summary.drop_vars(maps), [summary[maps]], path)


def write_strips(shared: xr.Dataset, strips: Iterable[xr.Dataset], path: str | os.PathLike) -> None:
    """Write a summary as `write_summary` does, its maps strip by strip.

    Parameters
    ----------
    shared
        The summary without its maps, with the coordinates of all of it.
    strips
        Its maps at some rows, one part after the other from the top.
    """
    path, strips = check_output(path), iter(strips)
    first = next(strips)
    room = shared.nbytes + first.nbytes * shared.sizes["y"] // first.sizes["y"]
    _WRITERS[path.suffix.lower()][0](shared, itertools.chain([first], strips), path, room)


@contextmanager
def open_summary(path: str | os.PathLike) -> Iterator[xr.Dataset]:
    """The `summary.nc` of a run folder, or of `predict`; its values are read when they are asked for.

    Raises
    ------
    InputError
        Not there, damaged, or no summary; also while it is read.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("a summary written by 'pyro-unmix fit'", f"'{path}', which is not there")
    with netcdf.open_summary(path) as summary:
        dims = {"abundance_mean": {"y", "x", "endmember"}, "endmember_mean": {"endmember", "wavelength"}}
        if wrong := [name for name, wanted in dims.items() if name not in summary or set(summary[name].dims) != wanted]:
            raise InputError("a summary written by 'pyro-unmix fit'", f"'{path}' without {', '.join(wrong)}")
        yield summary


def check_output(path: str | os.PathLike) -> Path:
    """What can be known to fail before the work that leads to a summary is done.

    Raises
    ------
    InputError
        Another extension, a folder of this name, or a package is missing.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in _WRITERS:
        raise InputError(f"an output file ending in {', '.join(_WRITERS)}", f"'{path.name}'")
    if path.is_dir() and path.suffix.lower() != ".zarr":
        raise InputError("a writable output", f"'{path}', which is a folder", "choose another place")
    for package in _WRITERS[path.suffix.lower()][1]:
        needed(package)
    return path

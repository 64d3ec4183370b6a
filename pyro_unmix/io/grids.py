"""Cubes in files that xarray opens: which variable is the image, and what its coordinates say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from pyro_unmix.errors import InputError
from pyro_unmix.io.bands import nanometres, widths
from pyro_unmix.io.cubes import Cube

_DIMENSIONS = {"y": {"y", "row", "rows", "line", "lines", "downtrack", "lat", "latitude", "northing"},
               "x": {"x", "col", "cols", "column", "columns", "sample", "samples", "crosstrack", "lon", "longitude", "easting"},
               "wavelength": {"wavelength", "wavelengths", "wl", "band", "bands", "spectral"}}
_IMAGES = ("reflectance", "surface_reflectance", "image")
_GOOD = ("good_wavelengths", "bbl")
# The value that stands for a reflectance of 1, by the unit of the variable.
_UNITS = {"1": 1.0, "unitless": 1.0, "reflectance": 1.0, "%": 100.0, "percent": 100.0}


def cube_of(dataset: xr.Dataset, path: Path, bands: xr.Dataset | None = None, location: xr.Dataset | None = None) -> Cube:
    """The cube in an open dataset, whose image need not be in memory.

    Parameters
    ----------
    dataset
        With scales and gaps decoded when values are read, and the grid mapping among the coordinates.
    bands, location
        What the file says of the bands, and of the pixels on the ground, where it keeps these apart.

    Raises
    ------
    InputError
        No variable, or several, with dimensions of rows, columns and bands.
    """
    image = _image(dataset, path)
    rows, cols, n_bands = image.shape
    about = _about_bands(image, dataset, bands)
    grid, unit = about.get("wavelength"), str(about["wavelength"].attrs.get("units", "")) if "wavelength" in about else ""
    wavelengths = None if grid is None else nanometres(grid.values.astype(np.float64), unit)
    fwhm = about.get("fwhm")
    good = about.get("good")
    scale = _UNITS.get(str(image.attrs.get("units", "")).strip().lower())

    def read(block: slice, kept: np.ndarray) -> np.ndarray:
        return image.isel(y=block, wavelength=kept).values.astype(np.float64) / (scale or 1.0)

    return Cube((rows, cols, n_bands), read, np.zeros(n_bands, bool) if good is None else good.values == 0, wavelengths,
                None if fwhm is None else widths(fwhm.values.astype(np.float64), str(fwhm.attrs.get("units", unit)), wavelengths),
                scale is not None or "scale_factor" in image.encoding, _ground(image, location))


def _image(dataset: xr.Dataset, path: Path) -> xr.DataArray:
    """The variable that is an image, its dimensions called y, x and wavelength, in this order."""
    found = {}
    for name, variable in dataset.data_vars.items():
        roles = {role: [dim for dim in variable.dims if _plain(dim) in known] for role, known in _DIMENSIONS.items()}
        if all(len(dims) == 1 for dims in roles.values()) and variable.dtype.kind in "iuf":
            names = {dims[0]: role for role, dims in roles.items()}
            if all(variable.sizes[dim] == 1 for dim in variable.dims if dim not in names):
                variable = variable.isel({dim: 0 for dim in variable.dims if dim not in names}, drop=True)
                found[str(name)] = _renamed(variable, names).transpose("y", "x", "wavelength")
    chosen = next((found[name] for name in _IMAGES if name in found), None)
    if chosen is None and len(found) == 1:
        chosen, = found.values()
    if chosen is None:
        raise InputError(f"one image with dimensions y, x and wavelength in '{path.name}'",
                         ", ".join(found) or "; ".join(f"{name} ({', '.join(map(str, v.dims))})" for name, v in
                                                      dataset.data_vars.items()) or "no variable",
                         "call it reflectance, and its dimensions y, x and wavelength")
    return chosen


def _plain(dim: Any) -> str:
    return str(dim).lower()


def _renamed(variable: xr.DataArray, names: dict) -> xr.DataArray:
    """With the dimensions called by `names`; a coordinate of two dimensions that has such a name gives way to its own."""
    taken = {new for old, new in names.items() if old != new and new in variable.coords}
    return variable.drop_vars(taken).rename(names)


def _about_bands(image: xr.DataArray, dataset: xr.Dataset, bands: xr.Dataset | None) -> dict[str, xr.DataArray]:
    """Wavelengths, widths and marks `(bands,)`, by what they are called."""
    n = image.sizes["wavelength"]
    along = {str(name): coord for name, coord in image.coords.items() if coord.dims == ("wavelength",)}
    for source in (dataset, bands):
        if source is not None:
            along |= {str(name): variable for name, variable in source.variables.items()
                      if variable.ndim == 1 and variable.size == n and variable.dtype.kind in "iufb" and str(name) not in along}
    found = {}
    for what, known in (("wavelength", sorted(_DIMENSIONS["wavelength"], reverse=True)), ("fwhm", ("fwhm",)), ("good", _GOOD)):
        names = [name for name in known if name in along and along[name].dtype.kind in "iufb"]
        if names:
            found[what] = along[names[0]]
    # Numbers of bands are no wavelengths, whatever they are called.
    if "wavelength" in found and any(np.array_equal(found["wavelength"].values, first + np.arange(n)) for first in (0, 1)):
        del found["wavelength"]
    return found


def _ground(image: xr.DataArray, location: xr.Dataset | None) -> dict:
    """Coordinates along y and x, and the grid mapping by the name of the contract."""
    coords = {str(name): coord for name, coord in image.coords.items()
              if set(coord.dims) <= {"y", "x"} and coord.dtype.kind in "iufb" and coord.ndim}
    mapping = image.encoding.get("grid_mapping", image.attrs.get("grid_mapping", "spatial_ref"))
    if mapping in image.coords:
        coords["spatial_ref"] = xr.DataArray(0, attrs=image.coords[mapping].attrs)
    if location is not None:
        coords |= {name: (("y", "x"), location[name].values) for name in ("lat", "lon")
                   if name in location and location[name].shape == image.shape[:2]}
    return coords

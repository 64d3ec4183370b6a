"""Read spectral libraries: the format is chosen by the extension, one module a format, and all come out alike.

A format is a function `read_library(path)` that returns `spectra` (n, bands) and `names`, and what else the file says:
`wavelengths` and `fwhm` (both in nanometres or both in micrometres), `bad_bands` (True where not to be used), `scale` (the value
that stands for a reflectance of 1).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pyro_unmix.errors import InputError, UnmixWarning
from pyro_unmix.io import csv_library, envi_library, matlab_library, npz
from pyro_unmix.io.reflectance import scale_by_size

_READERS = {".npz": npz.read_library, ".mat": matlab_library.read_library, ".csv": csv_library.read_library,
            ".sli": envi_library.read_library, ".hdr": envi_library.read_library}
Intervals = Sequence[tuple[float, float]]


def read_library(path: Path, drop: Intervals = ()) -> dict:
    """The arguments of a `SpectralLibrary`, from a file of any of the formats; `drop` as in `open_library`."""
    if not path.is_file():
        raise InputError(f"a spectral library ({', '.join(_READERS)})", f"'{path}', which is not there", "check the path")
    if path.suffix.lower() not in _READERS:
        raise InputError(f"a spectral library ({', '.join(_READERS)})", f"'{path.name}'",
                         "convert it, or build a SpectralLibrary")
    return tidy(_READERS[path.suffix.lower()](path), drop)


def tidy(parts: dict, drop: Intervals = ()) -> dict:
    """What a format has read with bands by wavelength, in nanometres, without the bad ones, and values as reflectance."""
    spectra = np.asarray(parts["spectra"], dtype=np.float64)
    if spectra.ndim != 2:
        raise InputError("spectra (n, bands)", f"shape {spectra.shape}")
    grid = {name: np.ravel(parts[name]).astype(np.float64) for name in ("wavelengths", "fwhm") if name in parts}
    for name, values in grid.items():
        if len(values) != spectra.shape[1]:
            raise InputError(f"{spectra.shape[1]} {name}, one a band", f"{len(values)}")
    kept = np.arange(spectra.shape[1])
    if "wavelengths" in grid:
        # No sensor has a band beyond 100 micrometres or below 100 nm.
        factor = 1000.0 if grid["wavelengths"].max(initial=0.0) < 100 else 1.0
        grid = {name: values * factor for name, values in grid.items()}
        kept = np.argsort(grid["wavelengths"], kind="stable")
    bad = parts.get("bad_bands", np.zeros(len(kept), bool))
    if bad.any():
        warnings.warn(f"{bad.sum()} of {len(bad)} bands are marked as bad and are left out", UnmixWarning, stacklevel=4)
    bad = bad | marked_bands(drop, len(kept), grid.get("wavelengths"))
    kept = kept[~bad[kept]]
    grid = {name: values[kept] for name, values in grid.items()}
    if "fwhm" in grid and not (np.isfinite(grid["fwhm"]) & (grid["fwhm"] > 0)).all():
        del grid["fwhm"]  # files that do not know the widths have zeros or marks in their place
    return {"spectra": _reflectance(spectra[:, kept], parts.get("scale")), "names": parts["names"]} | grid


def marked_bands(bands: np.ndarray | Intervals, n_bands: int, wavelengths: np.ndarray | None) -> np.ndarray:
    """`(n_bands,)` of bool from such a mask, or from intervals of wavelengths (nm), ends included."""
    array = np.asarray(bands)
    if array.dtype == bool and array.shape == (n_bands,):
        return array
    if array.size == 0:
        return np.zeros(n_bands, bool)
    if array.dtype.kind not in "iuf" or array.ndim != 2 or array.shape[1] != 2 or not (array[:, 0] <= array[:, 1]).all():
        raise InputError(f"intervals (low, high) in nm, or a mask of {n_bands} bands", f"{array.dtype} of shape {array.shape}",
                         "for example [(1340, 1450), (1790, 1960)]")
    if wavelengths is None:
        raise InputError("wavelengths of the library", "none", "mark the bands by a mask")
    return np.asarray(((wavelengths[:, None] >= array[:, 0]) & (wavelengths[:, None] <= array[:, 1])).any(axis=1))


def _reflectance(spectra: np.ndarray, scale: float | None) -> np.ndarray:
    """By the scale that the file states; where it states none, or 1, percent and ten-thousandths are told by their size."""
    if scale is not None and scale != 1:
        return spectra / scale
    brightest = np.where(np.isfinite(spectra), spectra, 0.0).max(axis=1, initial=0.0)
    scale, said = scale_by_size(brightest)
    if said:
        warnings.warn(said, UnmixWarning, stacklevel=5)
    return spectra / scale

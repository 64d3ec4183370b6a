"""Public spectral libraries by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyro_unmix.downloads import Get, local, published
from pyro_unmix.errors import InputError
from pyro_unmix.io import envi_library, matlab_library
from pyro_unmix.io.library_files import tidy
from pyro_unmix.library import SpectralLibrary, missing, open_library


@dataclass(frozen=True)
class LibrarySource:
    """What a named library is made of: `build(get)` returns what a reader would, `local` is its name in the local folder."""

    description: str
    local: str
    files: tuple[str, ...]
    build: Callable[[Get], dict]


def load_library(name: str) -> SpectralLibrary:
    """A public spectral library.

    Parameters
    ----------
    name
        One of `library_names()`. The `.npz` of this library in the folder that the environment variable `PYRO_UNMIX_DATA` names
        (`library_usgs1995_av224.npz`, `library_usgs_splib06_av95.npz`, `library_usgs_splib07_av95.npz`,
        `library_berlin_urban.npz`) is taken if it is there; else the published files are downloaded, once, into the user's cache.

    Raises
    ------
    InputError
        Unknown name, no network, or a file that is not the one that was published.
    """
    source = _library(name)
    path = local(source.local)
    return open_library(path) if path is not None else SpectralLibrary(**tidy(source.build(published)))


def fetch_library(name: str) -> list[Path]:
    """The files of a library on this machine, downloaded where they are missing; raises as `load_library`."""
    source = _library(name)
    path = local(source.local)
    return [path] if path is not None else [published(file) for file in source.files]


def library_names() -> dict[str, str]:
    """The names of the spectral libraries, each with a description of one line."""
    return {name: source.description for name, source in _LIBRARIES.items()}


def _envi(get: Get, stem: str) -> dict:
    get(f"{stem}.hdr")  # the reader looks for it beside the other
    return envi_library.read_library(get(f"{stem}.sli"))


def _usgs_spectra(parts: dict) -> dict:
    """Without records that are no spectra (error bars, wavelengths, resolution), or out of range, or with many values missing;
    a few are filled from their neighbours in wavelength, because nearly all spectra of one spectrometer lack the last band."""
    spectra, names, wavelengths = parts["spectra"], parts["names"], parts["wavelengths"]
    gaps = missing(spectra)
    order = np.argsort(wavelengths, kind="stable")
    kept = []
    for row, name in enumerate(names):
        if gaps[row].sum() > 10 or name.startswith(("error bars", "Wavelengths in microns", "Resolution in microns")):
            continue
        known = order[~gaps[row, order]]
        spectra[row] = np.where(gaps[row], np.interp(wavelengths, wavelengths[known], spectra[row, known]), spectra[row])
        if spectra[row].min() >= 0 and spectra[row].max() <= 1.6:
            kept.append(row)
    return parts | {"spectra": spectra[kept], "names": [names[row] for row in kept]}


_LIBRARIES = {
    "usgs1995": LibrarySource("spectral library: USGS 1995 (splib04), 498 minerals, 224 AVIRIS bands.", "library_usgs1995_av224",
                              ("USGS_1995_Library.mat",),
                              lambda get: matlab_library.read_library(get("USGS_1995_Library.mat"))),
    "usgs_splib06": LibrarySource("spectral library: USGS splib06, 847 minerals and others, 224 AVIRIS bands.",
                                  "library_usgs_splib06_av95", ("s06av95a_envi.hdr", "s06av95a_envi.sli"),
                                  lambda get: _usgs_spectra(_envi(get, "s06av95a_envi"))),
    "usgs_splib07": LibrarySource("spectral library: USGS splib07, 1602 minerals and others, 224 AVIRIS bands.",
                                  "library_usgs_splib07_av95", ("s07_AV95_envi.hdr", "s07_AV95_envi.sli"),
                                  lambda get: _usgs_spectra(_envi(get, "s07_AV95_envi"))),
    "berlin": LibrarySource("spectral library: Berlin urban surfaces, 75 spectra, 177 EnMAP bands.", "library_berlin_urban",
                            ("library_berlin.hdr", "library_berlin.sli"),
                            lambda get: _envi(get, "library_berlin") | {"scale": 10_000.0}),
}


def _library(name: str) -> LibrarySource:
    if name not in _LIBRARIES:
        raise InputError(f"one of the spectral libraries {', '.join(_LIBRARIES)}", f"'{name}'",
                         "a file of your own is opened with open_library")
    return _LIBRARIES[name]

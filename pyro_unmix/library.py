"""Named spectra: laboratory, field or image spectra to inform a prior or to name what was found."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pyro_unmix.errors import InputError, UnmixWarning
from pyro_unmix.io import matlab, matlab_layouts, npz

# USGS libraries mark a missing value by -1.23e34.
_LOWEST = -1e30
# A sensor may reach this far (nm) beyond a library: less than the width of any band, and files round.
_SLACK = 1.0


class SpectralLibrary:
    """Spectra with names on one grid of wavelengths.

    Parameters
    ----------
    spectra
        `(n, bands)`, reflectance. Spectra with a missing value (not finite, or the USGS mark) are left out with a
        warning.
    names
        `(n,)`.
    wavelengths
        `(bands,)` in nanometres, in any order, or None where they are unknown.

    Raises
    ------
    InputError
        Shapes that do not agree, or no complete spectrum.
    """

    def __init__(self, spectra: np.ndarray, names: Sequence[str] | np.ndarray, wavelengths: np.ndarray | None = None):
        spectra = np.asarray(spectra, dtype=np.float32)
        names = [str(name) for name in names]
        if spectra.ndim != 2 or len(spectra) != len(names):
            raise InputError("spectra (n, bands) and a name for each", f"shape {spectra.shape} and {len(names)} names")
        if wavelengths is not None:
            wavelengths = np.asarray(wavelengths, dtype=np.float64).ravel()
            if len(wavelengths) != spectra.shape[1]:
                raise InputError(f"{spectra.shape[1]} wavelengths, one a band", f"{len(wavelengths)}")
        whole = (np.isfinite(spectra) & (spectra > _LOWEST)).all(axis=1)
        if not whole.any():
            raise InputError("at least one complete spectrum", f"{len(spectra)} spectra, each with a missing value")
        if not whole.all():
            warnings.warn(f"{(~whole).sum()} of {len(whole)} spectra have a missing value and are left out",
                          UnmixWarning, stacklevel=2)
        self.spectra = spectra[whole]
        self.names = [name for name, keep in zip(names, whole, strict=True) if keep]
        self.wavelengths = wavelengths

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        w = self.wavelengths
        grid = f"{self.spectra.shape[1]} bands" + ("" if w is None else f", {w.min():.0f} to {w.max():.0f} nm")
        return f"<SpectralLibrary: {len(self)} spectra, {grid}>"

    def select(self, names: Sequence[str | int]) -> SpectralLibrary:
        """The spectra called `names`, in this order.

        A name is the whole name, or a part of just one name in any case of letters, or a row number.

        Raises
        ------
        InputError
            No such name, or more than one; the message lists the candidates.
        """
        rows = [self._row(name) for name in ([names] if isinstance(names, str) else names)]
        return SpectralLibrary(self.spectra[rows], [self.names[row] for row in rows], self.wavelengths)

    def resample(self, wavelengths: np.ndarray | None) -> SpectralLibrary:
        """The library at the `wavelengths` (nm) of a sensor, by linear interpolation.

        Raises
        ------
        InputError
            The wavelengths of the library or of the sensor are unknown, or the library does not cover the sensor.
        """
        if self.wavelengths is None or wavelengths is None:
            whose = "the library" if self.wavelengths is None else "the sensor"
            raise InputError(f"wavelengths of {whose}", "none", "give them when the library or the scene is made")
        wavelengths = np.asarray(wavelengths, dtype=np.float64).ravel()
        low, high = self.wavelengths.min(), self.wavelengths.max()
        outside = (wavelengths < low - _SLACK) | (wavelengths > high + _SLACK)
        if outside.any():
            raise InputError(f"bands within the library ({low:.1f} to {high:.1f} nm)",
                             f"{outside.sum()} bands outside, the first at {wavelengths[outside][0]:.1f} nm",
                             "drop these bands from the scene, or take a library that reaches them")
        order = np.argsort(self.wavelengths)
        spectra = [np.interp(wavelengths, self.wavelengths[order], spectrum[order]) for spectrum in self.spectra]
        return SpectralLibrary(np.stack(spectra), self.names, wavelengths)

    def _row(self, wanted: str | int) -> int:
        if isinstance(wanted, int | np.integer):
            if not -len(self) <= wanted < len(self):
                raise InputError(f"a row number below {len(self)}", f"{wanted}")
            return int(wanted)
        exact = [row for row, name in enumerate(self.names) if name == wanted]
        found = exact or [row for row, name in enumerate(self.names) if wanted.lower() in name.lower()]
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(f"one spectrum called '{wanted}'", f"{len(found)}: {self._list(found)}",
                             "give the whole name, or the row number")
        near = difflib.get_close_matches(wanted, self.names, n=8, cutoff=0.4)
        rows = [self.names.index(name) for name in dict.fromkeys(near)] or range(len(self))
        raise InputError(f"a spectrum called '{wanted}'", "none of that name", f"there are {self._list(rows)}")

    def _list(self, rows: Sequence[int]) -> str:
        return ", ".join(f"'{self.names[row]}' (row {row})" for row in rows[:12]) + (", ..." if len(rows) > 12 else "")


def open_library(path: str | os.PathLike) -> SpectralLibrary:
    """Open a spectral library.

    Parameters
    ----------
    path
        An `.npz` with `spectra` (n, bands), `names` and, if known, `wavelengths` (nm); or a `.mat` as unmixing codes
        ship them: SUnSAL's (`datalib`, `names`), a cell array of structs with `name`, `reflectance` and `wavelength`,
        or bundles (`lib1`, `lib2`, ..., `material_names`). Bands come out by wavelength, in nanometres.

    Raises
    ------
    InputError
        No such file, unknown format, or a damaged file.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError("a spectral library (.npz, .mat)", f"'{path}', which is not there", "check the path")
    if path.suffix.lower() == ".npz":
        with npz.open_archive(path) as archive:
            if not {"spectra", "names"} <= set(archive.files):
                raise InputError(f"arrays 'spectra' (n, bands) and 'names' in '{path.name}'",
                                 ", ".join(archive.files) or "no array", "a scene is opened with open_scene")
            wavelengths = archive["wavelengths"] if "wavelengths" in archive.files else None
            return _sorted(archive["spectra"], archive["names"], wavelengths)
    if path.suffix.lower() == ".mat":
        return _from_matlab(path)
    raise InputError("a spectral library (.npz, .mat)", f"'{path.name}'", "convert it, or build a SpectralLibrary")


def _from_matlab(path: Path) -> SpectralLibrary:
    variables = matlab.read_arrays(path)
    records = next((value for value in variables.values() if matlab_layouts.is_records(value)), None)
    if records is not None:
        grids = [np.ravel(record.get("wavelength", ())) for record in records]
        spectra = [np.ravel(record["reflectance"]) for record in records]
        if not all(np.array_equal(grid, grids[0]) for grid in grids) or len({len(row) for row in spectra}) > 1:
            raise InputError(f"spectra on one grid of wavelengths in '{path.name}'", "several", "resample them first")
        return _sorted(np.stack(spectra), [record["name"] for record in records], grids[0] if grids[0].size else None)
    if {"datalib", "names"} <= variables.keys():
        # The first three columns are no spectra: wavelength (micrometres), resolution, channel.
        table, names = variables["datalib"], variables["names"]
        if isinstance(names, np.ndarray):
            names = [line.astype(np.uint8).tobytes().decode("latin-1") for line in names]
        return _sorted(table[:, 3:].T, [name.strip() for name in names[3:]], table[:, 0])
    bundles = sorted((name for name in variables if name.startswith("lib") and name[3:].isdigit()),
                     key=lambda name: int(name[3:]))
    if bundles and len(variables.get("material_names", ())) == len(bundles):
        spectra = [variables[name].T for name in bundles]
        names = [f"{material} {i + 1}" for material, rows in zip(variables["material_names"], spectra, strict=True)
                 for i in range(len(rows))]
        return SpectralLibrary(np.concatenate(spectra), names)
    raise InputError(f"a spectral library in '{path.name}' (datalib and names; a cell array of name, reflectance, "
                     "wavelength; or lib1, lib2, ... and material_names)", matlab.describe(variables),
                     "a scene is opened with open_scene")


def _sorted(spectra: np.ndarray, names: Sequence[str] | np.ndarray, wavelengths: np.ndarray | None) -> SpectralLibrary:
    """Bands by wavelength, in nanometres: no sensor has a band beyond 100 micrometres or below 100 nm."""
    if wavelengths is None:
        return SpectralLibrary(spectra, names)
    wavelengths = np.ravel(wavelengths).astype(np.float64)
    if wavelengths.max() < 100:
        wavelengths = wavelengths * 1000
    order = np.argsort(wavelengths, kind="stable")
    return SpectralLibrary(np.asarray(spectra)[:, order], names, wavelengths[order])

"""Named spectra: laboratory, field or image spectra to inform a prior or to name what was found."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pyro_unmix.errors import InputError, UnmixWarning
from pyro_unmix.io.library_files import Intervals, marked_bands, read_library
from pyro_unmix.metrics import spectral_angle

# USGS libraries mark a missing value by -1.23e34; averaged with its neighbours over a band it is a few orders less.
_LOWEST = -1e10
# A sensor may reach this far (nm) beyond a library: less than the width of any band, and files round.
_SLACK = 1.0


class SpectralLibrary:
    """Spectra with names on one grid of wavelengths.

    Parameters
    ----------
    spectra
        `(n, bands)`, reflectance. Bands that no spectrum has (not finite, or the USGS mark) are left out with a warning; so
        are, after that, spectra with a missing value.
    names
        `(n,)`.
    wavelengths
        `(bands,)` in nanometres, in any order, or None where they are unknown.
    fwhm
        `(bands,)` in nanometres: the full widths at half maximum of the bands, or None where they are unknown.

    Raises
    ------
    InputError
        Shapes that do not agree, a width that is not positive, or no complete spectrum.
    """

    def __init__(self, spectra: np.ndarray, names: Sequence[str] | np.ndarray, wavelengths: np.ndarray | None = None,
                 fwhm: np.ndarray | None = None):
        spectra = np.asarray(spectra, dtype=np.float32)
        names = [str(name) for name in names]
        if spectra.ndim != 2 or len(spectra) != len(names):
            raise InputError("spectra (n, bands) and a name for each", f"shape {spectra.shape} and {len(names)} names")
        wavelengths = _one_a_band(wavelengths, "wavelengths", spectra.shape[1])
        fwhm = _widths(fwhm, spectra.shape[1])
        there = ~missing(spectra)
        bands = np.asarray(there.any(axis=0))
        whole = np.asarray(there[:, bands].all(axis=1) & bands.any())
        if not whole.any():
            raise InputError("at least one complete spectrum", f"{len(spectra)} spectra, each with a missing value",
                             "leave out the bands that most of them lack")
        if not bands.all():
            warnings.warn(f"{(~bands).sum()} of {len(bands)} bands are in no spectrum and are left out", UnmixWarning,
                          stacklevel=2)
        if not whole.all():
            most = int((~there & bands).sum(axis=0).argmax())
            where = f"number {most + 1}" if wavelengths is None else f"at {wavelengths[most]:.1f} nm"
            warnings.warn(f"{(~whole).sum()} of {len(whole)} spectra have a missing value and are left out; the band {where} is "
                          f"missing in {(~there[:, most]).sum()}", UnmixWarning, stacklevel=2)
        self.spectra = spectra[whole][:, bands]
        self.names = [name for name, keep in zip(names, whole, strict=True) if keep]
        self.wavelengths = None if wavelengths is None else wavelengths[bands]
        self.fwhm = None if fwhm is None else fwhm[bands]

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        w = self.wavelengths
        grid = f"{self.spectra.shape[1]} bands" + ("" if w is None else f", {w.min():.0f} to {w.max():.0f} nm")
        return f"<SpectralLibrary: {len(self)} spectra, {grid}>"

    def search(self, text: str) -> dict[int, str]:
        """Row numbers and names of the spectra whose name holds every word, or part of a word, of `text`, in any case of letters.

        `library.select(list(library.search("alunite")))` takes them all.
        """
        words = text.lower().split()
        return {row: name for row, name in enumerate(self.names) if all(word in name.lower() for word in words)}

    def select(self, names: Sequence[str | int]) -> SpectralLibrary:
        """The spectra called `names`, in this order.

        A name is the whole name, or words that `search` finds in just one name, or a row number.

        Raises
        ------
        InputError
            No such name, or more than one; the message lists the candidates.
        """
        rows = [self._row(name) for name in ([names] if isinstance(names, str) else names)]
        return SpectralLibrary(self.spectra[rows], [self.names[row] for row in rows], self.wavelengths, self.fwhm)

    def drop_bands(self, bands: np.ndarray | Intervals) -> SpectralLibrary:
        """The library without some bands.

        Parameters
        ----------
        bands
            `(bands,)` of bool, True where a band is to be dropped; or intervals of wavelengths (nm), ends included:
            `[(1340, 1450), (1790, 1960)]`.

        Raises
        ------
        InputError
            A mask of another size, intervals where wavelengths are unknown, or no band left.
        """
        kept = ~marked_bands(bands, self.spectra.shape[1], self.wavelengths)
        return SpectralLibrary(self.spectra[:, kept], self.names, *(None if each is None else each[kept]
                                                                    for each in (self.wavelengths, self.fwhm)))

    def resample(self, wavelengths: np.ndarray | None, fwhm: np.ndarray | None = None) -> SpectralLibrary:
        """The library as a sensor sees it.

        Parameters
        ----------
        wavelengths
            `(bands,)`, the centres of the sensor's bands in nanometres, in any order.
        fwhm
            `(bands,)`, their full widths at half maximum in nanometres. With them a band is the mean of the library's bands
            within half a width of its centre, weighted by a normal curve (SPy's `BandResampler`, which cuts the curve there;
            it takes the library's own `fwhm`, or else the distances between its bands). Without them: linear interpolation,
            which will do where the library is about as coarse as the sensor.

        Raises
        ------
        InputError
            The wavelengths of the library or of the sensor are unknown, the library does not cover the sensor, widths that
            are not positive or not one a band, or SPy is not installed.
        """
        if self.wavelengths is None or wavelengths is None:
            whose = "the library" if self.wavelengths is None else "the sensor"
            raise InputError(f"wavelengths of {whose}", "none", "give them when the library or the scene is made")
        wavelengths = np.asarray(wavelengths, dtype=np.float64).ravel()
        low, high = self.wavelengths.min(), self.wavelengths.max()
        _refuse((wavelengths < low - _SLACK) | (wavelengths > high + _SLACK), wavelengths,
                f"bands within the library ({low:.1f} to {high:.1f} nm)", "outside")
        order = np.argsort(self.wavelengths, kind="stable")
        grid, spectra = self.wavelengths[order], self.spectra[:, order]
        if fwhm is None:
            spectra = np.stack([np.interp(wavelengths, grid, spectrum) for spectrum in spectra])
            return SpectralLibrary(spectra, self.names, wavelengths)
        widths = _widths(fwhm, len(wavelengths))
        weights = _band_weights(grid, None if self.fwhm is None else self.fwhm[order], wavelengths, widths)
        _refuse(np.isnan(weights).any(axis=1), wavelengths, "bands that overlap bands of the library", "in its gaps")
        return SpectralLibrary(spectra @ weights.T, self.names, wavelengths, widths)

    def on_bands(self, n_bands: int, wavelengths: np.ndarray | None) -> SpectralLibrary:
        """The library on the bands of spectra `(..., n_bands)`: resampled where both know their wavelengths, else as it is.

        Raises
        ------
        InputError
            As `resample`, or another number of bands and unknown wavelengths.
        """
        if self.wavelengths is not None and wavelengths is not None:
            return self.resample(wavelengths)
        if self.spectra.shape[1] != n_bands:
            raise InputError(f"a library of {n_bands} bands", f"{self.spectra.shape[1]}, and unknown wavelengths",
                             "give wavelengths to the scene and to the library")
        return self

    def identify(self, spectra: np.ndarray, wavelengths: np.ndarray | None = None, n: int = 3,
                 names: Sequence[str] | None = None) -> pd.DataFrame:
        """The materials whose spectra are nearest to some spectra in spectral angle, whatever their brightness.

        `Posterior.identify` does this for what a fit has found, and knows how sure it is.

        Parameters
        ----------
        spectra
            `(k, bands)` or `(bands,)`, such as endmembers.
        wavelengths
            `(bands,)` of `spectra`, in nanometres; None: those of the library.
        n
            How many materials to list for each.
        names
            `(k,)`, what to call the spectra.

        Returns
        -------
        pd.DataFrame
            Columns endmember, rank (from 1), material, angle (radians), nearest first.

        Raises
        ------
        InputError
            As `on_bands`, spectra that are not finite, other than one name a spectrum, or `n` below 1.
        """
        spectra = np.atleast_2d(np.asarray(spectra, dtype=np.float64))
        if spectra.ndim != 2 or not np.isfinite(spectra).all():
            raise InputError("spectra (k, bands) of finite numbers",
                             f"shape {spectra.shape}, {(~np.isfinite(spectra)).sum()} values not finite")
        names = [f"endmember {i + 1}" for i in range(len(spectra))] if names is None else list(names)
        if len(names) != len(spectra):
            raise InputError(f"{len(spectra)} names, one a spectrum", f"{len(names)}")
        library = self.on_bands(spectra.shape[1], wavelengths)
        if library.spectra.shape[1] != spectra.shape[1]:
            raise InputError("wavelengths, one a band of the spectra", f"{library.spectra.shape[1]} for {spectra.shape[1]} bands")
        angle = spectral_angle(spectra[:, None], library.spectra)
        return library.ranking(angle.argsort(axis=1, kind="stable"), names, n, angle=angle)

    def ranking(self, order: np.ndarray, names: Sequence[str], n: int, **figures: np.ndarray) -> pd.DataFrame:
        """The first `n` rows of `order` `(k, len(self))` for each of `names`: columns endmember, rank, material, and the
        `figures` `(k, len(self))` of these rows.

        Raises
        ------
        InputError
            `n` below 1.
        """
        if n < 1:
            raise InputError("at least one material", f"{n}")
        rows = order[:, :n]
        columns = {name: np.take_along_axis(values, rows, axis=1).ravel() for name, values in figures.items()}
        return pd.DataFrame({"endmember": np.repeat(list(names), rows.shape[1]),
                             "rank": np.tile(np.arange(1, rows.shape[1] + 1), len(rows)),
                             "material": np.array(self.names)[rows].ravel()} | columns)

    def _row(self, wanted: str | int) -> int:
        if isinstance(wanted, int | np.integer):
            if not -len(self) <= wanted < len(self):
                raise InputError(f"a row number below {len(self)}", f"{wanted}")
            return int(wanted)
        exact = [row for row, name in enumerate(self.names) if name == wanted]
        found = exact or list(self.search(wanted))
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


def open_library(path: str | os.PathLike, *, drop: Intervals = ()) -> SpectralLibrary:
    """Open a spectral library.

    Bands come out by wavelength, in nanometres, and values as reflectance: by the scale that the file states, else by one that
    cannot be mistaken, of which a warning tells. Bands that an ENVI header marks as bad (`bbl`) are left out, with a warning.

    Parameters
    ----------
    path
        One of

        - an ENVI spectral library: the `.sli` or its `.hdr`, both in one folder;
        - a `.csv` with wavelengths in the first line and names in the first column, or the other way round;
        - an `.npz` with `spectra` (n, bands), `names` and, if known, `wavelengths` and `fwhm`;
        - a `.mat` as unmixing codes ship them: SUnSAL's (`datalib`, `names`), a cell array of structs with `name`,
          `reflectance` and `wavelength`, or bundles (`lib1`, `lib2`, ..., `material_names`).
    drop
        Intervals of wavelengths (nm), ends included, to leave out. Spectra that miss values there only are then complete.

    Raises
    ------
    InputError
        No such file, unknown format, a damaged file, intervals where wavelengths are unknown, or no complete spectrum.
    """
    return SpectralLibrary(**read_library(Path(path).expanduser(), drop))


def missing(spectra: np.ndarray) -> np.ndarray:
    """True where there is no value: not finite, or marked so by the USGS."""
    return ~(np.isfinite(spectra) & (spectra > _LOWEST))


def _one_a_band(values: np.ndarray | None, what: str, n_bands: int) -> np.ndarray | None:
    if values is None:
        return None
    values = np.asarray(values, dtype=np.float64).ravel()
    if len(values) != n_bands:
        raise InputError(f"{n_bands} {what}, one a band", f"{len(values)}")
    return values


def _widths(fwhm: np.ndarray | None, n_bands: int) -> np.ndarray | None:
    fwhm = _one_a_band(fwhm, "widths (fwhm)", n_bands)
    if fwhm is not None and not (fwhm > 0).all():
        raise InputError("positive widths (fwhm)", f"{fwhm.min()}")
    return fwhm


def _refuse(outside: np.ndarray, wavelengths: np.ndarray, expected: str, where: str) -> None:
    if outside.any():
        raise InputError(expected, f"{outside.sum()} bands {where}, the first at {wavelengths[outside][0]:.1f} nm",
                         "drop these bands from the scene, or take a library that reaches them")


def _band_weights(grid: np.ndarray, own: np.ndarray | None, wavelengths: np.ndarray, fwhm: np.ndarray | None) -> np.ndarray:
    """`(bands of the sensor, bands of the library)`; a row of a band that nothing reaches holds a NaN."""
    try:
        from spectral import BandResampler
    except ImportError as error:
        raise InputError("SPy, which resamples to bands with a width", "an environment without it",
                         "pip install 'pyro_unmix[geo]', or leave fwhm out") from error
    return BandResampler(grid, wavelengths, own, fwhm).matrix

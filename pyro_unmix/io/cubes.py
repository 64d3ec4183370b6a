"""From a sensor's file to the parts of a scene: bands chosen, values as reflectance, pixels without data masked.

A sensor's format is a module with `open_cube(path)`, a context in which the file can be read; the numbers come row by row, so
that no more of them is held than the scene.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xarray as xr

from pyro_unmix.errors import InputError, UnmixWarning
from pyro_unmix.io.bands import kept_bands, matching_bands
from pyro_unmix.io.library_files import Intervals
from pyro_unmix.io.reflectance import scale_by_size

# Values read at once, but at least one block of rows.
_AT_ONCE = 2**23
_SPECTRA_TO_TELL_THE_SCALE = 10_000


@dataclass(frozen=True)
class Cube:
    """A sensor's image before its numbers are read.

    Attributes
    ----------
    shape
        `(rows, columns, bands)`.
    read
        `read(rows, bands)`: values `(rows, columns, bands)` of a slice of rows and of these band numbers, by the scale that the
        file states, NaN where there is no data.
    bad
        `(bands,)`, True where the file marks a band as bad.
    wavelengths, fwhm
        `(bands,)` in nanometres, or None.
    scaled
        Whether the file states what its values are.
    coords
        Coordinates along `y` and `x`, and the reference system as `spatial_ref`.
    block
        Rows that are read fastest together.
    """

    shape: tuple[int, int, int]
    read: Callable[[slice, np.ndarray], np.ndarray]
    bad: np.ndarray
    wavelengths: np.ndarray | None = None
    fwhm: np.ndarray | None = None
    scaled: bool = False
    coords: dict = field(default_factory=dict)
    block: int = 1


def scene_parts(cube: Cube, drop: Intervals, wanted: np.ndarray | None) -> dict:
    """The parts of a `Scene`, with a warning for everything that was decided on the way.

    `wanted`, wavelengths in nm, takes these bands and no others; else bad bands, bands in `drop` and bands without data are left
    out.
    """
    if wanted is None:
        kept, notes = kept_bands(cube.bad, cube.wavelengths, drop)
    else:
        kept, notes = matching_bands(wanted, cube.wavelengths), []
    if cube.wavelengths is None:
        notes.append("the file does not say at what wavelengths its bands are: all that are not marked as bad are kept")
    image, use, seen = _read(cube, kept)
    empty = ~seen
    if empty.any() and wanted is None:
        notes.append(f"{empty.sum()} of {cube.shape[2]} bands have no data and are left out")
        image, kept = image[:, :, ~empty], kept[~empty]
    if not cube.scaled:
        scale, said = scale_by_size(_brightest(image, use))
        image /= np.float32(scale)
        notes += [said] if said else []
    for note in notes:
        warnings.warn(note, UnmixWarning, stacklevel=3)
    grid = {name: None if values is None else values[kept] for name, values in (("wavelengths", cube.wavelengths),
                                                                                ("fwhm", cube.fwhm))}
    return {"image": xr.DataArray(image, dims=("y", "x", "wavelength"), coords=cube.coords), "mask": use, "bands": kept, **grid}


@contextmanager
def readable(path: Path, what: str) -> Iterator[None]:
    """Whatever goes wrong in a reader becomes one `InputError`: damaged bytes lead libraries anywhere."""
    try:
        yield
    except (InputError, Warning):
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        raise InputError(what, f"'{path.name}', which cannot be read as one ({reason})",
                         "it may be cut short or damaged: copy or download it again") from error


def row_blocks(rows: int, values_a_row: int, block: int = 1) -> Iterator[slice]:
    """Slices of rows, as many as are read or written at once."""
    step = max(_AT_ONCE // max(values_a_row, 1) // block, 1) * block
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _read(cube: Cube, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The image; `(rows, columns)`, True where a pixel has more than gaps and zeros; `(bands,)`, True where a band has data."""
    rows, cols, _ = cube.shape
    image, use, seen = np.empty((rows, cols, len(kept)), np.float32), np.empty((rows, cols), bool), np.zeros(len(kept), bool)
    for block in row_blocks(rows, cols * len(kept), cube.block):
        with np.errstate(over="ignore"):  # beyond the range of float32 is infinite, and masked
            image[block] = cube.read(block, kept)
        finite = np.isfinite(image[block])
        use[block] = (finite & (image[block] != 0)).any(axis=2)
        seen |= finite.any(axis=(0, 1))
    if not use.any():
        raise InputError("at least one pixel with data", f"none in {rows} x {cols} pixels", "check the file's no-data value")
    return image, use, seen


def _brightest(image: np.ndarray, use: np.ndarray) -> np.ndarray:
    rows, cols = np.nonzero(use)
    every = max(len(rows) // _SPECTRA_TO_TELL_THE_SCALE, 1)
    spectra = image[rows[::every], cols[::every]]
    return np.where(np.isfinite(spectra), spectra, 0.0).max(axis=1, initial=0.0)

"""A sensor's file that is read part by part: it may be larger than memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from pyro_unmix.errors import InputError, UnmixWarning
from pyro_unmix.io.bands import kept_bands, matching_bands
from pyro_unmix.io.cubes import Cube, read_rows, spread_blocks, with_data
from pyro_unmix.io.library_files import Intervals
from pyro_unmix.io.mosaic import mosaic
from pyro_unmix.io.reflectance import scale_by_size
from pyro_unmix.scene import Scene, gaps, scene_coords

OpenCube = Callable[[Path], AbstractContextManager[Cube]]
# Values that are looked at to tell what the file does not say.
_LOOKED_AT = 2**24


@dataclass(frozen=True)
class SceneFile:
    """A scene on disk, of which nothing is held: made by `open_scene_file`.

    Attributes
    ----------
    path
        Where it lies.
    shape
        `(rows, columns, bands)`, of the bands that are used.
    bands
        `(bands,)`: their numbers in the file, from 0.
    scale
        The value in the file that stands for a reflectance of 1, where the file does not say it.
    n_bands_in_file
        With those that are not used.
    wavelengths, fwhm
        `(bands,)` in nanometres, or None.
    ground
        Coordinates along `y` and `x`, and the reference system as `spatial_ref`, if the file has any.
    block
        Rows that are read fastest together.
    """

    path: Path
    open_cube: OpenCube
    shape: tuple[int, int, int]
    bands: np.ndarray
    scale: float
    n_bands_in_file: int
    wavelengths: np.ndarray | None
    fwhm: np.ndarray | None
    ground: dict
    block: int

    @classmethod
    def of(cls, path: Path, open_cube: OpenCube, drop: Intervals, wanted: np.ndarray | None) -> SceneFile:
        """Look at a file, with a warning for everything that is decided on the way.

        `wanted`, wavelengths in nm, takes these bands and no others; else bad bands, bands in `drop` and bands without data are
        left out. What the file does not say is told by rows spread over it.
        """
        with open_cube(path) as cube:
            rows, cols, n_bands = cube.shape
            if wanted is None:
                kept, notes = kept_bands(cube.bad, cube.wavelengths, drop)
            else:
                kept, notes = matching_bands(wanted, cube.wavelengths), []
            if cube.wavelengths is None:
                notes.append("the file does not say at what wavelengths its bands are: all that are not marked as bad are kept")
            spectra = _look(cube, kept)
            seen = np.isfinite(spectra).any(axis=0)
            if wanted is None and not seen.all():
                notes.append(f"{(~seen).sum()} of {n_bands} bands have no data and are left out")
                spectra, kept = spectra[:, seen], kept[seen]
            brightest = np.where(np.isfinite(spectra), spectra, 0.0).max(axis=1, initial=0.0)
            scale, said = (1.0, "") if cube.scaled else scale_by_size(brightest)
            for note in notes + [said] * bool(said):
                warnings.warn(note, UnmixWarning, stacklevel=4)
            wavelengths, fwhm = (None if values is None else values[kept] for values in (cube.wavelengths, cube.fwhm))
            return cls(path, open_cube, (rows, cols, len(kept)), kept, scale, n_bands, wavelengths, fwhm, cube.coords, cube.block)

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def n_bands(self) -> int:
        return self.shape[2]

    @property
    def coords(self) -> dict:
        """Coordinates of the scene, as those of `Scene.reflectance`."""
        return scene_coords(self.shape, self.wavelengths, self.fwhm, self.ground)

    def read(self, parts: Sequence[slice]) -> np.ndarray:
        """Reflectance `(rows, columns, bands)` of these slices of rows, one after the other."""
        with self.open_cube(self.path) as cube:
            read = [read_rows(cube, part, self.bands) for part in parts]
        image = read[0] if len(read) == 1 else np.concatenate(read)
        if self.scale != 1:
            image /= np.float32(self.scale)
        return image

    def usable(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Reflectance `(rows, columns, bands)` of some rows, and `(rows, columns)`, True where a pixel can be used."""
        image = self.read([rows])
        broken, empty = gaps(image)
        return image, ~(broken | empty)

    def scene(self, rows: slice) -> Scene | None:
        """The scene of some rows; None where no pixel of them can be used. Nothing is said of pixels that cannot."""
        image, use = self.usable(rows)
        if not use.any():
            return None
        return Scene.of_checked(image, use, dict(xr.Dataset(coords=self.coords).isel(y=rows).coords), self.name)

    def sample(self, n_pixels: int = 2**16, *, seed: int = 0) -> Scene:
        """About `n_pixels` pixels to learn from, as one scene; all of them, where there are no more.

        Square tiles with eight masked lines between them, as far as the guides here look. Half of them, or fewer, are those that
        hold the most extreme spectra, which say what the endmembers are, and which a sample at random would miss; the others are
        spread over the file. It is read twice, some rows at a time.

        Raises
        ------
        InputError
            Fewer pixels than a tile has, or a file without data.
        """
        return mosaic(self, n_pixels, seed)

    def spread_spectra(self) -> np.ndarray:
        """Spectra `(n, bands)` of pixels without gaps, in rows spread over the file.

        Raises
        ------
        InputError
            There are none.
        """
        with self.open_cube(self.path) as cube:
            spectra = _look(cube, self.bands)
        whole = np.isfinite(spectra).all(axis=1)
        if not whole.any():
            raise InputError("a pixel that has a value in every band", f"none of {len(whole)} looked at in '{self.path.name}'",
                             "leave out the bands in which values are missing")
        return spectra[whole] / np.float32(self.scale)

    def whole(self) -> Scene:
        """The scene of all of it."""
        return Scene(**self.scene_parts(), name=self.name)

    def scene_parts(self) -> dict:
        """The parts of a `Scene` of all of it."""
        rows, cols, _ = self.shape
        image = self.read([slice(0, rows)])
        use = with_data(image)
        if not use.any():
            raise InputError("at least one pixel with data", f"none in {rows} x {cols} pixels", "check the file's no-data value")
        return {"image": xr.DataArray(image, dims=("y", "x", "wavelength"), coords=self.ground), "mask": use,
                "wavelengths": self.wavelengths, "fwhm": self.fwhm}


def _look(cube: Cube, bands: np.ndarray) -> np.ndarray:
    """Spectra `(n, bands)` of pixels with data, in rows spread over the cube; in all rows where those have none."""
    rows, cols, _ = cube.shape
    for blocks in (spread_blocks(cube, len(bands), _LOOKED_AT), [slice(0, rows)]):
        spectra = np.concatenate([image[with_data(image)] for image in (read_rows(cube, block, bands) for block in blocks)])
        if len(spectra):
            return spectra
    raise InputError("at least one pixel with data", f"none in {rows} x {cols} pixels", "check the file's no-data value")

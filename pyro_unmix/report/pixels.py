"""Which pixels of a scene the page shows, and the file with the spectra of some of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import xarray as xr

from pyro_unmix.io import SceneFile
from pyro_unmix.io.summary_files import write_summary
from pyro_unmix.mixing import Linear
from pyro_unmix.model import UnmixingModel
from pyro_unmix.predictive import mean_spectrum
from pyro_unmix.scene import Scene

# Of maps, and of spectra in two bytes a band: a page of both, in base64 and with its figures, has about 8 MB at most.
_MOST_PIXELS, _MAP_BYTES, _SPECTRA_BYTES = 40_000, 3_000_000, 1_300_000
_MAPS = 7  # mean, sd and five quantiles of each endmember


def shown_pixels(rows: int, cols: int, n_endmembers: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns whose pixels are on the maps of the page: all, or the middle ones of blocks."""
    step = _step(rows, cols, min(_MOST_PIXELS, _MAP_BYTES // (2 * _MAPS * n_endmembers)))
    return _middles(rows, step), _middles(cols, step)


def save_pixels(folder: Path, scene: Scene | SceneFile, model: UnmixingModel) -> None:
    """Write `pixels.nc` beside the `summary.nc` in `folder`: observed spectra of pixels on a regular grid, for the report.

    `reflectance` (y, x, wavelength) in the units of the scene, `row` (y) and `column` (x) counted from 0; and where mixing is not
    linear, so that a page cannot mix by itself, `reconstruction` (y, x, wavelength), the mixture of the means. All pixels of a
    small scene, a part of those on the maps of a large one.
    """
    with xr.open_dataset(folder / "summary.nc", engine="h5netcdf") as summary:
        rows, cols = shown_pixels(summary.sizes["y"], summary.sizes["x"], summary.sizes["endmember"])
        linear = isinstance(model.mixing, Linear)
        step = _step(len(rows), len(cols), _SPECTRA_BYTES // (2 * summary.sizes["wavelength"] * (1 if linear else 2)))
        rows, cols = (shown[_middles(len(shown), step)] for shown in (rows, cols))
        pixels = _observed(scene, rows, cols).to_dataset(name="reflectance")
        if not linear:
            pixels["reconstruction"] = pixels.reflectance.dims, _mixtures(model, summary.isel(y=rows, x=cols))
    write_summary(pixels.assign_coords(row=("y", rows), column=("x", cols)), folder / "pixels.nc")


def _observed(scene: Scene | SceneFile, rows: np.ndarray, cols: np.ndarray) -> xr.DataArray:
    """Spectra of these pixels; those of a file are read row by row."""
    if isinstance(scene, Scene):
        return scene.reflectance.isel(y=rows, x=cols)
    read = np.stack([scene.read([slice(row, row + 1)])[0, cols] for row in rows.tolist()])
    return xr.DataArray(read, dims=("y", "x", "wavelength"), coords=xr.Dataset(coords=scene.coords).isel(y=rows, x=cols).coords)


@torch.no_grad()
def _mixtures(model: UnmixingModel, summary: xr.Dataset) -> np.ndarray:
    """`(y, x, wavelength)`: mixtures of the posterior means, as `reconstruction_rmse` has them."""
    abundances, endmembers, brightness = (
        torch.as_tensor(summary[name].values, dtype=torch.float64) if name in summary else None
        for name in ("abundance_mean", "endmember_mean", "brightness_mean"))
    assert abundances is not None and endmembers is not None
    return mean_spectrum(model, abundances, endmembers, brightness).numpy().astype(np.float32)


def _step(rows: int, cols: int, most: int) -> int:
    """The least one by which no more than `most` pixels are left, or one in all."""
    step = 1
    while -(-rows // step) * -(-cols // step) > max(most, 1):
        step += 1
    return step


def _middles(length: int, step: int) -> np.ndarray:
    """The middle positions of blocks of `step`."""
    return np.arange(min(step - 1, length - 1) // 2, length, step)

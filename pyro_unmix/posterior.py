"""What comes out: summaries in closed form, draws on request."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from pyro.distributions.torch_distribution import TorchDistributionMixin

from pyro_unmix.distributions import marginals
from pyro_unmix.errors import InputError
from pyro_unmix.io.files import atomic_path
from pyro_unmix.numerics import one_thread, seeded
from pyro_unmix.scene import Scene
from pyro_unmix.tiles import Tiling

if TYPE_CHECKING:
    from pyro_unmix.fit import Fit

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Rows and columns of the tiles the guide is run over, for summaries and for draws.
_TILE, _DRAWN_TILE = 64, 32


class Posterior:
    """Abundances, brightness and endmembers of a scene given a fit.

    The guide is run tile by tile when something is asked for; nothing of the size of the draws is kept.

    Parameters
    ----------
    fit
        What was learned.
    scene
        The scene fitted, or another on the same bands.

    Raises
    ------
    InputError
        The scene has other bands than the fit.
    """

    def __init__(self, fit: Fit, scene: Scene):
        _check_bands(fit, scene)
        self._fit, self.scene = fit, scene

    @torch.no_grad()
    def _tiles(self, size: int, rows: np.ndarray, cols: np.ndarray) -> Iterator[tuple]:
        """Of each tile that reaches into `rows` and `cols`: rows and columns of its pixels, q(abundances), q(brightness)."""
        tiling = Tiling(self.scene, size, self._fit.guide.halo)
        for number, (i, j) in enumerate(tiling.corners):
            if ((i <= rows) & (rows < i + tiling.height)).any() and ((j <= cols) & (cols < j + tiling.width)).any():
                tiles = tiling.batch([number])
                where = tuple(index.numpy() for index in tiling.rows_and_columns(tiles, [number]))
                yield where, *self._fit.guide.pixels(tiles)

    @property
    def history(self):
        """How training went: `Fit.history`."""
        return self._fit.history

    @one_thread()
    def summary(self) -> xr.Dataset:
        """Mean, standard deviation and quantiles; variables, dimensions and attributes are those of `summary.nc`."""
        rows, cols, _ = self.scene.shape
        k = self._fit.model.n_endmembers
        mean, sd = np.full((2, rows, cols, k), np.nan)
        quantiles = np.full((len(QUANTILES), rows, cols, k), np.nan)
        brightness = None if self._fit.guide.brightness is None else np.full((rows, cols), np.nan)
        for where, q_abundances, q_brightness in self._tiles(_TILE, np.arange(rows), np.arange(cols)):
            found = marginals(q_abundances, QUANTILES)
            mean[where] = found.mean / found.mean.sum(-1, keepdim=True)
            sd[where] = found.sd
            quantiles[(slice(None), *where)] = found.quantiles
            if brightness is not None:
                brightness[where] = q_brightness.mean
        endmembers = self._endmembers()
        map_dims, float32 = ("y", "x", "endmember"), np.float32
        variables = {
            "abundance_mean": (map_dims, mean.astype(float32)),
            "abundance_sd": (map_dims, sd.astype(float32)),
            "abundance_quantile": (("quantile", *map_dims), quantiles.astype(float32)),
            "endmember_mean": (("endmember", "wavelength"), endmembers.mean.numpy()),
            "endmember_sd": (("endmember", "wavelength"), endmembers.stddev.numpy()),
            "reconstruction_rmse": (("y", "x"), self._reconstruction_rmse(mean, brightness).astype(float32)),
        }
        if brightness is not None:
            variables["brightness_mean"] = (("y", "x"), brightness.astype(float32))
        return xr.Dataset(variables, coords=self._coords() | {"quantile": list(QUANTILES)}, attrs=self._attributes())

    @one_thread()
    def draws(self, n: int = 500, *, seed: int = 0, y: slice = slice(None), x: slice = slice(None)) -> xr.Dataset:
        """Draws from the posterior of the pixels at rows `y` and columns `x`.

        Variables `abundances` (draw, y, x, endmember), `endmembers` (draw, endmember, wavelength) and, where modelled,
        `brightness` (draw, y, x). Masked pixels are NaN. Memory grows with `n` times the number of pixels.
        """
        if n < 1:
            raise InputError("at least one draw", f"{n}")
        rows, cols = (np.arange(length)[part] for length, part in zip(self.scene.shape[:2], (y, x), strict=True))
        brightness = np.full((n, len(rows), len(cols)), np.nan, dtype=np.float32)
        with seeded(seed):
            endmembers = self._endmembers().sample(torch.Size([n])).numpy()
            abundances = np.full((*brightness.shape, endmembers.shape[1]), np.nan, dtype=np.float32)
            for where, q_abundances, q_brightness in self._tiles(_DRAWN_TILE, rows, cols):
                row, col = (_positions(part, index) for part, index in zip((rows, cols), where, strict=True))
                inside = (row >= 0) & (col >= 0)
                for out, q in ((abundances, q_abundances), (brightness, q_brightness)):
                    if q is not None:
                        out[:, row[inside], col[inside]] = q.sample(torch.Size([n])).numpy()[:, inside]
        variables = {"endmembers": (("draw", "endmember", "wavelength"), endmembers),
                     "abundances": (("draw", "y", "x", "endmember"), abundances)}
        if self._fit.guide.brightness is not None:
            variables["brightness"] = (("draw", "y", "x"), brightness)
        coords = xr.Dataset(coords=self._coords()).isel(y=y, x=x).coords
        return xr.Dataset(variables, coords={**coords, "draw": np.arange(n)}, attrs=self._attributes() | {"draw_seed": seed})

    def to_arviz(self, draws: int = 500, *, seed: int = 0, y: slice = slice(None), x: slice = slice(None)):
        """Draws as ArviZ holds them (InferenceData, or DataTree from ArviZ 1.0): groups posterior and observed_data."""
        from pyro_unmix.arviz import to_arviz  # ArviZ takes seconds to import, and only this needs it

        return to_arviz(self.draws(draws, seed=seed, y=y, x=x), self.scene.reflectance.isel(y=y, x=x))

    def save(self, path: str | os.PathLike) -> None:
        """Write the summary to a NetCDF file, whole or not at all."""
        write_netcdf(self.summary(), path)

    @torch.no_grad()
    def _endmembers(self) -> TorchDistributionMixin:
        return self._fit.guide.endmembers()

    def _reconstruction_rmse(self, mean: np.ndarray, brightness: np.ndarray | None) -> np.ndarray:
        error = np.full(mean.shape[:2], np.nan)
        endmembers = self._endmembers().mean.double()
        for row in range(len(mean)):  # row by row: a reconstruction of the whole scene would be as large as the scene in float64
            mixed = self._fit.model.mixing(torch.as_tensor(mean[row]), endmembers).numpy()
            mixed = mixed if brightness is None else brightness[row, :, None] * mixed
            error[row] = np.sqrt(np.mean((self.scene.reflectance.values[row] - mixed) ** 2, axis=-1))
        return np.where(self.scene.mask.values, error, np.nan)

    def _coords(self) -> dict:
        kept = {key: self.scene.reflectance.coords[key] for key in self.scene.reflectance.coords}
        return kept | {"endmember": self._fit.names}

    def _configuration(self) -> dict:
        """What was fitted, by the names of its parts, and how; `config.json` has their settings too."""
        model, guide = self._fit.model, self._fit.guide
        parts = {"encoder": guide.encoder, "head": guide.head, "abundances": model.abundances, "endmembers": model.endmembers,
                 "mixing": model.mixing, "brightness": model.brightness, "noise": model.noise}
        return {"n_endmembers": model.n_endmembers,
                **{name: None if part is None else type(part).__name__ for name, part in parts.items()},
                "fit": asdict(self._fit.config)}

    def _attributes(self) -> dict:
        fit = self._fit
        return {"program": "pyro_unmix", "version": version("pyro_unmix"), "seed": fit.seed, "scene": self.scene.name,
                "configuration": json.dumps(self._configuration()), "seconds": round(sum(fit.seconds.values()), 3)}


def _positions(part: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Where in `part` each of `index` stands; -1 where it does not."""
    place = np.full(max(part.max(), index.max()) + 1, -1)
    place[part] = np.arange(len(part))
    return place[index]


def write_netcdf(dataset: xr.Dataset, path: str | os.PathLike) -> None:
    """Write a dataset, compressed, whole or not at all."""
    encoding = {name: {"zlib": True, "complevel": 4} for name in dataset.data_vars}
    with atomic_path(path) as temporary:
        dataset.to_netcdf(temporary, engine="h5netcdf", encoding=encoding)


def _check_bands(fit: Fit, scene: Scene) -> None:
    n_bands = fit.guide.endmembers.mean.shape[1]
    if scene.n_bands != n_bands:
        raise InputError(f"a scene of the {n_bands} bands the fit was made on", f"{scene.n_bands} bands")
    if fit.wavelengths is not None and scene.wavelengths is not None:
        apart = np.abs(fit.wavelengths - scene.wavelengths).max()
        if apart > 1.0:
            raise InputError("a scene on the wavelengths of the fit", f"wavelengths up to {apart:.1f} nm away",
                             "resample the scene to the bands of the fit")

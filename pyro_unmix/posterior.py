"""What comes out: summaries in closed form, draws on request."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from scipy import stats

from pyro_unmix.errors import InputError
from pyro_unmix.io.files import atomic_path
from pyro_unmix.numerics import one_thread
from pyro_unmix.scene import Scene
from pyro_unmix.tiles import Tiling

if TYPE_CHECKING:
    from pyro_unmix.fit import Fit

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Rows and columns of the tiles the guide is run over.
_TILE = 128


class Posterior:
    """Abundances, brightness and endmembers of a scene given a fit.

    The guide is run once, tile by tile; kept are its parameters in every pixel, not draws.

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

    @one_thread()
    def __init__(self, fit: Fit, scene: Scene):
        _check_bands(fit, scene)
        self._fit, self.scene = fit, scene
        rows, cols, _ = scene.shape
        k = fit.model.n_endmembers
        self._concentration = np.full((rows, cols, k), np.nan)
        log_brightness = np.full((rows, cols, 2), np.nan)
        tiling = Tiling(scene, _TILE, fit.guide.halo)
        with torch.no_grad():
            for number in range(len(tiling)):
                tiles = tiling.batch([number])
                where = tuple(index.numpy() for index in tiling.rows_and_columns(tiles, [number]))
                abundances, brightness = fit.guide.pixels(tiles)
                self._concentration[where] = abundances.concentration.double().numpy()
                if brightness is not None:
                    log_brightness[where] = torch.stack([brightness.loc, brightness.scale], dim=-1).double().numpy()
            self._log_brightness = log_brightness if fit.guide.brightness is not None else None
            endmembers = fit.guide.endmembers()
            self._endmember_loc = endmembers.mean.double().numpy()
            self._endmember_scale_tril = endmembers.scale_tril.double().numpy()

    @property
    def history(self):
        """How training went: `Fit.history`."""
        return self._fit.history

    def summary(self) -> xr.Dataset:
        """Mean, standard deviation and quantiles of everything, in closed form.

        Marginals of a Dirichlet are Beta distributions. Variables, dimensions and attributes are those of `summary.nc`.
        """
        mask = self.scene.mask.values
        concentration = self._concentration
        total = concentration.sum(axis=-1, keepdims=True)
        mean = concentration / total
        sd = np.sqrt(mean * (1 - mean) / (total + 1))
        quantiles = np.full((len(QUANTILES), *mean.shape), np.nan)
        a = concentration[mask]
        for level, out in zip(QUANTILES, quantiles, strict=True):
            out[mask] = stats.beta.ppf(level, a, total[mask] - a)

        covariance = self._endmember_scale_tril @ self._endmember_scale_tril.swapaxes(-1, -2)
        brightness = None if self._log_brightness is None else np.exp(self._log_brightness @ [1.0, 0.0]
                                                                      + 0.5 * self._log_brightness[..., 1] ** 2)
        map_dims, float32 = ("y", "x", "endmember"), np.float32
        variables = {
            "abundance_mean": (map_dims, mean.astype(float32)),
            "abundance_sd": (map_dims, sd.astype(float32)),
            "abundance_quantile": (("quantile", *map_dims), quantiles.astype(float32)),
            "endmember_mean": (("endmember", "wavelength"), self._endmember_loc.astype(float32)),
            "endmember_sd": (("endmember", "wavelength"),
                             np.sqrt(covariance.diagonal(axis1=-2, axis2=-1)).astype(float32)),
            "reconstruction_rmse": (("y", "x"), self._reconstruction_rmse(mean, brightness).astype(float32)),
        }
        if brightness is not None:
            variables["brightness_mean"] = (("y", "x"), brightness.astype(float32))
        return xr.Dataset(variables, coords=self._coords() | {"quantile": list(QUANTILES)}, attrs=self._attributes())

    def draws(self, n: int = 500, *, seed: int = 0, y: slice = slice(None), x: slice = slice(None)) -> xr.Dataset:
        """Draws from the posterior of the pixels at rows `y` and columns `x`.

        Variables `abundances` (draw, y, x, endmember), `endmembers` (draw, endmember, wavelength) and, where modelled,
        `brightness` (draw, y, x). Masked pixels are NaN. Memory grows with `n` times the number of pixels.
        """
        if n < 1:
            raise InputError("at least one draw", f"{n}")
        random = np.random.default_rng(seed)
        noise = random.standard_normal((n, *self._endmember_loc.shape))
        endmembers = self._endmember_loc + np.einsum("kij,dkj->dki", self._endmember_scale_tril, noise)
        gammas = random.standard_gamma(np.nan_to_num(self._concentration[y, x], nan=1.0)[None].repeat(n, axis=0))
        mask = self.scene.mask.values[y, x]
        abundances = np.where(mask[..., None], gammas / gammas.sum(axis=-1, keepdims=True), np.nan)
        variables = {"endmembers": (("draw", "endmember", "wavelength"), endmembers.astype(np.float32)),
                     "abundances": (("draw", "y", "x", "endmember"), abundances.astype(np.float32))}
        if self._log_brightness is not None:
            loc, scale = np.moveaxis(self._log_brightness[y, x], -1, 0)
            factor = np.exp(loc + scale * random.standard_normal((n, *loc.shape)))
            variables["brightness"] = (("draw", "y", "x"), factor.astype(np.float32))
        coords = xr.Dataset(coords=self._coords()).isel(y=y, x=x).coords
        return xr.Dataset(variables, coords={**coords, "draw": np.arange(n)}, attrs=self._attributes() | {"draw_seed": seed})

    def to_arviz(self, draws: int = 500, *, seed: int = 0, y: slice = slice(None), x: slice = slice(None)):
        """Draws as ArviZ holds them (InferenceData, or DataTree from ArviZ 1.0): groups posterior and observed_data."""
        from pyro_unmix.arviz import to_arviz  # ArviZ takes seconds to import, and only this needs it

        return to_arviz(self.draws(draws, seed=seed, y=y, x=x), self.scene.reflectance.isel(y=y, x=x))

    def save(self, path: str | os.PathLike) -> None:
        """Write the summary to a NetCDF file, whole or not at all."""
        write_netcdf(self.summary(), path)

    def _reconstruction_rmse(self, mean: np.ndarray, brightness: np.ndarray | None) -> np.ndarray:
        error = np.full(mean.shape[:2], np.nan)
        endmembers = torch.as_tensor(self._endmember_loc)
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

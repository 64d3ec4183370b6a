"""What comes out: summaries in closed form, draws on request, and answers to what is asked of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from pyro_unmix import predictive, questions
from pyro_unmix.diagnostics.findings import Finding
from pyro_unmix.diagnostics.residuals import Checks
from pyro_unmix.errors import InputError
from pyro_unmix.io.summary_files import check_output, write_summary
from pyro_unmix.library import SpectralLibrary
from pyro_unmix.numerics import one_thread
from pyro_unmix.pieces import Maps, Piece, derived
from pyro_unmix.priors import MVNEndmembers
from pyro_unmix.scene import Scene
from pyro_unmix.sources import GuideSource
from pyro_unmix.tiles import Tiling

if TYPE_CHECKING:
    from pyro_unmix.fit import Fit
    from pyro_unmix.io import SceneFile

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Draws of the endmembers by which they are named.
_NAMING = 500
_GROUPS = ("posterior", "observed_data", "posterior_predictive", "prior", "log_likelihood")
# Standard deviation of a prior, in units of the endmember's root mean square, below which the endmember is known.
_KNOWN = 0.01


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

    _source: GuideSource
    # Of a larger scene that this is a part of.
    _rows_above = 0

    def __init__(self, fit: Fit, scene: Scene):
        check_bands(fit, scene)
        self._fit, self.scene, self._names = fit, scene, list(fit.names or ())
        self._source, self._seed = GuideSource(fit), fit.seed

    @property
    def history(self):
        """How training went: `Fit.history`."""
        return self._fit.history

    @one_thread()
    def summary(self) -> xr.Dataset:
        """Mean, standard deviation and quantiles; variables, dimensions and attributes are those of `summary.nc`."""
        maps = self._maps(QUANTILES, khat=self._source.weighted)
        return self.shared_summary(self.scene.reflectance.coords, *questions.looked_at(self.scene, maps)).assign(self.named(maps))

    def shared_summary(self, coords: Mapping, scene: Scene, maps: Maps) -> xr.Dataset:
        """The summary but for its maps, of a scene with these coordinates of which `scene` is looked at and `maps` are known."""
        common, found = self._source.common(), self._findings(scene, maps)
        variables = {name: (("endmember", "wavelength"), values.numpy()) for name, values in
                     (("endmember_mean", common.endmembers), ("endmember_sd", common.endmember_sd))}
        attributes = {"intervals": found[-1].name, "findings": "\n".join(map(str, found))}
        named = {"endmember": self._names, "quantile": list(QUANTILES)}
        return xr.Dataset(variables, coords={**coords, **named}, attrs=self._attributes() | attributes)

    def named(self, maps: Maps) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """Maps at `QUANTILES` as variables of a summary: dimensions and values by name."""
        abundances, plane = ("y", "x", "endmember"), ("y", "x")
        variables = {
            "abundance_mean": (abundances, maps.mean),
            "abundance_sd": (abundances, maps.sd),
            "abundance_quantile": (("quantile", *abundances), maps.quantiles),
            "reconstruction_rmse": (plane, self._reconstruction_rmse(maps, self._source.common().endmembers)),
        }
        variables |= {name: (plane, values) for name, values in (("brightness_mean", maps.brightness), ("khat", maps.khat))
                      if values is not None}
        return {name: (dims, values.astype(np.float32)) for name, (dims, values) in variables.items()}

    @one_thread()
    def draws(self, n: int = 500, *, seed: int = 0, y: slice = slice(None), x: slice = slice(None)) -> xr.Dataset:
        """Draws from the posterior of the pixels at rows `y` and columns `x`.

        Variables `abundances` (draw, y, x, endmember), `endmembers` (draw, endmember, wavelength), `noise_scale` (draw,
        wavelength) and, where modelled, `brightness` (draw, y, x). Masked pixels are NaN. Memory grows with `n` times the number
        of pixels. Those of a part are a part of those of the scene.
        """
        if n < 1:
            raise InputError("at least one draw", f"{n}")
        rows, cols = (np.arange(length)[part] for length, part in zip(self.scene.shape[:2], (y, x), strict=True))
        endmembers, noise_scale = self._source.shared(n, seed)
        brightness = np.full((n, len(rows), len(cols)), np.nan, dtype=np.float32)
        abundances = np.full((*brightness.shape, endmembers.shape[1]), np.nan, dtype=np.float32)
        for piece in self._pieces(self._source.drawn_tile, rows, cols, seed):
            row, col = (_positions(part, index) for part, index in ((rows, piece.rows), (cols, piece.cols)))
            inside = (row >= 0) & (col >= 0)
            for out, drawn in zip((abundances, brightness), piece.sample(n), strict=True):
                if drawn is not None:
                    out[:, row[inside], col[inside]] = drawn.numpy()[:, inside]
        variables = {"endmembers": (("draw", "endmember", "wavelength"), endmembers.numpy()),
                     "noise_scale": (("draw", "wavelength"), noise_scale.numpy()),
                     "abundances": (("draw", "y", "x", "endmember"), abundances)}
        if self._fit.guide.brightness is not None:
            variables["brightness"] = (("draw", "y", "x"), brightness)
        coords = xr.Dataset(coords=self._coords()).isel(y=y, x=x).coords
        return xr.Dataset(variables, coords={**coords, "draw": np.arange(n)}, attrs=self._attributes() | {"draw_seed": seed})

    def to_arviz(self, draws: int = 500, *, seed: int = 0, y: slice = slice(None), x: slice = slice(None),
                 groups: Sequence[str] = ("posterior", "observed_data")):
        """Draws as ArviZ holds them (InferenceData, or DataTree from ArviZ 1.0).

        `groups` may also name "posterior_predictive" (spectra simulated from the draws), "prior" (as many draws from the model's
        priors) and "log_likelihood" (of the spectrum of each pixel, (draw, y, x)).

        Raises
        ------
        InputError
            A group of another name, or none.
        """
        from pyro_unmix.arviz import to_arviz  # ArviZ takes seconds to import, and only this needs it

        if not groups or (unknown := sorted(set(groups) - set(_GROUPS))):
            raise InputError(f"groups among {', '.join(_GROUPS)}", ", ".join(unknown) if groups else "none")
        drawn, observed = self.draws(draws, seed=seed, y=y, x=x), self.scene.reflectance.isel(y=y, x=x)
        model = self._fit.model
        make = {"posterior": lambda: drawn,
                "observed_data": lambda: observed.to_dataset(name="reflectance"),
                "posterior_predictive": lambda: predictive.simulate_spectra(model, drawn, seed=derived(seed, 1)),
                "prior": lambda: predictive.prior_draws(model, drawn, seed=derived(seed, 2)),
                "log_likelihood": lambda: predictive.log_likelihoods(model, drawn, observed)}
        return to_arviz({group: make[group]() for group in groups})

    def save(self, path: str | os.PathLike) -> None:
        """Write the summary, whole or not at all: `.nc` or `.zarr`, or its maps as `.tif` or `.hdr` (ENVI).

        Maps keep the georeference of the scene.

        Raises
        ------
        InputError
            Another extension, a package that the format needs is missing, or a place that cannot be written to.
        """
        path = check_output(path)
        write_summary(self.summary(), path)

    @one_thread()
    def exceedance(self, threshold: float) -> xr.DataArray:
        """P(abundance > `threshold`), (y, x, endmember); NaN where masked.

        Raises
        ------
        InputError
            A threshold that is not between 0 and 1.
        """
        if not 0 < threshold < 1:
            raise InputError("a threshold between 0 and 1", f"{threshold}")
        rows, cols, _ = self.scene.shape
        found = np.full((rows, cols, len(self._names)), np.nan, dtype=np.float32)
        for piece in self._pieces(self._source.drawn_tile, np.arange(rows), np.arange(cols), self._seed):
            found[piece.rows, piece.cols] = piece.exceedance(threshold).numpy()
        return xr.DataArray(found, dims=("y", "x", "endmember"), name="exceedance", attrs={"threshold": threshold},
                            coords={**self.scene.mask.coords, "endmember": self._names})

    @one_thread()
    def correlation(self, y: int, x: int) -> xr.DataArray:
        """Correlation (endmember, other) of the abundances of the pixel at row `y` and column `x`, from 1000 draws.

        Raises
        ------
        InputError
            Not a pixel in use.
        """
        self._check_pixel(y, x)
        piece, = self._pieces(self._source.drawn_tile, np.array([y]), np.array([x]), self._seed)
        here = (piece.rows == y) & (piece.cols == x)
        draws = piece.sample(1000)[0].numpy()[:, here][:, 0].astype(np.float64)
        with np.errstate(invalid="ignore"):  # of an abundance that does not vary there is none
            found = np.corrcoef(draws.T)
        return xr.DataArray(found, dims=("endmember", "other"), name="correlation",
                            coords={"endmember": self._names, "other": self._names})

    @one_thread()
    def pixel_endmembers(self, y: int, x: int, draws: int = 200, *, seed: int = 0) -> xr.Dataset:
        """The endmembers of the pixel at row `y` and column `x`, where they differ from pixel to pixel.

        `endmember_mean` and `endmember_sd` (endmember, wavelength), from so many draws of the abundances; given each the
        endmembers of the pixel are normal in closed form (`Variability.of_pixel`). An endmember that the pixel does not hold is
        as the scene has it.

        Raises
        ------
        InputError
            A model without variability, or not a pixel in use.
        """
        if self._fit.model.variability is None:
            raise InputError("a model whose endmembers vary", "one in which all pixels have the same",
                             "fit a model with variability=..., or see `endmember_mean` of the summary")
        self._check_pixel(y, x)
        drawn = self.draws(draws, seed=seed, y=slice(y, y + 1), x=slice(x, x + 1))
        return predictive.pixel_endmembers(self._fit.model, drawn, self.scene.reflectance.values[y, x])

    @one_thread()
    def most_uncertain(self, n: int = 10) -> pd.DataFrame:
        """The `n` abundances of the widest 90 % interval, widest first: columns y, x (row and column), endmember, mean, sd, low,
        high.

        Raises
        ------
        InputError
            Fewer than one.
        """
        maps = self._maps((0.05, 0.95))
        return questions.widest(maps, self._names, n)

    def identify(self, library: SpectralLibrary, n: int = 3) -> pd.DataFrame:
        """What the endmembers may be: columns endmember, material, probability, angle; the `n` most probable of each.

        The probability of a material is the share of draws of the endmember to which it is the nearest in spectral angle; `angle`
        is that to the mean, in radians.

        Raises
        ------
        InputError
            A library that cannot be brought to the bands of the scene, or fewer than one material.
        """
        endmembers = self._source.shared(_NAMING, self._seed)[0]
        return questions.nearest(endmembers.numpy(), self._names, library, self.scene.wavelengths, n)

    def region_mean(self, region: np.ndarray | xr.DataArray, draws: int = 300) -> xr.Dataset:
        """Mean abundances over a region: only draws that share endmembers know them, see `RefinedPosterior.region_mean`."""
        raise InputError("a posterior of draws that share endmembers, without which errors of a mean come out too small",
                         "that of a guide", "call pyro_unmix.refine(fit, scene)")

    @one_thread()
    def checks(self) -> Checks:
        """What the residuals of the whole scene say about its unmixing (`diagnostics.check_residuals`).

        Abundances and brightness are the means. So are the endmembers, but moved to where the scene wants them, as far as their
        standard deviations allow.

        Raises
        ------
        InputError
            Mixing that is not linear, noise without a covariance, or no more bands than endmembers.
        """
        maps = self._maps((0.5,))
        return questions.checks(self._fit.model, self.scene, maps, self._source.common())

    @one_thread()
    def findings(self) -> list[Finding]:
        """What is wrong, what to do, and last whether intervals can be trusted (`diagnostics.findings`).

        Of scenes of more than 40,000 pixels, rows spread over them are looked at. A guide from `transfer` compares the scene with
        simulated ones that it was not trained on.
        """
        return self._findings(*questions.looked_at(self.scene, self._maps((0.5,))))

    def _check_pixel(self, y: int, x: int) -> None:
        rows, cols, _ = self.scene.shape
        if not (0 <= y < rows and 0 <= x < cols and self.scene.mask.values[y, x]):
            raise InputError(f"a pixel in use, of {rows} rows and {cols} columns", f"row {y}, column {x}")

    def _pieces(self, size: int, rows: np.ndarray, cols: np.ndarray, seed: int) -> Iterator[Piece]:
        """Pieces, `size` pixels wide, that reach into `rows` and `cols`."""
        tiling = self._tiling(size)
        for number, (i, j) in enumerate(tiling.corners):
            if ((i <= rows) & (rows < i + tiling.height)).any() and ((j <= cols) & (cols < j + tiling.width)).any():
                tiles = tiling.batch([number])
                row, col = (index.numpy() for index in tiling.rows_and_columns(tiles, [number]))
                yield self._source.piece(tiles, row, col, derived(seed, i + self._rows_above, j))

    def _tiling(self, size: int) -> Tiling:
        return Tiling(self.scene, size, self._fit.guide.halo)

    def _maps(self, levels: Sequence[float], *, khat: bool = False) -> Maps:
        rows, cols, _ = self.scene.shape
        pieces = self._pieces(self._source.tile, np.arange(rows), np.arange(cols), self._seed)
        with_brightness = self._fit.guide.brightness is not None
        return Maps.of(pieces, (rows, cols, len(self._names)), levels, brightness=with_brightness, khat=khat)

    def _reconstruction_rmse(self, maps: Maps, endmembers: Tensor) -> np.ndarray:
        error = np.full(maps.mean.shape[:2], np.nan)
        endmembers, abundances = endmembers.float(), torch.from_numpy(maps.mean.astype(np.float32))
        light = None if maps.brightness is None else torch.from_numpy(maps.brightness.astype(np.float32))
        # Row by row: a reconstruction of the whole scene would be as large as the scene.
        for row, spectra in enumerate(self.scene.reflectance.values):
            brightness = None if light is None else light[row]
            left = spectra - predictive.mean_spectrum(self._fit.model, abundances[row], endmembers, brightness).numpy()
            error[row] = np.sqrt(np.einsum("xl,xl->x", left, left) / left.shape[1])
        return np.where(self.scene.mask.values, error, np.nan)

    def _findings(self, scene: Scene, maps: Maps) -> list[Finding]:
        model, common, prior_sd = self._fit.model, self._source.common(), None
        simulated = self._fit.simulated
        # A transferred guide has not learned endmembers from this scene.
        if simulated is None and self._source.learned and isinstance(model.endmembers, MVNEndmembers):
            prior_sd = model.endmembers.stddev
            known = prior_sd.mean(dim=1) < _KNOWN * common.endmembers.square().mean(dim=1).sqrt()
            prior_sd = prior_sd.masked_fill(known[:, None], torch.inf)  # what is known cannot be narrowed
        departures = None if simulated is None else simulated.findings(self._fit, scene, maps)
        found = questions.verdict(model, scene, maps, common, prior_sd, self._names, departures)
        return found if self._source.calibrated else [*found[:-1], *questions.UNCALIBRATED]

    def _coords(self) -> dict:
        kept = {key: self.scene.reflectance.coords[key] for key in self.scene.reflectance.coords}
        return kept | {"endmember": self._names}

    def _configuration(self) -> dict:
        """What was fitted, by the names of its parts, and how; `config.json` has their settings too."""
        model, guide = self._fit.model, self._fit.guide
        parts = {"encoder": guide.encoder, "head": guide.head, "abundances": model.abundances, "endmembers": model.endmembers,
                 "mixing": model.mixing, "brightness": model.brightness, "noise": model.noise, "variability": model.variability}
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


def check_bands(fit: Fit, scene: Scene | SceneFile) -> None:
    """Refuse a scene of other bands than the fit."""
    n_bands = fit.guide.endmembers.mean.shape[1]
    if scene.n_bands != n_bands:
        raise InputError(f"a scene of the {n_bands} bands the fit was made on", f"{scene.n_bands} bands")
    if fit.wavelengths is not None and scene.wavelengths is not None:
        apart = np.abs(fit.wavelengths - scene.wavelengths).max()
        if apart > 1.0:
            raise InputError("a scene on the wavelengths of the fit", f"wavelengths up to {apart:.1f} nm away",
                             "resample the scene to the bands of the fit")

"""A posterior brought closer to the exact one than a guide can."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr

from pyro_unmix.errors import InputError
from pyro_unmix.numerics import one_thread, seeded
from pyro_unmix.posterior import QUANTILES, Posterior
from pyro_unmix.progress import StageProgress
from pyro_unmix.scene import Scene
from pyro_unmix.sources import DrawnSource
from pyro_unmix.ways import best_source

if TYPE_CHECKING:
    from pyro_unmix.fit import Fit


class RefinedPosterior(Posterior):
    """As `Posterior`, from draws: made by `refine`.

    Every draw's endmembers are those its abundances were made with, so that draws are joint.

    Attributes
    ----------
    method
        "exact": given draws of what pixels share from their posterior, exact draws of every pixel. "cut": given the guide's
        endmembers, a bootstrap of the residuals. "re-weighted": draws from around the guide, weighted.
    """

    _source: DrawnSource

    def __init__(self, fit: Fit, scene: Scene, source: DrawnSource, *, seed: int = 0):
        super().__init__(fit, scene)
        self._source, self._seed = source, seed

    @property
    def method(self) -> str:
        return self._source.method

    @one_thread()
    def region_mean(self, region: np.ndarray | xr.DataArray, draws: int = 300) -> xr.Dataset:
        """Mean abundances over the pixels of a region.

        All pixels of a draw share its endmembers, so that their errors do not average out. The standard deviation is known to one
        part in the square root of twice the number of shared draws: a ninth for 40.

        Parameters
        ----------
        region
            `(y, x)`, True where a pixel belongs to it. Masked pixels are left out.
        draws
            Of the mean.

        Returns
        -------
        found
            `abundance_mean`, `abundance_sd` (endmember) and `abundance_quantile` (quantile, endmember); attribute `pixels`: how
            many they are.

        Raises
        ------
        InputError
            A region of another shape or without a pixel in use, no draws, or a posterior that is re-weighted.
        """
        if not self._source.joint:
            raise InputError("draws in which pixels err together", "re-weighted draws of a guide",
                             "fit a model with exact draws: linear mixing, Dirichlet abundances, diagonal noise and an MVN prior")
        region = np.asarray(region)
        if region.shape != self.scene.shape[:2] or region.dtype != bool:
            raise InputError(f"a region of True and False, shape {self.scene.shape[:2]}", f"{region.dtype}, shape {region.shape}")
        region = region & self.scene.mask.values
        if not region.any() or draws < 1:
            raise InputError("a region with a pixel in use, and at least one draw", f"{region.sum()} pixels and {draws} draws")
        total = np.zeros((draws, self._fit.model.n_endmembers))
        rows, cols = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
        for piece in self._pieces(self._source.drawn_tile, rows, cols, self._seed):
            total += piece.sample(draws)[0][:, region[piece.rows, piece.cols]].double().sum(dim=1).numpy()
        means = total / total.sum(axis=1, keepdims=True)
        return xr.Dataset({"abundance_mean": ("endmember", means.mean(axis=0)), "abundance_sd": ("endmember", means.std(axis=0)),
                           "abundance_quantile": (("quantile", "endmember"), np.quantile(means, QUANTILES, axis=0))},
                          coords={"endmember": self._names, "quantile": list(QUANTILES)}, attrs={"pixels": int(region.sum())})

    def _attributes(self) -> dict:
        source = self._source
        return super()._attributes() | {"refined": source.method, "refined_seed": self._seed, "refined_draws": source.n_draws,
                                        "refined_shared_draws": len(source.endmembers)}


@one_thread()
@torch.no_grad()
def refine(fit: Fit, scene: Scene, *, shared_draws: int = 40, draws: int = 300, seed: int = 0,
           progress: bool = True) -> RefinedPosterior:
    """The posterior of a scene from draws, as close to the exact one as the model allows.

    Where mixing is linear, abundances are Dirichlet, endmembers are normal and pixels err independently, draws are exact: of what
    pixels share those that the fit has made, or else by Gibbs sampling of this scene; of every pixel independent ones. Where
    neighbours err together in such a model, the posterior is cut. All other models are re-weighted. `RefinedPosterior.method`
    says which.

    Parameters
    ----------
    scene
        The one fitted, or another of the same sensor.
    shared_draws
        Of endmembers and noise.
    draws
        Of every pixel, an equal part of them given each of the shared draws. More can be asked for later.
    seed
        Same seed, same result.
    progress
        Show a bar, or lines in a log, of the sampling. Pixels are drawn when something is asked for.

    Raises
    ------
    InputError
        The scene has other bands than the fit, fewer than 2 shared draws, or fewer draws than those.
    """
    if not 2 <= shared_draws <= draws:
        raise InputError("at least 2 shared draws, and as many draws or more", f"{shared_draws} and {draws}")
    fit.posterior(scene)  # refuses a scene of other bands
    with seeded(seed), StageProgress(progress) as bar:
        source = best_source(fit, scene, shared_draws, draws, bar)
    return RefinedPosterior(fit, scene, source, seed=seed)

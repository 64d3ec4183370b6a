"""Normal noise of the bands: independent, smooth over wavelength, or of a few factors."""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_unmix.errors import InputError
from pyro_unmix.noise.band_noise import BandNoise, own


class DiagonalNoise(BandNoise):
    """Independent Gaussian noise in every band, of a scale that is learned. Parameters: those of `BandNoise`."""

    def cholesky(self, noise_scale: Tensor) -> Tensor:
        """Standard deviations `(n_bands,)`."""
        return self.scales(noise_scale)

    def likelihood(self, mean: Tensor, noise_scale: Tensor) -> TorchDistributionMixin:
        """Distribution of spectra around `mean` `(..., n_bands)`."""
        return dist.Normal(mean, self.cholesky(noise_scale)).to_event(1)


class SmoothNoise(BandNoise):
    """Gaussian noise of which a share is stationary and smooth over wavelength, the rest independent from band to band.

    Covariance D (share R + (1 - share) I) D, D = diag(noise_scale), R the Matern-3/2 correlation of `smooth_correlation`.

    Parameters
    ----------
    scale, spread, floor
        Those of `BandNoise`.
    length_scale
        Of the correlation, in nm.
    share
        Of the variance of a band that is correlated with other bands, from 0 and below 1.
    wavelengths
        `(n_bands,)` in nm, in any order. None: bands are taken as 10 nm apart.
    """

    wavelengths: Tensor

    def __init__(self, scale: Tensor | np.ndarray | float | None = None, length_scale: float = 100.0, share: float = 0.9,
                 wavelengths: Tensor | np.ndarray | None = None, spread: float = 1.0, floor: float = 1e-6):
        super().__init__(scale, spread, floor)
        if not (0 < length_scale < math.inf and 0 <= share < 1):
            raise InputError("a positive length_scale and a share from 0 and below 1",
                             f"length_scale {length_scale}, share {share}", "what is not shared keeps the covariance invertible")
        self.settings |= {"length_scale": float(length_scale), "share": float(share)}
        wavelengths = own(wavelengths, torch.float64)
        if wavelengths.ndim > 1 or (wavelengths.ndim and not wavelengths.isfinite().all()):
            raise InputError("finite wavelengths (n_bands,) in nm", f"an array of shape {tuple(wavelengths.shape)}")
        self.register_buffer("wavelengths", wavelengths)

    def prior(self, n_bands: int) -> TorchDistributionMixin:
        """Distribution of the noise scale, event shape `(n_bands,)`."""
        self._check_wavelengths(n_bands)
        return super().prior(n_bands)

    def _check_wavelengths(self, n_bands: int) -> None:
        if self.wavelengths.ndim and len(self.wavelengths) != n_bands:
            raise InputError(f"{n_bands} wavelengths, one a band", f"{len(self.wavelengths)}")

    def cholesky(self, noise_scale: Tensor) -> Tensor:
        """Lower factor `(n_bands, n_bands)` of the covariance."""
        share, n_bands = self.settings["share"], noise_scale.shape[-1]
        self._check_wavelengths(n_bands)
        wavelengths = self.wavelengths if self.wavelengths.ndim else 10.0 * torch.arange(n_bands).to(self.wavelengths)
        smooth = smooth_correlation(wavelengths, self.settings["length_scale"])
        # Factorised in float64: in float32 a smooth correlation of 200 bands is no longer positive definite.
        factor = torch.linalg.cholesky(share * smooth + (1 - share) * torch.eye(n_bands).to(smooth))
        return self.scales(noise_scale)[..., None] * factor.to(noise_scale.dtype)

    def likelihood(self, mean: Tensor, noise_scale: Tensor) -> TorchDistributionMixin:
        """Distribution of spectra around `mean` `(..., n_bands)`."""
        # Not validated: the check would write the factor out for every pixel.
        return dist.MultivariateNormal(mean, scale_tril=self.cholesky(noise_scale), validate_args=False)


class LowRankNoise(BandNoise):
    """Gaussian noise of a few factors that all bands share, and independent noise in every band.

    Covariance D (loadings^T loadings + I) D, D = diag(noise_scale): the scale is that of the independent part.

    Parameters
    ----------
    scale, spread, floor
        Those of `BandNoise`, of the independent part.
    loadings
        `(rank, n_bands)`, in units of the scale. None: to be read from a saved state.
    """

    loadings: Tensor

    def __init__(self, scale: Tensor | np.ndarray | float | None = None, loadings: Tensor | np.ndarray | None = None,
                 spread: float = 1.0, floor: float = 1e-6):
        super().__init__(scale, spread, floor)
        loadings = own(loadings, torch.float32)
        if loadings.ndim and (loadings.ndim != 2 or not len(loadings) or not loadings.isfinite().all()):
            raise InputError("finite loadings (rank, n_bands) of rank 1 or more", f"an array of shape {tuple(loadings.shape)}")
        self.register_buffer("loadings", loadings)

    def filled(self, deviation: Tensor | np.ndarray, floor: float) -> BandNoise:
        """A copy whose scale is the part of `deviation` `(n_bands,)` that the loadings leave; otherwise as in `BandNoise`.

        Raises
        ------
        InputError
            No loadings, or of another number of bands; a deviation or a floor that is not positive.
        """
        deviation = own(deviation, torch.float64)
        self._check_loadings(len(deviation))
        return super().filled(deviation / (1 + self.loadings.to(deviation).square().sum(dim=0)).sqrt(), floor)

    def prior(self, n_bands: int) -> TorchDistributionMixin:
        """Distribution of the noise scale, event shape `(n_bands,)`."""
        self._check_loadings(n_bands)
        return super().prior(n_bands)

    def _check_loadings(self, n_bands: int) -> None:
        if self.loadings.shape[-1:] != (n_bands,):
            got = f"shape {tuple(self.loadings.shape)}" if self.loadings.ndim else "none"
            raise InputError(f"loadings (rank, {n_bands})", got,
                             "only the scale is measured when a model is fitted: give LowRankNoise its loadings")

    def cholesky(self, noise_scale: Tensor) -> Tensor:
        """Lower factor `(n_bands, n_bands)` of the covariance."""
        self._check_loadings(noise_scale.shape[-1])
        loadings = self.loadings.double()
        factor = torch.linalg.cholesky(loadings.T @ loadings + torch.eye(loadings.shape[1]).to(loadings))
        return self.scales(noise_scale)[..., None] * factor.to(noise_scale.dtype)

    def likelihood(self, mean: Tensor, noise_scale: Tensor) -> TorchDistributionMixin:
        """Distribution of spectra around `mean` `(..., n_bands)`."""
        deviation = self.scales(noise_scale)
        return dist.LowRankMultivariateNormal(mean, deviation[..., None] * self.loadings.T.to(deviation), deviation.square(),
                                              validate_args=False)


def smooth_correlation(wavelengths: Tensor, length_scale: Tensor | float) -> Tensor:
    """Matern-3/2 correlation `(n_bands, n_bands)` of bands at `wavelengths` `(n_bands,)`.

    Rasmussen and Williams (2006), Gaussian Processes for Machine Learning, eq. 4.17.
    """
    scaled = math.sqrt(3.0) * (wavelengths[:, None] - wavelengths).abs() / length_scale
    return (1 + scaled) * (-scaled).exp()

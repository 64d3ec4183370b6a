"""What kinds of noise have in common."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_unmix.errors import InputError


class BandNoise(nn.Module):
    """Noise whose scale in every band is learned: what all kinds have in common.

    They say what `likelihood` is, and `cholesky` where there is a covariance to be whitened by; `noise_scale` is the latent site
    of that name, of shape `(n_bands,)`. It is the standard deviation where noise is normal.

    Parameters
    ----------
    scale
        `(n_bands,)` or one number: where the prior of the noise scale is centred, in the unit of the scene. None:
        measured from the scene when fitted.
    spread
        Standard deviation of the log of the scale under its prior.
    floor
        Least scale, in the unit of the scene. Keeps bands without any variation from growing an infinite density.
    """

    scale: Tensor
    # Whether the density of a spectrum falls with its distance from the mixture, each band in units of its scale.
    elliptical = True

    def __init__(self, scale: Tensor | np.ndarray | float | None = None, spread: float = 1.0, floor: float = 1e-6):
        super().__init__()
        self.settings: dict[str, Any] = {}
        self.register_buffer("scale", None)
        self._set(scale, spread, floor)

    def _set(self, scale: Tensor | np.ndarray | float | None, spread: float, floor: float) -> None:
        if not (spread > 0 and floor > 0):
            raise InputError("a positive spread and a positive floor of the noise", f"spread {spread}, floor {floor}")
        scale = own(scale, torch.float32)
        if (scale <= 0).any():
            raise InputError("positive noise scales", f"a smallest value of {scale.min():g}")
        self.settings |= {"spread": spread, "floor": floor}
        self.scale = scale

    def filled(self, deviation: Tensor | np.ndarray, floor: float) -> BandNoise:
        """A copy, of the same class, whose scale is measured; all else is kept.

        Parameters
        ----------
        deviation
            `(n_bands,)`: standard deviation of what the mixture leaves of the spectra, in the unit of the scene.
        floor
            Least standard deviation, in the same unit.

        Raises
        ------
        InputError
            A deviation or a floor that is not positive.
        """
        noise = copy.deepcopy(self)
        noise._set(deviation, self.settings["spread"], floor)
        return noise

    def measured(self, residual: Tensor | np.ndarray, floor: float) -> BandNoise:
        """`filled` from what the mixture leaves of spectra, `residual` `(n_pixels, n_bands)`."""
        return self.filled(np.maximum(np.sqrt(np.mean(np.square(residual), axis=0)), floor), floor)

    def prior(self, n_bands: int) -> TorchDistributionMixin:
        """Distribution of the noise scale, event shape `(n_bands,)`."""
        if self.scale.ndim and self.scale.shape != (n_bands,):
            raise InputError(f"{n_bands} noise scales, one a band", f"shape {tuple(self.scale.shape)}")
        return dist.LogNormal(self.scale.log().expand(n_bands), self.settings["spread"]).to_event(1)

    def cholesky(self, noise_scale: Tensor) -> Tensor:
        """Lower factor `(n_bands, n_bands)` of the covariance, or its diagonal `(n_bands,)` where bands are independent.

        Not implemented where spectra are not normal, so that whitened residuals would not be either.
        """
        raise NotImplementedError

    def likelihood(self, mean: Tensor, noise_scale: Tensor) -> TorchDistributionMixin:
        """Distribution of spectra around `mean` `(..., n_bands)`."""
        raise NotImplementedError

    def scales(self, noise_scale: Tensor) -> Tensor:
        """`noise_scale` `(n_bands,)`, kept above the floor."""
        return (noise_scale.square() + self.settings["floor"] ** 2).sqrt()


def own(values: Tensor | np.ndarray | float | None, dtype: torch.dtype) -> Tensor:
    """A copy, which arrays that are read-only need; not a number where nothing was given."""
    if isinstance(values, Tensor):
        return values.detach().to(dtype, copy=True)
    return torch.as_tensor(np.array(math.nan if values is None else values), dtype=dtype)

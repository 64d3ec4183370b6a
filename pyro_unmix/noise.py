"""How a spectrum departs from its mixture: brightness of the pixel, noise of the bands."""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_unmix.errors import InputError


class PixelBrightness(nn.Module):
    """One positive factor a pixel: shading, slope, grain size. Log-normal around one.

    Parameters
    ----------
    scale
        Standard deviation of the log of the factor. None: measured from the scene when fitted.
    """

    scale: Tensor

    def __init__(self, scale: float | None = None):
        super().__init__()
        if scale is not None and not 0 < scale < 10:
            raise InputError("a brightness scale between 0 and 10 (standard deviation of the logarithm)", f"{scale}")
        self.settings = {"scale": None if scale is None else float(scale)}
        self.register_buffer("scale", torch.tensor(math.nan if scale is None else float(scale)))

    def prior(self) -> dist.LogNormal:
        """Distribution of one pixel's factor, event shape `()`."""
        return dist.LogNormal(torch.zeros_like(self.scale), self.scale)


class DiagonalNoise(nn.Module):
    """Independent Gaussian noise in every band, of a scale that is learned.

    Parameters
    ----------
    scale
        `(n_bands,)` or one number: where the prior of the noise standard deviation is centred, in the unit of the
        scene. None: measured from the scene when fitted.
    spread
        Standard deviation of the log of the scale under its prior.
    floor
        Least standard deviation, in the unit of the scene. Keeps bands without any variation from growing an infinite density.
    """

    scale: Tensor

    def __init__(self, scale: Tensor | np.ndarray | float | None = None, spread: float = 1.0, floor: float = 1e-6):
        super().__init__()
        if not (spread > 0 and floor > 0):
            raise InputError("a positive spread and a positive floor of the noise", f"spread {spread}, floor {floor}")
        self.settings = {"spread": spread, "floor": floor}
        scale = torch.as_tensor(math.nan if scale is None else scale, dtype=torch.float32)
        if (scale <= 0).any():
            raise InputError("positive noise scales", f"a smallest value of {scale.min():g}")
        self.register_buffer("scale", scale)

    def prior(self, n_bands: int) -> TorchDistributionMixin:
        """Distribution of the noise scale, event shape `(n_bands,)`."""
        if self.scale.ndim and self.scale.shape != (n_bands,):
            raise InputError(f"{n_bands} noise scales, one a band", f"shape {tuple(self.scale.shape)}")
        return dist.LogNormal(self.scale.log().expand(n_bands), self.settings["spread"]).to_event(1)

    def likelihood(self, mean: Tensor, noise_scale: Tensor) -> TorchDistributionMixin:
        """Distribution of spectra around `mean` `(..., n_bands)`."""
        scale = (noise_scale.square() + self.settings["floor"] ** 2).sqrt()
        return dist.Normal(mean, scale).to_event(1)

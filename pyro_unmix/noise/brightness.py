"""One factor a pixel that all its bands share."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
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

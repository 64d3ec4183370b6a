"""A mixture that is scattered once more."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_unmix.mixing.base import CoefficientMixing


class PostNonlinear(CoefficientMixing):
    """Polynomial post-nonlinear mixing: x + b x^2, band by band, of the linear mixture x.

    A pure pixel is not its endmember m, but m + b m^2: endmembers are spectra before light is scattered again.

    Source: Altmann, Halimi, Dobigeon and Tourneret (2012), Supervised nonlinear spectral unmixing using a postnonlinear mixing
    model for hyperspectral imagery, IEEE Transactions on Image Processing 21(6). There b is one number a pixel, here one a scene.

    Parameters
    ----------
    b
        From -0.5, where brighter is still brighter, to 1. None: measured from the scene when fitted.
    """

    name, bounds = "b", (-0.5, 1.0)

    def __init__(self, b: float | None = None):
        super().__init__(b)

    def forward(self, abundances: Tensor, endmembers: Tensor) -> Tensor:
        mixed = torch.matmul(abundances, endmembers)
        return mixed + self.coefficient * mixed.square()

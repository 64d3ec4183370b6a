"""Light that meets two materials."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_unmix.mixing.base import CoefficientMixing, Mixing


class Fan(Mixing):
    """Bilinear mixing: light that has met two materials adds the product of their spectra.

    sum_k z_k M_k + sum_{i<j} z_i z_j M_i M_j, band by band. A pure pixel is its endmember.

    Source: Fan, Hu, Miller and Li (2009), Comparative study between a new nonlinear model and common linear model for analysing
    laboratory simulated-forest hyperspectral data, International Journal of Remote Sensing 30(11).
    """

    def forward(self, abundances: Tensor, endmembers: Tensor) -> Tensor:
        return torch.matmul(abundances, endmembers) + _products(abundances, endmembers)


class GeneralizedBilinear(CoefficientMixing):
    """Bilinear mixing whose products count less: `Linear` at gamma = 0, `Fan` at 1.

    sum_k z_k M_k + gamma sum_{i<j} z_i z_j M_i M_j, band by band. A pure pixel is its endmember. The source has a gamma_ij for
    every pair of endmembers in every pixel; here it is one number.

    Source: Halimi, Altmann, Dobigeon and Tourneret (2011), Nonlinear unmixing of hyperspectral images using a generalized
    bilinear model, IEEE TGRS 49(11).

    Parameters
    ----------
    gamma
        From 0 to 1. None: measured from the scene when fitted.
    """

    name, bounds = "gamma", (0.0, 1.0)

    def __init__(self, gamma: float | None = None):
        super().__init__(gamma)

    def forward(self, abundances: Tensor, endmembers: Tensor) -> Tensor:
        return torch.matmul(abundances, endmembers) + self.coefficient * _products(abundances, endmembers)


def _products(abundances: Tensor, endmembers: Tensor) -> Tensor:
    """sum_{i<j} z_i z_j M_i M_j, by the square of a sum: not a term for every pair."""
    return 0.5 * (torch.matmul(abundances, endmembers).square() - torch.matmul(abundances.square(), endmembers.square()))

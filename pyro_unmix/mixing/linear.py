"""Materials side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_unmix.mixing.base import Mixing


class Linear(Mixing):
    """The linear mixing model: a pixel is the abundance-weighted mean of its endmembers.

    Source: Keshava and Mustard (2002), Spectral unmixing, IEEE Signal Processing Magazine 19(1), eq. 1.
    """

    def forward(self, abundances: Tensor, endmembers: Tensor) -> Tensor:
        return torch.matmul(abundances, endmembers)

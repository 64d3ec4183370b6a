"""How materials combine into one spectrum."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """The linear mixing model: a pixel is the abundance-weighted mean of its endmembers.

    Source: Keshava and Mustard (2002), Spectral unmixing, IEEE Signal Processing Magazine 19(1), eq. 1.
    """

    settings: dict = {}

    def forward(self, abundances: Tensor, endmembers: Tensor) -> Tensor:
        """Mix `abundances` `(..., n_endmembers)` of `endmembers` `(n_endmembers, n_bands)` into `(..., n_bands)`."""
        return torch.matmul(abundances, endmembers)

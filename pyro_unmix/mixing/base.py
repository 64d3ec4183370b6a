"""What mixings have in common."""

from __future__ import annotations

import math
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from pyro_unmix.errors import InputError


class Mixing(nn.Module):
    """Spectra as a function of abundances and endmembers. What is said of a mixture holds for abundances on the simplex."""

    settings: dict = {}

    def forward(self, abundances: Tensor, endmembers: Tensor) -> Tensor:
        """Mix `abundances` `(..., n_endmembers)` of `endmembers` `(n_endmembers, n_bands)` into `(..., n_bands)`."""
        raise NotImplementedError

    @torch.no_grad()
    def spectra(self, abundances: np.ndarray, endmembers: np.ndarray) -> np.ndarray:
        """The same of arrays, in double precision.

        Raises
        ------
        InputError
            A coefficient that has not been measured yet.
        """
        if is_open(self):
            raise InputError("a mixing whose coefficient is known", f"{type(self).__name__} with none", "give the coefficient")
        return self(*(torch.as_tensor(each, dtype=torch.float64) for each in (abundances, endmembers))).numpy()


class CoefficientMixing(Mixing):
    """Mixing with one number for the whole scene, `coefficient`, which is measured from the scene if it is None."""

    name: str
    bounds: tuple[float, float]
    coefficient: Tensor

    def __init__(self, value: float | None):
        super().__init__()
        low, high = self.bounds
        if value is not None and not low <= value <= high:
            raise InputError(f"{self.name} from {low:g} to {high:g}, or None", f"{value}")
        self.settings = {self.name: None if value is None else float(value)}
        self.register_buffer("coefficient", torch.tensor(math.nan if value is None else float(value)))

    def extra_repr(self) -> str:
        value = self.settings[self.name]
        return f"{self.name}={value if value is None else format(value, '.3g')}"


def is_open(mixing: nn.Module) -> TypeGuard[CoefficientMixing]:
    """Whether a scene has to say first what the coefficient is."""
    return isinstance(mixing, CoefficientMixing) and bool(torch.isnan(mixing.coefficient))

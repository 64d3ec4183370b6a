"""What every classical method gives: endmembers and abundances, without an error bar."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
import xarray as xr

from pyro_unmix.baselines.fcls import fcls, normalized_nnls
from pyro_unmix.scene import Scene


class Estimate(NamedTuple):
    """Endmembers `(n_endmembers, n_bands)`, in the unit of the pixels, and abundances `(n_pixels, n_endmembers)`, pixels in use
    row by row."""

    endmembers: np.ndarray
    abundances: np.ndarray

    def summary(self, scene: Scene) -> xr.Dataset:
        """As the summary of a posterior, without its uncertainty; `evaluate` takes it. Masked pixels are NaN."""
        maps = np.full((*scene.shape[:2], len(self.endmembers)), np.nan)
        maps[scene.mask.values] = self.abundances
        return xr.Dataset(
            {"abundance_mean": (("y", "x", "endmember"), maps), "endmember_mean": (("endmember", "wavelength"), self.endmembers)},
            coords={**scene.reflectance.coords, "endmember": [f"endmember {k + 1}" for k in range(len(self.endmembers))]},
        )


class Extractor(Protocol):
    """Finds endmembers `(n_endmembers, n_bands)` in pixels `(n_pixels, n_bands)`, whatever their order."""

    def __call__(self, pixels: np.ndarray, n_endmembers: int, *, seed: int = 0) -> np.ndarray: ...


class Method(Protocol):
    """A whole unmixing method."""

    def __call__(self, scene: Scene, n_endmembers: int, *, seed: int = 0) -> Estimate: ...


def with_fcls(extract: Extractor) -> Method:
    """Endmembers by `extract`, abundances by fully constrained least squares."""
    return _completed(extract, lambda pixels, endmembers: fcls(pixels, endmembers))


def with_nnls(extract: Extractor) -> Method:
    """Endmembers by `extract`, abundances by non-negative least squares divided by their sum, which is the pixel's brightness."""
    return _completed(extract, lambda pixels, endmembers: normalized_nnls(pixels, endmembers)[0])


def _completed(extract: Extractor, solve: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Method:
    def method(scene: Scene, n_endmembers: int, *, seed: int = 0) -> Estimate:
        pixels = scene.pixels().astype(np.float64)
        endmembers = extract(pixels, n_endmembers, seed=seed)
        return Estimate(endmembers, solve(torch.as_tensor(pixels), torch.as_tensor(endmembers)).numpy())

    return method

"""The likelihood of a pixel's abundances through as many numbers as there are endmembers."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class PixelLikelihood(NamedTuple):
    """Likelihood of linearly mixed pixels under Gaussian noise, as a function of `x` = brightness times abundances:

        log p(y_n | x) = constant_n + linear_n . x - x . precision . x / 2

    Exact, and what it costs does not depend on the number of bands. The K numbers `linear_n` are sufficient for x.

    Attributes
    ----------
    precision
        `(K, K)`: M Sigma^-1 M^T.
    linear
        `(n_pixels, K)`: M Sigma^-1 y_n.
    constant
        `(n_pixels,)`: log density of y_n where nothing is mixed in.
    """

    precision: Tensor
    linear: Tensor
    constant: Tensor

    @classmethod
    def of(cls, pixels: Tensor, endmembers: Tensor, noise_cholesky: Tensor) -> PixelLikelihood:
        """From `pixels` `(n_pixels, L)`, `endmembers` `(K, L)` and the lower Cholesky factor of the noise covariance:
        `(L, L)`, or `(L,)` where bands are independent (standard deviations)."""
        white_pixels, white_endmembers = whiten(pixels, noise_cholesky), whiten(endmembers, noise_cholesky)
        scales = noise_cholesky if noise_cholesky.ndim == 1 else noise_cholesky.diagonal()
        normalisation = scales.log().sum() + 0.5 * len(scales) * math.log(2 * math.pi)
        return cls(white_endmembers @ white_endmembers.T, white_pixels @ white_endmembers.T,
                   -0.5 * white_pixels.square().sum(dim=1) - normalisation)

    def log_prob(self, x: Tensor) -> Tensor:
        """`(..., n_pixels)` of `x` `(..., n_pixels, K)`."""
        return self.constant + (x * (self.linear - 0.5 * x @ self.precision)).sum(dim=-1)


def whiten(rows: Tensor, noise_cholesky: Tensor) -> Tensor:
    """`rows` `(n, L)` in coordinates in which noise of this Cholesky factor, `(L, L)` or `(L,)`, is white."""
    if noise_cholesky.ndim == 1:
        return rows / noise_cholesky
    return torch.linalg.solve_triangular(noise_cholesky, rows.T, upper=False).T


def noise_cholesky(scale: Tensor, correlation: Tensor | None) -> Tensor:
    """Lower Cholesky factor `(L, L)` of noise of standard deviations `scale` `(L,)`; these where bands do not correlate."""
    return scale if correlation is None else scale[:, None] * correlation

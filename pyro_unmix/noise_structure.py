"""How the noise of a scene hangs together over bands, before any endmember is known."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyro_unmix.likelihood import whiten
from pyro_unmix.noise import BandNoise, SmoothNoise
from pyro_unmix.residual_noise import noise_of_residuals
from pyro_unmix.scene import Scene
from pyro_unmix.subspace import noise_edge

# Correlation of residuals above which neighbouring pixels err together. In simulated scenes it is below 0.02, in real ones above
# 0.5.
_TOGETHER = 0.1
# How much stronger than noise can be, in units of that, a direction may be and still be taken for it: the covariance is fitted.
_STRUCTURE = 1.2
# Fewer pixels, or bands beyond the endmembers, say nothing of a covariance.
_LEAST_PIXELS, _LEAST_BANDS = 50, 8


def smooth_noise(scene: Scene, n_endmembers: int) -> SmoothNoise | None:
    """The noise of a scene whose pixels err independently of each other while their bands do not; None where that is not so.

    Chosen by evidence among white, diagonal, smooth and low-rank noise (`residual_noise.noise_of_residuals`), outside the leading
    `n_endmembers` directions of the scene: these in units of the noise as it is found, since smooth noise may be stronger than a
    signal in its own directions. Low rank is not taken for noise, nor what leaves a direction that is too strong: what varies in
    a few directions may be an endmember.
    """
    pixels = _pixels(scene)
    if len(pixels) < _LEAST_PIXELS or scene.n_bands < n_endmembers + _LEAST_BANDS:
        return None
    wavelengths = scene.wavelengths
    if wavelengths is not None and len(np.unique(wavelengths)) < scene.n_bands:
        wavelengths = None
    cholesky = torch.ones(scene.n_bands, dtype=torch.float64)
    if _err_together(pixels, n_endmembers, scene.mask.values):
        return None
    for _ in range(2):
        directions = _leading(whiten(pixels, cholesky), n_endmembers)
        span = directions * cholesky if cholesky.ndim == 1 else directions @ cholesky.T
        fitted = noise_of_residuals(pixels, span, wavelengths)[0]
        if not isinstance(fitted, SmoothNoise):
            return None
        smooth, cholesky = fitted, fitted.cholesky(fitted.scale.double())
    return None if _has_structure(whiten(pixels, cholesky), n_endmembers) else smooth


def band_correlation(noise: BandNoise, scene: Scene, n_endmembers: int) -> Tensor | None:
    """Lower Cholesky factor `(n_bands, n_bands)` of the correlation of `noise` between bands; None where there is none, or where
    pixels err together, so that it is not to be believed."""
    try:
        correlation = noise.cholesky(torch.ones(scene.n_bands, dtype=torch.float64))
    except NotImplementedError:
        return None
    if correlation.ndim == 1 or _err_together(whiten(_pixels(scene), correlation), n_endmembers, scene.mask.values):
        return None
    return correlation


def neighbour_correlation(residuals: np.ndarray, mask: np.ndarray) -> float:
    """Correlation of `residuals` `(n, L)` between pixels in use, `mask` `(y, x)`, that touch along a side."""
    cube = np.zeros((*mask.shape, residuals.shape[1]))
    cube[mask] = residuals
    power = np.einsum("yxl,yxl->yx", cube, cube)
    products = squares = 0.0
    for a, b in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        products += np.einsum("yxl,yxl->", cube[a], cube[b])
        squares += 0.5 * ((power[a] + power[b]) * (mask[a] & mask[b])).sum()
    return float(products / max(squares, 1e-300))


def _err_together(pixels: Tensor, n_endmembers: int, mask: np.ndarray) -> bool:
    directions = _leading(pixels, n_endmembers)
    return neighbour_correlation((pixels - pixels @ directions.T @ directions).numpy(), mask) > _TOGETHER


def _has_structure(white: Tensor, n_endmembers: int) -> bool:
    """Whether one direction beyond the leading ones holds clearly more than white noise can."""
    values = torch.linalg.eigvalsh(white.T @ white)[:-n_endmembers]
    return float(values[-1] / values.mean()) > _STRUCTURE * noise_edge(len(white), len(values))


def _leading(pixels: Tensor, n_directions: int) -> Tensor:
    """`(n_directions, L)`, orthonormal: the directions in which `pixels` `(n, L)` are largest."""
    return torch.linalg.eigh(pixels.T @ pixels).eigenvectors[:, -n_directions:].T


def _pixels(scene: Scene) -> Tensor:
    return torch.as_tensor(scene.pixels(), dtype=torch.float64)

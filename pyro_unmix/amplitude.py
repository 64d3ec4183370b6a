"""The amplitude of endmembers whose shapes are known, and what it says of the brightness of pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import optimize

from pyro_unmix.baselines.fcls import nnls

# Robust scatter of the log of summed coefficients above which brightness is taken to vary.
BRIGHTNESS = 0.05


def calibrate_amplitude(endmembers: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Scale endmembers so that the coefficients of most pixels sum to one.

    Parameters
    ----------
    endmembers
        `(n_endmembers, n_bands)`, shapes known, amplitudes not.
    coefficients
        `(n_pixels, n_endmembers)`: non-negative least squares of the pixels on them.

    Returns
    -------
    endmembers
        Divided by a, the robust non-negative solution of coefficients @ a = 1, times what makes the median of the sums one.
    """
    scales = np.ones(coefficients.shape[1])
    weights = np.ones(len(coefficients))
    for _ in range(20):  # iteratively reweighted towards least absolute deviations
        scales, _ = optimize.nnls(coefficients * weights[:, None], weights)
        weights = 1.0 / np.sqrt(np.maximum(np.abs(coefficients @ scales - 1.0), 1e-3))
    # An endmember that no pixel needs has no amplitude of its own; it takes the one at which its brightest pixel is pure.
    scales = np.where(scales > 0, scales, 1.0 / np.maximum(coefficients.max(axis=0), 1e-12))
    # Bright pixels pull harder at the common factor: least absolute deviations would leave most pixels dimmer than one.
    scales = scales / max(float(np.median(coefficients @ scales)), 1e-12)
    return endmembers / scales[:, None]


def spread(values: np.ndarray) -> float:
    """Median absolute deviation, scaled to the standard deviation of a normal."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def brightness_scatter(pixels: np.ndarray, endmembers: np.ndarray) -> float:
    """Robust scatter of the logarithm of the pixels' brightness."""
    total = np.maximum(coefficients(nnls, pixels, endmembers).sum(axis=1), 1e-12)
    return spread(np.log(total))


def coefficients(solve: Callable, pixels: np.ndarray, endmembers: np.ndarray) -> np.ndarray:
    """`(n_pixels, k)` by the least squares `solve`, such as `fcls`."""
    return solve(torch.as_tensor(pixels), torch.as_tensor(endmembers)).numpy()

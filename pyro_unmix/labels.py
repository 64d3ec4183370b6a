"""Pixels whose abundances are known."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pyro_unmix.errors import InputError
from pyro_unmix.scene import Scene

# How far from one a sum of known abundances may be: files round.
_SUM = 1e-3
# Most rounds in which endmembers and brightness are found from each other, and the change of brightness that ends them. There are
# many: how bright materials are relative to each other is only in the mixed pixels, and comes slowly.
_ROUNDS, _CHANGE = 1000, 1e-6


def check_labels(labels: np.ndarray | xr.DataArray, scene: Scene, n_endmembers: int | None) -> np.ndarray:
    """Known abundances `(y, x, n_endmembers)` of a scene, float64, with sums of exactly one, and NaN where they are not known or
    the pixel is not in use.

    Raises
    ------
    InputError
        Another shape, negative values, sums other than one, or fewer known pixels than endmembers.
    """
    values = np.array(labels, dtype=np.float64)
    if values.ndim != 3 or values.shape[:2] != scene.shape[:2] or n_endmembers not in (None, values.shape[2]):
        raise InputError(f"labels of shape {(*scene.shape[:2], n_endmembers or 'n_endmembers')}", f"{values.shape}")
    known = np.isfinite(values).all(axis=-1) & scene.mask.values
    given = values[known]
    if len(given) and not ((given >= 0).all() and np.abs(given.sum(axis=1) - 1).max() <= _SUM):
        sums = given.sum(axis=1)
        raise InputError("labels of at least 0 that sum to 1", f"a least of {given.min():.3g} and sums from {sums.min():.3g} to "
                         f"{sums.max():.3g}", "divide them by their sum")
    if len(given) < values.shape[-1] or np.linalg.matrix_rank(given) < values.shape[-1]:
        raise InputError(f"labels of pixels that differ enough to tell {values.shape[-1]} endmembers apart",
                         f"{len(given)} pixels", "label pixels of every material; NaN: not known")
    values[~known] = np.nan
    return values / values.sum(axis=-1, keepdims=True)


def labelled_endmembers(pixels: np.ndarray, abundances: np.ndarray, brightness: bool) -> np.ndarray:
    """Endmembers `(n_endmembers, n_bands)` that explain `pixels` `(n, n_bands)` of known `abundances` `(n, n_endmembers)` best.

    Least squares; with brightness, in turn for the endmembers and for a factor of each pixel, whose median is one.
    """
    factor = np.ones(len(pixels))
    endmembers = np.linalg.lstsq(abundances, pixels, rcond=None)[0]
    for _ in range(_ROUNDS if brightness else 0):
        mixed, before = abundances @ endmembers, factor
        factor = (pixels * mixed).sum(axis=1) / np.maximum((mixed**2).sum(axis=1), 1e-12)
        factor = np.maximum(factor / max(np.median(factor), 1e-12), 0.0)
        lit = factor[:, None] * abundances
        endmembers = np.linalg.lstsq(lit.T @ lit, lit.T @ pixels, rcond=None)[0]
        if np.abs(factor - before).max() < _CHANGE:
            break
    return np.maximum(endmembers, 0.0)

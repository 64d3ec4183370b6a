"""Hand draws to ArviZ, of whichever generation is installed. The only file that imports it."""

from __future__ import annotations

from collections.abc import Mapping

import arviz
import numpy as np
import xarray as xr
from scipy.special import logsumexp

# Weights that differ by less have no tail to look at.
_EQUAL = 1e-10


def to_arviz(groups: Mapping[str, xr.Dataset]):
    """Groups of one chain, by the names that ArviZ gives them.

    Parameters
    ----------
    groups
        Such as "posterior" and "observed_data". Those with a dimension `draw` are given a dimension `chain`.

    Returns
    -------
    data
        `arviz.InferenceData` before ArviZ 1.0, `xarray.DataTree` from then on.
    """
    held = {name: each.expand_dims("chain").assign_coords(chain=[0]) if "draw" in each.dims else each
            for name, each in groups.items()}
    if int(arviz.__version__.split(".")[0]) < 1:  # 1.x still answers to the name InferenceData, with a warning and another class
        return arviz.InferenceData(**held)  # type: ignore[arg-type]
    return xr.DataTree.from_dict(held)


def khat(log_weights: np.ndarray) -> np.ndarray:
    """Tail index of importance weights: above 0.7 a weighted mean cannot be trusted.

    Vehtari, Simpson, Gelman, Yao and Gabry (2024), JMLR 25(72), "Pareto smoothed importance sampling".

    Parameters
    ----------
    log_weights
        `(draws, ...)`, 25 draws or more.

    Returns
    -------
    khat
        `(...)`; 0 where weights are equal, infinite where one draw holds all.
    """
    return smoothed(log_weights)[1]


def smoothed(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pareto-smoothed `log_weights` `(draws, ...)`, each set of which sums to one, and their tail index: `khat`."""
    rows = np.moveaxis(np.asarray(log_weights, dtype=np.float64), 0, -1)
    rows = np.maximum(rows - rows.max(axis=-1, keepdims=True), -700.0)
    n = rows.shape[-1]
    before_tail = n - int(np.ceil(min(0.2 * n, 3.0 * np.sqrt(n)))) - 1
    varied = np.partition(rows, before_tail, axis=-1)[..., before_tail] < -_EQUAL
    found = np.zeros(rows.shape[:-1])
    if varied.any():
        if int(arviz.__version__.split(".")[0]) < 1:
            rows[varied], index = arviz.psislw(rows[varied])
        else:
            from arviz_stats.base import array_stats

            rows[varied], index = array_stats.psislw(-rows[varied])  # takes a log likelihood, the negative of a log weight
        found[varied] = np.nan_to_num(index, nan=np.inf, posinf=np.inf)
    return np.moveaxis(rows - logsumexp(rows, axis=-1, keepdims=True), -1, 0), found


def loo(log_likelihood: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log density of every observation given all others, and the tail index of the weights it is made with.

    Vehtari, Gelman and Gabry (2017), Statistics and Computing 27, eq. 10, as `arviz.loo` has it for independent draws.

    Parameters
    ----------
    log_likelihood
        `(draws, n)`, 25 draws or more.

    Returns
    -------
    elpd, khat
        `(n,)` each.
    """
    log_weights, index = smoothed(-log_likelihood)
    return logsumexp(log_weights + log_likelihood, axis=0), index

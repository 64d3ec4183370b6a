"""Quantiles of many Beta distributions at once: interpolated, where exact ones would cost more than all the rest of a summary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy import interpolate, special
from torch import Tensor
from torch.nn import functional as F

from pyro_unmix.interpolation import cell

# Both parameters on a grid that is even in their logarithm. Beyond its ends the shape of the distribution hardly changes.
_LEAST, _MOST, _NODES = 1e-3, 1e6, 256
_NEARLY_NOTHING = 1e-250


def beta_quantiles(a: Tensor, b: Tensor, levels: Sequence[float]) -> Tensor:
    """`(levels, ...)`: quantiles of Beta(a, b), at probabilities that differ from `levels` by less than 5e-4.

    The logit of a quantile is log(a / b) plus a multiple of sqrt(1 / a + 1 / b), which tends to the quantile of a normal. The
    multiple is smooth, and interpolated between exact ones, linearly in log a and log b: quantiles keep their order.
    """
    log_a, log_b = a.log(), b.log()
    (row, down), (col, across) = (cell(each, math.log(_LEAST), math.log(_MOST), _NODES) for each in (log_a, log_b))
    nodes = _table(tuple(levels)).to(a)
    corner = row * _NODES + col
    above, below = (torch.lerp(F.embedding(at, nodes), F.embedding(at + 1, nodes), across[..., None])
                    for at in (corner, corner + _NODES))
    multiple = torch.lerp(above, below, down[..., None]).movedim(-1, 0)
    return torch.sigmoid(log_a - log_b + multiple * (1.0 / a + 1.0 / b).sqrt())


@lru_cache(maxsize=8)
def _table(levels: tuple[float, ...]) -> Tensor:
    """`(nodes of a x nodes of b, levels)`: exact at every third node, and by cubic splines in between."""
    every = np.arange(_NODES)
    nodes = np.geomspace(_LEAST, _MOST, _NODES)[::3]
    a, b = np.meshgrid(nodes, nodes, indexing="ij")
    opposite = {level: round(1.0 - level, 12) for level in levels}
    logarithms = {level: _log_quantile(level, a, b) for level in {*opposite, *opposite.values()}}
    # 1 - x has the parameters the other way round.
    logits = [logarithms[level] - logarithms[opposite[level]].T for level in levels]
    multiples = [(logit - np.log(a / b)) / np.sqrt(1.0 / a + 1.0 / b) for logit in logits]
    finer = [interpolate.RectBivariateSpline(every[::3], every[::3], each)(every, every) for each in multiples]
    return torch.from_numpy(np.stack(finer, axis=-1).reshape(-1, len(levels)))


def _log_quantile(level: float, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    exact = special.betaincinv(a, b, level)
    # So near to zero the density is a power, and its quantile has a logarithm where it has no digits itself.
    of_power = (math.log(level) + np.log(a) + special.betaln(a, b)) / a
    return np.where(exact > _NEARLY_NOTHING, np.log(np.maximum(exact, _NEARLY_NOTHING)), of_power)

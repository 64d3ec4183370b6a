"""A normal times a pole, z^(a - 1), on (0, rest): what a posterior under a Dirichlet of concentrations below one is made of.

Exactly from cells in z^a, where no pole is left. For quantiles of many pixels that would cost more than all else: they are
interpolated in tables, but for the few that lie where no table reaches.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from scipy import special
from torch import Tensor

from pyro_unmix.interpolation import cell
from pyro_unmix.truncated_normal import truncated_normal

# Cells in which a density is summed up, and where it ends: in standard deviations, e^-12.5 of its peak.
_CELLS, _DEPTH = 24, 5.0
# Keeps quotients finite where nothing is left.
_LEAST_REST, _LEAST = 1e-6, 1e-30
# Nodes of a table along the mean, the end of the interval, and the probability; and cells in which its entries are summed up.
_MEANS, _ENDS, _LEVELS, _FINE_CELLS = 128, 64, 97, 400
# The means of a table, and the widest probability, in standard deviations. Below the lowest the density is an exponential, and
# keeps its shape.
_LOWEST, _HIGHEST, _WIDEST = -50.0, 5.0, 5.0
_FIRST = -math.log1p(-_LOWEST)
# Beyond the highest a pole only tilts the normal: if there is room for it, and if it does not end too far down its tail.
_ROOM, _BEYOND = 4.0, 30.0
# Concentrations for which tables are made.
_MOST_TABLES = 64


def cells(mean: Tensor, scale: Tensor, rest: Tensor, concentration: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cells that hold what counts of z^(a - 1) exp(-(z - mean)^2 / 2 scale^2) on (0, rest), narrow towards both ends.

    In terms of u = z^a the pole is gone: z^(a - 1) dz = du / a. Returns the edges in u and the exponential there, relative to the
    largest on (0, rest), both `(..., _CELLS + 1)`, and its integral over u in each cell `(..., _CELLS)`, by Simpson's rule.
    """
    with torch.no_grad():
        low = (rest - scale * _reach((rest - mean) / scale)).clamp_min(0.0)
        high = torch.minimum(scale * _reach(mean / scale), rest)
        step = torch.linspace(0.0, 1.0, _CELLS + 1, dtype=mean.dtype, device=mean.device)
        edges = low[..., None] + (high - low).clamp_min(0.0)[..., None] * (step.square() * (3.0 - 2.0 * step))
        u = edges ** concentration[..., None]
        middle = (0.5 * (u[..., :-1] + u[..., 1:])) ** (1.0 / concentration[..., None])
    peak = torch.minimum(mean.clamp_min(0.0), rest)
    at_edges, at_middle = (log_below(peak[..., None], z, mean[..., None], scale[..., None]).exp() for z in (edges, middle))
    return u, at_edges, u.diff() * (at_edges[..., :-1] + 4.0 * at_middle + at_edges[..., 1:]) / 6.0


def log_below(peak: Tensor, z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Logarithm of a normal density at z relative to that at `peak`; keeps its digits where both are far from the mean."""
    return -0.5 * ((z - peak) / scale) * ((z + peak - 2.0 * mean) / scale)


@torch.no_grad()
def pole_quantile(mean: Tensor, scale: Tensor, rest: Tensor, concentrations: Tensor, kind: Tensor, uniform: Tensor) -> Tensor:
    """The quantile `uniform` of the density z^(a - 1) exp(-(z - mean)^2 / 2 scale^2) on (0, rest).

    Shapes are broadcast, but for that of `concentrations` `(m,)`, of which `kind` says by its number which is a.
    """
    mean, scale, rest, kind, uniform = torch.broadcast_tensors(mean, scale, rest, kind, uniform)
    concentration = concentrations[kind]
    if len(concentrations) > _MOST_TABLES:
        return _quantile_in_cells(mean, scale, rest, concentration, uniform)
    tables = _tables(tuple(concentrations.tolist()), mean.dtype, mean.device)
    found = _quantile_in_table(tables, kind, mean, scale, rest, concentration, uniform)
    far = mean > _HIGHEST * scale
    roomy = (torch.minimum(mean, rest) > _ROOM * scale) & (mean - rest < _BEYOND * scale)
    for solve, some in ((_quantile_when_tilted, far & roomy), (_quantile_in_cells, far & ~roomy)):
        if some.any():
            found[some] = solve(*(each[some] for each in (mean, scale, rest, concentration, uniform)))
    return found


def _reach(t: Tensor) -> Tensor:
    """Where exp(-(x - t)^2 / 2) on x >= 0 has fallen by exp(-_DEPTH^2 / 2) from where it is largest."""
    below = -t.clamp_max(0.0)
    return t.clamp_min(0.0) + _DEPTH**2 / ((below.square() + _DEPTH**2).sqrt() + below)


def _quantile_in_cells(mean: Tensor, scale: Tensor, rest: Tensor, concentration: Tensor, uniform: Tensor) -> Tensor:
    u, density, mass = cells(mean, scale, rest.clamp_min(_LEAST_REST), concentration)
    reached = mass.cumsum(-1)
    wanted = (uniform * reached[..., -1])[..., None].contiguous()
    cell = torch.searchsorted(reached, wanted).clamp_max(_CELLS - 1)
    share = (1.0 - (reached.gather(-1, cell) - wanted) / mass.gather(-1, cell).clamp_min(_LEAST)).clamp(0.0, 1.0)
    # Within a cell the density is a straight line, and the distribution function a parabola.
    first, last = density.gather(-1, cell), density.gather(-1, cell + 1)
    root = torch.lerp(first.square(), last.square(), share).sqrt()
    within = (share * (first + last) / (first + root).clamp_min(_LEAST)).clamp(0.0, 1.0)
    return torch.lerp(u.gather(-1, cell), u.gather(-1, cell + 1), within).squeeze(-1) ** (1.0 / concentration)


def _quantile_when_tilted(mean: Tensor, scale: Tensor, rest: Tensor, concentration: Tensor, uniform: Tensor) -> Tensor:
    """Far from zero: the normal whose logarithm has the slope and the curvature of the density where that is largest."""
    lack = 1.0 - concentration
    peak = torch.minimum(0.5 * (mean + (mean.square() - 4.0 * lack * scale.square()).sqrt()), rest)
    precision = 1.0 / scale.square() - lack / peak.square()
    mean = peak + ((mean - peak) / scale.square() - lack / peak) / precision
    scale = precision.rsqrt()
    return mean + scale * truncated_normal(-mean / scale, (rest - mean) / scale, uniform)


def _quantile_in_table(tables: Tensor, kind: Tensor, mean: Tensor, scale: Tensor, rest: Tensor, concentration: Tensor,
                       uniform: Tensor) -> Tensor:
    """Where e, the end of the interval, is at `rest` or where the density ends, log (z / e)^a is a smooth function of the mean,
    of e and of the probability: linear in between."""
    mean = mean / scale
    widest = _reach(mean)
    end = (rest / scale / widest).clamp(0.0, 1.0)
    row, down = cell(_evened(mean.clamp_min(_LOWEST)), _FIRST, _HIGHEST, _MEANS)
    col, across = cell(end, 0.0, 1.0, _ENDS)
    place, along = cell(torch.special.ndtri(uniform), -_WIDEST, _WIDEST, _LEVELS)
    corner, nodes = ((kind * _MEANS + row) * _ENDS + col) * _LEVELS + place, tables.flatten()

    def between(start: int) -> Tensor:
        one, other = (torch.lerp(nodes[at], nodes[at + 1], along) for at in (corner + start, corner + start + _LEVELS))
        return torch.lerp(one, other, across)

    log_share = torch.lerp(between(0), between(_ENDS * _LEVELS), down)
    return end * widest * scale * (log_share / concentration).exp()


def _evened(mean: Tensor) -> Tensor:
    """A scale along which the shape of the density changes evenly; `_FIRST` is where it begins."""
    return torch.where(mean > 0.0, mean, -torch.log1p(-mean.clamp_max(0.0)))


@lru_cache(maxsize=2)  # they are large, and a fit has one set of them
def _tables(concentrations: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.stack([_table(each) for each in concentrations]).to(device, dtype)


@lru_cache(maxsize=_MOST_TABLES)
def _table(concentration: float) -> Tensor:
    """`(means, ends, levels)`."""
    nodes = np.linspace(_FIRST, _HIGHEST, _MEANS)[:, None, None]
    mean = np.where(nodes > 0.0, nodes, -np.expm1(-nodes))
    end = np.linspace(0.0, 1.0, _ENDS)[:, None] * _reach(torch.from_numpy(mean)).numpy()
    step = np.linspace(0.0, 1.0, _FINE_CELLS + 1)
    edges = (step**2 * (3.0 - 2.0 * step)) ** concentration
    middle = 0.5 * (edges[1:] + edges[:-1])

    def density(share: np.ndarray) -> np.ndarray:
        z, peak = end * share ** (1.0 / concentration), np.clip(mean, 0.0, end)
        return np.exp(-0.5 * (z - peak) * (z + peak - 2.0 * mean))

    at_edges = density(edges)
    mass = np.diff(edges) * (at_edges[..., :-1] + 4.0 * density(middle) + at_edges[..., 1:])
    below = np.concatenate([np.zeros((*mass.shape[:2], 1)), mass.cumsum(axis=2)], axis=2)
    levels = special.ndtr(np.linspace(-_WIDEST, _WIDEST, _LEVELS))
    return torch.from_numpy(np.log([[np.interp(levels * each[-1], each, edges) for each in row] for row in below]))

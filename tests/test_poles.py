"""Quantiles from tables against slow ones from many cells."""

from __future__ import annotations

import pytest
import torch

from pyro_unmix import poles
from pyro_unmix.distributions import SimplexNormal
from pyro_unmix.truncated_normal import truncated_normal

N = 4000


def quantile(mean, scale, rest, concentration, uniform):
    return poles.pole_quantile(mean, scale, rest, *concentration.unique(return_inverse=True), uniform)


def reached(z, mean, scale, rest, concentration, monkeypatch):
    """Probability below z, from 400 cells instead of 24."""
    with monkeypatch.context() as many:
        many.setattr(poles, "_CELLS", 400)
        u, _, mass = poles.cells(mean, scale, rest, concentration)
    below = torch.cat([torch.zeros(len(z), 1).double(), mass.cumsum(-1)], dim=-1) / mass.sum(-1, keepdim=True)
    wanted = (z**concentration)[:, None].contiguous()
    cell = (torch.searchsorted(u, wanted) - 1).clamp(0, 399)
    first, last = u.gather(-1, cell), u.gather(-1, cell + 1)
    return torch.lerp(below.gather(-1, cell), below.gather(-1, cell + 1),
                      ((wanted - first) / (last - first).clamp_min(1e-300)).clamp(0, 1)).squeeze(-1)


@pytest.mark.parametrize("concentration", [0.05, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("low, high", [(-80, -5), (-5, 2), (2, 5), (5, 8), (8, 100)])
def test_probability_below_a_quantile(low, high, concentration, monkeypatch):
    """By the mean in standard deviations, from far below zero to far above, with any room: within .001 on average."""
    mean, scale = 0.02 * (low + (high - low) * torch.rand(N).double()), torch.full((N,), 0.02).double()
    rest, uniform, a = torch.exp(7 * torch.rand(N).double() - 7), torch.rand(N).double(), torch.full((N,), concentration).double()
    found = quantile(mean, scale, rest, a, uniform)
    assert ((found >= 0) & (found <= rest * (1 + 1e-9))).all()
    off = (reached(found, mean, scale, rest, a, monkeypatch) - uniform).abs()
    assert off.mean() < 1e-3 and off.max() < 0.04
    plain = mean + scale * truncated_normal(-mean / scale, (rest - mean) / scale, uniform)
    without = (reached(plain, mean, scale, rest, a, monkeypatch) - uniform).abs()
    assert without.mean() > 5 * off.mean() or concentration == 1.0  # negative control: a pole that is forgotten is noticed


def test_more_concentrations_than_there_are_tables_for(monkeypatch):
    a = torch.rand(8, dtype=torch.float64) * 0.8 + 0.1
    parts = [torch.full((8,), value, dtype=torch.float64) for value in (0.03, 0.02, 0.7)]
    found = quantile(*parts, a, torch.full((8,), 0.7, dtype=torch.float64))
    monkeypatch.setattr(poles, "_MOST_TABLES", 4)
    torch.testing.assert_close(quantile(*parts, a, torch.full((8,), 0.7, dtype=torch.float64)), found, rtol=0.02, atol=0)


def test_each_pixel_has_its_own_concentration():
    mean, scale, rest, uniform = torch.rand(5, 30) * 0.2 - 0.05, torch.tensor(0.03), torch.rand(5, 30), torch.rand(5, 1)
    a = torch.tensor([0.2, 0.7])[torch.arange(30) % 2]
    found = quantile(mean, scale, rest, a, uniform)
    for kind in range(2):
        torch.testing.assert_close(found[:, kind::2], quantile(mean[:, kind::2], scale, rest[:, kind::2], a[kind], uniform))


def test_tables_are_put_together_once():
    """Also where pixels have abundances in another order: this takes longer than all the rest."""
    concentration, order = torch.tensor([0.31, 0.42, 0.53, 0.64]), torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])
    shape = 2, 3
    q = SimplexNormal(torch.full(shape, 0.2), torch.zeros(*shape, 3), torch.full(shape, 0.1), order, concentration[order[:, :3]])
    before = poles._tables.cache_info().misses
    for _ in range(3):
        q.sample()
    assert poles._tables.cache_info().misses == before + 1

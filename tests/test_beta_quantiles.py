"""Interpolated quantiles of Beta distributions against exact ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_unmix.beta_quantiles import beta_quantiles

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def drawn(low: float, high: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of parameters, even in their logarithm."""
    random = np.random.default_rng(0)
    return tuple(torch.tensor(10 ** random.uniform(low, high, 5000)) for _ in range(2))


@pytest.mark.parametrize("levels", [LEVELS, (0.5,), (0.025, 0.9)], ids=str)
@pytest.mark.parametrize("low, high", [(-3, 6), (-2, 0.5), (0, 4)])
def test_probability_below_a_quantile_is_its_level(low, high, levels):
    a, b = drawn(low, high)
    found = beta_quantiles(a, b, levels)
    assert ((found >= 0) & (found <= 1)).all()
    for level, x in zip(levels, found.numpy(), strict=True):
        told = (x > 1e-30) & (x < 1 - 1e-9)  # next to one there are no digits left to say how near
        below = stats.beta.cdf(x, a, b)[told]
        assert told.mean() > 0.3 and np.abs(below - level).max() < 5e-4
        # Negative control: quantiles of the normal of the same mean and variance are noticed.
        mean, sd = stats.beta.stats(a.numpy(), b.numpy())
        normal = stats.norm.ppf(level, mean, np.sqrt(sd))[told]
        assert np.abs(stats.beta.cdf(normal, a[told], b[told]) - level).max() > 5e-3


def test_quantiles_keep_their_order():
    a, b = drawn(-3, 6)
    assert (beta_quantiles(a, b, LEVELS).diff(dim=0) >= 0).all()


def test_turned_round_they_are_those_of_what_is_left():
    a, b = drawn(-1, 3)
    torch.testing.assert_close(beta_quantiles(a, b, LEVELS), 1 - beta_quantiles(b, a, LEVELS).flip(0), rtol=0, atol=1e-9)


def test_beyond_the_table_it_is_the_normal():
    a, b = torch.tensor([3e8]), torch.tensor([5e8])
    np.testing.assert_allclose(beta_quantiles(a.double(), b.double(), LEVELS)[:, 0], stats.beta.ppf(LEVELS, a, b), rtol=1e-6)

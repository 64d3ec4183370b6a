"""Weighted draws against numerical integration, known distributions and their own calibration."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special
from test_propagation import LEVELS, concentrations, four_kinds, from_prior, hard_cases, integrated

from pyro_unmix.errors import InputError
from pyro_unmix.likelihood import PixelLikelihood
from pyro_unmix.numerics import seeded
from pyro_unmix.refine import sampling
from pyro_unmix.refine.sampling import Draws, _Cells, _truncated_normal, draw


@pytest.mark.parametrize("scale", [None, 0.25])
@pytest.mark.parametrize("value", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("k", [2, 3])
def test_draws_are_those_of_integration(k, value, scale):
    # Some 40 comparisons a case at 5 standard errors: fails once in 30,000 runs.
    draws = draw(four_kinds(k), concentrations(k, value), scale, 4000)
    quantiles, error = draws.quantiles(LEVELS), 5.0 / draws.effective().sqrt()
    for n, exact in enumerate(integrated(k, value, scale)):
        mean, sd = exact.moments(exact.abundances)
        assert ((draws.mean()[n] - mean).abs() < error[n] * sd).all()
        kurtosis = exact.moments(((exact.abundances - mean) / sd) ** 2)[1]
        assert ((draws.sd()[n] / sd - 1.0).abs() < error[n] * kurtosis / 2 + 0.002).all()
        if k == 2 or scale is None:  # the others are integrated on too coarse a grid
            off = exact.below(quantiles[:, n]) - torch.tensor(LEVELS)[:, None]
            assert (off.abs() < 0.5 * error[n] + 0.002).all()
        log_evidence = draws.log_weights[:, n].logsumexp(dim=0) - math.log(4000)
        of_evidence = 5.0 * (1.0 / draws.effective()[n] - 1.0 / 4000).clamp(min=0.0).sqrt()
        assert abs(float(log_evidence) - exact.log_evidence) < of_evidence + 0.002
        if scale is not None:
            s = draws.brightness[:, n] @ draws.weights[:, n]
            exact_s, sd_s = exact.moments(exact.brightness[:, None, None])
            assert (s - exact_s).abs() < error[n] * sd_s


@pytest.mark.parametrize("assumed, calibrated", [(None, True), (0.02, False)])
def test_intervals_cover(assumed, calibrated):
    # 2000 trials of probability .9: off by .027 once in 15,000 runs. The control is told of a third of the noise.
    abundances, likelihood = from_prior(2000, 4, noise=0.06, assumed=assumed)
    low, high = draw(likelihood, concentrations(4, 1.0), None, 200).quantiles([0.05, 0.95])
    inside = ((low < abundances) & (abundances < high)).double().mean(dim=0)
    assert bool(((inside - 0.9).abs() < 0.027).all()) == calibrated
    assert calibrated or (inside < 0.6).all()


@pytest.mark.parametrize("k, value, scale, least", [
    (4, 1.0, None, 0.95), (6, 1.0, None, 0.95), (10, 1.0, None, 0.9), (10, 1.0, 0.25, 0.9),
    (10, 0.3, None, 0.7), (4, 0.3, 0.25, 0.8), (10, 0.3, 0.25, 0.6), (6, 2.0, 0.25, 0.8)])
@pytest.mark.parametrize("noise", [0.05, 0.005])
def test_hardly_a_draw_is_wasted(k, value, scale, least, noise):
    _, likelihood = from_prior(30, k, value, n_bands=60, noise=noise, brightness=scale)
    assert draw(likelihood, concentrations(k, value), scale, 400).effective().mean() > least * 400


@pytest.mark.parametrize("inside, width", [
    (0.0, math.inf), (3.0, math.inf), (-4.9, math.inf), (-5.1, math.inf), (-1e4, 3.0), (1.0, 2.2),
    (8.0, 1e9), (0.04, 0.09), (-3.0, 1e-9), (-1e5, 1e-3), (0.0, 1e-300)])
def test_truncated_normals(inside, width):
    n = 20000
    inside, width = (torch.full((n,), each, dtype=torch.float64) for each in (inside, width))
    drawn, log_density = _truncated_normal(inside, width)
    assert ((drawn >= 0) & (drawn <= width)).all() and log_density.isfinite().all()
    log_weights = -0.5 * (drawn - inside).square() - log_density
    weights = log_weights.softmax(dim=0)
    assert 1.0 / weights.square().sum() > 0.98 * n
    # Kolmogorov's distance, against the limit it passes once in 10,000 runs.
    order = drawn.argsort()
    rate = max(-float(inside[0]), 1.0)
    top = min(float(width[0]), 40.0 / rate if inside[0] < 0 else float(inside[0]) + 12.0)
    grid = np.linspace(0.0, top, 100001)
    density = np.exp(-0.5 * grid * (grid - 2.0 * float(inside[0])) - max(float(inside[0]), 0.0) ** 2 / 2)
    reached = integrate.cumulative_trapezoid(density, grid, initial=0.0)
    exact = np.interp(drawn[order].numpy(), grid, reached / reached[-1])
    assert np.abs(weights[order].cumsum(dim=0).numpy() - exact).max() < 2.23 / math.sqrt(n) / math.sqrt(0.98)


def log_mass(a, b, inside, width):
    """Of normal(inside, 1) y^(a - 1) (width - y)^(b - 1), integrated over the log ratio of y to the rest: there is no pole."""
    v = np.linspace(-300.0, 300.0, 60001)
    if math.isinf(width):
        log_density = a * v - 0.5 * (np.exp(np.minimum(v, 100.0)) - inside) ** 2
    else:
        log_y, log_rest = math.log(width) - np.logaddexp(0.0, -v), math.log(width) - np.logaddexp(0.0, v)
        log_density = a * log_y + b * log_rest - math.log(width) - 0.5 * (np.exp(log_y) - inside) ** 2
    return special.logsumexp(log_density) + math.log(v[1] - v[0])


@pytest.mark.parametrize("inside, width", [(2.0, math.inf), (-50.0, 40.0), (1.0, 2.5), (-2.0, 0.01), (4.9, 30.0), (0.0, 12.0)])
@pytest.mark.parametrize("a, b", [(0.1, 1.0), (0.3, 0.6), (2.0, 1.0), (1.0, 0.3), (3.0, 0.2)])
def test_cells(a, b, inside, width):
    n, bounded = 20000, not math.isinf(width)
    cells = _Cells.of(torch.tensor([a, b], dtype=torch.float64))
    where = (torch.full((n,), each, dtype=torch.float64) for each in (inside, width))
    drawn, rest, log_density = cells.draw(*where, torch.full((n,), 0), torch.full((n,), 1 if bounded else cells.none))
    assert (drawn > 0).all() and (rest > 0).all()
    log_target = (a - 1.0) * drawn.log() - 0.5 * (drawn - inside).square() + ((b - 1.0) * rest.log() if bounded else 0.0)
    # The mean weight estimates the normaliser: 30 cases at 5 standard errors fail once in 60,000 runs.
    log_weights = log_target - log_density
    effective = float(1.0 / log_weights.softmax(dim=0).square().sum())
    off = float(log_weights.logsumexp(dim=0)) - math.log(n) - log_mass(a, b, inside, width)
    assert effective > 0.85 * n
    assert abs(off) < 5.0 * math.sqrt(1.0 / effective - 1.0 / n) + 1e-6


@pytest.mark.parametrize("value, scale", [(1.0, None), (0.4, None), (1.0, 0.25)])
def test_order_of_endmembers_and_parts_do_not_matter(value, scale, monkeypatch):
    _, likelihood = from_prior(5, 4, value, brightness=scale)
    concentration = value * torch.tensor([1.0, 1.0, 1.5, 2.0], dtype=torch.float64)
    found = draw(likelihood, concentration, scale, 2000)
    turned = PixelLikelihood(likelihood.precision.flip(0, 1), likelihood.linear.flip(1), likelihood.constant)
    monkeypatch.setattr(sampling, "_WORKING", 1500)
    again = draw(turned, concentration.flip(0), scale, 2000)
    # 20 means at 5 standard errors of a difference: fails once in 80,000 runs.
    assert ((again.mean().flip(1) - found.mean()).abs() < 5.0 * math.sqrt(2.0 / 1700) * found.sd()).all()


@pytest.mark.parametrize("value", [1.0, 0.4])
def test_same_seed_same_draws(value):
    _, likelihood = from_prior(3, 4)
    with seeded(1):
        first = draw(likelihood, concentrations(4, value), None, 50)
    with seeded(1):
        second = draw(likelihood, concentrations(4, value), None, 50)
    torch.testing.assert_close(first, second, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("scale", [None, 0.25])
@pytest.mark.parametrize("value", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("noise", [1e-6, 1e-3, 1e3])
def test_hard_cases_stay_finite_and_on_the_simplex(noise, value, scale):
    draws = draw(hard_cases(noise), concentrations(4, value), scale, 100)
    assert draws.log_weights.isfinite().all() and (draws.abundances >= 0).all()
    torch.testing.assert_close(draws.abundances.sum(dim=2), torch.ones(100, 5, dtype=torch.float64), rtol=0.0, atol=1e-9)
    assert draws.quantiles(LEVELS).isfinite().all() and (draws.effective() >= 1.0 - 1e-9).all()
    assert scale is None or (draws.brightness > 0).all()


def random_draws(n_draws=9, spread=0.0):
    abundances = torch.distributions.Dirichlet(concentrations(3, 1.0)).sample((n_draws, 4))
    return Draws(abundances, torch.rand(n_draws, 4, dtype=torch.float64), spread * torch.randn(n_draws, 4, dtype=torch.float64))


def test_summaries_of_equal_weights():
    draws = random_draws()
    torch.testing.assert_close(draws.effective(), concentrations(4, 9.0))
    torch.testing.assert_close(draws.mean(), draws.abundances.mean(dim=0))
    torch.testing.assert_close(draws.sd(), draws.abundances.std(dim=0, correction=0))
    hazen = np.quantile(draws.abundances.numpy(), LEVELS, axis=0, method="hazen")
    torch.testing.assert_close(draws.quantiles(LEVELS), torch.from_numpy(hazen))


def test_a_weight_of_two_is_two_draws():
    draws = random_draws()
    twice = Draws(*(torch.cat([part, part[:3]]) for part in draws))
    draws.log_weights[:3] += math.log(2.0)
    torch.testing.assert_close(draws.mean(), twice.mean())
    torch.testing.assert_close(draws.sd(), twice.sd())
    torch.testing.assert_close(draws.quantiles([0.5]), twice.quantiles([0.5]), rtol=0.0, atol=0.1)


@pytest.mark.parametrize("n", [1, 7, 1000])
def test_systematic_resampling(n):
    draws = random_draws(spread=2.0)
    again = draws.resample(n)
    assert again.abundances.shape == (n, 4, 3) and again.brightness.shape == (n, 4)
    came = again.abundances[:, None, :, 0] == draws.abundances[None, ..., 0]
    # No draw comes more or less often than its weight says by as much as one.
    assert ((came.sum(dim=0) - n * draws.weights).abs() < 1.0).all()
    chosen = came.double().argmax(dim=1)
    torch.testing.assert_close(again.brightness, draws.brightness.gather(0, chosen))
    torch.testing.assert_close(again.log_weights.logsumexp(dim=0) - math.log(n), draws.log_weights.logsumexp(dim=0) - math.log(9))


def test_fewer_than_one_draw_is_refused():
    with pytest.raises(InputError):
        draw(four_kinds(3), torch.ones(3), None, 0)
    with pytest.raises(InputError):
        random_draws().resample(0)

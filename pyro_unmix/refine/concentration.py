"""The concentration of the Dirichlet distribution that abundances follow, learned from the pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_unmix.errors import InputError
from pyro_unmix.likelihood import PixelLikelihood
from pyro_unmix.numerics import one_thread
from pyro_unmix.refine.moves import move
from pyro_unmix.refine.slices import draw_from_slice

# Bounds of every concentration; between them its logarithm is standard normal before the pixels are seen.
LEAST, MOST = 0.05, 20.0
_LOG_LEAST, _LOG_MOST = math.log(LEAST), math.log(MOST)
_NEWTON_STEPS, _NEWTON_ROUNDS = 10, 5
_KNOWN_ZERO = 1e-6


@one_thread()
def learn_concentration(likelihood: PixelLikelihood, start: Tensor, brightness_scale: float | None = None, *,
                        iterations: int = 100) -> Tensor:
    """The most probable concentration of each endmember, abundances integrated out, endmembers and noise known.

    Stochastic-approximation EM: Delyon, Lavielle and Moulines (1999), Annals of Statistics 27. The expected mean logarithm of the
    abundances, which is all that counts, follows a Markov chain; the second half of its iterations is averaged. The maximisation
    is Newton's for a Dirichlet: Minka (2000), "Estimating a Dirichlet distribution", section 1. The prior is
    LogNormal(0, 1) and the mode that of the logarithm.

    Parameters
    ----------
    likelihood
        Of the pixels; 300 to 2000, drawn at random, are enough.
    start
        `(K,)`. The answer hardly depends on it.
    brightness_scale
        Standard deviation of the logarithm of brightness. None: brightness is one.
    iterations
        Sweeps over all pixels.

    Returns
    -------
    concentration
        `(K,)`, from 0.05 to 20.

    Raises
    ------
    InputError
        Not one positive start an endmember, or fewer than two iterations.
    """
    n_pixels, n_endmembers = likelihood.linear.shape
    if start.shape != (n_endmembers,) or not (start > 0).all():
        raise InputError(f"{n_endmembers} positive concentrations to start from", f"{start.tolist()}")
    if iterations < 2:
        raise InputError("at least two iterations", f"{iterations}")
    scale = None if brightness_scale is None else torch.tensor(brightness_scale, dtype=torch.float64)
    concentration = start.double().clamp(LEAST, MOST)
    x = torch.full((n_pixels, n_endmembers), 1.0 / n_endmembers, dtype=torch.float64)
    expected = torch.zeros_like(concentration)
    for iteration in range(iterations):
        x = move(x, likelihood, concentration, scale)
        averaged = max(iteration - iterations // 2, 0)
        expected = expected + (mean_log_abundance(x) - expected) / (1 + averaged)
        concentration = _mode(concentration, expected, n_pixels)
    return concentration


def mean_log_abundance(x: Tensor) -> Tensor:
    """`(K,)`, sufficient for the concentration, of `x` `(n_pixels, K)` in any amplitude."""
    return (x / x.sum(dim=1, keepdim=True)).log().mean(dim=0)


def concentration_of(abundances: Tensor) -> Tensor:
    """The most probable concentrations `(K,)`, from 0.05 to 20, of abundances `(n, K)` that are known; zeros count as 1e-6.

    By Newton's method, under the prior of `learn_concentration`.
    """
    abundances = abundances.double().clamp_min(_KNOWN_ZERO)
    concentration = torch.ones(abundances.shape[1], dtype=torch.float64)
    for _ in range(_NEWTON_ROUNDS):
        concentration = _mode(concentration, mean_log_abundance(abundances), len(abundances))
    return concentration


def draw_concentration(concentration: Tensor, mean_log: Tensor, n_pixels: int) -> Tensor:
    """Each concentration in turn given the others and the abundances, in plain numbers: faster than tensors of one element."""
    logs, statistics = concentration.log().tolist(), mean_log.tolist()
    for k, statistic in enumerate(statistics):
        others = sum(math.exp(log) for j, log in enumerate(logs) if j != k)

        def log_density(log: float, others: float = others, statistic: float = statistic) -> float:
            value = math.exp(log)
            return n_pixels * (math.lgamma(others + value) - math.lgamma(value) + value * statistic) - 0.5 * log * log

        logs[k] = draw_from_slice(log_density, logs[k], _LOG_LEAST, _LOG_MOST)
    return torch.tensor(logs, dtype=torch.float64).exp()


def _mode(concentration: Tensor, mean_log: Tensor, n_pixels: int) -> Tensor:
    """By Newton's steps in the logarithm of the concentration; the curvature is the expected one, which is never singular."""
    log = concentration.log()
    for _ in range(_NEWTON_STEPS):
        value = log.exp()
        total = value.sum()
        slope = n_pixels * value * (total.digamma() - value.digamma() + mean_log) - log
        curvature = n_pixels * (torch.diag(torch.polygamma(1, value) * value.square())
                                - torch.polygamma(1, total) * torch.outer(value, value)) + torch.eye(len(log), dtype=log.dtype)
        log = (log + torch.linalg.solve(curvature, slope).clamp(-1.0, 1.0)).clamp(_LOG_LEAST, _LOG_MOST)
    return log.exp()

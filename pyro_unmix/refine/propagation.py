"""The posterior of single pixels as a Gaussian: expectation propagation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import special
from torch import Tensor

from pyro_unmix.errors import InputError
from pyro_unmix.likelihood import PixelLikelihood

_MOST_STEPS = 20
_DAMPING = 0.7
# A pixel rests once no mean moves by more than this many standard deviations, and no log variance by more than this.
_STILL = 3e-3
# What lies more standard deviations than this from the peak is nothing beside it: e^-28.
_REACH = 7.5
# A mean this many standard deviations outside is taken to be no farther: one site would drown all others in rounding errors.
_FARTHEST = 1e4
_NODES = 24
_SUM_NODES = 41
_CELLS = 128
# Numbers in one working array; some ten live at a time, and all of them stay in the cache.
_WORKING = 2**16


class PixelPrior(NamedTuple):
    """Prior of `x` = brightness times abundances, one pixel's K numbers.

    Abundances are Dirichlet(`concentration`). Without brightness x lies on the simplex. With brightness s ~ LogNormal(0, scale)
    the change of variables from (s, abundances) divides by s^(K-1), and the density of x >= 0 is

        constant * prod_k x_k^(a_k - 1) * LogNormal(s) * s^(1 - A),    s = sum_k x_k,  A = sum_k a_k.

    Attributes
    ----------
    concentration
        `(K,)`.
    brightness_scale
        Standard deviation of the logarithm of the brightness; None: no brightness.
    """

    concentration: Tensor
    brightness_scale: float | None

    @classmethod
    def checked(cls, concentration: Tensor, brightness_scale: float | None, n_endmembers: int) -> PixelPrior:
        concentration = torch.as_tensor(concentration, dtype=torch.float64)
        positive = bool(((concentration > 0) & concentration.isfinite()).all())
        if n_endmembers < 2 or concentration.shape != (n_endmembers,) or not positive:
            raise InputError("a positive concentration for each of two or more endmembers",
                             f"{concentration.tolist()} for {n_endmembers}")
        if brightness_scale is not None and not 0 < brightness_scale < math.inf:
            raise InputError("a positive brightness scale, or None", f"{brightness_scale}")
        return cls(concentration, None if brightness_scale is None else float(brightness_scale))

    @property
    def on_simplex(self) -> bool:
        return self.brightness_scale is None

    def log_prob(self, x: Tensor) -> Tensor:
        """`(...)` of `x` `(..., K)`; on the simplex the density of the first K-1 numbers."""
        total = self.concentration.sum()
        log_prob = total.lgamma() - self.concentration.lgamma().sum()
        if not (self.concentration == 1.0).all():
            log_prob = log_prob + x.log() @ (self.concentration - 1.0)
        if self.brightness_scale is not None:
            log_sum = x.sum(dim=-1).log()
            log_prob = log_prob - 0.5 * (log_sum / self.brightness_scale) ** 2 - total * log_sum \
                - math.log(self.brightness_scale * math.sqrt(2.0 * math.pi))
        return log_prob.expand(x.shape[:-1])


class Approximation(NamedTuple):
    """A Gaussian for the posterior of each pixel's `x`: the likelihood times one Gaussian site for every factor of the prior.

    Attributes
    ----------
    prior
        The prior whose factors the sites stand for.
    mean, covariance
        `(n_pixels, K)` and `(n_pixels, K, K)`, of x: of the abundances where there is no brightness.
    precision, shift
        `(n_pixels, K + 1)`: site k is exp(shift * x_k - precision * x_k^2 / 2), the last one the same of the sum of x. Where x is
        on the simplex the last says nothing.
    """

    prior: PixelPrior
    mean: Tensor
    covariance: Tensor
    precision: Tensor
    shift: Tensor

    def quantiles(self, levels: Sequence[float] | Tensor) -> Tensor:
        """`(n_levels, n_pixels, K)`: of each abundance, from its cavity times the exact factor, restricted to [0, 1].

        Raises
        ------
        InputError
            Brightness is free, so that abundances are not what was approximated.
        """
        if not self.prior.on_simplex:
            raise InputError("an approximation without brightness", "one with brightness", "take quantiles of sampling.draw")
        concentration = self.prior.concentration
        mean, precision = _cavities(*_projections(self.mean, self.covariance), self.precision, self.shift)
        # No abundance is less certain than a flat one, whatever the cavity says.
        mean, sd = mean[:, :-1], precision[:, :-1].clamp(min=1.0).rsqrt()
        # What keeps an abundance below one are the factors of all others; together they have the form of a single one.
        of_rest = concentration.sum() - concentration
        rest_mean, rest_sd = _untilted(1.0 - self.mean, self.covariance.diagonal(dim1=1, dim2=2), of_rest)
        major = self.mean > 0.5
        mean, sd = torch.where(major, rest_mean, mean), torch.where(major, rest_sd, sd)
        concentration = torch.where(major, of_rest, concentration)
        levels = torch.as_tensor(levels, dtype=torch.float64)
        levels = torch.where(major[..., None], 1.0 - levels, levels)
        size = max(1, _WORKING // (_CELLS * mean.shape[1]))
        parts = zip(*(each.split(size) for each in (mean, sd, concentration, levels)), strict=True)
        quantiles = torch.cat([_tilted_quantiles(*part) for part in parts])
        return torch.where(major[..., None], 1.0 - quantiles, quantiles).movedim(-1, 0)


def propagate(likelihood: PixelLikelihood, concentration: Tensor, brightness_scale: float | None = None) -> Approximation:
    """Gaussian approximation of the posterior of every pixel by expectation propagation.

    Minka (2001), UAI, "Expectation propagation for approximate Bayesian inference", with parallel damped updates; under a flat
    prior it is that of Cunningham, Hennig and Lacoste-Julien (2011, arXiv 1111.6832) for truncated normals. There is a site for
    each factor x_k^(a_k - 1) on x_k > 0. Without brightness the Gaussian is conditioned on the plane where x sums to one, with
    brightness the sum has a site of its own. Sites start where the Gaussian without the likelihood has the moments of the prior.
    A site whose cavity is no Gaussian waits; a step to what is no Gaussian is not taken, and the pixel's next is half as long.

    Parameters
    ----------
    likelihood
        Of n pixels and K endmembers.
    concentration
        `(K,)`: of the Dirichlet prior of the abundances, from about 0.1 up.
    brightness_scale
        Standard deviation of the logarithm of a pixel's brightness. None: no brightness.

    Raises
    ------
    InputError
        A likelihood that is not finite, or a prior that is none.
    """
    likelihood = PixelLikelihood(*(part.to(torch.float64) for part in likelihood))
    if not (likelihood.precision.isfinite().all() and likelihood.linear.isfinite().all()):
        raise InputError("finite pixels, endmembers and noise", "some that are not", "mask the pixels that are not")
    n_endmembers = len(likelihood.precision)
    prior = PixelPrior.checked(concentration, brightness_scale, n_endmembers)
    rules = _Rules.of(prior.concentration)
    size = max(1, _WORKING // (_NODES * n_endmembers))
    parts = [_propagate(likelihood.precision, linear, prior, rules) for linear in likelihood.linear.split(size)]
    return Approximation(prior, *(torch.cat(each) for each in zip(*parts, strict=True)))


def _propagate(base: Tensor, linear: Tensor, prior: PixelPrior, rules: _Rules) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, covariance, precision and shift of the sites, of a few pixels."""
    precision, shift = _first_sites(prior, base, len(linear))
    mean, covariance, _ = _gaussian(base, linear, precision, shift, prior)
    damping = torch.full((len(linear), 1), _DAMPING, dtype=torch.float64)
    moving = torch.arange(len(linear))
    for _ in range(_MOST_STEPS):
        means, variances = _projections(mean[moving], covariance[moving])
        new_precision, new_shift = _match(means, variances, precision[moving], shift[moving], prior, rules)
        new_precision = torch.lerp(precision[moving], new_precision, damping[moving])
        new_shift = torch.lerp(shift[moving], new_shift, damping[moving])
        new_mean, new_covariance, proper = _gaussian(base, linear[moving], new_precision, new_shift, prior)
        k = new_mean.shape[1]
        new_variance = new_covariance.diagonal(dim1=1, dim2=2)
        moved = torch.maximum((new_mean - means[:, :k]).abs() / variances[:, :k].sqrt(),
                              (new_variance / variances[:, :k]).log().abs()).amax(dim=1)
        taken = moving[proper]
        mean[taken], covariance[taken] = new_mean[proper], new_covariance[proper]
        precision[taken], shift[taken] = new_precision[proper], new_shift[proper]
        damping[moving[~proper]] /= 2.0
        moving = moving[~(proper & (moved < _STILL))]
        if not len(moving):
            break
    return mean, covariance, precision, shift


def _first_sites(prior: PixelPrior, base: Tensor, n_pixels: int) -> tuple[Tensor, Tensor]:
    """Precision and shift `(n_pixels, K + 1)` whose product has mean and covariance of the prior.

    The covariance of a Dirichlet, and that of brightness times one, is a diagonal plus a multiple of mean mean^T; so its inverse
    is a diagonal plus a multiple of 1 1^T, which are just the sites.
    """
    total = prior.concentration.sum()
    middle = prior.concentration / total
    if prior.brightness_scale is None:
        spread, expected = 1.0 / (total + 1.0), 1.0
        # On the plane any weight of the sum will do; this one keeps the matrices well conditioned.
        of_sum = base.diagonal().mean()
    else:
        expected = math.exp(0.5 * prior.brightness_scale**2)
        variance = expected**2 * math.expm1(prior.brightness_scale**2)
        spread = (expected**2 + variance) / (total + 1.0)
        of_sum = (spread - variance) / (spread * variance)
    precision = torch.cat([1.0 / (spread * middle), of_sum[None]])
    shift = expected * torch.cat([(1.0 / spread).expand(len(middle)), of_sum[None]])
    return precision.repeat(n_pixels, 1), shift.repeat(n_pixels, 1)


def _gaussian(base: Tensor, linear: Tensor, precision: Tensor, shift: Tensor, prior: PixelPrior) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and covariance of likelihood times sites, and where they are proper."""
    inverse = base + torch.diag_embed(precision[:, :-1]) + precision[:, -1:, None]
    factor, failed = torch.linalg.cholesky_ex(inverse)
    factor[failed > 0] = torch.eye(len(base), dtype=torch.float64)  # of no use, but can be inverted
    covariance = torch.cholesky_inverse(factor)
    mean = (covariance @ (linear + shift[:, :-1] + shift[:, -1:])[..., None])[..., 0]
    if prior.on_simplex:  # given that x sums to one
        with_sum = covariance.sum(dim=2)
        of_sum = with_sum.sum(dim=1)[:, None]
        mean = mean + with_sum * ((1.0 - mean.sum(dim=1, keepdim=True)) / of_sum)
        covariance = covariance - with_sum[:, :, None] * (with_sum / of_sum)[:, None, :]
    variance = covariance.diagonal(dim1=1, dim2=2)
    # x is positive, so that none of its numbers can vary more than their sum is large; without a bound poles at zero drive
    # endmembers that hardly differ to plus and minus infinity.
    size = 1.0 + mean.sum(dim=1, keepdim=True).square()
    proper = ((variance > 0.0) & (variance < size) & mean.isfinite()).all(dim=1) & covariance.isfinite().all(dim=(1, 2))
    return mean, covariance, (failed == 0) & proper


def _projections(mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Means and variances `(n_pixels, K + 1)` of what the sites are about."""
    return (torch.cat([mean, mean.sum(dim=1, keepdim=True)], dim=1),
            torch.cat([covariance.diagonal(dim1=1, dim2=2), covariance.sum(dim=(1, 2))[:, None]], dim=1))


def _cavities(means: Tensor, variances: Tensor, precision: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and precision of everything but the site, which is no Gaussian where the precision is not positive."""
    cavity = 1.0 / variances - precision
    return (means / variances - shift) / cavity, cavity


def _match(means: Tensor, variances: Tensor, precision: Tensor, shift: Tensor, prior: PixelPrior,
           rules: _Rules) -> tuple[Tensor, Tensor]:
    """Sites that give cavity times site the moments of cavity times exact factor."""
    mean, cavity = _cavities(means, variances, precision, shift)
    proper = (cavity > 1e-10 / variances) & (variances > 0.0)
    mean, cavity = torch.where(proper, mean, 0.0), torch.where(proper, cavity, 1.0)
    sd = cavity.rsqrt()
    tilted_mean, tilted_variance = rules.moments(mean[:, :-1], sd[:, :-1])
    if prior.brightness_scale is None:
        proper[:, -1] = False
        of_sum = mean[:, -1], cavity[:, -1]
    else:
        of_sum = _sum_moments(mean[:, -1], sd[:, -1], prior.concentration.sum(), prior.brightness_scale)
    tilted_mean, tilted_variance = (torch.cat([each, last[:, None]], dim=1)
                                    for each, last in zip((tilted_mean, tilted_variance), of_sum, strict=True))
    return (torch.where(proper, 1.0 / tilted_variance - cavity, precision),
            torch.where(proper, tilted_mean / tilted_variance - mean * cavity, shift))


def reach(t: Tensor, concentration: Tensor, depth: float) -> tuple[Tensor, Tensor]:
    """Ends of the interval beyond which x^(concentration - 1) normal(x - t), x > 0, is below exp(-depth^2 / 2) of its peak.

    Not counted is the pole at zero where the interval starts above it. Measured in standard deviations, as `t` is.
    """
    power = (concentration - 1.0).clamp(min=0.0)
    root = (t.square() + 4.0 * power).sqrt()
    # How far the peak lies from t: small differences of large numbers are avoided.
    slope = torch.where(t < 0.0, 0.5 * (root - t), 2.0 * power / (root + t).clamp(min=1e-300))
    peak = torch.where(t < 0.0, 2.0 * power / (root - t).clamp(min=1e-300), 0.5 * (root + t))
    nothing = depth**2 / 3.0
    above = (nothing + (nothing**2 + 3.0 * nothing * power).sqrt()) / slope.clamp(min=1e-300)
    return (peak - depth).clamp(min=0.0), peak + above.clamp(max=depth)


class _Rules(NamedTuple):
    """Gauss-Jacobi nodes on (0, 1) and log weights for the poles x^(a_k - 1), `(_NODES, 1, K)`, and Gauss-Legendre ones
    `(_NODES, 1, 1)` for where the pole is out of reach."""

    concentration: Tensor
    at_pole: tuple[Tensor, Tensor]
    elsewhere: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, concentration: Tensor) -> _Rules:
        def rule(powers: Sequence[float]) -> tuple[Tensor, Tensor]:
            found = np.array([special.roots_jacobi(_NODES, 0.0, power) for power in powers])
            nodes, weights = torch.as_tensor(found).permute(1, 2, 0)[:, :, None]
            return 0.5 * (nodes + 1.0), weights.log()
        return cls(concentration, rule((concentration - 1.0).tolist()), rule([0.0]))

    def moments(self, mean: Tensor, sd: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of normal(mean, sd) x^(a_k - 1), x > 0; `(n_pixels, K)`."""
        t = (mean / sd).clamp(min=-_FARTHEST)
        low, high = reach(t, self.concentration, _REACH)
        (pole_nodes, pole_weights), (nodes, weights) = self.at_pole, self.elsewhere
        at_pole = low == 0.0
        x = low + (high - low) * torch.where(at_pole, pole_nodes, nodes)
        log_density = torch.where(at_pole, pole_weights, weights + (self.concentration - 1.0) * x.log()) - 0.5 * (x - t).square()
        mean, variance = _moments(x, log_density)
        return sd * mean, sd.square() * variance


def _moments(x: Tensor, log_density: Tensor) -> tuple[Tensor, Tensor]:
    share = torch.softmax(log_density, dim=0)
    mean = (share * x).sum(dim=0)
    return mean, (share * (x - mean).square()).sum(dim=0)


def _sum_moments(mean: Tensor, sd: Tensor, total: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Mean and variance of normal(mean, sd) LogNormal(s; 0, scale) s^(1 - total); `(n_pixels,)`.

    The trapezoidal rule in log s around the peak, which Newton steps find whose curvature never turns.
    """
    middle = -(total - 1.0) * scale**2
    # Where the slope of the normal is as large as that of the prior one standard deviation from its peak.
    root = torch.hypot(mean, 2.0 * sd / scale)
    start = torch.where(mean < 0.0, 2.0 * (sd / scale).square() / (root - mean), 0.5 * (root + mean)).log()
    log_s = torch.minimum(start, torch.maximum(mean.clamp(min=1e-300).log(), middle))
    for _ in range(12):
        s = log_s.exp()
        curvature = 1.0 / scale**2 + s * torch.maximum(2.0 * s - mean, s) / sd.square()
        slope = (middle - log_s) / scale**2 - s * (s - mean) / sd.square()
        log_s = log_s + (slope / curvature).clamp(-1.0, 1.0)
    log_s = log_s + torch.linspace(-8.0, 8.0, _SUM_NODES, dtype=torch.float64)[:, None] / curvature.sqrt()
    s = log_s.exp()
    return _moments(s, -0.5 * ((log_s - middle) / scale).square() - 0.5 * ((s - mean) / sd).square())


def _untilted(mean: Tensor, variance: Tensor, concentration: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sd of the normal that times x^(a_k - 1), x > 0, has the given moments; `(n_pixels, K)`."""
    mean, variance = mean.clamp(min=1e-15), variance.clamp(min=1e-30)
    t = torch.linspace(-4.5, 4.5, 257, dtype=torch.float64).sinh()[:, None].expand(-1, len(concentration))
    table_mean, table_variance = _Rules.of(concentration).moments(t, torch.ones_like(t))
    # Variance over squared mean falls with t, from that of a gamma distribution to none.
    relative = -(table_variance / table_mean.square()).log()
    wanted = -(variance / mean.square()).log()
    after = torch.searchsorted(relative.T.contiguous(), wanted.T.contiguous()).T.clamp(1, len(t) - 1)
    low, high = relative.gather(0, after - 1), relative.gather(0, after)
    share = ((wanted - low) / (high - low)).clamp(0.0, 1.0)
    t, log_mean = (torch.lerp(each.gather(0, after - 1), each.gather(0, after), share) for each in (t, table_mean.log()))
    sd = mean / log_mean.exp()
    beyond = wanted > relative[-1]
    return torch.where(beyond, mean, t * sd), torch.where(beyond, variance.sqrt(), sd)


def _tilted_quantiles(mean: Tensor, sd: Tensor, concentration: Tensor, levels: Tensor) -> Tensor:
    """`(n_pixels, K, n_levels)`: of normal(mean, sd) x^(a_k - 1) on [0, 1], from cells equal in x^min(a_k, 1) at the pole."""
    t, one = (mean / sd).clamp(min=-_FARTHEST), 1.0 / sd
    low, high = reach(t, concentration, 6.0)
    low, high = torch.minimum(low, (one - 6.0).clamp(min=0.0)), torch.minimum(high, one)
    power = torch.where(low == 0.0, concentration.clamp(max=1.0), 1.0)[..., None]
    low, span = low[..., None], (high - low)[..., None]
    middles = (torch.arange(_CELLS, dtype=torch.float64) + 0.5) / _CELLS
    x = low + span * middles ** (1.0 / power)
    mass = torch.softmax((concentration[..., None] - power) * x.log() - 0.5 * (x - t[..., None]).square(), dim=-1)
    reached = mass.cumsum(dim=-1)
    cell = torch.searchsorted(reached, levels.contiguous()).clamp(max=_CELLS - 1)
    inside = 1.0 - (reached.gather(-1, cell) - levels) / mass.gather(-1, cell).clamp(min=1e-300)
    x = low + span * ((cell + inside.clamp(0.0, 1.0)) / _CELLS) ** (1.0 / power)
    return (sd[..., None] * x).clamp(max=1.0)

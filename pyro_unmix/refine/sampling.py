"""The exact posterior of single pixels: independent weighted draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_unmix.errors import InputError
from pyro_unmix.likelihood import PixelLikelihood
from pyro_unmix.refine.propagation import Approximation, PixelPrior, propagate, reach

# Draws worked on at a time, all pixels of a part together. Working arrays then hold 30 MB where K is 10; with a single draw a
# pixel it is the matrices of the pixels that count, 160 MB.
_WORKING = 2**15
_CELLS = 32
# Of the cells, and where a pole at a bound is no longer felt; in standard deviations.
_DEPTH = 5.0
# Share of draws from a heavy tail beyond the cells.
_STRAY = 2e-3
_LEAST = 1e-300


class Draws(NamedTuple):
    """Draws of every pixel, independent of each other, that stand for the posterior once weighted.

    Attributes
    ----------
    abundances
        `(n_draws, n_pixels, K)`.
    brightness
        `(n_draws, n_pixels)`; None where there is none.
    log_weights
        `(n_draws, n_pixels)`: log of prior times likelihood over the density drawn from. The mean of the weights is an unbiased
        estimate of the evidence p(y_n).
    """

    abundances: Tensor
    brightness: Tensor | None
    log_weights: Tensor

    @property
    def weights(self) -> Tensor:
        """`(n_draws, n_pixels)`, those of a pixel sum to one."""
        return self.log_weights.softmax(dim=0)

    def effective(self) -> Tensor:
        """`(n_pixels,)`: number of equally weighted draws that are worth as much (Kish 1965, Survey Sampling)."""
        return 1.0 / self.weights.square().sum(dim=0)

    def mean(self) -> Tensor:
        """`(n_pixels, K)`."""
        return torch.einsum("dn,dnk->nk", self.weights, self.abundances)

    def sd(self) -> Tensor:
        """`(n_pixels, K)`."""
        return torch.einsum("dn,dnk->nk", self.weights, (self.abundances - self.mean()).square()).sqrt()

    def quantiles(self, levels: Sequence[float] | Tensor) -> Tensor:
        """`(n_levels, n_pixels, K)`, each draw in the middle of its weight and straight lines between."""
        levels = torch.as_tensor(levels, dtype=self.abundances.dtype)
        parts = _slices(self.abundances.shape[1], max(1, _WORKING // len(self.abundances)))
        return torch.cat([_quantiles(self.abundances[:, part], self.weights[:, part], levels) for part in parts], dim=1)

    def resample(self, n_draws: int) -> Draws:
        """Equally weighted draws by systematic resampling, pixel by pixel (Kitagawa 1996, JCGS 5, 1-25)."""
        _check_count(n_draws)
        reached = self.weights.cumsum(dim=0)
        reached = (reached / reached[-1]).T.contiguous()
        steps = torch.arange(n_draws, dtype=reached.dtype) + torch.rand(len(reached), 1, dtype=reached.dtype)
        chosen = torch.searchsorted(reached, steps / n_draws, right=True).clamp(max=len(self.abundances) - 1).T
        log_evidence = self.log_weights.logsumexp(dim=0) - math.log(len(self.log_weights))
        return Draws(self.abundances.take_along_dim(chosen[..., None], dim=0),
                     None if self.brightness is None else self.brightness.take_along_dim(chosen, dim=0),
                     log_evidence.repeat(n_draws, 1))


def draw(likelihood: PixelLikelihood, concentration: Tensor, brightness_scale: float | None, n_draws: int) -> Draws:
    """Weighted draws from the posterior of every pixel, exact whatever the approximation they are proposed from.

    A pixel's numbers x are drawn in turn, the least certain to be positive first. Each comes from its Gaussian given those
    before, as expectation propagation has it, with its own site replaced by the exact factor, truncated to what is left of the
    simplex; without brightness the last takes the rest. A draw's weight is prior times likelihood over the density it came from.
    For truncated normals this is the sequence of Genz (1992), JCGS 1, "Numerical computation of multivariate normal
    probabilities", section 2, in which the factors still to come are ignored; here their sites stand for them.

    Parameters
    ----------
    likelihood, concentration, brightness_scale
        As of `propagation.propagate`.
    n_draws
        For every pixel. Random numbers are those of torch's global generator.

    Raises
    ------
    InputError
        Fewer than one draw, a likelihood that is not finite, or a prior that is none.
    """
    _check_count(n_draws)
    likelihood = PixelLikelihood(*(part.to(torch.float64) for part in likelihood))
    approximation = propagate(likelihood, concentration, brightness_scale)
    prior = approximation.prior
    cells = _Cells.of(prior.concentration)
    n_pixels, n_endmembers = likelihood.linear.shape
    x = torch.empty(n_draws, n_pixels, n_endmembers, dtype=torch.float64)
    log_weights = torch.empty(n_draws, n_pixels, dtype=torch.float64)
    for pixels in _slices(n_pixels, max(1, _WORKING // n_draws)):
        chain = _Chain.of(approximation, pixels)
        part = PixelLikelihood(likelihood.precision, likelihood.linear[pixels], likelihood.constant[pixels])
        for rows in _slices(n_draws, _WORKING):
            x[rows, pixels], log_density = chain.draw(rows.stop - rows.start, prior, cells)
            log_weights[rows, pixels] = part.log_prob(x[rows, pixels]) + prior.log_prob(x[rows, pixels]) - log_density
    if prior.on_simplex:
        return Draws(x, None, log_weights)
    brightness = x.sum(dim=2)
    return Draws(x.div_(brightness[..., None]), brightness, log_weights)


def _quantiles(draws: Tensor, weights: Tensor, levels: Tensor) -> Tensor:
    values, order = draws.movedim(0, -1).sort(dim=-1)
    weights = weights.T[:, None].expand_as(values).gather(-1, order)
    position = weights.cumsum(dim=-1) - 0.5 * weights
    wanted = levels.expand(*values.shape[:-1], len(levels)).contiguous()
    after = torch.searchsorted(position, wanted).clamp(max=len(draws) - 1)
    before = (after - 1).clamp(min=0)
    low, high = position.gather(-1, before), position.gather(-1, after)
    share = ((wanted - low) / (high - low).clamp(min=_LEAST)).clamp(0.0, 1.0)
    return torch.lerp(values.gather(-1, before), values.gather(-1, after), share).movedim(-1, 0)


def _check_count(n_draws: int) -> None:
    if n_draws < 1:
        raise InputError("at least one draw", f"{n_draws}")


def _slices(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


class _Chain(NamedTuple):
    """The Gaussian of each pixel as a chain of conditionals, its numbers in the order they are drawn in.

    `order`, `mean` `(n_pixels, K)`; `factor` `(n_pixels, K', K')`, lower Cholesky factor of the covariance of all but what takes
    the rest; `precision` and `shift` `(n_pixels, K)` of the sites.
    """

    order: Tensor
    mean: Tensor
    factor: Tensor
    precision: Tensor
    shift: Tensor

    @classmethod
    def of(cls, approximation: Approximation, pixels: slice) -> _Chain:
        mean, covariance, precision, shift = (part[pixels] for part in approximation[1:])
        sd = covariance.diagonal(dim1=1, dim2=2).sqrt()
        order = (mean / sd).argsort(dim=1)
        mean, precision, shift, sd = (part.gather(1, order) for part in (mean, precision, shift, sd))
        covariance = covariance.take_along_dim(order[:, :, None], dim=1).take_along_dim(order[:, None, :], dim=2)
        n_drawn = mean.shape[1] - approximation.prior.on_simplex
        # A proposal need not be the best one: a small ridge makes every factor exist.
        correlation = covariance / sd[:, :, None] / sd[:, None, :] + 1e-9 * torch.eye(mean.shape[1], dtype=torch.float64)
        factor, failed = torch.linalg.cholesky_ex(correlation[:, :n_drawn, :n_drawn])
        factor[failed > 0] = torch.eye(n_drawn, dtype=torch.float64)
        return cls(order, mean, factor * sd[:, :n_drawn, None], precision, shift)

    def draw(self, n_draws: int, prior: PixelPrior, cells: _Cells) -> tuple[Tensor, Tensor]:
        """x `(n_draws, n_pixels, K)` and the log of the density it was drawn from `(n_draws, n_pixels)`."""
        n_drawn = self.factor.shape[1]
        standard: list[Tensor] = []
        drawn: list[Tensor] = []
        log_density = torch.zeros(n_draws, len(self.order), dtype=torch.float64)
        room = torch.full_like(log_density, 1.0 if prior.on_simplex else math.inf)
        for j in range(n_drawn):
            mean = self.mean[:, j].expand(n_draws, -1)
            for i in range(j):
                mean = torch.addcmul(mean, standard[i], self.factor[:, j, i])
            scale = self.factor[:, j, j]
            precision, shift = scale**-2 - self.precision[:, j], mean / scale**2 - self.shift[:, j]
            at_zero, at_room = self.order[:, j], torch.full_like(self.order[:, j], cells.none)
            if prior.on_simplex and j == n_drawn - 1:  # the rest is what the last one gets
                precision, at_room = precision - self.precision[:, -1], self.order[:, -1]
                shift = shift + self.shift[:, -1] - self.precision[:, -1] * room
            # Where nothing or less is left of a precision, any wide proposal will do.
            least = 1e-9 * scale**-2
            centre, precision = torch.where(precision > least, shift / precision, mean), torch.maximum(precision, least)
            x, room, log_share = _between(centre, precision.rsqrt(), room, at_zero, at_room, cells)
            standard.append((x - mean) / scale)
            drawn.append(x)
            log_density += log_share
        if prior.on_simplex:
            drawn.append(room)
        x = torch.stack(drawn, dim=-1).clamp_(min=_LEAST)
        return torch.empty_like(x).scatter_(2, self.order.expand_as(x), x), log_density


def _between(mean: Tensor, sd: Tensor, room: Tensor, at_zero: Tensor, at_room: Tensor,
             cells: _Cells) -> tuple[Tensor, Tensor, Tensor]:
    """Draw x from about normal(mean, sd) x^(a - 1) (room - x)^(b - 1), 0 < x < room.

    `at_zero`, `at_room` `(n_pixels,)` are numbers of endmembers, whose concentrations are a and b. Returns x, room - x and the
    log of the density of x, `(n_draws, n_pixels)`.
    """
    t, width = mean / sd, (room / sd).clamp(min=_LEAST)
    in_cells = None
    if not cells.needless:
        a, b = cells.concentration[at_zero], cells.concentration[at_room]
        in_cells = ((a != 1.0) & (t < _DEPTH)) | ((b != 1.0) & (width - t < _DEPTH))
        # Far from the poles their factors are smooth: a Newton step to the mode, and the curvature there.
        near, far = t.clamp(min=_DEPTH), (width - t).clamp(min=_DEPTH)
        slope, curvature = (a - 1.0) / near - (b - 1.0) / far, 1.0 + (a - 1.0) / near.square() + (b - 1.0) / far.square()
        slope, curvature = torch.where(in_cells, 0.0, slope), torch.where(in_cells, 1.0, curvature)
        root = curvature.sqrt()
        t, width, sd = (t + slope / curvature) * root, width * root, sd / root
    # Distances are measured from the bound that is nearer to the mean, so that small ones keep their digits.
    from_zero = t < 0.5 * width
    inside = torch.where(from_zero, t, width - t)
    distance, log_density = _truncated_normal(inside, width)
    rest = width - distance
    if in_cells is not None and in_cells.any():
        some = in_cells.nonzero(as_tuple=True)
        ends = torch.where(from_zero, at_zero, at_room)[some], torch.where(from_zero, at_room, at_zero)[some]
        distance[some], rest[some], log_density[some] = cells.draw(inside[some], width[some], *ends)
    x, left = torch.where(from_zero, distance, rest), torch.where(from_zero, rest, distance)
    return sd * x, sd * left.clamp(min=0.0), log_density - sd.log()


def _truncated_normal(inside: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """Draw from normal(inside, 1) on (0, width), inside <= width / 2; returns it and the log of its density.

    By the inverse distribution function; where that loses its digits, far in the tail or in a narrow interval, from a truncated
    exponential of about the same slope, with the density of that.
    """
    uniform = 1.0 - torch.rand_like(inside)
    root = math.sqrt(0.5)
    start = torch.erf(root * (inside - width).clamp(min=-8.2))  # beyond, it is no longer told from -1
    mass = torch.erf(root * inside) - start
    distance = (inside - torch.erfinv(start + uniform * mass) / root).clamp(min=0.0).minimum(width)
    log_density = -0.5 * (distance - inside).square() - (mass * math.sqrt(math.pi / 2.0)).log()
    steep = (inside < -5.0) | (width < 0.1)
    if steep.any():
        uniform, inside, width = uniform[steep], inside[steep], width[steep]
        rate = torch.maximum(0.5 * torch.minimum(width, 2.0 / inside.abs()) - inside, 1e-8 / width)
        mass = -torch.expm1(-rate * width)
        distance[steep] = -torch.log1p(-uniform * mass) / rate
        log_density[steep] = rate.log() - rate * distance[steep] - mass.log()
    return distance, log_density


class _Cells(NamedTuple):
    """Maps r -> T(r) of (0, 1) onto itself, so that cells of equal r are narrow at a pole of T = 0 or 1: one for each pair of
    endmembers, no endmember counted as one more.

    T = r^c / (r^c + (1-r)^d), c = 1 / min(a, 1), d = 1 / min(b, 1): with this T^(a-1) (1-T)^(b-1) dT/dr has no poles.

    `concentration` `(K + 1,)`, that of none is 1; `nodes` and `log_factor` `((K + 1)^2, _CELLS)`: T and the log of
    T^(a-1) (1-T)^(b-1) dT/dr in the middle of each cell.
    """

    concentration: Tensor
    nodes: Tensor
    log_factor: Tensor

    @classmethod
    def of(cls, concentration: Tensor) -> _Cells:
        concentration = torch.cat([concentration, torch.ones(1, dtype=torch.float64)])
        a, b = concentration[:, None, None], concentration[None, :, None]
        log_t, log_rest, log_slope = _from_cells((torch.arange(_CELLS, dtype=torch.float64) + 0.5) / _CELLS, a, b)
        log_factor = (a - 1.0) * log_t + (b - 1.0) * log_rest + log_slope
        return cls(concentration, log_t.exp().flatten(0, 1), log_factor.flatten(0, 1))

    @property
    def needless(self) -> bool:
        return bool((self.concentration == 1.0).all())

    @property
    def none(self) -> int:
        """The number that stands for no endmember."""
        return len(self.concentration) - 1

    def draw(self, inside: Tensor, width: Tensor, near: Tensor, far: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draw y from about normal(inside, 1) y^(a - 1) (width - y)^(b - 1) on (0, width), a that of `near` and b that of `far`.

        Constant in cells of equal r up to where the density is negligible, and a few draws of density 1 / y^2 beyond. Returns
        y, width - y and the log of the density, all `(n,)`.
        """
        inside = inside.clamp(min=-1e5)
        high = reach(inside, self.concentration[near], _DEPTH)[1]
        high = torch.where(width < 1.5 * high, width, high)
        whole = high == width
        far = torch.where(whole, far, self.none)
        uniform, within = torch.rand(2, len(inside), dtype=torch.float64)
        some = torch.where(whole, 0.0, _STRAY)
        stray, beyond = uniform < some, 1.0 - high / width
        parts = zip(*(part.split(_WORKING // _CELLS) for part in
                      (inside, high, near * len(self.concentration) + far, (uniform - some) / (1.0 - some))), strict=True)
        cell, share = (torch.cat(each) for each in zip(*(self._choose(*part) for part in parts), strict=True))
        r = ((cell + within) / _CELLS).clamp(1e-17, 1.0 - 1e-16)
        log_t, log_rest, log_slope = _from_cells(r, self.concentration[near], self.concentration[far])
        y = torch.where(stray, high / (1.0 - within * beyond), high * log_t.exp())
        rest = torch.where(stray, width - y, width - high + high * log_rest.exp())
        log_density = (_CELLS * (1.0 - some) * share / high).log() - log_slope
        return y, rest, torch.where(stray, (_STRAY * high / beyond).log() - 2.0 * y.log(), log_density)

    def _choose(self, inside: Tensor, high: Tensor, pair: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Number of a cell and its share of the mass below `high`, for each of n `uniform` numbers."""
        mass = self.nodes.index_select(0, pair).mul_(high[:, None]).sub_(inside[:, None]).square_().mul_(-0.5)
        mass.add_(self.log_factor.index_select(0, pair))
        mass.sub_(mass.amax(dim=1, keepdim=True)).exp_()
        reached = mass.cumsum(dim=1)
        cell = torch.searchsorted(reached, (uniform * reached[:, -1])[:, None]).clamp(max=_CELLS - 1)
        return cell[:, 0], mass.gather(1, cell)[:, 0] / reached[:, -1]


def _from_cells(r: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log T, log(1 - T) and log dT/dr, as `_Cells` has them."""
    c, d = 1.0 / a.clamp(max=1.0), 1.0 / b.clamp(max=1.0)
    log_r, log_rest = r.log(), (-r).log1p()
    log_sum = torch.logaddexp(c * log_r, d * log_rest)
    log_t, log_one_less = c * log_r - log_sum, d * log_rest - log_sum
    return log_t, log_one_less, log_t + log_one_less + (c / r + d / (1.0 - r)).log()

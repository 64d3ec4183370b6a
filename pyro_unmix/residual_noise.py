"""The covariance of the noise, from what no mixture of the endmembers explains."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_unmix.errors import InputError
from pyro_unmix.noise import BandNoise, DiagonalNoise, LowRankNoise, SmoothNoise, smooth_correlation
from pyro_unmix.numerics import one_thread

_LEAST_PIXELS, _MOST_PIXELS = 5, 4000
_RANKS = (2, 4, 8)
# Pixels, and directions, that a factor needs: with fewer, chance alone makes factors.
_PER_FACTOR = 5
# Second moments outside the endmembers that the scale of a band needs: with fewer, chance makes some of them zero.
_PER_BAND = 2
# Least standard deviation of the noise, in units of the root mean square of the pixels.
_FLOOR = 1e-4
# Singular values of the endmembers, relative to the largest, below which they span nothing.
_SAME = 1e-6
# Steps of Fisher scoring, and the gain in nats a pixel that ends them.
_STEPS, _CONVERGED = 30, 1e-3


@one_thread()
def noise_of_residuals(
    pixels: np.ndarray | Tensor,
    endmembers: np.ndarray | Tensor,
    wavelengths: np.ndarray | Tensor | None = None,
    *,
    n_effective: float | None = None,
) -> tuple[BandNoise, pd.DataFrame]:
    """Fit the noise of linearly mixed pixels, and choose its structure by evidence.

    By restricted maximum likelihood (Patterson and Thompson 1971, Biometrika 58; Harville 1977, JASA 72): the density of the
    pixels projected on the orthogonal complement of the endmembers, which depends neither on abundances nor on brightness.
    Candidates: white, one scale for all bands; diagonal; smooth, `SmoothNoise` with a scale for every band; low rank,
    `LowRankNoise` of 2, 4 and 8 factors, where there are five pixels and five directions for each. The least BIC wins. Only white
    where there are hardly more bands than endmembers (8 to 3) and their scales cannot be told apart.

    Noise inside the span of the endmembers is not seen here, yet it alone moves the abundances. White, diagonal and smooth noise
    say by their structure what it is. Factors do not: inside the span they are taken to be as strong as along the endmembers
    shifted over the bands, directions as smooth as their own, and independent of what they do outside. This is ours; it adds as
    many rows to the loadings as the endmembers have dimensions.

    More than 4000 pixels are drawn from, at random, by torch's global generator.

    Parameters
    ----------
    pixels
        `(n_pixels, n_bands)`, in the unit of the scene, at least 5. A band that is zero in all of them takes no part: its scale
        is the root mean square of what the endmembers, fitted to the other bands, would have there.
    endmembers
        `(n_endmembers, n_bands)`, of any amplitude. They may depend on each other.
    wavelengths
        `(n_bands,)` in nm, in any order. None: bands are taken as 10 nm apart.
    n_effective
        How many independent pixels these are worth, 5 or more: neighbours of a real scene err together. At most the number
        that is looked at, and that number where None.

    Returns
    -------
    noise
        The winner, its scale the estimate, in the unit of the scene.
    table
        One row a candidate, the best first: `noise`, `n_parameters`, `log_likelihood` (restricted, nats a pixel), `bic`.

    Raises
    ------
    InputError
        Fewer than 5 pixels, shapes that do not fit, values that are not finite, fewer than two bands that are not zero, or
        endmembers that span all bands.
    """
    pixels, endmembers, wavelengths = _checked(pixels, endmembers, wavelengths)
    if n_effective is not None and not n_effective >= _LEAST_PIXELS:
        raise InputError(f"at least {_LEAST_PIXELS} effective pixels", f"{n_effective}")
    if len(pixels) > _MOST_PIXELS:
        pixels = pixels[torch.randperm(len(pixels))[:_MOST_PIXELS]]
    residuals = _residuals(pixels, endmembers, wavelengths)
    candidates = [_white(residuals)]
    if residuals.n_moments >= _PER_BAND * len(residuals.gram):
        diagonal = _low_rank(residuals, 0, residuals.rms)
        ranks = [rank for rank in _RANKS if _PER_FACTOR * rank <= min(len(pixels), residuals.n_directions)]
        candidates += [diagonal, _smooth(residuals, diagonal.noise.scale)]
        candidates += [_low_rank(residuals, rank, diagonal.noise.scale) for rank in ranks]

    weight = min(len(pixels), n_effective or math.inf)
    table = pd.DataFrame({
        "noise": [each.name for each in candidates],
        "n_parameters": [each.n_parameters for each in candidates],
        "log_likelihood": [-each.loss for each in candidates],
        "bic": [2 * weight * each.loss + each.n_parameters * math.log(weight) for each in candidates],
    })
    return candidates[int(table["bic"].argmin())].noise, table.sort_values("bic", ignore_index=True)


class _Candidate(NamedTuple):
    """A noise, the number of its parameters, and its negative restricted log likelihood in nats a pixel."""

    name: str
    n_parameters: int
    loss: float
    noise: BandNoise


class _Loss(NamedTuple):
    """A negative restricted log likelihood in nats a pixel, its gradient `(n,)` and its expected second derivatives `(n, n)`."""

    value: Tensor
    gradient: Tensor
    information: Tensor


class _Residuals(NamedTuple):
    """What no mixture explains. A of the bands are alive: not zero in all pixels.

    Attributes
    ----------
    alive, rms
        `(n_bands,)`: which bands are; root mean square of the residuals, at least the floor.
    basis, gram
        `(A, m)`: orthonormal, of the span of the endmembers. `(A, A)`: mean product of residuals, plus the floor, outside of it.
    wavelengths, positions
        `(n_bands,)` or None; `(A,)` in nm.
    floor
        Least standard deviation.
    """

    alive: Tensor
    rms: Tensor
    basis: Tensor
    gram: Tensor
    wavelengths: Tensor | None
    positions: Tensor
    floor: float

    @property
    def n_directions(self) -> int:
        """Dimensions outside the span of the endmembers."""
        return self.basis.shape[0] - self.basis.shape[1]

    @property
    def n_moments(self) -> int:
        """Numbers in a covariance there."""
        return self.n_directions * (self.n_directions + 1) // 2

    def scale(self, deviation: Tensor) -> Tensor:
        """`(n_bands,)`: `deviation` `(A,)` in living bands, the root mean square of the residuals in dead ones."""
        return self.rms.masked_scatter(self.alive, deviation)


def _checked(
    pixels: np.ndarray | Tensor, endmembers: np.ndarray | Tensor, wavelengths: np.ndarray | Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Float64 copies, once they are known to fit together."""
    pixels, endmembers = _double(pixels), _double(endmembers)
    if pixels.ndim != 2 or len(pixels) < _LEAST_PIXELS or not pixels.isfinite().all():
        raise InputError(f"finite pixels (n_pixels, n_bands), at least {_LEAST_PIXELS} of them",
                         f"an array of shape {tuple(pixels.shape)}", "leave out pixels and bands without a value")
    n_bands, n_alive = pixels.shape[1], int((pixels != 0).any(dim=0).sum())
    if n_alive < 2:
        raise InputError("two bands at least that are not zero in all pixels", f"{n_alive}")
    if endmembers.ndim != 2 or endmembers.shape[1] != n_bands or not endmembers.isfinite().all():
        raise InputError(f"finite endmembers (n_endmembers, {n_bands})", f"an array of shape {tuple(endmembers.shape)}")
    if wavelengths is not None:
        wavelengths = _double(wavelengths)
        if wavelengths.shape != (n_bands,) or not wavelengths.isfinite().all() or len(wavelengths.unique()) < n_bands:
            raise InputError(f"finite wavelengths ({n_bands},), no two the same", f"an array of shape {tuple(wavelengths.shape)}")
    return pixels, endmembers, wavelengths


def _double(array: np.ndarray | Tensor) -> Tensor:
    if isinstance(array, Tensor):
        return array.detach().cpu().to(torch.float64, copy=True)
    return torch.as_tensor(np.array(array, dtype=np.float64))


def _residuals(pixels: Tensor, endmembers: Tensor, wavelengths: Tensor | None) -> _Residuals:
    alive = (pixels != 0).any(dim=0)
    left, values, right = torch.linalg.svd(endmembers[:, alive].T, full_matrices=False)
    kept = values > _SAME * values.max()
    basis = left[:, kept]
    if basis.shape[0] == basis.shape[1]:
        raise InputError("endmembers that do not span all bands", f"{len(endmembers)} in {len(basis)} bands",
                         "noise is measured where no mixture reaches")
    floor = _FLOOR * float(pixels.square().mean().sqrt())
    residual = pixels - pixels[:, alive] @ basis / values[kept] @ right[kept] @ endmembers
    rms = residual.square().mean(dim=0).sqrt().clamp(min=floor)
    gram = residual[:, alive].T @ residual[:, alive] / len(residual) + floor**2 * _outside(basis)
    positions = 10.0 * torch.arange(len(alive), dtype=torch.float64) if wavelengths is None else wavelengths
    return _Residuals(alive, rms, basis, gram, wavelengths, positions[alive], floor)


def _outside(basis: Tensor) -> Tensor:
    """Projector `(A, A)` on what an orthonormal `basis` `(A, m)` does not span."""
    return torch.eye(len(basis), dtype=basis.dtype) - basis @ basis.T


def _white(residuals: _Residuals) -> _Candidate:
    n = residuals.n_directions
    variance = residuals.gram.trace() / n
    loss = 0.5 * n * (math.log(2 * math.pi) + variance.log() + 1)
    scale = residuals.scale(variance.sqrt().expand(len(residuals.gram)))
    return _Candidate("white", 1, float(loss), DiagonalNoise(scale, floor=residuals.floor))


def _low_rank(residuals: _Residuals, rank: int, start: Tensor) -> _Candidate:
    """Noise of `rank` factors, from scales `(n_bands,)`; without factors, diagonal noise."""
    low = torch.full_like(residuals.positions, 2 * math.log(residuals.floor))
    log_variance, loss = _minimise(lambda x: _factors(residuals, rank, x)[0], 2 * start[residuals.alive].double().log(),
                                   low, torch.full_like(low, math.inf))
    scale = residuals.scale((log_variance / 2).exp())
    n_parameters = len(low) * (1 + rank) - rank * (rank - 1) // 2  # loadings turned into each other are the same
    if rank == 0:
        return _Candidate("diagonal", n_parameters, loss, DiagonalNoise(scale, floor=residuals.floor))
    _, basis, seen = _factors(residuals, rank, log_variance)
    shifted = torch.stack([basis.roll(by, dims=0) for by in range(1, len(basis))])
    strength = (seen @ shifted).square().sum() / (_outside(basis) @ shifted).square().sum()
    loadings = torch.zeros(rank + basis.shape[1], len(scale), dtype=torch.float64)
    loadings[:, residuals.alive] = torch.cat([seen, strength.sqrt() * basis.T])
    return _Candidate(f"low rank {rank}", n_parameters, loss, LowRankNoise(scale, loadings, floor=residuals.floor))


def _factors(residuals: _Residuals, rank: int, log_variance: Tensor) -> tuple[_Loss, Tensor, Tensor]:
    """Loss of the log of the variances `(A,)` of the independent part, at the likeliest loadings.

    Joreskog (1967), Psychometrika 32, "Some contributions to maximum likelihood factor analysis", outside the endmembers: in
    units of the independent part loadings are the leading eigenvectors, as far as they exceed it, and expected second
    derivatives the squares of the projector on what neither endmembers nor factors span. With the loss, in these units: an
    orthonormal basis `(A, m)` of the endmembers, and the loadings `(rank, A)`.
    """
    deviation = (log_variance / 2).exp()
    basis, triangle = torch.linalg.qr(residuals.basis / deviation[:, None])
    outside = _outside(basis)
    gram = outside @ (residuals.gram / deviation / deviation[:, None]) @ outside
    values, vectors = (each[..., len(deviation) - rank:] for each in torch.linalg.eigh(gram))
    excess = (values - 1).clamp(min=0)
    vectors = vectors * (excess > 0)
    constant = residuals.n_directions * math.log(2 * math.pi)
    log_det = log_variance.sum() + 2 * triangle.diagonal().abs().log().sum() + excess.log1p().sum()
    loss = _Loss(0.5 * (constant + log_det + gram.trace() - excess.sum()),
                 0.5 * (outside.diagonal() - gram.diagonal() + vectors.square() @ excess),
                 0.5 * (outside - vectors @ vectors.T).square())
    return loss, basis, (vectors * excess.sqrt()).T


def _smooth(residuals: _Residuals, start: Tensor) -> _Candidate:
    """Smooth noise, from scales `(n_bands,)`."""
    log_scale = start[residuals.alive].double().log()
    apart = residuals.positions.sort().values.diff()

    def unknowns(log_scale: Tensor, length_scale: float, logit: float) -> Tensor:
        return torch.cat([log_scale, torch.tensor([math.log(length_scale), logit], dtype=torch.float64)])

    starts = [unknowns(log_scale, bands * float(apart.median()), logit) for bands in (1, 3, 10, 30) for logit in (0.0, 3.0)]
    likeliest = min(starts, key=lambda x: float(_stationary(residuals, x).value))
    low = unknowns(torch.full_like(log_scale, math.log(residuals.floor)), float(apart.median()) / 3, -7.0)
    high = unknowns(torch.full_like(log_scale, math.inf), float(apart.sum()), 7.0)
    best, loss = _minimise(lambda x: _stationary(residuals, x), likeliest, low, high)
    noise = SmoothNoise(residuals.scale(best[:-2].exp()), float(best[-2].exp()), float(best[-1].sigmoid()), residuals.wavelengths,
                        floor=residuals.floor)
    return _Candidate("smooth", len(best), loss, noise)


def _stationary(residuals: _Residuals, unknowns: Tensor) -> _Loss:
    """Loss of smooth noise, of the logs of its scales `(A,)`, the log of its length scale and the logit of its share.

    Gradient and expected second derivatives are those of Harville (1977).
    """
    scale, length_scale, share = unknowns[:-2].exp(), unknowns[-2].exp(), unknowns[-1].sigmoid()
    scales = scale[:, None] * scale
    identity = torch.eye(len(scale), dtype=scale.dtype)
    smooth = smooth_correlation(residuals.positions, length_scale)
    scaled = math.sqrt(3.0) * (residuals.positions[:, None] - residuals.positions).abs() / length_scale
    covariance = scales * (share * smooth + (1 - share) * identity)
    # Derivatives of the covariance by the last two unknowns.
    changes = scales * share * torch.stack([scaled.square() * (-scaled).exp(), (1 - share) * (smooth - identity)])
    factor = torch.linalg.cholesky(covariance)
    inverse = torch.cholesky_inverse(factor)
    solved = inverse @ residuals.basis
    inner = residuals.basis.T @ solved
    precision = inverse - solved @ torch.linalg.solve(inner, solved.T)  # P: the inverse outside the endmembers
    whitened = precision @ residuals.gram
    excess = precision - whitened @ precision
    projected, changed = covariance @ precision, precision @ changes
    bands = projected * projected.T + precision * (projected @ covariance)
    mixed = (precision * (projected @ changes)).sum(dim=-1)
    others = 0.5 * torch.einsum("aij,bji->ab", changed, changed)
    constant = residuals.n_directions * math.log(2 * math.pi)
    log_det = 2 * factor.diagonal().log().sum() + inner.logdet()
    return _Loss(0.5 * (constant + log_det + whitened.trace()),
                 torch.cat([(covariance * excess).sum(dim=-1), 0.5 * (changes * excess).sum(dim=(1, 2))]),
                 torch.cat([torch.cat([bands, mixed.T], dim=1), torch.cat([mixed, others], dim=1)]))


def _minimise(loss: Callable[[Tensor], _Loss], start: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, float]:
    """Fisher scoring within bounds, steps halved until the loss falls: where it ends, and the loss there."""
    x = start.clamp(low, high)
    here = loss(x)
    for _ in range(_STEPS):
        free = ~((x <= low) & (here.gradient > 0) | (x >= high) & (here.gradient < 0))
        ridge = 1e-6 * torch.eye(int(free.sum()), dtype=x.dtype)
        step = torch.zeros_like(x)
        step[free] = torch.linalg.solve(here.information[free][:, free] + ridge, -here.gradient[free])
        step /= step.abs().max().clamp(min=1.0)  # a unit of logarithm or logit at most
        trials = ((x + step / 2**halvings).clamp(low, high) for halvings in range(8))
        reached = next(((trial, there) for trial in trials if (there := loss(trial)).value < here.value), None)
        if reached is None:
            break
        gain = here.value - reached[1].value
        x, here = reached
        if gain < _CONVERGED:
            break
    return x, float(here.value)

"""Moves of a Markov chain that leave the posterior of the endmembers as it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_unmix.errors import InputError
from pyro_unmix.likelihood import whiten
from pyro_unmix.refine.moves import FLOOR
from pyro_unmix.refine.slices import draw_from_slice, uniform

# Length of the interval in which the logarithm of a dilation is sought. It shrinks fast where it is too long.
_BRACKET = 0.1


class EndmemberPrior(NamedTuple):
    """Endmember k is normal around `mean[k]` with covariance `sd[k]^2 kernel`; `precision` is the inverse of the kernel.

    Its amplitude may be a parameter of its own: then `mean` and `sd` are those of a shape times `exp(log_amplitude)`, `(K,)`
    logarithms that are normal around zero with standard deviation `amplitude_sd`. A normal prior of the spectrum alone says more
    of its amplitude than of its shape, and since larger spectra take more room, what comes out is biased upwards.
    """

    mean: Tensor
    sd: Tensor
    kernel: Tensor
    precision: Tensor
    amplitude_sd: float | None = None
    log_amplitude: Tensor | None = None

    @classmethod
    def of(cls, mean: Tensor, scale_tril: Tensor, amplitude_sd: float | None = None) -> EndmemberPrior:
        """From `mean` `(K, L)` and Cholesky factors `(K, L, L)` or `(L, L)` of covariances that are proportional to each other.

        Raises
        ------
        InputError
            Shapes that do not fit together, values that are not finite, or covariances that are not proportional.
        """
        n_endmembers, n_bands = mean.shape
        if scale_tril.shape not in {(n_bands, n_bands), (n_endmembers, n_bands, n_bands)}:
            raise InputError(f"Cholesky factors of shape {(n_endmembers, n_bands, n_bands)}", f"{tuple(scale_tril.shape)}")
        if not (mean.isfinite().all() and scale_tril.isfinite().all()):
            raise InputError("finite endmembers and Cholesky factors", "a value that is not")
        mean, scale_tril = mean.double(), scale_tril.double().expand(n_endmembers, -1, -1)
        sd = scale_tril[:, 0, 0]
        factor = scale_tril[0] / sd[0]
        if not torch.allclose(scale_tril, sd[:, None, None] * factor, rtol=1e-4, atol=1e-4 * float(sd.max())):
            raise InputError("prior covariances of the endmembers that are proportional to each other", "others",
                             "make all of them with one kernel")
        return cls(mean, sd, factor @ factor.T, torch.cholesky_inverse(factor), amplitude_sd,
                   None if amplitude_sd is None else torch.zeros_like(sd))

    def scaled(self, log_factor: float | Tensor, k: int | slice = slice(None)) -> EndmemberPrior:
        """With the amplitude of endmember `k`, or of all, multiplied by a factor."""
        assert self.log_amplitude is not None
        added = torch.zeros_like(self.sd)
        added[k] = log_factor
        factor = added.exp()
        return self._replace(mean=factor[:, None] * self.mean, sd=factor * self.sd, log_amplitude=self.log_amplitude + added)


class WhiteBands(NamedTuple):
    """Pixels in coordinates of unit noise in which the prior of an endmember is independent, and the ways `into` and `back`."""

    pixels: Tensor
    prior_variance: Tensor
    into: Tensor
    back: Tensor

    @classmethod
    def of(cls, pixels: Tensor, prior: EndmemberPrior, noise_cholesky: Tensor) -> WhiteBands:
        """Of `pixels` `(n, L)` whose noise has this Cholesky factor, `(L, L)`, or standard deviations, `(L,)`."""
        variance, vectors = torch.linalg.eigh(whiten(whiten(prior.kernel, noise_cholesky).T, noise_cholesky))
        variance = variance.clamp_min(1e-14 * variance[-1])
        if noise_cholesky.ndim == 1:
            into, back = vectors / noise_cholesky[:, None], vectors.T * noise_cholesky
        else:
            into = torch.linalg.solve_triangular(noise_cholesky.T, vectors, upper=True)
            back = vectors.T @ noise_cholesky.T
        return cls(pixels @ into, variance, into, back)

    def draw_endmembers(self, x: Tensor, prior: EndmemberPrior) -> Tensor:
        """`(K, L)` given `x` `(n, K)`, all at once: in combinations that are independent under prior and likelihood."""
        products, prior_mean = x.T @ x, prior.mean @ self.into
        evidence, vectors = torch.linalg.eigh(products * torch.outer(prior.sd, prior.sd))
        combine = prior.sd[:, None] * vectors
        precision = evidence.clamp_min(0.0)[:, None] + 1.0 / self.prior_variance
        pull = combine.T @ (x.T @ self.pixels - products @ prior_mean)
        return prior_mean + combine @ (pull / precision + torch.randn_like(pull) / precision.sqrt())


def dilate(
    x: Tensor,
    endmembers: Tensor,
    k: int,
    about: int | None,
    prior: EndmemberPrior,
    concentration: Tensor,
    brightness_scale: Tensor | None,
) -> tuple[Tensor, Tensor, EndmemberPrior]:
    """Draw how far endmember `k` is from another, `about`, or from zero, while all mixtures stay as they are.

    Given the abundances, endmembers are known much better than without, and the other way round: a chain that draws them in turn
    goes by small steps. Here the distance is multiplied by a factor and the abundance divided by it; the other endmember makes up
    for the difference, or the brightness where the distance is that from zero. Factors are a group, along which a draw is a
    valid move: Liu and Sabatti (2000), Biometrika 87, "Generalised Gibbs sampler and multigrid Monte Carlo for Bayesian
    computation".

    Parameters
    ----------
    x
        `(n, K)`: brightness times abundances.
    endmembers
        `(K, L)`.
    concentration
        `(K,)`.
    brightness_scale
        `()`, not needed where `about` is an endmember.

    Returns
    -------
    x, endmembers, prior
        As they came, but for one or two columns and one row; the prior with another amplitude where that is free and the distance
        that from zero.
    """
    amplitude = about is None and prior.amplitude_sd is not None
    share, total = x[:, k], x.sum(dim=1)
    origin = torch.zeros_like(endmembers[k]) if about is None else endmembers[about]
    away = endmembers[k] - origin
    of_spectrum = _amplitude_density(prior, slice(k, k + 1)) if amplitude else _distance_density(prior, away[None], origin, k)

    def log_density(log_factor: float) -> float:
        released = -math.expm1(-log_factor) * share
        known = of_spectrum(log_factor) - len(x) * float(concentration[k]) * log_factor
        if about is not None:
            return known + float(((concentration[about] - 1.0) * (x[:, about] + released).clamp_min(FLOOR).log()).sum())
        assert brightness_scale is not None  # without it only another endmember can take what is released
        log_brightness = (total - released).log()
        return known - float((concentration.sum() * log_brightness + 0.5 * (log_brightness / brightness_scale).square()).sum())

    low = -_BRACKET * uniform()
    high = low + _BRACKET
    if about is not None:  # no abundance of the other below zero
        low = max(low, -math.log1p(float((x[:, about] / share).min())))
    log_factor = draw_from_slice(log_density, 0.0, low, high)
    x, endmembers = x.clone(), endmembers.clone()
    if about is not None:
        x[:, about] = (x[:, about] - math.expm1(-log_factor) * share).clamp_min(FLOOR)
    x[:, k] = math.exp(-log_factor) * share
    endmembers[k] = origin + math.exp(log_factor) * away
    return x, endmembers, prior.scaled(log_factor, k) if amplitude else prior


def rescale(x: Tensor, endmembers: Tensor, prior: EndmemberPrior,
            brightness_scale: Tensor) -> tuple[Tensor, Tensor, EndmemberPrior]:
    """Draw the amplitude of all endmembers at once, while all mixtures and abundances stay as they are.

    Brightness makes up for it; one endmember at a time (`dilate`) would have to change the abundances too, and hardly moves.
    Arguments and what is returned are those of `dilate`.
    """
    amplitude = prior.amplitude_sd is not None
    of_spectra = _amplitude_density(prior, slice(None)) if amplitude else _distance_density(
        prior, endmembers, torch.zeros_like(endmembers[0]), slice(None))
    log_brightness = x.sum(dim=1).log()

    def log_density(log_factor: float) -> float:
        return of_spectra(log_factor) - 0.5 * float(((log_brightness - log_factor) / brightness_scale).square().sum())

    low = -_BRACKET * uniform()
    log_factor = draw_from_slice(log_density, 0.0, low, low + _BRACKET)
    factor = math.exp(log_factor)
    return x / factor, factor * endmembers, prior.scaled(log_factor) if amplitude else prior


def _distance_density(prior: EndmemberPrior, away: Tensor, origin: Tensor, k: int | slice) -> Callable[[float], float]:
    """Of the logarithm of a factor to `away` `(m, L)`, how far endmembers `k` are from `origin`, under their prior."""
    pull = away @ prior.precision / prior.sd[k].reshape(-1, 1).square()
    curvature, slope = float((away * pull).sum()), float(((prior.mean[k] - origin) * pull).sum())

    def log_density(log_factor: float) -> float:
        factor = math.exp(log_factor)
        return away.numel() * log_factor - 0.5 * curvature * factor**2 + slope * factor

    return log_density


def _amplitude_density(prior: EndmemberPrior, k: slice) -> Callable[[float], float]:
    """Of the logarithm of a factor to the amplitudes of endmembers `k`, their shapes kept."""
    assert prior.log_amplitude is not None and prior.amplitude_sd is not None
    amplitudes = prior.log_amplitude[k] / prior.amplitude_sd
    n, total, sd = len(amplitudes), float(amplitudes.sum()), prior.amplitude_sd
    return lambda log_factor: -(log_factor / sd) * (total + 0.5 * n * log_factor / sd)

"""The joint posterior of endmembers, abundances, concentrations and noise, by blocked Gibbs sampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_unmix.errors import InputError
from pyro_unmix.likelihood import PixelLikelihood, noise_cholesky, whiten
from pyro_unmix.numerics import one_thread
from pyro_unmix.refine.concentration import draw_concentration, mean_log_abundance
from pyro_unmix.refine.endmember_moves import EndmemberPrior, WhiteBands, dilate, rescale
from pyro_unmix.refine.moves import FLOOR, move

# The noise is known far better than it changes what else is drawn, and its eigenvectors cost as much as a sweep.
_NOISE_EVERY = 10
# Share of an even mixture in the abundances a chain starts from: none of them is zero.
_EVEN = 0.02
# Below this concentration of the other, many pixels have hardly any of it, and a dilation about it cannot go far. Nor is
# it needed: pixels that are pure say where the endmember is.
_SPARSE = 0.5


class GibbsDraws(NamedTuple):
    """Draws from the joint posterior.

    Attributes
    ----------
    endmembers
        `(n_draws, K, L)`, in the unit of the pixels.
    concentration
        `(n_draws, K)`.
    noise_scale
        `(n_draws, L)`, standard deviations.
    brightness_scale
        `(n_draws,)`, or None where brightness is one.
    """

    endmembers: Tensor
    concentration: Tensor
    noise_scale: Tensor
    brightness_scale: Tensor | None


@one_thread()
def endmember_draws(
    pixels: Tensor,
    prior_mean: Tensor,
    prior_scale_tril: Tensor,
    *,
    start_abundances: Tensor,
    start_brightness: Tensor | None,
    start_noise_scale: Tensor,
    brightness_scale: float | None,
    amplitude_sd: float | None = None,
    noise_correlation: Tensor | None = None,
    concentration: Tensor | None = None,
    n_draws: int = 20,
    burn_in: int = 1000,
    thin: int = 100,
    on_step: Callable[[], None] | None = None,
) -> GibbsDraws:
    """Draws of the endmembers and of what else pixels share, abundances and brightness integrated out.

    Linear mixing; noise that is independent between pixels, with a standard deviation of its own in each band; abundances that
    are Dirichlet and independent between pixels. The concentration of each endmember is learned: one that is
    held at a wrong value moves the endmembers, by more than their draws tell. Endmembers do not change places, since each has
    a prior of its own.

    Parameters
    ----------
    pixels
        `(n, L)`. A random subset of a scene will do: the more, the narrower. 500 to 2000.
    prior_mean
        `(K, L)`: where the chain starts, too.
    prior_scale_tril
        `(K, L, L)` or `(L, L)`: Cholesky factors of the prior covariances, all of one kernel: proportional to each other.
    start_abundances, start_brightness
        `(n, K)` and `(n,)`. No brightness: None.
    start_noise_scale
        `(L,)`. The prior of a noise variance is worth one pixel of this scale (scaled inverse chi-square).
    amplitude_sd
        Prior standard deviation of the logarithm of each endmember's amplitude, where that is a parameter of its own and the rest
        of the prior that of its shape; needs brightness. None: the prior says all there is of the amplitude.
    noise_correlation
        `(L, L)`: lower Cholesky factor of the correlation of the noise between bands. It is kept, and so are the scales but for
        one factor to all of them. None: bands are independent, and every scale is learned.
    brightness_scale
        Standard deviation of the logarithm of brightness, to start from; as a prior it is worth one pixel. None: brightness
        is one.
    concentration
        `(K,)`, where that of the abundances is known. None: learned.
    n_draws, burn_in, thin
        `burn_in` steps, then `n_draws` times `thin` steps, of which the last is kept.
    on_step
        Called after every step, to show progress.

    Raises
    ------
    InputError
        Shapes that do not fit together, values that are not finite, prior covariances that are not proportional, or no draws.
    """
    if n_draws < 1 or burn_in < 0 or thin < 1:
        raise InputError("n_draws and thin of at least 1, and no negative burn_in", f"{n_draws}, {thin} and {burn_in}")
    _check(pixels, prior_mean, start_abundances, start_brightness, start_noise_scale, brightness_scale)
    if concentration is not None and not (concentration.shape == prior_mean.shape[:1] and (concentration > 0).all()):
        raise InputError(f"{len(prior_mean)} positive concentrations", f"{concentration.tolist()}")
    chain = _Chain(
        pixels.double(), EndmemberPrior.of(prior_mean, prior_scale_tril, amplitude_sd), start_abundances.double(),
        None if start_brightness is None else start_brightness.double(), start_noise_scale.double(),
        None if brightness_scale is None else torch.tensor(brightness_scale, dtype=torch.float64), concentration,
        None if noise_correlation is None else noise_correlation.double())
    draws: list[tuple[Tensor, Tensor, Tensor, Tensor | None]] = []
    for step in range(1, burn_in + n_draws * thin + 1):
        chain.step()
        if on_step is not None:
            on_step()
        if step > burn_in and (step - burn_in) % thin == 0:
            draws.append((chain.endmembers, chain.concentration, chain.noise_scale, chain.brightness_scale))
    endmembers, concentrations, noise_scales, brightness_scales = zip(*draws, strict=True)
    return GibbsDraws(torch.stack(endmembers), torch.stack(concentrations), torch.stack(noise_scales),
                      None if brightness_scale is None else torch.stack(brightness_scales))


class _Chain:
    """The state of the sampler; `step` leaves the joint posterior as it is."""

    def __init__(self, pixels: Tensor, prior: EndmemberPrior, abundances: Tensor, brightness: Tensor | None,
                 noise_scale: Tensor, brightness_scale: Tensor | None, concentration: Tensor | None,
                 noise_correlation: Tensor | None = None):
        self.pixels, self.prior = pixels, prior
        self.prior_noise_scale, self.prior_brightness_scale = noise_scale, brightness_scale
        even = (1.0 - _EVEN) * abundances.clamp_min(FLOOR) + _EVEN / abundances.shape[1]
        self.x = even if brightness is None else brightness.clamp_min(FLOOR)[:, None] * even
        self.endmembers, self.noise_scale, self.brightness_scale = prior.mean, noise_scale, brightness_scale
        self.noise_correlation = noise_correlation
        self.learns_concentration = concentration is None
        self.concentration = torch.ones_like(prior.sd) if concentration is None else concentration.double()
        self.white = WhiteBands.of(pixels, prior, noise_cholesky(noise_scale, noise_correlation))
        self.steps = 0

    def step(self) -> None:
        """Every block once; the noise every tenth time."""
        unit = torch.ones_like(self.noise_scale)
        likelihood = PixelLikelihood.of(self.white.pixels, self.endmembers @ self.white.into, unit)
        self.x = move(self.x, likelihood, self.concentration, self.brightness_scale)
        self.endmembers = self.white.draw_endmembers(self.x, self.prior) @ self.white.back
        for k in range(len(self.endmembers)):
            self._dilate(k)
        if self.brightness_scale is not None:
            self.x, self.endmembers, self.prior = rescale(self.x, self.endmembers, self.prior, self.brightness_scale)
        if self.learns_concentration:
            self.concentration = draw_concentration(self.concentration, mean_log_abundance(self.x), len(self.x))
        if self.prior_brightness_scale is not None:
            self.brightness_scale = _draw_scale(self.prior_brightness_scale, self.x.sum(dim=1).log())
        if self.steps % _NOISE_EVERY == 0:
            self.noise_scale = self._draw_noise_scale(self.pixels - self.x @ self.endmembers)
            self.white = WhiteBands.of(self.pixels, self.prior, noise_cholesky(self.noise_scale, self.noise_correlation))
        self.steps += 1

    def _draw_noise_scale(self, residuals: Tensor) -> Tensor:
        if self.noise_correlation is None:
            return _draw_scale(self.prior_noise_scale, residuals)
        white = whiten(residuals, noise_cholesky(self.prior_noise_scale, self.noise_correlation))
        return self.prior_noise_scale * _draw_scale(torch.ones((), dtype=white.dtype), white.flatten())

    def _dilate(self, k: int) -> None:
        """About another endmember at random, and about zero where brightness varies."""
        another = (k + int(torch.randint(1, len(self.endmembers), ()))) % len(self.endmembers)
        abouts: list[int | None] = [another] if self.concentration[another] >= _SPARSE else []
        if self.brightness_scale is not None:
            abouts.append(None)
        for about in abouts:
            self.x, self.endmembers, self.prior = dilate(self.x, self.endmembers, k, about, self.prior, self.concentration,
                                                         self.brightness_scale)


def _draw_scale(prior_scale: Tensor, residuals: Tensor) -> Tensor:
    """Standard deviation of `residuals` `(n, ...)`, with a scaled inverse chi-square prior of one degree of freedom.

    Gelman et al. (2013), Bayesian Data Analysis, section 2.6.
    """
    squares = prior_scale.square() + residuals.square().sum(dim=0)
    chi_square = torch.distributions.Chi2(torch.full_like(squares, len(residuals) + 1.0), validate_args=False).sample()
    return (squares / chi_square).sqrt()


def _check(pixels: Tensor, prior_mean: Tensor, abundances: Tensor, brightness: Tensor | None, noise_scale: Tensor,
           brightness_scale: float | None) -> None:
    (n_endmembers, n_bands), n_pixels = prior_mean.shape, len(pixels)
    shapes = [tuple(values.shape) for values in (pixels, abundances, noise_scale)]
    if shapes != [(n_pixels, n_bands), (n_pixels, n_endmembers), (n_bands,)]:
        raise InputError(f"pixels (n, {n_bands}), abundances (n, {n_endmembers}) and noise scales ({n_bands},)",
                         f"shapes {shapes}")
    given = None if brightness is None else tuple(brightness.shape)
    if given != (None if brightness_scale is None else (n_pixels,)):
        raise InputError(f"brightness of {n_pixels} pixels with its scale, or neither",
                         f"shape {given} and scale {brightness_scale}")
    if not all(values.isfinite().all() for values in (pixels, abundances, noise_scale)) or not (noise_scale > 0).all():
        raise InputError("finite pixels and abundances, and positive noise scales", "a value that is not")

"""Draws from the posterior of what all pixels of a scene share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyro_unmix.guide import UnmixingGuide
from pyro_unmix.least_squares import least_squares
from pyro_unmix.likelihood import PixelLikelihood, noise_cholesky, whiten
from pyro_unmix.mixing import Linear
from pyro_unmix.model import UnmixingModel
from pyro_unmix.noise import DiagonalNoise, LowRankNoise, SmoothNoise
from pyro_unmix.priors import Dirichlet, MVNEndmembers
from pyro_unmix.refine.gibbs import endmember_draws
from pyro_unmix.refine.sampling import Draws, draw
from pyro_unmix.scene import Scene

# Pixels looked at together. More of them say little more of the endmembers where neighbours resemble each other.
_TOGETHER = 500
# Share of the steps after which draws are kept, or less where steps are few.
_BURN_IN = 0.2
# Of the logarithm of an endmember's amplitude, which a prior made by the scene knows no better than its pixels do.
_AMPLITUDE_SD = 0.3


@dataclass(frozen=True)
class Shared:
    """Draws of what pixels share. Given one of them, pixels are independent of each other.

    Attributes
    ----------
    endmembers
        `(n_draws, K, L)`, in the unit of the scene.
    noise_scale
        `(n_draws, L)`: standard deviations.
    concentration
        `(n_draws, K)`: of the abundances.
    brightness_scale
        `(n_draws,)`: of the logarithm of the brightness. None where it is one.
    noise_correlation
        `(L, L)`: lower Cholesky factor of the correlation of the noise between bands, of all draws. None where there is none.
    """

    endmembers: Tensor
    noise_scale: Tensor
    concentration: Tensor
    brightness_scale: Tensor | None
    noise_correlation: Tensor | None = None

    def __len__(self) -> int:
        return len(self.endmembers)

    def spread(self, n_draws: int) -> Shared:
        """`n_draws` of these, as far apart in the chain as they go."""
        chosen = torch.arange(n_draws) * len(self) // n_draws
        scale = None if self.brightness_scale is None else self.brightness_scale[chosen]
        return replace(self, endmembers=self.endmembers[chosen], noise_scale=self.noise_scale[chosen],
                       concentration=self.concentration[chosen], brightness_scale=scale)

    def noise_cholesky(self, number: int) -> Tensor:
        """Of draw `number`: lower Cholesky factor `(L, L)` of the noise, or standard deviations `(L,)`."""
        return noise_cholesky(self.noise_scale[number], self.noise_correlation)

    def draw_pixels(self, number: int, pixels: Tensor, n_draws: int) -> Draws:
        """Exact draws of `pixels` `(n, L)` given draw `number` of what they share, weighted still."""
        likelihood = PixelLikelihood.of(pixels.double(), self.endmembers[number], self.noise_cholesky(number))
        scale = None if self.brightness_scale is None else float(self.brightness_scale[number])
        return draw(likelihood, self.concentration[number], scale, n_draws)


def is_exact(model: UnmixingModel) -> bool:
    """Whether there are exact draws: linear mixing, Dirichlet abundances, normal noise whose correlation between bands is known,
    and endmembers that are normal with one kernel and the same in all pixels."""
    if not (model.variability is None and isinstance(model.mixing, Linear) and isinstance(model.abundances, Dirichlet)
            and type(model.noise) in (DiagonalNoise, SmoothNoise, LowRankNoise) and isinstance(model.endmembers, MVNEndmembers)):
        return False
    return model.endmembers.of_one_kernel


@torch.no_grad()
def guide_as_shared(model: UnmixingModel, guide: UnmixingGuide, concentration: Tensor, n_draws: int = 40) -> Shared:
    """Draws of endmembers and noise from the guide, a `concentration` `(K,)` that is known, and the model's brightness scale."""
    n = torch.Size([n_draws])
    scale = None if model.brightness is None else model.brightness.scale.double().expand(n)
    return Shared(guide.endmembers().sample(n).double(), guide.noise().sample(n).double(),
                  concentration.double().expand(n_draws, -1), scale,
                  guide.noise.correlation)


def draw_shared(model: UnmixingModel, guide: UnmixingGuide, scene: Scene, *, n_draws: int = 40, steps: int = 1250,
                on_step: Callable[[], None] | None = None) -> Shared:
    """Draws of endmembers, noise, concentrations and the scale of brightness, jointly with the pixels of a scene.

    For models that are exact (`is_exact`) and pixels that err independently: their joint likelihood is believed. Concentrations
    are learned where the model's prior says so, and are those of the prior otherwise. Abundances and brightness are
    integrated out by `steps`, at least `n_draws`, of Gibbs sampling (`gibbs.endmember_draws`) at up to 500 pixels, drawn at
    random by torch's generator; `on_step` is called after each of them.
    """
    pixels = torch.as_tensor(scene.pixels(), dtype=torch.float64)
    pixels = pixels[torch.randperm(len(pixels))[:_TOGETHER]]
    noise_scale, correlation = guide.noise.loc.detach().double().exp(), guide.noise.correlation
    brightness_scale = None if model.brightness is None else float(model.brightness.scale)
    mean = guide.endmembers.loc().detach().double()
    start = least_squares(pixels, mean, guide.noise.cholesky().detach(), brightness=brightness_scale is not None)
    prior, abundances = model.endmembers, model.abundances
    known = None if abundances.learned else abundances(model.n_endmembers).concentration.double()
    thin = max(1, int((1 - _BURN_IN) * steps) // n_draws)
    drawn = endmember_draws(
        pixels, prior.mean.double(), prior.scale_tril.double(), start_abundances=start.abundances,
        start_brightness=None if brightness_scale is None else start.brightness, start_noise_scale=noise_scale,
        brightness_scale=brightness_scale, amplitude_sd=_AMPLITUDE_SD if model.evidence == 0 else None,
        noise_correlation=correlation, concentration=known, n_draws=n_draws,
        burn_in=max(0, steps - n_draws * thin), thin=thin, on_step=on_step)
    endmembers = drawn.endmembers
    if model.evidence == 0:  # the scene made the prior, which knows nothing of its own
        noise = noise_cholesky(drawn.noise_scale.mean(dim=0), None if correlation is None else correlation.double())
        endmembers = _in_signal(endmembers, torch.as_tensor(scene.pixels(), dtype=torch.float64), noise)
    return Shared(endmembers, drawn.noise_scale, drawn.concentration, drawn.brightness_scale,
                  None if correlation is None else correlation.double())


def _in_signal(endmembers: Tensor, pixels: Tensor, noise: Tensor) -> Tensor:
    """Endmembers `(n_draws, K, L)` whose part outside the K directions of the signal is drawn given all `pixels` `(n, L)`.

    These directions are those of largest variance in units of the noise. All pixels know them far better than the few that were
    looked at together; given abundances, what is left is the error of a linear regression of the pixels on these.
    """
    white, white_endmembers = whiten(pixels, noise), whiten(endmembers.flatten(0, 1), noise).reshape(endmembers.shape)
    n_endmembers = endmembers.shape[1]
    signal = torch.linalg.eigh(white.T @ white).eigenvectors[:, -n_endmembers:]
    amounts = white @ torch.linalg.pinv(white_endmembers.mean(dim=0))
    error = torch.linalg.cholesky(torch.linalg.inv(amounts.T @ amounts)) @ torch.randn_like(endmembers)
    found = (white_endmembers - error) @ signal @ signal.T + error
    return found * noise if noise.ndim == 1 else found @ noise.T

"""Ways to bring a posterior closer to the exact one than a guide can: one for each kind of model and noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_unmix.errors import InputError
from pyro_unmix.least_squares import constrained
from pyro_unmix.pieces import Drawn
from pyro_unmix.predictive import log_likelihood
from pyro_unmix.priors import SpatialDirichlet
from pyro_unmix.progress import StageProgress
from pyro_unmix.proposal import Proposal, few_of
from pyro_unmix.refine.sampling import Draws
from pyro_unmix.refine.shared import Shared, draw_shared, is_exact
from pyro_unmix.scene import Scene
from pyro_unmix.sources import DrawnSource, shared_by_guide
from pyro_unmix.tiles import Tiles

if TYPE_CHECKING:
    from pyro_unmix.fit import Fit

# Weighted draws for every one that is kept, and the fewest of them from which a tail can be told.
_SPARE, _FEWEST = 4, 25
# Weights that are kept of a pixel, all that its tail needs.
_WEIGHTS = 300
# Share of effective draws below which weights do harm.
_LEAST_EFFECTIVE = 0.1
# Residuals that are kept to be drawn from, and those of them that say how they grow with brightness.
_RESIDUALS, _GROWING = 10_000, 1000
# Share of the median brightness below which residuals no longer shrink.
_DARK = 0.1
_LEAST = 1e-30


class Exact(DrawnSource):
    """Independent draws from the exact posterior of every pixel, given draws from that of what they share."""

    method, weighted = "exact", True

    def __init__(self, fit: Fit, scene: Scene, n_shared: int, n_draws: int, bar: StageProgress):
        self.given = joint_draws(fit, scene, n_shared, bar)
        super().__init__(fit, self.given.endmembers, self.given.noise_scale, n_draws)
        self.calibrated = self.learned = True

    def draw(self, tiles: Tiles, n_draws: int) -> Drawn:
        pixels = tiles.pixels()
        parts = []
        for number, count in self._shares(n_draws):
            weighted = self.given.draw_pixels(number, pixels, _n_weighted(count))
            parts.append(_kept(weighted.resample(count), weighted))
        return _together(parts)


class Cut(DrawnSource):
    """For noise that errs together over bands and pixels, where a likelihood would believe too much.

    Endmembers are drawn from the guide's, which the pixels do not change: a cut posterior (Plummer 2015, Statistics and Computing
    25, "Cuts in Bayesian graphical models"). Given them, abundances are constrained least squares of the pixel with the
    residual of another pixel added, as a whole, so that bands keep their correlation: a bootstrap as in Lyddon, Holmes and Walker
    (2019), Biometrika 106, "General Bayesian updating and the loss-likelihood bootstrap". Residuals grow with a power of the
    brightness (Carroll and Ruppert 1988, "Transformation and Weighting in Regression"), and are brought from that of the pixel
    they come from to that of the one they go to. Errors of neighbours, given the endmembers, are taken as independent. Where no
    abundance is zero, least squares leave nothing of the noise in the span of the endmembers; what residuals have there comes
    from pixels on the faces of the simplex, of which real scenes have many.

    Attributes
    ----------
    residuals
        `(n, L)`, each divided by the scale of its pixel.
    power
        Of the norm of its spectrum that the scale of a pixel is.
    """

    method = "cut"

    def __init__(self, fit: Fit, scene: Scene, n_shared: int, n_draws: int):
        endmembers, noise_scale = shared_by_guide(fit, n_shared)
        super().__init__(fit, endmembers, noise_scale, n_draws)
        self.calibrated = True
        self.brightness = fit.guide.brightness is not None
        pixels = torch.as_tensor(scene.pixels())
        pixels = pixels[torch.randperm(len(pixels))[:_RESIDUALS]]
        mean = fit.guide.endmembers.loc().detach()
        abundances, brightness = constrained(pixels, mean, self.brightness)
        residuals = pixels - brightness[:, None] * (abundances @ mean)
        norms = pixels.norm(dim=1)
        self._least = (_DARK * norms.median()).clamp_min(_LEAST)
        self.power = _growth(residuals, norms.clamp_min(self._least))
        self.residuals = residuals / self.scale(pixels)

    def scale(self, pixels: Tensor) -> Tensor:
        """What the residual of each of `(n, L)` pixels is proportional to, `(n, 1)`."""
        return pixels.norm(dim=1, keepdim=True).clamp_min(self._least) ** self.power

    def draw(self, tiles: Tiles, n_draws: int) -> Drawn:
        pixels = tiles.pixels()
        scale = self.scale(pixels)
        parts = []
        for number, count in self._shares(n_draws):
            # Within the span of the endmembers least squares are the same, and as many numbers as endmembers will do.
            span = torch.linalg.qr(self.endmembers[number].T).Q
            others = scale * (self.residuals @ span)[torch.randint(len(self.residuals), (count, len(pixels)))]
            abundances, brightness = constrained((pixels @ span + others).flatten(0, 1), self.endmembers[number] @ span,
                                                 self.brightness)
            parts.append(Drawn(abundances.unflatten(0, others.shape[:2]),
                               brightness.unflatten(0, others.shape[:2]) if self.brightness else None, None))
        return _together(parts)


class Reweighted(DrawnSource):
    """Draws chosen by how much more probable the model makes them than where they come from, given the guide's endmembers.

    Importance sampling with resampling (Rubin 1988, Bayesian Statistics 3, "Using the SIR algorithm to simulate posterior
    distributions") from a `Proposal` that the guide begins. Where few draws carry the weight it does harm: pixels whose effective
    draws are less than a tenth keep those of the guide.
    """

    method, weighted, joint = "re-weighted", True, False

    def __init__(self, fit: Fit, n_shared: int, n_draws: int):
        endmembers, noise_scale = shared_by_guide(fit, n_shared)
        super().__init__(fit, endmembers, noise_scale, n_draws)

    @torch.no_grad()
    def draw(self, tiles: Tiles, n_draws: int) -> Drawn:
        pixels = tiles.pixels().double()
        targets = [self._target(pixels, number) for number in few_of(len(self.endmembers))]
        proposal = Proposal.of(self.fit.model, *self.fit.guide.pixels(tiles), targets)
        shares = list(self._shares(n_draws))
        weighted = [self._weigh(proposal, pixels, number, _n_weighted(count)) for number, count in shares]
        effective = torch.stack([draws.effective() for draws in weighted]).sum(dim=0)
        lost = effective < _LEAST_EFFECTIVE * sum(len(draws.log_weights) for draws in weighted)
        parts = []
        for draws, (_, count) in zip(weighted, shares, strict=True):
            chosen = draws.resample(count)
            chosen.abundances[:, lost] = draws.abundances[:count, lost]
            if chosen.brightness is not None and draws.brightness is not None:
                chosen.brightness[:, lost] = draws.brightness[:count, lost]
            parts.append(_kept(chosen, draws))
        return _together(parts)

    def _target(self, pixels: Tensor, number: int) -> Callable[[Tensor, Tensor | None], Tensor]:
        """Log of prior times likelihood of abundances and brightness, given shared draw `number`."""
        model, endmembers, noise_scale = self.fit.model, self.endmembers[number].double(), self.noise_scale[number].double()

        def log_target(abundances: Tensor, brightness: Tensor | None) -> Tensor:
            found = model.abundances(model.n_endmembers).log_prob(abundances)
            if brightness is not None:
                found = found + model.brightness.prior().log_prob(brightness)
            return found + log_likelihood(model, pixels, endmembers, noise_scale, abundances, brightness)

        return log_target

    def _weigh(self, proposal: Proposal, pixels: Tensor, number: int, n_draws: int) -> Draws:
        abundances, brightness, log_density = proposal.sample(n_draws)
        log_weights = self._target(pixels, number)(abundances, brightness) - log_density
        return Draws(abundances, brightness, log_weights.nan_to_num(nan=-1e300, posinf=-1e300, neginf=-1e300))


def joint_draws(fit: Fit, scene: Scene, n_draws: int, bar: StageProgress) -> Shared:
    """Draws of what pixels share from their joint posterior: those that the fit has made if they are enough, else new ones."""
    if fit.shared is not None and len(fit.shared) >= n_draws:
        return fit.shared.spread(n_draws)
    steps = fit.config.sampling_steps or type(fit.config).sampling_steps
    bar.stage("sample", steps)
    drawn = draw_shared(fit.model, fit.guide, scene, n_draws=n_draws, steps=steps, on_step=bar.advance)
    bar.finish()
    return drawn


def has_joint_draws(fit: Fit) -> bool:
    """Whether what pixels share may be drawn jointly with them."""
    return is_exact(fit.model) and bool(fit.guide.joint)


def best_source(fit: Fit, scene: Scene, n_shared: int, n_draws: int, bar: StageProgress) -> DrawnSource:
    """What brings a fit closest to its posterior. Random numbers are those of torch's global generator."""
    if isinstance(fit.model.abundances, SpatialDirichlet) and fit.model.abundances.strength:
        raise InputError("a prior under which pixels are independent", f"a spatial one of {fit.model.abundances.strength:.2f}",
                         "draws of single pixels would forget their neighbours: use fit.posterior(scene)")
    if has_joint_draws(fit):
        return Exact(fit, scene, n_shared, n_draws, bar)
    # Noise that is denoised is white, and leaves too little in residuals to draw from.
    cut = is_exact(fit.model) and fit.guide.denoise is None
    return Cut(fit, scene, n_shared, n_draws) if cut else Reweighted(fit, n_shared, n_draws)


def _growth(residuals: Tensor, norms: Tensor) -> float:
    """Power of the norms `(n,)` of pixels that the norms of their residuals `(n, L)` grow with, from 0, the same for all, to 1,
    proportional: the median of the slopes between two pixels (Sen 1968, JASA 63), as few pixels may be strange."""
    from scipy import stats  # takes long to import, and only this needs it

    sizes, norms = residuals[:_GROWING].norm(dim=1).clamp_min(_LEAST), norms[:_GROWING]
    if norms.min() == norms.max():
        return 0.0
    return min(max(float(stats.theilslopes(sizes.log().double(), norms.log().double()).slope), 0.0), 1.0)


def _n_weighted(n_draws: int) -> int:
    return max(_SPARE * n_draws, _FEWEST)


def _kept(chosen: Draws, weighted: Draws) -> Drawn:
    """Weights are relative to the evidence given what is shared, so that those of several shared draws can be put together."""
    relative = weighted.log_weights - (weighted.log_weights.logsumexp(dim=0) - math.log(len(weighted.log_weights)))
    return Drawn(chosen.abundances.float(), None if chosen.brightness is None else chosen.brightness.float(), relative.float())


def _together(parts: list[Drawn]) -> Drawn:
    abundances, brightness, log_weights = (None if each[0] is None else torch.cat(each) for each in zip(*parts, strict=True))
    assert abundances is not None
    return Drawn(abundances, brightness, None if log_weights is None else log_weights[:_WEIGHTS])

"""Candidates for the endmembers of a scene, in competition."""

from __future__ import annotations

import numpy as np
import torch

from pyro_unmix.amplitude import BRIGHTNESS, brightness_scatter, calibrate_amplitude, coefficients
from pyro_unmix.baselines.archetypes import residuals, restarts
from pyro_unmix.baselines.fcls import nnls
from pyro_unmix.baselines.sisal import affine_subspace, sisal
from pyro_unmix.baselines.vca import vca
from pyro_unmix.likelihood import PixelLikelihood
from pyro_unmix.metrics import match, spectral_angle
from pyro_unmix.noise import PixelBrightness
from pyro_unmix.numerics import seeded
from pyro_unmix.refine.concentration import learn_concentration
from pyro_unmix.refine.sampling import draw
from pyro_unmix.simplex import averaged_corners, likely_simplex
from pyro_unmix.subspace import candidates

# Samples of pixels, restarts on each, those of them that go on to the end, and the best of all, whose spread counts.
_SAMPLES, _RESTARTS, _KEPT, _BEST = 3, 40, 16, 5
# Above this, a concentration is no longer one of sparse abundances; learned under the bound of one, it is at the bound.
_FLAT = 0.99
# For the evidence of a simplex: pixels, sweeps over them that learn the concentration, draws, and the share of pixels left out;
# and by how much a pixel's has to be greater, in the mean, to count.
_WEIGHED, _SWEEPS, _DRAWS, _LEFT_OUT, _CLEARLY = 300, 20, 10, 0.02, 0.05

# Most of an endmember's energy that may lie below zero, if no more of the pixels' does.
_BELOW_ZERO = 0.01


def simplices(
    pixels: np.ndarray, k: int, brightness: str | PixelBrightness | None, seed: int
) -> tuple[np.ndarray, str | PixelBrightness | None, bool]:
    """Candidates `(2, k, n_bands)`, the better first, for a scene of white noise, what to do about brightness, and whether the
    abundances look Dirichlet."""
    pixels = candidates(pixels, k)
    if brightness == "auto":
        first = vca(pixels, k, seed=seed)
        scatter = brightness_scatter(pixels, calibrate_amplitude(first, coefficients(nnls, pixels, first)))
        brightness = PixelBrightness() if scatter > BRIGHTNESS else None
    varies = brightness is not None
    corners = averaged_corners(pixels, k, brightness=varies, seed=seed)
    likely = likely_simplex(pixels, corners, brightness=varies, seed=seed)
    # A concentration at its bound says that the law of the abundances is not a sparse Dirichlet: their density misleads then,
    # and only where pixels end counts.
    dirichlet = bool((likely.concentration < _FLAT).all())
    if dirichlet:
        # One corner that ran away is not worth giving up the others.
        farthest = spectral_angle(likely.endmembers, corners).argmax()
        found = [likely.endmembers, np.where(np.arange(k)[:, None] == farthest, corners, likely.endmembers), corners]
    else:
        mean = pixels.mean(axis=0)
        amount = np.maximum(pixels @ mean / (mean @ mean), 1e-2) if varies else np.ones(len(pixels))
        found = [sisal(pixels / amount[:, None], k, seed=seed), corners]
    found.append(likely.endmembers)
    if varies:
        found = [calibrate_amplitude(each, coefficients(nnls, pixels, each)) for each in found]
    # Much noise leads the density astray, too, for it takes errors of abundances for independent. The evidence does not.
    evidence, concentration = zip(*(evidence_of(pixels, each, varies, seed) for each in found[:-1]), strict=True)
    # Nor does it know that no material reflects less than nothing; a simplex that ran away does.
    allowed = max(_BELOW_ZERO, _below_zero(pixels.ravel()))
    wrong = [max(map(_below_zero, each)) > allowed for each in found[:-2]] + [False]
    best = int(np.argmax(np.where(wrong, -np.inf, evidence - _CLEARLY * (np.arange(len(evidence)) > 0))))
    if best == len(evidence) - 1:
        dirichlet = bool((concentration[best] < _FLAT).all())
    return np.stack([found[best], found[-1][match(found[-1], found[best])]]), brightness, dirichlet


def _below_zero(spectrum: np.ndarray) -> float:
    """Share of the energy of a spectrum that is of values below zero."""
    return float(np.sum(np.minimum(spectrum, 0.0) ** 2) / np.sum(spectrum**2))


def evidence_of(pixels: np.ndarray, endmembers: np.ndarray, varies: bool, seed: int) -> tuple[float, np.ndarray]:
    """Mean log evidence of pixels given endmembers, abundances integrated out under a Dirichlet distribution, and its most
    probable concentration `(k,)`. The least likely pixels, which may be outliers, are left out."""
    noise_scale = max(affine_subspace(pixels, len(endmembers)).noise_scale, 1e-4 * float(np.sqrt(np.mean(pixels**2))))
    pixels = np.random.default_rng(seed).permutation(pixels)[:_WEIGHED]
    scatter = max(brightness_scatter(pixels, endmembers), 1e-3) if varies else None
    likelihood = PixelLikelihood.of(torch.as_tensor(pixels), torch.as_tensor(endmembers),
                                    torch.full(pixels.shape[1:], noise_scale, dtype=torch.float64))
    with seeded(seed):
        # From sparse to flat takes fewer sweeps than back.
        sparse = torch.full((len(endmembers),), 1.0 / len(endmembers))
        concentration = learn_concentration(likelihood, sparse, scatter, iterations=_SWEEPS)
        log_weights = draw(likelihood, concentration, scatter, _DRAWS).log_weights
    evidence = (log_weights.logsumexp(dim=0) - np.log(_DRAWS)).sort().values
    return float(evidence[int(_LEFT_OUT * len(evidence)):].mean()), concentration.numpy()


def archetypes(shapes: np.ndarray, pixels: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Candidates `(n_best, k, n_bands)`, the best first, for a scene whose noise is not white, in one order and amplitude."""
    seeds = [_SAMPLES * seed + sample for sample in range(_SAMPLES)]
    found = np.concatenate([restarts(shapes, k, _RESTARTS, keep=_KEPT, seed=each) for each in seeds])
    # The median alone forgives materials that few pixels hold; the mean square alone lets a few strange pixels decide.
    apart = residuals(shapes, found, seed=seed)
    best = found[(np.median(apart, axis=1) * np.sqrt(np.mean(apart**2, axis=1))).argsort()[:_BEST]]
    best = np.stack([each[match(each, best[0])] for each in best])
    best /= np.linalg.norm(best, axis=2, keepdims=True)
    calibrated = calibrate_amplitude(best[0], coefficients(nnls, pixels, best[0]))
    return best * np.linalg.norm(calibrated, axis=1)[:, None]

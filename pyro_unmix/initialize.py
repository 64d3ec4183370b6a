"""What the scene says before any training: a start for the guide and a prior for the endmembers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyro.distributions as dist
import torch
from scipy import optimize
from torch import Tensor

from pyro_unmix.baselines.archetypes import residuals, restarts
from pyro_unmix.baselines.fcls import fcls, nnls, normalized_nnls
from pyro_unmix.baselines.sisal import affine_subspace, sisal
from pyro_unmix.baselines.vca import vca
from pyro_unmix.denoise import NonLocalMeans
from pyro_unmix.errors import InputError, UnmixWarning
from pyro_unmix.likelihood import PixelLikelihood
from pyro_unmix.metrics import match, spectral_angle
from pyro_unmix.model import UnmixingModel
from pyro_unmix.noise import PixelBrightness
from pyro_unmix.numerics import one_thread, seeded
from pyro_unmix.priors import MVNEndmembers, check_endmember_prior, smooth_scale_tril
from pyro_unmix.refine.concentration import learn_concentration
from pyro_unmix.refine.sampling import draw
from pyro_unmix.scene import Scene
from pyro_unmix.simplex import averaged_corners, likely_simplex
from pyro_unmix.subspace import WHITE, candidates, count_endmembers, effective_bands
from pyro_unmix.tiles import whole

log = logging.getLogger("pyro_unmix")

# What the pixels of a real scene are worth as independent witnesses of an endmember: neighbours err together.
_WITNESSES = 100.0
# Robust scatter of the log of summed coefficients above which brightness is taken to vary.
_BRIGHTNESS = 0.05
# Prior standard deviation of an endmember in a band, in units of its own root mean square: the spread of the candidates, within
# these bounds. Where they are drawn jointly with the pixels these will say more, and the prior is to be weak.
_LEAST_SD, _MOST_SD, _JOINT_SD = 0.01, 0.1, 0.1
# Samples of pixels, restarts on each, those of them that go on to the end, and the best of all, whose spread counts.
_SAMPLES, _RESTARTS, _KEPT, _BEST = 3, 40, 16, 5
# Above this, a concentration is no longer one of sparse abundances; learned under the bound of one, it is at the bound.
_FLAT = 0.99
# For the evidence of a simplex: pixels, sweeps over them that learn the concentration, draws, and the share of pixels left out;
# and by how much a pixel's has to be greater, in the mean, to count.
_WEIGHED, _SWEEPS, _DRAWS, _LEFT_OUT, _CLEARLY = 300, 20, 10, 0.02, 0.05


@dataclass(frozen=True)
class Start:
    """Where training begins.

    Attributes
    ----------
    endmembers
        `(n_endmembers, n_bands)`, in the unit of the scene.
    endmember_scale_tril
        `(n_endmembers, n_bands, n_bands)`: Cholesky factors of their covariances before the likelihood is seen.
    abundances
        `(n_pixels, n_endmembers)`, pixels in use row by row.
    brightness
        `(n_pixels,)`, or None where it is taken as one.
    noise_scale
        `(n_bands,)`: root mean square of the residuals.
    spectrum_mean, components, log_norm
        Location and whitening of the encoder's input: `(n_bands,)`, `(n_components, n_bands)`, `(2,)`.
    denoise
        Takes noise out of the spectra before abundances are estimated; None where the noise is not white.
    joint
        Whether what pixels share may be drawn jointly with them: the noise is white, and the abundances look Dirichlet.
    """

    endmembers: Tensor
    endmember_scale_tril: Tensor
    abundances: Tensor
    brightness: Tensor | None
    noise_scale: Tensor
    spectrum_mean: Tensor
    components: Tensor
    log_norm: Tensor
    denoise: NonLocalMeans | None
    joint: bool


@one_thread()
def initialize(model: UnmixingModel, scene: Scene, *, seed: int = 0) -> tuple[UnmixingModel, Start]:
    """Fill the open parts of a model from a scene, and find where training begins.

    Where the noise is white, endmembers are the corners of the simplex that makes the pixels most likely, of the smallest that
    holds them, or of the means of pixels that look alike, as the evidence says; where it is not, archetypes of the pixels
    divided by their norm. A model that brings a prior of its own starts from that. Amplitudes and the pixels' brightness follow
    from least squares.

    Returns
    -------
    model
        A new model whose number and prior of endmembers, brightness, noise and evidence are all set.
    start
        Where training begins.

    Raises
    ------
    InputError
        More endmembers than bands, than pixels, or than the scene has directions; or their number is open and the scene has no
        more pixels than bands.
    """
    pixels = scene.pixels().astype(np.float64)
    if model.n_endmembers == "auto":
        model = model.replace(n_endmembers=count_endmembers(pixels))
        log.info("%d endmembers, an estimate from the scene: give their number where it is known", model.n_endmembers)
    k = model.n_endmembers
    _check_size(pixels, k)
    shapes = pixels / np.maximum(np.linalg.norm(pixels, axis=1, keepdims=True), 1e-12)
    brightness = model.brightness

    share = effective_bands(shapes, k) / scene.n_bands
    white = joint = share > WHITE
    if model.endmembers is not None:
        check_endmember_prior(model.endmembers, k, scene.n_bands)
        endmembers, sds = _moments(model.endmembers(k, scene.n_bands), seed)
    else:
        if white:
            candidates, brightness, joint = _simplices(pixels, k, brightness, seed)
        else:
            candidates = _archetypes(shapes, pixels, k, seed)
        endmembers = candidates[0]
        rms = np.sqrt(np.mean(endmembers**2, axis=1))
        apart = np.sqrt(np.mean((candidates - endmembers) ** 2, axis=(0, 2)))
        sds = rms * (_JOINT_SD if joint else np.clip(apart / rms, _LEAST_SD, _MOST_SD))
    scale_tril = torch.stack([smooth_scale_tril(scene.wavelengths, scene.n_bands, sd) for sd in sds])

    scatter = _brightness_scatter(pixels, endmembers)
    if brightness == "auto":
        brightness = PixelBrightness(scatter) if scatter > _BRIGHTNESS else None
    elif isinstance(brightness, PixelBrightness) and torch.isnan(brightness.scale):
        brightness = PixelBrightness(max(scatter, 1e-3))
    denoise = None
    cleaned = pixels
    if white:
        denoise = NonLocalMeans(scene.n_bands, min(k + 2, scene.n_bands)).fit(torch.as_tensor(pixels))
        tiles = whole(scene)
        cleaned = tiles.select(denoise(tiles.reflectance, tiles.valid)).double().numpy()
    if brightness is not None:
        solved = normalized_nnls(torch.as_tensor(cleaned), torch.as_tensor(endmembers))
        abundances, factor = solved[0].numpy(), np.maximum(solved[1].numpy(), 1e-12)
    else:
        abundances, factor = _coefficients(fcls, cleaned, endmembers), np.ones(len(pixels))

    residual = pixels - factor[:, None] * (abundances @ endmembers)
    rms = float(np.sqrt(np.mean(pixels**2)))
    noise_scale = np.maximum(np.sqrt(np.mean(residual**2, axis=0)), 1e-4 * rms)
    noise = model.noise
    if torch.isnan(noise.scale).any():
        noise = noise.filled(noise_scale, floor=1e-4 * rms)
    evidence = model.evidence
    if evidence is None and model.endmembers is None:
        evidence = 0.0  # this scene made the prior and would be counted twice
    elif evidence is None:
        evidence = 1.0 if white else min(1.0, share * _WITNESSES / len(pixels))

    mean, components = _whitening(shapes, k)
    log_norm = np.log(np.maximum(np.linalg.norm(pixels, axis=1), 1e-12))
    start = Start(
        endmembers=_float(endmembers),
        endmember_scale_tril=scale_tril,
        abundances=_float(abundances),
        brightness=_float(factor) if brightness is not None else None,
        noise_scale=_float(noise_scale),
        spectrum_mean=_float(mean),
        components=_float(components),
        log_norm=_float(np.array([log_norm.mean(), max(log_norm.std(), 1e-3)])),
        denoise=denoise,
        joint=joint,
    )
    filled = model.replace(
        endmembers=model.endmembers if model.endmembers is not None else MVNEndmembers(start.endmembers, scale_tril),
        brightness=brightness,
        noise=noise,
        evidence=evidence,
    )
    return filled, start


def _simplices(
    pixels: np.ndarray, k: int, brightness: str | PixelBrightness | None, seed: int
) -> tuple[np.ndarray, str | PixelBrightness | None, bool]:
    """Candidates `(2, k, n_bands)`, the better first, for a scene of white noise, what to do about brightness, and whether the
    abundances look Dirichlet."""
    pixels = candidates(pixels, k)
    if brightness == "auto":
        first = vca(pixels, k, seed=seed)
        scatter = _brightness_scatter(pixels, calibrate_amplitude(first, _coefficients(nnls, pixels, first)))
        brightness = PixelBrightness() if scatter > _BRIGHTNESS else None
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
        found = [calibrate_amplitude(each, _coefficients(nnls, pixels, each)) for each in found]
    # Much noise leads the density astray, too, for it takes errors of abundances for independent. The evidence does not.
    evidence, concentration = zip(*(_evidence(pixels, each, varies, seed) for each in found[:-1]), strict=True)
    best = int(np.argmax(evidence - _CLEARLY * (np.arange(len(evidence)) > 0)))
    if best == len(evidence) - 1:
        dirichlet = bool((concentration[best] < _FLAT).all())
    return np.stack([found[best], found[-1][match(found[-1], found[best])]]), brightness, dirichlet


def _evidence(pixels: np.ndarray, endmembers: np.ndarray, varies: bool, seed: int) -> tuple[float, np.ndarray]:
    """Mean log evidence of pixels given endmembers, abundances integrated out under a Dirichlet distribution, and its most
    probable concentration `(k,)`. The least likely pixels, which may be outliers, are left out."""
    noise_scale = max(affine_subspace(pixels, len(endmembers)).noise_scale, 1e-4 * float(np.sqrt(np.mean(pixels**2))))
    pixels = np.random.default_rng(seed).permutation(pixels)[:_WEIGHED]
    scatter = max(_brightness_scatter(pixels, endmembers), 1e-3) if varies else None
    likelihood = PixelLikelihood.of(torch.as_tensor(pixels), torch.as_tensor(endmembers),
                                    torch.full(pixels.shape[1:], noise_scale, dtype=torch.float64))
    with seeded(seed):
        # From sparse to flat takes fewer sweeps than back.
        sparse = torch.full((len(endmembers),), 1.0 / len(endmembers))
        concentration = learn_concentration(likelihood, sparse, scatter, iterations=_SWEEPS)
        log_weights = draw(likelihood, concentration, scatter, _DRAWS).log_weights
    evidence = (log_weights.logsumexp(dim=0) - np.log(_DRAWS)).sort().values
    return float(evidence[int(_LEFT_OUT * len(evidence)):].mean()), concentration.numpy()


def _archetypes(shapes: np.ndarray, pixels: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Candidates `(n_best, k, n_bands)`, the best first, for a scene whose noise is not white, in one order and amplitude."""
    seeds = [_SAMPLES * seed + sample for sample in range(_SAMPLES)]
    found = np.concatenate([restarts(shapes, k, _RESTARTS, keep=_KEPT, seed=each) for each in seeds])
    # The median alone forgives materials that few pixels hold; the mean square alone lets a few strange pixels decide.
    apart = residuals(shapes, found, seed=seed)
    best = found[(np.median(apart, axis=1) * np.sqrt(np.mean(apart**2, axis=1))).argsort()[:_BEST]]
    best = np.stack([each[match(each, best[0])] for each in best])
    best /= np.linalg.norm(best, axis=2, keepdims=True)
    calibrated = calibrate_amplitude(best[0], _coefficients(nnls, pixels, best[0]))
    return best * np.linalg.norm(calibrated, axis=1)[:, None]


def _brightness_scatter(pixels: np.ndarray, endmembers: np.ndarray) -> float:
    """Robust scatter of the logarithm of the pixels' brightness."""
    total = np.maximum(_coefficients(nnls, pixels, endmembers).sum(axis=1), 1e-12)
    return spread(np.log(total))


def informed_endmembers(spectra: np.ndarray, scene: Scene, n_endmembers: int, *, sd: float = 0.1) -> MVNEndmembers:
    """A prior centred on measured spectra, brought to the amplitude of the scene by one common factor.

    Parameters
    ----------
    spectra
        `(n_endmembers, n_bands)`, in any unit proportional to reflectance, on the bands of the scene.
    sd
        Standard deviation in a band, in units of the root mean square of the spectrum.

    Raises
    ------
    InputError
        Another number of spectra than endmembers, or of bands than in the scene.
    """
    spectra = np.atleast_2d(np.asarray(spectra, dtype=np.float64))
    if spectra.shape != (n_endmembers, scene.n_bands):
        raise InputError(f"{n_endmembers} spectra of {scene.n_bands} bands, one an endmember",
                         f"an array of shape {spectra.shape}", "name as many materials as endmembers")
    mean = spectra * np.median(_coefficients(nnls, scene.pixels().astype(np.float64), spectra).sum(axis=1))
    sds = sd * np.sqrt(np.mean(mean**2, axis=1))
    return MVNEndmembers(mean, torch.stack([smooth_scale_tril(scene.wavelengths, scene.n_bands, s) for s in sds]))


def calibrate_amplitude(endmembers: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Scale endmembers so that the coefficients of most pixels sum to one.

    Parameters
    ----------
    endmembers
        `(n_endmembers, n_bands)`, shapes known, amplitudes not.
    coefficients
        `(n_pixels, n_endmembers)`: non-negative least squares of the pixels on them.

    Returns
    -------
    endmembers
        Divided by a, the robust non-negative solution of coefficients @ a = 1, times what makes the median of the sums one.
    """
    scales = np.ones(coefficients.shape[1])
    weights = np.ones(len(coefficients))
    for _ in range(20):  # iteratively reweighted towards least absolute deviations
        scales, _ = optimize.nnls(coefficients * weights[:, None], weights)
        weights = 1.0 / np.sqrt(np.maximum(np.abs(coefficients @ scales - 1.0), 1e-3))
    # An endmember that no pixel needs has no amplitude of its own; it takes the one at which its brightest pixel is pure.
    scales = np.where(scales > 0, scales, 1.0 / np.maximum(coefficients.max(axis=0), 1e-12))
    # Bright pixels pull harder at the common factor: least absolute deviations would leave most pixels dimmer than one.
    scales = scales / max(float(np.median(coefficients @ scales)), 1e-12)
    return endmembers / scales[:, None]


def spread(values: np.ndarray) -> float:
    """Median absolute deviation, scaled to the standard deviation of a normal."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def _check_size(pixels: np.ndarray, k: int) -> None:
    n_pixels, n_bands = pixels.shape
    if k > n_bands:
        raise InputError(f"at most as many endmembers as bands ({n_bands})", f"{k}")
    if k > n_pixels:
        raise InputError(f"at most as many endmembers as pixels in use ({n_pixels})", f"{k}")
    values = np.linalg.eigvalsh(pixels.T @ pixels)[::-1]
    rank = int((values > 1e-10 * values[0]).sum())
    if k > rank:
        raise InputError(f"at most {rank} endmembers, the number of directions in which the pixels differ", f"{k}",
                         "ask for fewer")
    if values[0] > 0 and n_pixels < 10 * k:
        warnings.warn(f"{n_pixels} pixels are few for {k} endmembers", UnmixWarning, stacklevel=4)


def _moments(prior: dist.TorchDistribution, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Means `(n_endmembers, n_bands)` of an endmember prior, and its standard deviation in a band of each endmember."""
    try:
        moments = prior.mean, prior.variance
    except NotImplementedError:  # no closed form
        with seeded(seed):
            draws = prior.sample(torch.Size([1000]))
        moments = draws.mean(dim=0), draws.var(dim=0)
    mean, variance = (moment.detach().cpu().double().numpy() for moment in moments)
    if not (np.isfinite(mean).all() and np.isfinite(variance).all() and (variance > 0).all()):
        raise InputError("an endmember prior with a finite mean and a positive, finite variance", "one without",
                         "for endmembers that are known, give a normal with a small standard deviation")
    return mean, np.sqrt(variance.mean(axis=1))


def _whitening(shapes: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    mean = shapes.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(shapes.T))
    n_components = min(max(2 * k, 10), shapes.shape[1])
    values, vectors = values[::-1][:n_components], vectors[:, ::-1][:, :n_components]
    return mean, vectors.T / np.sqrt(np.maximum(values, 1e-6 * values[0]))[:, None]


def _coefficients(solve: Callable, pixels: np.ndarray, endmembers: np.ndarray) -> np.ndarray:
    return solve(torch.as_tensor(pixels), torch.as_tensor(endmembers)).numpy()


def _float(array: np.ndarray) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float32)

"""What the scene says before any training: a start for the guide and a prior for the endmembers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyro.distributions as dist
import torch
from scipy import optimize
from torch import Tensor

from pyro_unmix.baselines.archetypes import archetypes
from pyro_unmix.baselines.fcls import fcls, nnls
from pyro_unmix.errors import InputError, UnmixWarning
from pyro_unmix.model import UnmixingModel
from pyro_unmix.noise import DiagonalNoise, PixelBrightness
from pyro_unmix.numerics import one_thread, seeded
from pyro_unmix.priors import MVNEndmembers, check_endmember_prior, smooth_scale_tril
from pyro_unmix.scene import Scene

# Residuals of L2-normalised pixels beyond the signal: effective share of independent bands above which noise counts as white.
# Simulated scenes lie at 0.49 to 0.95, real ones at 0.03 to 0.24.
_WHITE = 0.3
# What the pixels of a real scene are worth as independent witnesses of an endmember: neighbours err together.
_WITNESSES = 100.0
# Robust scatter of the log of summed coefficients above which brightness is taken to vary.
_BRIGHTNESS = 0.05
# Prior standard deviation of an endmember in a band, in units of its own root mean square.
_ENDMEMBER_SD = 0.03


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
    """

    endmembers: Tensor
    endmember_scale_tril: Tensor
    abundances: Tensor
    brightness: Tensor | None
    noise_scale: Tensor
    spectrum_mean: Tensor
    components: Tensor
    log_norm: Tensor


@one_thread()
def initialize(model: UnmixingModel, scene: Scene, *, seed: int = 0) -> tuple[UnmixingModel, Start]:
    """Fill the open parts of a model from a scene, and find where training begins.

    Endmembers are archetypes of the pixels divided by their norm, unless the model brings a prior of its own. Their
    amplitudes and the pixels' brightness follow from non-negative least squares.

    Returns
    -------
    model
        A new model whose endmember prior, brightness, noise and evidence are all set.
    start
        Where training begins.

    Raises
    ------
    InputError
        More endmembers than bands, than pixels, or than the scene has directions.
    """
    pixels = scene.pixels().astype(np.float64)
    k = model.n_endmembers
    _check_size(pixels, k)
    shapes = pixels / np.maximum(np.linalg.norm(pixels, axis=1, keepdims=True), 1e-12)
    brightness = model.brightness

    if model.endmembers is not None:
        check_endmember_prior(model.endmembers, k, scene.n_bands)
        endmembers, sds = _moments(model.endmembers(k, scene.n_bands), seed)
    else:
        endmembers = archetypes(shapes, k, seed=seed)
        endmembers = calibrate_amplitude(endmembers, _coefficients(nnls, pixels, endmembers))
        sds = _ENDMEMBER_SD * np.sqrt(np.mean(endmembers**2, axis=1))
    scale_tril = torch.stack([smooth_scale_tril(scene.wavelengths, scene.n_bands, sd) for sd in sds])

    coefficients = _coefficients(nnls, pixels, endmembers)
    total = np.maximum(coefficients.sum(axis=1), 1e-12)
    scatter = spread(np.log(total))
    if brightness == "auto":
        brightness = PixelBrightness(scatter) if scatter > _BRIGHTNESS else None
    elif isinstance(brightness, PixelBrightness) and torch.isnan(brightness.scale):
        brightness = PixelBrightness(max(scatter, 1e-3))
    if brightness is not None:
        abundances, factor = coefficients / total[:, None], total
    else:
        abundances, factor = _coefficients(fcls, pixels, endmembers), np.ones(len(pixels))
    abundances = np.where(total[:, None] > 1e-9, abundances, 1.0 / k)

    residuals = pixels - factor[:, None] * (abundances @ endmembers)
    rms = float(np.sqrt(np.mean(pixels**2)))
    noise_scale = np.maximum(np.sqrt(np.mean(residuals**2, axis=0)), 1e-4 * rms)
    noise = model.noise
    if torch.isnan(noise.scale).any():
        noise = DiagonalNoise(noise_scale, spread=noise.settings["spread"], floor=1e-4 * rms)
    share = effective_bands(shapes, k) / scene.n_bands
    evidence = model.evidence
    if evidence is None:
        evidence = 1.0 if share > _WHITE else min(1.0, share * _WITNESSES / len(pixels))

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
    )
    filled = model.replace(
        endmembers=model.endmembers if model.endmembers is not None else MVNEndmembers(start.endmembers, scale_tril),
        brightness=brightness,
        noise=noise,
        evidence=evidence,
    )
    return filled, start


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
        Divided by a, the robust non-negative solution of coefficients @ a = 1.
    """
    scales = np.ones(coefficients.shape[1])
    weights = np.ones(len(coefficients))
    for _ in range(20):  # iteratively reweighted towards least absolute deviations
        scales, _ = optimize.nnls(coefficients * weights[:, None], weights)
        weights = 1.0 / np.sqrt(np.maximum(np.abs(coefficients @ scales - 1.0), 1e-3))
    # An endmember that no pixel needs has no amplitude of its own; it takes the one at which its brightest pixel is pure.
    scales = np.where(scales > 0, scales, 1.0 / np.maximum(coefficients.max(axis=0), 1e-12))
    return endmembers / scales[:, None]


def effective_bands(shapes: np.ndarray, n_endmembers: int) -> float:
    """How many independent bands the residuals of a scene amount to.

    (sum of eigenvalues)^2 / sum of squares, over the eigenvalues of the pixels divided by their norm `(n_pixels, n_bands)` beyond
    the leading `n_endmembers`. Near the number of bands for white noise, a few for correlated residuals, 1 where there are none.
    """
    values = np.linalg.eigvalsh(shapes.T @ shapes / len(shapes))[: shapes.shape[1] - n_endmembers]
    values = np.maximum(values, 0)
    return max(1.0, float(values.sum() ** 2 / max((values**2).sum(), 1e-300)))


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

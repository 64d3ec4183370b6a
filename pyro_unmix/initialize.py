"""What the scene says before any training: a start for the guide and a prior for the endmembers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
import xarray as xr
from torch import Tensor, nn

from pyro_unmix.amplitude import BRIGHTNESS, coefficients, spread
from pyro_unmix.baselines.fcls import nnls
from pyro_unmix.contenders import archetypes, simplices
from pyro_unmix.denoise import FieldMeans, NonLocalMeans
from pyro_unmix.errors import InputError, UnmixWarning
from pyro_unmix.labels import check_labels, labelled_endmembers
from pyro_unmix.least_squares import constrained, least_squares, measured
from pyro_unmix.likelihood import noise_cholesky, whiten
from pyro_unmix.mixing import Linear, Mixing, is_open, n_directions
from pyro_unmix.model import UnmixingModel
from pyro_unmix.noise import DiagonalNoise, PixelBrightness
from pyro_unmix.noise_structure import band_correlation, smooth_noise
from pyro_unmix.numerics import one_thread, seeded
from pyro_unmix.priors import MVNEndmembers, SpatialDirichlet, check_endmember_prior, library_endmembers, smooth_scale_tril
from pyro_unmix.refine.concentration import concentration_of
from pyro_unmix.scene import Scene
from pyro_unmix.subspace import WHITE, count_endmembers, effective_bands
from pyro_unmix.tiles import whole

log = logging.getLogger("pyro_unmix")

# What the pixels of a real scene are worth as independent witnesses of an endmember: neighbours err together.
_WITNESSES = 100.0
# What hardly a pixel of a scene in reflectance exceeds.
_BRIGHT = 1.5
# Prior standard deviation of an endmember in a band, in units of its own root mean square: the spread of the candidates, within
# these bounds. Where they are drawn jointly with the pixels these will say more, and the prior is to be weak.
_LEAST_SD, _MOST_SD, _JOINT_SD = 0.01, 0.1, 0.1

# Rows and columns of the torus on which the weights of a field are worked out.
_TORUS = 128


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
        `(n_bands,)`: root mean square of the residuals, or the scale of noise that was chosen for its structure.
    noise_correlation
        `(n_bands, n_bands)`: lower Cholesky factor of the correlation of the noise between bands, where pixels err independently.
    spectrum_mean, components, log_norm
        Location and whitening of the encoder's input: `(n_bands,)`, `(n_components, n_bands)`, `(2,)`.
    mixing
        How materials combine, its coefficient known.
    denoise
        Takes noise out of the spectra before abundances are estimated; None where the noise is not white.
    joint
        Whether what pixels share may be drawn jointly with them: the noise is white, or correlates over bands in a known way and
        not over pixels, and the abundances look Dirichlet.
    independent_errors
        Whether pixels err independently of their neighbours: noise is white, or correlates between bands in a known way.
    degrees_of_freedom
        Of readings that are Student-t by themselves; None where they are not.
    """

    endmembers: Tensor
    endmember_scale_tril: Tensor
    abundances: Tensor
    brightness: Tensor | None
    noise_scale: Tensor
    noise_correlation: Tensor | None
    spectrum_mean: Tensor
    components: Tensor
    log_norm: Tensor
    mixing: nn.Module
    denoise: NonLocalMeans | None
    joint: bool
    independent_errors: bool
    degrees_of_freedom: float | None = None


@one_thread()
def initialize(model: UnmixingModel, scene: Scene, *, seed: int = 0,
               labels: np.ndarray | xr.DataArray | None = None) -> tuple[UnmixingModel, Start]:
    """Fill the open parts of a model from a scene, and find where training begins.

    Where the noise is white, or can be whitened, endmembers are the corners of the simplex that makes the pixels most likely, of
    the smallest that holds them, or of the means of pixels that look alike, as the evidence says; where it is not, archetypes of
    the pixels divided by their norm (`contenders`). A model that brings a prior of its own starts from that. Amplitudes and the
    pixels' brightness follow from least squares.

    Parameters
    ----------
    labels
        `(y, x, n_endmembers)`, abundances of pixels where they are known, NaN elsewhere. Endmembers that are open are then those
        that explain these pixels best.

    Returns
    -------
    model
        A new model whose number and prior of endmembers, mixing, brightness, noise and evidence are all set.
    start
        Where training begins.

    Raises
    ------
    InputError
        More endmembers than bands, than pixels, or than the scene has directions; or their number is open and the scene has no
        more pixels than bands; or labels that cannot be used; or mixing that is not linear of a scene that is not in reflectance.
    """
    pixels = scene.pixels().astype(np.float64)
    if labels is not None:
        labels = check_labels(labels, scene, None if model.n_endmembers == "auto" else model.n_endmembers)
        model = model.replace(n_endmembers=labels.shape[-1])
    if model.n_endmembers == "auto":
        model = model.replace(n_endmembers=count_endmembers(pixels))
        log.info("%d endmembers, an estimate from the scene: give their number where it is known", model.n_endmembers)
    k = model.n_endmembers
    _check_size(pixels, k)
    _check_unit(pixels, model.mixing)
    directions = n_directions(model.mixing, k, scene.n_bands)
    shapes = _shapes(pixels)
    brightness = model.brightness
    noise = model.noise
    if noise is None:  # what varies with the endmembers is not noise, however smooth it is
        noise = (smooth_noise(scene, directions) if model.variability is None else None) or DiagonalNoise()
    correlation = band_correlation(noise, scene, directions)
    cholesky = correlation
    if correlation is not None and not torch.isnan(noise.scale).any():
        cholesky = noise.scale.double().expand(scene.n_bands)[:, None] * correlation

    share = effective_bands(_shapes(_whitened(pixels, cholesky)), directions) / scene.n_bands
    white = joint = share > WHITE
    if model.endmembers is not None:
        check_endmember_prior(model.endmembers, k, scene.n_bands)
        endmembers, sds = _moments(model.endmembers(k, scene.n_bands), seed)
    else:
        if isinstance(model.mixing, Mixing) and not isinstance(model.mixing, Linear):
            warnings.warn("endmembers are looked for as if mixing were linear: give a prior of them", UnmixWarning, stacklevel=3)
        if labels is not None:
            known = labels[scene.mask.values]
            use = np.isfinite(known).all(axis=1)
            joint = white and bool(concentration_of(torch.as_tensor(known[use])).max() < 1.0)
            found = labelled_endmembers(pixels[use], known[use], brightness is not None)[None]
        elif white:
            found, brightness, joint = simplices(_whitened(pixels, cholesky), k, brightness, seed)
            if cholesky is not None:
                found = found @ cholesky.numpy().T
        else:
            found = archetypes(shapes, pixels, k, seed)
        endmembers = found[0]
        rms = np.sqrt(np.mean(endmembers**2, axis=1))
        apart = np.sqrt(np.mean((found - endmembers) ** 2, axis=(0, 2)))
        sds = rms * (_JOINT_SD if joint and labels is None else np.clip(apart / rms, _LEAST_SD, _MOST_SD))
    scale_tril = torch.stack([smooth_scale_tril(scene.wavelengths, scene.n_bands, 1.0) * _float(sd)[..., None] for sd in sds])
    if isinstance(model.endmembers, MVNEndmembers):  # what it believes before the likelihood is seen, bands together
        scale_tril = model.endmembers.scale_tril.detach().cpu().expand_as(scale_tril).clone()

    mixing = model.mixing
    if is_open(mixing):
        mixing = measured(mixing, torch.as_tensor(pixels), torch.as_tensor(endmembers), brightness is not None)
        log.info("%r, measured from the scene", mixing)
    scatter = spread(np.log(_solved(pixels, endmembers, True, mixing)[1]))
    if brightness == "auto":
        brightness = PixelBrightness(scatter) if scatter > BRIGHTNESS else None
    elif isinstance(brightness, PixelBrightness) and torch.isnan(brightness.scale):
        brightness = PixelBrightness(max(scatter, 1e-3))
    denoise = None
    cleaned = pixels
    if white and correlation is None and noise.elliptical:
        denoise = NonLocalMeans(scene.n_bands, min(directions + 2, scene.n_bands)).fit(torch.as_tensor(pixels))
        tiles = whole(scene)
        cleaned = tiles.select(denoise(tiles.reflectance, tiles.valid)).double().numpy()
    abundances, factor = _solved(cleaned, endmembers, brightness is not None, mixing)

    with torch.no_grad():
        mixed = mixing(torch.as_tensor(abundances), torch.as_tensor(endmembers)).numpy()
    residual = pixels - factor[:, None] * mixed
    rms = float(np.sqrt(np.mean(pixels**2)))
    noise_scale = np.maximum(np.sqrt(np.mean(residual**2, axis=0)), 1e-4 * rms)
    if model.noise is None and correlation is not None:
        noise_scale = noise.scale.double().numpy()
    if torch.isnan(noise.scale).any():
        if model.variability is None:
            noise = noise.measured(residual, floor=1e-4 * rms)
        else:
            beside = model.variability.noise_beside(residual, factor[:, None] * abundances, endmembers, 1e-4 * rms)
            noise = noise.filled(beside, floor=1e-4 * rms)
        noise_scale = noise.scale.double().numpy()
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
        noise_correlation=None if correlation is None or not white else correlation.float(),
        spectrum_mean=_float(mean),
        components=_float(components),
        log_norm=_float(np.array([log_norm.mean(), max(log_norm.std(), 1e-3)])),
        mixing=mixing,
        denoise=denoise,
        joint=joint,
        independent_errors=white,
        degrees_of_freedom=None if noise.elliptical else noise.settings["degrees_of_freedom"],
    )
    prior: Any = model.abundances
    if isinstance(prior, SpatialDirichlet):
        prior = _measured(prior, scene, start) if start.independent_errors else prior.without_neighbours()
        if denoise is not None:
            field_means = FieldMeans(scene.n_bands, len(denoise.directions))
            field_means.fit(torch.as_tensor(pixels))
            start = replace(start, denoise=field_means.expect(torch.as_tensor(pixels), *prior.spectrum(_TORUS)))
    filled = model.replace(
        abundances=prior,
        endmembers=model.endmembers if model.endmembers is not None else MVNEndmembers(start.endmembers, scale_tril),
        mixing=mixing,
        brightness=brightness,
        noise=noise,
        evidence=evidence,
    )
    return filled, start


def _solved(pixels: np.ndarray, endmembers: np.ndarray, brightness: bool, mixing: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """`least_squares.constrained`, to the end."""
    abundances, factor = constrained(torch.as_tensor(pixels), torch.as_tensor(endmembers), brightness, mixing, iterations=1000)
    return abundances.numpy(), factor.numpy()


def _measured(prior: SpatialDirichlet, scene: Scene, start: Start) -> SpatialDirichlet:
    """The prior, with what unconstrained least squares, before any denoising, say of how neighbours resemble each other."""
    found = least_squares(torch.as_tensor(scene.pixels()), start.endmembers,
                          noise_cholesky(start.noise_scale, start.noise_correlation), brightness=start.brightness is not None,
                          mixing=start.mixing)
    maps = np.full((*scene.shape[:2], found.free.shape[1]), np.nan)
    maps[scene.mask.values] = found.free.numpy()
    return prior.filled(maps, found.covariance.double().mean(dim=0).numpy(), concentration_of(start.abundances))


def _whitened(pixels: np.ndarray, noise_cholesky: Tensor | None) -> np.ndarray:
    return pixels if noise_cholesky is None else whiten(torch.as_tensor(pixels), noise_cholesky).numpy()


def _shapes(pixels: np.ndarray) -> np.ndarray:
    return pixels / np.maximum(np.linalg.norm(pixels, axis=1, keepdims=True), 1e-12)


def informed_endmembers(spectra: np.ndarray | Sequence[np.ndarray], scene: Scene, n_endmembers: int, *,
                        sd: float = 0.1) -> MVNEndmembers:
    """A prior centred on measured spectra, brought to the amplitude of the scene by one common factor.

    Parameters
    ----------
    spectra
        Of each endmember one, `(n_bands,)`, or several, `(n, n_bands)`, which then say how it varies (`library_endmembers`); in
        any unit proportional to reflectance, on the bands of the scene.
    sd
        Of an endmember of one spectrum: standard deviation in a band, in units of the root mean square of the spectrum.

    Raises
    ------
    InputError
        Another number of spectra than endmembers, or of bands than in the scene.
    """
    given = [np.atleast_2d(np.asarray(some, dtype=np.float64)) for some in spectra]
    if len(given) != n_endmembers or any(some.shape[1:] != (scene.n_bands,) for some in given):
        raise InputError(f"{n_endmembers} spectra of {scene.n_bands} bands, one an endmember, or several",
                         f"{len(given)} of shapes {sorted({some.shape for some in given})}",
                         "name as many materials as endmembers")
    means = np.stack([some.mean(axis=0) for some in given])
    amplitude = np.median(coefficients(nnls, scene.pixels().astype(np.float64), means).sum(axis=1))
    return library_endmembers([amplitude * some for some in given], scene.wavelengths, sd=sd)


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


def _check_unit(pixels: np.ndarray, mixing: nn.Module) -> None:
    high = float(np.quantile(pixels, 0.99))
    if high > _BRIGHT and isinstance(mixing, Mixing) and not isinstance(mixing, Linear):
        raise InputError("reflectance, about 0 to 1, which mixing that is not linear needs", f"values up to {high:g}",
                         "divide the scene by its unit")


def _moments(prior: dist.TorchDistribution, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations of an endmember prior, each `(n_endmembers, n_bands)`."""
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
    return mean, np.sqrt(variance)


def _whitening(shapes: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    mean = shapes.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(shapes.T))
    n_components = min(max(2 * k, 10), shapes.shape[1])
    values, vectors = values[::-1][:n_components], vectors[:, ::-1][:, :n_components]
    return mean, vectors.T / np.sqrt(np.maximum(values, 1e-6 * values[0]))[:, None]


def _float(array: np.ndarray) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float32)

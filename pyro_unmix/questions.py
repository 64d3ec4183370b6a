"""Answers worked out from a posterior's means and draws."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from pyro_unmix.diagnostics.findings import Finding, findings
from pyro_unmix.diagnostics.residuals import Checks, check_residuals
from pyro_unmix.errors import InputError, UnmixWarning
from pyro_unmix.library import SpectralLibrary
from pyro_unmix.metrics import spectral_angle
from pyro_unmix.mixing import Linear
from pyro_unmix.model import UnmixingModel
from pyro_unmix.pieces import Common, Maps
from pyro_unmix.scene import Scene

# Pixels that are looked at for findings, and rows that stay together so that neighbours can be compared.
LOOKED_AT, _TOGETHER = 40_000, 4
# How far an endmember may be off, in standard deviations.
_REACH = 3.0

UNCALIBRATED = (
    Finding("not calibrated", "The guide was not trained on simulated scenes to the end.",
            "Intervals are too narrow: fit with calibration steps, or refine the posterior."),
    Finding("best effort", "The guide has not learned how large its errors are.", "Intervals are a best effort."))


def widest(maps: Maps, names: Sequence[str], n: int) -> pd.DataFrame:
    """The `n` widest intervals between two quantiles: `Posterior.most_uncertain`."""
    if n < 1:
        raise InputError("at least one interval", f"{n}")
    low, high = maps.quantiles
    width = np.where(np.isnan(maps.mean), -1.0, high - low)
    order = np.argsort(-width, axis=None, kind="stable")[: min(n, int((width >= 0).sum()))]
    y, x, endmember = np.unravel_index(order, width.shape)
    return pd.DataFrame({"y": y, "x": x, "endmember": np.asarray(names)[endmember],
                         **{name: values.ravel()[order] for name, values in
                            (("mean", maps.mean), ("sd", maps.sd), ("low", low), ("high", high))}})


def nearest(endmembers: np.ndarray, names: Sequence[str], library: SpectralLibrary, wavelengths: np.ndarray | None,
            n: int) -> pd.DataFrame:
    """The `n` materials of a library that draws `(n_draws, K, L)` of the endmembers are most often nearest to:
    `Posterior.identify`."""
    library = library.on_bands(endmembers.shape[2], wavelengths)
    spectra = library.spectra.astype(np.float64)
    length = np.linalg.norm(spectra, axis=1)
    cosines = endmembers.astype(np.float64) @ (spectra / np.maximum(length, np.finfo(float).tiny)[:, None]).T
    found = np.where(length > 0, cosines, -np.inf).argmax(axis=2)  # of the least angle
    probability = np.stack([np.bincount(each, minlength=len(library)) for each in found.T]) / len(found)
    angle = spectral_angle(endmembers.mean(axis=0)[:, None], spectra)
    return library.ranking(np.lexsort((angle, -probability)), names, n, probability=probability, angle=angle).drop(columns="rank")


def checks(model: UnmixingModel, scene: Scene, maps: Maps, common: Common) -> Checks:
    """`check_residuals` at the means, endmembers moved; refused where mixing is not linear or the noise has no covariance."""
    if not isinstance(model.mixing, Linear):
        raise InputError("linear mixing, whose residuals can be looked at", type(model.mixing).__name__)
    if model.variability is not None:
        raise InputError("residuals of one covariance", "endmembers that vary, whose residuals have one in every pixel")
    try:
        noise = model.noise.cholesky(common.noise_scale.double()).numpy()
    except NotImplementedError as error:
        raise InputError("noise of a known covariance", type(model.noise).__name__, "give it a method 'cholesky'") from error
    lit = (maps.mean if maps.brightness is None else maps.brightness[..., None] * maps.mean)[scene.mask.values]
    mean, sd = (each.double().numpy() for each in (common.endmembers, common.endmember_sd))
    return check_residuals(scene, maps.mean, maps.brightness, moved(scene.pixels(), lit, mean, sd, noise), noise)


def moved(pixels: np.ndarray, lit: np.ndarray, mean: np.ndarray, sd: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """The mean of the endmembers `(K, L)` given abundances times brightness `(n, K)` of `pixels` `(n, L)` and, as a prior, their
    `mean` and `sd`.

    They are learned from fewer pixels than are looked at, and even of the right model many pixels show an error that is as large
    as its standard deviation says. Band by band, as in Bayesian linear regression (Bishop 2006, Pattern Recognition and Machine
    Learning, eq. 3.50), and no farther than an error may go.
    """
    variance = (noise**2).sum(axis=1) if noise.ndim == 2 else noise**2
    gram, target = lit.T @ lit, pixels.T.astype(np.float64) @ lit
    precision = gram / variance[:, None, None] + np.eye(len(mean)) / np.maximum(sd.T**2, 1e-24)[:, :, None]
    error = (target - mean.T @ gram) / variance[:, None]
    shift = np.linalg.solve(precision, error[..., None])[..., 0].T
    return mean + shift.clip(-_REACH * sd, _REACH * sd)


def verdict(model: UnmixingModel, scene: Scene, maps: Maps, common: Common, prior_sd: Tensor | None,
            names: Sequence[str], departures: Sequence[Finding] | None = None) -> list[Finding]:
    """`findings` of a scene. `prior_sd` is that of the endmembers, None where they are held; `departures` as there."""
    try:
        found = checks(model, scene, maps, common)
    except InputError as error:
        return [Finding("best effort", f"Residuals could not be looked at: {error}.", "Intervals are a best effort.")]
    restated = float((common.noise_scale / model.noise.scale).median())
    sds = {} if prior_sd is None else {"endmember_sd": common.endmember_sd.numpy(), "endmember_prior_sd": prior_sd.numpy()}
    return findings(found, names=names, noise_restated=restated, departures=departures, **sds)


def spread_rows(with_data: np.ndarray, n_cols: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows of a large scene in groups of neighbours, and whether each is looked at: the last of a group only keeps it apart from
    the next. None: all of them. `with_data` `(y,)` is True where a row has a pixel in use: others say nothing."""
    groups = max(1, LOOKED_AT // (n_cols * _TOGETHER))
    if len(with_data) <= groups * (_TOGETHER + 1):
        return None
    rows = np.flatnonzero(with_data)
    if len(rows) <= groups * (_TOGETHER + 1):
        return rows, np.ones(len(rows), bool)
    first = np.linspace(0, len(rows) - _TOGETHER - 1, groups).astype(int)
    chosen = rows[first[:, None] + np.arange(_TOGETHER + 1)]
    return chosen.ravel(), np.broadcast_to(np.arange(_TOGETHER + 1) < _TOGETHER, chosen.shape).ravel()


def looked_at(scene: Scene, maps: Maps) -> tuple[Scene, Maps]:
    """Of a large scene, some of its rows."""
    spread = spread_rows(np.asarray(scene.mask.any("x")), scene.shape[1])
    if spread is None:
        return scene, maps
    rows, use = spread
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnmixWarning)  # the scene has warned already
        part = Scene(scene.reflectance.values[rows], mask=scene.mask.values[rows] & use[:, None])
    return part, maps.of_rows(rows)

"""Priors of the endmembers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions.transforms import ExpTransform

from pyro_unmix.errors import InputError

# Of endmembers that are known, in units of their root mean square.
_KNOWN_SD = 1e-4
# Largest standard deviation of a logarithm: normal guides of such endmembers stay positive.
_MOST_LOG_SD = 0.2
# Length scales in nm that are tried, and the share of variance that is independent from band to band.
_LENGTH_SCALES, _NUGGET = np.geomspace(10.0, 2000.0, 60), 0.01
_DEFAULT_LENGTH_SCALE = 100.0
# Of the smooth kernel, at least, in a covariance of measured spectra.
_LEAST_SHRINKAGE = 0.01


class MVNEndmembers(nn.Module):
    """Multivariate-normal prior of the endmembers, independent between endmembers, smooth over wavelength.

    Parameters
    ----------
    mean
        `(n_endmembers, n_bands)`, in the unit of the scene.
    scale_tril
        `(n_bands, n_bands)` or `(n_endmembers, n_bands, n_bands)`: lower Cholesky factor of the covariance;
        `smooth_scale_tril` makes one.
    """

    settings: dict = {}
    mean: Tensor
    scale_tril: Tensor

    def __init__(self, mean: Tensor | np.ndarray, scale_tril: Tensor | np.ndarray):
        super().__init__()
        mean, scale_tril = (torch.as_tensor(np.asarray(a), dtype=torch.float32) for a in (mean, scale_tril))
        bands = mean.shape[-1:]
        if mean.ndim != 2 or scale_tril.shape not in {bands + bands, mean.shape + bands}:
            raise InputError("a mean (n_endmembers, n_bands) and a Cholesky factor (n_bands, n_bands) or one an endmember",
                             f"shapes {tuple(mean.shape)} and {tuple(scale_tril.shape)}")
        self.register_buffer("mean", mean)
        self.register_buffer("scale_tril", scale_tril)

    @property
    def of_one_kernel(self) -> bool:
        """Whether the covariances of all endmembers are proportional to each other."""
        if self.scale_tril.ndim == 2:
            return True
        relative = self.scale_tril / self.scale_tril[:, :1, :1]
        return torch.allclose(relative, relative[:1].expand_as(relative), rtol=1e-4, atol=1e-4)

    @property
    def stddev(self) -> Tensor:
        """`(n_endmembers, n_bands)`."""
        return self.scale_tril.norm(dim=-1).expand_as(self.mean)

    def forward(self, n_endmembers: int, n_bands: int) -> dist.Distribution:
        _check_shape(self.mean, n_endmembers, n_bands)
        return dist.MultivariateNormal(self.mean, scale_tril=self.scale_tril).to_event(1)


class GPEndmembers(MVNEndmembers):
    """Endmembers that depart from a mean as a Gaussian process over wavelength does: `smooth_scale_tril`.

    Parameters
    ----------
    mean
        `(n_endmembers, n_bands)`, in the unit of the scene.
    sd
        Standard deviation in every band, in the same unit: one number, or one an endmember.
    length_scale
        In nm. None: that of the mean spectra, by greatest marginal likelihood (`spectral_length_scale`): a spectrum is taken to
        depart from its mean as smoothly as it varies itself.
    wavelengths
        `(n_bands,)` in nm. None: bands are taken as 10 nm apart.

    Raises
    ------
    InputError
        Shapes that do not fit each other, or an sd or a length scale that is not positive.
    """

    def __init__(self, mean: Tensor | np.ndarray | Sequence, sd: float | Sequence[float], length_scale: float | None = None,
                 wavelengths: np.ndarray | Sequence[float] | None = None):
        mean = _spectra(mean)
        sds = np.broadcast_to(np.asarray(sd, dtype=np.float64), len(mean)) if np.shape(sd) in {(), (len(mean),)} else None
        if sds is None:
            raise InputError(f"one sd, or {len(mean)}, one an endmember", f"shape {np.shape(sd)}")
        wavelengths = None if wavelengths is None else _wavelengths(wavelengths, mean.shape[1])
        if length_scale is None:
            length_scale = spectral_length_scale(mean, wavelengths)
        super().__init__(mean, torch.stack([smooth_scale_tril(wavelengths, mean.shape[1], each, length_scale=length_scale)
                                            for each in sds.tolist()]))
        self.settings = {"mean": mean.tolist(), "sd": sds.tolist(), "length_scale": float(length_scale),
                         "wavelengths": None if wavelengths is None else wavelengths.tolist()}


class FixedEndmembers(MVNEndmembers):
    """Endmembers that are known: a normal prior of standard deviation 1e-4 of each spectrum's root mean square.

    Not exactly a point, so that everything made for a normal prior holds, exact draws among it.

    Parameters
    ----------
    spectra
        `(n_endmembers, n_bands)`, in the unit of the scene.

    Raises
    ------
    InputError
        No such array, or a spectrum that is zero.
    """

    def __init__(self, spectra: Tensor | np.ndarray | Sequence):
        spectra = _spectra(spectra)
        rms = np.sqrt(np.mean(spectra**2, axis=1))
        if not (rms > 0).all():
            raise InputError("spectra that are not zero", f"number {int(rms.argmin()) + 1}, which is")
        super().__init__(spectra, _KNOWN_SD * rms[:, None, None] * np.eye(spectra.shape[1]))
        self.settings = {"spectra": spectra.tolist()}


class LogNormalEndmembers(nn.Module):
    """Positive endmembers: the logarithm of a spectrum is normal, smooth over wavelength (`smooth_scale_tril`).

    Brightness of a material, and absorption, multiply; so a dark band varies by as small a share as a bright one. Pyro has no
    analytic divergence for it, and training draws (`Trace_ELBO`).

    Parameters
    ----------
    median
        `(n_endmembers, n_bands)`, positive, in the unit of the scene.
    sd
        Standard deviation of the logarithm in every band, at most 0.2: the guide is normal, and has to stay positive.
    length_scale
        In nm.
    wavelengths
        `(n_bands,)` in nm. None: bands are taken as 10 nm apart.

    Raises
    ------
    InputError
        Spectra that are not positive, or an sd out of its range.
    """

    median: Tensor
    scale_tril: Tensor

    def __init__(self, median: Tensor | np.ndarray | Sequence, sd: float = 0.1, length_scale: float = _DEFAULT_LENGTH_SCALE,
                 wavelengths: np.ndarray | Sequence[float] | None = None):
        super().__init__()
        median = _spectra(median)
        if not (median > 0).all() or not 0 < sd <= _MOST_LOG_SD:
            raise InputError(f"positive median spectra, and an sd of their logarithm up to {_MOST_LOG_SD}",
                             f"a least value of {median.min():g}, sd {sd}")
        wavelengths = None if wavelengths is None else _wavelengths(wavelengths, median.shape[1])
        self.settings = {"median": median.tolist(), "sd": float(sd), "length_scale": float(length_scale),
                         "wavelengths": None if wavelengths is None else wavelengths.tolist()}
        self.register_buffer("median", torch.as_tensor(median, dtype=torch.float32))
        self.register_buffer("scale_tril", smooth_scale_tril(wavelengths, median.shape[1], sd, length_scale=length_scale))

    def forward(self, n_endmembers: int, n_bands: int) -> dist.TransformedDistribution:
        _check_shape(self.median, n_endmembers, n_bands)
        log_spectra = dist.MultivariateNormal(self.median.log(), scale_tril=self.scale_tril).to_event(1)
        return dist.TransformedDistribution(log_spectra, [ExpTransform()])


def library_endmembers(spectra: Sequence[np.ndarray], wavelengths: np.ndarray | None = None, *, sd: float = 0.1) -> MVNEndmembers:
    """A prior with mean and covariance of several measured spectra of each material.

    Fewer spectra than bands leave most of a covariance unknown, so that of the spectra is shrunk towards a smooth one of the same
    mean variance (`smooth_scale_tril`), as far as its own uncertainty says: Schaefer and Strimmer (2005), Statistical
    Applications in Genetics and Molecular Biology 4, "A shrinkage approach to large-scale covariance matrix estimation", eq. 8.
    A material's covariance holds whatever its spectra differ in, brightness too.

    Parameters
    ----------
    spectra
        For each endmember its spectra `(n, n_bands)`, n from 1 up, in the unit of the scene: `informed_endmembers` brings others
        there.
    wavelengths
        `(n_bands,)` in nm. None: bands are taken as 10 nm apart.
    sd
        For a material of one spectrum: standard deviation in units of its root mean square.

    Raises
    ------
    InputError
        Spectra of different numbers of bands, or not finite.
    """
    each = [_spectra(np.atleast_2d(some)) for some in spectra]
    n_bands = each[0].shape[1] if each else 0
    if not each or any(some.shape[1] != n_bands for some in each):
        raise InputError("spectra (n, n_bands) of each endmember, on the same bands", f"shapes {[some.shape for some in each]}")
    smooth = smooth_scale_tril(wavelengths, n_bands, 1.0).double().numpy()
    means = np.stack([some.mean(axis=0) for some in each])
    factors = [_shrunk_factor(some, smooth, sd) for some in each]
    return MVNEndmembers(means, np.stack(factors))


def spectral_length_scale(spectra: np.ndarray, wavelengths: np.ndarray | None) -> float:
    """Length scale in nm of the Matern-3/2 kernel (`smooth_scale_tril`) under which `spectra` `(n, n_bands)`, each from its own
    mean over bands and of its own variance, are most probable, of 60 between 10 and 2000; 100 where none has features.

    Rasmussen and Williams (2006), Gaussian Processes for Machine Learning, eq. 5.8; the variance at its best in closed form.
    """
    n_bands = spectra.shape[1]
    centred = spectra - spectra.mean(axis=1, keepdims=True)
    centred = centred[(centred**2).sum(axis=1) > 0]
    if not len(centred):
        return _DEFAULT_LENGTH_SCALE
    best = -np.inf, _DEFAULT_LENGTH_SCALE
    for length_scale in _LENGTH_SCALES.tolist():
        factor = smooth_scale_tril(wavelengths, n_bands, 1.0, length_scale=length_scale, nugget=_NUGGET).double().numpy()
        white = np.linalg.solve(factor, centred.T)
        log_likelihood = -0.5 * n_bands * np.log(np.mean(white**2, axis=0)).sum() - len(centred) * np.log(np.diag(factor)).sum()
        best = max(best, (float(log_likelihood), length_scale))
    return best[1]


def smooth_scale_tril(wavelengths: np.ndarray | None, n_bands: int, sd: float, *, length_scale: float = _DEFAULT_LENGTH_SCALE,
                      nugget: float = _NUGGET) -> Tensor:
    """Cholesky factor `(n_bands, n_bands)` of a covariance that is smooth over wavelength.

    sd^2 * ((1 - nugget) * Matern-3/2(distance / length_scale) + nugget * identity): Rasmussen and Williams (2006),
    Gaussian Processes for Machine Learning, eq. 4.17.

    Parameters
    ----------
    wavelengths
        `(n_bands,)` in nm, in any order. None: bands are taken as 10 nm apart.
    sd
        Standard deviation in every band, in the unit of the scene.
    length_scale
        In nm.
    nugget
        Share of the variance that is independent from band to band.
    """
    if not (sd > 0 and length_scale > 0 and 0 < nugget <= 1):
        raise InputError("positive sd and length_scale, and a nugget in (0, 1]",
                         f"sd {sd}, length_scale {length_scale}, nugget {nugget}")
    position = 10.0 * np.arange(n_bands) if wavelengths is None else np.asarray(wavelengths, dtype=np.float64)
    scaled = np.sqrt(3.0) * np.abs(position[:, None] - position[None, :]) / length_scale
    covariance = (1 - nugget) * (1 + scaled) * np.exp(-scaled) + nugget * np.eye(n_bands)
    # Factorised in float64: in float32 a smooth covariance of 200 bands is no longer positive definite.
    return torch.as_tensor(sd * np.linalg.cholesky(covariance), dtype=torch.float32)


def _shrunk_factor(spectra: np.ndarray, smooth: np.ndarray, sd: float) -> np.ndarray:
    """Lower Cholesky factor `(n_bands, n_bands)` of the covariance of one material's `spectra` `(n, n_bands)`, shrunk towards the
    one that has the factor `smooth`."""
    n = len(spectra)
    if n == 1:
        return sd * np.sqrt(np.mean(spectra**2)) * smooth
    kernel = smooth @ smooth.T
    centred = spectra - spectra.mean(axis=0)
    covariance = centred.T @ centred / (n - 1)
    target = max(np.trace(covariance) / len(kernel), (_KNOWN_SD**2) * np.mean(spectra**2)) * kernel
    # Variance of the elements of the covariance, summed, from that of the products they are means of.
    uncertain = n / (n - 1) ** 3 * (((centred**2).sum(axis=1) ** 2).sum() - (n - 1) ** 2 / n * (covariance**2).sum())
    share = np.clip(uncertain / max(((covariance - target) ** 2).sum(), np.finfo(float).tiny), _LEAST_SHRINKAGE, 1.0)
    return np.linalg.cholesky(share * target + (1 - share) * covariance)


def _spectra(spectra: Tensor | np.ndarray | Sequence) -> np.ndarray:
    found = np.asarray(spectra, dtype=np.float64)
    if found.ndim != 2 or not found.size or not np.isfinite(found).all():
        raise InputError("finite spectra, a row each and a column a band", f"an array of shape {found.shape}")
    return found


def _wavelengths(wavelengths: np.ndarray | Sequence[float], n_bands: int) -> np.ndarray:
    found = np.asarray(wavelengths, dtype=np.float64)
    if found.shape != (n_bands,) or not np.isfinite(found).all():
        raise InputError(f"{n_bands} wavelengths in nm, one a band", f"an array of shape {found.shape}")
    return found


def _check_shape(mean: Tensor, n_endmembers: int, n_bands: int) -> None:
    if mean.shape != (n_endmembers, n_bands):
        raise InputError(f"endmember means of shape ({n_endmembers}, {n_bands})", f"{tuple(mean.shape)}",
                         "give as many spectra as endmembers, on the bands of the scene")

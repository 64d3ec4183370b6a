"""Noise of heavy tails: single readings, or whole pixels, that err more than others."""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution, TorchDistributionMixin
from scipy import optimize, special
from torch import Tensor
from torch.distributions import constraints

from pyro_unmix.errors import InputError
from pyro_unmix.noise.band_noise import BandNoise, own

_ONE = torch.Size()
# Between these degrees of freedom is searched: variance is infinite up to 2, and from some hundreds on noise is normal.
_LEAST_DEGREES, _MOST_DEGREES = 0.5, 300.0
# Pixels that say how heavy the tails are, and rounds of doing so.
_PIXELS, _ROUNDS = 3000, 30


class StudentNoise(BandNoise):
    """Independent Student-t noise in every band: readings that are off by themselves, as dead or saturated detectors' are.

    A band's residual is normal with a variance of its own for every reading, which is inverse-gamma and integrated out (Lange,
    Little and Taylor 1989, JASA 84, "Robust statistical modeling using the t distribution"). One reading that is off says
    nothing of the other bands of its pixel; where whole pixels are off, `PixelScaleNoise` says so.

    Parameters
    ----------
    scale, spread, floor
        Those of `BandNoise`; the standard deviation is sqrt(df / (df - 2)) times the scale.
    degrees_of_freedom
        Positive; the fewer, the heavier the tails, and from some hundred on noise is normal. None: measured from the scene
        when fitted, with the scale, which means nothing without it.

    Raises
    ------
    InputError
        Degrees of freedom that are not positive, or a scale without them.
    """

    degrees_of_freedom: Tensor
    elliptical = False

    def __init__(self, scale: Tensor | np.ndarray | float | None = None, degrees_of_freedom: float | None = None,
                 spread: float = 1.0, floor: float = 1e-6):
        super().__init__(scale, spread, floor)
        if degrees_of_freedom is not None and not 0 < degrees_of_freedom < math.inf:
            raise InputError("positive, finite degrees_of_freedom", f"{degrees_of_freedom}")
        if degrees_of_freedom is None and not torch.isnan(self.scale).any():
            raise InputError("degrees_of_freedom with a scale", "none", "leave both open, or only the scale")
        self.settings["degrees_of_freedom"] = degrees_of_freedom
        self.register_buffer("degrees_of_freedom", own(degrees_of_freedom, torch.float32))

    def measured(self, residual: Tensor | np.ndarray, floor: float) -> BandNoise:
        """A copy whose scale, and degrees of freedom where they are open, are the most probable of a `residual`
        `(n_pixels, n_bands)`.

        By the ECME algorithm of Liu and Rubin (1995), Statistica Sinica 5, "ML estimation of the t distribution using EM and its
        extensions, ECM and ECME", section 4, on up to 3000 pixels.
        """
        residual = np.asarray(residual, dtype=np.float64)
        squares = residual[:: max(1, len(residual) // _PIXELS)] ** 2
        size = self._together(squares.shape[1])
        given = self.settings["degrees_of_freedom"]
        degrees = 4.0 if given is None else given
        variance = np.maximum(np.median(squares, axis=0) / 0.45, floor**2)  # of normal noise, whose median square is .45
        for _ in range(_ROUNDS):
            distance = self._distance(squares / variance)
            if given is None:
                degrees = _most_probable_degrees(distance, size)
            weights = (degrees + size) / (degrees + distance)
            variance = np.maximum((weights * squares).mean(axis=0), floor**2)
        noise = self.filled(np.sqrt(variance), floor)
        noise.settings["degrees_of_freedom"] = float(degrees)
        noise.degrees_of_freedom = own(degrees, torch.float32)
        return noise

    @staticmethod
    def _together(n_bands: int) -> int:
        """Number of readings that share one variance."""
        return 1

    @staticmethod
    def _distance(ratios: np.ndarray) -> np.ndarray:
        """Sum of `ratios` `(n_pixels, n_bands)` over readings that share one variance, with as many dimensions."""
        return ratios

    def likelihood(self, mean: Tensor, noise_scale: Tensor) -> TorchDistributionMixin:
        """Distribution of spectra around `mean` `(..., n_bands)`."""
        return dist.StudentT(self.degrees_of_freedom.to(mean), mean, self.scales(noise_scale)).to_event(1)


class PixelScaleNoise(StudentNoise):
    """Every pixel has a noise factor of its own: whole pixels that are off, by a shadow, a glint or a material not in the model.

    All bands of a pixel are normal with standard deviation noise_scale / sqrt(g), g ~ Gamma(df / 2, df / 2). The factor is
    integrated out, which makes the spectrum multivariate Student-t (Lange, Little and Taylor 1989, eq. 1): a pixel with large
    residuals is believed less, in all bands alike, and knows by itself how little. Parameters: those of `StudentNoise`.
    """

    elliptical = True

    @staticmethod
    def _together(n_bands: int) -> int:
        return n_bands

    @staticmethod
    def _distance(ratios: np.ndarray) -> np.ndarray:
        return ratios.sum(axis=1, keepdims=True)

    def likelihood(self, mean: Tensor, noise_scale: Tensor) -> TorchDistributionMixin:
        """Distribution of spectra around `mean` `(..., n_bands)`."""
        return ScaledNormal(self.degrees_of_freedom.to(mean), mean, self.scales(noise_scale))

    def of_normal(self, log_prob: Tensor, noise_scale: Tensor) -> Tensor:
        """Log density of spectra of which normal noise of the standard deviation `noise_scale` has `log_prob`."""
        deviation = self.scales(noise_scale)
        log_determinant = deviation.log().sum()
        distance = -2.0 * (log_prob + log_determinant) - len(deviation) * math.log(2 * math.pi)
        return _log_density(distance.clamp_min(0.0), log_determinant, self.degrees_of_freedom.to(log_prob), len(deviation))


class ScaledNormal(TorchDistribution):
    """Multivariate Student-t: normal of standard deviations `scale`, independent over bands, over the root of one gamma factor.

    Parameters
    ----------
    degrees_of_freedom
        `()`.
    loc, scale
        `(..., n)` and `(n,)`.
    """

    arg_constraints = {"loc": constraints.real_vector, "scale": constraints.independent(constraints.positive, 1)}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, degrees_of_freedom: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None):
        self.degrees_of_freedom, self.loc, self.scale = degrees_of_freedom, loc, scale
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape, _instance=None) -> ScaledNormal:
        return ScaledNormal(self.degrees_of_freedom, self.loc.expand(*batch_shape, *self.event_shape), self.scale,
                            validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        degrees = self.degrees_of_freedom
        factor = torch.where(degrees > 2, degrees / (degrees - 2), math.inf)
        return (factor * self.scale.square()).expand(self.loc.shape)

    def rsample(self, sample_shape=_ONE) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        half = (0.5 * self.degrees_of_freedom).expand(shape[:-1])
        factor = torch.distributions.Gamma(half, half).rsample().clamp_min(torch.finfo(self.loc.dtype).tiny)
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.scale * noise / factor.sqrt()[..., None]

    def log_prob(self, value: Tensor) -> Tensor:
        distance = ((value - self.loc) / self.scale).square().sum(dim=-1)
        return _log_density(distance, self.scale.log().sum(), self.degrees_of_freedom, self.event_shape[0])


def _log_density(distance: Tensor, log_determinant: Tensor, degrees: Tensor, n: int) -> Tensor:
    """Of a multivariate Student-t of `n` bands at a squared Mahalanobis `distance`."""
    half = 0.5 * (degrees + n)
    constant = torch.lgamma(half) - torch.lgamma(0.5 * degrees) - 0.5 * n * (degrees * math.pi).log()
    return constant - log_determinant - half * torch.log1p(distance / degrees)


def _most_probable_degrees(distance: np.ndarray, size: int) -> float:
    """Degrees of freedom of the greatest likelihood given squared distances of `size` readings each, scales known."""
    def loss(log_degrees: float) -> float:
        degrees = math.exp(log_degrees)
        constant = special.gammaln(0.5 * (degrees + size)) - special.gammaln(0.5 * degrees) - 0.5 * size * log_degrees
        return 0.5 * (degrees + size) * float(np.log1p(distance / degrees).mean()) - constant

    return math.exp(optimize.minimize_scalar(loss, bounds=(math.log(_LEAST_DEGREES), math.log(_MOST_DEGREES)),
                                             method="bounded").x)

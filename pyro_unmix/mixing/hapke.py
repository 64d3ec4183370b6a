"""Grains of several materials."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_unmix.errors import InputError
from pyro_unmix.mixing.base import Mixing

# Brightest reflectance of an endmember whose albedo still has a finite slope.
_BRIGHTEST = 0.999


class Hapke(Mixing):
    """Intimate mixing: the single-scattering albedos w of grains mix linearly, weighted by cross-section, reflectances do not.

    Of a deep layer of isotropic scatterers without an opposition effect, relative to one that absorbs nothing in the same light::

        r = (1 - g^2) / ((1 + 2 mu_0 g) (1 + 2 mu g)),   g = sqrt(1 - w),   1 - w = sum_k z_k (1 - w_k)

    with mu_0, mu the cosines of incidence and emergence, and H(mu) = (1 + 2 mu) / (1 + 2 mu g) for Chandrasekhar's function. The
    albedos of the endmembers follow from the same equation, solved for g. A pure pixel is its endmember, if that lies between 0
    and 0.999, where endmembers are clipped: at 1 the slope of the reflectance is infinite.

    Source: Hapke (1981), Bidirectional reflectance spectroscopy 1: Theory, JGR 86(B4); Mustard and Pieters (1989), JGR 94(B10),
    for the mixing of albedos.

    Parameters
    ----------
    incidence, emergence
        Angles of the sun and of the sensor from the normal, in degrees, from 0 to below 90.
    """

    def __init__(self, incidence: float = 30.0, emergence: float = 0.0):
        super().__init__()
        if not (0 <= incidence < 90 and 0 <= emergence < 90):
            raise InputError("angles of incidence and emergence from 0 to below 90 degrees", f"{incidence} and {emergence}")
        self.settings = {"incidence": float(incidence), "emergence": float(emergence)}

    def forward(self, abundances: Tensor, endmembers: Tensor) -> Tensor:
        sun, sensor = self._cosines()
        reflectance = endmembers.clamp(0.0, _BRIGHTEST)
        # 1 - w is what is mixed: close to w = 1 a float has no digits left for the difference.
        half = (sun + sensor) * reflectance
        g = (1 - reflectance) / (half + (half.square() + (1 + 4 * sun * sensor * reflectance) * (1 - reflectance)).sqrt())
        absorbed = torch.matmul(abundances, g.square())
        g = absorbed.sqrt()
        return (1 - absorbed) / ((1 + 2 * sun * g) * (1 + 2 * sensor * g))

    def _cosines(self) -> tuple[float, float]:
        sun, sensor = (math.cos(math.radians(self.settings[angle])) for angle in ("incidence", "emergence"))
        return sun, sensor

    def extra_repr(self) -> str:
        return ", ".join(f"{angle}={degrees}" for angle, degrees in self.settings.items())

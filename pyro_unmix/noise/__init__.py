"""How a spectrum departs from its mixture: brightness of the pixel, noise of the bands."""

from pyro_unmix.noise.band_noise import BandNoise
from pyro_unmix.noise.brightness import PixelBrightness
from pyro_unmix.noise.normal import DiagonalNoise, LowRankNoise, SmoothNoise, smooth_correlation
from pyro_unmix.noise.student import PixelScaleNoise, StudentNoise

__all__ = ["BandNoise", "DiagonalNoise", "LowRankNoise", "PixelBrightness", "PixelScaleNoise", "SmoothNoise", "StudentNoise",
           "smooth_correlation"]

"""White noise taken out of spectra, by the mean of pixels nearby that look alike."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Pixels around a pixel that are searched, and around each of two pixels that are compared: a window of 7 and a patch of 3.
_SEARCH, _PATCH = 3, 1
# Pixels around a pixel that say what a field is there.
_REACH = 8


class NonLocalMeans(nn.Module):
    """Every pixel becomes the mean of those around it, weighted by how much their neighbourhoods look alike.

    Buades, Coll and Morel (2005), CVPR, "A non-local algorithm for image denoising", on the leading principal components of the
    scene, all of them compared together. What lies outside these components is taken for noise.

    Parameters
    ----------
    n_bands, n_components
        Sizes of what `set_start` fills in: the scene's mean spectrum and leading principal directions.
    """

    halo = _SEARCH + _PATCH
    mean: Tensor
    directions: Tensor
    noise_scale: Tensor

    def __init__(self, n_bands: int, n_components: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_bands))
        self.register_buffer("directions", torch.zeros(n_components, n_bands))
        self.register_buffer("noise_scale", torch.tensor(0.0))

    def fit(self, pixels: Tensor) -> NonLocalMeans:
        """Take components and level of noise from `pixels` `(n_pixels, n_bands)`."""
        n_components, n_bands = self.directions.shape
        mean = pixels.double().mean(dim=0)
        values, vectors = torch.linalg.eigh(torch.cov(pixels.double().T))
        self.mean.copy_(mean)
        self.directions.copy_(vectors.T.flip(0)[:n_components])
        self.noise_scale.copy_(values[: n_bands - n_components].clamp_min(0.0).mean().sqrt())
        return self

    def forward(self, reflectance: Tensor, valid: Tensor) -> Tensor:
        """Denoised `reflectance` `(batch, n_bands, height, width)`.

        `reflectance` is finite everywhere; `valid` `(batch, height, width)` says which pixels to use; the others come out zero.
        """
        maps = torch.einsum("pl,bphw->blhw", self.directions, self.coordinates(reflectance, valid)) + self.mean[:, None, None]
        return maps * valid[:, None]

    def coordinates(self, reflectance: Tensor, valid: Tensor) -> Tensor:
        """Of denoised spectra, along `directions` from `mean`: `(batch, n_components, height, width)`."""
        counts = valid[:, None].to(reflectance.dtype)
        middle = (self.directions @ self.mean)[:, None, None]
        return self._means((torch.einsum("pl,blhw->bphw", self.directions, reflectance) - middle) * counts, counts)

    def _means(self, maps: Tensor, counts: Tensor) -> Tensor:
        """Of the components `maps` `(batch, n_components, height, width)`; `counts` `(batch, 1, height, width)` is 1 or 0."""
        height, width = maps.shape[-2:]
        total, weights = maps.clone(), counts.clone()
        # Two noisy neighbourhoods of one mixture differ by this on average; only what they differ beyond it tells them apart.
        expected = 2.0 * len(self.directions) * self.noise_scale**2
        # Two pixels weigh as much for each other: half of the steps do.
        for down, right in ((down, right) for down in range(_SEARCH + 1) for right in range(-_SEARCH, _SEARCH + 1)
                            if (down, right) > (0, 0) and down < height and abs(right) < width):
            here = ..., slice(height - down), slice(max(-right, 0), width - max(right, 0))
            there = ..., slice(down, height), slice(max(right, 0), width - max(-right, 0))
            both = counts[here] * counts[there]
            apart = _patch_sum(both * (maps[here] - maps[there]).square().sum(dim=1, keepdim=True))
            apart = apart / _patch_sum(both).clamp_min(1.0)
            # From 80 on the exponential takes many times as long: it is no normal number.
            unlike = ((apart - expected) / (0.5 * expected).clamp_min(1e-30)).clamp(0.0, 80.0)
            weight = both * torch.exp(-unlike)
            for to, start in ((here, there), (there, here)):
                total[to].addcmul_(weight, maps[start])
                weights[to] += weight
        return total / weights.clamp_min(1e-30)


class FieldMeans(NonLocalMeans):
    """Between non-local means, which keep edges, and the mean of a Gaussian field given its noisy pixels, which knows how smooth
    it is (kriging: Cressie 1993, Statistics for Spatial Data, section 3.2; on a torus, where it is the filter of Wiener 1949).

    Parameters
    ----------
    n_bands, n_components
        As of `NonLocalMeans`.
    """

    halo = _REACH
    kernel: Tensor
    share: Tensor

    def __init__(self, n_bands: int, n_components: int):
        super().__init__(n_bands, n_components)
        self.register_buffer("kernel", torch.zeros(n_components, 1, 2 * _REACH + 1, 2 * _REACH + 1))
        self.register_buffer("share", torch.tensor(0.0))

    def expect(self, pixels: Tensor, spectrum: np.ndarray, share: float) -> FieldMeans:
        """Let a `share` from 0 to 1 of the means be that of a field.

        Its waves on a square torus have this `spectrum` `(side, side // 2 + 1)`, of mean one; its variance in each component is
        that of the `pixels` `(n_pixels, n_bands)` without their noise.
        """
        variance = ((pixels.double() - self.mean) @ self.directions.double().T).square().mean(dim=0)
        gain = (variance / self.noise_scale.double().square().clamp_min(1e-30) - 1.0).clamp_min(1e-3)
        waves = gain[:, None, None] * torch.as_tensor(spectrum)
        kernel = torch.fft.irfft2(waves / (waves + 1.0), s=[len(spectrum)] * 2).roll((_REACH, _REACH), (1, 2))
        self.share.fill_(share)
        self.kernel.copy_(kernel[:, None, : 2 * _REACH + 1, : 2 * _REACH + 1])
        return self

    def _means(self, maps: Tensor, counts: Tensor) -> Tensor:
        # Where pixels are missing the others weigh more.
        near = F.conv2d(counts.expand_as(maps), self.kernel, padding=_REACH, groups=len(self.kernel))
        total = self.kernel.sum(dim=(2, 3))[None, :, :, None]
        field = F.conv2d(maps, self.kernel, padding=_REACH, groups=len(self.kernel)) * total / near.clamp_min(0.1 * total)
        return torch.lerp(super()._means(maps, counts), field, self.share)


def _patch_sum(maps: Tensor) -> Tensor:
    for dim in (-2, -1):
        length, found = maps.shape[dim], maps.clone()
        for step in range(1, min(_PATCH, length - 1) + 1):
            found.narrow(dim, step, length - step).add_(maps.narrow(dim, 0, length - step))
            found.narrow(dim, 0, length - step).add_(maps.narrow(dim, step, length - step))
        maps = found
    return maps

"""Train a guide on simulated scenes, whose abundances are known."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pyro_unmix.guide import UnmixingGuide
from pyro_unmix.model import UnmixingModel
from pyro_unmix.tiles import Tiles


@torch.no_grad()
def simulated(model: UnmixingModel, guide: UnmixingGuide, tiles: Tiles) -> tuple[Tiles, Tensor, Tensor | None]:
    """Tiles made by a fitted model, with the truth they were made from.

    Abundances and brightness are drawn from the guide on the real tiles, so that they vary over space and materials as in
    the scene; endmembers and noise from their posteriors, the spectra from the likelihood.

    Returns
    -------
    tiles
        The same tiles with simulated spectra, context included.
    abundances, brightness
        `(n_pixels, n_endmembers)` and `(n_pixels,)` (or None) of the pixels that count.
    """
    everywhere = replace(tiles, core=tiles.valid)
    q_abundances, q_brightness = guide.pixels(everywhere)
    # Away from exact zeros and ones, where a Dirichlet has no density.
    abundances = q_abundances.sample().clamp_min(1e-4)
    abundances = abundances / abundances.sum(-1, keepdim=True)
    mean = model.mixing(abundances, guide.endmembers().sample())
    brightness = q_brightness.sample() if q_brightness is not None else None
    if brightness is not None:
        mean = brightness[:, None] * mean
    spectra = model.noise.likelihood(mean, guide.noise().sample()).sample()
    reflectance = torch.zeros_like(tiles.reflectance).movedim(1, -1)
    reflectance[tiles.valid] = spectra
    counted = tiles.core[tiles.valid]
    simulation = replace(tiles, reflectance=reflectance.movedim(-1, 1))
    return simulation, abundances[counted], None if brightness is None else brightness[counted]

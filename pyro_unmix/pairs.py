"""Pairs of spectra and the abundances they were made from, for a guide to learn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pyro_unmix.distributions import mean_of
from pyro_unmix.errors import InputError
from pyro_unmix.guide import UnmixingGuide
from pyro_unmix.initialize import Start
from pyro_unmix.model import UnmixingModel
from pyro_unmix.priors import LogisticNormal, Sparse, SpatialDirichlet
from pyro_unmix.refine.shared import Shared
from pyro_unmix.scene import Scene
from pyro_unmix.tiles import Tiles, Tiling, whole

# Batches of tiles that a guide learns from, the exact draws of each, and weighted draws for every one of these.
_BATCHES, _MAPS, _SPARE = 20, 10, 4
# No abundance is zero in float32, where it has no logarithm.
_LEAST = 1e-30
# Seeds of simulated scenes are drawn below this.
_SEEDS = 2**31

# Tiles, and the abundances `(n_pixels, n_endmembers)` and brightness `(n_pixels,)` (or None) of the pixels that count.
Pairs = tuple[Tiles, Tensor, Tensor | None]


def pairs_loss(guide: UnmixingGuide, pairs: Pairs, mse_weight: float = 0.0) -> Tensor:
    """-log q(truth | spectra), mean over pixels, and `mse_weight` times the mean squared error of the mean abundances."""
    tiles, abundances, brightness = pairs
    abundances = abundances.clamp_min(guide.head.least)
    abundances = abundances / abundances.sum(dim=-1, keepdim=True)
    loss = -guide.log_prob(tiles, abundances, brightness).mean()
    if mse_weight:
        loss = loss + mse_weight * (mean_of(guide.pixels(tiles)[0]) - abundances).square().mean()
    return loss


def labels_error(guide: UnmixingGuide, tiles: Tiles) -> Tensor:
    """Mean squared error of the mean abundances of the labelled pixels that count; zero where there are none."""
    known, labelled = tiles.known()
    assert known is not None and labelled is not None
    errors = (mean_of(guide.pixels(tiles)[0]) - known)[labelled].square()
    return errors.mean() if len(errors) else errors.sum()


@torch.no_grad()
def simulated(model: UnmixingModel, guide: UnmixingGuide, tiles: Tiles) -> Pairs:
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
    q_abundances, q_brightness = guide.pixels(replace(tiles, core=tiles.valid))
    # Away from exact zeros and ones, where a Dirichlet has no density.
    abundances = q_abundances.sample().clamp_min(1e-4)
    abundances = abundances / abundances.sum(-1, keepdim=True)
    brightness = q_brightness.sample() if q_brightness is not None else None
    endmembers = guide.endmembers().sample()
    mean = model.mean(abundances, endmembers, brightness)
    made = model.likelihood(mean, abundances, endmembers, brightness, guide.noise().sample())
    return _remade(tiles, made.sample(), abundances, brightness)


class PosteriorScenes:
    """Scenes that could have been the one fitted: exact draws of its pixels, each set given one draw of what they share.

    Where the model is right, pairs of such truth and new spectra are distributed as the true pair is, so that a guide trained on
    them is calibrated; and they vary over space as the scene does.

    Parameters
    ----------
    shared
        Draws of endmembers, noise, concentrations and brightness scale.
    tiling, tiles_per_batch
        Where abundances are drawn: in batches of so many tiles, chosen at random by torch's generator.
    """

    def __init__(self, shared: Shared, tiling: Tiling, tiles_per_batch: int):
        self.shared = shared
        self.batches = [self._drawn(tiling, tiles_per_batch) for _ in range(_BATCHES)]

    def _drawn(self, tiling: Tiling, n_tiles: int) -> tuple[Tiles, int, Tensor, Tensor | None]:
        """Tiles, number of the shared draw, and all pixels' abundances `(_MAPS, n, K)` and brightness given that."""
        number = int(torch.randint(len(self.shared), ()))
        tiles = tiling.batch(torch.randperm(len(tiling))[:n_tiles].tolist())
        pixels = replace(tiles, core=tiles.valid).pixels()
        drawn = self.shared.draw_pixels(number, pixels.cpu(), _SPARE * _MAPS).resample(_MAPS)
        brightness = None if drawn.brightness is None else drawn.brightness.to(pixels)
        return tiles, number, drawn.abundances.to(pixels).clamp_min(_LEAST), brightness

    @torch.no_grad()
    def __call__(self) -> Pairs:
        """As `simulated`."""
        tiles, number, abundances, brightness = self.batches[int(torch.randint(len(self.batches), ()))]
        chosen = int(torch.randint(_MAPS, ()))
        abundances, brightness = abundances[chosen], None if brightness is None else brightness[chosen]
        mean = _lit(abundances @ self.shared.endmembers[number].to(abundances), brightness)
        cholesky, noise = self.shared.noise_cholesky(number).to(mean), torch.randn_like(mean)
        noise = cholesky * noise if cholesky.ndim == 1 else noise @ cholesky.T
        return _remade(tiles, mean + noise, abundances, brightness)


def pairs_from_prior(model: UnmixingModel, start: Start) -> bool:
    """Whether a guide is to learn from truth that is drawn from the abundance prior (`PriorScenes`).

    From a `SpatialDirichlet` of any strength, since truth drawn pixel by pixel, given its own spectrum, would teach that
    neighbours say nothing of each other; from `Sparse` and `LogisticNormal`, since SVI's guide draws no abundances as near zero
    as theirs. Only where pixels err independently: else spectra are made as no scene has them, and means that learn from them
    leave their place.
    """
    prior = model.abundances
    wanted = isinstance(prior, (Sparse, LogisticNormal)) or (isinstance(prior, SpatialDirichlet) and bool(prior.strength))
    return wanted and start.independent_errors


class PriorScenes:
    """Scenes drawn from the priors, each given one draw of what pixels share, on the tiles of the scene fitted.

    Parameters
    ----------
    model
        Whose abundance prior is drawn from: whole maps of a `SpatialDirichlet`, pixel by pixel of others.
    shared
        Draws of endmembers, noise, concentrations and brightness scale.
    tiling, tiles_per_batch
        Where: on so many tiles in a call, chosen at random by torch's generator.
    """

    def __init__(self, model: UnmixingModel, shared: Shared, tiling: Tiling, tiles_per_batch: int):
        self.model, self.shared, self.tiling, self.tiles_per_batch = model, shared, tiling, tiles_per_batch

    @torch.no_grad()
    def __call__(self) -> Pairs:
        """As `simulated`."""
        shared, number = self.shared, int(torch.randint(len(self.shared), ()))
        tiles = self.tiling.batch(torch.randperm(len(self.tiling))[: self.tiles_per_batch].tolist())
        n_tiles, *shape = tiles.valid.shape
        prior = self.model.abundances
        if isinstance(prior, SpatialDirichlet):
            maps = [prior.draw_map((shape[0], shape[1]), shared.concentration[number]) for _ in range(n_tiles)]
            abundances = torch.stack(maps).to(tiles.reflectance)[tiles.valid]
        else:
            abundances = prior(self.model.n_endmembers).sample(torch.Size([int(tiles.valid.sum())]))
        abundances = abundances.clamp_min(_LEAST)
        brightness = None
        if self.model.brightness is not None:
            brightness = self.model.brightness.prior().sample(torch.Size([len(abundances)]))
        endmembers, noise_scale = (each[number].to(abundances) for each in (shared.endmembers, shared.noise_scale))
        mean = _lit(self.model.mixing(abundances, endmembers), brightness)
        return _remade(tiles, self.model.noise.likelihood(mean, noise_scale).sample(), abundances, brightness)


class SimulatedScenes:
    """Endlessly many scenes with their truth, a new one in every call.

    Parameters
    ----------
    make
        From a seed to a scene whose reference holds `abundances` and, where it varies, `brightness` `(y, x)`.
    n_endmembers, n_bands
        What the scenes must have.
    device
        Where the tiles go.
    """

    def __init__(self, make: Callable[[int], Scene], n_endmembers: int, n_bands: int, device: torch.device | str = "cpu"):
        self.make, self.n_endmembers, self.n_bands, self.device = make, n_endmembers, n_bands, device

    def check(self, scene: Scene) -> None:
        """Raise `InputError` where a scene has no truth, or another number of endmembers or bands."""
        truth = None if scene.reference is None else scene.reference.get("abundances")
        if (truth is None or truth.shape[2] != self.n_endmembers or scene.n_bands != self.n_bands
                or not np.isfinite(truth.values[scene.mask.values]).all()):
            raise InputError(f"simulated scenes with {self.n_bands} bands and the abundances of {self.n_endmembers} endmembers",
                             f"{scene}")

    def __call__(self) -> Pairs:
        """One scene, whole, of a seed that torch's generator gives; refused as by `check`."""
        scene = self.make(int(torch.randint(_SEEDS, ())))
        self.check(scene)
        assert scene.reference is not None
        use = scene.mask.values
        abundances, brightness = (None if each is None else torch.as_tensor(each.values[use], dtype=torch.float32).to(self.device)
                                  for each in (scene.reference["abundances"], scene.reference.get("brightness")))
        assert abundances is not None
        abundances = abundances.clamp_min(_LEAST)
        return whole(scene, self.device), abundances / abundances.sum(dim=1, keepdim=True), brightness


class LabelledPixels:
    """Pixels of a scene whose abundances are known, in batches of tiles that are drawn by torch's generator."""

    def __init__(self, tiling: Tiling, tiles_per_batch: int):
        assert tiling.labelled is not None
        self.tiling, self.tiles_per_batch = tiling, tiles_per_batch
        every = [tiling.batch([number]) for number in range(len(tiling))]
        self.numbers = torch.tensor([number for number, tiles in enumerate(every)
                                     if tiles.labelled is not None and (tiles.labelled & tiles.core).any()])

    def __call__(self) -> Pairs:
        """The labelled pixels of some tiles; the brightness is not known."""
        chosen = self.numbers[torch.randperm(len(self.numbers))[: self.tiles_per_batch]].tolist()
        tiles = self.tiling.batch(chosen)
        assert tiles.labelled is not None
        tiles = replace(tiles, core=tiles.core & tiles.labelled)
        known, _ = tiles.known()
        assert known is not None
        return tiles, known, None


def _lit(mean: Tensor, brightness: Tensor | None) -> Tensor:
    return mean if brightness is None else brightness[:, None] * mean


def _remade(tiles: Tiles, spectra: Tensor, abundances: Tensor, brightness: Tensor | None) -> Pairs:
    """The tiles with these `spectra` of all valid pixels, and the truth of those that count."""
    reflectance = torch.zeros_like(tiles.reflectance).movedim(1, -1)
    reflectance[tiles.valid] = spectra
    counted = tiles.core[tiles.valid]
    return (replace(tiles, reflectance=reflectance.movedim(-1, 1)), abundances[counted],
            None if brightness is None else brightness[counted])

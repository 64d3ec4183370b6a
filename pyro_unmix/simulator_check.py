"""Whether a scene looks like those that a transferred guide was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_unmix.amplitude import spread
from pyro_unmix.diagnostics.findings import Finding
from pyro_unmix.least_squares import least_squares
from pyro_unmix.likelihood import whiten
from pyro_unmix.numerics import seeded
from pyro_unmix.pieces import Maps
from pyro_unmix.questions import LOOKED_AT, moved
from pyro_unmix.scene import Scene
from pyro_unmix.tiles import whole

if TYPE_CHECKING:
    from pyro_unmix.fit import Fit

# Six questions are asked: whether noise and purity are more or less than in all of so many simulated scenes, strange pixels and
# the scatter of brightness more. Of a scene as simulated each is answered with yes once in 120 times, so that at most one in
# twenty is said to differ.
SCENES = 119
# Abundances and endmembers are fitted in turn so often: what all pixels of a scene depart in from the library is then fitted too.
_TURNS = 3
# Beyond it are strange pixels: fewer would be those in which a simulated material varies most.
_EXTREME = 0.95


class Discrepancies(NamedTuple):
    """Numbers by which a scene may differ from simulated ones. None of them grows or falls with the number of its pixels.

    Attributes
    ----------
    noise, extreme
        Root mean square of the whitened residual of least squares: of the middle pixel, and of the one that one in twenty is
        beyond.
    purity
        Sum of squares of a pixel's abundances under the guide, mean over pixels.
    shading
        Robust standard deviation of the logarithm of the brightness.
    """

    noise: float
    extreme: float
    purity: float
    shading: float

    @classmethod
    def of(cls, fit: Fit, scene: Scene, purity: float) -> Discrepancies:
        """Of least squares, where the guide starts from, with endmembers as the scene wants them within their prior. Of a large
        scene pixels spread over it are looked at."""
        guide, pixels = fit.guide, scene.pixels().astype(np.float64)
        pixels = pixels[:: -(-len(pixels) // LOOKED_AT)]
        with torch.no_grad():
            prior, noise = guide.endmembers(), guide.noise.cholesky().double()
        endmembers = mean = prior.mean.double().numpy()
        for _ in range(_TURNS):
            found = least_squares(*(torch.as_tensor(each).float() for each in (pixels, endmembers, noise)),
                                  brightness=guide.brightness is not None)
            brightness = found.brightness.double().numpy()
            lit = brightness[:, None] * found.abundances.double().numpy()
            endmembers = moved(pixels, lit, mean, prior.stddev.double().numpy(), noise.numpy())
        white = whiten(torch.as_tensor(pixels - lit @ endmembers), noise).numpy()
        middle, extreme = np.quantile(np.sqrt((white**2).mean(axis=1)), (0.5, _EXTREME))
        return cls(float(middle), float(extreme), purity, spread(np.log(np.maximum(brightness, 1e-12))))

    @classmethod
    @torch.no_grad()
    def drawn(cls, fit: Fit, scene: Scene) -> Discrepancies:
        """With one draw of every pixel, by torch's generator, for its posterior: the purity is a mean over many, and the same."""
        abundances = fit.guide.pixels(whole(scene))[0].sample().double()
        return cls.of(fit, scene, abundances.square().sum(dim=1).mean().item())


@dataclass(frozen=True)
class Simulated:
    """Discrepancies `(n,)` of scenes drawn from the simulator that a guide was trained on, which it has not seen.

    What the guide leaves of them is what a scene is compared to, a prior predictive check: Box (1980), Journal of the Royal
    Statistical Society A 143. Among n + 1 scenes of one simulator each is as likely to be the extreme one, whatever the law of
    the discrepancy (Vovk, Gammerman and Shafer 2005, Algorithmic Learning in a Random World).
    """

    noise: Tensor
    extreme: Tensor
    purity: Tensor
    shading: Tensor

    @classmethod
    def of(cls, fit: Fit, scenes: Callable[[int], Scene], seed: int) -> Simulated:
        """Of `SCENES` new scenes."""
        with seeded(seed):
            found = [Discrepancies.drawn(fit, scenes(each)) for each in torch.randint(2**31, (SCENES,)).tolist()]
        return cls(*torch.tensor(found, dtype=torch.float64).T.contiguous())

    def findings(self, fit: Fit, scene: Scene, maps: Maps) -> list[Finding]:
        """In what a scene, of which the guide says `maps`, is beyond all simulated ones."""
        purity = (maps.mean**2 + maps.sd**2)[scene.mask.values].sum(axis=1).mean()
        return list(self.compare(Discrepancies.of(fit, scene, float(purity))))

    def compare(self, found: Discrepancies) -> Iterator[Finding]:
        """A finding for each discrepancy that is beyond those of all simulated scenes."""
        n = len(self.noise)
        if beyond := _beyond(found.noise, self.noise):
            middle = float(self.noise.median())
            yield Finding("noise not as simulated",
                          f"Pixels are {found.noise / middle:.2f} times as far from mixtures as in the middle one of {n} "
                          f"simulated scenes, {beyond} than in any.",
                          ("Intervals are too narrow: simulate scenes with as much noise" if beyond == "more" else
                           "Intervals are too wide, and a material that was not simulated may go unnoticed: simulate scenes with "
                           "less noise") + ", and train again.")
        # Where there is less noise than was simulated, what varies stands out from it, strange or not.
        strange = found.extreme / max(found.noise, float(self.noise.min()))
        most = float((self.extreme / self.noise).max())
        if strange > most:
            yield Finding("pixels not as simulated",
                          f"One pixel in twenty is {strange:.3f} times as far from all mixtures as the middle one, or farther; "
                          f"in {n} simulated scenes {most:.3f} times at most.",
                          "There may be a material that was not simulated, or spectra are farther from the library than was "
                          "simulated: look at the pixels of the largest reconstruction_rmse.")
        if beyond := _beyond(found.purity, self.purity):
            yield Finding("abundances not as simulated",
                          f"Pixels are {'purer' if beyond == 'more' else 'more mixed'} than in any of {n} simulated scenes: the "
                          f"squares of their abundances sum to {found.purity:.2f}, there to {float(self.purity.median()):.2f}.",
                          "Abundances are drawn towards the law that was simulated: simulate another concentration, and train "
                          "again.")
        if _beyond(found.shading, self.shading) == "more":
            yield Finding("brightness not as simulated",
                          f"Brightness varies by {100 * found.shading:.0f} %, in {n} simulated scenes by "
                          f"{100 * float(self.shading.max()):.0f} % at most.",
                          "Simulate scenes whose brightness varies as much, and train again.")


def _beyond(value: float, simulated: Tensor) -> str:
    """"more" or "less" than all that were simulated; empty where it is among them."""
    return "more" if value > simulated.max() else "less" if value < simulated.min() else ""

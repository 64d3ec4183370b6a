"""Does every part go with every other? `python -m benchmarks.combinations --out FILE.csv` fits scenes that the model has made.

Abundance prior, mixing, noise and head; every two of them meet in one of the combinations. K = 3, 24 x 24 pixels, 40 bands, known
endmembers, noise of 1 % of the signal, default steps, pixel encoder (spatial prior: `spacnn`). A run that is stopped goes on
where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations, product

import numpy as np
import pyro.distributions as dist
import torch

import pyro_unmix as pu
from benchmarks.grid import run
from pyro_unmix.heads import HEADS
from pyro_unmix.mixing import MIXINGS
from pyro_unmix.noise import BandNoise, DiagonalNoise, LowRankNoise, PixelScaleNoise, SmoothNoise, StudentNoise
from pyro_unmix.numerics import seeded
from pyro_unmix.priors import Dirichlet, FixedEndmembers, LogisticNormal, Sparse, SpatialDirichlet
from pyro_unmix.simulate import absorption_spectra

K = 3
# Noise of this share of the root mean square of the endmembers, and the tails of that which has some.
_NOISE, _DEGREES = 0.01, 4.0

PRIORS: dict[str, Callable] = {
    "Dirichlet": lambda: Dirichlet(0.7),
    "Sparse": Sparse,
    "LogisticNormal": LogisticNormal,
    "SpatialDirichlet": lambda: SpatialDirichlet(1.0, strength=0.9, correlation_length=3.0, smoothness=1, edges=0.0),
    "a user's": lambda: lambda k: dist.Dirichlet(torch.full((k,), 2.0)),
}
# Of a scale, or None where that is open, and a number of bands.
NOISES: dict[str, Callable[[float | None, int], BandNoise]] = {
    "diagonal": lambda scale, n_bands: DiagonalNoise(scale),
    "smooth": lambda scale, n_bands: SmoothNoise(scale),
    "low rank": lambda scale, n_bands: LowRankNoise(scale, np.cos(np.linspace(0.0, np.pi, n_bands) * np.array([[1.0], [2.0]]))),
    "Student": lambda scale, n_bands: StudentNoise(scale, None if scale is None else _DEGREES),
    "pixel scale": lambda scale, n_bands: PixelScaleNoise(scale, None if scale is None else _DEGREES),
}
PARTS: tuple[dict, ...] = (PRIORS, MIXINGS, NOISES, HEADS)
Combination = tuple[str, str, str, str]


def pairwise() -> Iterator[Combination]:
    """Combinations in which every two parts meet at least once, those that bring most pairs together first."""
    every = list(product(*PARTS))
    pairs_of = {combination: {(i, j, combination[i], combination[j]) for i, j in combinations(range(len(PARTS)), 2)}
                for combination in every}
    missing = set().union(*pairs_of.values())
    while missing:
        best = max(every, key=lambda combination: len(pairs_of[combination] & missing))
        missing -= pairs_of[best]
        yield best


def drawn(combination: Combination, side: int, n_bands: int, seed: int) -> tuple[pu.UnmixingModel, pu.Scene]:
    """A model to fit, of known endmembers, and a scene that it has made."""
    prior, mixing, noise, _ = combination
    wavelengths = np.linspace(400.0, 2500.0, n_bands)
    endmembers = absorption_spectra(K, wavelengths, np.random.default_rng(seed))
    scale = _NOISE * float(np.sqrt(np.mean(endmembers**2)))
    model = pu.UnmixingModel(K, abundances=PRIORS[prior](), endmembers=FixedEndmembers(endmembers), mixing=MIXINGS[mixing](),
                             brightness="none", evidence=1.0)
    truth = model.replace(noise=NOISES[noise](scale, n_bands))
    with seeded(seed):
        if isinstance(model.abundances, SpatialDirichlet):
            abundances = model.abundances.draw_map((side, side), torch.ones(K)).reshape(-1, K)
        else:
            abundances = model.abundances(K).sample(torch.Size([side**2]))
        pixels = truth.generate(abundances, n_bands, endmembers=endmembers, noise_scale=scale)
    scene = pu.Scene(pixels.reshape(side, side, n_bands).numpy(), wavelengths=wavelengths, endmembers=endmembers,
                     abundances=abundances.reshape(side, side, K).numpy())
    return model.replace(noise=NOISES[noise](None, n_bands), evidence=None), scene


def guide_of(combination: Combination) -> pu.UnmixingGuide:
    return pu.UnmixingGuide("spacnn" if combination[0] == "SpatialDirichlet" else "mlp", combination[3])


def one(prior: str, mixing: str, noise: str, head: str, seed: int) -> dict:
    combination = prior, mixing, noise, head
    model, scene = drawn(combination, 24, 40, seed)
    assert scene.reference is not None
    fit = pu.fit(model, scene, guide=guide_of(combination), seed=seed, progress=False)
    summary, truth = fit.posterior(scene).summary(), scene.reference.abundances.values
    low, first, _, third, high = summary.abundance_quantile.values
    return {"rmse": float(np.sqrt(np.mean((summary.abundance_mean.values - truth) ** 2))),
            "holds_90": float(np.mean((low <= truth) & (truth <= high))),
            "holds_50": float(np.mean((first <= truth) & (truth <= third))), "seconds": sum(fit.seconds.values())}


def main() -> None:
    print(run(__doc__, ("prior", "mixing", "noise", "head"), pairwise(), one, seeds=1).round(4).to_string())


if __name__ == "__main__":
    main()

"""What the experiments on minerals share: the recipe on a sensor's bands, the prior of its spectra, and scores of a guide."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from pyro_unmix.amplitude import coefficients
from pyro_unmix.baselines.fcls import fcls, normalized_nnls
from pyro_unmix.fit import Fit
from pyro_unmix.libraries import load_library
from pyro_unmix.model import UnmixingModel
from pyro_unmix.priors import MVNEndmembers, smooth_scale_tril
from pyro_unmix.recipes import cuprite
from pyro_unmix.scene import Scene
from pyro_unmix.tiles import whole
from pyro_unmix.transfer import transfer

# Scenes to train on are of any brightness that a real one may have, in units of its library: more than the recipe's own.
BRIGHTNESS = 0.3
# How far spectra of a scene are from a library's: in training the departure of the recipe, of an endmember the standard deviation
# of its prior in units of its root mean square.
LIBRARY_SD = 0.05
# Seeds of scenes that no guide is trained on: those of training are drawn below 2^31.
HELD_OUT = 2**31
# An abundance that counts as there.
_THERE = 1e-6


def minerals_on(wavelengths: np.ndarray | None, minerals: Sequence[str] | None = None, *, side: int = 48) -> Callable[..., Scene]:
    """The Cuprite recipe on the bands of a sensor (nm): a function of a seed, and of what else the recipe takes."""
    library = load_library("usgs1995")

    def make(seed: int, **options) -> Scene:
        settings = {"brightness": BRIGHTNESS, "departure": LIBRARY_SD, "minerals": minerals, **options}
        return cuprite((side, side), wavelengths=wavelengths, library=library, seed=seed, **settings)

    return make


def train(make: Callable[..., Scene], *, guide: str = "spacnn", steps: int = 1000, mse_weight: float = 0.0, seed: int = 0,
          progress: bool = True) -> Fit:
    """A guide trained on scenes of `make`, the samples of the library the prior of the endmembers."""
    first = make(seed, departure=0.0)
    assert first.reference is not None
    spectra = first.reference.endmembers.values
    sds = LIBRARY_SD * np.sqrt(np.mean(spectra**2, axis=1))
    prior = MVNEndmembers(spectra, torch.stack([smooth_scale_tril(first.wavelengths, first.n_bands, sd) for sd in sds]))
    model = UnmixingModel(len(spectra), endmembers=prior, brightness="pixel")
    return transfer(model, make, guide=guide, steps=steps, mse_weight=mse_weight, seed=seed, progress=progress)


def forward_seconds(fit: Fit, scene: Scene) -> float:
    """Of the distributions of all pixels."""
    tiles = whole(scene)
    with torch.no_grad():
        began = time.perf_counter()
        fit.guide.pixels(tiles)
        return time.perf_counter() - began


def least_squares_of(fit: Fit, scene: Scene) -> np.ndarray:
    """Non-negative least squares with the spectra of the library, divided by its sum, `(n, n_endmembers)`."""
    spectra = fit.guide.endmembers.loc().detach().double()
    return normalized_nnls(torch.as_tensor(scene.pixels()).double(), spectra)[0].numpy()


def scores(fit: Fit, scene: Scene) -> dict[str, float]:
    """How a guide does on a scene whose abundances are known, beside least squares with the library's spectra.

    Coverage is that of 90 and 50 % intervals, of all abundances and of those that are there; `seconds` those of a forward pass.
    Of materials that are not in the scene there is nothing; those the guide does not know are left out of the truth, which is not
    scaled up for it.
    """
    assert scene.reference is not None
    use = scene.mask.values
    truth = scene.reference.abundances.reindex(endmember=fit.names, fill_value=0.0).values[use].astype(np.float64)
    spectra = fit.guide.endmembers.loc().detach().double().numpy()
    summary, pixels = fit.posterior(scene).summary(), scene.pixels().astype(np.float64)
    mean, quantiles = summary.abundance_mean.values[use], summary.abundance_quantile.values[:, use]
    low, first, _, third, high = quantiles
    inside, middle = (low <= truth) & (truth <= high), (first <= truth) & (truth <= third)
    there = truth > _THERE
    rmse = functools.partial(_rmse, truth)
    return {
        "rmse": rmse(mean), "fcls_rmse": rmse(coefficients(fcls, pixels, spectra)),
        "nnls_rmse": rmse(least_squares_of(fit, scene)),
        "cover_90": float(inside.mean()), "cover_50": float(middle.mean()),
        "cover_90_there": float(inside[there].mean()), "cover_50_there": float(middle[there].mean()),
        "seconds": forward_seconds(fit, scene),
    }


def _rmse(truth: np.ndarray, found: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - truth) ** 2)))

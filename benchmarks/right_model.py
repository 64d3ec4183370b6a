"""Does the right model win? `python -m benchmarks.right_model --out FILE.csv` fits scenes with the model that made them, and not.

Every assumption in turn: on a scene that it made, the model that has it against linear mixing of flat Dirichlet abundances with
independent noise; and on a scene of the latter, whether it costs anything. Leave-one-out over pixels (`pu.compare`), RMSE and
coverage. K = 3, 24 x 24 pixels, 40 bands, known endmembers, noise of 1 % of the signal, default steps, pixel encoder. A run that
is stopped goes on where it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch

import pyro_unmix as pu
from benchmarks.grid import medians, run
from pyro_unmix.mixing import MIXINGS
from pyro_unmix.noise import DiagonalNoise, PixelScaleNoise, StudentNoise
from pyro_unmix.numerics import seeded
from pyro_unmix.priors import Dirichlet, FixedEndmembers, LogisticNormal, Sparse, smooth_scale_tril
from pyro_unmix.simulate import absorption_spectra
from pyro_unmix.variability import EndmemberBrightness, LowRankVariability

K, SIDE, N_BANDS, NOISE, DEGREES = 3, 24, 40, 0.01, 3.0
WAVELENGTHS = np.linspace(400.0, 2500.0, N_BANDS)


def bundle(spectra: np.ndarray) -> LowRankVariability:
    """Two smooth factors an endmember, together of 5 % of its root mean square."""
    random = np.random.default_rng(0)
    factor = smooth_scale_tril(WAVELENGTHS, N_BANDS, 1.0, length_scale=400.0).double().numpy()
    scale = 0.05 / 2**0.5 * np.sqrt(np.mean(spectra**2, axis=1))
    return LowRankVariability(scale[:, None, None] * (random.standard_normal((K, 2, N_BANDS)) @ factor.T))


# Parts of the model that makes the scene, given endmembers and the scale of the noise, and of the one that is fitted.
Parts = Callable[[np.ndarray, float], tuple[dict, dict]]
ASSUMPTIONS: dict[str, Parts] = {
    "Sparse": lambda spectra, scale: ({"abundances": Sparse()},) * 2,
    "LogisticNormal": lambda spectra, scale: ({"abundances": LogisticNormal([1.0, -1.0], [[1.0, 0.7], [0.7, 1.0]])},) * 2,
    **{name: lambda spectra, scale, mixing=MIXINGS[name]: ({"mixing": mixing()},) * 2 for name in MIXINGS if name != "linear"},
    "StudentNoise": lambda spectra, scale: ({"noise": StudentNoise(scale, DEGREES)}, {"noise": StudentNoise()}),
    "PixelScaleNoise": lambda spectra, scale: ({"noise": PixelScaleNoise(scale, DEGREES)}, {"noise": PixelScaleNoise()}),
    "EndmemberBrightness": lambda spectra, scale: ({"variability": EndmemberBrightness(0.1)},) * 2,
    "LowRankVariability": lambda spectra, scale: ({"variability": bundle(spectra)},) * 2,
}


def one(name: str, seed: int) -> dict:
    spectra = absorption_spectra(K, WAVELENGTHS, np.random.default_rng(seed))
    scale = NOISE * float(np.sqrt(np.mean(spectra**2)))
    plain = pu.UnmixingModel(K, endmembers=FixedEndmembers(spectra), abundances=Dirichlet(1.0, learned=True), brightness="none",
                             evidence=1.0)
    makes, fitted = ASSUMPTIONS[name](spectra, scale)
    row: dict = {}
    for scene_of, parts in (("its", makes), ("plain", {})):
        scene = made(plain.replace(**{"noise": DiagonalNoise(scale), **parts}), spectra, scale, seed)
        fits = {}
        for model_of, own in (("right", fitted), ("plain", {})):
            fit = pu.fit(plain.replace(evidence=None, **own), scene, guide="mlp", seed=seed, progress=False)
            fits[model_of] = fit
            summary, truth = fit.posterior(scene).summary(), scene.reference.abundances.values
            low, *_, high = summary.abundance_quantile.values
            row[f"{scene_of} scene, {model_of} rmse"] = float(np.sqrt(np.mean((summary.abundance_mean.values - truth) ** 2)))
            row[f"{scene_of} scene, {model_of} holds 90"] = float(np.mean((low <= truth) & (truth <= high)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pu.UnmixWarning)
            table = pu.compare(list(fits.values()), scene, names=list(fits), seed=seed)
        row[f"{scene_of} scene, elpd of right less plain"] = table.elpd["right"] - table.elpd["plain"]
        row[f"{scene_of} scene, its se"] = table.difference_se.max()
    return row


def made(model: pu.UnmixingModel, spectra: np.ndarray, scale: float, seed: int) -> pu.Scene:
    with seeded(seed):
        abundances = model.abundances(K).sample(torch.Size([SIDE**2]))
        pixels = model.generate(abundances, N_BANDS, endmembers=spectra, noise_scale=scale)
    return pu.Scene(pixels.reshape(SIDE, SIDE, N_BANDS).numpy(), wavelengths=WAVELENGTHS, endmembers=spectra,
                    abundances=abundances.reshape(SIDE, SIDE, K).numpy())


def main() -> None:
    print(medians(run(__doc__, ("assumption",), ((name,) for name in ASSUMPTIONS), one, seeds=5), "assumption"))


if __name__ == "__main__":
    main()

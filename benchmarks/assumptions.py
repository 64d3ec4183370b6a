"""Which assumption helps on real scenes? `python -m benchmarks.assumptions --out FILE.csv` exchanges one at a time, blind.

Below them, what a user knows who has pure pixels: endmembers from up to 30 pixels of each material that the reference takes for
pure, and how they vary. Scores are against the reference: other people's estimates, for want of a truth. A run that is stopped
goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np

import pyro_unmix as pu
from benchmarks.grid import medians, run
from pyro_unmix.mixing import Fan, GeneralizedBilinear, Hapke, PostNonlinear
from pyro_unmix.noise import PixelScaleNoise, SmoothNoise, StudentNoise
from pyro_unmix.priors import Dirichlet, LogisticNormal, Sparse, library_endmembers
from pyro_unmix.variability import EndmemberBrightness, LowRankVariability

SCENES = {"jasper_ridge": "", "urban_crop": "4"}
_PURE, _MOST = 0.98, 30


def pure(scene: pu.Scene) -> list[np.ndarray]:
    """Of each material the spectra of the pixels that hold most of it."""
    assert scene.reference is not None
    abundances = scene.reference.abundances.values[scene.mask.values]
    return [scene.pixels()[np.argsort(-own)[:_MOST]][np.sort(-own)[:_MOST] < -_PURE] for own in abundances.T]


def bundle(scene: pu.Scene) -> LowRankVariability:
    return LowRankVariability.from_bundle(pure(scene))


ASSUMPTIONS: dict[str, Callable[[pu.Scene], dict]] = {
    "default": lambda scene: {},
    "Dirichlet(0.3)": lambda scene: {"abundances": Dirichlet(0.3)},
    "Sparse": lambda scene: {"abundances": Sparse()},
    "LogisticNormal": lambda scene: {"abundances": LogisticNormal()},
    "Fan": lambda scene: {"mixing": Fan()},
    "GeneralizedBilinear": lambda scene: {"mixing": GeneralizedBilinear()},
    "PostNonlinear": lambda scene: {"mixing": PostNonlinear()},
    "Hapke": lambda scene: {"mixing": Hapke()},
    "SmoothNoise": lambda scene: {"noise": SmoothNoise(wavelengths=scene.wavelengths)},
    "StudentNoise": lambda scene: {"noise": StudentNoise()},
    "PixelScaleNoise": lambda scene: {"noise": PixelScaleNoise()},
    "no brightness": lambda scene: {"brightness": "none"},
    "EndmemberBrightness": lambda scene: {"variability": EndmemberBrightness(0.1)},
    "pure pixels": lambda scene: {"endmembers": library_endmembers(pure(scene), scene.wavelengths)},
    "pure pixels, LowRankVariability": lambda scene: {"endmembers": library_endmembers(pure(scene), scene.wavelengths),
                                                      "variability": bundle(scene)},
    "pure pixels, EndmemberBrightness": lambda scene: {"endmembers": library_endmembers(pure(scene), scene.wavelengths),
                                                       "variability": EndmemberBrightness(0.1)},
}


def one(name: str, assumption: str, seed: int) -> dict:
    scene = pu.load_dataset(name, variant=SCENES[name])
    assert scene.reference is not None
    try:
        model = pu.UnmixingModel(scene.reference.sizes["endmember"], **ASSUMPTIONS[assumption](scene))
        fit = pu.fit(model, scene, seed=seed, progress=False)
    except (pu.InputError, pu.FitDiverged) as error:
        return {"error": str(error)}
    posterior = fit.posterior(scene)
    score = pu.evaluate(posterior.summary(), scene.reference)
    return {"rmse": score.rmse, "sad": score.sad, "cover_90": score.coverage_90, "interior": score.coverage_90_interior,
            "width": score.width_90, "crps": score.crps, "said": posterior.findings()[-1].name,
            "seconds": sum(fit.seconds.values())}


def main() -> None:
    plan = product(SCENES, ASSUMPTIONS)
    print(medians(run(__doc__, ("scene", "assumption"), plan, one, seeds=3), "scene", "assumption"))


if __name__ == "__main__":
    main()

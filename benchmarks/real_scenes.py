"""What do intervals of real scenes hold, and how wide are they? `python -m benchmarks.real_scenes` fits each head and each noise.

Scores are against the reference abundances: other people's estimates, for want of a truth. Seeds are those of the fit.
"""

from __future__ import annotations

import argparse

import pandas as pd

import pyro_unmix as pu
from pyro_unmix.noise import BandNoise, DiagonalNoise, SmoothNoise
from pyro_unmix.residual_noise import noise_of_residuals

SCENES = {"samson": 3, "jasper_ridge": 4}
HEADS = ("dirichlet", "simplex-normal", "logistic-normal")
NOISES = ("diagonal", "smooth", "by evidence")
# Each head with the noise that is the default on scenes of structured residuals, and each noise with the head that is.
PAIRS = [(head, NOISES[0]) for head in HEADS] + [(HEADS[0], noise) for noise in NOISES[1:]]


def noise_of(name: str, scene: pu.Scene, k: int) -> BandNoise:
    if name == "by evidence":
        start = pu.initialize(pu.UnmixingModel(k), scene)[1]
        return noise_of_residuals(scene.pixels(), start.endmembers, scene.wavelengths)[0]
    return DiagonalNoise() if name == "diagonal" else SmoothNoise(wavelengths=scene.wavelengths)


def rows(name: str, head: str, noise: str, seed: int) -> list[dict[str, object]]:
    scene = pu.load_dataset(name)
    model = pu.UnmixingModel(SCENES[name], noise=noise_of(noise, scene, SCENES[name]))
    fit = pu.fit(model, scene, guide=pu.UnmixingGuide(head=head), seed=seed, progress=False)
    refined = pu.refine(fit, scene, progress=False)
    found: list[dict[str, object]] = []
    assert scene.reference is not None
    for posterior, how in ((fit.posterior(scene), "guide"), (refined, f"refined, {refined.method}")):
        score = pu.evaluate(posterior.summary(), scene.reference)
        found.append({"scene": name, "head": head, "noise": noise, "seed": seed, "posterior": how, "rmse": score.rmse,
                      "cover_90": score.coverage_90, "interior": score.coverage_90_interior, "width": score.width_90,
                      "crps": score.crps, "said": posterior.findings()[-1].name})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    table: list[dict[str, object]] = []
    for seed in range(parser.parse_args().seeds):
        for name in SCENES:
            for head, noise in PAIRS:
                table += rows(name, head, noise, seed)
                print(pd.DataFrame(table[-2:]).round(4).to_csv(sep="|", index=False, header=len(table) == 2), end="", flush=True)


if __name__ == "__main__":
    main()

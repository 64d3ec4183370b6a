"""Exact draws and the guide against Pyro's NUTS, pixel by pixel: `python -m benchmarks.nuts [--pixels 64]`, ten seconds a pixel.

Endmembers and noise are known, abundances flat, 30 dB: the posterior of a pixel is one and the same for all three. Differences
of means are in standard deviations of NUTS; 500 draws on both sides differ by 0.06 of them by chance.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

import pyro_unmix as pu
from benchmarks.__main__ import seconds
from benchmarks.calibration import N_BANDS, known, scenes_of
from pyro_unmix.diagnostics import compare_to_nuts
from pyro_unmix.likelihood import PixelLikelihood
from pyro_unmix.refine.nuts import nuts_pixels
from pyro_unmix.refine.sampling import draw

K, SNR_DB, DRAWS = 4, 30, 500
# How often the scene is laid out each way to time the guide.
TIMES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pixels", type=int, default=64)
    n_pixels = parser.parse_args().pixels
    scene, endmembers, _, noise_sd = scenes_of("known", K, SNR_DB, False, 0)[0]
    model = pu.UnmixingModel(K, endmembers=known(endmembers), brightness="none")
    fit = pu.fit(model, scene, progress=False)

    pixels = torch.as_tensor(scene.pixels(), dtype=torch.float64)
    truth, noise = torch.as_tensor(endmembers), torch.full((N_BANDS,), noise_sd, dtype=torch.float64)
    with pu.numerics.seeded(0):
        taken: list = []
        nuts_seconds = seconds(lambda: taken.append(nuts_pixels(fit.model, pixels[:n_pixels], truth, noise, draws=DRAWS)), 1)
        exact = draw(PixelLikelihood.of(pixels, truth, noise), torch.ones(K).double(), None, DRAWS)
        exact_seconds = seconds(lambda: draw(PixelLikelihood.of(pixels, truth, noise), torch.ones(K).double(), None, DRAWS))
    # As many pixels as a small image has, so that what a call costs however few there are does not count.
    image = pu.Scene(np.tile(scene.reflectance.values, (TIMES, TIMES, 1)), wavelengths=scene.wavelengths)
    tiles = pu.whole(image)
    with torch.no_grad(), pu.numerics.seeded(1):
        guide_seconds = seconds(lambda: fit.guide.pixels(tiles), 5)
        of_guide = fit.guide.pixels(pu.whole(scene))[0].sample(torch.Size([DRAWS]))
    summary_seconds = seconds(lambda: fit.posterior(image).summary())
    nuts = taken[0].abundances.numpy()
    for name, draws in (("exact draws", exact.resample(DRAWS).abundances), ("guide", of_guide)):
        table = compare_to_nuts(draws[:, :n_pixels].numpy(), nuts)
        apart, ratio = np.abs(table.mean_difference.values), table.sd_ratio.values
        print(f"{name}: means differ by {apart.mean():.3f} sd on average, {apart.max():.2f} at most; sd ratio "
              f"{np.median(ratio):.3f}, {ratio.min():.2f} to {ratio.max():.2f}")
    each = nuts_seconds / n_pixels
    print(f"NUTS {each:.1f} s a pixel for {DRAWS} draws; of exact draws {exact.effective().mean() / DRAWS:.2f} are effective")
    for name, speed in (("exact draws", len(pixels) / exact_seconds),
                        ("guide, distribution of every pixel", image.mask.size / guide_seconds),
                        ("guide, summary with quantiles", image.mask.size / summary_seconds)):
        print(f"{name}: {speed:,.0f} pixels a second, {each * speed:,.0f} times NUTS")


if __name__ == "__main__":
    main()

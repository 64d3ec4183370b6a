"""Do intervals hold what they say? `python -m benchmarks.calibration --out FILE.csv` fits scenes drawn from the model.

Cells: 3, 4, 6 and 10 endmembers; 20, 30 and 40 dB; brightness of 0.2 or none. In a "known" scene the endmembers are given
and abundances are flat; a fit to one of them is asked about four more of the same endmembers. In a "blind" one nothing is known
but K, and abundances are Dirichlet(1 / K), so that there are pure pixels; where no guide is trained, the refined posterior is
asked alone. Defaults only. A run that is stopped goes on where it was; the table at the end has the means over scenes.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

import pyro_unmix as pu
from pyro_unmix.diagnostics import coverage_curve, crps
from pyro_unmix.least_squares import constrained
from pyro_unmix.likelihood import PixelLikelihood
from pyro_unmix.metrics import match, spectral_angle
from pyro_unmix.priors import MVNEndmembers, smooth_scale_tril
from pyro_unmix.refine.sampling import draw
from pyro_unmix.simulate import absorption_spectra

N_BANDS, SIDE, BRIGHTNESS = 60, 24, 0.2
WAVELENGTHS = np.linspace(400.0, 2500.0, N_BANDS)
CELLS = list(itertools.product((3, 4, 6, 10), (20, 30, 40), (False, True)))
REGIONS, REGION_PIXELS, BOOTSTRAPS, DRAWS, SCENES_A_FIT = 20, 300, 20, 300, 5


class Drawn(NamedTuple):
    """A scene, its endmembers `(k, N_BANDS)`, abundances `(n, k)`, and the standard deviation of its noise."""

    scene: pu.Scene
    endmembers: np.ndarray
    abundances: np.ndarray
    noise_sd: float


def scenes_of(kind: str, k: int, snr_db: int, bright: bool, seed: int, n_scenes: int = 1) -> list[Drawn]:
    """Scenes of the same endmembers and noise."""
    random = np.random.default_rng([seed, k, snr_db, bright])
    endmembers = absorption_spectra(k, WAVELENGTHS, random)
    found: list[Drawn] = []
    for _ in range(n_scenes):
        abundances = random.dirichlet(np.full(k, 1.0 if kind == "known" else 1.0 / k), SIDE**2)
        factor = np.exp(BRIGHTNESS * random.standard_normal(SIDE**2)) if bright else np.ones(SIDE**2)
        signal = factor[:, None] * (abundances @ endmembers)
        noise_sd = found[0].noise_sd if found else float(np.sqrt(np.mean(signal**2) / 10 ** (snr_db / 10)))
        pixels = signal + noise_sd * random.standard_normal(signal.shape)
        found.append(Drawn(pu.Scene(pixels.reshape(SIDE, SIDE, N_BANDS), wavelengths=WAVELENGTHS), endmembers, abundances,
                           noise_sd))
    return found


def known(endmembers: np.ndarray) -> MVNEndmembers:
    """A prior that is sure of them."""
    sure = smooth_scale_tril(WAVELENGTHS, N_BANDS, 1e-4 * float(np.sqrt(np.mean(endmembers**2))))
    return MVNEndmembers(endmembers, sure.expand(len(endmembers), -1, -1))


def measured(name: str, draws: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Coverage, the least and the greatest of an endmember, mean width, RMSE of the mean and CRPS of `draws` `(d, n, k)`."""
    curve = coverage_curve(draws, truth, (0.5, 0.9))
    of_each = curve.per_endmember.sel(level=0.9).values
    low, high = np.quantile(draws, (0.05, 0.95), axis=0)
    figures = {"cover_50": curve.overall.values[0], "cover_90": curve.overall.values[1], "least_90": of_each.min(),
               "most_90": of_each.max(), "width": (high - low).mean(),
               "rmse": np.sqrt(np.mean((draws.mean(axis=0) - truth) ** 2)), "crps": crps(draws, truth).mean()}
    return {f"{name}_{figure}": float(value) for figure, value in figures.items()}


def one_fit(kind: str, k: int, snr_db: int, bright: bool, seed: int, guided: bool) -> list[dict[str, object]]:
    """A row for each scene that a fit is asked about."""
    drawn = scenes_of(kind, k, snr_db, bright, seed, SCENES_A_FIT if kind == "known" else 1)
    prior = known(drawn[0].endmembers) if kind == "known" else None
    model = pu.UnmixingModel(k, endmembers=prior, brightness="pixel" if bright else "none")
    config = pu.FitConfig() if guided else pu.FitConfig(svi_steps=0, calibration_steps=0)
    began = time.perf_counter()
    fit = pu.fit(model, drawn[0].scene, seed=seed, config=config, progress=False)
    seconds = time.perf_counter() - began
    cell = {"kind": kind, "k": k, "snr_db": snr_db, "bright": bright, "seed": seed, "fit_seconds": seconds}
    return [cell | {"scene": number} | one_scene(fit, each, kind, bright, seed, guided, guided and number == 0)
            for number, each in enumerate(drawn)]


def one_scene(fit: pu.Fit, drawn: Drawn, kind: str, bright: bool, seed: int, guided: bool, compared: bool) -> dict[str, object]:
    """What the posterior of a scene holds; where it is compared, also its findings and what others make of the scene."""
    scene, endmembers, truth, _ = drawn
    k = len(endmembers)
    refined = pu.refine(fit, scene, draws=DRAWS, seed=seed, progress=False)
    posteriors = {"guide": fit.posterior(scene), "refined": refined} if guided else {"refined": refined}
    drawn_from = {name: post.draws(DRAWS, seed=1) for name, post in posteriors.items()}
    spectra = drawn_from["refined"].endmembers.values
    order = match(spectra.mean(axis=0), endmembers)
    abundances = {name: each.abundances.values.reshape(DRAWS, -1, k)[..., order] for name, each in drawn_from.items()}
    row: dict[str, object] = {}
    for name, draws in abundances.items():
        row |= measured(name, draws, truth)
    if compared:
        row["findings"] = "; ".join(finding.name for finding in refined.findings())
        row |= others(drawn, spectra.mean(axis=0)[order], float(drawn_from["refined"].noise_scale.mean()), kind, bright, seed)
    if kind == "known":
        return row

    # Ribbons of endmembers, and means of regions by draws that share endmembers or are shuffled so that they do not.
    spectra = spectra[:, order]
    low, high = np.quantile(spectra, (0.05, 0.95), axis=0)
    row |= {"sad": float(np.mean([spectral_angle(a, b) for a, b in zip(spectra.mean(axis=0), endmembers, strict=True)])),
            "ribbon": float(((low <= endmembers) & (endmembers <= high)).mean())}
    random = np.random.default_rng(seed)
    joint = abundances["refined"]
    alone = random.permuted(joint.reshape(DRAWS, SIDE**2, k), axis=0)
    held: dict[str, list] = {"region_shared": [], "region_independent": []}
    for _ in range(REGIONS):
        region = random.choice(SIDE**2, REGION_PIXELS, replace=False)
        for name, draws in zip(held, (joint, alone), strict=True):
            low, high = np.quantile(draws[:, region].mean(axis=1), (0.05, 0.95), axis=0)
            held[name].append((low <= truth[region].mean(axis=0)) & (truth[region].mean(axis=0) <= high))
    return row | {name: float(np.mean(each)) for name, each in held.items()}


def others(drawn: Drawn, found: np.ndarray, noise_scale: float, kind: str, bright: bool, seed: int) -> dict[str, float]:
    """What a point estimate and a bootstrap of it reach with the endmembers `(k, N_BANDS)` that were found; where these are
    known, also exact draws, of the true noise and brightness scale."""
    scene, endmembers, truth, noise_sd = drawn
    pixels, k = torch.as_tensor(scene.pixels(), dtype=torch.float64), len(endmembers)
    spectra = torch.as_tensor(found, dtype=torch.float64)
    point = constrained(pixels, spectra, bright)[0].numpy()
    with pu.numerics.seeded(seed):
        noise = noise_scale * torch.randn(BOOTSTRAPS, *pixels.shape, dtype=torch.float64)
        again = np.stack([constrained(pixels + each, spectra, bright)[0].numpy() for each in noise])
        row = {"point_mae": float(np.abs(point - truth).mean()), "point_rmse": float(np.sqrt(np.mean((point - truth) ** 2))),
               "bootstrap_crps": float(crps(again, truth).mean())}
        if kind == "known":
            likelihood = PixelLikelihood.of(pixels, torch.as_tensor(endmembers), torch.full((N_BANDS,), noise_sd).double())
            exact = draw(likelihood, torch.ones(k).double(), BRIGHTNESS if bright else None, 2 * DRAWS).resample(DRAWS)
            row |= measured("exact", exact.abundances.numpy(), truth)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="CSV with a row for each scene, continued if it is there")
    parser.add_argument("--scenes", type=int, default=20, help="scenes in a cell")
    parser.add_argument("--guides", type=int, default=20, help="blind scenes of a cell in which a guide is trained")
    parser.add_argument("--kinds", default="known,blind")
    options = parser.parse_args()
    rows = pd.read_csv(options.out).to_dict("records") if options.out.exists() else []
    done = {(row["kind"], row["k"], row["snr_db"], row["bright"], row["seed"]) for row in rows}
    for seed, kind, cell in itertools.product(range(options.scenes), options.kinds.split(","), CELLS):
        asked = kind == "blind" or seed < options.scenes / SCENES_A_FIT
        if asked and (kind, *cell, seed) not in done:
            rows += one_fit(kind, *cell, seed, kind == "known" or seed < options.guides)
            pd.DataFrame(rows).to_csv(options.out, index=False)
            print(kind, *cell, seed, f"{rows[-1].get('guide_cover_90', np.nan):.3f} {rows[-1]['refined_cover_90']:.3f}",
                  flush=True)
    table = pd.DataFrame(rows)
    table["trusted"] = table["findings"].str.endswith("trusted").astype(float).where(table["findings"].notna())
    table = table.groupby(["kind", "k", "snr_db", "bright"]).mean(numeric_only=True).drop(columns=["seed", "scene"])
    print(table.dropna(axis=1, how="all").round(4).to_csv(sep="|"))


if __name__ == "__main__":
    main()

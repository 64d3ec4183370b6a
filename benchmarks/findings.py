"""Does a fit say what is wrong with its model? `python -m benchmarks.findings --out FILE.csv` makes one mistake at a time.

Four endmembers, 30 dB, as in `benchmarks.calibration`: models that are wrong in one thing that a user may get wrong, and the same
thing left to the scene. How often each finding is made, whether intervals are said to be trusted, and what they hold. False
alarms are counted there.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import pyro_unmix as pu
from benchmarks.calibration import N_BANDS, SIDE, WAVELENGTHS, Drawn, known, scenes_of
from pyro_unmix.metrics import match
from pyro_unmix.noise import DiagonalNoise, smooth_correlation

K, SNR_DB, DRAWS = 4, 30, 300
# Of noise that correlates between bands: length in nm, and the share that does.
LENGTH, SHARE = 150.0, 0.9


def given(drawn: Drawn, **parts) -> pu.UnmixingModel:
    """A model that knows the endmembers."""
    return pu.UnmixingModel(K, **{"endmembers": known(drawn.endmembers), "brightness": "none", **parts})


def without_one(drawn: Drawn) -> pu.UnmixingModel:
    return pu.UnmixingModel(K - 1, endmembers=known(drawn.endmembers[: K - 1]), brightness="none")


# What the model believes, whether brightness varies, whether noise correlates between bands.
CASES: dict[str, tuple[Callable[[Drawn], pu.UnmixingModel], bool, bool]] = {
    "noise stated a third": (lambda drawn: given(drawn, noise=DiagonalNoise(drawn.noise_sd / 3)), False, False),
    "noise stated three times": (lambda drawn: given(drawn, noise=DiagonalNoise(3 * drawn.noise_sd)), False, False),
    "an endmember missing": (without_one, False, False),
    "brightness ignored": (given, True, False),
    "brightness left to the scene": (lambda drawn: given(drawn, brightness="auto"), True, False),
    "bands correlate, taken for independent": (lambda drawn: given(drawn, noise=DiagonalNoise()), False, True),
    "bands correlate, left to the scene": (given, False, True),
    "bands correlate, blind": (lambda drawn: pu.UnmixingModel(K), False, True),
}


def correlated(drawn: Drawn, seed: int) -> Drawn:
    """The same abundances without brightness, and noise of the same size that correlates between bands."""
    smooth = smooth_correlation(torch.as_tensor(WAVELENGTHS), LENGTH).numpy()
    factor = np.linalg.cholesky(SHARE * smooth + (1 - SHARE) * np.eye(N_BANDS))
    noise = drawn.noise_sd * np.random.default_rng([seed, 1]).standard_normal((SIDE**2, N_BANDS)) @ factor.T
    pixels = drawn.abundances @ drawn.endmembers + noise
    return drawn._replace(scene=pu.Scene(pixels.reshape(SIDE, SIDE, N_BANDS), wavelengths=WAVELENGTHS))


def one(case: str, seed: int) -> dict[str, object]:
    model_of, bright, together = CASES[case]
    drawn = scenes_of("blind" if "blind" in case else "known", K, SNR_DB, bright, seed)[0]
    if together:
        drawn = correlated(drawn, seed)
    fit = pu.fit(model_of(drawn), drawn.scene, seed=seed, progress=False)
    row: dict[str, object] = {"case": case, "seed": seed}
    for name, post in (("guide", fit.posterior(drawn.scene)), ("refined", pu.refine(fit, drawn.scene, progress=False))):
        draws = post.draws(DRAWS, seed=1)
        k = fit.model.n_endmembers
        order = match(draws.endmembers.values.mean(axis=0), drawn.endmembers[:k])
        low, high = np.quantile(draws.abundances.values.reshape(DRAWS, -1, k)[..., order], (0.05, 0.95), axis=0)
        truth = drawn.abundances[:, :k]
        row |= {f"{name}_cover_90": float(((low <= truth) & (truth <= high)).mean()),
                f"{name}_findings": "; ".join(sorted({finding.name for finding in post.findings()}))}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="CSV with a row for each scene, continued if it is there")
    parser.add_argument("--scenes", type=int, default=20, help="of every case")
    options = parser.parse_args()
    rows = pd.read_csv(options.out).to_dict("records") if options.out.exists() else []
    done = {(row["case"], row["seed"]) for row in rows}
    for seed in range(options.scenes):
        for case in CASES:
            if (case, seed) not in done:
                rows.append(one(case, seed))
                pd.DataFrame(rows).to_csv(options.out, index=False)
                print(*rows[-1].values(), sep=", ", flush=True)
    for case, table in pd.DataFrame(rows).groupby("case", sort=False):
        counts = Counter(name for found in table["guide_findings"] for name in found.split("; "))
        print(f"{case}, {len(table)} scenes: 90 % hold {table.guide_cover_90.mean():.3f}, refined "
              f"{table.refined_cover_90.mean():.3f}; " + ", ".join(f"{name} {count}" for name, count in counts.most_common()))


if __name__ == "__main__":
    main()

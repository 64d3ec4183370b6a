"""What does the wrong mixing cost? `python -m benchmarks.mixing --out FILE.csv` fits scenes of every mixing with every mixing.

Known endmembers, K = 3, 32 x 32 pixels, 60 bands, 30 dB; coefficients are left to the scene. Half of the default steps, pixel
encoder. A run that is stopped goes on where it was; the tables at the end have medians over seeds.
"""

from __future__ import annotations

import itertools

import numpy as np

import pyro_unmix as pu
from benchmarks.calibration import N_BANDS, known
from benchmarks.grid import run
from pyro_unmix.mixing import MIXINGS, CoefficientMixing, Mixing

K, SIDE, SNR_DB = 3, 32, 30.0
CONFIG = pu.FitConfig(svi_steps=50, calibration_steps=100)


def asked(name: str) -> Mixing:
    """The mixing of this name that a user would ask for: coefficients are not known."""
    made = MIXINGS[name]()
    return type(made)() if isinstance(made, CoefficientMixing) else made


def one(data: str, model: str, seed: int) -> dict:
    scene = pu.simulate_scene(K, (SIDE, SIDE), n_bands=N_BANDS, snr_db=SNR_DB, mixing=MIXINGS[data](), seed=seed)
    assert scene.reference is not None
    truth = scene.reference.abundances.values
    wanted = pu.UnmixingModel(K, endmembers=known(scene.reference.endmembers.values), mixing=asked(model))
    fit = pu.fit(wanted, scene, guide="mlp", seed=seed, config=CONFIG, progress=False)
    summary = fit.posterior(scene).summary()
    error = summary.abundance_mean.values - truth
    low, high = summary.abundance_quantile.sel(quantile=[0.05, 0.95]).values
    return {"rmse": float(np.sqrt(np.mean(error**2))), "coverage_90": float(np.mean((low <= truth) & (truth <= high))),
            "width": float(np.mean(high - low)),
            "residual": float(summary.reconstruction_rmse.mean()), "mixing": repr(fit.model.mixing),
            "brightness": fit.model.brightness is not None, "seconds": sum(fit.seconds.values())}


def main() -> None:
    table = run(__doc__, ("data", "model"), itertools.product(MIXINGS, MIXINGS), one, seeds=3)
    for figure in ("rmse", "coverage_90", "width", "residual"):
        print(figure, table.pivot_table(index="data", columns="model", values=figure, aggfunc="median")
              .loc[list(MIXINGS), list(MIXINGS)].round(4).to_string(), sep="\n")


if __name__ == "__main__":
    main()

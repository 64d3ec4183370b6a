"""Run folders without a fit, and what is found in them."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pandas as pd
import xarray as xr

from pyro_unmix import simulate
from pyro_unmix.diagnostics import Checks, findings

NAMES = ["endmember 1", "endmember 2", "<b>sand & gravel</b>"]


@cache
def scene_of_runs():
    """Not to be changed."""
    return simulate.simulate_scene(3, (14, 20), n_bands=40, concentration=0.5, seed=1)


def good_summary(scene) -> xr.Dataset:
    """A confident, right posterior."""
    truth = scene.reference
    mean, sd = truth.abundances, 0.0 * truth.abundances + 0.02
    level = xr.DataArray([0.05, 0.25, 0.5, 0.75, 0.95], dims="quantile", name="quantile")
    return xr.Dataset({
        "abundance_mean": mean, "abundance_sd": sd,
        "abundance_quantile": (mean + 0.066 * (level - 0.5)).assign_coords(quantile=level),
        "endmember_mean": truth.endmembers, "endmember_sd": 0.0 * truth.endmembers + 0.01,
        "reconstruction_rmse": 0.0 * mean[..., 0] + 0.01,
    }).assign_coords(endmember=NAMES).assign_attrs(configuration='{"mixing": "Linear"}')


def good_history(steps=400) -> pd.DataFrame:
    step = np.arange(steps)
    loss = 1e4 * np.exp(-step / 8) - 50 + 0.5 * np.random.default_rng(0).standard_normal(steps)
    return pd.DataFrame({"step": step, "stage": "svi", "elbo_loss": loss})


CONFIG = {"version": "1.2.3", "seed": 7, "scene": "hill.hdr", "n_endmembers": 3, "guide": {"class": "SpatialAttentionEncoder"},
          "seconds": {"initialize": 1.5, "warm_start": 2.5, "svi": 36.0}, "fit": {"svi_steps": 400}, "calibrated": True}


def run_folder(scene, folder, summary=None):
    (good_summary(scene) if summary is None else summary).to_netcdf(folder / "summary.nc", engine="h5netcdf")
    good_history().to_csv(folder / "history.csv", index=False)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "weights.pt").touch()
    return folder


def found_in(**changed) -> dict[str, str]:
    """Attributes of a summary whose residuals are white, but for what is changed."""
    like = xr.DataArray(np.full((14, 20), 37.0), dims=("y", "x"))
    checks = dict(chi_square=like, degrees_of_freedom=like, reduced_chi_square=1.0, noise_ratio=1.0, structures=0, strongest=0.9,
                  effective_bands=37.0, band_correlation=0.0, pixel_correlation=0.0, signal_correlation=0.0, misfit=3.0,
                  misfit_least=2.5, misfit_freed=2.4, brightness_scatter=0.0, needed=np.ones(3), purity=np.ones(3),
                  angles=np.full((3, 3), 0.02), with_brightness=True)
    found = findings(Checks(**(checks | changed)), names=NAMES)
    return {"intervals": found[-1].name, "findings": "\n".join(map(str, found))}

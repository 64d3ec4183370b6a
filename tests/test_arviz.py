"""Draws for ArviZ, in the form of either of its generations."""

from __future__ import annotations

import arviz
import numpy as np
import pytest
import xarray as xr

import pyro_unmix as pu
from pyro_unmix.arviz import khat
from pyro_unmix.initialize import informed_endmembers

K, L = 3, 12


@pytest.fixture(scope="module")
def posterior():
    made = pu.simulate_scene(K, (8, 9), n_bands=L, brightness=0.2, seed=3)
    mask = np.ones((8, 9), bool)
    mask[2, 5] = False
    scene = pu.Scene(made.reflectance, mask=mask, name="leaves")
    prior = informed_endmembers(made.reference.endmembers.values, scene, K)
    config = pu.FitConfig(svi_steps=3, calibration_steps=3, device="cpu")
    model = pu.UnmixingModel(K, endmembers=prior, brightness="pixel")
    return pu.fit(model, scene, guide="mlp", config=config, names=["oak", "beech", "soil"], progress=False).posterior(scene)


CROP = {"y": slice(1, 4), "x": slice(4, 9)}


@pytest.fixture(params=["installed", "1.0.0"])
def data(request, posterior, monkeypatch):
    """As the installed ArviZ holds draws, and as any from 1.0 on does."""
    if request.param != "installed":
        monkeypatch.setattr(arviz, "__version__", request.param)
    made = posterior.to_arviz(40, seed=2, **CROP)
    assert isinstance(made, xr.DataTree) == (not arviz.__version__.startswith("0."))
    return made


def test_groups_hold_the_draws_and_what_they_explain(data, posterior):
    draws = posterior.draws(40, seed=2, **CROP)
    held = data["posterior"]
    assert dict(held.sizes) == {"chain": 1, "draw": 40, "y": 3, "x": 5, "endmember": K, "wavelength": L}
    for name in ("abundances", "endmembers", "brightness"):
        assert held[name].dims == ("chain", *draws[name].dims)
        np.testing.assert_array_equal(held[name].isel(chain=0), draws[name])
    assert held.endmember.values.tolist() == ["oak", "beech", "soil"] and held.attrs["draw_seed"] == 2
    observed = data["observed_data"]["reflectance"]
    np.testing.assert_array_equal(observed, posterior.scene.reflectance.isel(**CROP))
    np.testing.assert_array_equal(observed.y, held.y)


def test_arviz_works_on_it(posterior):
    data = posterior.to_arviz(200, y=slice(0, 2), x=slice(0, 2))
    table = arviz.summary(data, var_names=["endmembers"], kind="stats", round_to="none")
    assert len(table) == K * L
    np.testing.assert_allclose(table["mean"], data["posterior"]["endmembers"].mean(("chain", "draw")).values.ravel(), rtol=1e-5)
    interval = arviz.hdi(data["posterior"]["abundances"])
    interval = interval["abundances"] if isinstance(interval, xr.Dataset) else interval
    assert interval.shape == (2, 2, K, 2) and (interval >= 0).all() and (interval <= 1).all()


def test_file_round_trip(data, tmp_path):
    path = tmp_path / "draws.nc"
    data.to_netcdf(path, engine="h5netcdf")
    for group in ("posterior", "observed_data"):
        with xr.open_dataset(path, group=group, engine="h5netcdf") as read:
            for name, held in data[group].data_vars.items():
                assert read[name].dims == held.dims
                np.testing.assert_array_equal(read[name], held)
    with xr.open_dataset(path, group="posterior", engine="h5netcdf") as read:
        assert read.attrs["scene"] == "leaves" and read.endmember.values.tolist() == ["oak", "beech", "soil"]
    back = arviz.from_netcdf(path)
    np.testing.assert_array_equal(back["posterior"]["abundances"], data["posterior"]["abundances"])


def test_khat_tells_light_tails_from_heavy():
    """Weights of Pareto tails of index 0.3 and 1.2, 2,000 draws each: within 0.25, several standard errors; equal weights: 0."""
    random = np.random.default_rng(0)
    for index in (0.3, 1.2):
        weights = random.pareto(1.0 / index, (2000, 5)) + 1.0
        np.testing.assert_allclose(khat(np.log(weights)).mean(), index, atol=0.25)
    assert khat(np.zeros((100, 2))).tolist() == [0.0, 0.0]
    one_holds_all = np.full((100, 1), -1e4)
    one_holds_all[3] = 0.0
    assert khat(one_holds_all)[0] > 0.7

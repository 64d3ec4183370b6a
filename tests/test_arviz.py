"""Draws for ArviZ, in the form of either of its generations."""

from __future__ import annotations

import arviz
import numpy as np
import pytest
import torch
import xarray as xr

import pyro_unmix as pu
from pyro_unmix.arviz import khat
from pyro_unmix.initialize import informed_endmembers
from pyro_unmix.predictive import log_likelihoods

K, L = 3, 12


@pytest.fixture(scope="module")
def posterior():
    made = pu.simulate_scene(K, (8, 9), n_bands=L, brightness=0.2, seed=3)
    mask = np.ones((8, 9), bool)
    mask[2, 5] = False
    scene = pu.Scene(made.reflectance, mask=mask, name="leaves")
    prior = informed_endmembers(made.reference.endmembers.values, scene, K)
    config = pu.FitConfig(svi_steps=3, calibration_steps=3, sampling_steps=40, device="cpu")
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


GROUPS = ("posterior", "observed_data", "posterior_predictive", "prior", "log_likelihood")


@pytest.fixture(scope="module")
def all_groups(posterior):
    return posterior.to_arviz(200, seed=2, groups=GROUPS, **CROP)


@pytest.mark.parametrize("version", ["installed", "1.0.0"])
def test_groups_on_request(posterior, monkeypatch, version):
    if version != "installed":
        monkeypatch.setattr(arviz, "__version__", version)
    data = posterior.to_arviz(5, groups=("log_likelihood", "prior"), **CROP)
    held = data.children if isinstance(data, xr.DataTree) else data.groups()
    assert set(held) == {"log_likelihood", "prior"}


@pytest.mark.parametrize("groups", [("posterior", "warmup"), (), "posterior"])
def test_unknown_groups_are_refused(posterior, groups):
    with pytest.raises(pu.InputError, match="groups among posterior, observed_data"):
        posterior.to_arviz(2, groups=groups)


def test_simulated_spectra_scatter_by_the_noise(all_groups, posterior):
    """About each draw's own mean, with its standard deviation: 200 draws of 14 pixels tell it to 1.4 % a band."""
    draws, found = all_groups["posterior"].isel(chain=0), all_groups["posterior_predictive"]["reflectance"]
    assert found.dims == ("chain", "draw", "y", "x", "wavelength")
    mean = draws.brightness * xr.dot(draws.abundances, draws.endmembers, dim="endmember")
    scaled = (found.isel(chain=0) - mean) / draws.noise_scale
    np.testing.assert_allclose(scaled.std(("draw", "y", "x")), 1.0, rtol=5 * 0.014)
    # Negative control: noise made of the random numbers that made the endmembers would go along with them.
    one = scaled.transpose("draw", "y", "x", "wavelength").values[:, 0, 0]
    white = np.linalg.solve(posterior._fit.guide.endmembers().scale_tril.detach().numpy()[0],
                            (draws.endmembers.values[:, 0] - draws.endmembers.values[:, 0].mean(axis=0)).T).T
    assert abs(np.corrcoef(one.ravel(), white.ravel())[0, 1]) < 5 / 2400**0.5
    assert (found.isel(chain=0, draw=0, wavelength=0).isnull().values == ~posterior.scene.mask.isel(**CROP).values).all()


def test_log_likelihood_is_that_of_each_draw(all_groups, posterior):
    draws, found = all_groups["posterior"].isel(chain=0), all_groups["log_likelihood"]["reflectance"].isel(chain=0)
    assert found.dims == ("draw", "y", "x")
    for number, y, x in ((0, 0, 0), (17, 2, 4), (199, 1, 2)):
        one = draws.isel(draw=number, y=y, x=x)
        mean = torch.as_tensor((one.brightness * (one.abundances @ one.endmembers)).values)
        spectrum = torch.as_tensor(posterior.scene.reflectance.isel(**CROP).values[y, x])
        expected = posterior._fit.model.noise.likelihood(mean, torch.as_tensor(one.noise_scale.values)).log_prob(spectrum)
        np.testing.assert_allclose(found[number, y, x], expected, rtol=1e-3)
    assert np.isnan(found[0, 1, 1]) == (not posterior.scene.mask.values[2, 5])


def test_other_mixing_has_a_likelihood_too(posterior):
    """The way that knows nothing of mixing and noise agrees with the way for linear mixing and Gaussian noise."""
    class Plain(torch.nn.Module):
        def forward(self, abundances, endmembers):
            return abundances @ endmembers

    draws, model = posterior.draws(3, **CROP), posterior._fit.model
    kept = {"endmembers": model.endmembers, "brightness": model.brightness, "noise": model.noise}
    observed = posterior.scene.reflectance.isel(**CROP)
    one, other = (log_likelihoods(each, draws, observed) for each in (model, model.replace(mixing=Plain(), **kept)))
    np.testing.assert_allclose(one.reflectance, other.reflectance, rtol=1e-4)


def test_the_prior_is_that_of_the_model(all_groups, posterior):
    """Flat on the simplex: 200 draws of 14 pixels, means within five standard errors."""
    held, mask = all_groups["prior"], posterior.scene.mask.isel(**CROP).values
    abundances = held["abundances"].values[0][:, mask]
    np.testing.assert_allclose(abundances.mean((0, 1)), 1 / K, atol=5 * (1 / 18 / 2800) ** 0.5)
    np.testing.assert_allclose(abundances.sum(-1), 1.0, atol=1e-6)
    prior = posterior._fit.model.endmembers
    error = held["endmembers"].values[0].mean(axis=0) - prior.mean.numpy()
    assert (abs(error) < 5 * prior(K, L).stddev.numpy() / 200**0.5).all()
    assert (held["brightness"].isnull().values[0, 0] == ~mask).all() and (held["noise_scale"] > 0).all()


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

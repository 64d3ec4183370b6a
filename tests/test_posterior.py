"""What comes out: closed form equals draws, tiles equal the whole, files equal memory."""

from __future__ import annotations

import json
from importlib.metadata import version

import numpy as np
import pytest
import torch
import xarray as xr

import pyro_unmix as pu
from pyro_unmix import questions
from pyro_unmix.initialize import informed_endmembers
from pyro_unmix.metrics import spectral_angle
from pyro_unmix.posterior import QUANTILES
from pyro_unmix.sources import GuideSource

K, L, N = 3, 12, 20_000
CONFIG = pu.FitConfig(svi_steps=20, calibration_steps=10, sampling_steps=40, kl_warmup_steps=4, window=50, tile_size=8,
                      device="cpu")


@pytest.fixture(scope="module")
def scene():
    """18 x 13 pixels of 30 m in a projection, with a hole and brightness."""
    made = pu.simulate_scene(K, (18, 13), n_bands=L, brightness=0.2, seed=3)
    mask = np.ones((18, 13), bool)
    mask[3:9, 5:8] = False
    image = made.reflectance.assign_coords(
        y=("y", 5.8e6 - 30.0 * np.arange(18), {"units": "m"}), x=("x", 4.0e5 + 30.0 * np.arange(13), {"units": "m"}),
        spatial_ref=((), 0, {"crs_wkt": 'PROJCS["WGS 84 / UTM zone 33N"]'}))
    return pu.Scene(image, mask=mask, endmembers=made.reference.endmembers.values, name="leaves")


@pytest.fixture(scope="module")
def fitted(scene):
    prior = informed_endmembers(scene.reference.endmembers.values, scene, K)
    model = pu.UnmixingModel(K, endmembers=prior, brightness="pixel")
    # A Dirichlet's marginals are known in closed form.
    guide = pu.UnmixingGuide("cnn", head="dirichlet")
    return pu.fit(model, scene, guide=guide, config=CONFIG, names=["oak", "beech", "soil"], seed=4, progress=False)


@pytest.fixture(scope="module")
def posterior(fitted, scene):
    return fitted.posterior(scene)


@pytest.fixture(scope="module")
def summary(posterior):
    return posterior.summary()


@pytest.fixture(scope="module")
def draws(posterior):
    """Of three rows and three columns around the edge of the hole."""
    return posterior.draws(N, seed=1, y=slice(2, 5), x=slice(4, 7))


def agree(summary, draws, name, variable):
    """Mean within five standard errors; sd within 5 % (0.5 % to 1 % for a normal, up to 2 % for heavy tails)."""
    sd = summary[f"{name}_sd"] if f"{name}_sd" in summary else draws[variable].std("draw", skipna=False)
    found = draws[variable].mean("draw", skipna=False)
    assert (abs(found - summary[f"{name}_mean"]) <= 5 * sd / N**0.5 + 1e-6).where(found.notnull(), True).all()
    if f"{name}_sd" in summary:
        # Of an abundance near zero hardly a draw in a thousand makes up the standard deviation.
        ratio = (draws[variable].std("draw", skipna=False) / sd).where(summary[f"{name}_mean"] > 5e-3)
        assert abs(ratio - 1).max() < 0.05


def test_closed_form_equals_draws(summary, draws):
    here = summary.isel(y=slice(2, 5), x=slice(4, 7))
    for name, variable in (("abundance", "abundances"), ("endmember", "endmembers"), ("brightness", "brightness")):
        agree(here, draws, name, variable)
    assert here.abundance_sd.median() > 1e-2  # there was something to compare


def test_quantiles_equal_draws(summary, draws):
    """The share of draws below the quantile at level p is p within five standard errors."""
    here = summary.abundance_quantile.isel(y=slice(2, 5), x=slice(4, 7))
    use = draws.abundances.notnull().all("draw")
    for level in QUANTILES:
        told_from_zero = here.sel(quantile=level) > 1e-30  # the least that float32 holds
        below = (draws.abundances <= here.sel(quantile=level)).mean("draw").where(use & told_from_zero)
        assert abs(below - level).max() < 5 * (level * (1 - level) / N) ** 0.5
    assert here.sel(quantile=0.05).max() > 0.01  # there was something to compare
    below = (draws.abundances <= 1.02 * here.sel(quantile=0.5)).mean("draw").where(use)
    assert abs(below - 0.5).max() > 5 * 0.5 / N**0.5  # negative control: a median 2 % off is noticed


def test_draws_of_endmembers_covary_over_bands(posterior, draws):
    """A correlation of N draws has a standard error of at most 1 / sqrt(N)."""
    scale = posterior._fit.guide.endmembers().scale_tril.detach().numpy()
    for k in range(K):
        covariance = scale[k] @ scale[k].T
        sd = np.sqrt(covariance.diagonal())
        found = np.corrcoef(draws.endmembers.values[:, k].astype(float).T)
        np.testing.assert_allclose(found, covariance / np.outer(sd, sd), atol=5 / N**0.5)


def test_abundances_lie_on_the_simplex(summary, draws, scene):
    mask = scene.mask.values
    for values, use in ((summary.abundance_mean.values, mask), (draws.abundances.values, mask[2:5, 4:7])):
        used = values[..., use, :]
        assert used.dtype == np.float32 and used.min() >= 0
        np.testing.assert_allclose(used.astype(float).sum(-1), 1.0, rtol=0, atol=1e-6)
    quantiles = summary.abundance_quantile.values[:, mask]
    assert quantiles.min() >= 0 and quantiles.max() <= 1 and (np.diff(quantiles, axis=0) >= 0).all()


def test_nan_at_masked_pixels_and_nowhere_else(summary, draws, scene):
    maps = [summary[name] for name in summary if {"y", "x"} <= set(summary[name].dims)]
    assert len(maps) == 5
    for values in maps:
        missing = values.isnull()
        expected = ~scene.mask.broadcast_like(values)
        assert (missing.transpose(*expected.dims).values == expected.values).all(), values.name
    crop = scene.mask.values[2:5, 4:7]
    assert (np.isnan(draws.brightness.values) == ~crop).all() and (~crop).any()
    for name in ("endmember_mean", "endmember_sd"):
        assert summary[name].notnull().all()


def test_reconstruction_error_is_that_of_the_means(summary, scene):
    mixed = summary.brightness_mean * (summary.abundance_mean @ summary.endmember_mean)
    expected = np.sqrt(((scene.reflectance - mixed) ** 2).mean("wavelength"))
    np.testing.assert_allclose(summary.reconstruction_rmse, expected.transpose("y", "x"), rtol=1e-3)


def test_summary_is_that_of_the_contract(summary, scene, fitted):
    dims = {"abundance_mean": ("y", "x", "endmember"), "abundance_sd": ("y", "x", "endmember"),
            "abundance_quantile": ("quantile", "y", "x", "endmember"), "endmember_mean": ("endmember", "wavelength"),
            "endmember_sd": ("endmember", "wavelength"), "reconstruction_rmse": ("y", "x"), "brightness_mean": ("y", "x")}
    assert {name: variable.dims for name, variable in summary.items()} == dims
    assert summary["quantile"].values.tolist() == [0.05, 0.25, 0.5, 0.75, 0.95]
    assert summary.endmember.values.tolist() == ["oak", "beech", "soil"]
    assert summary.wavelength.attrs["units"] == "nm"
    np.testing.assert_array_equal(summary.wavelength, scene.wavelengths)
    for name in ("y", "x", "spatial_ref"):
        xr.testing.assert_identical(summary[name].variable, scene.reflectance[name].variable)
    assert summary.attrs["version"] == version("pyro_unmix") and summary.attrs["program"] == "pyro_unmix"
    assert summary.attrs["seed"] == 4 and summary.attrs["scene"] == "leaves"
    assert summary.attrs["seconds"] == pytest.approx(sum(fitted.seconds.values()), abs=1e-3)
    configuration = json.loads(summary.attrs["configuration"])
    assert pu.FitConfig.from_dict(configuration["fit"]) == CONFIG
    assert configuration["n_endmembers"] == K and configuration["abundances"] == "Dirichlet"


def test_file_is_the_summary(posterior, summary, tmp_path):
    posterior.save(tmp_path / "deep" / "summary.nc")
    with xr.open_dataset(tmp_path / "deep" / "summary.nc", engine="h5netcdf") as read:
        read.load()
    assert set(read.coords) == set(summary.coords)
    xr.testing.assert_equal(read, summary)
    assert {name: variable.dtype for name, variable in read.items()} == {n: v.dtype for n, v in summary.items()}
    assert read.attrs == summary.attrs and read.wavelength.attrs == summary.wavelength.attrs
    assert read.spatial_ref.attrs == summary.spatial_ref.attrs
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["summary.nc"]


def test_without_brightness_there_is_none(scene):
    prior = informed_endmembers(scene.reference.endmembers.values, scene, K)
    model = pu.UnmixingModel(K, endmembers=prior, brightness="none")
    posterior = pu.fit(model, scene, guide="mlp", config=CONFIG, progress=False).posterior(scene)
    summary = posterior.summary()
    assert "brightness_mean" not in summary and "brightness" not in posterior.draws(2)
    expected = np.sqrt(((scene.reflectance - summary.abundance_mean @ summary.endmember_mean) ** 2).mean("wavelength"))
    np.testing.assert_allclose(summary.reconstruction_rmse, expected.transpose("y", "x"), rtol=1e-3)


def test_tiled_is_whole(fitted, scene, summary, monkeypatch):
    monkeypatch.setattr(GuideSource, "tile", 5)
    tiled = fitted.posterior(scene).summary()
    for name in summary:
        np.testing.assert_allclose(tiled[name], summary[name], atol=1e-5, err_msg=name)


def test_draws_follow_their_seed(posterior, fitted, scene):
    one, again = posterior.draws(5, seed=3), fitted.posterior(scene).draws(5, seed=3)
    xr.testing.assert_identical(one, again)
    assert one.attrs["draw_seed"] == 3
    other = posterior.draws(5, seed=4)
    use = scene.mask.values
    for name in ("endmembers", "noise_scale", "abundances", "brightness"):
        part = (slice(None), use) if "y" in one[name].dims else slice(None)
        assert (one[name].values[part] != other[name].values[part]).mean() > 0.99


def test_draws_of_a_part(posterior, scene):
    part = posterior.draws(4, y=slice(2, 5), x=slice(4, 7))
    assert dict(part.sizes) == {"draw": 4, "y": 3, "x": 3, "endmember": K, "wavelength": L}
    np.testing.assert_array_equal(part.y, scene.reflectance.y[2:5])
    np.testing.assert_array_equal(part.x, scene.reflectance.x[4:7])
    everything = posterior.draws(4)
    assert everything.abundances.sizes["y"] == 18
    xr.testing.assert_equal(part, everything.isel(y=slice(2, 5), x=slice(4, 7)))
    with pytest.raises(pu.InputError, match="at least one draw"):
        posterior.draws(0)


def test_another_scene_of_the_same_sensor(fitted):
    other = pu.simulate_scene(K, (7, 30), n_bands=L, seed=9)
    summary = fitted.posterior(other).summary()
    assert summary.abundance_mean.shape == (7, 30, K) and summary.abundance_mean.notnull().all()
    assert summary.attrs["scene"] == "simulated"


def test_scenes_of_other_bands_are_refused(fitted, scene):
    fewer = pu.Scene(scene.reflectance[..., :-1])
    with pytest.raises(pu.InputError, match="the 12 bands the fit was made on, got 11"):
        fitted.posterior(fewer)
    shifted = pu.Scene(scene.reflectance.values, wavelengths=scene.wavelengths + 5.0)
    with pytest.raises(pu.InputError, match="5.0 nm away"):
        fitted.posterior(shifted)
    nearly = pu.Scene(scene.reflectance.values, wavelengths=scene.wavelengths + 0.5)
    unknown = pu.Scene(scene.reflectance.values)
    for fine in (nearly, unknown):
        assert fitted.posterior(fine).summary().abundance_mean.notnull().all()


def test_history_is_at_hand(posterior, fitted):
    assert posterior.history is fitted.history


def test_exceedance_is_the_share_of_draws(posterior, draws, scene):
    """In closed form; the share of N draws is within five standard errors."""
    found = posterior.exceedance(0.3)
    assert found.dims == ("y", "x", "endmember") and found.endmember.values.tolist() == ["oak", "beech", "soil"]
    np.testing.assert_array_equal(found.isnull().all("endmember"), ~scene.mask)
    here = found.isel(y=slice(2, 5), x=slice(4, 7))
    share = (draws.abundances > 0.3).mean("draw").where(here.notnull())
    assert (abs(share - here) <= 5 * (here * (1 - here) / N) ** 0.5 + 1e-4).where(here.notnull(), True).all()
    assert ((here > 0.05) & (here < 0.95)).any()  # there was something to compare
    assert (posterior.exceedance(0.5) <= found).where(found.notnull(), True).all()


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.1, float("nan")])
def test_a_threshold_is_a_share(posterior, threshold):
    with pytest.raises(pu.InputError, match="a threshold between 0 and 1"):
        posterior.exceedance(threshold)


def test_correlation_is_that_of_draws(posterior, draws):
    found = posterior.correlation(2, 4)
    assert found.dims == ("endmember", "other") and found.other.values.tolist() == ["oak", "beech", "soil"]
    np.testing.assert_allclose(found, np.corrcoef(draws.abundances.values[:, 0, 0].astype(float).T), atol=5 / 1000**0.5)
    np.testing.assert_allclose(found.values.diagonal(), 1.0)
    assert found.values.min() < -0.2  # what one gains another loses


@pytest.mark.parametrize("y, x", [(4, 6), (18, 0), (0, 13), (-1, 0)])
def test_only_a_pixel_in_use_has_a_correlation(posterior, y, x):
    with pytest.raises(pu.InputError, match="a pixel in use"):
        posterior.correlation(y, x)


def test_the_most_uncertain_come_first(posterior, summary):
    table = posterior.most_uncertain(7)
    assert list(table) == ["y", "x", "endmember", "mean", "sd", "low", "high"] and len(table) == 7
    width = summary.abundance_quantile.sel(quantile=0.95) - summary.abundance_quantile.sel(quantile=0.05)
    np.testing.assert_allclose(table.high - table.low, np.sort(width.values[width.notnull().values])[::-1][:7], rtol=1e-5)
    first = table.iloc[0]
    cell = summary.isel(y=first.y, x=first.x).sel(endmember=first.endmember)
    np.testing.assert_allclose([first["mean"], first.sd, first.low], [cell.abundance_mean, cell.abundance_sd,
                                                                      cell.abundance_quantile.sel(quantile=0.05)], rtol=1e-5)
    everything = posterior.most_uncertain(10**6)
    assert len(everything) == int(width.notnull().sum()) and everything["mean"].notna().all()
    with pytest.raises(pu.InputError, match="at least one interval"):
        posterior.most_uncertain(0)


def test_endmembers_are_named_by_their_draws(posterior, scene):
    truth = scene.reference.endmembers.values
    spectra = np.concatenate([3.0 * truth, truth[::-1] ** 2 + 0.3 * truth.mean(axis=0)])  # amplitude does not matter
    library = pu.SpectralLibrary(spectra, ["A", "B", "C", "D", "E", "F"], scene.wavelengths)
    table = posterior.identify(library, n=2)
    assert list(table) == ["endmember", "material", "probability", "angle"] and len(table) == 2 * K
    first = table.groupby("endmember", sort=False).first()
    assert first.material.tolist() == ["A", "B", "C"] and first.index.tolist() == ["oak", "beech", "soil"]
    assert (first.probability > 0.5).all() and (first.angle < 0.2).all()
    drawn = posterior.draws(500, seed=4, y=slice(1), x=slice(1)).endmembers.values  # by the seed of the fit
    found = spectral_angle(drawn[:, 0, None], spectra).argmin(axis=1)
    assert first.probability["oak"] == (found == 0).mean() < 1.0
    twin = pu.SpectralLibrary(np.concatenate([spectra[:3], spectra[:1]]), ["A", "B", "C", "again"], None)
    assert posterior.identify(twin, n=9).groupby("endmember").probability.sum().tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(pu.InputError, match="a library of 12 bands"):
        posterior.identify(pu.SpectralLibrary(spectra[:, :5], list("ABCDEF")))
    with pytest.raises(pu.InputError, match="at least one material"):
        posterior.identify(library, n=0)


def test_draws_that_do_not_share_endmembers_have_no_region(posterior):
    with pytest.raises(pu.InputError, match="call pyro_unmix.refine"):
        posterior.region_mean(np.ones((18, 13), bool))


def test_the_verdict_is_in_the_summary(posterior, summary):
    found = posterior.findings()
    assert summary.attrs["intervals"] == found[-1].name
    assert summary.attrs["findings"] == "\n".join(map(str, found))
    assert posterior.checks().chi_square.shape == (18, 13)


def looked_at(posterior, endmembers=None):
    """Names of what is found at the true abundances, endmembers known to a percent."""
    scene = posterior.scene
    maps, common = posterior._maps((0.5,)), posterior._source.common()
    truth = torch.as_tensor(scene.reference.endmembers.values if endmembers is None else endmembers)
    maps = maps._replace(mean=scene.reference.abundances.values.astype(float), brightness=None)
    common = common._replace(endmembers=truth, endmember_sd=0.01 * truth.mean().expand_as(truth),
                             noise_scale=torch.full((L,), 0.01))
    seen = questions.looked_at(scene, maps)
    return [each.name for each in questions.verdict(posterior._fit.model, *seen, common, None, list("abc"))]


@pytest.mark.parametrize("rows", [30, 400])
def test_errors_that_were_expected_are_no_finding(fitted, rows, monkeypatch):
    """Endmembers off by their standard deviation are: one white scene in a thousand says otherwise. Negative control: by ten."""
    random = np.random.default_rng(0)
    made = pu.simulate_scene(K, (rows, 20), n_bands=L, seed=8)
    truth, z = made.reference.endmembers.values, made.reference.abundances.values
    noisy = pu.Scene(z @ truth + 0.01 * random.standard_normal((rows, 20, L)), abundances=z, endmembers=truth)
    posterior = fitted.posterior(noisy)
    monkeypatch.setattr(questions, "LOOKED_AT", 2000)
    assert (questions.spread_rows(noisy.mask.values.any(axis=1), 20) is None) == (rows == 30)
    sd = 0.01 * truth.mean()
    error = sd * random.standard_normal(truth.shape)
    assert looked_at(posterior, truth + error)[-1] == "trusted"
    assert looked_at(posterior, truth + 10 * error)[-1] == "best effort"


def test_rows_of_a_large_scene_are_spread_and_kept_apart():
    rows, use = questions.spread_rows(np.ones(1000, bool), 400)
    assert 30_000 < use.sum() * 400 <= 40_000 and rows[0] == 0 and rows[-1] == 999 and len(set(rows)) == len(rows)
    assert (np.diff(rows)[use[:-1]] == 1).all() and not use[-1]
    assert questions.spread_rows(np.ones(100, bool), 100) is None


def test_rows_without_data_are_not_looked_at():
    with_data = np.zeros(1000, bool)
    with_data[700:] = True
    rows, use = questions.spread_rows(with_data, 400)
    assert rows.min() == 700 and 30_000 < use.sum() * 400 <= 40_000
    with_data[702:] = False
    rows, use = questions.spread_rows(with_data, 400)
    assert rows.tolist() == [700, 701] and use.all()


def test_a_guide_that_was_not_calibrated_is_a_best_effort(fitted, scene):
    by_hand = pu.Fit(fitted.model, fitted.guide)
    found = by_hand.posterior(scene).findings()
    assert [each.name for each in found[-2:]] == ["not calibrated", "best effort"]


def test_a_mixing_that_cannot_be_looked_at_says_so(fitted, scene):
    class Squared(pu.mixing.Linear):
        pass

    model = fitted.model.replace(mixing=type("Other", (torch.nn.Module,), {"forward": Squared.forward})(),
                                 endmembers=fitted.model.endmembers)
    posterior = pu.Fit(model, fitted.guide, calibrated=True).posterior(scene)
    found = posterior.findings()
    assert [each.name for each in found] == ["best effort"] and "linear mixing" in found[0].what
    with pytest.raises(pu.InputError, match="linear mixing"):
        posterior.checks()


@pytest.mark.parametrize("sd", [1e-4, 0.1])
def test_an_endmember_that_was_known_need_not_be_identified(scene, sd):
    """No narrowing is asked of a prior that leaves nothing open; of a wide one it is, where the scene did not narrow it."""
    prior = informed_endmembers(scene.reference.endmembers.values, scene, K, sd=sd)
    fit = pu.fit(pu.UnmixingModel(K, endmembers=prior, brightness="pixel"), scene, guide="mlp", config=CONFIG, progress=False)
    with torch.no_grad():  # as wide as the prior
        fit.guide.endmembers.log_scale.zero_()
    found = [finding.what for finding in fit.posterior(scene).findings() if finding.name == "endmember not identified"]
    assert any("was not narrowed" in what for what in found) == (sd > 0.01)

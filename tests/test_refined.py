"""A refined posterior: draws against quadrature and least squares, and what only joint draws can say."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pyro.distributions as dist
import pytest
import torch
import xarray as xr

import pyro_unmix as pu
from pyro_unmix import ways
from pyro_unmix.initialize import informed_endmembers
from pyro_unmix.least_squares import constrained
from pyro_unmix.refine.shared import Shared
from pyro_unmix.sources import DrawnSource

K, L, NOISE = 2, 16, 0.05
CONFIG = pu.FitConfig(svi_steps=20, calibration_steps=30, sampling_steps=40, kl_warmup_steps=4, tile_size=8, device="cpu")
METHODS = ("exact", "cut", "re-weighted")


@pytest.fixture(scope="module")
def scene():
    """10 x 9 pixels of two endmembers and noise that is known, with a hole."""
    random = np.random.default_rng(1)
    endmembers = np.stack([0.3 + 0.2 * np.linspace(0, 1, L), 0.5 - 0.3 * np.linspace(0, 1, L)])
    abundances = random.dirichlet([1.0, 1.0], (10, 9))
    mask = np.ones((10, 9), bool)
    mask[2:4, 3] = False
    image = abundances @ endmembers + NOISE * random.standard_normal((10, 9, L))
    return pu.Scene(image, mask=mask, abundances=abundances, endmembers=endmembers)


def fit_of(scene, **parts):
    prior = informed_endmembers(scene.reference.endmembers.values, scene, K)
    model = pu.UnmixingModel(K, endmembers=prior, brightness="none", **parts)
    return pu.fit(model, scene, guide="mlp", config=CONFIG, names=["oak", "soil"], progress=False)


@pytest.fixture(scope="module")
def fits(scene):
    """One for each way: noise that is white, taken not to be, and a prior without exact draws."""
    white = fit_of(scene)
    assert white.guide.denoise is not None
    structured = copy.deepcopy(white)
    structured.guide.denoise = None
    structured.guide.joint.fill_(False)
    own = fit_of(scene, abundances=lambda k: dist.Dirichlet(torch.full((k,), 2.0)))
    return dict(zip(METHODS, (white, structured, own), strict=True))


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.fixture
def refined(fits, scene, method):
    return pu.refine(fits[method], scene, shared_draws=7, draws=70, seed=3, progress=False)


def known(scene, n=3):
    """Draws of endmembers and noise that are all the truth."""
    endmembers = torch.as_tensor(scene.reference.endmembers.values, dtype=torch.float64)
    return Shared(endmembers.repeat(n, 1, 1), torch.full((n, L), NOISE, dtype=torch.float64),
                  torch.tensor([0.5, 2.0], dtype=torch.float64).repeat(n, 1), None)


def quadrature(scene, concentration):
    """Mean and standard deviation of the first abundance of every pixel, its posterior summed up on a grid."""
    grid = np.linspace(0.0, 1.0, 20_001)[1:] ** 4  # dense where there may be a pole
    grid = 0.5 * (grid[1:] + grid[:-1])
    width = np.gradient(grid)
    endmembers, pixels = scene.reference.endmembers.values.astype(float), scene.pixels().astype(float)
    mixed = np.stack([grid, 1 - grid], axis=1) @ endmembers
    log_density = (pixels @ mixed.T - 0.5 * (mixed**2).sum(axis=1)) / NOISE**2
    log_density += (concentration[0] - 1) * np.log(grid) + (concentration[1] - 1) * np.log1p(-grid)
    mass = np.exp(log_density - log_density.max(axis=1, keepdims=True)) * width
    mass /= mass.sum(axis=1, keepdims=True)
    mean = mass @ grid
    return mean, np.sqrt(mass @ grid**2 - mean**2)


def of_first(summary, scene):
    use = scene.mask.values
    return summary.abundance_mean.values[use][:, 0], summary.abundance_sd.values[use][:, 0]


def assert_agrees(found, expected, n, effective=1.0, rtol=0.02):
    """Means within five standard errors of n draws; standard deviations within `rtol`, averaged over pixels."""
    (mean, sd), (exact_mean, exact_sd) = found, expected
    assert (abs(mean - exact_mean) < 5 * exact_sd / (effective * n) ** 0.5).all()
    assert abs((sd / exact_sd).mean() - 1) < rtol


def test_the_way_is_that_of_the_model(refined, method):
    assert refined.method == method
    summary = refined.summary()
    assert summary.attrs["refined"] == method and summary.attrs["refined_draws"] == 70
    assert ("khat" in summary) == (method != "cut")


def test_exact_draws_are_those_of_quadrature(fits, scene):
    """Endmembers and noise known, Dirichlet(0.5, 2): 3000 draws a pixel. Negative control: another prior is told from it."""
    summary = pu.refine(replace(fits["exact"], shared=known(scene)), scene, shared_draws=3, draws=3000, progress=False).summary()
    # Systematic resampling from four times as many weighted draws leaves at least half of them distinct.
    assert_agrees(of_first(summary, scene), quadrature(scene, (0.5, 2.0)), 3000, effective=0.5)
    with pytest.raises(AssertionError):
        assert_agrees(of_first(summary, scene), quadrature(scene, (1.0, 1.0)), 3000, effective=0.5)
    assert (summary.khat.values[scene.mask.values] < 0.7).mean() > 0.95


def reweighted(fits, scene, n):
    """Of the model with a prior Dirichlet(2, 2), endmembers and noise known."""
    source = ways.Reweighted(fits["re-weighted"], 3, n)
    shared = known(scene)
    source.endmembers, source.noise_scale = shared.endmembers.float(), shared.noise_scale.float()
    return pu.RefinedPosterior(fits["re-weighted"], scene, source)


def test_reweighted_draws_are_those_of_quadrature(fits, scene, monkeypatch):
    """Where a tenth of 12,000 draws is effective, in most pixels. Negative control: the guide's own draws.

    This guide is a third too narrow, and draws that it never makes are missing in the tails.
    """
    monkeypatch.setattr(ways, "_WEIGHTS", 12_000)
    refined = reweighted(fits, scene, 3000)
    summary = refined.summary()
    piece, = refined._pieces(32, np.arange(10), np.arange(9), refined._seed)
    told = (piece._pool.log_weights.softmax(dim=0).square().sum(dim=0) < 1 / 1200).numpy()
    assert told.mean() > 0.5
    expected = [each[told] for each in quadrature(scene, (2.0, 2.0))]
    assert_agrees([each[told] for each in of_first(summary, scene)], expected, 3000, effective=0.1, rtol=0.04)
    guide = fits["re-weighted"].posterior(scene).summary()
    with pytest.raises(AssertionError):
        assert_agrees([each[told] for each in of_first(guide, scene)], expected, 3000, effective=0.1, rtol=0.04)


def test_weights_that_few_draws_carry_are_not_used(fits, scene, monkeypatch):
    """The draws are the guide's then: means within five standard errors."""
    monkeypatch.setattr(ways, "_LEAST_EFFECTIVE", 1.1)
    summary = reweighted(fits, scene, 3000).summary()
    guide = of_first(fits["re-weighted"].posterior(scene).summary(), scene)
    assert_agrees(of_first(summary, scene), guide, 3000, effective=0.5)
    assert summary.khat.notnull().sum() == scene.n_pixels  # said in any case


def test_a_cut_draws_what_least_squares_say(fits, scene):
    """In as many numbers as endmembers, or with all bands: abundances agree to a thousandth."""
    source = ways.Cut(fits["cut"], scene, 3, 6)
    tiles = pu.whole(scene)
    torch.manual_seed(5)
    found = source.draw(tiles, 6).abundances
    torch.manual_seed(5)
    for number in range(3):
        others = source.residuals[torch.randint(len(source.residuals), (2, scene.n_pixels))]
        spectra = (tiles.pixels() + source.scale(tiles.pixels()) * others).flatten(0, 1)
        expected = constrained(spectra, source.endmembers[number], False)[0].unflatten(0, (2, scene.n_pixels))
        np.testing.assert_allclose(found[2 * number : 2 * number + 2], expected, atol=1e-3)


def growing(endmembers, power):
    """80 x 100 pixels of brightness .2 to 5, four in five pure, and noise that grows with a power of their norm."""
    random = np.random.default_rng(2)
    pure = random.random((80, 100, 1)) < 0.8
    abundances = np.where(pure, np.eye(K)[random.integers(K, size=(80, 100))], random.dirichlet([3.0, 3.0], (80, 100)))
    signal = np.exp(random.uniform(np.log(0.2), np.log(5), (80, 100, 1))) * (abundances @ endmembers)
    noise = 0.02 * np.linalg.norm(signal, axis=-1, keepdims=True)**power * random.standard_normal(signal.shape)
    return pu.Scene(signal + noise, abundances=abundances)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_intervals_of_a_cut_hold_in_bright_pixels_as_in_dark(fits, scene, power, monkeypatch):
    """The share of truth that they hold differs by .1 at most between the darkest and the brightest third of mixed pixels, its
    standard deviation being .03. Negative control: residuals taken as they are."""
    fit, endmembers = copy.deepcopy(fits["cut"]), torch.as_tensor(scene.reference.endmembers.values).float()
    fit.guide.endmembers.mean.copy_(endmembers)
    fit.guide.endmembers.shift.data.zero_()
    fit.guide.brightness = torch.nn.Identity()  # it is modelled
    made = growing(endmembers.numpy(), power)
    truth, norm = (torch.as_tensor(each).flatten() for each in
                   (made.reference.abundances.values[..., 0], np.linalg.norm(made.reflectance.values, axis=-1)))
    mixed = torch.where((truth > 0) & (truth < 1))[0]
    mixed = mixed[norm[mixed].argsort()]

    def cut():
        """Power of the brightness, and share of truth held in the darkest and the brightest third."""
        torch.manual_seed(1)
        source = ways.Cut(fit, made, 3, 300)
        source.endmembers = endmembers.repeat(3, 1, 1)
        draws = source.draw(pu.whole(made), 300).abundances[:, mixed, 0]
        low, high = draws.quantile(torch.tensor([0.05, 0.95]), dim=0)
        inside = ((low <= truth[mixed]) & (truth[mixed] <= high)).double()
        return source.power, inside[: len(mixed) // 3].mean(), inside[-len(mixed) // 3 :].mean()

    found, dark, bright = cut()
    assert abs(found - power) < 0.05 and abs(dark - bright) < 0.1
    monkeypatch.setattr(ways, "_growth", lambda residuals, norms: 0.0)
    _, dark, bright = cut()
    assert power == 0 or dark - bright > 0.2


@pytest.mark.parametrize(("power", "expected"), [(-0.5, 0.0), (0.0, 0.0), (0.6, 0.6), (1.5, 1.0)])
def test_growth_of_residuals_is_found_among_strange_pixels(power, expected):
    """To .15, where one pixel in ten is strange: dark, with a residual 100 times as large. A line through all is far off."""
    torch.manual_seed(3)
    norms = torch.randn(1000).exp()
    residuals = 0.02 * norms[:, None] ** power * torch.randn(1000, L)
    residuals[norms.argsort()[:200:2]] *= 100
    assert abs(ways._growth(residuals, norms) - expected) < 0.15
    assert np.polyfit(norms.log(), residuals.norm(dim=1).log(), 1)[0] < power - 0.4


@pytest.mark.parametrize(("residuals", "norms"), [(torch.zeros(50, L), torch.linspace(1, 2, 50)),
                                                  (torch.randn(50, L), torch.ones(50))])
def test_residuals_do_not_grow_where_there_are_none_or_all_is_as_bright(residuals, norms):
    assert ways._growth(residuals, norms) == 0.0


def test_draws_are_on_the_simplex_and_nan_outside_the_mask(refined, scene):
    draws, use = refined.draws(11, seed=2), scene.mask.values
    assert dict(draws.sizes) == {"draw": 11, "y": 10, "x": 9, "endmember": K, "wavelength": L}
    inside = draws.abundances.values[:, use].astype(float)
    np.testing.assert_allclose(inside.sum(axis=-1), 1.0, rtol=0, atol=1e-6)
    assert inside.min() >= 0 and np.isnan(draws.abundances.values[:, ~use]).all()
    summary = refined.summary()
    np.testing.assert_allclose(summary.abundance_mean.values[use].astype(float).sum(axis=-1), 1.0, rtol=0, atol=1e-6)
    for name in summary:
        if "y" in summary[name].dims:
            np.testing.assert_array_equal(summary[name].isnull(), ~scene.mask.broadcast_like(summary[name]), err_msg=name)


def test_draws_are_joint(fits, scene):
    """Where endmembers differ from draw to draw, those a draw brings along fit its abundances: others leave larger residuals."""
    shared = known(scene, 5)
    factors = torch.tensor([0.8, 0.9, 1.0, 1.1, 1.2], dtype=torch.float64)
    shared = Shared(factors[:, None, None] * shared.endmembers, shared.noise_scale, shared.concentration, None)
    draws = pu.refine(replace(fits["exact"], shared=shared), scene, shared_draws=5, draws=50, progress=False).draws(20)
    np.testing.assert_array_equal(draws.endmembers, shared.endmembers.repeat_interleave(4, dim=0))

    def residual(endmembers):
        error = scene.reflectance.values - np.einsum("dyxk,dkl->dyxl", draws.abundances, endmembers)
        return np.nanmean(error**2)

    assert residual(draws.endmembers.values) < 0.9 * residual(draws.endmembers.values[::-1])


def test_same_seed_same_result(fits, scene, refined, method):
    again, other = (pu.refine(fits[method], scene, shared_draws=7, draws=70, seed=seed, progress=False) for seed in (3, 4))
    again.draws(3)  # what was asked before does not matter
    xr.testing.assert_identical(again.summary(), refined.summary())
    xr.testing.assert_identical(again.draws(5, seed=1), refined.draws(5, seed=1))
    part = refined.draws(5, seed=1, y=slice(1, 3), x=slice(2, 6))
    xr.testing.assert_identical(part, refined.draws(5, seed=1).isel(y=slice(1, 3), x=slice(2, 6)))
    assert not other.summary().equals(refined.summary())


def test_tiles_do_not_matter(refined, scene, method, monkeypatch):
    """Means of 70 draws differ by less than six standard errors of their difference."""
    whole = refined.summary()
    monkeypatch.setattr(DrawnSource, "tile", 4)
    tiled = refined.summary()
    error = abs(tiled.abundance_mean - whole.abundance_mean).values[scene.mask.values]
    assert (error < 6 * (2 / 35) ** 0.5 * whole.abundance_sd.values[scene.mask.values] + 1e-3).all() and error.max() > 0


def test_errors_of_a_region_do_not_average_out(fits, scene):
    """The mean over all pixels is known worse than independent errors would let it be: 20 shared draws tell a factor of 1.5."""
    refined = pu.refine(fits["exact"], scene, draws=100, progress=False)
    everywhere = np.ones(scene.shape[:2], bool)
    found, summary = refined.region_mean(everywhere, draws=200), refined.summary()
    assert found.attrs["pixels"] == scene.n_pixels and found.endmember.values.tolist() == ["oak", "soil"]
    independent = np.sqrt((summary.abundance_sd**2).sum(("y", "x"))) / scene.n_pixels
    assert (found.abundance_sd > 1.5 * independent).all()
    np.testing.assert_allclose(found.abundance_mean, summary.abundance_mean.mean(("y", "x")), atol=0.01)
    assert found.abundance_quantile.dims == ("quantile", "endmember")
    assert (found.abundance_quantile.diff("quantile") >= 0).all()
    one = np.zeros_like(everywhere)
    one[5, 5] = True
    alone = refined.region_mean(xr.DataArray(one, dims=("y", "x")), draws=400)
    np.testing.assert_allclose(alone.abundance_sd, summary.abundance_sd[5, 5], rtol=0.3)


def test_a_region_has_to_be_one(fits, scene):
    refined = pu.refine(fits["cut"], scene, shared_draws=3, draws=9, progress=False)
    hole = np.zeros(scene.shape[:2], bool)
    hole[2, 3] = True
    for region, complaint in ((hole, "a pixel in use"), (hole[:-1], "shape"), (hole.astype(int), "True and False")):
        with pytest.raises(pu.InputError, match=complaint):
            refined.region_mean(region)
    with pytest.raises(pu.InputError, match="at least one draw"):
        refined.region_mean(~hole, draws=0)
    with pytest.raises(pu.InputError, match="pixels err together"):
        pu.refine(fits["re-weighted"], scene, shared_draws=3, draws=9, progress=False).region_mean(~hole)


def test_a_refined_posterior_answers_as_any(refined):
    assert refined.exceedance(0.5).shape == (10, 9, K)
    np.testing.assert_allclose(refined.exceedance(0.5).sum("endmember", skipna=False).values[0, 0], 1.0, atol=1e-6)
    np.testing.assert_allclose(refined.correlation(0, 0), [[1, -1], [-1, 1]], atol=1e-6)
    assert len(refined.most_uncertain(3)) == 3
    assert refined.findings()[-1].name in ("trusted", "best effort")
    assert set(refined.draws(4).attrs) > {"refined", "draw_seed"}


def test_an_uncalibrated_guide_matters_only_to_those_who_use_it(fits, scene):
    for method, fit in fits.items():
        fit = copy.copy(fit)
        fit.calibrated = False
        found = pu.refine(fit, scene, shared_draws=3, draws=9, progress=False).findings()
        assert ("not calibrated" in [each.name for each in found]) == (method == "re-weighted")


def test_brightness_is_drawn_where_it_is_modelled(holed_scene):
    prior = informed_endmembers(holed_scene.reference.endmembers.values, holed_scene, 3)
    model = pu.UnmixingModel(3, endmembers=prior, brightness="pixel")
    fitted = pu.fit(model, holed_scene, guide="mlp", config=CONFIG, progress=False)
    truth = holed_scene.reflectance.values.mean(axis=-1)
    own = pu.Fit(fitted.model.replace(endmembers=fitted.model.endmembers, brightness=fitted.model.brightness,
                                      noise=fitted.model.noise, evidence=0.0, abundances=lambda k: dist.Dirichlet(torch.ones(k))),
                 fitted.guide)
    structured = copy.deepcopy(fitted)
    structured.guide.denoise = None
    structured.guide.joint.fill_(False)
    for fit, method in zip((fitted, structured, own), METHODS, strict=True):
        refined = pu.refine(fit, holed_scene, shared_draws=3, draws=30, progress=False)
        assert refined.method == method
        brightness = refined.draws(9).brightness.mean("draw").values[holed_scene.mask.values]
        assert np.corrcoef(brightness, truth[holed_scene.mask.values])[0, 1] > 0.3
        assert refined.summary().brightness_mean.notnull().sum() == holed_scene.n_pixels


@pytest.mark.parametrize("options", [{"shared_draws": 1}, {"shared_draws": 20, "draws": 19}, {"seed": -1}])
def test_broken_input(fits, scene, options):
    with pytest.raises(pu.InputError):
        pu.refine(fits["cut"], scene, progress=False, **options)


def test_another_scene_of_other_bands_is_refused(fits, scene):
    with pytest.raises(pu.InputError, match="the 16 bands"):
        pu.refine(fits["exact"], pu.Scene(scene.reflectance[..., :-1]), progress=False)


def test_draws_of_the_fit_are_used_and_others_made_where_they_are_too_few(fits, scene, monkeypatch):
    """Seven of those the fit has made, in their order; more than it has made are sampled anew."""
    fit, sampled = fits["exact"], []
    monkeypatch.setattr(ways, "draw_shared", lambda *args, n_draws, **options: sampled.append(n_draws) or known(scene, n_draws))
    found = pu.refine(fit, scene, shared_draws=7, draws=70, progress=False).draws(7).endmembers
    assert sampled == []
    np.testing.assert_array_equal(found, fit.shared.endmembers[[0, 5, 11, 17, 22, 28, 34]])
    pu.refine(fit, scene, shared_draws=41, draws=41, progress=False)
    pu.refine(replace(fit, shared=None), scene, shared_draws=3, draws=9, progress=False)
    assert sampled == [41, 3]

"""Endmembers that vary: densities against dense ones, factors from bundles, and that a model that knows of them is better."""

from __future__ import annotations

import json
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_unmix as pu
from pyro_unmix.components import describe, restore
from pyro_unmix.noise import DiagonalNoise, LowRankNoise, SmoothNoise, StudentNoise
from pyro_unmix.predictive import log_likelihood
from pyro_unmix.tiles import whole
from pyro_unmix.variability import EndmemberBrightness, LowRankVariability, VariedNormal

K, R, L = 3, 2, 12
CONFIG = pu.FitConfig(svi_steps=60, calibration_steps=60, sampling_steps=100, kl_warmup_steps=10, device="cpu")
NOISES = {"diagonal": DiagonalNoise(0.02), "smooth": SmoothNoise(0.02), "low rank": LowRankNoise(0.02, 0.5 * np.ones((1, L)))}


def given(seed=0):
    random = np.random.default_rng(seed)
    endmembers = torch.as_tensor(random.uniform(0.1, 0.9, (K, L)))
    return endmembers, LowRankVariability(0.1 * random.standard_normal((K, R, L)))


def dense(variability, amounts, endmembers, noise_cholesky):
    """The covariance of one spectrum written out."""
    factors = variability.factors(endmembers)
    noise = noise_cholesky.square().diag() if noise_cholesky.ndim == 1 else noise_cholesky @ noise_cholesky.T
    return noise + sum(amounts[k] ** 2 * factors[k].T @ factors[k] for k in range(len(factors)))


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize("kind", ["low rank", "brightness"])
def test_a_pixel_has_the_covariance_of_its_own_abundances(kind, noise):
    endmembers, variability = given()
    if kind == "brightness":
        variability = EndmemberBrightness([0.1, 0.2, 0.3])
    amounts = 1.2 * torch.distributions.Dirichlet(torch.ones(K, dtype=torch.float64)).sample((5,))
    scale = 0.02 + 0.02 * torch.rand(L, dtype=torch.float64)
    cholesky, mean = noise.cholesky(scale), amounts @ endmembers
    made = variability.likelihood(mean, amounts, endmembers, cholesky)
    assert made.batch_shape == (5,) and made.event_shape == (L,)
    spectra = made.sample()
    covariances = torch.stack([dense(variability, each, endmembers, cholesky) for each in amounts])
    exact = dist.MultivariateNormal(mean, covariances).log_prob(spectra)
    torch.testing.assert_close(made.log_prob(spectra), exact, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(variability.log_prob(spectra, amounts, endmembers, cholesky), exact, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(made.variance, covariances.diagonal(dim1=1, dim2=2))
    if cholesky.ndim == 1:
        factors = (amounts[:, :, None, None] * variability.factors(endmembers)).flatten(1, 2).mT
        torch.testing.assert_close(dist.LowRankMultivariateNormal(mean, factors, cholesky.square()).log_prob(spectra), exact)
    many = variability.log_prob(spectra, torch.stack([amounts, amounts.flip(0)]), endmembers, cholesky)
    torch.testing.assert_close(many[0], exact)
    assert many.shape == (2, 5) and (many[1] != exact).any()


def test_draws_have_the_covariance_that_is_claimed():
    """20,000 draws: each of 144 covariances within five standard errors."""
    endmembers, variability = given()
    amounts = torch.tensor([0.6, 0.3, 0.1]).double()
    claimed = dense(variability, amounts, endmembers, torch.full((L,), 0.05).double())
    made = variability.likelihood((amounts @ endmembers).expand(20_000, L), amounts.expand(20_000, K), endmembers,
                                  torch.full((L,), 0.05).double())
    found = torch.cov(made.sample().T)
    error = ((claimed.square() + torch.outer(claimed.diagonal(), claimed.diagonal())) / 20_000).sqrt()
    assert ((found - claimed).abs() < 5 * error).all()
    other = dense(variability, amounts.flip(0), endmembers, torch.full((L,), 0.05).double())
    assert not ((found - other).abs() < 5 * error).all()


def test_the_brightness_of_an_endmember_is_rank_one_along_it():
    endmembers, _ = given()
    factors = EndmemberBrightness([0.1, 0.2, 0.3]).factors(endmembers)
    torch.testing.assert_close(factors[:, 0], torch.tensor([[0.1], [0.2], [0.3]]).double() * endmembers)
    torch.testing.assert_close(EndmemberBrightness(0.2).factors(endmembers)[:, 0], 0.2 * endmembers, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("library", [True, False])
def test_factors_come_from_a_bundle(library):
    """Of full rank they are the sample covariance; of less, its leading part; a bundle of few spectra is filled with zeros."""
    random = np.random.default_rng(0)
    bundle = [random.uniform(0, 1, (count, L)).astype(np.float32) for count in (20, 9, 2)]
    names = ["soil"] * 20 + ["tree"] * 9 + ["water"] * 2
    order = [2, 0, 1]
    if library:
        shelf = pu.SpectralLibrary(np.concatenate(bundle), names)
        found = LowRankVariability.from_bundle(shelf, ["water", "soil", "tree"], rank=L)
        torch.testing.assert_close(LowRankVariability.from_bundle(shelf, rank=L).loadings[[2, 0, 1]], found.loadings)
    else:
        found = LowRankVariability.from_bundle([bundle[each] for each in order], rank=L)
    for factors, number in zip(found.loadings, order, strict=True):
        np.testing.assert_allclose(factors.T @ factors, np.cov(bundle[number].T), rtol=1e-3, atol=1e-5)
    assert (found.loadings[0, 1:] == 0).all() and (found.loadings[0, 0] != 0).any()
    few = LowRankVariability.from_bundle(bundle, rank=1).loadings
    assert few.shape == (3, 1, L)
    values = np.linalg.eigvalsh(np.cov(bundle[0].T))
    np.testing.assert_allclose(few[0].square().sum(), values[-1], rtol=1e-4)


def test_a_real_bundle(real_data):
    with np.load(real_data / "bundle_samson.npz") as file:
        shelf = pu.SpectralLibrary(file["spectra"], file["names"][file["label"]], file["wavelengths"])
    found = LowRankVariability.from_bundle(shelf, ["Soil", "Tree", "Water"], rank=3)
    spectra = shelf.spectra[[name == "Tree" for name in shelf.names]]
    share = float(found.loadings[1].square().sum()) / spectra.var(axis=0, ddof=1).sum()
    assert found.loadings.shape == (3, 3, 156) and 0.9 < share <= 1.0


def test_the_endmembers_of_a_pixel_are_those_of_the_joint_normal():
    """Mean and variance given a spectrum, from the joint covariance of endmembers and spectrum written out."""
    endmembers, variability = given()
    amounts, scale = torch.tensor([0.7, 0.3, 0.0]).double(), torch.full((L,), 0.05).double()
    pixel = amounts @ endmembers + 0.1 * torch.randn(L).double()
    mean, variance = variability.of_pixel(pixel, amounts, endmembers, scale)
    inverse = torch.linalg.inv(dense(variability, amounts, endmembers, scale))
    for k, factors in enumerate(variability.factors(endmembers)):
        own = factors.T @ factors
        gain = amounts[k] * own @ inverse
        torch.testing.assert_close(mean[k], endmembers[k] + gain @ (pixel - amounts @ endmembers))
        torch.testing.assert_close(variance[k], (own - amounts[k] * gain @ own).diagonal())
    torch.testing.assert_close(mean[2], endmembers[2])  # a pixel says nothing of what it does not hold


def test_noise_is_told_from_variability():
    """2,000 pixels, standard deviations within 12 %: in a band that varies five times as much they are known to 3 %."""
    endmembers, variability = given()
    amounts = torch.distributions.Dirichlet(torch.ones(K, dtype=torch.float64)).sample((2000,))
    truth = torch.linspace(0.02, 0.05, L).double()
    residual = variability.likelihood(torch.zeros(2000, L).double(), amounts, endmembers, truth).sample()
    found = variability.noise_beside(residual.numpy(), amounts.numpy(), endmembers.numpy(), 1e-6)
    np.testing.assert_allclose(found, truth, rtol=0.12)
    assert (residual.std(dim=0) > 1.2 * truth).all()


@pytest.mark.parametrize("part", [EndmemberBrightness(0.2), EndmemberBrightness([0.1, 0.2, 0.3])], ids=["one", "each"])
def test_settings_make_the_same_part_again(part):
    again = restore(json.loads(json.dumps(describe(part))))
    assert type(again) is type(part) and torch.equal(again.sd, part.sd)


def test_without_variability_nothing_changes(fit_scene, fit_model):
    model = fit_model.replace(noise=DiagonalNoise(0.02), brightness=pu.noise.PixelBrightness(0.2), evidence=1.0)
    none = model.replace(variability=LowRankVariability(np.zeros((K, 1, L))))
    traces = [pyro.poutine.trace(model).get_trace(whole(fit_scene))]
    traces.append(pyro.poutine.trace(pyro.poutine.replay(none, trace=traces[0])).get_trace(whole(fit_scene)))
    for trace in traces:
        trace.compute_log_prob()
    one, other = (trace.nodes["reflectance"]["log_prob"] for trace in traces)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-2)
    assert model.least_squares_is_mode and not none.least_squares_is_mode


def test_both_ways_to_a_density_agree(fit_scene, fit_model):
    model = fit_model.replace(noise=DiagonalNoise(0.02), brightness=pu.noise.PixelBrightness(0.2), evidence=1.0,
                              variability=EndmemberBrightness(0.2))
    endmembers = torch.as_tensor(fit_scene.reference.endmembers.values, dtype=torch.float64)
    pixels = torch.as_tensor(fit_scene.pixels()[:20], dtype=torch.float64)
    abundances = torch.distributions.Dirichlet(torch.ones(K, dtype=torch.float64)).sample((6, 20))
    brightness, scale = torch.rand(6, 20).double() + 0.5, torch.full((L,), 0.02).double()
    fast = log_likelihood(model, pixels, endmembers, scale, abundances, brightness)
    mean = model.mean(abundances, endmembers, brightness)
    torch.testing.assert_close(fast, model.likelihood(mean, abundances, endmembers, brightness, scale).log_prob(pixels))


@pytest.mark.parametrize("make, complaint", [
    (lambda: LowRankVariability(np.ones((3, L))), r"finite factors \(n_endmembers, rank, n_bands\)"),
    (lambda: LowRankVariability(np.full((3, 1, L), math.nan)), "finite factors"),
    (lambda: LowRankVariability(np.ones((3, 0, L))), "finite factors"),
    (lambda: LowRankVariability.from_bundle([np.ones((5, L)), np.ones((1, L))]), "of each material two spectra or more"),
    (lambda: LowRankVariability.from_bundle([np.ones((5, L)), np.ones((5, 4))]), "on the same bands"),
    (lambda: LowRankVariability.from_bundle([np.ones((5, L))], rank=0), "a rank of 1 or more"),
    (lambda: LowRankVariability.from_bundle(pu.SpectralLibrary(np.eye(4, L), ["a"] * 4), ["a", "b"]), "two spectra"),
    (lambda: EndmemberBrightness(0.0), "standard deviations between 0 and 1"), (lambda: EndmemberBrightness([0.1, 1.0]), "b"),
    (lambda: EndmemberBrightness(math.nan), "between 0 and 1"),
    (lambda: EndmemberBrightness([0.1, 0.2]).factors(torch.ones(3, L)), "3 standard deviations, one an endmember, got 2"),
    (lambda: LowRankVariability(np.ones((3, 1, 5))).factors(torch.ones(3, L)), "factors of 3 endmembers and 12 bands"),
    (lambda: pu.UnmixingModel(3, variability=EndmemberBrightness(), noise=StudentNoise()), "noise of a known cov"),
    (lambda: pu.UnmixingModel(3, variability=EndmemberBrightness(), mixing=torch.nn.Identity()), "with linear mixing"),
    (lambda: pu.UnmixingModel(3, variability="pixel"), "variability as a Variability"),
])
def test_what_makes_no_sense_is_refused(make, complaint):
    with pytest.raises(pu.InputError, match=complaint):
        make()


@pytest.fixture(scope="module")
def scene():
    """12 x 12 pixels of 30 bands, simulated from the model."""
    made = pu.simulate_scene(3, (12, 12), n_bands=30, correlation_length=0.0, seed=2)
    abundances, endmembers = made.reference.abundances.values, made.reference.endmembers.values
    model = model_of(made, variability=EndmemberBrightness(0.15), noise=DiagonalNoise(0.005))
    torch.manual_seed(0)
    spectra = model.generate(abundances.reshape(-1, 3), 30, endmembers=endmembers, noise_scale=0.005)
    return pu.Scene(spectra.numpy().reshape(12, 12, 30), wavelengths=made.wavelengths, abundances=abundances,
                    endmembers=endmembers)


def model_of(scene, **parts):
    prior = pu.priors.MVNEndmembers(scene.reference.endmembers.values, pu.priors.smooth_scale_tril(scene.wavelengths, 30, 0.002))
    return pu.UnmixingModel(3, endmembers=prior, brightness="none", evidence=1.0, **parts)


@pytest.fixture(scope="module")
def fits(scene):
    return {name: pu.fit(model_of(scene, variability=part), scene, guide="mlp", config=CONFIG, progress=False)
            for name, part in (("plain", None), ("varies", EndmemberBrightness(0.15)))}


def test_what_varies_is_not_taken_for_abundance(fits, scene):
    truth, error = scene.reference.abundances.values, {}
    for name, fit in fits.items():
        refined = pu.refine(fit, scene, progress=False)
        summary = refined.summary()
        mean = summary.abundance_mean.values
        assert np.isfinite(mean).all() and (mean >= 0).all() and abs(mean.sum(-1) - 1).max() < 1e-6
        error[name] = np.sqrt(np.mean((mean - truth) ** 2))
    assert error["varies"] < 0.85 * error["plain"]
    assert refined.method == "re-weighted" and summary.attrs["intervals"] == "best effort"
    assert fits["varies"].guide.noise.loc.exp().median() < 0.8 * fits["plain"].guide.noise.loc.exp().median()
    with pytest.raises(pu.InputError, match="endmembers that vary"):
        refined.checks()


def test_a_ribbon_follows_the_pixel(fits, scene):
    """Where a pixel is nearly pure its endmember is known as well as the spectrum: brighter pixels have brighter ones."""
    purest = np.argsort(-scene.reference.abundances.values[..., 0], axis=None)[:6]
    posterior = fits["varies"].posterior(scene)
    spectrum, found = [], []
    for y, x in zip(*np.unravel_index(purest, (12, 12)), strict=True):
        ribbon = posterior.pixel_endmembers(int(y), int(x), draws=50)
        assert ribbon.endmember_mean.dims == ("endmember", "wavelength") and (ribbon.endmember_sd > 0).all()
        spectrum.append(scene.reflectance.values[y, x].sum())
        found.append(ribbon.endmember_mean.values[0].sum())
    assert np.corrcoef(spectrum, found)[0, 1] > 0.8
    ratio = ribbon.endmember_sd.values / scene.reference.endmembers.values
    assert np.median(ratio[0]) < 0.7 * np.median(ratio[1:])
    with pytest.raises(pu.InputError, match="a model whose endmembers vary"):
        fits["plain"].posterior(scene).pixel_endmembers(0, 0)
    with pytest.raises(pu.InputError, match="a pixel in use, of 12 rows"):
        posterior.pixel_endmembers(12, 0)


def test_a_run_folder_keeps_it(fits, scene, tmp_path):
    fit = fits["varies"]
    for name, part in (("a", fit.model.variability), ("b", LowRankVariability(np.full((3, 2, 30), 0.01)))):
        fit.model.variability = part
        pu.save_run(tmp_path / name, fit, fit.posterior(scene))
        again = pu.load_fit(tmp_path / name)
        assert type(again.model.variability) is type(part)
        groups = ["posterior_predictive", "log_likelihood"]
        one, other = (each.posterior(scene).to_arviz(5, groups=groups) for each in (fit, again))
        for group in groups:
            np.testing.assert_array_equal(one[group].reflectance, other[group].reflectance)


def test_expanding_keeps_what_each_spectrum_has():
    made = VariedNormal(torch.zeros(L), torch.ones(2), 0.1 * torch.ones(2, L), torch.ones(L)).expand(torch.Size([4]))
    assert made.sample().shape == (4, L) and made.log_prob(torch.zeros(4, L)).shape == (4,)
    assert made.sample(torch.Size([3])).shape == (3, 4, L)

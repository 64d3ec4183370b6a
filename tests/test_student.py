"""Noise of heavy tails: densities, what is measured of it, and that outliers do less harm than under normal noise."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pyro
import pytest
import torch
from pyro.distributions.testing import gof
from scipy import integrate, stats

import pyro_unmix as pu
from pyro_unmix.least_squares import constrained, pulled_in
from pyro_unmix.noise import DiagonalNoise, PixelScaleNoise, StudentNoise
from pyro_unmix.predictive import log_likelihood
from pyro_unmix.tiles import whole

KINDS = {"student": StudentNoise, "pixel scale": PixelScaleNoise}
SCALE = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
CONFIG = pu.FitConfig(svi_steps=40, calibration_steps=60, sampling_steps=100, kl_warmup_steps=10, device="cpu")
both = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@pytest.mark.parametrize("degrees", [1.0, 4.0, 30.0])
def test_the_density_of_a_pixel_is_the_multivariate_t(degrees):
    mean, spectra = torch.rand(5, 4, dtype=torch.float64), torch.rand(5, 4, dtype=torch.float64)
    made = PixelScaleNoise(0.1, degrees).likelihood(mean, SCALE)
    assert made.batch_shape == (5,) and made.event_shape == (4,)
    exact = [stats.multivariate_t(m, np.diag(SCALE.numpy() ** 2), df=degrees).logpdf(y)
             for m, y in zip(mean.numpy(), spectra.numpy(), strict=True)]
    np.testing.assert_allclose(made.log_prob(spectra), exact, rtol=1e-6)
    independent = StudentNoise(0.1, degrees).likelihood(mean, SCALE)
    expected = stats.t.logpdf(spectra, degrees, mean, SCALE).sum(axis=1)
    np.testing.assert_allclose(independent.log_prob(spectra), expected, rtol=1e-6)


def test_a_factor_for_every_pixel_integrated_out_is_that_density():
    """By numerical integration over the factor, of all bands together; of each band by itself for independent noise."""
    mean, spectrum, degrees = np.full(4, 0.2), np.array([0.3, -0.4, 0.9, 0.2]), 3.0
    sd = SCALE.numpy()

    def over_factor(bands):
        def density(g):
            normal = stats.norm.pdf(spectrum[bands], mean[bands], sd[bands] / math.sqrt(g)).prod()
            return normal * stats.gamma.pdf(g, degrees / 2, scale=2 / degrees)

        return math.log(integrate.quad(density, 0, np.inf)[0])

    at = torch.tensor(mean), torch.tensor(spectrum)
    np.testing.assert_allclose(PixelScaleNoise(0.1, degrees).likelihood(at[0], SCALE).log_prob(at[1]), over_factor(slice(None)),
                               rtol=1e-5)
    np.testing.assert_allclose(StudentNoise(0.1, degrees).likelihood(at[0], SCALE).log_prob(at[1]),
                               sum(over_factor([band]) for band in range(4)), rtol=1e-5)


@both
def test_draws_follow_the_density(kind):
    """The median and the sd of 20,000 draws; goodness of fit fails one right sampler in a thousand."""
    made = kind(0.1, 5.0).likelihood(torch.zeros(20_000, 2, dtype=torch.float64), SCALE[:2])
    draws = made.sample()
    # Standard deviations of t with 5 degrees are known to 1.4 % from so many.
    torch.testing.assert_close(draws.std(dim=0), (5 / 3) ** 0.5 * SCALE[:2], rtol=0.06, atol=0.0)
    torch.testing.assert_close(made.variance[0], 5 / 3 * SCALE[:2].square())
    log_prob = torch.distributions.StudentT(5.0, scale=SCALE[:1]).log_prob(draws[:, :1])[:, 0]
    assert gof.auto_goodness_of_fit(draws[:, :1], log_prob.exp()) > 1e-3
    squares = (draws / SCALE[:2]).square()
    together = np.corrcoef(squares.log().numpy().T)[0, 1]
    # A factor that bands share makes the sizes of their residuals correlate: by 0.07 here, known to 0.007.
    assert abs(together) < 0.028 if kind is StudentNoise else together > 0.035


@both
def test_few_degrees_are_heavy_and_many_are_normal(kind):
    mean = torch.zeros(1, 4, dtype=torch.float64)
    far = 8 * SCALE[None]
    normal = DiagonalNoise(0.1).likelihood(mean, SCALE)
    assert kind(0.1, 3.0).likelihood(mean, SCALE).log_prob(far) > normal.log_prob(far) + 50
    near = 0.5 * SCALE[None]
    torch.testing.assert_close(kind(0.1, 1e6).likelihood(mean, SCALE).log_prob(near), normal.log_prob(near), rtol=1e-3, atol=0.0)


@both
@pytest.mark.parametrize("degrees", [2.0, 5.0])
def test_scale_and_degrees_are_measured(kind, degrees):
    """From 3000 pixels of 4 bands. The estimate of degrees has a standard error of some 6 %, that of a scale of 2 %."""
    residual = kind(0.1, degrees).likelihood(torch.zeros(3000, 4, dtype=torch.float64), SCALE).sample().numpy()
    found = kind().measured(residual, floor=1e-5)
    assert type(found) is kind and found.settings["floor"] == 1e-5
    np.testing.assert_allclose(found.settings["degrees_of_freedom"], degrees, rtol=0.25)
    np.testing.assert_allclose(found.degrees_of_freedom, found.settings["degrees_of_freedom"], rtol=1e-6)
    np.testing.assert_allclose(found.scale, SCALE, rtol=0.1)
    given = kind(degrees_of_freedom=degrees).measured(residual, floor=1e-5)
    assert given.settings["degrees_of_freedom"] == degrees
    np.testing.assert_allclose(given.scale, SCALE, rtol=0.1)


@both
def test_normal_residuals_have_many_degrees_and_dead_bands_a_floor(kind):
    residual = np.random.default_rng(0).standard_normal((2000, 6)) * np.array([1.0, 2.0, 1.0, 1.0, 1.0, 0.0])
    found = kind().measured(residual[:, :5], floor=1e-3)
    assert found.settings["degrees_of_freedom"] > 40
    np.testing.assert_allclose(found.scale, [1, 2, 1, 1, 1], rtol=0.1)
    assert kind().measured(residual, floor=1e-3).scale[5] == pytest.approx(1e-3)


def test_a_pixel_costs_as_many_numbers_as_endmembers(fit_scene, fit_model):
    """The way that does not depend on the number of bands against the density band by band."""
    model = fit_model.replace(noise=PixelScaleNoise(0.02, 3.0), brightness="none", evidence=1.0)
    endmembers = torch.as_tensor(fit_scene.reference.endmembers.values, dtype=torch.float64)
    pixels = torch.as_tensor(fit_scene.pixels()[:20], dtype=torch.float64)
    abundances = torch.distributions.Dirichlet(torch.ones(3, dtype=torch.float64)).sample((6, 20))
    scale = 0.01 + 0.02 * torch.rand(12, dtype=torch.float64)
    fast = log_likelihood(model, pixels, endmembers, scale, abundances, None)
    slow = model.noise.likelihood(abundances @ endmembers, scale).log_prob(pixels)
    torch.testing.assert_close(fast, slow, rtol=1e-6, atol=1e-6)


@both
def test_it_is_copied_and_read_back(kind):
    noise = kind().measured(np.random.default_rng(0).standard_t(3.0, (200, 4)), floor=1e-4)
    again = kind(**json.loads(json.dumps(noise.settings)) | {"scale": 1.0})
    again.scale = torch.empty_like(noise.scale)
    again.load_state_dict(noise.state_dict())
    mean, scale = torch.rand(5, 4), torch.rand(4) + 0.1
    for other in (copy.deepcopy(noise), again):
        assert other.settings == noise.settings
        torch.testing.assert_close(other.likelihood(mean, scale).log_prob(mean + 0.1),
                                   noise.likelihood(mean, scale).log_prob(mean + 0.1), rtol=0.0, atol=0.0)


@both
def test_it_is_a_part_of_the_model(kind, fit_scene, fit_model):
    model = fit_model.replace(noise=kind(0.02, 4.0), brightness="none", evidence=1.0)
    scale = torch.full((12,), 0.02, requires_grad=True)
    trace = pyro.poutine.trace(pyro.condition(model, {"noise_scale": scale})).get_trace(whole(fit_scene))
    trace.log_prob_sum().backward()
    assert scale.grad.isfinite().all() and (scale.grad != 0).all()


@both
@pytest.mark.parametrize("settings, complaint", [
    ({"degrees_of_freedom": 0.0}, "positive, finite degrees_of_freedom"), ({"degrees_of_freedom": -1.0}, "got -1"),
    ({"degrees_of_freedom": math.nan}, "positive, finite"), ({"degrees_of_freedom": math.inf}, "positive, finite"),
    ({"scale": 0.1}, "degrees_of_freedom with a scale, got none; leave both open"),
    ({"scale": -0.1, "degrees_of_freedom": 3.0}, "positive noise scales"), ({"floor": 0.0}, "positive floor"),
])
def test_settings_that_make_no_sense_are_refused(kind, settings, complaint):
    with pytest.raises(pu.InputError, match=complaint):
        kind(**settings)


def test_pulled_in_least_squares_are_the_most_probable_abundances():
    """Against a search of the density on a grid, two endmembers."""
    endmembers = torch.stack([0.3 + 0.2 * torch.linspace(0, 1, 12), 0.5 - 0.3 * torch.linspace(0, 1, 12)]).double()
    truth = torch.tensor([[0.3, 0.7], [0.6, 0.4], [0.0, 1.0]]).double()
    scale = torch.full((12,), 0.02).double()
    pixels = StudentNoise(0.02, 2.0).likelihood(truth @ endmembers, scale).sample()
    pixels[:, 3] += 1.0  # a reading that is far off
    near = pulled_in(pixels, endmembers, scale, torch.tensor(2.0).double(), False)
    found = constrained(near, endmembers, False)[0]
    share = torch.linspace(0, 1, 10_001).double()
    cells = torch.stack([share, 1 - share], dim=1)
    best = StudentNoise(0.02, 2.0).likelihood((cells @ endmembers)[:, None], scale).log_prob(pixels).argmax(dim=0)
    torch.testing.assert_close(found[:, 0], share[best], rtol=0.0, atol=0.01)
    plain = constrained(pixels, endmembers, False)[0]
    assert (plain - truth).abs().max() > 3 * (found - truth).abs().max()


def outliers(kind, seed=0):
    """12 x 12 pixels of 30 bands; of one in ten pixels, or readings, noise is ten times as large."""
    made = pu.simulate_scene(3, (12, 12), n_bands=30, snr_db=25.0, correlation_length=0.0, seed=seed)
    random = np.random.default_rng(seed)
    abundances, endmembers = made.reference.abundances.values, made.reference.endmembers.values
    off = random.random((12, 12, 1 if kind is PixelScaleNoise else 30)) < 0.1
    noise = 0.02 * np.where(off, 10.0, 1.0) * random.standard_normal((12, 12, 30))
    return pu.Scene(abundances @ endmembers + noise, wavelengths=made.wavelengths, abundances=abundances, endmembers=endmembers)


def fit_of(scene, noise):
    prior = pu.priors.MVNEndmembers(scene.reference.endmembers.values, pu.priors.smooth_scale_tril(scene.wavelengths, 30, 0.002))
    model = pu.UnmixingModel(3, endmembers=prior, brightness="none", noise=noise, evidence=1.0)
    return pu.fit(model, scene, guide="mlp", config=CONFIG, progress=False)


@both
def test_it_goes_all_the_way_and_outliers_do_less_harm(kind, tmp_path):
    scene = outliers(kind)
    truth = scene.reference.abundances.values
    error = {}
    for name, noise in (("normal", DiagonalNoise()), ("heavy", kind())):
        fit = fit_of(scene, noise)
        refined = pu.refine(fit, scene, progress=False)
        summary = refined.summary()
        mean = summary.abundance_mean.values
        assert np.isfinite(mean).all() and (mean >= 0).all() and abs(mean.sum(-1) - 1).max() < 1e-6
        error[name] = np.sqrt(np.mean((mean - truth) ** 2))
    assert error["heavy"] < error["normal"]
    low, *_, high = summary.abundance_quantile.values
    assert 0.83 < ((truth >= low) & (truth <= high)).mean() < 0.97  # of 432 numbers at .9: three standard errors are .043
    assert refined.method == "re-weighted" and summary.attrs["intervals"] == "best effort"
    with pytest.raises(pu.InputError, match="noise of a known covariance"):
        refined.checks()

    pu.save_run(tmp_path, fit, fit.posterior(scene))
    again = pu.load_fit(tmp_path)
    assert again.model.noise.settings == fit.model.noise.settings
    one, other = (each.posterior(scene).to_arviz(5, groups=["posterior_predictive", "log_likelihood"]) for each in (fit, again))
    for group in ("posterior_predictive", "log_likelihood"):
        np.testing.assert_array_equal(one[group].reflectance, other[group].reflectance)

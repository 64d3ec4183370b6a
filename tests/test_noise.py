"""How a spectrum departs from its mixture."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta
from pyro.optim import Adam
from scipy import stats

from pyro_unmix.errors import InputError
from pyro_unmix.model import UnmixingModel
from pyro_unmix.noise import DiagonalNoise, LowRankNoise, PixelBrightness, SmoothNoise
from pyro_unmix.priors import MVNEndmembers, smooth_scale_tril
from pyro_unmix.tiles import whole

WAVELENGTHS = np.array([400.0, 410.0, 425.0, 900.0, 890.0, 450.0])
NOISES = {
    "diagonal": lambda scale=None: DiagonalNoise(scale),
    "smooth": lambda scale=None: SmoothNoise(scale, 60.0, 0.8, WAVELENGTHS),
    "low rank": lambda scale=None: LowRankNoise(scale, np.linspace(-2.0, 1.0, 12).reshape(2, 6)),
}


def covariance(noise, noise_scale):
    factor = noise.cholesky(noise_scale)
    return factor @ factor.T if factor.ndim == 2 else factor.square().diag()


def test_brightness_is_log_normal_around_one():
    made = PixelBrightness(0.25).prior()
    assert made.batch_shape == made.event_shape == ()
    draws = made.sample(torch.Size([4000])).log()
    # Standard errors 0.004 and 0.003.
    assert abs(draws.mean()) < 0.016 and abs(draws.std() - 0.25) < 0.012
    values = torch.tensor([0.5, 1.0, 1.7])
    np.testing.assert_allclose(made.log_prob(values), stats.lognorm.logpdf(values.numpy(), 0.25), rtol=1e-5)


def test_an_open_scale_is_not_a_number():
    assert PixelBrightness().scale.isnan() and DiagonalNoise().scale.isnan()


@pytest.mark.parametrize("scale", [0.0, -0.1, 10.0, math.nan, math.inf])
def test_brightness_scales_that_make_no_sense_are_refused(scale):
    with pytest.raises(InputError, match="brightness scale between 0 and 10"):
        PixelBrightness(scale)


@pytest.mark.parametrize("make", [PixelBrightness, lambda **s: PixelBrightness(**({"scale": np.float32(0.25)} | s)),
                                  lambda **s: DiagonalNoise(**({"scale": 0.1, "spread": 0.5} | s))])
def test_settings_make_the_same_part_again(make):
    part = make()
    settings = json.loads(json.dumps(part.settings))
    again = type(part)(**settings)
    assert again.settings == part.settings
    again.load_state_dict(part.state_dict())
    torch.testing.assert_close(again.scale, part.scale, equal_nan=True)


def test_noise_has_a_log_normal_scale_in_every_band():
    scales = torch.tensor([0.01, 0.02, 0.04, 0.08])
    made = DiagonalNoise(scales, spread=0.5).prior(4)
    assert made.event_shape == (4,) and made.batch_shape == ()
    values = torch.tensor([0.01, 0.03, 0.03, 0.2])
    expected = stats.lognorm.logpdf(values.numpy(), 0.5, scale=scales.numpy()).sum()
    np.testing.assert_allclose(made.log_prob(values), expected, rtol=1e-5)


def test_one_scale_serves_all_bands():
    torch.testing.assert_close(DiagonalNoise(0.02).prior(3).log_prob(torch.full((3,), 0.01)),
                               DiagonalNoise([0.02] * 3).prior(3).log_prob(torch.full((3,), 0.01)))


def test_the_likelihood_is_independent_over_bands():
    mean, scale, spectra = torch.rand(5, 4), torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.rand(5, 4)
    made = DiagonalNoise(0.1).likelihood(mean, scale)
    assert made.batch_shape == (5,) and made.event_shape == (4,)
    expected = stats.norm.logpdf(spectra.numpy(), mean.numpy(), scale.numpy()).sum(axis=1)
    np.testing.assert_allclose(made.log_prob(spectra), expected, rtol=1e-4)


def test_the_floor_bounds_the_density():
    noise = DiagonalNoise(0.1, floor=0.01)
    made = noise.likelihood(torch.zeros(3), torch.tensor([0.0, 1e-30, 0.01]))
    np.testing.assert_allclose(made.variance.sqrt(), [0.01, 0.01, 0.01 * 2**0.5], rtol=1e-6)
    assert torch.isfinite(made.log_prob(torch.zeros(3)))


@pytest.mark.parametrize("settings, complaint", [
    ({"spread": 0.0}, "positive spread"), ({"spread": -1.0}, "positive spread"), ({"spread": math.nan}, "positive spread"),
    ({"floor": 0.0}, "positive floor"), ({"floor": math.nan}, "positive floor"),
    ({"scale": 0.0}, "positive noise scales.*0"), ({"scale": [0.1, -0.2]}, "positive noise scales.*-0.2"),
])
def test_noise_that_makes_no_sense_is_refused(settings, complaint):
    with pytest.raises(InputError, match=complaint):
        DiagonalNoise(**settings)


def test_noise_of_another_number_of_bands_is_refused():
    with pytest.raises(InputError, match=r"5 noise scales, one a band, got shape \(4,\)"):
        DiagonalNoise(np.full(4, 0.1)).prior(5)


@pytest.mark.parametrize("dtype, rtol", [(torch.float32, 1e-4), (torch.float64, 1e-6)])
@pytest.mark.parametrize("make", NOISES.values(), ids=NOISES)
def test_the_likelihood_is_normal_with_the_cholesky_factor(make, dtype, rtol):
    noise = make()
    scale, mean = 0.1 + torch.rand(6, dtype=dtype), torch.rand(5, 6, dtype=dtype)
    made = noise.likelihood(mean, scale)
    assert made.batch_shape == (5,) and made.event_shape == (6,)
    factor = noise.cholesky(scale)
    assert factor.dtype == dtype
    exact = torch.distributions.MultivariateNormal(mean, scale_tril=factor if factor.ndim == 2 else factor.diag())
    spectra = made.sample()
    torch.testing.assert_close(made.log_prob(spectra), exact.log_prob(spectra), rtol=rtol, atol=10 * rtol)
    torch.testing.assert_close(made.variance, exact.variance, rtol=rtol, atol=0.0)


@pytest.mark.parametrize("make", NOISES.values(), ids=NOISES)
def test_the_floor_holds_in_every_band(make):
    made = make().likelihood(torch.zeros(6), torch.zeros(6))
    assert (made.variance > 0.99e-12).all() and torch.isfinite(made.log_prob(torch.zeros(6)))


def test_smooth_noise_shares_by_distance():
    scale = 0.1 + torch.rand(6, dtype=torch.float64)
    distance = np.sqrt(3.0) * np.abs(WAVELENGTHS[:, None] - WAVELENGTHS) / 60.0
    expected = 0.8 * (1 + distance) * np.exp(-distance) + 0.2 * np.eye(6)
    torch.testing.assert_close(covariance(NOISES["smooth"](), scale), torch.tensor(expected) * torch.outer(scale, scale))
    evenly = SmoothNoise(None, 60.0, 0.8)
    torch.testing.assert_close(covariance(evenly, scale), covariance(SmoothNoise(None, 60.0, 0.8, 10.0 * np.arange(6)), scale))


def test_low_rank_noise_adds_its_factors():
    scale = 0.1 + torch.rand(6, dtype=torch.float64)
    noise = NOISES["low rank"]()
    expected = noise.loadings.T @ noise.loadings + torch.eye(6)
    torch.testing.assert_close(covariance(noise, scale), expected.double() * torch.outer(scale, scale), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("noise", [SmoothNoise(share=0.0), LowRankNoise(loadings=np.zeros((1, 6)))])
def test_noise_without_anything_shared_is_diagonal(noise):
    mean, scale, spectra = torch.rand(5, 6), 0.1 + torch.rand(6), torch.rand(5, 6)
    torch.testing.assert_close(noise.likelihood(mean, scale).log_prob(spectra),
                               DiagonalNoise().likelihood(mean, scale).log_prob(spectra))


def test_the_smoothest_noise_of_many_bands_can_be_factorised_in_single_precision():
    noise = SmoothNoise(0.1, length_scale=1e4, share=0.999)
    made = noise.likelihood(torch.zeros(2, 400), torch.full((400,), 0.1))
    spectra = made.sample()
    exact = noise.likelihood(torch.zeros(2, 400).double(), torch.full((400,), 0.1).double()).log_prob(spectra.double())
    torch.testing.assert_close(made.log_prob(spectra).double(), exact, rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("make", NOISES.values(), ids=NOISES)
def test_noise_trains(make):
    truth = torch.tensor([0.02, 0.05, 0.1, 0.02, 0.2, 0.1])
    noise = make(0.05)
    observed = noise.likelihood(torch.zeros(4000, 6), truth).sample()

    def model():
        scale = pyro.sample("noise_scale", noise.prior(6))
        with pyro.plate("pixel", len(observed)):
            pyro.sample("reflectance", noise.likelihood(torch.zeros(len(observed), 6), scale), obs=observed)

    guide = AutoDelta(model)
    with pyro.get_param_store().scope():
        svi = SVI(model, guide, Adam({"lr": 0.1}), Trace_ELBO())
        for _ in range(150):
            svi.step()
        found = guide.median()["noise_scale"].detach()
    # A standard deviation of 4000 pixels is known to 1.1 %, or less well where a factor has most of the variance.
    torch.testing.assert_close(found, truth, rtol=0.07, atol=0.0)


@pytest.mark.parametrize("kind", NOISES)
def test_noise_is_a_part_of_the_model(kind, small_scene):
    bands = small_scene.n_bands
    noise = {"diagonal": DiagonalNoise(0.02), "smooth": SmoothNoise(0.02, wavelengths=small_scene.wavelengths),
             "low rank": LowRankNoise(0.02, 0.1 * torch.ones(1, bands))}[kind]
    prior = MVNEndmembers(small_scene.reference.endmembers.values, smooth_scale_tril(small_scene.wavelengths, bands, 0.01))
    model = UnmixingModel(3, endmembers=prior, brightness="none", noise=noise, evidence=1.0)
    scale = torch.full((bands,), 0.02, requires_grad=True)
    trace = pyro.poutine.trace(pyro.condition(model, {"noise_scale": scale})).get_trace(whole(small_scene))
    trace.log_prob_sum().backward()
    assert scale.grad.isfinite().all() and (scale.grad != 0).all()


@pytest.mark.parametrize("make", NOISES.values(), ids=NOISES)
def test_noise_is_copied_and_read_back(make):
    noise, scale = make(np.linspace(0.1, 0.6, 6)), 0.1 + torch.rand(6)
    again = type(noise)(**json.loads(json.dumps(noise.settings)))
    for name, value in noise.state_dict().items():
        setattr(again, name, torch.empty_like(value))  # settings do not know the shape of the arrays
    again.load_state_dict(noise.state_dict())
    for other in (copy.deepcopy(noise), again):
        assert other.settings == noise.settings
        torch.testing.assert_close(other.cholesky(scale), noise.cholesky(scale), rtol=0.0, atol=0.0)
        assert torch.equal(other.scale, noise.scale) and other.scale is not noise.scale


@pytest.mark.parametrize("make", NOISES.values(), ids=NOISES)
def test_an_open_scale_is_filled_so_that_the_noise_is_as_strong_as_measured(make):
    noise, measured = make(), np.linspace(0.1, 0.6, 6)
    filled = noise.filled(measured, floor=1e-5)
    assert type(filled) is type(noise) and filled.settings == noise.settings | {"floor": 1e-5}
    deviation = covariance(filled, filled.scale).diagonal().sqrt()
    np.testing.assert_allclose(deviation, measured, rtol=1e-5)
    for name, value in noise.state_dict().items():
        assert name == "scale" or torch.equal(filled.state_dict()[name], value)
    assert noise.scale.isnan() and noise.settings["floor"] == 1e-6  # the one given stays open


def test_filled_diagonal_noise_is_the_one_made_of_the_measured_scale():
    measured = np.geomspace(0.01, 0.1, 6)
    filled, made = DiagonalNoise(spread=0.5).filled(measured, floor=1e-5), DiagonalNoise(measured, spread=0.5, floor=1e-5)
    assert filled.settings == made.settings and torch.equal(filled.scale, made.scale) and filled.scale.dtype == torch.float32


@pytest.mark.parametrize("make, complaint", [
    (lambda: LowRankNoise().filled(np.ones(4), 0.1), r"loadings \(rank, 4\), got none; .*give LowRankNoise its loadings"),
    (lambda: NOISES["low rank"]().filled(np.ones(4), 0.1), r"loadings \(rank, 4\), got shape \(2, 6\)"),
    (lambda: DiagonalNoise().filled(np.zeros(4), 0.1), "positive noise scales"),
    (lambda: SmoothNoise().filled(np.ones(4), 0.0), "positive floor"),
])
def test_noise_that_cannot_be_filled_is_refused(make, complaint):
    with pytest.raises(InputError, match=complaint):
        make()


@pytest.mark.parametrize("make, complaint", [
    (lambda: SmoothNoise(length_scale=0.0), "positive length_scale"), (lambda: SmoothNoise(length_scale=math.inf), "positive l"),
    (lambda: SmoothNoise(length_scale=math.nan), "positive l"), (lambda: SmoothNoise(share=1.0), "share from 0 and below 1"),
    (lambda: SmoothNoise(share=-0.1), "share"), (lambda: SmoothNoise(wavelengths=np.ones((2, 2))), r"wavelengths \(n_bands,\)"),
    (lambda: SmoothNoise(wavelengths=[1.0, math.nan]), "finite wavelengths"), (lambda: SmoothNoise(-1.0), "positive noise sc"),
    (lambda: SmoothNoise(0.1, wavelengths=np.arange(4)).prior(5), "5 wavelengths, one a band, got 4"),
    (lambda: SmoothNoise([0.1] * 4).prior(5), "5 noise scales"), (lambda: SmoothNoise(spread=0.0), "positive spread"),
    (lambda: LowRankNoise(loadings=np.ones(4)), r"loadings \(rank, n_bands\)"),
    (lambda: LowRankNoise(loadings=np.ones((0, 4))), "rank 1 or more"),
    (lambda: LowRankNoise(loadings=np.full((1, 4), math.nan)), "finite loadings"),
    (lambda: LowRankNoise(0.1).prior(4), r"loadings \(rank, 4\)"),
    (lambda: LowRankNoise(0.1, np.ones((2, 5))).prior(4), r"loadings \(rank, 4\), got shape \(2, 5\)"),
    (lambda: LowRankNoise(loadings=np.ones((2, 5)), floor=0.0), "positive floor"),
])
def test_correlated_noise_that_makes_no_sense_is_refused(make, complaint):
    with pytest.raises(InputError, match=complaint):
        make()

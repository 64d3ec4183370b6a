"""How materials combine: each mixing against its equation written out, what a fit makes of it, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from short_fits import quiet_fit, same, weights
from torch import nn

import pyro_unmix as pu
from pyro_unmix.amplitude import spread
from pyro_unmix.least_squares import constrained, least_squares, measured, tangent
from pyro_unmix.mixing import Fan, GeneralizedBilinear, Hapke, Linear, PostNonlinear, is_open, n_directions
from pyro_unmix.run_folder import save_fit
from pyro_unmix.simulate import absorption_spectra

K, L = 3, 12
SPECTRA = torch.as_tensor(absorption_spectra(K, np.linspace(400.0, 2500.0, L)))
NONLINEAR = [Fan(), GeneralizedBilinear(0.5), PostNonlinear(0.3), PostNonlinear(-0.4), Hapke(), Hapke(60.0, 20.0)]
ALL = [Linear(), *NONLINEAR]


def abundances_of(n):
    return torch.as_tensor(np.random.default_rng(1).dirichlet(np.full(K, 0.7), n))


def known(sd=1e-4):
    return pu.priors.MVNEndmembers(SPECTRA, sd * torch.eye(L))


# The equations


def products(z, m):
    return sum(z[i] * z[j] * m[i] * m[j] for i in range(K) for j in range(i + 1, K))


def hapke(z, m, incidence, emergence):
    """Albedos by bisection of the reflectance that a wise reader would write down."""
    sun, sensor = np.cos(np.radians([incidence, emergence]))

    def reflectance(w):
        h = [(1 + 2 * mu) / (1 + 2 * mu * np.sqrt(1 - w)) for mu in (sun, sensor)]
        layer = w / (4 * (sun + sensor)) * h[0] * h[1]
        return layer / ((1 + 2 * sun) * (1 + 2 * sensor) / (4 * (sun + sensor)))  # relative to that of w = 1

    def albedo(r):
        low, high = 0.0, 1.0
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if reflectance(middle) < r else (low, middle)
        return low

    return reflectance(sum(z[k] * albedo(m[k]) for k in range(K)))


def by_hand(mixing, z, m):
    """One band of one pixel, from K numbers each."""
    linear = sum(z[k] * m[k] for k in range(K))
    settings = mixing.settings
    if isinstance(mixing, Fan):
        return linear + products(z, m)
    if isinstance(mixing, GeneralizedBilinear):
        return linear + settings["gamma"] * products(z, m)
    if isinstance(mixing, PostNonlinear):
        return linear + settings["b"] * linear**2
    return hapke(z, m, **settings) if isinstance(mixing, Hapke) else linear


@pytest.mark.parametrize("mixing", ALL, ids=repr)
def test_is_its_equation(mixing):
    abundances = abundances_of(5)
    mixed = mixing(abundances, SPECTRA)
    slow = [[by_hand(mixing, z, SPECTRA[:, band].numpy()) for band in range(L)] for z in abundances.numpy()]
    np.testing.assert_allclose(mixed, slow, rtol=1e-6)
    np.testing.assert_array_equal(mixing.spectra(abundances.numpy(), SPECTRA.numpy()), mixed)


@pytest.mark.parametrize("mixing", ALL, ids=repr)
def test_pure_pixels(mixing):
    expected = SPECTRA.float()
    if isinstance(mixing, PostNonlinear):
        expected = expected + mixing.settings["b"] * expected**2
    torch.testing.assert_close(mixing(torch.eye(K), SPECTRA.float()), expected, rtol=1e-5, atol=1e-6)


def test_special_cases():
    abundances = abundances_of(5)
    for one, other in ((GeneralizedBilinear(0.0), Linear()), (GeneralizedBilinear(1.0), Fan()), (PostNonlinear(0.0), Linear())):
        torch.testing.assert_close(one(abundances, SPECTRA), other(abundances, SPECTRA))


@pytest.mark.parametrize("mixing", ALL, ids=repr)
def test_batches_of_draws_are_mixed_one_by_one(mixing):
    abundances = abundances_of(8).reshape(2, 4, K)
    mixed = mixing(abundances, SPECTRA)
    assert mixed.shape == (2, 4, L)
    torch.testing.assert_close(mixed[1, 2], mixing(abundances[1, 2], SPECTRA))


@pytest.mark.parametrize("mixing", ALL, ids=repr)
def test_gradients(mixing):
    assert torch.autograd.gradcheck(mixing, (abundances_of(3).requires_grad_(), SPECTRA[:, :4].clone().requires_grad_()))


@pytest.mark.parametrize("mixing", ALL, ids=repr)
def test_gradients_are_finite_where_pixels_are_pure_and_endmembers_black_or_white(mixing):
    extreme = torch.tensor([[0.0, 1.0, -0.1], [1.0, 0.999, 1.2], [0.5, 0.0, 0.3]], requires_grad=True)
    pure = torch.eye(3, requires_grad=True)
    mixed = mixing(pure, extreme)
    mixed.sum().backward()
    assert all(torch.isfinite(each).all() for each in (mixed, pure.grad, extreme.grad))
    if isinstance(mixing, Hapke):
        assert (mixed >= 0).all() and (mixed < 1).all()


@pytest.mark.parametrize("make", [
    lambda: GeneralizedBilinear(-0.1), lambda: GeneralizedBilinear(1.1), lambda: GeneralizedBilinear(float("nan")),
    lambda: PostNonlinear(-0.6), lambda: PostNonlinear(2.0), lambda: Hapke(90.0), lambda: Hapke(30.0, -1.0),
    lambda: Hapke(float("nan")), lambda: PostNonlinear().spectra(np.eye(K), SPECTRA.numpy()),
])
def test_what_cannot_be_is_refused(make):
    with pytest.raises(pu.InputError):
        make()


@pytest.mark.parametrize("mixing", ALL, ids=repr)
def test_there_is_nothing_to_train(mixing):
    assert not list(mixing.parameters())


def test_directions_hold_the_mixtures():
    for mixing in (Linear(), Fan(), PostNonlinear(0.3)):
        mixed = mixing(abundances_of(200), torch.as_tensor(absorption_spectra(K, np.linspace(400.0, 2500.0, 60))))
        values = torch.linalg.svdvals(mixed)
        assert (values > 1e-10 * values[0]).sum() <= n_directions(mixing, K, 60)
    assert n_directions(Linear(), K, 4) == K and n_directions(Fan(), K, 4) == K and n_directions(Fan(), K, 12) == 6


# Least squares


@pytest.mark.parametrize("brightness", [True, False])
@pytest.mark.parametrize("mixing", NONLINEAR, ids=repr)
def test_least_squares_of_its_own_mixing_find_the_abundances(mixing, brightness):
    truth, factor = abundances_of(100), torch.linspace(0.7, 1.3, 100).double() if brightness else torch.ones(100).double()
    pixels = factor[:, None] * mixing(truth, SPECTRA)
    for kind in (torch.float64, torch.float32):
        found = least_squares(pixels.to(kind), SPECTRA.to(kind), torch.full((L,), 0.01), brightness=brightness, mixing=mixing)
        for estimate in (found.abundances, found.free):
            torch.testing.assert_close(estimate.double(), truth, atol=1e-3, rtol=0)
        torch.testing.assert_close(found.brightness.double(), factor, atol=1e-3, rtol=0)
    control, _ = constrained(pixels, SPECTRA, brightness)
    assert (control - truth).abs().max() > 0.02


@pytest.mark.parametrize("mixing", [Fan(), Hapke()], ids=repr)
def test_least_squares_scatter_as_they_say(mixing):
    """As for linear mixing: over 20,000 pixels that differ in their noise alone."""
    truth, noise_scale = torch.tensor([0.4, 0.35, 0.25]), torch.linspace(0.002, 0.006, L)
    pixels = mixing(truth, SPECTRA.float()) + noise_scale * torch.randn(20_000, L)
    estimate = least_squares(pixels, SPECTRA.float(), noise_scale, brightness=False, mixing=mixing)
    said = estimate.covariance.mean(dim=0)
    np.testing.assert_allclose(estimate.free.T.cov(), said, atol=0.1 * said.max())
    assert ((estimate.free.mean(dim=0) - truth).abs() < 0.2 * said.diagonal().sqrt()).all()


@pytest.mark.parametrize("mixing", ALL, ids=repr)
def test_the_tangent_touches(mixing):
    abundances = abundances_of(4)
    touching = tangent(mixing, abundances, SPECTRA)
    torch.testing.assert_close((abundances[:, None] @ touching)[:, 0], mixing(abundances, SPECTRA))
    nearby = abundances + 1e-4 * torch.tensor([1.0, -0.4, -0.6])
    torch.testing.assert_close((nearby[:, None] @ touching)[:, 0], mixing(nearby, SPECTRA), atol=1e-7, rtol=0)
    if isinstance(mixing, Linear):
        torch.testing.assert_close(touching, SPECTRA.expand(4, K, L))


@pytest.mark.parametrize("brightness", [True, False])
@pytest.mark.parametrize("mixing", [GeneralizedBilinear(0.3), PostNonlinear(-0.2)], ids=repr)
def test_coefficients_are_measured(mixing, brightness):
    pixels = mixing(abundances_of(300), SPECTRA)
    if brightness:
        pixels = torch.linspace(0.7, 1.3, 300)[:, None] * pixels
    found = measured(type(mixing)(), pixels, SPECTRA, brightness)
    assert is_open(type(mixing)()) and not is_open(found)
    assert float(found.coefficient) == pytest.approx(float(mixing.coefficient), abs=0.01)


# Fits


def scene_of(mixing, **options):
    return pu.simulate_scene(shape=(12, 14), wavelengths=np.linspace(400.0, 2500.0, L), endmembers=SPECTRA.numpy(), mixing=mixing,
                             seed=3, **options)


@pytest.fixture(scope="module", params=[Fan(), GeneralizedBilinear(), PostNonlinear(), Hapke()], ids=repr)
def fitted(request):
    """Mixing as asked for, scene and fit; not to be changed."""
    true = {GeneralizedBilinear: GeneralizedBilinear(0.5), PostNonlinear: PostNonlinear(0.3)}
    scene = scene_of(true.get(type(request.param), request.param))
    return request.param, scene, quiet_fit(pu.UnmixingModel(K, endmembers=known(), mixing=request.param), scene)


def test_a_fit_is_near_the_truth_and_the_linear_start_is_not(fitted):
    _, scene, fit = fitted
    summary = fit.posterior(scene).summary()
    mean = summary.abundance_mean.values
    assert np.isfinite(mean).all() and (mean >= 0).all()
    np.testing.assert_allclose(mean.sum(axis=-1), 1.0, atol=1e-6)
    truth = scene.reference.abundances.values
    linear = constrained(torch.as_tensor(scene.pixels()).double(), SPECTRA, False)[0].numpy().reshape(truth.shape)
    assert np.abs(mean - truth).mean() < 0.5 * np.abs(linear - truth).mean()
    # What the summary calls a reconstruction is mixed as the model mixes.
    noise = fit.model.noise.scale.square().mean().sqrt()
    assert summary.reconstruction_rmse.mean() == pytest.approx(float(noise), rel=0.2)


def test_an_open_coefficient_is_filled(fitted):
    asked, _, fit = fitted
    assert not is_open(fit.model.mixing) and type(fit.model.mixing) is type(asked)
    assert repr(fit.guide.mixing) == repr(fit.model.mixing)


def test_a_fit_is_saved_and_loaded(fitted, tmp_path):
    _, scene, fit = fitted
    save_fit(tmp_path, fit)
    again = pu.load_fit(tmp_path)
    assert same(weights(fit), weights(again)) and again.model.mixing.settings == fit.model.mixing.settings
    one, other = (each.posterior(scene).draws(3, seed=1) for each in (fit, again))
    np.testing.assert_array_equal(one.abundances, other.abundances)


def test_residuals_are_not_looked_at_but_findings_say_so(fitted):
    _, scene, fit = fitted
    posterior = fit.posterior(scene)
    with pytest.raises(pu.InputError, match="linear mixing"):
        posterior.checks()
    assert posterior.findings()[-1].name == "best effort"


def test_is_refined_by_weights(fitted):
    _, scene, fit = fitted
    refined = pu.refine(fit, scene, shared_draws=2, draws=50, progress=False)
    mean = refined.summary().abundance_mean.values
    assert refined.method == "re-weighted" and np.isfinite(mean).all()
    np.testing.assert_allclose(mean.sum(axis=-1), 1.0, atol=1e-6)


@pytest.mark.parametrize("mixing", NONLINEAR, ids=repr)
def test_noise_is_measured_from_the_residual_of_the_mixing(mixing):
    scene = scene_of(mixing)
    signal = mixing.spectra(scene.reference.abundances.values, SPECTRA.numpy())
    noise = np.sqrt(np.mean(signal**2) / 10**3)  # 30 dB
    _, start = pu.initialize(pu.UnmixingModel(K, endmembers=known(), mixing=mixing, brightness="none"), scene)
    assert start.noise_scale.mean() == pytest.approx(noise, rel=0.15)
    _, linear = pu.initialize(pu.UnmixingModel(K, endmembers=known(), brightness="none"), scene)
    assert linear.noise_scale.mean() > 1.1 * start.noise_scale.mean()


def test_brightness_is_not_made_of_products():
    scene = scene_of(Fan())
    assert pu.initialize(pu.UnmixingModel(K, endmembers=known(), mixing=Fan()), scene)[0].brightness is None
    bright = scene_of(Fan(), brightness=0.2)
    found, _ = pu.initialize(pu.UnmixingModel(K, endmembers=known(), mixing=Fan()), bright)
    assert float(found.brightness.scale) == pytest.approx(spread(np.log(bright.reference.brightness.values)), rel=0.2)


def test_a_scene_that_is_not_in_reflectance_is_refused():
    scene = pu.Scene(100 * scene_of(None).reflectance.values)
    with pytest.raises(pu.InputError, match="reflectance"):
        pu.initialize(pu.UnmixingModel(K, mixing=Hapke()), scene)
    pu.initialize(pu.UnmixingModel(K, mixing=Linear()), scene)


def test_endmembers_that_are_open_are_warned_of():
    with pytest.warns(pu.UnmixWarning, match="as if mixing were linear"):
        model, _ = pu.initialize(pu.UnmixingModel(K, mixing=Fan()), scene_of(Fan()))
    assert model.endmembers.mean.shape == (K, L)


class Saturated(nn.Module):
    """A mixing of the user's own."""

    def forward(self, abundances, endmembers):
        return torch.tanh(torch.matmul(abundances, endmembers))


def test_a_mixing_of_your_own(tmp_path):
    own = Saturated()
    scene = pu.Scene(own(abundances_of(144), SPECTRA).reshape(12, 12, L).numpy())
    model = pu.UnmixingModel(K, endmembers=known(), mixing=own)
    fit = quiet_fit(model, scene)
    mean = torch.as_tensor(fit.posterior(scene).summary().abundance_mean.values).reshape(144, K).double()
    assert (mean - abundances_of(144)).abs().mean() < 0.03
    save_fit(tmp_path, fit)
    assert same(weights(fit), weights(pu.load_fit(tmp_path, model=model)))

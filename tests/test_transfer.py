"""Guides trained on simulated scenes: better than before and than least squares, honest, repeatable, and what is refused."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from short_fits import same, weights

import pyro_unmix as pu
from pyro_unmix import simulator_check
from pyro_unmix.amplitude import coefficients
from pyro_unmix.baselines.fcls import fcls
from pyro_unmix.mixing import Fan, Linear
from pyro_unmix.pairs import SimulatedScenes
from pyro_unmix.simulate import absorption_spectra, simulate_scene
from pyro_unmix.tiles import whole
from pyro_unmix.transfer import misfit

K, L = 3, 20
WAVELENGTHS = np.linspace(400.0, 2500.0, L)
SPECTRA = absorption_spectra(K, WAVELENGTHS)
# Of each material another sample, of a shape of its own.
VARIANTS = [spectrum[None] * (1 + 0.3 * np.sin(WAVELENGTHS / 300 + phase)) for phase, spectrum in enumerate(SPECTRA)]
PRIOR = pu.priors.MVNEndmembers(SPECTRA, torch.stack([0.01 * torch.eye(L)] * K))
MODEL = pu.UnmixingModel(K, endmembers=PRIOR, brightness="none")
CONFIG = pu.FitConfig(device="cpu")


def scenes(seed, **options):
    """Materials that vary, 12 x 12 pixels."""
    return simulate_scene(shape=(12, 12), seed=seed, **{
        "wavelengths": WAVELENGTHS, "endmembers": SPECTRA, "variants": VARIANTS, "concentration": 0.5, "correlation_length": 1.5,
        **options})


HOLD_OUT = [scenes(10**6 + number) for number in range(4)]
TRUTH = np.stack([scene.reference.abundances.values for scene in HOLD_OUT])


def trained(steps=60, *, model=MODEL, make=scenes, guide="cnn", head="auto", **options):
    return pu.transfer(model, make, guide=pu.UnmixingGuide(guide, head), steps=steps, config=CONFIG, progress=False, **options)


@pytest.fixture(scope="module", autouse=True)
def few_scenes_to_compare_with():
    """What they are for: test_simulator_check."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulator_check, "SCENES", 3)
        yield


@pytest.fixture(scope="module")
def fit():
    return trained()


def summaries(fit):
    return [fit.posterior(scene).summary() for scene in HOLD_OUT]


def rmse(fit):
    return np.sqrt(np.mean((np.stack([found.abundance_mean.values for found in summaries(fit)]) - TRUTH) ** 2))


def coverage(fit):
    """Of 90 % intervals, over 1728 abundances of pixels that are hardly dependent: standard error about one point."""
    quantiles = np.stack([found.abundance_quantile.values[[0, -1]] for found in summaries(fit)])
    return np.mean((quantiles[:, 0] <= TRUTH) & (TRUTH <= quantiles[:, 1]))


# What is learned


def test_better_than_before_and_than_least_squares(fit):
    blind = np.stack([coefficients(fcls, scene.pixels().astype(float), SPECTRA).reshape(12, 12, K) for scene in HOLD_OUT])
    assert rmse(fit) < 0.95 * rmse(trained(0)) < 0.5 * np.sqrt(np.mean((blind - TRUTH) ** 2))


def test_the_loss_falls(fit):
    loss = fit.history.guide_loss
    assert fit.history.stage.tolist() == ["calibrate"] * 60 and loss[-15:].mean() < loss[:15].mean() - 0.1
    assert fit.calibrated and not trained(0).calibrated


@pytest.mark.parametrize("head, tolerance", [("simplex-normal", 0.03), ("dirichlet", 0.05)])
def test_intervals_hold_the_truth(fit, head, tolerance):
    """Coverage of 90 % intervals. Negative control: a Dirichlet as it is before training."""
    found = fit if head == "simplex-normal" else trained(head=head)
    assert type(found.guide.head) is pu.heads.HEADS[head] and coverage(found) == pytest.approx(0.9, abs=tolerance)
    if head == "dirichlet":
        assert coverage(trained(0, head=head)) < 0.9 - 3 * tolerance


def test_what_pixels_share_is_left_alone(fit):
    torch.testing.assert_close(fit.guide.endmembers.loc(), torch.as_tensor(SPECTRA, dtype=torch.float32))
    assert isinstance(fit.model.noise, pu.noise.LowRankNoise)
    torch.testing.assert_close(fit.guide.noise.loc.exp(), fit.model.noise.scale)
    cholesky, expected = fit.guide.noise.cholesky(), fit.model.noise.cholesky(fit.model.noise.scale)
    torch.testing.assert_close(cholesky @ cholesky.T, expected @ expected.T, rtol=1e-4, atol=1e-8)


def test_the_prior_is_that_of_the_simulated_abundances(fit):
    """Concentrations of 0.5, from 720 pixels. Flat ones are left out."""
    torch.testing.assert_close(fit.guide.head.concentration, torch.full((K,), 0.5), rtol=0.2, atol=0)
    flat = trained(0, make=partial(scenes, concentration=1.5))
    assert flat.guide.head.concentration.tolist() == [1.0] * K


@pytest.mark.parametrize("head", ["softmax", "dirichlet"])
def test_squared_error_of_means_is_heard(head):
    """By heads whose mean takes no random numbers, so that nothing else differs."""
    plain, weighted = (trained(3, guide="mlp", head=head, mse_weight=weight) for weight in (0.0, 1e3))
    assert not same(weights(plain), weights(weighted))
    assert all(value.isfinite().all() for value in weights(weighted).values())


def test_brightness_is_learned_where_it_is_known():
    """Nearer to the truth than before. Where the model has none, it is one more way in which spectra depart from mixtures."""
    make = partial(scenes, brightness=0.2)
    fits = [trained(steps, model=MODEL.replace(brightness="pixel"), make=make, guide="mlp") for steps in (0, 60)]
    held_out = make(10**6)
    errors = [np.mean((np.log(fit.posterior(held_out).summary().brightness_mean.values)
                       - np.log(held_out.reference.brightness.values)) ** 2) for fit in fits]
    assert errors[1] < errors[0] and fits[1].guide.brightness is not None
    without = trained(0, make=make, guide="mlp")
    assert without.guide.brightness is None
    covariances = [factor @ factor.T for factor in (fit.guide.noise.cholesky() for fit in (without, fits[0]))]
    assert covariances[0].trace() > 3 * covariances[1].trace()


# Repeatable, and confined to itself


def test_same_seed_same_result(fit):
    before = torch.get_rng_state()
    again = trained()
    assert torch.equal(torch.get_rng_state(), before)
    assert same(weights(fit), weights(again)) and not same(weights(trained(2)), weights(trained(2, seed=1)))
    assert fit.history.drop(columns="seconds").equals(again.history.drop(columns="seconds"))


def test_a_saved_fit_says_the_same(fit, tmp_path):
    posterior = fit.posterior(HOLD_OUT[0])
    pu.save_run(tmp_path / "run", fit, posterior)
    again = pu.load_fit(tmp_path / "run")
    torch.testing.assert_close(again.model.noise.loadings, fit.model.noise.loadings, rtol=0, atol=0)
    assert again.guide.noise.correlation is not None and same(weights(fit), weights(again))
    np.testing.assert_array_equal(again.posterior(HOLD_OUT[0]).draws(3).abundances, posterior.draws(3).abundances)
    np.testing.assert_array_equal(again.posterior(HOLD_OUT[1]).summary().abundance_quantile,
                                  fit.posterior(HOLD_OUT[1]).summary().abundance_quantile)


def test_names_are_those_of_the_scenes_or_those_given(fit):
    assert fit.names == ["material 1", "material 2", "material 3"]
    assert trained(0, names=["a", "b", "c"]).names == ["a", "b", "c"]


def test_wrong_names_are_refused_before_training():
    seen = []
    with pytest.raises(pu.InputError, match="3 endmember names, got 2"):
        trained(5, make=lambda seed: seen.append(seed) or scenes(seed), names=["a", "b"])
    assert len(seen) == 1


def test_interruption_keeps_what_there_is(fit):
    made = []

    def stopped(seed):
        made.append(seed)
        if len(made) == 1 + 5 + 11:  # the first scene, those that say what varies, and ten steps
            raise KeyboardInterrupt
        return scenes(seed)

    with pytest.warns(pu.UnmixWarning, match="interrupted in stage 'calibrate'"):
        found = trained(make=stopped)
    assert found.interrupted and not found.calibrated and len(found.history) == 10
    assert found.history.guide_loss.equals(fit.history.guide_loss[:10])  # up to there it is the same fit
    assert np.isfinite(found.posterior(HOLD_OUT[0]).summary().abundance_quantile).all()


# Refused


def without_truth(seed):
    return pu.Scene(scenes(seed).reflectance)


@pytest.mark.parametrize("make", [
    without_truth, lambda seed: simulate_scene(4, (12, 12), wavelengths=WAVELENGTHS, seed=seed),
], ids=["no truth", "another K"])
def test_scenes_without_the_truth_are_refused(make):
    with pytest.raises(pu.InputError, match="simulated scenes with 20 bands and the abundances of 3 endmembers"):
        trained(make=make)


def test_scenes_of_other_bands_are_refused():
    """Than those of the model; and than those of the first, whenever one comes."""
    with pytest.raises(pu.InputError, match="endmember"):
        trained(make=lambda seed: simulate_scene(K, (12, 12), n_bands=L + 1, seed=seed))
    with pytest.raises(pu.InputError, match="simulated scenes with 20 bands"):
        trained(make=lambda seed: scenes(0) if seed == 0 else simulate_scene(K, (12, 12), n_bands=L + 1, seed=seed))


@pytest.mark.parametrize("options, message", [
    ({"model": pu.UnmixingModel(K)}, "a model with an endmember prior"),
    ({"model": pu.UnmixingModel()}, "a model with an endmember prior"),
    ({"mse_weight": -1.0}, "mse_weight"), ({"mse_weight": float("nan")}, "mse_weight"), ({"steps": -1}, "calibration_steps"),
])
def test_arguments_that_cannot_be(options, message):
    with pytest.raises(pu.InputError, match=message):
        trained(**options)


def test_a_scene_on_another_grid_is_refused(fit):
    other = pu.Scene(HOLD_OUT[0].reflectance.values, wavelengths=WAVELENGTHS + 50.0)
    with pytest.raises(pu.InputError, match="wavelengths"):
        fit.posterior(other)
    with pytest.raises(pu.InputError, match="bands"):
        fit.posterior(simulate_scene(K, (12, 12), n_bands=L + 1))


# How spectra depart from mixtures


def covariance_of(noise):
    factor = noise.cholesky(noise.scale).double()
    return (factor @ factor.T).numpy()


def test_misfit_is_the_covariance_of_the_departures():
    """Few directions and white noise, against sums over pixels: the covariance within 1 % of its largest value, variances of
    bands within 1e-3. Negative control: departures from other endmembers."""
    pairs = [SimulatedScenes(scenes, K, L)() for _ in range(3)]
    slow, n = np.zeros((L, L)), 0
    for tiles, abundances, _ in pairs:
        for spectrum, abundance in zip(tiles.pixels().double().numpy(), abundances.double().numpy(), strict=True):
            departure = spectrum - sum(share * endmember for share, endmember in zip(abundance, SPECTRA, strict=True))
            slow += np.outer(departure, departure)
            n += 1
    slow /= n
    found = covariance_of(misfit(pairs, torch.as_tensor(SPECTRA), Linear()))
    assert np.abs(found - slow).max() < 0.01 * slow.max()
    np.testing.assert_allclose(found.diagonal(), slow.diagonal(), rtol=1e-3)
    other = covariance_of(misfit(pairs, torch.as_tensor(1.1 * SPECTRA), Linear()))
    assert np.abs(other - slow).max() > 0.05 * slow.max()


def test_misfit_is_of_the_noise_alone_where_nothing_varies():
    """White noise, brightness known: within the error of 432 pixels. Negative control: brightness left out."""
    made = SimulatedScenes(partial(scenes, variants=None, brightness=0.3), K, L)
    pairs = [made() for _ in range(3)]
    found = covariance_of(misfit(pairs, torch.as_tensor(SPECTRA), Linear()))
    noise = found.diagonal().mean()
    assert np.abs(found - noise * np.eye(L)).max() < 0.4 * noise
    signal = np.mean([tiles.pixels().square().mean().item() for tiles, *_ in pairs])
    assert noise == pytest.approx(signal * 1e-3, rel=0.1)  # 30 dB
    unlit = misfit([(tiles, abundances, None) for tiles, abundances, _ in pairs], torch.as_tensor(SPECTRA), Linear())
    assert covariance_of(unlit).max() > 10 * found.max()


@pytest.mark.parametrize("mixing", [Linear(), Fan()], ids=repr)
def test_misfit_of_exact_mixtures_is_small_and_positive(mixing):
    scene = scenes(0, variants=None, snr_db=300.0, mixing=mixing)
    abundances = torch.as_tensor(scene.reference.abundances.values).reshape(-1, K)
    found = misfit([(whole(scene), abundances, None)], torch.as_tensor(SPECTRA), mixing)
    assert (found.scale > 0).all() and found.scale.max() < 1e-6

"""Pixels whose abundances are known: which labels can be used, the endmembers they give, and fits that learn from them."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
import xarray as xr
from short_fits import CONFIG, quiet_fit, same, weights

import pyro_unmix as pu
from pyro_unmix.labels import check_labels, labelled_endmembers
from pyro_unmix.simulate import absorption_spectra

K, L = 4, 20
# Long enough to learn something from labels.
LONGER = pu.FitConfig(svi_steps=20, calibration_steps=40, sampling_steps=60, kl_warmup_steps=5, tile_size=16, device="cpu")


def labels_of(scene, n, seed=0):
    """The truth of `n` pixels, NaN elsewhere."""
    truth = scene.reference.abundances.values.astype(np.float64)
    truth /= truth.sum(axis=-1, keepdims=True)
    labels = np.full_like(truth, np.nan)
    chosen = np.random.default_rng(seed).choice(truth[..., 0].size, n, replace=False)
    labels.reshape(-1, truth.shape[-1])[chosen] = truth.reshape(-1, truth.shape[-1])[chosen]
    return labels


@pytest.fixture(scope="module")
def mixed_scene():
    """No pixel holds more than 0.7 of a material: corners of the cloud of pixels are no endmembers."""
    return pu.simulate_scene(K, (16, 16), n_bands=L, max_abundance=0.7, concentration=2.0, correlation_length=2.0, seed=0)


@pytest.fixture(scope="module")
def labels(mixed_scene):
    return labels_of(mixed_scene, 30)


# Which can be used


def test_good_labels_come_back_on_the_simplex(mixed_scene, labels):
    """Sums rounded by a file are made exact; another array is left as it was."""
    given = labels * 1.0005
    before = given.copy()
    found = check_labels(given, mixed_scene, K)
    np.testing.assert_allclose(found, labels, rtol=1e-12)
    np.testing.assert_array_equal(given, before)
    np.testing.assert_allclose(check_labels(labels, mixed_scene, None), found, rtol=1e-12)
    as_xarray = xr.DataArray(given, dims=("y", "x", "endmember"))
    np.testing.assert_array_equal(check_labels(as_xarray, mixed_scene, K), found)


def test_a_pixel_is_known_where_it_is_in_use_and_all_of_it_is_given(labels, mixed_scene):
    labelled = np.argwhere(np.isfinite(labels).all(axis=-1))
    masked, partly = tuple(labelled[0]), tuple(labelled[1])
    mask = np.ones((16, 16), bool)
    mask[masked] = False
    scene = pu.Scene(mixed_scene.reflectance.values, mask=mask)
    given = labels.copy()
    given[(*partly, 2)] = np.nan
    found = check_labels(given, scene, K)
    assert np.isnan(found[masked]).all() and np.isnan(found[partly]).all()
    assert np.isfinite(found).all(axis=-1).sum() == len(labelled) - 2
    assert np.isfinite(check_labels(labels, mixed_scene, K)[[masked, partly]]).any()  # negative control


def test_nothing_of_a_pixel_that_is_not_used_is_checked(labels, mixed_scene):
    mask = np.ones((16, 16), bool)
    mask[0, 0] = False
    scene = pu.Scene(mixed_scene.reflectance.values, mask=mask)
    given = labels.copy()
    given[0, 0] = [-3.0, 0.0, 0.0, 0.0]
    check_labels(given, scene, K)
    with pytest.raises(pu.InputError):
        check_labels(given, mixed_scene, K)


def spoiled(labels, how):
    labels = labels.copy()
    known = np.isfinite(labels).all(axis=-1)
    first = tuple(np.argwhere(known)[0])
    if how == "sums":
        labels[first] *= 1.01
    elif how == "percent":
        labels *= 100
    elif how == "negative":
        labels[first] = [1.1, -0.1, 0.0, 0.0]
    elif how == "none":
        labels[:] = np.nan
    elif how == "few":
        labels[tuple(np.argwhere(known)[K - 1:].T)] = np.nan
    elif how == "never":
        labels[..., 3] *= 0.0
        labels /= labels.sum(axis=-1, keepdims=True)
    elif how == "alike":
        labels[known] = labels[first]
    elif how == "rows":
        labels = labels[1:]
    elif how == "endmembers":
        labels = np.concatenate([labels, 0.0 * labels[..., :1]], axis=-1)
    elif how == "flat":
        labels = labels.reshape(-1, K)
    return labels


@pytest.mark.parametrize("how, message", [
    ("sums", "sum to 1, got a least of .* 1.01; divide them by their sum"), ("percent", "sums from 100 to 100"),
    ("negative", "at least 0 .* got a least of -0.1"), ("none", "4 endmembers apart, got 0 pixels"), ("few", "got 3 pixels"),
    ("never", "label pixels of every material"), ("alike", "differ enough"),
    ("rows", r"shape \(16, 16, 4\), got \(15, 16, 4\)"), ("endmembers", r"got \(16, 16, 5\)"), ("flat", r"got \(256, 4\)"),
])
def test_labels_that_cannot_be_used(mixed_scene, labels, how, message):
    """One error, the same from the check, from `initialize` and from a fit."""
    for use in (lambda bad: check_labels(bad, mixed_scene, K),
                lambda bad: pu.initialize(pu.UnmixingModel(K), mixed_scene, labels=bad),
                lambda bad: quiet_fit(pu.UnmixingModel(K), mixed_scene, labels=bad)):
        with pytest.raises(pu.InputError, match=message):
            use(spoiled(labels, how))


def test_labels_of_an_open_number_of_endmembers_have_any(mixed_scene, labels):
    """Of the shape only rows and columns are then known."""
    with pytest.raises(pu.InputError, match=r"\(16, 16, 'n_endmembers'\)"):
        check_labels(labels[:, 1:], mixed_scene, None)


# The endmembers they give


def exact_endmembers(pixels, abundances):
    """Inverse factors g for which g_i pixel_i lie in the span of the abundances: the null vector of their residuals."""
    residual = np.eye(len(abundances)) - abundances @ np.linalg.pinv(abundances)
    inverse = np.linalg.eigh(residual * (pixels @ pixels.T))[1][:, 0]
    return np.linalg.lstsq(abundances, (inverse / np.median(inverse))[:, None] * pixels, rcond=None)[0]


def labelled_pixels(brightness, noise=0.0, n=60):
    rng = np.random.default_rng(0)
    endmembers = absorption_spectra(3, np.linspace(400, 2500, 30))
    abundances = rng.dirichlet(np.ones(3), n)
    factor = np.exp(0.3 * rng.standard_normal(n)) if brightness else np.ones(n)
    pixels = factor[:, None] * (abundances @ endmembers) + noise * rng.standard_normal((n, 30))
    return pixels, abundances, endmembers


def apart(found, endmembers):
    """Largest difference, one common amplitude left out."""
    return np.abs(found * (found * endmembers).sum() / (found**2).sum() - endmembers).max()


def test_exact_pixels_give_exact_endmembers():
    pixels, abundances, endmembers = labelled_pixels(brightness=False)
    np.testing.assert_allclose(labelled_endmembers(pixels, abundances, False), endmembers, atol=1e-12)


def test_exact_pixels_of_any_brightness_give_exact_endmembers():
    """But for one amplitude, as an exact solution does; the alternation ends within 1e-3. Negative control: without it."""
    pixels, abundances, endmembers = labelled_pixels(brightness=True)
    found = labelled_endmembers(pixels, abundances, True)
    exact = exact_endmembers(pixels, abundances)
    assert apart(exact, endmembers) < 1e-9 and apart(found, endmembers) < 1e-3 and apart(found, exact) < 1e-3
    assert apart(labelled_endmembers(pixels, abundances, False), endmembers) > 0.02


def test_brightness_that_is_one_does_no_harm():
    """Median one, where there is none: the amplitude is kept too."""
    pixels, abundances, endmembers = labelled_pixels(brightness=False)
    np.testing.assert_allclose(labelled_endmembers(pixels, abundances, True), endmembers, atol=1e-9)


def test_pure_pixels_alone_are_the_endmembers():
    """How bright materials are relative to each other is then not known, and stays as it is in these pixels."""
    endmembers = absorption_spectra(3, np.linspace(400, 2500, 30))
    np.testing.assert_allclose(labelled_endmembers(endmembers, np.eye(3), True), endmembers, atol=1e-12)
    twice = np.vstack([0.8 * endmembers, 1.25 * endmembers])
    found = labelled_endmembers(twice, np.tile(np.eye(3), (2, 1)), True)
    assert apart(found, endmembers) < 1e-9


@pytest.mark.parametrize("brightness", [False, True])
def test_more_labels_say_more(brightness):
    """Errors of noisy pixels fall with their number; no endmember is negative."""
    errors = []
    for n in (12, 1200):
        pixels, abundances, endmembers = labelled_pixels(brightness, noise=0.02, n=n)
        found = labelled_endmembers(pixels, abundances, brightness)
        errors.append(np.sqrt(np.mean((found - endmembers * (found * endmembers).sum() / (endmembers**2).sum()) ** 2)))
        assert (found >= 0).all()
    assert errors[1] < errors[0] / 3


# Where a fit begins


def test_open_endmembers_are_those_of_the_labels(mixed_scene, labels):
    """In the order of the labels. Blind, those of a scene without pure pixels are farther away; a prior of one's own stays."""
    truth = mixed_scene.reference.endmembers.values
    model, start = pu.initialize(pu.UnmixingModel(brightness="none"), mixed_scene, labels=labels)
    blind = pu.initialize(pu.UnmixingModel(K, brightness="none"), mixed_scene)[1].endmembers.numpy()
    assert model.n_endmembers == K and model.evidence == 0.0 and not start.joint
    found = np.abs(start.endmembers.numpy() - truth).max()
    assert found < 0.05 and min(np.abs(blind[list(order)] - truth).max() for order in permutations(range(K))) > 1.5 * found
    turned = pu.initialize(pu.UnmixingModel(brightness="none"), mixed_scene, labels=labels[..., ::-1])[1]
    torch.testing.assert_close(turned.endmembers, start.endmembers.flip(0), atol=1e-5, rtol=0)
    prior = pu.priors.MVNEndmembers(truth + 0.1, torch.stack([0.01 * torch.eye(L)] * K))
    own, start = pu.initialize(pu.UnmixingModel(K, endmembers=prior), mixed_scene, labels=labels)
    np.testing.assert_allclose(start.endmembers, truth + 0.1, rtol=1e-6)
    assert own.endmembers is prior


def test_the_number_of_endmembers_of_a_model_is_that_of_its_labels(mixed_scene, labels):
    with pytest.raises(pu.InputError, match=r"\(16, 16, 3\)"):
        pu.initialize(pu.UnmixingModel(3), mixed_scene, labels=labels)


# Fits


@pytest.fixture(scope="module")
def labelled_fit(mixed_scene, labels):
    return quiet_fit(pu.UnmixingModel(), mixed_scene, labels=labels, config=LONGER)


def test_labels_are_worth_having(mixed_scene, labels, labelled_fit):
    """RMSE of the pixels that have none, against that of a blind fit whose endmembers are matched to the truth."""
    test, truth = np.isnan(labels).any(axis=-1), mixed_scene.reference.abundances.values
    blind = quiet_fit(pu.UnmixingModel(K), mixed_scene, config=LONGER)

    def errors(fit):
        mean = fit.posterior(mixed_scene).summary().abundance_mean.values
        return [np.sqrt(np.mean((mean[..., list(order)] - truth)[test] ** 2)) for order in permutations(range(K))]

    assert errors(labelled_fit)[0] < 0.7 * min(errors(blind))
    assert errors(labelled_fit)[0] == min(errors(labelled_fit))  # in the order of the labels


def test_a_labelled_fit_has_names_and_learns(labelled_fit):
    assert labelled_fit.model.n_endmembers == K and labelled_fit.names == [f"endmember {k + 1}" for k in range(K)]
    loss = labelled_fit.history.guide_loss.dropna()
    assert len(loss) == 40 and loss[-10:].mean() < loss[:5].mean() - 0.1
    assert labelled_fit.calibrated and labelled_fit.shared is None and "sample" not in labelled_fit.seconds


def short(scene, labels, **options):
    return quiet_fit(pu.UnmixingModel(), scene, labels=labels, **{"config": CONFIG, **options})


def test_same_seed_same_result(mixed_scene, labels):
    one = short(mixed_scene, labels)
    assert same(weights(one), weights(short(mixed_scene, xr.DataArray(labels), names=list("abcd"))))
    assert not same(weights(one), weights(short(mixed_scene, labels, seed=1)))
    assert not same(weights(one), weights(short(mixed_scene, labels_of(mixed_scene, 30, seed=1))))


def test_names_are_those_given(mixed_scene, labels):
    config = replace(CONFIG, svi_steps=0, calibration_steps=0)
    assert short(mixed_scene, labels, names=list("abcd"), config=config).names == list("abcd")
    with pytest.raises(pu.InputError, match="4 endmember names, got 3"):
        short(mixed_scene, labels, names=list("abc"), config=config)


@pytest.mark.parametrize("prior", [pu.priors.Dirichlet(0.3), pu.priors.Dirichlet(2.0)], ids=["sparse", "dense"])
def test_pure_labels_under_any_prior(mixed_scene, prior):
    """Where its density has a pole or a zero; sums that are rounded are no less on the simplex."""
    labels = np.full((16, 16, K), np.nan)
    labels[0, :K] = np.eye(K)
    labels[1, :3] = [0.5004, 0.5, 0.0, 0.0]
    fit = short(mixed_scene, labels, config=replace(CONFIG, tile_size=16))
    other = quiet_fit(pu.UnmixingModel(abundances=prior), mixed_scene, labels=labels, config=replace(CONFIG, tile_size=16))
    for result in (fit, other):
        assert np.isfinite(result.history.gradient_norm).all() and all(v.isfinite().all() for v in weights(result).values())
    assert not same(weights(fit), weights(other))  # the prior is heard


@pytest.mark.parametrize("head", ["softmax", "dirichlet"])
def test_squared_error_of_labelled_means_is_heard(mixed_scene, labels, head):
    """With a weight, means of labelled pixels come nearer to their labels than without."""
    known = np.isfinite(labels).all(axis=-1)
    config = replace(LONGER, learning_rate=0.01)

    def error(weight):
        fit = short(mixed_scene, labels, guide=pu.UnmixingGuide("mlp", head), mse_weight=weight, config=config)
        return np.mean((fit.posterior(mixed_scene).summary().abundance_mean.values - labels)[known] ** 2)

    assert error(1e4) < 0.9 * error(0.0)


@pytest.mark.parametrize("weight", [-1.0, float("nan")])
def test_a_weight_that_cannot_be(mixed_scene, labels, weight):
    with pytest.raises(pu.InputError, match="mse_weight"):
        short(mixed_scene, labels, mse_weight=weight)


def test_a_weight_without_labels_is_refused(mixed_scene):
    with pytest.raises(pu.InputError, match="labels with it"):
        pu.fit(pu.UnmixingModel(K), mixed_scene, mse_weight=1.0, progress=False)


def test_labels_with_names_name_the_endmembers(mixed_scene, labels):
    named = xr.DataArray(labels, dims=("y", "x", "endmember"), coords={"endmember": [f"material {k}" for k in "abcd"]})
    assert short(mixed_scene, named).names == list(named.endmember.values)
    assert short(mixed_scene, named, names=list("wxyz")).names == list("wxyz")


@pytest.mark.parametrize("concentration, moves", [(1.0, False), (5.0, True)])
def test_labels_do_not_hold_what_another_prior_moves(mixed_scene, labels, concentration, moves):
    """Under a prior that prefers mixtures SVI trains the means; under a flat one they stay at least squares."""
    fit = quiet_fit(pu.UnmixingModel(K, abundances=pu.priors.Dirichlet(concentration)), mixed_scene, labels=labels,
                    guide=pu.UnmixingGuide("mlp", "dirichlet"), config=replace(CONFIG, calibration_steps=0, sampling_steps=0))
    assert bool(fit.guide.head.mean.weight.any()) == moves

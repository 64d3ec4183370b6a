"""Neighbours that inform each other: maps as claimed, what a scene says of them, and a guide that makes use of it."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from short_fits import CONFIG, K, quiet_fit

import pyro_unmix as pu
from pyro_unmix.errors import InputError
from pyro_unmix.pairs import PriorScenes, pairs_from_prior
from pyro_unmix.priors import LogisticNormal, Sparse, SpatialDirichlet
from pyro_unmix.priors.spatial import difference_tail, field_correlation, fit_field, neighbour_correlations, random_field
from pyro_unmix.refine.shared import guide_as_shared

CONCENTRATION = torch.tensor([0.5, 1.0, 2.0])
# Errors of three abundances that sum to zero.
ERRORS = 0.03**2 * (3 * np.eye(3) - 1) / 2


def prior(strength=1.0, length=4.0, smoothness=1, edges=0.0):
    return SpatialDirichlet(CONCENTRATION.tolist(), False, strength, length, smoothness, edges)


def noisy(maps, seed=0):
    axes, variance, _ = np.linalg.svd(ERRORS)
    errors = np.random.default_rng(seed).standard_normal(maps.shape) @ (axes * np.sqrt(variance)).T
    return maps + errors


@pytest.mark.parametrize("settings", [{}, {"edges": 1.0}, {"smoothness": 3, "edges": 0.5}, {"strength": 0.0}, {"strength": 0.5}],
                         ids=str)
def test_every_pixel_is_dirichlet(settings):
    """Corners of 400 maps, independent of each other: a Kolmogorov test of each abundance against its Beta distribution, which
    fails one time in a thousand. Negative control: against the Beta of another."""
    corner = torch.stack([prior(**settings).draw_map((3, 3), CONCENTRATION)[0, 0] for _ in range(400)]).double().numpy()
    np.testing.assert_allclose(corner.sum(-1), 1.0, atol=1e-6)
    for k, a in enumerate(CONCENTRATION.tolist()):
        rest = float(CONCENTRATION.sum()) - a
        assert stats.kstest(corner[:, k], stats.beta(a, rest).cdf).pvalue > 1e-3
        assert stats.kstest(corner[:, k], stats.beta(2 * a, rest).cdf).pvalue < 1e-3


@pytest.mark.parametrize("length, smoothness", [(2.0, 1), (5.0, 1), (5.0, 3)])
def test_the_variogram_of_fields_is_as_claimed(length, smoothness):
    """Half the mean squared difference over 300 fields at lags 1, 3 and 8, within .04; a field of twice the length is told."""
    fields = random_field(300, (16, 16), length, smoothness)
    lags = (1, 3, 8)
    found = [float(0.5 * (fields[:, lag:] - fields[:, :-lag]).square().mean()) for lag in lags]
    claimed, other = (1 - field_correlation(scale * length, smoothness, 8)[[lag - 1 for lag in lags]] for scale in (1, 2))
    np.testing.assert_allclose(found, claimed, atol=0.04)
    assert abs(found - other).max() > 0.08
    assert float(fields.var()) == pytest.approx(1.0, abs=0.05)


def test_the_correlation_at_twice_the_length():
    """As the docstring says, and as that of `simulate_scene`, exp(-2)."""
    for smoothness in (1, 3):
        assert field_correlation(6.0, smoothness, 12)[11] == pytest.approx(0.14, abs=0.02)


@pytest.mark.parametrize("strength, length, smoothness", [(1.0, 4.0, 1), (1.0, 4.0, 3), (0.6, 4.0, 1)])
def test_what_a_scene_says_of_its_field(strength, length, smoothness):
    """Median of five maps of 64 x 64 with errors: strength within .15, length within a third."""
    truth, found = prior(strength, length, smoothness), []
    for seed in range(5):
        maps = noisy(truth.draw_map((64, 64), CONCENTRATION).double().numpy(), seed)
        found.append(SpatialDirichlet(CONCENTRATION.tolist(), False).filled(maps, ERRORS, CONCENTRATION))
    assert np.median([each.strength for each in found]) == pytest.approx(strength, abs=0.15)
    assert np.median([each.correlation_length for each in found]) == pytest.approx(length, rel=1 / 3)
    if strength == 1.0:
        assert np.median([each.smoothness for each in found]) == smoothness


def test_independent_pixels_have_no_strength():
    maps = noisy(prior(strength=0.0).draw_map((48, 48), CONCENTRATION).double().numpy())
    found = SpatialDirichlet().filled(maps, ERRORS, CONCENTRATION)
    assert found.strength == 0.0 and found.edges == 0.0


def test_a_mosaic_is_told_from_a_smooth_field():
    """Medians of five maps each; the tail of differences is what tells."""
    found = {}
    for edges in (0.0, 1.0):
        maps = [noisy(prior(edges=edges).draw_map((60, 60), CONCENTRATION).double().numpy(), seed) for seed in range(5)]
        tails = np.median([difference_tail(each, ERRORS) for each in maps])
        filled = [SpatialDirichlet(CONCENTRATION.tolist(), False).filled(each, ERRORS, CONCENTRATION).edges for each in maps]
        found[edges] = tails, np.median(filled)
    assert found[1.0][0] > found[0.0][0] + 0.3 and found[0.0][1] == 0.0 and found[1.0][1] > 0.5


def test_what_is_given_is_not_measured_and_masks_are_left_out():
    maps = noisy(prior().draw_map((40, 40), CONCENTRATION).double().numpy())
    maps[:10] = np.nan
    given = SpatialDirichlet([1.0, 1.0, 1.0], True, strength=0.3, edges=0.2).filled(maps, ERRORS, CONCENTRATION)
    assert (given.strength, given.edges) == (0.3, 0.2) and given.correlation_length > 1.5
    assert given.settings["concentration"] == CONCENTRATION.tolist() and given.learned


def test_errors_take_nothing_from_the_correlation_of_neighbours():
    """At lag one, with and without errors, over one map; taken for truth they would take a fifth of it."""
    maps = prior().draw_map((80, 80), CONCENTRATION).double().numpy()
    errors = 30 * ERRORS
    with_errors = maps + np.sqrt(30) * (noisy(maps) - maps)
    clean, corrected, taken = (neighbour_correlations(*each)[0][0] for each in (
        (maps, 0.0), (with_errors, np.trace(errors)), (with_errors, 0.0)))
    assert corrected == pytest.approx(clean, abs=0.05) and taken < clean - 0.1


def test_a_field_is_found_from_its_correlations():
    found = fit_field(0.8 * field_correlation(3.0, 3, 8))
    assert found["smoothness"] == 3 and found["strength"] == pytest.approx(0.8, abs=0.03)
    assert found["correlation_length"] == pytest.approx(3.0, rel=0.06)


@pytest.mark.parametrize("settings", [{"strength": 1.5}, {"strength": -0.1}, {"edges": 2.0}, {"correlation_length": 0.0},
                                      {"correlation_length": 1e3}, {"smoothness": 2}, {"strength": float("nan")}], ids=str)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(InputError, match="strength and edges from 0 to 1, a correlation_length up to 40, smoothness 1 or 3, got"):
        SpatialDirichlet(**settings)


def test_a_map_of_a_prior_that_is_open_is_refused():
    with pytest.raises(InputError, match="has not seen a scene yet; give all four"):
        SpatialDirichlet(strength=0.5).draw_map((4, 4), CONCENTRATION)


# In a fit


@pytest.fixture(scope="module")
def smooth():
    return pu.simulate_scene(K, (24, 24), n_bands=30, snr_db=15.0, correlation_length=5.0, seed=1)


@pytest.fixture(scope="module")
def known(smooth):
    return pu.UnmixingModel(K, endmembers=pu.priors.FixedEndmembers(smooth.reference.endmembers.values), brightness="none")


def started(model, scene):
    model, start = pu.initialize(model, scene)
    return model, start, pu.UnmixingGuide("cnn").bind(start, exact=True)


def test_pairs_are_whole_maps_with_their_spectra(smooth, known):
    """Neighbours in the truth resemble each other as the prior says; shuffled, they do not. Residuals are the noise."""
    model, start, guide = started(known.replace(abundances=SpatialDirichlet(1.0, False)), smooth)
    assert pairs_from_prior(model, start) and model.abundances.strength > 0.9
    scenes = PriorScenes(model, guide_as_shared(model, guide, torch.ones(K)), pu.Tiling(smooth), 1)
    near, far, ratio = [], [], []
    for _ in range(20):
        tiles, abundances, brightness = scenes()
        assert brightness is None and abundances.shape == (24 * 24, K) and abundances.min() > 0
        maps = abundances.reshape(24, 24, K)
        near.append(float((maps[1:] - maps[:-1]).square().mean()))
        far.append(float((abundances - abundances[torch.randperm(24 * 24)]).square().mean()))
        residuals = tiles.pixels() - abundances @ torch.as_tensor(smooth.reference.endmembers.values).float()
        ratio.append(float(residuals.std() / guide.noise.loc.detach().exp().square().mean().sqrt()))
    assert np.mean(near) < 0.2 * np.mean(far) and np.mean(ratio) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("abundances", [Sparse(), LogisticNormal()], ids=str)
def test_other_laws_are_drawn_pixel_by_pixel(smooth, known, abundances):
    model, start, guide = started(known.replace(abundances=abundances), smooth)
    assert pairs_from_prior(model, start) and not pairs_from_prior(known, start)
    scenes = PriorScenes(model, guide_as_shared(model, guide, torch.ones(K)), pu.Tiling(smooth), 1)
    truth = torch.cat([scenes()[1] for _ in range(10)])
    expected = abundances(K).sample((20_000,))
    torch.testing.assert_close(truth.amax(-1).mean(), expected.amax(-1).mean(), atol=0.02, rtol=0)


def test_neighbours_make_abundances_more_accurate(smooth, known):
    """At 15 dB, 60 steps: RMSE less than four fifths of that of independent pixels, but not without strength."""
    config = replace(CONFIG, calibration_steps=60, tile_size=24, sampling_steps=200)
    rmse = {}
    for name, abundances in (("none", None), ("spatial", SpatialDirichlet()), ("weak", SpatialDirichlet(strength=0.0))):
        found = quiet_fit(known.replace(abundances=abundances), smooth, config=config, guide="cnn")
        rmse[name] = pu.evaluate(found.posterior(smooth).summary(), smooth.reference).rmse
    assert rmse["spatial"] < 0.8 * rmse["none"] and rmse["weak"] > 0.9 * rmse["none"]


def test_refining_would_forget_the_neighbours(smooth, known):
    found = quiet_fit(known.replace(abundances=SpatialDirichlet()), smooth)
    with pytest.raises(InputError, match="a prior under which pixels are independent, got a spatial one of"):
        pu.refine(found, smooth, progress=False)
    assert found.posterior(smooth).findings()


def test_noise_that_neighbours_share_says_nothing_of_them():
    """Noise smooth in space and over bands: a warning, no strength, and the fit that a Dirichlet gives."""
    made = pu.simulate_scene(K, (20, 20), n_bands=30, snr_db=200.0, correlation_length=2.0, seed=2)
    smooth_noise = torch.nn.functional.avg_pool2d(torch.randn(1, 4, 24, 24), 5, stride=1)[0].movedim(0, -1).numpy()
    bands = np.sin(np.arange(30) / 6.0 + np.arange(4)[:, None])
    scene = pu.Scene(made.reflectance.values + 0.05 * smooth_noise @ bands)
    model = pu.UnmixingModel(K, endmembers=pu.priors.GPEndmembers(made.reference.endmembers.values, 0.02))
    with pytest.warns(pu.errors.UnmixWarning, match="errors of neighbouring pixels correlate"):
        filled, start = pu.initialize(model.replace(abundances=SpatialDirichlet()), scene)
    assert not start.independent_errors and filled.abundances.strength == 0.0 and filled.abundances.flat
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pu.errors.UnmixWarning)
        one, other = (quiet_fit(model.replace(abundances=each), scene) for each in (SpatialDirichlet(), None))
    np.testing.assert_array_equal(one.posterior(scene).summary().abundance_mean, other.posterior(scene).summary().abundance_mean)

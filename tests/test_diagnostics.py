"""Diagnostics pass what is right and fail what is not: each has its control."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats

from pyro_unmix.baselines.fcls import fcls, nnls
from pyro_unmix.diagnostics import (
    check_residuals,
    compare_to_nuts,
    coverage_curve,
    crps,
    findings,
    pit,
    sbc_ranks,
    uniformity,
)
from pyro_unmix.errors import InputError
from pyro_unmix.scene import Scene
from pyro_unmix.simulate import absorption_spectra, simulate_scene

N, K, D = 2000, 3, 99


def posterior(width=1.0, shift=0.0, seed=0):
    """Draws `(D, N, K)` of normal posteriors, and the truth; right where it is one more draw."""
    random = np.random.default_rng(seed)
    truth = random.standard_normal((N, K))
    centre = truth + random.standard_normal((N, K))  # prior and noise both standard normal: posterior N(centre / 2, 1 / 2)
    return centre / 2 + shift + width * np.sqrt(0.5) * random.standard_normal((D, N, K)), truth


WRONG = [{"width": 0.7}, {"width": 1.4}, {"shift": 0.5}]  # over-confident, under-confident, biased


def test_coverage_of_a_right_posterior_is_nominal():
    """6,000 intervals: off by more than 0.02 at any level in fewer than one seed of 500."""
    found = coverage_curve(*posterior())
    assert abs(found.overall - found.level).max() < 0.02
    assert found.per_endmember.dims == ("level", "endmember") and found.per_endmember.shape == (4, K)
    np.testing.assert_allclose(found.per_endmember.mean("endmember"), found.overall)


def test_coverage_of_few_draws_is_nominal():
    """With 19 draws a 90 % interval is the range of all of them."""
    draws, truth = posterior()
    assert coverage_curve(draws[:19], truth, [0.9]).overall.item() == pytest.approx(0.9, abs=0.02)
    assert coverage_curve(draws[:19], truth, [0.5]).overall.item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("wrong", WRONG)
def test_coverage_of_a_wrong_posterior_is_not(wrong):
    found = coverage_curve(*posterior(**wrong))
    assert abs(found.overall - found.level).max() > 0.05


def test_coverage_of_quantiles_is_that_of_their_draws():
    draws, truth = posterior()
    truth[:5] = np.nan
    probabilities = [0.05, 0.25, 0.5, 0.75, 0.95]
    quantiles = xr.DataArray(np.quantile(draws, probabilities, axis=0, method="weibull"), dims=("quantile", "pixel", "endmember"))
    found = coverage_curve(quantiles, truth, [0.5, 0.9], probabilities=probabilities)
    xr.testing.assert_allclose(found, coverage_curve(draws, truth, [0.5, 0.9]))
    with pytest.raises(InputError, match="both quantiles of every level"):
        coverage_curve(quantiles, truth, [0.8], probabilities=probabilities)


def test_ranks_of_a_right_posterior_are_uniform():
    """Fails in one seed of 300, three tests at 0.001."""
    ranks = sbc_ranks(*posterior())
    assert ranks.shape == (N, K) and ranks.min() >= 0 and ranks.max() <= D
    assert (uniformity(ranks, D) > 0.001).all()


@pytest.mark.parametrize("wrong", WRONG)
def test_ranks_of_a_wrong_posterior_are_not(wrong):
    assert (uniformity(sbc_ranks(*posterior(**wrong)), D) < 1e-6).all()


@pytest.mark.parametrize("n_draws", [1, 7, 30, 100])
def test_p_values_are_uniform_however_many_draws(n_draws):
    """300 tests of right ranks; the Kolmogorov-Smirnov test of their p-values fails in one seed of 1,000."""
    ranks = np.random.default_rng(0).integers(0, n_draws + 1, (400, 300))
    p = uniformity(ranks, n_draws)
    assert p.shape == (300,) and ((p < 0.05).mean() < 0.1)
    if n_draws > 1:  # two bins of whole counts have few p-values
        assert stats.kstest(p, "uniform").pvalue > 0.001


def test_pit_is_where_truth_lies():
    draws = np.linspace(0, 1, D)[:, None] * np.ones(3)
    np.testing.assert_allclose(pit(draws, np.array([-1.0, 0.5001, 2.0])), [0.005, 0.505, 0.995])
    narrow, wide = (np.abs(pit(*posterior(width=width)) - 0.5).mean() for width in (0.7, 1.4))
    assert narrow > 0.27 and wide < 0.23  # 0.25 where it is right


def test_crps_equals_the_closed_form_of_a_normal():
    """Gneiting and Raftery (2007), eq. 21 for N(mean, sd); of 40,000 draws, off by 1 % of sd at most."""
    mean, sd, truth = 1.0, 0.5, np.array([0.2, 1.0, 1.9])
    z = (truth - mean) / sd
    exact = sd * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    draws = np.random.default_rng(0).normal(mean, sd, (40_000, 1)) * np.ones(3)
    np.testing.assert_allclose(crps(draws, truth), exact, atol=0.01 * sd)
    # Draws from a wider normal, weighted into this one.
    wide = np.random.default_rng(1).normal(mean, 2 * sd, (40_000, 1)) * np.ones(3)
    weights = stats.norm.pdf(wide, mean, sd) / stats.norm.pdf(wide, mean, 2 * sd)
    np.testing.assert_allclose(crps(wide, truth, weights), exact, atol=0.015 * sd)
    assert (np.abs(crps(wide, truth) - exact) > 0.03 * sd).all()


def test_crps_equals_its_definition():
    random = np.random.default_rng(0)
    draws, truth, weights = random.standard_normal((9, 4)), random.standard_normal(4), random.random((9, 4))
    share = weights / weights.sum(axis=0)
    apart = np.abs(draws[:, None] - draws)
    direct = (share * np.abs(draws - truth)).sum(axis=0) - 0.5 * (share[:, None] * share * apart).sum(axis=(0, 1))
    np.testing.assert_allclose(crps(draws, truth, weights), direct)
    np.testing.assert_allclose(crps(draws[:1], truth), np.abs(draws[0] - truth))


def test_comparison_with_exact_draws():
    exact = np.random.default_rng(0).standard_normal((4000, 5, K)) * [1.0, 2.0, 3.0]
    other = 0.5 * np.random.default_rng(1).standard_normal((4000, 5, K)) * [1.0, 2.0, 3.0]
    other[:, 2] += 1.0
    same, table = compare_to_nuts(exact[::2], exact[1::2]), compare_to_nuts(other, exact)
    assert same.mean_difference_max < 0.15 and abs(same.sd_ratio - 1).max() < 0.1
    np.testing.assert_allclose(table.mean_difference[2], 1 / np.array([1.0, 2.0, 3.0]), atol=0.1)
    assert table.sd_ratio_median.item() == pytest.approx(0.5, abs=0.03)
    assert table.sd_ratio_min < table.sd_ratio_median < table.sd_ratio_max
    assert table.mean_difference_max == np.abs(table.mean_difference).max() > table.mean_difference_rms


def least_squares(scene, endmembers, scale, brightness=False):
    """Maps of abundances, and of brightness where asked for."""
    pixels, endmembers = torch.as_tensor(scene.pixels() / scale).double(), torch.as_tensor(endmembers / scale).double()
    found = (nnls if brightness else fcls)(pixels, endmembers).numpy()
    factor = found.sum(axis=1) if brightness else np.ones(len(found))
    maps = np.full((*scene.shape[:2], len(endmembers) + 1), np.nan)
    maps[scene.mask.values] = np.column_stack([found / factor[:, None], factor])
    return maps[..., :-1], maps[..., -1] if brightness else None


def case(name, seed, n_endmembers=4, snr_db=30.0):
    """What `check_residuals` takes, of a scene of 24 x 24 pixels with the mistake of that name."""
    random = np.random.default_rng(seed)
    scene = simulate_scene(n_endmembers, (24, 24), n_bands=50, snr_db=snr_db, concentration=0.5, correlation_length=3.0,
                           brightness=0.25 if "brightness" in name else 0.0, seed=seed)
    endmembers, image = scene.reference.endmembers.values.astype(float), scene.reflectance.values.astype(float)
    signal = scene.reference.abundances.values @ endmembers
    sd = np.sqrt(np.mean(image**2) / (10 ** (snr_db / 10) + 1))
    noise = np.full(50, sd)
    white = random.standard_normal(image.shape)
    correlation = 0.7 ** np.abs(np.subtract.outer(np.arange(50), np.arange(50)))
    if "bands" in name:
        scene = Scene(signal + sd * white @ np.linalg.cholesky(correlation).T)
    elif name == "pixels correlated":
        scene = Scene(signal + sd * (white + np.roll(white, 1, axis=0) + np.roll(white, 1, axis=1)) / np.sqrt(3))
    elif name == "noise depends on signal":
        norm = np.linalg.norm(signal, axis=2, keepdims=True)
        scene = Scene(signal + sd * (norm / norm.mean()) * white)
    if name == "endmember missing":
        endmembers = endmembers[:-1]
    elif name == "endmember not needed":
        endmembers = np.vstack([endmembers, absorption_spectra(1, np.linspace(400.0, 2500.0, 50), seed + 100)])
    elif name == "nearly the same":
        endmembers = np.vstack([endmembers, endmembers[0] * (1 + 0.01 * np.sin(np.arange(50)))])
    noise = noise * {"noise too small": 1 / 3, "noise too large": 3.0}.get(name, 1.0)
    abundances, brightness = least_squares(scene, endmembers, noise, brightness="and modelled" in name)
    if name == "abundances off":
        abundances = 0.85 * abundances + 0.15 / abundances.shape[2]
    if name == "bands correlated and modelled":
        noise, brightness = sd * np.linalg.cholesky(correlation), None
        abundances = least_squares(scene, endmembers, 1.0)[0]
    return scene, abundances, brightness, endmembers, noise


def names(found):
    return [each.name for each in found]


@pytest.mark.parametrize("name", ["correct", "brightness and modelled"])
@pytest.mark.parametrize("seed", [11, 12, 13])
def test_silent_on_correct_scenes(name, seed):
    """Here 3 of 3; in 400 such scenes nothing was wrong with noise or mixture, in 21 something was said of an endmember."""
    assert names(findings(check_residuals(*case(name, seed)))) == ["trusted"]


@pytest.mark.parametrize("name", ["noise too small", "noise too large", "endmember missing", "brightness ignored",
                                  "bands correlated", "pixels correlated", "noise depends on signal", "abundances off"])
@pytest.mark.parametrize("seed", [11, 12])
def test_every_mistake_is_found_and_no_other(name, seed):
    """Found in 20 of 20 scenes in each of six settings."""
    assert names(findings(check_residuals(*case(name, seed)))) == [name, "best effort"]


@pytest.mark.parametrize("name", ["brightness ignored", "endmember missing", "correct"])
def test_noise_learned_from_the_residuals_hides_no_mistake(name):
    scene, abundances, _, endmembers, _ = case(name, 11)
    noise = np.sqrt(np.mean((scene.reflectance.values - abundances @ endmembers) ** 2, axis=(0, 1)))
    checks = check_residuals(scene, abundances, None, endmembers, noise)
    assert checks.reduced_chi_square == pytest.approx(1.05, abs=0.03)  # chi-square is content in all three
    found = names(findings(checks))
    assert found == ["trusted"] if name == "correct" else name in found and found[-1] == "best effort"


@pytest.mark.parametrize("name", ["endmember not needed", "nearly the same"])
def test_one_endmember_too_many(name):
    found = findings(check_residuals(*case(name, 11)), names=list("abcde"))
    assert "endmember not needed" in names(found) and found[-1].name == "trusted"
    spoken = next(each for each in found if each.name == "endmember not needed")
    assert ("without e" in spoken.what) if name == "endmember not needed" else ("without a, whose nearest is e" in spoken.what)


def test_correlated_noise_that_is_modelled_is_white():
    scene, abundances, brightness, endmembers, factor = case("bands correlated and modelled", 11)
    checks = check_residuals(scene, abundances, brightness, endmembers, factor)
    assert abs(checks.band_correlation) < 0.03 and checks.structures == 0 and checks.noise_ratio == pytest.approx(1.0, abs=0.02)
    assert "bands correlated" not in names(findings(checks))
    diagonal = check_residuals(scene, abundances, brightness, endmembers, np.full(50, factor[0, 0]))
    assert diagonal.effective_bands < 0.6 * checks.effective_bands


def test_endmember_that_is_not_shown():
    checks = check_residuals(*case("correct", 11))
    mixed = findings(dataclasses.replace(checks, purity=np.array([0.9, 0.4, 0.9, 0.9])), names=["soil", "tree", "road", "roof"])
    assert [each.what for each in mixed[:-1]] == ["The scene does not show tree: no pixel holds more than 40 % of it."]
    prior = np.full((4, 50), 0.1)
    sds = prior * np.array([[0.1], [0.5], [0.99], [0.2]])
    found = findings(checks, endmember_sd=sds, endmember_prior_sd=prior)
    assert [each.what for each in found[:-1]] == ["The scene does not show endmember 3: its prior was not narrowed."]
    assert found[-1].name == "trusted" and str(found[-1]).startswith("The residuals are white")
    prior[[1, 2]] = np.inf  # known: neither its purity nor its prior is asked for
    mixed = dataclasses.replace(checks, purity=np.array([0.9, 0.4, 0.4, 0.4]))
    found = findings(mixed, endmember_sd=sds, endmember_prior_sd=prior)
    assert [each.what for each in found[:-1]] == ["The scene does not show endmember 4: no pixel holds more than 40 % of it."]


@pytest.mark.parametrize("ratio, said", [(3.0, True), (1 / 3, True), (1.5, False), (1.0, False), (None, False)])
def test_noise_that_is_not_what_it_was_stated_to_be(ratio, said):
    """It is learned, so that intervals can be trusted all the same."""
    found = findings(check_residuals(*case("correct", 11)), noise_restated=ratio)
    assert [each.name for each in found] == ["noise restated"] * said + ["trusted"]
    if said:
        assert f"{ratio:.2f} times what it was stated" in found[0].what


def test_chi_square_is_calibrated():
    """576 chi-squares of right noise; the Kolmogorov-Smirnov test of their probabilities fails in one seed of 1,000. Their mean
    is off by more than 0.02 in one of 2,000."""
    scene = simulate_scene(4, (24, 24), n_bands=50, concentration=8.0, snr_db=40.0, seed=1)  # all abundances well above 0
    endmembers = scene.reference.endmembers.values.astype(float)
    noise = np.full(50, np.sqrt(np.mean(scene.reflectance.values.astype(float) ** 2) / (1e4 + 1)))
    abundances, _ = least_squares(scene, endmembers, noise)
    checks = check_residuals(scene, abundances, None, endmembers, noise)
    assert (checks.degrees_of_freedom == 47).mean() > 0.98
    p = stats.chi2.sf(checks.chi_square, checks.degrees_of_freedom).ravel()
    assert stats.kstest(p, "uniform").pvalue > 0.001 and checks.reduced_chi_square == pytest.approx(1.0, abs=0.02)
    wrong = check_residuals(scene, abundances, None, endmembers, 0.9 * noise)
    assert stats.kstest(stats.chi2.sf(wrong.chi_square, wrong.degrees_of_freedom).ravel(), "uniform").pvalue < 1e-6


def test_white_noise_has_no_structures():
    """One scene of a thousand has: two of 60 would be one seed of 600."""
    endmembers = absorption_spectra(3, np.linspace(400.0, 2500.0, 30))
    abundances, noise = np.full((10, 10, 3), 1 / 3), np.full(30, 0.01)
    found = []
    for seed in range(60):
        scene = Scene(abundances @ endmembers + noise * np.random.default_rng(seed).standard_normal((10, 10, 30)))
        found.append(check_residuals(scene, abundances, None, endmembers, noise))
    assert sum(each.structures > 0 for each in found) <= 1
    assert np.mean([each.strongest for each in found]) > 0.7  # close enough to the edge to be a test


def test_masked_pixels_count_nowhere():
    scene, abundances, _, endmembers, noise = case("correct", 11)
    whole = check_residuals(scene, abundances, None, endmembers, noise)
    mask = np.ones((24, 24), bool)
    mask[3:9, 5:8] = False
    image = np.where(mask[..., None], scene.reflectance.values, 7.0)
    part = check_residuals(Scene(image, mask=mask), np.where(mask[..., None], abundances, np.nan), None, endmembers, noise)
    np.testing.assert_array_equal(np.isnan(part.chi_square), ~mask)
    np.testing.assert_allclose(part.chi_square.values[mask], whole.chi_square.values[mask])
    assert abs(part.pixel_correlation) < 0.03 and names(findings(part)) == ["trusted"]


@pytest.mark.parametrize("unit", [1e-3, 1e4])
def test_unit_of_the_scene_does_not_matter(unit):
    scene, abundances, _, endmembers, noise = case("noise too small", 11)
    a, b = (check_residuals(each, abundances, None, factor * endmembers, factor * noise)
            for each, factor in ((scene, 1.0), (Scene(unit * scene.reflectance.values), unit)))
    for field in dataclasses.fields(a):
        np.testing.assert_allclose(getattr(a, field.name), getattr(b, field.name), rtol=1e-3, atol=1e-3)


def test_two_endmembers_and_pixels_without_noise():
    scene, *given = case("correct", 3, n_endmembers=2)
    assert names(findings(check_residuals(scene, *given)))[-1] == "trusted"
    endmembers = absorption_spectra(2, np.linspace(400.0, 2500.0, 10))
    abundances = np.full((3, 4, 2), 0.5)
    abundances[0, 0] = [0.2, 0.8]
    checks = check_residuals(Scene(abundances @ endmembers), abundances, None, endmembers, np.full(10, 0.01))
    assert checks.noise_ratio < 1e-3 and names(findings(checks))[-1] == "best effort"


def refuse(change):
    scene, abundances, _, endmembers, noise = case("correct", 11)
    given = {"abundances": abundances, "brightness": None, "endmembers": endmembers, "noise_cholesky": noise}
    return check_residuals(scene, **given | change(given))


@pytest.mark.parametrize("change, message", [
    (lambda g: {"abundances": g["abundances"][..., :-1]}, r"abundances \(24, 24, 3\)"),
    (lambda g: {"brightness": np.ones(5)}, r"brightness \(5,\)"),
    (lambda g: {"noise_cholesky": np.ones(7)}, r"noise \(7,\)"),
    (lambda g: {"noise_cholesky": 0 * g["noise_cholesky"]}, "positive noise"),
    (lambda g: {"abundances": g["abundances"] * np.nan}, "finite abundances"),
])
def test_what_does_not_belong_together_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        refuse(change)


@pytest.mark.parametrize("call, message", [
    (lambda: sbc_ranks(np.ones((5, 3)), np.ones(4)), "same shape"),
    (lambda: pit(np.ones((5, 3)), np.array([1.0, np.nan, 1.0])), "without NaN"),
    (lambda: coverage_curve(np.ones((5, 3)), np.ones(3), [1.5]), "levels between 0 and 1"),
    (lambda: uniformity(np.zeros(10), 9), "at least 40"),
    (lambda: uniformity(np.full(50, 11), 9), "from 11"),
    (lambda: compare_to_nuts(np.ones((5, 2, 3)), np.ones((5, 2, 2))), "same pixels"),
    (lambda: compare_to_nuts(np.ones((5, 2, 3)), np.ones((5, 2, 3))), "that vary"),
    (lambda: findings(check_residuals(*case("correct", 11)), names=["a"]), "4 names"),
    (lambda: findings(check_residuals(*case("correct", 11)), endmember_sd=np.ones((4, 50))), "both or none"),
])
def test_what_cannot_be_judged_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()

"""Models compared: densities against quadrature, leave-one-out against pixels held out, and what is said of its limits."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace

import arviz
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

import pyro_unmix as pu
from pyro_unmix.arviz import loo
from pyro_unmix.compare import marginal_log_likelihood
from pyro_unmix.numerics import seeded
from pyro_unmix.sources import shared_by_guide

L, NOISE = 16, 0.05
CONFIG = pu.FitConfig(svi_steps=40, calibration_steps=30, sampling_steps=160, kl_warmup_steps=20, window=20, device="cpu")
DRAWS = {"shared_draws": 100, "draws": 100}


def scene_of(k, *, brightness=None, seed=1, mask=None):
    """16 x 15 pixels of straight spectra and noise that is known; seen dimly, abundances are far from certain."""
    random = np.random.default_rng(seed)
    endmembers = np.stack([0.3 + 0.2 * np.linspace(0, 1, L), 0.5 - 0.3 * np.linspace(0, 1, L),
                           0.4 - 0.3 * np.sin(np.linspace(0, 3, L))])[:k]
    abundances = random.dirichlet(np.ones(k), (16, 15))
    factor = np.exp((brightness or 0.0) * random.standard_normal((16, 15)))
    image = factor[..., None] * (abundances @ endmembers) + NOISE * random.standard_normal((16, 15, L))
    return pu.Scene(image, mask=mask, abundances=abundances, endmembers=endmembers)


def fit_of(scene, **parts):
    spectra = scene.reference.endmembers.values
    prior = pu.priors.MVNEndmembers(spectra, pu.priors.smooth_scale_tril(None, L, 0.003))
    model = pu.UnmixingModel(len(spectra), **{"endmembers": prior, "brightness": "none", "evidence": 1.0} | parts)
    return pu.fit(model, scene, guide="mlp", config=CONFIG, progress=False)


def own(k):
    return dist.Dirichlet(torch.full((k,), 2.0))


@pytest.fixture(scope="module")
def scene():
    return scene_of(3)


@pytest.fixture(scope="module")
def fits(scene):
    """With exact draws, and without."""
    return {"exact": fit_of(scene, abundances=pu.priors.Dirichlet(1.0)), "re-weighted": fit_of(scene, abundances=own)}


def quiet(*arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pu.UnmixWarning)
        return pu.compare(*arguments, **options)


def simplex(k, n):
    """Middles of equal cells of the simplex, `(cells, k)`."""
    middles = (np.arange(n) + 0.5) / n
    if k == 2:
        return np.stack([middles, 1 - middles], axis=1)
    pairs = np.stack(np.meshgrid(middles, middles), axis=-1).reshape(-1, 2)
    root = np.sqrt(pairs[:, 0])  # uniform on a triangle
    return np.stack([1 - root, root * (1 - pairs[:, 1]), root * pairs[:, 1]], axis=1)


def by_quadrature(pixels, endmembers, noise_scale, concentration, brightness_scale=None):
    """log p(y_n), `(n,)`, summed over cells that all hold as much of a flat prior."""
    cells = simplex(len(endmembers), 400 if len(endmembers) == 2 else 150)
    log_prior = stats.dirichlet(concentration).logpdf(cells.T) - stats.dirichlet(np.ones(len(endmembers))).logpdf(cells[0])
    steps = np.zeros(1) if brightness_scale is None else np.linspace(-6.0, 6.0, 121)  # standard deviations of the logarithm
    found = []
    for step in steps:
        mean = np.exp(step * (brightness_scale or 0.0)) * (cells @ endmembers)
        log_density = stats.norm.logpdf(pixels[:, None], mean, noise_scale).sum(axis=-1) + log_prior
        found.append(logsumexp(log_density, axis=1) - np.log(len(cells)) - step**2 / 2)
    return logsumexp(found, axis=0) - np.log(np.exp(-(steps**2) / 2).sum())


@pytest.mark.parametrize("k, brightness, abundances", [(2, None, pu.priors.Dirichlet(1.0)), (3, None, pu.priors.Dirichlet(1.0)),
                                                       (2, 0.2, pu.priors.Dirichlet(1.0)), (3, None, own)],
                         ids=["K 2", "K 3", "brightness", "without exact draws"])
def test_a_pixel_is_integrated_over_what_is_its_own(k, brightness, abundances):
    scene = scene_of(k, brightness=brightness)
    fit = fit_of(scene, abundances=abundances, brightness=pu.noise.PixelBrightness(0.2) if brightness else "none")
    scale = None
    with seeded(4):
        found, effective = marginal_log_likelihood(fit, scene, scene, 2, 2000)
    if fit.shared is None:
        with seeded(4):
            endmembers, noise_scale = shared_by_guide(fit, 2)
        concentration = np.full(k, 2.0)
    else:
        shared = fit.shared.spread(2)
        endmembers, noise_scale, concentration = shared.endmembers, shared.noise_scale, np.ones(k)
        scale = shared.brightness_scale
    for s in range(2):
        exact = by_quadrature(scene.pixels()[:30].astype(float), endmembers[s].double().numpy(), noise_scale[s].double().numpy(),
                              concentration, None if scale is None else float(scale[s]))
        error = found[s, :30] - exact
        # A logarithm is off by one over the root of the effective draws; the worst of 30 by three and a half of these.
        assert abs(error.mean()) < 0.03 and (abs(error) < 0.03 + 4 / np.sqrt(effective[:30])).all()


def test_leave_one_out_is_that_of_arviz():
    random = np.random.default_rng(0)
    log_likelihood = random.standard_normal((200, 7)) * np.array([0.1, 0.5, 1.0, 2.0, 3.0, 0.2, 1e-13])
    elpd, khat = loo(log_likelihood)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of heavy tails
        exact = arviz.loo(arviz.from_dict(log_likelihood={"y": log_likelihood[None]}), reff=1.0, pointwise=True)
    np.testing.assert_allclose(elpd, exact.loo_i, atol=1e-6)
    np.testing.assert_allclose(khat[:6], exact.pareto_k[:6], atol=1e-6)


def test_the_table(fits, scene):
    table = quiet(list(fits.values()), scene, names=list(fits), **DRAWS)
    assert list(table.columns) == ["elpd", "se", "difference", "difference_se", "p_loo", "bad_khat", "elbo", "doubts"]
    assert set(table.index) == set(fits) and table.elpd.is_monotonic_decreasing
    first, last = table.iloc[0], table.iloc[1]
    assert first.difference == first.difference_se == 0 and last.difference_se > 0
    np.testing.assert_allclose(last.difference, first.elpd - last.elpd)
    assert (table.p_loo > 0).all() and (table.p_loo < 3 * L + L + 5).all()
    # The bound lies below the density of the scene, which is below the sum over pixels given the others.
    assert (table.elbo * scene.n_pixels < table.elpd).all()
    assert quiet(list(fits.values()), scene, names=list(fits), **DRAWS).equals(table)


def test_leaving_a_pixel_out_is_predicting_it(fits, scene):
    """The score of a third of the pixels: left out one by one, and unseen by the fit, which knows a little less."""
    held_out = np.zeros((16, 15), bool)
    held_out[::3] = True
    without = pu.Scene(scene.reflectance, mask=~held_out, endmembers=scene.reference.endmembers.values)
    unseen = quiet([fit_of(without, abundances=pu.priors.Dirichlet(1.0))], scene, held_out=held_out, **DRAWS).iloc[0]
    fit = fits["exact"]
    with seeded(0):
        left_out = loo(marginal_log_likelihood(fit, scene, scene, 100, 100)[0])[0][held_out.ravel()].sum()
    assert np.isnan(unseen.p_loo) and np.isnan(unseen.bad_khat) and unseen.doubts == ""
    assert abs(unseen.elpd - left_out) < 4.0 and unseen.elpd > 0
    assert quiet([fit], scene, held_out=held_out, **DRAWS).doubts.item() == "other pixels"


def test_the_right_model_wins_and_given_its_own_abundances_a_pixel_cannot_say():
    """Negative control: with abundances that the pixel has fitted, leave-one-out rests on a few draws."""
    bright = scene_of(2, brightness=0.4, seed=3)
    right, wrong = (fit_of(bright, brightness=each) for each in ("pixel", "none"))
    table = quiet([wrong, right], bright, names=["wrong", "right"], **DRAWS)
    assert table.index[0] == "right" and table.difference["wrong"] > 5 * table.difference_se["wrong"]
    data = right.posterior(bright).to_arviz(100, groups=["posterior", "log_likelihood"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        conditional = arviz.loo(data, reff=1.0, pointwise=True)
    bad = float((conditional.pareto_k > 1 - 1 / np.log10(100)).mean())
    assert bad > 0.2 > table.bad_khat["right"] + 0.1
    assert conditional.p_loo > 3 * table.p_loo["right"]


def doubts(fit, scene, **options):
    table = quiet([fit], scene, **DRAWS | options)
    return table.doubts.item().split(", "), table.attrs["findings"]


def test_what_is_right_is_not_doubted(fits, scene, tmp_path):
    assert doubts(fits["exact"], scene)[0] == [""]
    pu.save_run(tmp_path, fits["exact"], fits["exact"].posterior(scene))
    assert doubts(pu.load_fit(tmp_path), scene)[0] == [""]


def test_what_is_not_valid_is_said(fits, scene):
    fit = fits["exact"]
    other = pu.Scene(scene.reflectance * 1.01)
    assert "other pixels" in doubts(fit, other)[0]
    mask = np.ones((16, 15), bool)
    mask[0, 0] = False
    assert "other pixels" in doubts(fit, pu.Scene(scene.reflectance, mask=mask))[0]
    assert "pixels unknown" in doubts(replace(fit, scene_digest=""), scene)[0]
    assert "not calibrated" in doubts(replace(fit, calibrated=False), scene)[0]
    cut = copy.deepcopy(fit)
    cut.model.evidence = 0
    found, sentences = doubts(cut, scene)
    assert "prior from the scene" in found and any("helped to place the endmembers" in sentence for sentence in sentences)
    held_out = ~mask
    cut.scene_digest = pu.Scene(scene.reflectance, mask=mask).digest()
    assert quiet([cut], scene, held_out=held_out, **DRAWS).doubts.item() == "", "no prior has seen what is scored"
    with pytest.warns(pu.UnmixWarning, match="the comparison is in doubt. model 1: It was fitted to other pixels"):
        pu.compare([fit], other, **DRAWS)


def test_a_guide_in_the_wrong_place_is_found_out(fits, scene):
    lost = copy.deepcopy(fits["re-weighted"])
    lost.guide.head.forward = lambda features, estimate: dist.Dirichlet(  # all of the second, surely
        torch.tensor([1.0, 1e4, 1.0]).expand(len(features), 3))
    assert "integral not reached" in doubts(lost, scene)[0]


def test_pixels_that_err_together_are_no_witnesses(scene):
    random = np.random.default_rng(0)
    error = np.repeat(np.repeat(random.standard_normal((8, 8, L)), 2, axis=0), 2, axis=1)[:, :15]
    together = pu.Scene(scene.reflectance + 0.1 * error, endmembers=scene.reference.endmembers.values)
    assert "pixels correlated" in doubts(fit_of(together), together)[0]


@pytest.mark.parametrize("change, complaint", [
    ({"fits": []}, "expected fits, .*got 0 fits"), ({"names": ["a"]}, "as many names that differ"),
    ({"names": ["a", "a"]}, "names that differ"), ({"shared_draws": 24}, "at least 25 shared_draws"),
    ({"draws": 3}, "at least 25 shared_draws and draws, got 100 and 3"),
    ({"held_out": np.zeros((16, 15))}, r"held_out of True and False, shape \(16, 15\)"),
    ({"held_out": np.zeros((16, 15), bool)}, "some pixels in use held out, and some not, got 0 of 240"),
    ({"held_out": np.ones((16, 15), bool)}, "got 240 of 240"), ({"bands": 5}, "a scene of the 16 bands"),
])
def test_what_cannot_be_compared_is_refused(fits, scene, change, complaint):
    if bands := change.pop("bands", None):
        scene = pu.Scene(scene.reflectance.values[..., :bands])
    with pytest.raises(pu.InputError, match=complaint):
        pu.compare(change.pop("fits", list(fits.values())), scene, **change)

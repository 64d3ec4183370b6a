"""Priors of the endmembers: what they hold, how they learn it, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pyro_unmix as pu
from pyro_unmix.errors import InputError
from pyro_unmix.initialize import informed_endmembers
from pyro_unmix.priors import (
    FixedEndmembers,
    GPEndmembers,
    LogNormalEndmembers,
    MVNEndmembers,
    check_endmember_prior,
    library_endmembers,
    smooth_scale_tril,
)
from pyro_unmix.priors.endmembers import spectral_length_scale

L = 60
WAVELENGTHS = np.linspace(400.0, 1600.0, L)
MEAN = 0.5 + 0.3 * np.sin(WAVELENGTHS / 200.0 + np.arange(3)[:, None])


def gaussian_process(n, length_scale, seed=0, bands=L, wavelengths=WAVELENGTHS):
    factor = smooth_scale_tril(wavelengths, bands, 0.1, length_scale=length_scale).double().numpy()
    return np.random.default_rng(seed).standard_normal((n, bands)) @ factor.T


def covariances(prior):
    return (prior.scale_tril.double() @ prior.scale_tril.double().mT).numpy()


@pytest.mark.parametrize("length_scale", [50.0, 200.0, 600.0])
def test_the_length_scale_of_spectra_is_found(length_scale):
    """Of 20 spectra, within a factor of 1.4; one of a fifth is not taken for it."""
    found = spectral_length_scale(gaussian_process(20, length_scale), WAVELENGTHS)
    assert length_scale / 1.4 < found < 1.4 * length_scale


def test_a_length_scale_that_is_open_is_that_of_the_mean():
    spectra = gaussian_process(3, 80.0) + 0.5
    learned, given = GPEndmembers(spectra, 0.02, wavelengths=WAVELENGTHS), GPEndmembers(spectra, 0.02, 80.0, WAVELENGTHS)
    assert learned.settings["length_scale"] == spectral_length_scale(spectra, WAVELENGTHS)
    assert 30 < learned.settings["length_scale"] < 200 and given.settings["length_scale"] == 80.0
    torch.testing.assert_close(given.scale_tril[0], smooth_scale_tril(WAVELENGTHS, L, 0.02, length_scale=80.0))
    assert given.of_one_kernel and GPEndmembers(MEAN, [0.1, 0.2, 0.3]).of_one_kernel


def test_spectra_without_features_have_some_length_scale():
    assert GPEndmembers(np.ones((2, 10)), 0.1).settings["length_scale"] == 100.0


def test_known_endmembers_hardly_vary():
    made = FixedEndmembers(MEAN)(3, L)
    torch.testing.assert_close(made.mean, torch.as_tensor(MEAN).float())
    torch.testing.assert_close(made.stddev.mean(1), 1e-4 * torch.as_tensor(MEAN).float().square().mean(1).sqrt())


@pytest.mark.parametrize("one_for_all", [True, False])
def test_the_spread_is_that_of_the_distribution(one_for_all):
    factor = torch.stack([smooth_scale_tril(WAVELENGTHS, L, sd) for sd in (0.1, 0.2, 0.3)])
    prior = MVNEndmembers(MEAN, factor[0] if one_for_all else factor)
    torch.testing.assert_close(prior.stddev, prior(3, L).stddev)


def test_log_normal_endmembers_are_positive_and_vary_by_a_share():
    """Standard deviation of the logarithm of 20,000 draws within 5 %; in a normal of as much there are negative ones."""
    dark = MEAN * np.where(np.arange(L) < 20, 0.01, 1.0)
    prior = LogNormalEndmembers(dark, 0.1, wavelengths=WAVELENGTHS)
    check_endmember_prior(prior, 3, L)
    draws = prior(3, L).sample((20_000,))
    assert draws.min() > 0
    torch.testing.assert_close(draws.log().std(0), torch.full((3, L), 0.1), rtol=0.05, atol=0)
    assert GPEndmembers(dark, 0.05)(3, L).sample((100,)).min() < 0
    value = prior(3, L).sample()
    assert torch.isfinite(prior(3, L).log_prob(value)) and prior(3, L).log_prob(value).shape == ()


def test_a_covariance_of_many_spectra_is_theirs():
    """Of 4000 spectra hardly anything is shrunk: relative distance to the true covariance below .1, and to another above .5."""
    spectra = gaussian_process(4000, 300.0, bands=20, wavelengths=WAVELENGTHS[:20])
    truth, other = (np.square(0.1) * covariances_of(length) for length in (300.0, 20.0))
    found = covariances(library_endmembers([spectra + 1.0], WAVELENGTHS[:20]))[0]
    assert np.linalg.norm(found - truth) < 0.1 * np.linalg.norm(truth) < 0.5 * np.linalg.norm(found - other) / 0.5


def covariances_of(length_scale):
    factor = smooth_scale_tril(WAVELENGTHS[:20], 20, 1.0, length_scale=length_scale).double().numpy()
    return factor @ factor.T


def test_of_few_spectra_the_shrunk_covariance_is_nearer_than_their_own():
    """Five spectra of 60 bands, over ten such libraries; and it can be factorised, which theirs cannot."""
    truth = smooth_scale_tril(WAVELENGTHS, L, 0.1).double().numpy()
    truth = truth @ truth.T
    shrunk, own = [], []
    for seed in range(10):
        spectra = gaussian_process(5, 100.0, seed)
        shrunk.append(np.linalg.norm(covariances(library_endmembers([spectra], WAVELENGTHS))[0] - truth))
        own.append(np.linalg.norm(np.cov(spectra.T) - truth))
    assert np.mean(shrunk) < 0.7 * np.mean(own) and np.linalg.matrix_rank(np.cov(spectra.T)) < 5


def test_one_spectrum_of_a_material_varies_as_it_is_told(small_scene):
    truth = small_scene.reference.endmembers.values
    bundles = [truth[:1], np.stack([truth[1], 1.1 * truth[1], 0.9 * truth[1]]), truth[2]]
    prior = informed_endmembers([3.0 * each for each in bundles], small_scene, 3, sd=0.05)
    torch.testing.assert_close(prior.mean, torch.as_tensor(truth).float(), rtol=0.05, atol=0)
    sds = prior.scale_tril.norm(dim=-1) / prior.mean.square().mean(1, keepdim=True).sqrt()
    torch.testing.assert_close(sds[[0, 2]], torch.full((2, 30), 0.05), rtol=1e-3, atol=0)
    assert sds[1].mean() == pytest.approx(0.1, rel=0.3)


def test_a_real_bundle(real_data):
    """105 measured spectra of three materials: the prior's standard deviation is theirs in the mean band, to a tenth."""
    bundle = np.load(real_data / "bundle_samson.npz")
    each = [bundle["spectra"][bundle["label"] == number] for number in range(3)]
    prior = library_endmembers(each, bundle["wavelengths"])
    check_endmember_prior(prior, 3, 156)
    measured = [np.sqrt(spectra.var(axis=0, ddof=1).mean()) for spectra in each]
    np.testing.assert_allclose(prior(3, 156).variance.mean(1).sqrt().numpy(), measured, rtol=0.1)


@pytest.mark.parametrize("make, complaint", [
    (lambda: GPEndmembers(np.ones(5), 0.1), "finite spectra, a row each"),
    (lambda: GPEndmembers(MEAN, [0.1, 0.2]), "one sd, or 3, one an endmember, got shape"),
    (lambda: GPEndmembers(MEAN, -0.1), "positive sd"),
    (lambda: GPEndmembers(MEAN, 0.1, wavelengths=[1.0, 2.0]), "60 wavelengths in nm, one a band"),
    (lambda: FixedEndmembers(np.full((2, 5), np.nan)), "finite spectra"),
    (lambda: FixedEndmembers(np.vstack([MEAN, np.zeros(L)])), "spectra that are not zero, got number 4"),
    (lambda: LogNormalEndmembers(MEAN - 1.0), "positive median spectra"),
    (lambda: LogNormalEndmembers(MEAN, 0.5), "an sd of their logarithm up to 0.2"),
    (lambda: LogNormalEndmembers(MEAN)(2, L), "means of shape"),
    (lambda: library_endmembers([]), "spectra .n, n_bands. of each endmember"),
    (lambda: library_endmembers([MEAN, MEAN[:, 1:]]), "on the same bands"),
])
def test_what_makes_no_prior_is_refused_in_one_line(make, complaint):
    with pytest.raises(InputError, match=complaint) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prior", [FixedEndmembers(MEAN), GPEndmembers(MEAN, 0.02), library_endmembers([MEAN, MEAN + 0.1, MEAN])],
                         ids=["fixed", "gp", "library"])
def test_a_guide_starts_at_a_normal_prior(prior):
    random = np.random.default_rng(0)
    mixed = random.dirichlet(np.ones(3), (8, 9)) @ prior.mean.double().numpy()
    scene = pu.Scene(mixed + 0.01 * random.standard_normal((8, 9, L)))
    _, start = pu.initialize(pu.UnmixingModel(3, endmembers=prior, brightness="none"), scene)
    torch.testing.assert_close(start.endmembers, prior.mean)
    torch.testing.assert_close(start.endmember_scale_tril, prior.scale_tril)

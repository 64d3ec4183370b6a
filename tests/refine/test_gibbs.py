"""The joint sampler: its blocks against exact algebra, all of it as what leaves a joint distribution as it is, its coverage."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_unmix.errors import InputError
from pyro_unmix.likelihood import noise_cholesky, whiten
from pyro_unmix.metrics import spectral_angle
from pyro_unmix.numerics import seeded
from pyro_unmix.priors import smooth_scale_tril
from pyro_unmix.refine import endmember_moves, gibbs
from pyro_unmix.refine.concentration import LEAST, MOST
from pyro_unmix.refine.endmember_moves import EndmemberPrior, WhiteBands, dilate
from pyro_unmix.refine.gibbs import _Chain, endmember_draws
from pyro_unmix.simulate import absorption_spectra


def prior_of(n_endmembers, n_bands, sd=0.1):
    sds = sd * (1.0 + 0.5 * torch.arange(n_endmembers))
    return EndmemberPrior.of(0.2 + torch.rand(n_endmembers, n_bands), sds[:, None, None] * smooth_scale_tril(None, n_bands, 1.0))


def dirichlet(concentration, n):
    return torch.distributions.Dirichlet(concentration).sample((n,)).clamp_min(1e-100)


@pytest.mark.parametrize("correlated", [False, True])
@pytest.mark.parametrize("n_endmembers", [2, 3])
def test_endmembers_given_all_else_are_those_of_the_dense_posterior(n_endmembers, correlated, monkeypatch):
    """Mean, and covariance as the images of unit noises, against a system of as many unknowns as endmembers times bands."""
    n_bands, n = 5, 7
    prior, noise = prior_of(n_endmembers, n_bands), 0.05 + torch.rand(n_bands, dtype=torch.float64)
    x, pixels = torch.rand(n, n_endmembers, dtype=torch.float64), torch.rand(n, n_bands, dtype=torch.float64)
    if correlated:
        noise = noise[:, None] * torch.linalg.cholesky(torch.eye(n_bands).double() + 0.5)
    inverse = noise.square().reciprocal().diag() if noise.ndim == 1 else torch.cholesky_inverse(noise)
    precision = torch.kron(x.T @ x, inverse.contiguous()) \
        + torch.kron(prior.sd.square().reciprocal().diag(), prior.precision.contiguous())
    pull = (x.T @ pixels) @ inverse + (prior.mean @ prior.precision) / prior.sd.square()[:, None]
    mean = torch.linalg.solve(precision, pull.flatten())

    white = WhiteBands.of(pixels, prior, noise)
    noises = iter(torch.cat([torch.zeros(1, len(mean)), torch.eye(len(mean))]).double().reshape(-1, n_endmembers, n_bands))
    monkeypatch.setattr(torch, "randn_like", lambda like: next(noises))
    found, *images = ((white.draw_endmembers(x, prior) @ white.back).flatten() for _ in range(len(mean) + 1))
    images = torch.stack(images) - found
    torch.testing.assert_close(found, mean)
    torch.testing.assert_close(images.T @ images, torch.linalg.inv(precision))


@pytest.mark.parametrize("about", [None, 1])
def test_dilations_keep_mixtures_and_go_both_ways_alike(about, monkeypatch):
    """Draws from the prior, dilated ten times: as the prior stays as it is and steps are reversible, the logarithm of the factor
    has a symmetric distribution. No pixel is needed, since its fit does not change. A score below 1e-4: one run in 5000."""
    monkeypatch.setattr(endmember_moves, "_BRACKET", 0.6)  # steps so long that few of them tell
    prior, brightness_scale = prior_of(3, 4, sd=0.3), torch.tensor(0.3, dtype=torch.float64)
    root, concentration, found = torch.linalg.cholesky(prior.kernel), torch.tensor([1.5, 0.7, 1.0], dtype=torch.float64), []
    for _ in range(300):
        before = prior.mean + prior.sd[:, None] * torch.randn(3, 4, dtype=torch.float64) @ root.T
        x = (brightness_scale * torch.randn(8, 1, dtype=torch.float64)).exp() * dirichlet(concentration, 8)
        moved, endmembers = x, before
        for _ in range(10):
            moved, endmembers, _ = dilate(moved, endmembers, 0, about, prior, concentration, brightness_scale)
        torch.testing.assert_close(moved @ endmembers, x @ before)
        assert (moved > 0).all() and torch.equal(endmembers[1:], before[1:])
        found.append(float((x[0, 0] / moved[0, 0]).log()))
    assert stats.wilcoxon(found).pvalue > 1e-4
    assert np.std(found) > 0.03


@cache
def scores_of_the_joint_distribution(brightness_scale, wrong_noise=1.0, amplitude_sd=None, correlated=False, replications=200,
                                     steps=9):
    """Probabilities that draws from the prior are as far from it as what the chain makes of them, by site.

    Everything is drawn from the prior, pixels given that, then the chain goes some steps from there given the pixels: Geweke
    (2004), JASA 99, "Getting it right", each time from a new draw. What it comes to follows the prior again and fits the pixels.
    """
    n, n_endmembers, n_bands = 6, 3, 8
    with seeded(0):
        prior, prior_noise = prior_of(n_endmembers, n_bands), torch.full((n_bands,), 0.1, dtype=torch.float64)
        root, found, centre = torch.linalg.cholesky(prior.kernel), {}, prior
        correlation = torch.linalg.cholesky(0.5 * torch.eye(n_bands).double() + 0.5) if correlated else None
        for _ in range(replications):
            prior = centre
            if amplitude_sd is not None:
                prior = prior._replace(amplitude_sd=amplitude_sd, log_amplitude=torch.zeros(n_endmembers).double())
                prior = prior.scaled(amplitude_sd * torch.randn(n_endmembers, dtype=torch.float64))
            unit = torch.randn(n_endmembers, n_bands, dtype=torch.float64)
            endmembers = prior.mean + prior.sd[:, None] * unit @ root.T
            log = stats.truncnorm.ppf(torch.rand(n_endmembers), np.log(LEAST), np.log(MOST))
            concentration = torch.as_tensor(np.exp(log), dtype=torch.float64)
            noise_scale = prior_noise / torch.randn(1 if correlated else n_bands, dtype=torch.float64).abs()
            x = dirichlet(concentration, n)
            brightness = None
            if brightness_scale is not None:
                brightness = brightness_scale / torch.randn((), dtype=torch.float64).abs()
                x = (brightness * torch.randn(n, 1, dtype=torch.float64)).exp() * x
            cholesky = noise_cholesky(noise_scale, correlation)
            noise = torch.randn(n, n_bands, dtype=torch.float64)
            pixels = x @ endmembers + (noise @ cholesky.T if correlated else noise * cholesky)

            prior_brightness = None if brightness is None else torch.tensor(brightness_scale)
            chain = _Chain(pixels, prior, x, None, prior_noise, prior_brightness, None, correlation)
            chain.x, chain.endmembers, chain.concentration, chain.brightness_scale = x, endmembers, concentration, brightness
            chain.noise_scale = (wrong_noise * noise_scale).expand(n_bands)
            chain.white = WhiteBands.of(pixels, prior, noise_cholesky(chain.noise_scale, correlation))
            chain.steps = 0 if wrong_noise == 1.0 else 1  # from 1 on, no noise is drawn
            for _ in range(steps):
                chain.step()
            residuals = pixels - chain.x @ chain.endmembers
            standing = (chain.endmembers - chain.prior.mean) / chain.prior.sd[:, None]
            whitened = torch.linalg.solve_triangular(root, standing.T, upper=False)
            residuals = whiten(residuals, noise_cholesky(chain.noise_scale, correlation))
            own, total = chain.concentration[0], chain.concentration.sum()
            values = {
                "endmembers": stats.norm.cdf(whitened.flatten()),
                "residuals": stats.norm.cdf(residuals.flatten()),
                "fit": stats.chi2.cdf(residuals.square().sum(), residuals.numel()),
                "noise": (2 * stats.norm.cdf(prior_noise / chain.noise_scale) - 1)[: len(noise_scale)],
                "concentration": stats.truncnorm.cdf(chain.concentration.log(), np.log(LEAST), np.log(MOST)),
                "abundances": stats.beta.cdf(chain.x[:, 0] / chain.x.sum(dim=1), own, total - own),
            }
            if brightness is not None:
                values["brightness"] = stats.norm.cdf(chain.x.sum(dim=1).log() / chain.brightness_scale)
                values["brightness scale"] = 2 * stats.norm.cdf(brightness_scale / chain.brightness_scale) - 1
            if amplitude_sd is not None:
                values["amplitude"] = stats.norm.cdf(chain.prior.log_amplitude / amplitude_sd)
            for site, ranks in values.items():
                found.setdefault(site, []).append(np.atleast_1d(ranks))
    return {site: stats.kstest(np.concatenate(ranks), "uniform").pvalue for site, ranks in found.items()}


@pytest.mark.parametrize("brightness_scale, options", [
    (None, {}), (0.05, {}), (0.01, {"amplitude_sd": 0.2}), (None, {"correlated": True})], ids=str)
def test_the_joint_distribution_stays_as_it_is(brightness_scale, options):
    """Of at most nine uniform scores one is below 1e-4 in one of 1100 runs."""
    scores = scores_of_the_joint_distribution(brightness_scale, **options)
    assert min(scores.values()) > 1e-4, scores


def test_negative_control_noise_held_at_a_third_is_found_out():
    scores = scores_of_the_joint_distribution(None, wrong_noise=1 / 3)
    assert max(scores["residuals"], scores["fit"], scores["endmembers"]) < 1e-6, scores


class Drawn:
    """Pixels whose endmembers are a draw from a prior that is off by 0.02 rad, and what the sampler makes of them."""

    def __init__(self, brightness_scale, n=300, n_bands=40, snr_db=30.0):
        sds = torch.tensor([0.006, 0.009, 0.012])
        self.scale_tril = sds[:, None, None] * smooth_scale_tril(np.linspace(400, 2500, n_bands), n_bands, 1.0)
        self.truth = torch.as_tensor(absorption_spectra(3, np.linspace(400, 2500, n_bands), 0))
        self.centre = self.truth - (self.scale_tril.double() @ torch.randn(3, n_bands, 1, dtype=torch.float64))[..., 0]
        abundances = dirichlet(torch.tensor([0.4, 1.0, 0.7], dtype=torch.float64), n)
        self.brightness = None if brightness_scale is None else \
            (brightness_scale * torch.randn(n, dtype=torch.float64)).exp()
        signal = (1.0 if self.brightness is None else self.brightness[:, None]) * (abundances @ self.truth)
        self.noise_scale = float(signal.square().mean().sqrt()) * 10 ** (-snr_db / 20)
        self.arguments = dict(
            pixels=signal + self.noise_scale * torch.randn_like(signal), prior_mean=self.centre, prior_scale_tril=self.scale_tril,
            start_abundances=torch.full_like(abundances, 1 / 3), start_noise_scale=torch.full((n_bands,), 2 * self.noise_scale),
            start_brightness=None if self.brightness is None else torch.ones(n), brightness_scale=brightness_scale)

    def coverage(self, draws):
        low, high = (draws.quantile(level, dim=0) for level in (0.05, 0.95))
        return float(((low <= self.truth) & (self.truth <= high)).double().mean())

    def angle(self, endmembers):
        return spectral_angle(endmembers.numpy(), self.truth.numpy()).mean()


@pytest.mark.parametrize("brightness_scale", [None, 0.2])
def test_endmembers_move_to_the_truth_and_their_intervals_hold_it(brightness_scale):
    scene = Drawn(brightness_scale)
    draws = endmember_draws(**scene.arguments, n_draws=100, burn_in=300, thin=6)
    mean = draws.endmembers.mean(dim=0)
    assert 0.01 < scene.angle(scene.centre) < 0.05
    assert scene.angle(mean) < 0.5 * scene.angle(scene.centre)
    assert 0.75 < scene.coverage(draws.endmembers) < 0.99
    # Negative control: draws as narrow as those of mean-field approximations are.
    assert scene.coverage(mean + (draws.endmembers - mean) / 3) < 0.65
    torch.testing.assert_close(draws.noise_scale.mean().item(), scene.noise_scale, rtol=0.05, atol=0.0)
    assert ((draws.concentration.mean(dim=0) / torch.tensor([0.4, 1.0, 0.7]) - 1).abs() < 0.25).all()
    if brightness_scale is None:
        assert draws.brightness_scale is None
    else:
        torch.testing.assert_close(draws.brightness_scale.mean().item(), brightness_scale, rtol=0.2, atol=0.0)


def test_shapes_and_seeds():
    arguments = Drawn(0.2, n=30, n_bands=10).arguments | {"n_draws": 3, "burn_in": 0, "thin": 10}
    with seeded(1):
        first = endmember_draws(**arguments)
    with seeded(1):
        second = endmember_draws(**arguments)
    assert [tuple(values.shape) for values in first] == [(3, 3, 10), (3, 3), (3, 10), (3,)]
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other) and one.dtype == torch.float64 and (one[0] != one[1]).any()


@pytest.mark.parametrize("wrong", [
    {"n_draws": 0}, {"thin": 0}, {"burn_in": -1}, {"brightness_scale": None}, {"start_brightness": None},
    {"pixels": torch.full((5, 9), 0.5)}, {"pixels": torch.full((5, 10), torch.nan)}, {"start_abundances": torch.ones(4, 3)},
    {"start_brightness": torch.ones(4)}, {"start_noise_scale": torch.ones(9)}, {"prior_scale_tril": torch.eye(9)},
    {"prior_scale_tril": torch.eye(10).expand(2, 10, 10)}, {"concentration": torch.ones(2)},
    {"concentration": torch.tensor([1.0, 0.0, 1.0])},
    {"prior_scale_tril": torch.stack([smooth_scale_tril(None, 10, 1.0, length_scale=length) for length in (50.0, 100.0, 200.0)])},
], ids=lambda wrong: ", ".join(wrong))
def test_arguments_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError):
        endmember_draws(**(Drawn(0.2, n=5, n_bands=10).arguments | {"n_draws": 1, "burn_in": 0, "thin": 1} | wrong))


def test_a_known_concentration_is_kept_and_every_step_is_told():
    """Learned with the same random numbers, it moves: what it is not told is drawn."""
    arguments, known, steps = Drawn(None, n=30, n_bands=10).arguments, torch.tensor([0.4, 1.0, 0.7]), []
    draws = endmember_draws(**arguments, concentration=known, n_draws=3, burn_in=4, thin=2, on_step=lambda: steps.append(1))
    assert torch.equal(draws.concentration, known.double().expand(3, 3)) and len(steps) == 4 + 3 * 2
    assert (endmember_draws(**arguments, n_draws=3, burn_in=4, thin=2).concentration[0] != known).all()


def test_one_covariance_serves_all_endmembers():
    arguments = Drawn(None, n=30, n_bands=10).arguments | {"n_draws": 1, "burn_in": 1, "thin": 1}
    arguments["prior_scale_tril"] = arguments["prior_scale_tril"][0]
    assert endmember_draws(**arguments).endmembers.isfinite().all()


def test_noise_is_drawn_every_few_steps():
    arguments = Drawn(None, n=30, n_bands=10).arguments
    noise = endmember_draws(**arguments, n_draws=2 * gibbs._NOISE_EVERY, burn_in=0, thin=1).noise_scale
    assert len(noise.unique(dim=0)) == 2

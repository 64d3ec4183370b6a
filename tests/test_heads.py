"""Heads: they start at least squares, they stay on the simplex, and one of them starts at the exact posterior."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

import pyro_unmix as pu
from pyro_unmix.heads import HEADS, Head
from pyro_unmix.initialize import informed_endmembers
from pyro_unmix.least_squares import LeastSquares, least_squares

FEATURES, N = 4, 200
CONFIG = pu.FitConfig(svi_steps=8, calibration_steps=8, sampling_steps=40, kl_warmup_steps=4, tile_size=8, device="cpu")
# What of each head SVI trains and what calibration trains, and whether calibration trains the features too.
TRAINED = {"dirichlet": ({"precision"}, {"precision"}, False), "logistic-normal": (set(), {"layer"}, True),
           "simplex-normal": (set(), {"layer"}, True), "softmax": ({"layer"}, {"layer"}, True)}
# Those that know of least squares.
STANDING = [name for name in HEADS if name != "softmax"]


def estimate_of(k: int, noise: float = 0.02) -> tuple[LeastSquares, torch.Tensor]:
    """Of pixels whose abundances, given too, are drawn evenly from the simplex."""
    endmembers = torch.as_tensor(np.random.default_rng(k).uniform(0.1, 0.9, (k, 20)), dtype=torch.float32)
    truth = torch.as_tensor(np.random.default_rng(1).dirichlet(np.ones(k), N), dtype=torch.float32)
    scale = torch.full((20,), noise)
    return least_squares(truth @ endmembers + scale * torch.randn(N, 20), endmembers, scale, brightness=False), truth


def built(name: str, k: int) -> Head:
    head = HEADS[name]()
    head.build(FEATURES, k)
    return head


@pytest.fixture(scope="module")
def small_start():
    """A scene of white noise, and a model with a prior of its endmembers around the truth: saves the search for them."""
    scene = pu.simulate_scene(3, (10, 9), n_bands=12, seed=3)
    return pu.UnmixingModel(3, endmembers=informed_endmembers(scene.reference.endmembers.values, scene, 3)), scene


@pytest.mark.parametrize("name", STANDING)
@pytest.mark.parametrize("k", [2, 3, 6])
def test_starts_at_least_squares_whatever_the_features(name, k):
    head, (estimate, _) = built(name, k), estimate_of(k, noise=1e-3)
    draws = head(torch.randn(N, FEATURES), estimate).sample(torch.Size([400]))
    assert draws.shape == (400, N, k)
    assert (draws >= 0).all() and (draws.sum(-1) - 1).abs().max() < 1e-5
    assert (draws.mean(dim=0) - estimate.abundances).abs().mean() < 0.08
    torch.manual_seed(0)
    one = head(torch.randn(N, FEATURES), estimate).sample()
    torch.manual_seed(0)
    torch.randn(N, FEATURES)
    torch.testing.assert_close(head(torch.zeros(N, FEATURES), estimate).sample(), one)


@pytest.mark.parametrize("name", HEADS)
def test_learns_from_pairs(name):
    """-log q of pairs falls by training on it, and every parameter that is to be trained has a gradient.

    A softmax without features is one Dirichlet of total concentration one for all pixels, which falls too.
    """
    head, (estimate, truth) = built(name, 3), estimate_of(3)
    head.calibrate(exact=False)
    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-2)
    truth = (truth + 1e-4) / (1 + 3e-4)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = -head(torch.zeros(N, FEATURES), estimate).log_prob(truth).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.01
    assert all(torch.isfinite(parameter.grad).all() for parameter in trained if parameter.grad is not None)


@pytest.mark.parametrize("name", HEADS)
def test_what_is_trained_when(small_start, name):
    """Negative control: all of it before SVI begins, where least squares is not the mode."""
    def trained(part):
        return {path.split(".")[0] for path, parameter in part.named_parameters() if parameter.requires_grad}

    start = pu.initialize(*small_start)[1]
    guide = pu.UnmixingGuide("mlp", head=name).bind(start)
    svi, calibration, features = TRAINED[name]
    assert trained(guide.head) == {part for part, _ in guide.head.named_children()}
    guide.head.hold()
    assert trained(guide.head) == svi and trained(guide.encoder)
    guide.calibrate(exact=False)
    assert trained(guide.head) == calibration and bool(trained(guide.encoder)) == features
    assert not trained(guide.endmembers) and not trained(guide.noise)


@pytest.mark.parametrize("name", STANDING)
@pytest.mark.parametrize("concentration, sampling_steps, held", [(1.0, 0, True), (5.0, 40, True), (5.0, 0, False)])
def test_svi_leaves_a_held_mean_at_least_squares(small_start, name, concentration, sampling_steps, held):
    """Held where least squares is the mode, and where the head will learn from exact draws. Negative control: under a prior that
    prefers mixtures nothing is held otherwise, and the most probable abundances move."""
    model, scene = small_start
    fit = pu.fit(model.replace(abundances=pu.priors.Dirichlet(concentration)), scene, progress=False,
                 guide=pu.UnmixingGuide("mlp", head=name),
                 config=replace(CONFIG, calibration_steps=0, sampling_steps=sampling_steps))
    assert fit.model.least_squares_is_mode == (concentration == 1.0)
    last = {"dirichlet": "mean", "logistic-normal": "layer.4", "simplex-normal": "layer.4"}[name]
    assert bool((fit.guide.head.get_submodule(last).weight == 0).all()) == held


def test_simplex_normal_is_exact_for_two_endmembers():
    """One abundance, a normal truncated to [0, 1]: quantiles of the posterior under a flat prior. The less certain of the two to
    be positive is drawn first."""
    estimate, _ = estimate_of(2, noise=0.1)
    q = built("simplex-normal", 2)(torch.zeros(N, FEATURES), estimate)
    assert torch.equal(q.order[:, 0], estimate.free.argmin(dim=1)) and len(q.order[:, 0].unique()) == 2
    loc, sd = estimate.free.min(dim=1).values.numpy(), estimate.covariance[:, 0, 0].sqrt().numpy()
    exact = stats.truncnorm(-loc / sd, (1 - loc) / sd, loc, sd)
    for level in (0.05, 0.5, 0.95):
        found = q.transport(torch.full((N, 1), level)).detach().take_along_dim(q.order, dim=1)
        np.testing.assert_allclose(found[:, 0], exact.ppf(level), atol=2e-4)
        torch.testing.assert_close(found.sum(dim=1), torch.ones(N))


@pytest.mark.parametrize("concentration, noise, sds", [(0.3, 0.01, 0.02), (0.3, 0.03, 0.05), (0.1, 0.01, 0.05)])
def test_simplex_normal_is_exact_for_two_endmembers_and_few_of_them_in_a_pixel(concentration, noise, sds):
    """Quantiles of the posterior under a sparse Dirichlet, by quadrature, in standard deviations of the normal. What is left out
    is the pole of the abundance drawn last, which is far from zero: the less noise, the less it counts."""
    estimate, _ = estimate_of(2, noise=noise)
    head, levels = built("simplex-normal", 2), (0.05, 0.5, 0.95)
    flat = head(torch.zeros(N, FEATURES), estimate)
    head.learn_prior(torch.full((2,), concentration))
    q = head(torch.zeros(N, FEATURES), estimate)
    loc, sd = estimate.free.min(dim=1).values.double(), estimate.covariance[:, 0, 0].double().sqrt()
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000  # cells of equal width in z^concentration: no pole at zero
    z = u ** (1.0 / concentration)
    mass = (-0.5 * ((z - loc[:, None]) / sd[:, None]).square()).exp() * (1.0 - z) ** (concentration - 1.0)
    reached = mass.cumsum(dim=1) / mass.sum(dim=1, keepdim=True)

    def worst(q):
        apart = []
        for level in levels:
            exact = z[torch.searchsorted(reached, torch.full((N, 1), level, dtype=torch.float64))[:, 0].clamp_max(len(z) - 1)]
            found = q.transport(torch.full((N, 1), level)).detach().take_along_dim(q.order, dim=1)[:, 0]
            apart.append(((found - exact) / sd).abs().max().item())
        return max(apart)

    assert worst(q) < sds
    assert worst(flat) > 5 * sds  # negative control: no poles


def test_what_is_nearly_flat_or_more_is_taken_for_flat():
    """Then there are no poles, and draws have gradients; one pole is enough for the other form."""
    head, estimate = built("simplex-normal", 3), estimate_of(3)[0]
    head.learn_prior(torch.tensor([0.95, 1.0, 7.0]))
    assert head(torch.zeros(N, FEATURES), estimate).concentration is None
    head.learn_prior(torch.tensor([0.95, 0.2, 7.0]))
    q = head(torch.zeros(N, FEATURES), estimate)
    torch.testing.assert_close(q.concentration, torch.tensor([1.0, 0.2, 1.0])[q.order[:, :-1]])


def test_simplex_normal_holds_the_truth_before_any_training():
    """Three endmembers: 90 % intervals of 600 abundances, whose coverage has a standard error of 1.2 points, within 5 points;
    negative control: three times less noise assumed than there is."""
    for assumed, bounds in ((1.0, (0.85, 0.95)), (1 / 3, (0.0, 0.7))):
        estimate, truth = estimate_of(3, noise=0.05)
        estimate = estimate._replace(covariance=assumed**2 * estimate.covariance)
        draws = built("simplex-normal", 3)(torch.zeros(N, FEATURES), estimate).sample(torch.Size([1000]))
        below = (draws < truth).float().mean(dim=0)
        assert bounds[0] < ((below > 0.05) & (below < 0.95)).float().mean() < bounds[1]


@pytest.mark.parametrize("name", HEADS)
def test_every_head_fits_and_comes_back_from_its_folder(name, tmp_path):
    scene = pu.simulate_scene(3, (10, 9), n_bands=12, brightness=0.2, seed=3)
    guide = pu.UnmixingGuide("mlp", head=name)
    fit = pu.fit(pu.UnmixingModel(3), scene, guide=guide, config=CONFIG, progress=False)
    posterior = fit.posterior(scene)
    summary = posterior.summary()
    assert (abs(summary.abundance_mean.sum("endmember") - 1) < 1e-6).all() and (summary.abundance_mean >= 0).all()
    quantiles = summary.abundance_quantile.values
    assert (np.diff(quantiles, axis=0) >= 0).all() and (quantiles >= 0).all() and (quantiles <= 1).all()
    pu.save_run(tmp_path / "run", fit, posterior)
    again = pu.load_fit(tmp_path / "run").posterior(scene)
    np.testing.assert_array_equal(again.draws(3).abundances, posterior.draws(3).abundances)


def test_a_head_that_does_not_exist_is_refused():
    with pytest.raises(pu.InputError, match="dirichlet, logistic-normal, simplex-normal"):
        pu.UnmixingGuide("mlp", head="beta")


def test_a_calibrated_dirichlet_keeps_its_mean_however_wide_it_is():
    """Nine endmembers, all but one absent; a precision driven as low as it goes, and the way back has a gradient."""
    head = built("dirichlet", 9)
    head.calibrate(exact=False)
    with torch.no_grad():
        head.precision[-1].bias.fill_(-5.0)
    corner = torch.eye(9)[:1]
    estimate = LeastSquares(corner, torch.ones(1), corner, torch.eye(9)[None])
    q = head(torch.zeros(1, FEATURES), estimate)
    torch.testing.assert_close(q.mean, corner, atol=0.01, rtol=0)
    q.log_prob(torch.full((1, 9), 1 / 9)).sum().backward()
    assert head.precision[-1].bias.grad.abs() > 0


def test_a_calibrated_dirichlet_moves_its_mean_only_towards_truth_it_did_not_make():
    """From exact pairs the mean is learned too, and features with it; from its own draws the precision alone."""
    for exact in (True, False):
        head, (estimate, truth) = built("dirichlet", 3), estimate_of(3)
        before = estimate.abundances.clone()
        assert head.calibrate(exact) == exact and head.calibrated
        assert all(parameter.requires_grad == exact for parameter in head.mean.parameters())
        features = truth @ torch.ones(3, FEATURES)
        loss = -head(features, estimate).log_prob((truth + 1e-4) / (1 + 3e-4)).mean()
        loss.backward()
        assert (head.mean.bias.grad is not None) == exact and head.precision[-1].bias.grad.abs().sum() > 0
        torch.testing.assert_close(estimate.abundances, before)


@pytest.mark.parametrize("k", [2, 5])
def test_a_softmax_is_no_surer_than_one_pseudo_count(k):
    """Concentrations sum to one, so that the variance of an abundance is m (1 - m) / 2 wherever its mean m is: 20,000 draws,
    standard deviations within 3 %. Negative control: a Dirichlet of the same means and ten times the total."""
    head = built("softmax", k)
    q = head(torch.randn(8, FEATURES), estimate_of(k)[0])
    torch.testing.assert_close(q.concentration.sum(-1), torch.ones(8))
    assert q.mean.std(dim=0).min() > 0.01  # it is heard what the features say
    expected = (q.mean * (1 - q.mean) / 2).sqrt()
    torch.testing.assert_close(q.stddev, expected)
    torch.testing.assert_close(q.sample(torch.Size([20_000])).std(dim=0), expected, rtol=0.03, atol=0)
    surer = type(q)(10 * q.concentration).sample(torch.Size([20_000])).std(dim=0)
    assert (surer < 0.5 * expected).all()


def test_one_draw_of_a_softmax_misses_even_where_its_mean_is_the_truth():
    """The root mean squared error of one draw a pixel is the standard deviation above: 0.33 in the middle of the simplex of
    three, where the mean has none."""
    head = built("softmax", 3)
    for part in head.parameters():
        torch.nn.init.zeros_(part)
    q = head(torch.randn(20_000, FEATURES), None)
    torch.testing.assert_close(q.mean, torch.full((20_000, 3), 1 / 3))
    assert (q.sample() - 1 / 3).square().mean().sqrt().item() == pytest.approx((1 / 9) ** 0.5, rel=0.02)


def test_a_softmax_stays_a_dirichlet_however_sure_it_is():
    head = built("softmax", 3)
    torch.nn.init.constant_(head.layer.bias, 0.0)
    with torch.no_grad():
        head.layer.bias[0] = 1e4
    q = head(torch.zeros(2, FEATURES), None)
    assert (q.concentration >= 1e-3).all() and q.log_prob(torch.tensor([0.98, 0.01, 0.01])).isfinite().all()

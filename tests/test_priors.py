"""What is believed before the scene is seen, and what is refused as a belief."""

from __future__ import annotations

import random

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pyro_unmix.errors import InputError
from pyro_unmix.priors import (
    CustomPrior,
    Dirichlet,
    MVNEndmembers,
    as_prior,
    check_abundance_prior,
    check_endmember_prior,
    smooth_scale_tril,
)


@given(st.integers(2, 9), st.floats(0.1, 20))
def test_one_concentration_serves_every_number_of_endmembers(k, concentration):
    made = Dirichlet(concentration)(k)
    torch.testing.assert_close(made.concentration, torch.full((k,), concentration))
    torch.testing.assert_close(made.mean, torch.full((k,), 1 / k))


def test_a_concentration_for_each_endmember():
    prior = Dirichlet([1.0, 2.0, 5.0])
    torch.testing.assert_close(prior(3).mean, torch.tensor([1.0, 2.0, 5.0]) / 8)
    with pytest.raises(InputError, match="4 concentrations, one an endmember, got 3"):
        prior(4)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("concentration", [0.3, [0.3, 1.0]])
def test_settings_make_the_same_dirichlet_again(concentration, learned):
    prior = Dirichlet(concentration, learned)
    assert prior.settings == {"concentration": concentration, "learned": learned} and prior.learned == learned
    assert Dirichlet(**prior.settings).learned == learned
    torch.testing.assert_close(Dirichlet(**prior.settings)(2).concentration, prior(2).concentration, rtol=0, atol=0)


@pytest.mark.parametrize("concentration", [0.0, -1.0, float("nan"), float("inf"), [1.0, 0.0], [[1.0, 1.0]]])
def test_concentrations_that_make_no_sense_are_refused(concentration):
    with pytest.raises(InputError, match="positive concentration"):
        Dirichlet(concentration)


# --- endmembers

def matern(wavelengths, sd, length_scale, nugget):
    """The formula, element by element."""
    n = len(wavelengths)
    covariance = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            r = np.sqrt(3) * abs(wavelengths[i] - wavelengths[j]) / length_scale
            covariance[i, j] = sd**2 * ((1 - nugget) * (1 + r) * np.exp(-r) + nugget * (i == j))
    return covariance


def assert_factor_of(factor, covariance):
    factor = factor.double().numpy()
    assert (np.diag(factor) > 0).all() and not np.triu(factor, 1).any(), "a Cholesky factor is lower triangular"
    np.testing.assert_allclose(factor @ factor.T, covariance, rtol=0, atol=2e-6 * covariance.max())


@given(st.lists(st.floats(300, 2500), min_size=2, max_size=25), st.floats(1e-4, 1e4), st.floats(1, 1000), st.floats(1e-4, 1))
def test_the_factor_is_that_of_the_formula(wavelengths, sd, length_scale, nugget):
    factor = smooth_scale_tril(np.array(wavelengths), len(wavelengths), sd, length_scale=length_scale, nugget=nugget)
    covariance = matern(wavelengths, sd, length_scale, nugget)
    assert_factor_of(factor, covariance)
    np.testing.assert_allclose(factor.norm(dim=1), sd, rtol=1e-5, err_msg="the marginal standard deviation is sd in every band")


@pytest.mark.parametrize("wavelengths", [
    np.r_[np.linspace(400, 700, 60), np.linspace(650, 2500, 164)],  # detectors that overlap: not monotone
    np.repeat(np.linspace(400, 2500, 112), 2),  # every band twice
    np.linspace(2500, 400, 224),
    np.full(50, 500.0),
], ids=["overlap", "twice", "falling", "all the same"])
def test_wavelengths_in_any_order_have_a_factor(wavelengths):
    factor = smooth_scale_tril(wavelengths, len(wavelengths), 0.03)
    assert_factor_of(factor, matern(wavelengths, 0.03, 100.0, 0.01))
    dist.MultivariateNormal(torch.zeros(len(wavelengths)), scale_tril=factor).sample()


@pytest.mark.parametrize("file, n_bands", [
    ("library_usgs1995_av224.npz", 224), ("sim1.npz", 224), ("enmap_potsdam_block.npz", 218)])
def test_the_bands_of_real_sensors_have_a_factor(real_data, file, n_bands):
    wavelengths = np.load(real_data / file)["wavelengths"]
    assert len(wavelengths) == n_bands
    factor = smooth_scale_tril(wavelengths, n_bands, 0.02)
    assert_factor_of(factor, matern(wavelengths, 0.02, 100.0, 0.01))


def test_unknown_wavelengths_count_as_ten_nanometres_apart():
    torch.testing.assert_close(smooth_scale_tril(None, 12, 0.5), smooth_scale_tril(400 + 10.0 * np.arange(12), 12, 0.5))


@pytest.mark.parametrize("settings", [{"sd": 0.0}, {"sd": -1.0}, {"sd": float("nan")}, {"sd": 1.0, "length_scale": 0.0},
                                      {"sd": 1.0, "nugget": 0.0}, {"sd": 1.0, "nugget": 1.5}])
def test_a_covariance_that_makes_no_sense_is_refused(settings):
    with pytest.raises(InputError, match="positive sd and length_scale"):
        smooth_scale_tril(None, 5, **settings)


@pytest.mark.parametrize("each", [False, True])
def test_the_normal_prior_has_the_moments_it_was_given(each):
    mean = torch.rand(3, 8)
    factors = torch.stack([smooth_scale_tril(None, 8, sd) for sd in (0.1, 0.2, 0.4)])
    made = MVNEndmembers(mean, factors if each else factors[0])(3, 8)
    assert made.batch_shape == () and made.event_shape == (3, 8)
    torch.testing.assert_close(made.mean, mean)
    sds = torch.tensor([0.1, 0.2, 0.4] if each else [0.1] * 3)
    torch.testing.assert_close(made.variance.sqrt(), sds[:, None].expand(3, 8))
    draws = made.sample(torch.Size([4000]))
    covariance = torch.cov(draws[:, 1].T)
    # One standard error of an element is at most sqrt(2 / 4000) sd^2 = 0.022 sd^2.
    torch.testing.assert_close(covariance, torch.as_tensor(matern(10.0 * np.arange(8), sds[1].item(), 100, 0.01)).float(),
                               rtol=0, atol=0.1 * sds[1].item() ** 2)


def test_the_normal_prior_takes_arrays():
    prior = MVNEndmembers(np.ones((2, 5)), np.eye(5))
    assert prior(2, 5).mean.dtype == torch.float32
    assert set(prior.state_dict()) == {"mean", "scale_tril"}


@pytest.mark.parametrize("mean, factor", [
    (np.ones((2, 5)), np.eye(4)), (np.ones(5), np.eye(5)), (np.ones((2, 5)), np.ones((3, 5, 5))), (np.ones((2, 5)), 0.1),
    (0.5, np.eye(5)),
])
def test_a_normal_prior_of_other_shapes_is_refused(mean, factor):
    with pytest.raises(InputError, match="a mean .n_endmembers, n_bands. and a Cholesky factor"):
        MVNEndmembers(mean, factor)


@pytest.mark.parametrize("factor, one", [
    (lambda: smooth_scale_tril(None, 8, 0.1), True),
    (lambda: torch.stack([smooth_scale_tril(None, 8, sd) for sd in (0.1, 0.2, 1e-3)]), True),
    (lambda: torch.stack([smooth_scale_tril(None, 8, 0.1, length_scale=length) for length in (50.0, 100.0, 100.0)]), False),
], ids=["shared", "scaled", "of their own"])
def test_whether_covariances_are_of_one_kernel(factor, one):
    assert MVNEndmembers(torch.zeros(3, 8), factor()).of_one_kernel == one


@pytest.mark.parametrize("shape", [(3, 5), (2, 6)])
def test_a_normal_prior_for_another_scene_is_refused(shape):
    with pytest.raises(InputError, match=r"means of shape \(\d, \d\), got \(2, 5\); give as many spectra"):
        MVNEndmembers(np.ones((2, 5)), np.eye(5))(*shape)


# --- the user's own

def softmax_normal(k):
    return dist.TransformedDistribution(dist.Normal(torch.zeros(k), 1.0).to_event(1), [dist.transforms.SoftmaxTransform()])


@pytest.mark.parametrize("prior", [
    Dirichlet(0.3), dist.Dirichlet(torch.ones(3)), lambda k: dist.Dirichlet(torch.full((k,), 2.0)), softmax_normal,
    lambda k: dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Dirichlet(torch.ones(2, k))),
    lambda k: dist.TransformedDistribution(dist.Normal(torch.zeros(k - 1), 1.0), [dist.transforms.StickBreakingTransform()]),
    lambda k: dist.Delta(torch.full((k,), 1 / k), event_dim=1),
], ids=["ours", "distribution", "lambda", "function", "mixture", "stick-breaking", "fixed"])
def test_whatever_lives_on_the_simplex_is_an_abundance_prior(prior):
    module = as_prior(prior)
    assert isinstance(module, nn.Module)
    check_abundance_prior(module, 3)
    assert module(3).event_shape == (3,)


class TooGreedy(nn.Module):
    def forward(self, k):
        raise InputError("something else", "this")


def explode(k):
    raise RuntimeError("first line\nsecond line")


@pytest.mark.parametrize("prior, complaint", [
    (dist.Dirichlet(torch.ones(4)), r"event shape \(3,\) and no batch shape, got event shape \(4,\)"),
    (lambda k: dist.Dirichlet(torch.ones(2, k)), r"batch shape \(2,\)"),
    (lambda k: dist.Delta(torch.full((k,), 1 / k)), r"got event shape \(\) and batch shape \(3,\); to_event"),
    (lambda k: dist.Uniform(torch.zeros(k), 1.0).to_event(1), "on the simplex .* with sum"),
    (lambda k: dist.Normal(torch.full((k,), 1 / k), 0.1).to_event(1), "on the simplex"),
    (lambda k: dist.Delta(torch.tensor([1.5, -0.25, -0.25]), event_dim=1), r"a draw \[1.5, -0.25, -0.25\] with sum 1.0000"),
    (lambda k: dist.Delta(torch.full((k,), float("nan")), event_dim=1), "finite draws"),
    (explode, "got RuntimeError: first line; it must return a Pyro distribution"),
    (lambda: dist.Dirichlet(torch.ones(3)), "got TypeError: .*takes 0 positional arguments"),
    (lambda k: torch.ones(k) / k, "returns a Pyro distribution, got a torch.Tensor"),
    (lambda k: None, "returns a Pyro distribution, got a builtins.NoneType"),
    (lambda k: torch.distributions.Dirichlet(torch.ones(k)), "got a torch.distributions.dirichlet.Dirichlet; take it from pyro"),
    (lambda k: dist.Dirichlet(-torch.ones(k)), "got ValueError: "),
    (Dirichlet([1.0, 1.0]), "3 concentrations, one an endmember, got 2"),
    (TooGreedy(), "something else"),
])
def test_what_does_not_is_refused_in_one_line(prior, complaint):
    with pytest.raises(InputError, match=complaint) as caught:
        check_abundance_prior(as_prior(prior), 3)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_the_draw_shown_is_one_that_is_wrong():
    """Half the draws of this prior are right."""
    sometimes = lambda k: dist.MixtureSameFamily(  # noqa: E731
        dist.Categorical(torch.ones(2)), dist.Delta(torch.tensor([[0.5, 0.5], [0.5, 0.7]]), event_dim=1))
    with pytest.raises(InputError, match=r"\[0.5, 0.7\] with sum 1.2000"):
        check_abundance_prior(as_prior(sometimes), 2)


@pytest.mark.parametrize("prior", [
    MVNEndmembers(np.ones((2, 5)), np.eye(5)), dist.Normal(torch.zeros(2, 5), 1.0).to_event(2),
    lambda k, n: dist.LogNormal(torch.zeros(k, n), 0.1).to_event(2),
], ids=["ours", "distribution", "lambda"])
def test_endmember_priors(prior):
    check_endmember_prior(as_prior(prior), 2, 5)


@pytest.mark.parametrize("prior, complaint", [
    (MVNEndmembers(np.ones((3, 5)), np.eye(5)), "means of shape"),
    (MVNEndmembers(np.ones((2, 5)), -np.eye(5)), "got ValueError"),
    (lambda k, n: dist.Normal(torch.zeros(k, n), 1.0), r"batch shape \(2, 5\); to_event\(\)"),
    (lambda k, n: dist.Normal(torch.zeros(k, n), 1.0).to_event(1), r"event shape \(5,\) and batch shape \(2,\)"),
    (lambda k, n: dist.Normal(torch.zeros(n, k), 1.0).to_event(2), r"got event shape \(5, 2\)"),
    (lambda k: dist.Normal(torch.zeros(k), 1.0).to_event(1), "TypeError"),
    (lambda k, n: dist.Delta(torch.full((k, n), float("inf")), event_dim=2), "finite draws"),
])
def test_other_endmember_priors_are_refused_in_one_line(prior, complaint):
    with pytest.raises(InputError, match=complaint) as caught:
        check_endmember_prior(as_prior(prior), 2, 5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("thing", ["dirichlet", 3, None, [1.0, 1.0]])
def test_what_cannot_be_a_prior_is_refused(thing):
    with pytest.raises(InputError, match=f"a prior: .*got {type(thing).__name__}"):
        as_prior(thing)


def test_a_module_is_a_prior_as_it_is():
    prior = Dirichlet()
    assert as_prior(prior) is prior
    assert isinstance(as_prior(softmax_normal), CustomPrior)


def test_checking_leaves_the_random_numbers_alone():
    def numbers():
        return torch.rand(4).tolist(), np.random.random(4).tolist(), [random.random() for _ in range(4)]  # noqa: NPY002

    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    undisturbed = numbers()
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    random.setstate(states[2])
    check_abundance_prior(Dirichlet(), 3)
    check_endmember_prior(MVNEndmembers(np.ones((2, 5)), np.eye(5)), 2, 5)
    with pytest.raises(InputError):
        check_abundance_prior(as_prior(lambda k: dist.Normal(torch.zeros(k), 1.0).to_event(1)), 3)
    assert numbers() == undisturbed


def test_a_callable_follows_the_model_to_its_device():
    prior = as_prior(lambda k: dist.Dirichlet(torch.ones(k), validate_args=False)).to("meta")
    assert prior(3).concentration.device.type == "meta"
    assert not prior.state_dict(), "where a model lies is no part of its state"

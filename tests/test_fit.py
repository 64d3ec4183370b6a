"""A fit from outside: repeatable, confined to itself, with settings that are checked."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from short_fits import CONFIG, K, L, quiet_fit, same, weights
from torch.distributions.transforms import StickBreakingTransform

import pyro_unmix as pu
from pyro_unmix.initialize import informed_endmembers

# Simulated from the guide, whose head is then a Dirichlet.
NOT_EXACT = replace(CONFIG, sampling_steps=0)

# Repeatable


def test_same_seed_same_weights_and_another_seed_others(fit_of, plain_fit):
    again = fit_of(seed=0)
    assert same(weights(plain_fit), weights(again))
    assert plain_fit.history.drop(columns="seconds").equals(again.history.drop(columns="seconds"))
    other = weights(fit_of(seed=1))
    assert not any(torch.equal(other[name], value) for name, value in weights(plain_fit).items() if name.startswith("encoder"))


def test_random_numbers_of_the_caller_are_left_alone(fit_of):
    pyro.set_rng_seed(11)
    before = torch.get_rng_state(), np.random.get_state()[1:3], random.getstate()  # noqa: NPY002
    fit_of(config=replace(CONFIG, svi_steps=2, calibration_steps=2))
    after = torch.get_rng_state(), np.random.get_state()[1:3], random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0]) and before[2] == after[2]
    assert np.array_equal(before[1][0], after[1][0]) and before[1][1] == after[1][1]


def test_what_the_caller_drew_before_does_not_matter(fit_of, plain_fit):
    torch.rand(7)
    assert same(weights(fit_of()), weights(plain_fit))


def test_nothing_global_is_changed(fit_of):
    with pyro.get_param_store().scope():
        pyro.param("mine", torch.ones(2))
        fit_of(config=replace(CONFIG, svi_steps=2, calibration_steps=2))
        assert list(pyro.get_param_store().keys()) == ["mine"]
    assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()
    assert float(torch.tensor([1e-40]).mul(1.0)) != 0.0  # denormals are kept again


def test_fits_do_not_touch_each_other(fit_scene, fit_of, plain_fit):
    """Neither the first the second nor the second the first, one plan of a guide serving both."""
    plan, model = pu.UnmixingGuide("mlp"), pu.UnmixingModel(K)
    other = pu.simulate_scene(K, (12, 14), n_bands=L, seed=8)
    informed = model.replace(endmembers=informed_endmembers(other.reference.endmembers.values, other, K))
    alone = quiet_fit(informed, other, guide=plan)
    first = fit_of(guide=plan)
    kept = {name: value.clone() for name, value in weights(first).items()}
    after = quiet_fit(informed, other, guide=plan)
    assert same(weights(first), kept) and same(weights(first), weights(plain_fit))
    assert same(weights(alone), weights(after))


def test_model_and_guide_passed_in_stay_as_they_are(fit_scene, fit_model):
    plan = pu.UnmixingGuide(pu.PixelEncoder(width=8))
    own = fit_model.replace(noise=pu.noise.DiagonalNoise(spread=0.5), brightness=pu.noise.PixelBrightness())
    parts, prior = dict(own._parts), own.endmembers.mean.clone()
    result = quiet_fit(own, fit_scene, guide=plan)
    assert own._parts == parts and torch.equal(own.endmembers.mean, prior)
    assert torch.isnan(own.noise.scale).all() and torch.isnan(own.brightness.scale) and own.evidence is None
    assert not list(plan.parameters()) and not list(plan.buffers())
    assert result.guide is not plan and result.model is not own
    assert torch.isfinite(result.model.noise.scale).all() and result.model.noise.settings["spread"] == 0.5
    assert torch.isfinite(result.model.brightness.scale) and result.model.evidence is not None


@pytest.mark.parametrize("guide", ["spacnn", "cnn"])
def test_guides_by_name(fit_of, guide):
    result = fit_of(guide=guide, config=replace(CONFIG, svi_steps=3, calibration_steps=3))
    assert type(result.guide.encoder) is {"spacnn": pu.SpatialAttentionEncoder, "cnn": pu.ConvEncoder}[guide]
    assert all(torch.isfinite(value).all() for value in weights(result).values())


def logistic_normal(k):
    return dist.TransformedDistribution(dist.Normal(torch.zeros(k - 1), 1.0).to_event(1), StickBreakingTransform())


@pytest.mark.parametrize("prior", [pu.priors.Dirichlet(0.3), dist.Dirichlet(torch.full((K,), 2.0)),
                                   lambda k: dist.Dirichlet(torch.full((k,), 2.0))], ids=["sparse", "distribution", "callable"])
def test_other_abundance_priors(fit_scene, fit_model, prior):
    result, flat = (quiet_fit(model, fit_scene, config=NOT_EXACT) for model in (fit_model.replace(abundances=prior), fit_model))
    assert all(torch.isfinite(value).all() for value in weights(result).values())
    assert not torch.equal(result.guide.head.mean.weight, flat.guide.head.mean.weight)  # the prior is heard


def test_a_known_concentration_is_believed_and_a_learned_one_is_not(fit_scene, fit_model, plain_fit):
    """The learned one is the same wherever it is said to be."""
    models = [fit_model.replace(abundances=pu.priors.Dirichlet(0.3, learned)) for learned in (False, True)]
    known, learned = (quiet_fit(model, fit_scene).guide.head.concentration for model in models)
    torch.testing.assert_close(known, torch.full((K,), 0.3))
    assert (learned != 0.3).all() and torch.equal(learned, plain_fit.guide.head.concentration)


def test_a_flat_prior_leaves_the_means_at_least_squares(fit_scene, fit_of):
    """Negative control: a prior that prefers mixtures moves them."""
    fit = fit_of(config=NOT_EXACT)
    estimate = fit.guide.estimate(pu.whole(fit_scene)).abundances.numpy()
    found = fit.posterior(fit_scene).summary().abundance_mean.values.reshape(-1, K)
    np.testing.assert_allclose(found, estimate, atol=2e-3)
    mixed = quiet_fit(fit.model.replace(abundances=pu.priors.Dirichlet(5.0)), fit_scene, config=NOT_EXACT)
    assert abs(mixed.posterior(fit_scene).summary().abundance_mean.values.reshape(-1, K) - estimate).max() > 5e-3


@pytest.mark.parametrize("parts", [
    dict(abundances=logistic_normal),
    dict(endmembers=lambda k, n_bands: dist.Normal(torch.full((k, n_bands), 0.5), 0.2).to_event(2)),
], ids=["abundances", "endmembers"])
def test_priors_whose_divergence_has_no_closed_form(fit_scene, fit_model, parts):
    """Sampled divergences take the place of analytic ones, without a word and without a NaN."""
    result = quiet_fit(fit_model.replace(**parts), fit_scene)
    assert len(result.history) == 20 and all(torch.isfinite(value).all() for value in weights(result).values())


# Settings


@pytest.mark.parametrize("field, value", [
    ("svi_steps", -1), ("svi_steps", 1.5), ("svi_steps", "ten"), ("svi_steps", True), ("calibration_steps", -1),
    ("learning_rate", 0.0), ("learning_rate", float("nan")), ("learning_rate", None), ("clip_norm", 0), ("tile_size", 0),
    ("tiles_per_step", 0), ("kl_warmup_steps", -1), ("window", 0), ("tolerance", -0.1), ("checkpoint_every", 0),
    ("device", "tpu"), ("device", None),
])
def test_settings_that_cannot_be_are_refused(field, value):
    with pytest.raises(pu.InputError, match=field):
        pu.FitConfig(**{field: value})


def test_every_setting_is_checked():
    for field, value in vars(pu.FitConfig()).items():
        with pytest.raises(pu.InputError, match=field):
            pu.FitConfig(**{field: [value]})


def test_settings_from_a_mapping():
    assert pu.FitConfig.from_dict({"svi_steps": 5, "learning_rate": 1}) == pu.FitConfig(svi_steps=5, learning_rate=1)
    with pytest.raises(pu.InputError, match="svi_steps.*got epochs, steps"):
        pu.FitConfig.from_dict({"steps": 5, "svi_steps": 5, "epochs": 3})


def test_a_device_that_is_not_there(fit_of, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(pu.InputError, match="CUDA"):
        fit_of(config=replace(CONFIG, device="cuda"))
    assert pu.FitConfig(device="auto").torch_device() == torch.device("cpu")


def test_names_of_endmembers(fit_of, plain_fit):
    short = replace(CONFIG, svi_steps=0, calibration_steps=0)
    assert fit_of(names=["a", "b", "c"], config=short).names == ["a", "b", "c"]
    assert plain_fit.names == ["endmember 1", "endmember 2", "endmember 3"]
    with pytest.raises(pu.InputError, match="3 endmember names"):
        fit_of(names=["a", "b"], config=short)
    with pytest.raises(pu.InputError, match="names that differ"):
        fit_of(names=["a", "b", "a"], config=short)


@pytest.mark.parametrize("seed", [-1, 2**32, "zero"])
def test_a_seed_that_cannot_be(fit_of, seed):
    with pytest.raises(pu.InputError, match="seed"):
        fit_of(seed=seed)


# The door


def test_reference_is_not_read(fit_scene, fit_of, plain_fit):
    bare = pu.Scene(fit_scene.reflectance, name="bare")
    assert same(weights(quiet_fit(fit_of.args[0], bare)), weights(plain_fit))


@pytest.mark.parametrize("k, message", [(13, "as bands"), (5, "directions")])
def test_more_endmembers_than_the_scene_can_tell(k, message):
    clean = pu.simulate_scene(K, (12, 14), n_bands=L, snr_db=300.0, seed=3)
    with pytest.raises(pu.InputError, match=message):
        quiet_fit(pu.UnmixingModel(k), clean)


def test_progress_is_told_to_a_log(fit_of, caplog):
    with caplog.at_level("INFO", logger="pyro_unmix"):
        pu.fit(*fit_of.args, config=CONFIG, guide="mlp")
    assert any(message.startswith("svi 12/12 loss") for message in caplog.messages)
    assert any(message.startswith("sample 40/40") for message in caplog.messages)
    assert any(message.startswith("calibrate 8/8 loss") for message in caplog.messages)


def test_an_open_number_of_endmembers(fit_scene):
    """Names are checked against the number found, and the model passed in stays open."""
    model, short = pu.UnmixingModel("auto", brightness="pixel"), replace(CONFIG, svi_steps=2, calibration_steps=0)
    fit = quiet_fit(model, fit_scene, config=short, names=["a", "b", "c"])
    assert fit.model.n_endmembers == K and fit.names == ["a", "b", "c"] and model.n_endmembers == "auto"
    assert same(weights(fit), weights(quiet_fit(model.replace(n_endmembers=K), fit_scene, config=short)))
    assert fit.posterior(fit_scene).summary().sizes["endmember"] == K
    with pytest.raises(pu.InputError, match="3 endmember names, got 2"):
        quiet_fit(model, fit_scene, config=short, names=["a", "b"])

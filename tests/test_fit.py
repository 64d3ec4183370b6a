"""Training: repeatable, confined to itself, and honest about how it ended."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import nn
from torch.distributions.transforms import StickBreakingTransform

import pyro_unmix as pu
from pyro_unmix.initialize import informed_endmembers
from pyro_unmix.tiles import Tiles
from pyro_unmix.training import first_not_finite

K, L = 3, 12
CONFIG = pu.FitConfig(svi_steps=12, calibration_steps=8, kl_warmup_steps=4, window=50, tile_size=8, device="cpu")


@pytest.fixture(scope="module")
def scene():
    return pu.simulate_scene(K, (12, 14), n_bands=L, brightness=0.2, seed=3)


@pytest.fixture(scope="module")
def model(scene):
    """With a prior of the endmembers around the truth: saves the search for them. Everything else is open."""
    return pu.UnmixingModel(K, endmembers=informed_endmembers(scene.reference.endmembers.values, scene, K))


@pytest.fixture(scope="module")
def fit_of(scene, model):
    return partial(quiet_fit, model, scene)


@pytest.fixture(scope="module")
def plain(fit_of):
    """One fit that nothing disturbed."""
    return fit_of()


def quiet_fit(model, scene, *, config=CONFIG, guide="mlp", **options):
    return pu.fit(model, scene, config=config, guide=guide, progress=False, **options)


def weights(fit):
    return {**fit.guide.state_dict(), **{f"model.{name}": value for name, value in fit.model.state_dict().items()}}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Trap(pu.DirichletHead):
    """A head that does something at its n-th batch of pixels, counted from 0; `spring(n)` may raise or return a factor."""

    def __init__(self, spring):
        super().__init__()
        self.spring, self.seen = spring, []

    def __deepcopy__(self, memo):
        twin = Trap(self.spring)
        twin.__dict__.update({name: copy.deepcopy(value, memo) for name, value in vars(self).items()
                              if name not in ("spring", "seen")})
        return twin

    def forward(self, features, *estimate):
        if torch.is_grad_enabled() and len(features) > 1:  # a step of training
            self.seen.append(len(features))
        factor = self.spring(len(self.seen) - 1) or 1.0
        return super().forward(features * factor, *estimate)


# Repeatable


def test_same_seed_same_weights_and_another_seed_others(fit_of, plain):
    again = fit_of(seed=0)
    assert same(weights(plain), weights(again))
    assert plain.history.drop(columns="seconds").equals(again.history.drop(columns="seconds"))
    other = weights(fit_of(seed=1))
    assert not any(torch.equal(other[name], value) for name, value in weights(plain).items() if name.startswith("encoder"))


def test_random_numbers_of_the_caller_are_left_alone(fit_of):
    pyro.set_rng_seed(11)
    before = torch.get_rng_state(), np.random.get_state()[1:3], random.getstate()  # noqa: NPY002
    fit_of(config=replace(CONFIG, svi_steps=2, calibration_steps=2))
    after = torch.get_rng_state(), np.random.get_state()[1:3], random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0]) and before[2] == after[2]
    assert np.array_equal(before[1][0], after[1][0]) and before[1][1] == after[1][1]


def test_what_the_caller_drew_before_does_not_matter(fit_of, plain):
    torch.rand(7)
    assert same(weights(fit_of()), weights(plain))


def test_nothing_global_is_changed(fit_of):
    with pyro.get_param_store().scope():
        pyro.param("mine", torch.ones(2))
        fit_of(config=replace(CONFIG, svi_steps=2, calibration_steps=2))
        assert list(pyro.get_param_store().keys()) == ["mine"]
    assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()
    assert float(torch.tensor([1e-40]).mul(1.0)) != 0.0  # denormals are kept again


def test_fits_do_not_touch_each_other(scene, fit_of, plain):
    """Neither the first the second nor the second the first, one plan of a guide serving both."""
    plan, model = pu.UnmixingGuide("mlp"), pu.UnmixingModel(K)
    other = pu.simulate_scene(K, (12, 14), n_bands=L, seed=8)
    informed = model.replace(endmembers=informed_endmembers(other.reference.endmembers.values, other, K))
    alone = quiet_fit(informed, other, guide=plan)
    first = fit_of(guide=plan)
    kept = {name: value.clone() for name, value in weights(first).items()}
    after = quiet_fit(informed, other, guide=plan)
    assert same(weights(first), kept) and same(weights(first), weights(plain))
    assert same(weights(alone), weights(after))


def test_model_and_guide_passed_in_stay_as_they_are(scene, model):
    plan = pu.UnmixingGuide(pu.PixelEncoder(width=8))
    own = model.replace(noise=pu.noise.DiagonalNoise(spread=0.5), brightness=pu.noise.PixelBrightness())
    parts, prior = dict(own._parts), own.endmembers.mean.clone()
    result = quiet_fit(own, scene, guide=plan)
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
def test_other_abundance_priors(scene, model, plain, prior):
    result = quiet_fit(model.replace(abundances=prior), scene)
    assert all(torch.isfinite(value).all() for value in weights(result).values())
    assert not torch.equal(result.guide.head.mean.weight, plain.guide.head.mean.weight)  # the prior is heard


def test_a_flat_prior_leaves_the_means_at_least_squares(scene, plain):
    """Negative control: a prior that prefers mixtures moves them."""
    estimate = plain.guide.estimate(pu.whole(scene)).abundances.numpy()
    found = plain.posterior(scene).summary().abundance_mean.values.reshape(-1, K)
    np.testing.assert_allclose(found, estimate, atol=2e-3)
    mixed = quiet_fit(plain.model.replace(abundances=pu.priors.Dirichlet(5.0)), scene)
    assert abs(mixed.posterior(scene).summary().abundance_mean.values.reshape(-1, K) - estimate).max() > 5e-3


@pytest.mark.parametrize("parts", [
    dict(abundances=logistic_normal),
    dict(endmembers=lambda k, n_bands: dist.Normal(torch.full((k, n_bands), 0.5), 0.2).to_event(2)),
], ids=["abundances", "endmembers"])
def test_priors_whose_divergence_has_no_closed_form(scene, model, parts):
    """Sampled divergences take the place of analytic ones, without a word and without a NaN."""
    result = quiet_fit(model.replace(**parts), scene)
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


def test_names_of_endmembers(fit_of, plain):
    short = replace(CONFIG, svi_steps=0, calibration_steps=0)
    assert fit_of(names=["a", "b", "c"], config=short).names == ["a", "b", "c"]
    assert plain.names == ["endmember 1", "endmember 2", "endmember 3"]
    with pytest.raises(pu.InputError, match="3 endmember names"):
        fit_of(names=["a", "b"], config=short)
    with pytest.raises(pu.InputError, match="names that differ"):
        fit_of(names=["a", "b", "a"], config=short)


@pytest.mark.parametrize("seed", [-1, 2**32, "zero"])
def test_a_seed_that_cannot_be(fit_of, seed):
    with pytest.raises(pu.InputError, match="seed"):
        fit_of(seed=seed)


# The course of training


def test_history_tells_both_stages(plain):
    history = plain.history
    assert list(history) == ["step", "stage", "elbo_loss", "guide_loss", "gradient_norm", "seconds"]
    assert history.step.tolist() == list(range(20)) and history.stage.tolist() == ["svi"] * 12 + ["calibrate"] * 8
    svi = history.stage == "svi"
    assert np.isfinite(history.elbo_loss[svi]).all() and history.elbo_loss[~svi].isna().all()
    assert np.isfinite(history.guide_loss[~svi]).all() and history.guide_loss[svi].isna().all()
    assert (history.gradient_norm > 0).all() and (history.seconds.diff()[1:] > 0).all()
    assert set(plain.seconds) == {"initialize", "svi", "calibrate"}
    assert history.seconds.iloc[-1] == pytest.approx(sum(plain.seconds.values()))
    assert plain.calibrated and not plain.interrupted


def test_the_loss_falls_in_both_stages(scene, model):
    """The end against the beginning, Mann-Whitney: falling by chance has p = 0.01."""
    config = replace(CONFIG, svi_steps=60, calibration_steps=100, learning_rate=5e-3, kl_warmup_steps=0)
    history = quiet_fit(model, scene, config=config).history
    for column in ("elbo_loss", "guide_loss"):
        loss = history[column].dropna()
        assert stats.mannwhitneyu(loss[:8], loss[-30:], alternative="greater").pvalue < 0.01, column


@pytest.mark.parametrize("svi, calibration", [(0, 0), (0, 3), (3, 0)])
def test_stages_can_be_left_out(fit_of, scene, svi, calibration):
    result = fit_of(config=replace(CONFIG, svi_steps=svi, calibration_steps=calibration))
    assert result.history.stage.tolist() == ["svi"] * svi + ["calibrate"] * calibration
    assert result.calibrated == (calibration > 0)
    assert np.isfinite(result.posterior(scene).summary().abundance_mean).all()


@pytest.mark.parametrize("warmup, window, stop", [(4, 5, 15), (6, 5, 20), (0, 5, 10)])
def test_stops_early_at_the_first_window_after_the_warmup(fit_of, warmup, window, stop):
    """With a tolerance that anything meets: two whole windows after the warm-up, then no further."""
    config = replace(CONFIG, svi_steps=40, calibration_steps=0, kl_warmup_steps=warmup, window=window)
    assert len(fit_of(config=replace(config, tolerance=1e12)).history) == stop
    # Negative control: the loss still falls by more than nothing.
    assert len(fit_of(config=replace(config, tolerance=0.0, learning_rate=1e-2)).history) > stop


def test_weight_of_the_divergence_rises_to_one(fit_of, monkeypatch):
    weighted, used = Tiles.weighted, []
    monkeypatch.setattr(Tiles, "weighted", lambda tiles, weight: used.append(weight) or weighted(tiles, weight))
    fit_of()
    assert used == [0.25, 0.5, 0.75] + [1.0] * 9


def test_gradients_are_clipped_before_they_are_applied(fit_of, monkeypatch):
    step, applied = torch.optim.Adam.step, []

    def watched(optimizer, *args, **kwargs):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        applied.append(torch.cat([g.flatten() for g in gradients]).norm().item())
        return step(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    found = fit_of(config=replace(CONFIG, clip_norm=1e-2)).history.gradient_norm
    assert len(applied) == 20 and max(applied) <= 1e-2 * (1 + 1e-4) and found.min() > 1e-2


def test_every_tile_is_visited_and_no_pixel_counts_twice(fit_of, scene):
    """The sizes of the batches are those of the tiles: 12 x 14 in tiles of 8 gives 64, 48, 32 and 24 pixels."""
    config = replace(CONFIG, tiles_per_step=1, svi_steps=40, calibration_steps=0)
    result = fit_of(guide=pu.UnmixingGuide("mlp", Trap(lambda n: None)), config=config)
    assert set(result.guide.head.seen) == {64, 48, 32, 24}


# How it can end


@pytest.mark.parametrize("step", [0, 5])
def test_divergence_in_the_guide_names_the_site(fit_of, step):
    head = Trap(lambda n: float("nan") if n >= step else None)
    with pytest.raises(pu.FitDiverged, match=f"step {step}: 'abundances' is not finite") as caught:
        fit_of(guide=pu.UnmixingGuide("mlp", head))
    assert (caught.value.site, caught.value.step) == ("abundances", step)


def test_divergence_in_the_model_names_the_site(scene, model):
    class Broken(nn.Module):
        calls = 0

        def forward(self, abundances, endmembers):
            Broken.calls += 1
            return abundances @ endmembers * (float("nan") if Broken.calls > 3 else 1.0)

    with pytest.raises(pu.FitDiverged) as caught:
        quiet_fit(model.replace(mixing=Broken()), scene)
    assert (caught.value.site, caught.value.step) == ("reflectance", 3)


def test_divergence_by_a_learning_rate_out_of_all_bounds(fit_of):
    with pytest.raises(pu.FitDiverged, match="lower the learning rate") as caught:
        fit_of(config=replace(CONFIG, learning_rate=1e6))
    assert caught.value.step == 1 and caught.value.site in ("endmembers", "noise_scale", "abundances", "brightness")


def test_what_is_not_finite_is_found(plain, scene):
    guide, tiles = copy.deepcopy(plain.guide), pu.whole(scene)
    with pyro.get_param_store().scope():
        assert first_not_finite(plain.model, guide, tiles) is None
        guide.noise.loc.grad = torch.full((L,), float("inf"))
        assert first_not_finite(plain.model, guide, tiles) == "gradient of noise.loc"
        with torch.no_grad():
            guide.head.mean.bias[0] = float("nan")
        assert first_not_finite(plain.model, guide, tiles) == "head.mean.bias"


def test_divergence_of_a_gradient_names_its_parameter(scene, model):
    class Bent(torch.autograd.Function):
        @staticmethod
        def forward(context, value):
            return value.clone()

        @staticmethod
        def backward(context, gradient):
            return gradient * float("nan")

    class Mixing(nn.Module):
        def forward(self, abundances, endmembers):
            return abundances @ Bent.apply(endmembers)

    with pytest.raises(pu.FitDiverged) as caught:
        quiet_fit(model.replace(mixing=Mixing()), scene)
    assert (caught.value.site, caught.value.step) == ("gradient of endmembers.shift", 0)


def test_divergence_while_calibrating_counts_its_own_steps(fit_of):
    head = Trap(lambda n: float("nan") if n >= 14 else None)
    with pytest.raises(pu.FitDiverged) as caught:
        fit_of(guide=pu.UnmixingGuide("mlp", head))
    assert (caught.value.site, caught.value.step) == ("abundances", 2)


@pytest.mark.parametrize("error", [pu.InputError("a scene of leaves", "stones"), ValueError("stones"), RuntimeError("stones")])
def test_other_errors_are_not_called_divergence(scene, model, error):
    class Refusing(nn.Module):
        def forward(self, abundances, endmembers):
            raise error

    with pytest.raises(type(error), match="stones"):
        quiet_fit(model.replace(mixing=Refusing()), scene)


def stopped_at(n, error):
    """A guide that raises once, in the n-th step."""
    errors = [error]

    def spring(seen):
        if seen == n and errors:
            raise errors.pop()

    return pu.UnmixingGuide("mlp", Trap(spring))


@pytest.mark.parametrize("step, stage", [(7, "svi"), (15, "calibrate")])
def test_interruption_keeps_what_there_is(fit_of, scene, step, stage):
    with pytest.warns(pu.UnmixWarning, match=f"interrupted in stage '{stage}'"):
        result = fit_of(guide=stopped_at(step, KeyboardInterrupt))
    assert result.interrupted and not result.calibrated and len(result.history) == step
    whole = fit_of(guide=pu.UnmixingGuide("mlp", Trap(lambda n: None)))
    columns = ["elbo_loss", "guide_loss"]
    assert result.history[columns].equals(whole.history[columns][:step])  # and up to there it is the same fit
    summary = result.posterior(scene).summary()
    assert np.isfinite(summary.abundance_quantile).all()


# Checkpoints


class Killed(BaseException):
    pass


OFTEN = replace(CONFIG, checkpoint_every=5)


@pytest.mark.parametrize("step", [5, 9, 14, 19])
def test_resumed_fit_is_the_uninterrupted_one(fit_of, tmp_path, step):
    """Killed right at a checkpoint, between two, in either stage: bit for bit."""
    whole = fit_of(config=OFTEN, guide=pu.UnmixingGuide("mlp", Trap(lambda n: None)), checkpoint=tmp_path / "whole.pt")
    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(Killed):
        fit_of(config=OFTEN, guide=stopped_at(step, Killed), checkpoint=checkpoint)
    assert checkpoint.exists()
    untrapped = Trap(lambda n: None)
    resumed = fit_of(config=OFTEN, guide=pu.UnmixingGuide("mlp", untrapped), checkpoint=checkpoint, resume=True)
    assert len(resumed.guide.head.seen) < 20  # it did go on, not start again
    assert same(weights(whole), weights(resumed))
    assert whole.history.drop(columns="seconds").equals(resumed.history.drop(columns="seconds"))
    assert list(tmp_path.iterdir()) == []  # checkpoints are removed at the end


def test_interrupted_fit_can_go_on(fit_of, tmp_path):
    checkpoint = tmp_path / "c.pt"
    with pytest.warns(pu.UnmixWarning, match="interrupted"):
        fit_of(config=OFTEN, guide=stopped_at(13, KeyboardInterrupt), checkpoint=checkpoint)
    trapped = pu.UnmixingGuide("mlp", Trap(lambda n: None))
    resumed = fit_of(config=OFTEN, guide=trapped, checkpoint=checkpoint, resume=True)
    assert resumed.calibrated and not checkpoint.exists()
    assert same(weights(resumed), weights(fit_of(config=OFTEN, guide=trapped)))


def test_checkpoints_do_not_change_the_fit(fit_of, plain, tmp_path):
    assert same(weights(fit_of(config=OFTEN, checkpoint=tmp_path / "c.pt")), weights(plain))


def test_resume_without_a_checkpoint_starts_at_the_beginning(fit_of, plain, tmp_path):
    assert same(weights(fit_of(checkpoint=tmp_path / "c.pt", resume=True)), weights(plain))


@pytest.fixture
def left_over(fit_of, tmp_path):
    with pytest.raises(Killed):
        fit_of(config=OFTEN, guide=stopped_at(6, Killed), checkpoint=tmp_path / "c.pt")
    return tmp_path / "c.pt"


@pytest.mark.parametrize("change", ["seed", "settings", "scene", "pixels", "guide", "prior"])
def test_checkpoint_of_another_fit_is_refused(scene, model, left_over, change):
    options = dict(model=model, scene=scene, config=OFTEN, checkpoint=left_over, resume=True)
    options |= {
        "seed": lambda: dict(seed=1),
        "settings": lambda: dict(config=replace(OFTEN, learning_rate=1e-4)),
        "scene": lambda: dict(scene=pu.Scene(2 * scene.reflectance)),
        "pixels": lambda: dict(scene=scene.crop(y=slice(0, 10))),
        "guide": lambda: dict(guide="cnn"),
        "prior": lambda: dict(model=model.replace(abundances=pu.priors.Dirichlet(0.3))),
    }[change]()
    with pytest.raises(pu.InputError, match="checkpoint of this very fit"):
        quiet_fit(**options)
    assert left_over.exists()


@pytest.mark.parametrize("damage", ["cut", "garbage", "another file"])
def test_damaged_checkpoint_is_refused(fit_of, left_over, damage):
    if damage == "cut":
        left_over.write_bytes(left_over.read_bytes()[:1000])
    elif damage == "garbage":
        left_over.write_bytes(b"not a checkpoint")
    else:
        torch.save({"weights": torch.ones(3)}, left_over)
    with pytest.raises(pu.InputError, match="checkpoint"):
        fit_of(config=OFTEN, checkpoint=left_over, resume=True)


def test_a_fresh_start_ignores_an_old_checkpoint(fit_of, plain, left_over):
    assert same(weights(fit_of(config=OFTEN, checkpoint=left_over)), weights(plain))
    assert not left_over.exists()


# The door


def test_reference_is_not_read(scene, fit_of, plain):
    bare = pu.Scene(scene.reflectance, name="bare")
    assert same(weights(quiet_fit(fit_of.args[0], bare)), weights(plain))


@pytest.mark.parametrize("k, message", [(13, "as bands"), (5, "directions")])
def test_more_endmembers_than_the_scene_can_tell(k, message):
    clean = pu.simulate_scene(K, (12, 14), n_bands=L, snr_db=300.0, seed=3)
    with pytest.raises(pu.InputError, match=message):
        quiet_fit(pu.UnmixingModel(k), clean)


def test_progress_is_told_to_a_log(fit_of, caplog):
    with caplog.at_level("INFO", logger="pyro_unmix"):
        pu.fit(*fit_of.args, config=CONFIG, guide="mlp")
    assert any(message.startswith("svi 12/12 loss") for message in caplog.messages)
    assert any(message.startswith("calibrate 8/8 loss") for message in caplog.messages)


def test_an_open_number_of_endmembers(scene):
    """Names are checked against the number found, and the model passed in stays open."""
    model, short = pu.UnmixingModel("auto", brightness="pixel"), replace(CONFIG, svi_steps=2, calibration_steps=0)
    fit = quiet_fit(model, scene, config=short, names=["a", "b", "c"])
    assert fit.model.n_endmembers == K and fit.names == ["a", "b", "c"] and model.n_endmembers == "auto"
    assert same(weights(fit), weights(quiet_fit(model.replace(n_endmembers=K), scene, config=short)))
    assert fit.posterior(scene).summary().sizes["endmember"] == K
    with pytest.raises(pu.InputError, match="3 endmember names, got 2"):
        quiet_fit(model, scene, config=short, names=["a", "b"])
